"""`Changes`: what becomes of a client's connections, as an iterator.

What must stay true: it is the async stream of the same name, asked for one change at a time; who asks too seldom misses
some, and holds up nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

import rabbitry
from rabbitry import Change, NotConnected
from rabbitry.blocking.block import Block
from rabbitry.blocking.portal import Portal, Timeout

__all__ = ["Changes"]


class Changes(Block[MemoryObjectReceiveStream[Change]]):
    """The changes of a client's state from when it is entered; made by `client.changes()`. Enter it, then iterate."""

    _what = "the stream of changes"
    _call = "client.changes()"

    def __init__(self, portal: Portal, client: rabbitry.Client) -> None:
        super().__init__(portal, lambda: _subscribed(client))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        change = self.receive()
        if change is None:
            raise StopIteration
        return change

    def receive(self, *, timeout: Timeout = None) -> Change | None:
        """The next change; None once the client has ended. Raises `TimeoutError` when none comes in time."""
        changes = self._async

        async def receive() -> Change | None:
            try:
                return await changes.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                return None

        try:
            return self._portal.run(receive, timeout)
        except NotConnected:  # the client has ended, and the loop with it
            return None


@asynccontextmanager
async def _subscribed(client: rabbitry.Client) -> AsyncIterator[MemoryObjectReceiveStream[Change]]:
    with client.changes() as changes:
        yield changes
