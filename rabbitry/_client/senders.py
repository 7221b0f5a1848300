"""What publishes for many tasks at once: a channel for each exchange, each replaced where the broker refuses on it.

What must stay true: an exchange that does not exist ends the publishes to itself alone; a channel that was replaced
stays open until its confirms have come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TypeAlias

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.life import ChannelLife
from rabbitry._client.link import Link
from rabbitry._client.outcomes import Attempts, in_a_life
from rabbitry._concurrency.clock import monotonic
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    Closed,
    ConnectionBlocked,
    Nacked,
    OutcomeUnknown,
    PublishFailed,
    RabbitryError,
)
from rabbitry._values.options import OnUnknown, WhileDown

__all__ = ["OWN_CHANNELS", "Renewal", "Send", "Senders", "open_channel"]

Send: TypeAlias = Callable[[Channel], Awaitable[None]]
"""Publishes a message on a channel, and returns once it is confirmed."""

OWN_CHANNELS = 100
"""Exchanges that have a channel of their own for what is published to them."""
RENEWAL_PAUSE = 1.0
"""Seconds at least between two channels that are replaced because of a nack.

RabbitMQ 3.10 refuses a channel's publishes to a quorum queue for good once it published there while the queue had no
leader; those of a new channel it confirms. But a nack may also mean that the queue is full, and then come often.
"""


async def open_channel(link: Link, while_down: WhileDown) -> Channel:
    """A confirm channel of the present life, or the next; it ends with its connection."""

    async def opened(connection: Connection) -> Channel:
        return await connection.channel().__aenter__()

    return await in_a_life(link, while_down, opened)


class Senders:
    """By exchange, the open channel that publishes to it: one that is missing ends the publishes to it alone.

    `republished` counts the messages that were sent again because their outcome was unknown.
    """

    __slots__ = ("_channels", "_link", "_lock", "_renewal", "republished")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channels: dict[str | None, Channel] = {}  # None: of those beyond the first hundred
        self._lock = anyio.Lock()
        self._renewal = Renewal()
        self.republished = 0

    def ready(self, exchange: str) -> Channel | None:
        """The channel for this exchange if it is open."""
        channel = self._channels.get(exchange) or self._channels.get(None)
        return channel if channel is not None and channel.is_open else None

    async def publish(
        self,
        send: Send,
        exchange: str,
        while_down: WhileDown,
        attempts: Attempts,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Have `send` publish a message through all lives: on the channel for this exchange, and alone on one once the
        message is suspect. `before` is awaited ahead of each attempt, once there is a channel for it: what it does in
        the life of now is done where the message goes, or the attempt fails.
        """
        while not attempts.is_suspect:
            channel = self.ready(exchange)
            if channel is None or before is not None:
                with _unknown_first(attempts):
                    channel = channel or await self._opened(exchange, while_down)
                    if before is not None:
                        await before()
            if while_down == "fail" and (reason := life_of(channel).endpoint.blocked_reason) is not None:
                raise attempts.unknown or ConnectionBlocked(reason)
            try:
                return await send(channel)
            except (PublishFailed, Closed) as error:
                if not self.may_go_on(attempts, channel, error):
                    raise
        await self._publish_alone(send, while_down, attempts, before)

    def attempts(self, on_unknown: OnUnknown) -> Attempts:
        """The attempts of one message: where it is suspect there is one more, alone on a channel."""
        return Attempts(may_repeat=on_unknown == "republish", suspicions=2)

    def may_go_on(self, attempts: Attempts, channel: Channel, error: RabbitryError) -> bool:
        """Whether to send a message again that has failed so on this channel."""
        if isinstance(error, Nacked):
            self._nacked(channel)
        if attempts.next_step(error) == "never":
            return False
        self.republished += isinstance(error, OutcomeUnknown)
        return True

    async def _opened(self, exchange: str, while_down: WhileDown) -> Channel:
        """The channel for this exchange, opened if need be. Cancelling it does no harm."""
        key = exchange if exchange in self._channels or len(self._channels) < OWN_CHANNELS else None

        async def opened(connection: Connection) -> Channel:
            async with self._lock:  # not while waiting for the connection: others may rather fail than wait
                channel = self._channels.get(key)
                if channel is None or not channel.is_open:
                    channel = self._channels[key] = await connection.channel().__aenter__()
                    await self._renewal.close_idle()
                return channel

        return await in_a_life(self._link, while_down, opened)

    def _nacked(self, channel: Channel) -> None:
        """A publish on this channel was refused: have the next one use another."""
        if self._renewal.is_due():
            for key, found in list(self._channels.items()):
                if found is channel:
                    del self._channels[key]
                    self._renewal.retire(life_of(channel))

    async def _publish_alone(
        self,
        send: Send,
        while_down: WhileDown,
        attempts: Attempts,
        before: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """The broker closed a channel, or the connection, for a message, and does not say which, or for another that
        is like this one. Alone on a channel the innocent get through; the culprit fails, and for good.
        """
        while True:
            with _unknown_first(attempts):
                channel = await open_channel(self._link, while_down)
            try:
                if before is not None:
                    with _unknown_first(attempts):
                        await before()
                try:
                    return await send(channel)
                except (PublishFailed, Closed) as error:
                    if attempts.next_step(error) == "never":
                        raise
            finally:
                await life_of(channel).close()


@contextmanager
def _unknown_first(attempts: Attempts) -> Iterator[None]:
    """Whatever another attempt fails at before it begins, the former one says more: its message may have arrived."""
    try:
        yield
    except RabbitryError as error:
        if attempts.unknown is not None:
            raise attempts.unknown from error
        raise


class Renewal:
    """When to replace a channel, and the lives of those replaced, each open until its confirms have come."""

    __slots__ = ("_last", "_retired")

    def __init__(self) -> None:
        self._last = -inf
        self._retired: list[ChannelLife] = []

    def is_due(self) -> bool:
        """Whether the last renewal is long enough ago. Asked while reading, where AnyIO's clock is out of reach."""
        return monotonic() - self._last >= RENEWAL_PAUSE

    def retire(self, life: ChannelLife) -> None:
        """This channel is replaced."""
        self._last = monotonic()
        self._retired.append(life)

    async def close_idle(self, *, all_of_them: bool = False) -> None:
        """Close the replaced channels that wait for no confirm any more."""
        idle = [life for life in self._retired if all_of_them or not (life.is_open and life.unconfirmed)]
        self._retired = [life for life in self._retired if life not in idle]
        for life in idle:
            await life.close()
