"""`Answering`: one request's way through its handler to its reply; and `serve`, which does so in one connection life.

What must stay true: a request is settled once its reply is on its way, or can't be delivered, or nobody waits for it
any more; none is begun after its caller's time is up, and none is worked on for longer. A handler runs at least once
for a request: it runs again where the broker can't know that it was answered.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from rabbitry._channel.channel import Channel, life_of, new_consumer
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import consume_method
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.publisher import Publisher
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import is_being_cancelled
from rabbitry._errors import (
    Closed,
    DecodeError,
    LocalProtocolError,
    PublishFailed,
    RabbitryError,
)
from rabbitry._instrumentation import note_failure
from rabbitry._rpc.envelope import (
    DIRECT,
    address_of,
    check_clock_skew,
    error_reply,
    is_error,
    reply_exchange,
    time_left,
)
from rabbitry._rpc.requests import Arrivals
from rabbitry._rpc.service import Service
from rabbitry._values.codecs import Codec, codec_named, decode_from
from rabbitry._values.message import Message

__all__ = ["CLOCK_SKEW", "Answering", "Handler", "RawReplies", "RequestCounts", "serve"]

logger = logging.getLogger("rabbitry")

Handler: TypeAlias = Callable[[Any], Any] | Service | Sequence[Callable[..., Any]]
Publish: TypeAlias = Callable[[Delivery, Message, str, str], Awaitable[None]]
"""Of the request, its reply, and the exchange and routing key that the reply goes to."""

CLOCK_SKEW = 0.5
"""Seconds that the clocks of callers and servers are taken to be apart at most, unless `serve` is told otherwise."""

ANSWERED_KEPT = 1000
"""Requests that were answered, and that come again if their acknowledgement was lost with the connection."""


@dataclass(slots=True)
class RequestCounts:
    """What became of the requests that `serve` took: `answered` by what their handler returned, `failed` by an error
    reply, or by a reject where none is wanted; `expired` before they were begun, `stopped` as their caller's time was
    up; `duplicates` came again after they had been answered. `undeliverable_replies` were lost with their callers.
    """

    answered: int = 0
    failed: int = 0
    expired: int = 0
    stopped: int = 0
    duplicates: int = 0
    undeliverable_replies: int = 0


class Answering:
    """Runs a handler for each request and has `publish` send what it returned, or how it failed."""

    __slots__ = (
        "_answered",
        "_at_work",
        "_clock_skew",
        "_codec",
        "_counts",
        "_function",
        "_is_async",
        "_publish",
        "_queue",
        "_raw",
        "_send_traceback",
        "_service",
        "_threads",
        "arrivals",
    )

    def __init__(
        self,
        queue: str,
        handler: Handler,
        publish: Publish,
        counts: RequestCounts,
        *,
        concurrency: int,
        codec: str | Codec,
        raw: bool,
        send_traceback: bool,
        clock_skew: float | None,
    ) -> None:
        if concurrency < 1:
            raise LocalProtocolError(f"concurrency must be at least 1, not {concurrency}")
        check_clock_skew(clock_skew)
        self._queue = queue
        if isinstance(handler, Sequence):
            handler = Service(*handler)
        if not isinstance(handler, Service) and not callable(handler):
            raise TypeError(f"a handler is a function, a Service or a list of functions, not {handler!r}")
        self._service = handler if isinstance(handler, Service) else None
        self._function = None if isinstance(handler, Service) else handler
        if raw and self._service is not None:
            raise LocalProtocolError("raw=True is for one handler: a service's functions take decoded arguments")
        self._is_async = _is_async(self._function)
        self._publish = publish
        self._counts = counts
        self._codec = codec_named(codec)
        self._raw = raw
        self._send_traceback = send_traceback
        self._clock_skew = clock_skew
        self.arrivals = Arrivals()
        self._threads = anyio.CapacityLimiter(concurrency)
        self._at_work: dict[tuple[str, str], tuple[bytes, list[anyio.Event]]] = {}  # with who waits for its end
        self._answered: dict[tuple[str, str, int], None] = {}

    async def __call__(self, request: Delivery) -> None:
        """See the request through; returns when it may be acknowledged. Raises `DecodeError` if it has no address."""
        unreadable: DecodeError | None = None
        try:
            properties = request.properties
        except DecodeError as error:
            address = address_of(request)
            if address is None:
                raise
            properties, unreadable = address, error
        key = properties.reply_to or "", properties.correlation_id or ""
        if request.redelivered and await self._was_answered(key, request.body):
            self._counts.duplicates += 1
            return
        working = self._at_work[key] = request.body, []
        try:
            reply = await self._reply(request, properties, unreadable)
            if reply is not None and properties.reply_to:
                await self._publish(request, reply, reply_exchange(properties.headers or {}), properties.reply_to)
                self._remember(key, request.body)  # its acknowledgement may be lost, which nobody learns
            elif reply is not None and is_error(reply):
                _reject(request)  # where it is stale, it comes again to fail
            elif request.is_stale:  # the broker will deliver it again
                self._remember(key, request.body)
        finally:
            if self._at_work.get(key) is working:
                del self._at_work[key]
            for done in working[1]:
                done.set()

    async def _was_answered(self, key: tuple[str, str], body: bytes) -> bool:
        """Whether a redelivered request was answered here in a former life, which may still be under way.

        The body, too, must be the same: there are callers that use one correlation id for all their calls.
        """
        if not key[1]:
            return False
        while (working := self._at_work.get(key)) is not None and working[0] == body:
            done = anyio.Event()
            working[1].append(done)
            await done.wait()
        known = *key, hash(body)
        if known not in self._answered:
            return False
        if not key[0]:  # where no reply is wanted, an id need not be one message's alone
            del self._answered[known]
        return True

    def _remember(self, key: tuple[str, str], body: bytes) -> None:
        if key[1]:
            self._answered[*key, hash(body)] = None
            if len(self._answered) > ANSWERED_KEPT:
                del self._answered[next(iter(self._answered))]

    async def _reply(self, request: Delivery, properties: Any, unreadable: DecodeError | None) -> Message | None:
        """What the handler returned or raised, as a message; None where nobody waits for it any more."""
        common: dict[str, Any] = {"correlation_id": properties.correlation_id, "delivery_mode": 1}
        waited = monotonic() - self.arrivals.take(request)
        left = time_left(properties.headers or {}, waited, self._clock_skew)
        if left is not None and left <= 0:
            self._counts.expired += 1
            logger.warning(
                "a request of queue %r was not begun: its caller's time was up %.3f s ago "
                "(if that can't be, its clock and this one differ: serve with clock_skew=None)",
                self._queue,
                -left,
            )
            return None
        if unreadable is not None:
            logger.warning("a request of queue %r can't be read: %s", self._queue, unreadable)
            return self._failed(request, unreadable, common)
        scope: anyio.CancelScope | None = None
        try:
            result: Any = None
            if left is None:
                result = await self._handle(request, properties)
            else:
                with anyio.move_on_after(left) as scope:
                    result = await self._handle(request, properties)
                if scope.cancel_called:  # a thread may have come to its end all the same, too late
                    self._stopped(None)
                    return None
            reply = self._encoded(result, common)
            reply.encoded_properties()  # may refuse what the handler put into a Message
        except Exception as exc:
            if scope is not None and scope.cancel_called:  # it failed as it was stopped
                self._stopped(exc)
                return None
            logger.error("the RPC handler of queue %r failed", self._queue, exc_info=exc)
            return self._failed(request, exc, common)
        except anyio.get_cancelled_exc_class() as exc:
            if is_being_cancelled():
                raise
            logger.error("the RPC handler of queue %r awaited something cancelled", self._queue, exc_info=exc)
            return self._failed(request, exc, common)
        self._counts.answered += 1
        return reply

    async def _handle(self, request: Delivery, properties: Any) -> Any:
        """Run what the request asks for: a coroutine function here, another in a worker thread."""
        argument = request if self._raw else decode_from(request.body, properties.content_type, self._codec)
        if self._function is not None:
            if self._is_async:
                return await self._function(argument)
            call: Callable[[], Any] = partial(self._function, argument)
        else:
            assert self._service is not None
            function, call = self._service._prepare(properties.type, argument)
            if _is_async(function):
                return await call()
        # Not abandoned when cancelled: it would go on beside the request's next handler, and beyond `concurrency`.
        # In a tuple, as trio refuses a function that returns an awaitable.
        (result,) = await anyio.to_thread.run_sync(lambda: (call(),), limiter=self._threads)
        return await result if inspect.isawaitable(result) else result

    def _encoded(self, result: Any, common: Mapping[str, Any]) -> Message:
        """The message that carries what a handler returned."""
        if isinstance(result, Message):
            return result.replace(**common)
        if self._raw:
            return Message(b"" if result is None else result, **common)
        return Message(self._codec.encode(result), content_type=self._codec.content_type, **common)

    def _stopped(self, exc: Exception | None) -> None:
        self._counts.stopped += 1
        logger.warning("a handler of queue %r was stopped: its caller's time was up", self._queue, exc_info=exc)

    def _failed(self, request: Delivery, exc: BaseException, common: Mapping[str, Any]) -> Message:
        self._counts.failed += 1
        note_failure(request, exc)
        return error_reply(exc, common, send_traceback=self._send_traceback)


def _reject(request: Delivery) -> None:
    """It goes where the queue has its dead letters go. A stream has none, and RabbitMQ closes the connection of who
    rejects there: its requests are acknowledged, as any.
    """
    if not request.is_settled and not request.is_stale:
        if request.seems_streamed:
            request.ack()
        else:
            request.reject()


def _put_back(request: Delivery) -> None:
    """It was not worked on to its end. A stream keeps it anyway, and takes no nack."""
    if not request.is_settled and not request.is_stale and not request.seems_streamed:
        request.nack()


def _is_async(handler: Any) -> bool:
    """Whether calling it gives a coroutine, as far as can be told without calling it."""
    return inspect.iscoroutinefunction(handler) or (
        callable(handler) and inspect.iscoroutinefunction(type(handler).__call__)
    )


# --- in one life ------------------------------------------------------------------------------------------------------


async def serve(
    channel: Channel,
    queue: str,
    replies: RawReplies,
    answering: Answering,
    observed: Callable[[Answering], Callable[[Delivery], Awaitable[Any]]],
    *,
    concurrency: int,
) -> None:
    """Answer requests until cancelled or the consumer ends; its handlers run in a task group of its own."""
    handler = observed(answering)
    ended_by: RabbitryError | None = None
    working = anyio.CancelScope()

    def ended(error: RabbitryError | None) -> None:
        # after ConsumerCancelled the handlers at work may finish: their replies can still be sent
        nonlocal ended_by
        ended_by = error
        if isinstance(error, Closed):
            working.cancel()

    async def work() -> None:
        while True:
            try:
                request = await requests.__anext__()
            except (StopAsyncIteration, RabbitryError):  # which ended the consumer, and each worker in its turn
                return
            await answer(request)

    async def answer(request: Delivery) -> None:
        try:
            await handler(request)
            if not request.is_settled:  # a raw handler may have done so
                request.ack()
        except RabbitryError as exc:
            logger.warning("a request of queue %r could not be answered: %s", queue, exc)
            _reject(request)
        except BaseException:
            _put_back(request)
            raise

    async with (
        channel,
        replies,
        new_consumer(channel, consume_method(queue), on_arrival=answering.arrivals.note, on_end=ended) as requests,
    ):
        with working:
            async with background() as workers:
                for _ in range(concurrency):
                    workers.start_soon(work)
        if ended_by is not None:
            raise ended_by.copy()


class RawReplies:
    """Publishes replies in one life, without waiting for confirms: to direct addresses on the requests' channel, to
    other queues on one of their own, which counts those that are lost. To an exchange they go one by one on yet
    another: the broker closes it over an exchange that does not exist.
    """

    __slots__ = ("_channel", "_counts", "_lock", "_one_by_one", "_open_channel", "_publisher", "_publishing")

    def __init__(self, open_channel: Callable[[], Channel], channel: Channel, counts: RequestCounts) -> None:
        """`open_channel` gives further channels of the connection, to be entered."""
        self._open_channel = open_channel
        self._channel = channel
        self._publishing: Channel | None = None
        self._publisher: Publisher | None = None
        self._one_by_one: Channel | None = None
        self._counts = counts
        self._lock = anyio.Lock()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        for channel in (self._publishing, self._one_by_one):
            if channel is not None:
                await life_of(channel).close()

    async def __call__(self, request: Delivery, reply: Message, exchange: str, routing_key: str) -> None:
        """Returns once the reply is queued, with an exchange once it is confirmed, or lost."""
        if exchange:
            await self._publish_alone(reply, exchange, routing_key)
        elif routing_key.startswith(DIRECT):
            # RabbitMQ closes the connection (541) over an address that only looks like one: a request that came
            # before is acknowledged first, or it would end one server after the other.
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
        logger.warning("a reply could not be delivered: %s", error)
