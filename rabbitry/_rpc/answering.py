"""`Answering`: one request's way through its handler to its reply.

What must stay true: a request is settled once its reply is on its way, or can't be delivered, or nobody waits for it
any more; none is begun after its caller's time is up, and none is worked on for longer. A handler runs at least once
for a request: it runs again where the broker can't know that it was answered.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from rabbitry._channel.delivery import Delivery
from rabbitry._channel.working import check_concurrency
from rabbitry._concurrency.waiting import is_being_cancelled
from rabbitry._errors import DecodeError, LocalProtocolError
from rabbitry._instrumentation import note_failure
from rabbitry._rpc.envelope import address_of, check_clock_skew, error_reply, is_error, reply_exchange, time_left
from rabbitry._rpc.requests import Arrivals, RequestCounts
from rabbitry._rpc.service import Service, prepared
from rabbitry._values.codecs import Codec, codec_named, decode_from
from rabbitry._values.message import Message

__all__ = ["Answering", "Handler", "Publish", "reject"]

logger = logging.getLogger("rabbitry")

Handler: TypeAlias = Callable[[Any], Any] | Service | Sequence[Callable[..., Any]]
Publish: TypeAlias = Callable[[Delivery, Message, str, str], Awaitable[None]]
"""Publishes a reply: given the request, the reply, and the exchange and routing key that it goes to."""


ANSWERED_KEPT = 1000
"""Requests that were answered, and that come again if their acknowledgement was lost with the connection."""


class Answering:
    """Runs a handler for each request and has `publish` send what it returned, or how it failed.

    Whoever consumes the requests notes their `arrivals`.
    """

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
        check_concurrency(concurrency)
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
        arrived = self.arrivals.take(request)
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
            reply = await self._reply(request, properties, arrived, unreadable)
            if reply is not None and properties.reply_to:
                await self._publish(request, reply, reply_exchange(properties.headers or {}), properties.reply_to)
                self._remember(key, request.body)  # its acknowledgement may be lost, which nobody learns
            elif reply is not None and is_error(reply):
                reject(request)  # where it is stale, it comes again to fail
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

    async def _reply(
        self, request: Delivery, properties: Any, arrived: float, unreadable: DecodeError | None
    ) -> Message | None:
        """What the handler returned or raised, as a message; None where nobody waits for it any more."""
        common: dict[str, Any] = {"correlation_id": properties.correlation_id, "delivery_mode": 1}
        left = time_left(properties.headers or {}, monotonic() - arrived, self._clock_skew)
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
            function, call = prepared(self._service, properties.type, argument)
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


def reject(request: Delivery) -> None:
    """Reject a request: it goes where the queue has its dead letters go. A stream has none, and RabbitMQ closes the
    connection of who rejects there: its requests are acknowledged, as any.
    """
    if not request.is_settled and not request.is_stale:
        if request.seems_streamed:
            request.ack()
        else:
            request.reject()


def _is_async(handler: Any) -> bool:
    """Whether calling it gives a coroutine, as far as can be told without calling it."""
    return inspect.iscoroutinefunction(handler) or (
        callable(handler) and inspect.iscoroutinefunction(type(handler).__call__)
    )
