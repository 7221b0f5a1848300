"""Where the workloads of one run wait for each other, so that they begin to work at the same moment."""

from __future__ import annotations

import anyio


class Barrier:
    """Opens once all have come. Who fails before it ends the others, too, so that nobody waits in vain."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._open = anyio.Event()

    async def wait(self) -> None:
        """Returns when the last one has come."""
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await self._open.wait()
