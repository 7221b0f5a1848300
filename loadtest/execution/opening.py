"""How a client of the run connects: once, or with `--reconnect` for as long as it is there."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import cast

from loadtest.drivers.base import Connection, LastingSession, Session
from loadtest.execution.state import Run


def open_client(
    run: Run, session: Session, url: str, name: str, *, consuming: bool
) -> AbstractAsyncContextManager[Connection]:
    """A connection of a client, or server, who only consumes if `consuming` is said."""
    if not run.settings.reconnect:
        return session.connect(url, name)
    return cast("LastingSession", session).connect_lasting(url, name, consuming=consuming)


def count_reconnects(run: Run, session: Session) -> int:
    """How often connections that were lost have been replaced so far."""
    return cast("LastingSession", session).reconnects if run.settings.reconnect else 0
