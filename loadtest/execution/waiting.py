"""Waits for a broker that is still starting."""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from loadtest.drivers.base import Session

INTERVAL = 0.5
ATTEMPT_BOUND = 10.0
"""Seconds after which an attempt that hangs is given up, and another made."""


async def wait_for_brokers(session: Session, urls: Iterable[str], seconds: float) -> None:
    """Returns once each takes a connection; OSError, the last that was met, if one doesn't in that time."""
    deadline = anyio.current_time() + seconds
    for url in urls:
        while True:
            try:
                with anyio.fail_after(min(ATTEMPT_BOUND, max(INTERVAL, deadline - anyio.current_time()))):
                    async with session.connect(url, "loadtest waiting"):
                        break
            except Exception as error:
                if anyio.current_time() + INTERVAL > deadline:
                    if isinstance(error, OSError):
                        raise
                    raise ConnectionError(str(error) or repr(error)) from error
            await anyio.sleep(INTERVAL)
