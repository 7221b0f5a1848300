"""`ClientReplies`: publishes what a client's servers answer, in the publishing connection's present life or the next.

What must stay true: it returns once the reply is the broker's, or can't be delivered, which is counted and logged; a
reply exchange that does not exist, or an address that the broker closes the connection over, costs no other reply its
channel or its connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.delivery import Delivery
from rabbitry._client.link import Link
from rabbitry._client.outcomes import Attempts
from rabbitry._client.senders import open_channel
from rabbitry._connection.connection import channel_apart
from rabbitry._errors import Closed, OutcomeUnknown, PublishFailed
from rabbitry._rpc.apart import Apart
from rabbitry._rpc.envelope import DIRECT_PREFIX
from rabbitry._rpc.requests import RequestCounts, log_lost_reply
from rabbitry._values.message import Message

__all__ = ["ClientReplies"]


class ClientReplies:
    """Publishes replies on the publishing connection, in this life or the next. To an exchange they go one by one on a
    channel of their own: callers name it, and the broker closes the channel over one that does not exist. To a direct
    address that it may close the connection over they go apart, without waiting.
    """

    __slots__ = ("_apart", "_counts", "_link", "_lock", "_one_by_one", "_publish", "_queue")

    def __init__(self, publish: Callable[..., Awaitable[None]], link: Link, counts: RequestCounts, queue: str) -> None:
        """`publish` is the client's; `link` is what a channel of replies' own is opened on."""
        self._publish = publish
        self._link = link
        self._counts = counts
        self._queue = queue
        self._lock = anyio.Lock()
        self._one_by_one: Channel | None = None
        self._apart = Apart(self._open_apart, self._lost)

    async def __aenter__(self) -> None:
        await self._apart.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._apart.__aexit__(kind, error, traceback)
        if self._one_by_one is not None:
            await life_of(self._one_by_one).close()

    async def __call__(self, request: Delivery, reply: Message, exchange: str, routing_key: str) -> None:
        """Returns once the reply is confirmed, or lost, or goes apart."""
        # RabbitMQ returns every mandatory message to a direct reply-to address, though it delivers it.
        is_direct = not exchange and routing_key.startswith(DIRECT_PREFIX)
        apart = self._apart
        if (
            is_direct
            and not apart.addresses.are_known(routing_key)
            and await self._goes_apart(request, reply, routing_key)
        ):
            return
        try:
            if exchange:
                await self._publish_alone(reply, exchange, routing_key)
            else:
                await self._publish(
                    reply, routing_key=routing_key, mandatory=not is_direct, while_down="wait", on_unknown="republish"
                )
        except PublishFailed as error:
            if is_direct and isinstance(error, OutcomeUnknown):
                apart.addresses.forget()
            self._lost(error)

    def _lost(self, error: PublishFailed) -> None:
        self._counts.undeliverable_replies += 1
        log_lost_reply(self._queue, error)

    async def _goes_apart(self, request: Delivery, reply: Message, address: str) -> bool:
        while True:
            connection = await self._link.connection("wait")
            await self._apart.addresses.learn(self._link.lives, partial(connection.channel, confirm=False))
            if connection.is_open:
                return self._apart.takes(request, reply, address)

    @asynccontextmanager
    async def _open_apart(self) -> AsyncIterator[Channel]:
        connection = await self._link.connection("wait")
        async with channel_apart(connection) as channel:
            yield channel

    async def _publish_alone(self, reply: Message, exchange: str, routing_key: str) -> None:
        attempts: Attempts | None = None
        async with self._lock:
            while True:
                channel = self._one_by_one
                if channel is None or not channel.is_open:
                    channel = self._one_by_one = await open_channel(self._link, "wait")
                try:
                    return await channel.publish(reply, exchange=exchange, routing_key=routing_key, mandatory=True)
                except (PublishFailed, Closed) as error:
                    attempts = attempts or Attempts(may_repeat=True, suspicions=1)
                    if attempts.next_step(error) == "never":
                        raise
