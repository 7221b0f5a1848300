"""`serve`: answering the requests of a queue in one connection life; and `RawReplies`, which publishes there.

What must stay true: a request is acknowledged once its reply is queued, with an exchange once it is confirmed, and put
back if it was not worked on to its end; what a caller names as the way back costs other replies nothing. Where that may
cost the connection, the reply goes apart, and its request is acknowledged before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import anyio

from rabbitry._channel.channel import Channel, life_of, new_consumer
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import consume_method
from rabbitry._channel.delivery import Delivery, described
from rabbitry._channel.publisher import Publisher
from rabbitry._channel.widening import Widening
from rabbitry._channel.working import Workers
from rabbitry._errors import Closed, PublishFailed, RabbitryError, shown
from rabbitry._rpc.answering import Answering, reject
from rabbitry._rpc.apart import Apart, OpenApart
from rabbitry._rpc.envelope import DIRECT_PREFIX
from rabbitry._rpc.requests import LINES, RequestCounts, log_lost_reply
from rabbitry._values.message import Message
from rabbitry._values.stopping import Stop, told

__all__ = ["RawReplies", "serve"]


async def serve(
    channel: Channel,
    queue: str,
    replies: RawReplies,
    answering: Answering,
    observed: Callable[[Answering], Callable[[Delivery], Awaitable[Any]]],
    *,
    concurrency: int,
    may_rise: bool,
    stop: Stop | None = None,
) -> None:
    """Answer requests until stopped or cancelled, or the consumer ends; `observed` has around `answering` what is told
    of it. `may_rise`: the channel's prefetch is where it begins.
    """
    handler = observed(answering)

    async def answer(request: Delivery) -> None:
        try:
            await handler(request)
            if not request.is_settled:  # a raw handler may have done so
                request.ack()
        except (RabbitryError, ValueError) as exc:  # the second of a reply that no frame can carry
            LINES.log(
                logging.WARNING,
                queue,
                type(exc).__name__,
                "a request could not be answered: %s; %s",
                shown(str(exc)),
                described(request),
            )
            reject(request)
        except BaseException:
            _put_back(request)
            raise

    ended_by: RabbitryError | None = None
    working = anyio.CancelScope()

    def ended(error: RabbitryError | None) -> None:
        nonlocal ended_by
        if isinstance(error, Closed):  # else the handlers at work may finish: their replies can still be sent
            ended_by = error
            working.cancel()

    widening = Widening(life_of(channel).prefetch, concurrency, may_rise=may_rise)
    requests = new_consumer(channel, consume_method(queue), on_arrival=answering.arrivals.note, on_end=ended)
    requests.on_too_large = answering.refuse
    async with channel, replies, requests:
        with working, told(stop, requests.stop):
            await Workers(answer, concurrency=concurrency, widening=widening).run(requests)
        if ended_by is not None:
            raise ended_by.copy()


def _put_back(request: Delivery) -> None:
    """Put back a request that was not worked on to its end. A stream keeps it anyway, and takes no nack."""
    if not request.is_settled and not request.is_stale and not request.seems_streamed:
        request.nack()


class RawReplies:
    """Publishes replies in one life, without waiting for confirms: to direct addresses on the requests' channel, to
    other queues on one of their own, which counts those that are lost. To an exchange they go one by one on yet
    another: the broker closes it over an exchange that does not exist. To an address that it may close the connection
    over they go apart.
    """

    __slots__ = (
        "_apart",
        "_channel",
        "_counts",
        "_lock",
        "_one_by_one",
        "_open_channel",
        "_publisher",
        "_publishing",
        "_queue",
    )

    def __init__(
        self,
        open_channel: Callable[..., Channel],
        channel: Channel,
        counts: RequestCounts,
        open_apart: OpenApart,
        queue: str,
    ) -> None:
        """`channel` is that of the requests, which come from `queue`; `open_channel` makes another on the same
        connection, to be entered, and `open_apart` one on a connection of its own.
        """
        self._open_channel = open_channel
        self._channel = channel
        self._publishing: Channel | None = None  # the publisher's
        self._publisher: Publisher | None = None
        self._one_by_one: Channel | None = None
        self._counts = counts
        self._queue = queue
        self._lock = anyio.Lock()
        self._apart = Apart(open_apart, self._lost)

    async def __aenter__(self) -> None:
        await self._apart.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._apart.__aexit__(kind, error, traceback)
        for channel in (self._publishing, self._one_by_one):
            if channel is not None:
                await life_of(channel).close()

    async def __call__(self, request: Delivery, reply: Message, exchange: str, routing_key: str) -> None:
        """Returns once the reply is queued, with an exchange once it is confirmed, or lost."""
        if exchange:
            await self._publish_alone(reply, exchange, routing_key)
        elif routing_key.startswith(DIRECT_PREFIX):
            apart = self._apart
            # hot: the first question is that of `are_known`, without the call
            if routing_key not in apart.addresses.known and not apart.addresses.are_known(routing_key):
                await apart.addresses.learn(0, lambda: self._open_channel(confirm=False))
                if apart.takes(request, reply, routing_key):
                    return
            # RabbitMQ closes the connection (541) over the address of a node that has left the cluster: a request that
            # came before is acknowledged first, or it would end one server after the other.
            if request.redelivered and not request.is_settled:
                request.ack()
            try:
                self._channel.publish_nowait(reply, routing_key=routing_key)  # which costs half of what publish does
            except anyio.WouldBlock:
                await self._channel.publish(reply, routing_key=routing_key)
        else:
            publisher = await self._opened()
            await publisher.submit(reply, routing_key=routing_key, mandatory=True)

    async def _opened(self) -> Publisher:
        async with self._lock:
            if self._publisher is None or self._publishing is None or not self._publishing.is_open:
                channel = await self._open_channel().__aenter__()
                try:
                    self._publisher = await channel.publisher(on_outcome=self._ended).__aenter__()
                except BaseException:
                    await life_of(channel).close()
                    raise
                self._publishing = channel
            return self._publisher

    async def _publish_alone(self, reply: Message, exchange: str, routing_key: str) -> None:
        async with self._lock:
            if self._one_by_one is None or not self._one_by_one.is_open:
                self._one_by_one = await self._open_channel().__aenter__()
            try:
                await self._one_by_one.publish(reply, exchange=exchange, routing_key=routing_key, mandatory=True)
            except PublishFailed as error:
                self._lost(error)

    def _ended(self, confirmation: Confirmation) -> None:
        failure = confirmation.failure()
        if failure is not None:
            self._lost(failure)

    def _lost(self, error: PublishFailed) -> None:
        self._counts.undeliverable_replies += 1
        log_lost_reply(self._queue, error)
