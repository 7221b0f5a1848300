"""`Answering`: one request's way from its arrival to its reply.

What must stay true: a request is settled once its reply is on its way, or can't be delivered, or nobody waits for it
any more; none is begun after its caller's time is up, and none is worked on for longer. A handler runs at least once
for a request: it runs again where the broker can't know that it was answered.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.clock import monotonic
from rabbitry._concurrency.waiting import is_being_cancelled
from rabbitry._errors import shown, shown_error
from rabbitry._instrumentation import note_failure
from rabbitry._rpc.destinations import Destinations
from rabbitry._rpc.duplicates import Answered
from rabbitry._rpc.envelope import Request, check_clock_skew, error_reply, is_error, read_request
from rabbitry._rpc.invoking import BadRequest, Handler, Invoking
from rabbitry._rpc.requests import LINES, Arrivals, RequestCounts
from rabbitry._values.codecs import Codec
from rabbitry._values.converting import Convert
from rabbitry._values.message import Message
from rabbitry._values.options import check_concurrency

__all__ = ["Answering", "Handler", "Publish", "reject"]

logger = logging.getLogger("rabbitry")

Publish: TypeAlias = Callable[[Delivery, Message, str, str], Awaitable[None]]
"""Publishes a reply: given the request, the reply, and the exchange and routing key that it goes to."""


class Answering:
    """Runs a handler for each request and has `publish` send what it returned, or how it failed.

    Whoever consumes the requests notes their `arrivals`.
    """

    __slots__ = (
        "_answered",
        "_clock_skew",
        "_counts",
        "_destinations",
        "_expected",
        "_invoking",
        "_publish",
        "_queue",
        "_send_traceback",
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
        convert: Convert | None,
        send_traceback: bool,
        clock_skew: float | None,
        destinations: Destinations,
        expected_errors: tuple[type[Exception], ...],
    ) -> None:
        check_concurrency(concurrency)
        check_clock_skew(clock_skew)
        self._queue = queue
        self._invoking = Invoking(handler, concurrency=concurrency, codec=codec, raw=raw, convert=convert)
        self._publish = publish
        self._counts = counts
        self._send_traceback = send_traceback
        self._clock_skew = clock_skew
        self._destinations = destinations
        self._expected = checked_errors(expected_errors)
        self._answered = Answered()
        self.arrivals = Arrivals()

    async def __call__(self, delivery: Delivery) -> None:
        """See the request through; returns when it may be acknowledged. Raises `DecodeError` if it has no address."""
        destinations = self._destinations
        request = read_request(delivery, self.arrivals.take(delivery), self._clock_skew, destinations.exchanges)
        if not destinations.is_any and not destinations.allow(request):
            self._counts.refused += 1
            self._log(logging.WARNING, "refused", "was rejected: its reply may not go to %s", shown(request.key[0]))
            reject(delivery)
            return
        if delivery.redelivered and await self._answered.knows(request):
            self._counts.duplicates += 1
            return
        with self._answered.under_way(request) as this:
            reply = await self._reply(request)
            if reply is not None and (reply_to := request.key[0]):
                await self._publish(delivery, reply, request.reply_exchange, reply_to)
                this.was_answered = True  # its acknowledgement may be lost, which nobody learns
            elif reply is not None and is_error(reply):
                reject(delivery)  # where it is stale, it comes again to fail
            elif delivery.is_stale:  # the broker will deliver it again
                this.was_answered = True

    def refuse(self, delivery: Delivery, size: int) -> None:
        """Reject a request of `size` bytes, which is too large to be received. Called while reading."""
        self._counts.refused += 1
        text = "was rejected: its %d bytes are more than the max_message_size that the server connected with"
        self._log(logging.WARNING, "too large", text, size)
        reject(delivery)

    async def _reply(self, request: Request) -> Message | None:
        """What the handler returned or raised, as a message; None where nobody waits for it any more."""
        left = None if request.expires_at is None else request.expires_at - monotonic()
        if left is not None and left <= 0:
            self._counts.expired += 1
            self._log(
                logging.WARNING,
                "expired",
                "was not begun: its caller's time was up %.3f s ago "
                "(if that can't be, its clock and this one differ: serve with clock_skew=None)",
                -left,
            )
            return None
        if request.unreadable is not None:
            self._log(logging.WARNING, "unreadable", "can't be read: %s", shown(str(request.unreadable), 1000))
            return self._failed(request, request.unreadable)
        scope: anyio.CancelScope | None = None
        reply: Message | None = None
        try:
            answer = self._invoking.answer(request)
            if left is None:
                reply = await answer
            else:
                with anyio.move_on_after(left) as scope:
                    reply = await answer
                if scope.cancel_called:  # a thread may have come to its end all the same, too late
                    self._stopped(None)
                    return None
        except BadRequest as bad:
            self._log(logging.WARNING, type(bad.error).__name__, "can't be answered: %s", shown_error(bad.error))
            return self._failed(request, bad.error)
        except Exception as exc:
            if scope is not None and scope.cancel_called:  # it failed as it was stopped
                self._stopped(exc)
                return None
            if isinstance(exc, self._expected):
                logger.debug("the RPC handler of queue %r answered with %s", self._queue, type(exc).__name__)
            else:
                self._log_failure(logging.ERROR, "the RPC handler of queue %r failed with %s", exc)
            return self._failed(request, exc)
        except anyio.get_cancelled_exc_class() as exc:
            if is_being_cancelled():
                raise
            self._log_failure(logging.ERROR, "the RPC handler of queue %r awaited something cancelled: %s", exc)
            return self._failed(request, exc)
        self._counts.answered += 1
        return reply

    def _stopped(self, exc: Exception | None) -> None:
        self._counts.stopped += 1
        if exc is None:
            text = "a handler of queue %r was stopped: its caller's time was up"
            LINES.log(logging.WARNING, self._queue, "stopped", text, self._queue)
        else:
            self._log_failure(
                logging.WARNING, "a handler of queue %r was stopped, as its caller's time was up, and raised %s", exc
            )

    def _log(self, level: int, what: str, text: str, *args: object) -> None:
        """A line about a request."""
        LINES.log(level, self._queue, what, f"a request of queue %r {text}", self._queue, *args)

    def _log_failure(self, level: int, text: str, error: BaseException) -> None:
        """A line about what the handler raised, with its traceback where that was not just written."""
        kind = type(error).__qualname__, text
        LINES.log(level, self._queue, kind, text, self._queue, shown_error(error), error=error)

    def _failed(self, request: Request, exc: BaseException) -> Message:
        self._counts.failed += 1
        note_failure(request.delivery, exc)
        return error_reply(exc, request.properties.correlation_id, send_traceback=self._send_traceback)


def checked_errors(expected: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    """Refuse what are no classes of exceptions."""
    if not isinstance(expected, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in expected
    ):
        raise TypeError(f"expected_errors is a tuple of exception classes, such as (ValueError,), not {expected!r}")
    return expected


def reject(request: Delivery) -> None:
    """Reject a request: it goes where the queue has its dead letters go. A stream has none, and RabbitMQ closes the
    connection of who rejects there: its requests are acknowledged, as any.
    """
    if not request.is_settled and not request.is_stale:
        if request.seems_streamed:
            request.ack()
        else:
            request.reject()
