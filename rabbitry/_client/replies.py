"""`ClientReplies`: publishes what a client's servers answer, in the publishing connection's present life or the next.

What must stay true: it returns once the reply is the broker's, or can't be delivered, which is counted and logged; a
reply exchange that does not exist, which its caller names, costs no other reply its channel.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.delivery import Delivery
from rabbitry._client.link import Link
from rabbitry._client.outcomes import Attempts
from rabbitry._client.senders import open_channel
from rabbitry._errors import Closed, PublishFailed
from rabbitry._rpc.envelope import DIRECT
from rabbitry._rpc.requests import RequestCounts
from rabbitry._values.message import Message

__all__ = ["ClientReplies"]

logger = logging.getLogger("rabbitry")


class ClientReplies:
    """Publishes replies on the publishing connection, in this life or the next. To an exchange they go one by one on a
    channel of their own: callers name it, and the broker closes the channel over one that does not exist.
    """

    __slots__ = ("_counts", "_link", "_lock", "_one_by_one", "_publish", "_queue")

    def __init__(self, publish: Callable[..., Awaitable[None]], link: Link, counts: RequestCounts, queue: str) -> None:
        """`publish` is the client's; `link` is what a channel of replies' own is opened on."""
        self._publish = publish
        self._link = link
        self._counts = counts
        self._queue = queue
        self._lock = anyio.Lock()
        self._one_by_one: Channel | None = None

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        if self._one_by_one is not None:
            await life_of(self._one_by_one).close()

    async def __call__(self, request: Delivery, reply: Message, exchange: str, routing_key: str) -> None:
        """Returns once the reply is confirmed, or lost."""
        # RabbitMQ returns every mandatory message to a direct reply-to address, though it delivers it.
        mandatory = not routing_key.startswith(DIRECT)
        try:
            if exchange:
                await self._publish_alone(reply, exchange, routing_key)
            else:
                await self._publish(
                    reply, routing_key=routing_key, mandatory=mandatory, while_down="wait", on_unknown="republish"
                )
        except PublishFailed as error:
            self._counts.undeliverable_replies += 1
            logger.warning("a reply to a request of queue %r could not be delivered: %s", self._queue, error)

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
