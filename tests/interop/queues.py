"""Where rabbitry and a peer meet: a queue that both connections may use, gone a minute after its last use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import rabbitry
from tests.support.helpers import unique

__all__ = ["meeting"]


@asynccontextmanager
async def meeting(url: str) -> AsyncIterator[tuple[rabbitry.Connection, rabbitry.Channel, str]]:
    """A connection, a channel on it, and the queue."""
    async with rabbitry.connect(url) as connection, connection.channel() as channel:
        queue = unique("interop")
        await channel.declare_queue(queue, arguments={"x-expires": 60_000})
        yield connection, channel, queue
