"""`Getting`: single messages, each got on a channel that stays open, as that is where it is settled.

What must stay true: a queue that is missing, or refused, ends the channel of what was got from it and of nothing else,
but that those for which there was no room share one, which a refused one ends for them all; a channel with something
unsettled is not closed; there are no more than `MOST_CHANNELS` and that one, however many queues are asked.
"""

from __future__ import annotations

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.delivery import Delivery
from rabbitry._client.link import Link
from rabbitry._client.outcomes import in_a_life
from rabbitry._client.registry import Registry
from rabbitry._client.subscriptions import Subscriptions
from rabbitry._concurrency.waiting import checkpoint_if_cancelled
from rabbitry._connection.connection import Connection
from rabbitry._errors import ChannelClosed
from rabbitry._values.arguments import check_flag
from rabbitry._values.topology import Queue

__all__ = ["Getting", "purge"]

MOST_CHANNELS = 100
"""Queues that have a channel of their own at a time for what is got from them."""


class Getting:
    """By queue, the channel on which messages are got from it. Made by a client's first `get`."""

    __slots__ = ("_channels", "_link", "_lock", "_registry", "_roster")

    def __init__(self, link: Link, registry: Registry, roster: Subscriptions) -> None:
        self._link = link
        self._registry = registry
        self._roster = roster
        self._channels: dict[str | None, Channel] = {}  # None: of queues for which there was no room
        self._lock = anyio.Lock()

    async def get(self, queue: str | Queue, no_ack: bool) -> Delivery | None:
        """One message of the queue, in the present life or the next one; None if the queue is empty."""
        self._registry.name_of(queue)  # refuses what is no queue, whether or not there is a connection
        check_flag("no_ack", no_ack)
        await checkpoint_if_cancelled()
        self._roster.check_open()

        async def got(connection: Connection) -> Delivery | None:
            name = self._registry.name_of(queue)
            while True:
                channel = await self._opened(connection, name)
                if channel is self._channels.get(None):
                    await _check_exists(connection, name)
                try:
                    return await channel.get(name, no_ack=no_ack)
                except ChannelClosed as error:
                    if error.method == "basic.get":
                        raise
                    # else over what was got before, and not acknowledged in time

        async def tried(connection: Connection) -> None:  # alone; what it gets goes back with its connection
            async with connection.channel(confirm=False) as channel:
                await channel.get(self._registry.name_of(queue))

        return await in_a_life(self._link, "wait", got, trial=tried)

    async def _opened(self, connection: Connection, queue: str) -> Channel:
        """The channel for this queue, opened if need be."""
        async with self._lock:
            channel = self._channels.get(queue)
            if channel is not None and channel.is_open:
                return channel
            self._channels = {name: each for name, each in self._channels.items() if each.is_open}
            key: str | None = queue
            if len(self._channels) >= MOST_CHANNELS and not await self._has_made_room():
                key = None
                if (shared := self._channels.get(None)) is not None:
                    return shared
            channel = self._channels[key] = await connection.channel(confirm=False).__aenter__()
            return channel

    async def _has_made_room(self) -> bool:
        """Close a channel that nothing is under way on, nor unsettled, if there is one. Not the shared one, at rest as
        it may seem: who is to get something there first sees whether the queue exists.
        """
        for name, channel in self._channels.items():
            if name is not None and life_of(channel).live.is_at_rest:
                del self._channels[name]
                await life_of(channel).close()
                return True
        return False


async def _check_exists(connection: Connection, queue: str) -> None:
    """Raise on a channel of its own where there is no such queue."""
    async with connection.channel(confirm=False) as channel:
        await channel.declare_queue(queue, passive=True)


async def purge(link: Link, registry: Registry, queue: str | Queue) -> int:
    """Drop what is ready in the queue, in the present life or the next one, and return how many there were."""
    registry.name_of(queue)  # refuses what is no queue, whether or not there is a connection
    await checkpoint_if_cancelled()
    count = 0

    async def purged(connection: Connection) -> None:
        nonlocal count
        async with connection.channel(confirm=False) as channel:
            count += await channel.purge_queue(registry.name_of(queue))

    await in_a_life(link, "wait", purged, trial=purged)
    return count
