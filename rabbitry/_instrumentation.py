"""`Instrumentation`: what is told of each message, if somebody asks; the operations it sees, and the guard around it.

What must stay true: nothing here runs for a message unless an instrumentation was given, because the wrappers that call
it are put in place when a connection or client is made; one that raises changes nothing but the log; an operation that
began ends exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, Protocol

from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.clock import monotonic
from rabbitry._errors import DecodeError, Nacked, OutcomeUnknown, Refused, RemoteError, Unroutable
from rabbitry._values.message import Message

__all__ = [
    "CallOperation",
    "Event",
    "GetOperation",
    "Instrumentation",
    "Instruments",
    "Operation",
    "ProcessOperation",
    "PublishOperation",
    "note_failure",
]

logger = logging.getLogger("rabbitry")

Event = Literal["consumed", "settled", "reconnected"]
"""What is only counted: see `Instrumentation.count`."""


class Instrumentation(Protocol):
    """What you give to `open_client(…, instrumentation=…)` or `connect(…)`: told of what takes time when it begins and
    when it ends, and of what is only counted.

    All three run inside the operation, also while a connection is being read: they must be quick. What one raises is
    logged, the first time, and changes nothing else.
    """

    def begin(self, operation: Operation) -> None:
        """It begins, in the task that asked for it. What you add to the `headers` of a `PublishOperation` or
        `CallOperation` travels with its message, unless that has a header of this name.
        """
        ...

    def end(self, operation: Operation) -> None:
        """It has ended: `outcome`, `error` and `seconds` are known. Of a `PublishOperation` in any task, of another in
        that in which it began.
        """
        ...

    def count(self, event: Event, labels: Mapping[str, str]) -> None:
        """One more "consumed" (`queue`: a delivery was handed out), "settled" (`queue`; `how`: "ack", "nack" or
        "reject") or "reconnected" (`connection`: "publish" or "consume" of a client).
        """
        ...


_OUTCOMES: Mapping[type[Exception], str] = {
    Nacked: "nacked",
    Unroutable: "unroutable",
    Refused: "refused",
    OutcomeUnknown: "unknown",
    RemoteError: "failed",
    DecodeError: "failed",
}


class Operation:
    """What takes time: a `PublishOperation`, a `GetOperation`, a `ProcessOperation` or a `CallOperation`.

    `outcome` is "" until it has ended; `error` is what it raised, if that was no cancellation. `host` and `port` are
    the broker's, as the URL has them ("" and 0 until a client has chosen one; the path of a Unix socket and 0). `state`
    is the instrumentation's own.
    """

    __slots__ = ("_began", "_seconds", "error", "host", "outcome", "port", "state")

    name: ClassVar[str] = ""

    def __init__(self) -> None:
        self.outcome: str = ""
        self.error: BaseException | None = None
        self.host: str = ""
        self.port: int = 0
        self.state: Any = None
        self._began = monotonic()
        self._seconds = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.outcome or 'under way'}>"

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return self._seconds if self.outcome else monotonic() - self._began

    def ended_by(self, error: BaseException) -> str:
        """The outcome where this is raised. What is no `Exception` cancels it."""
        if not isinstance(error, Exception):
            return "cancelled"
        return next((outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind)), "unsent")

    def located(self, host: str, port: int) -> None:
        """The operation takes place at this broker."""
        self.host, self.port = host, port


class PublishOperation(Operation):
    """One message published: until its confirm, on a channel without confirms until it is queued.

    `outcome` is "confirmed", "nacked", "unroutable" (returned), "refused" (the broker closed the channel, or the
    connection, over it), "unknown" (lost under way, or its caller was cancelled), "unsent", or "queued" where there are
    no confirms. `publish` counts from the call, `submit` and `publish_nowait` from when the message is queued; sent
    again in another connection life, it is still one.
    """

    __slots__ = ("_carried", "attempts", "exchange", "headers", "message", "routing_key")

    name = "publish"

    def __init__(self, message: Message | bytes, exchange: str, routing_key: str) -> None:
        super().__init__()
        self.message: Message | bytes = message
        self.exchange: str = exchange
        self.routing_key: str = routing_key
        self.headers: dict[str, str] = {}
        self.attempts: int = 0  # that may have arrived
        self._carried: Message | bytes | None = None

    def ended_by(self, error: BaseException) -> str:
        """Cancelled, it may have arrived, if it has left."""
        if not isinstance(error, Exception):
            return "unknown" if self.attempts else "unsent"
        return super().ended_by(error)

    @property
    def carried(self) -> Message | bytes:
        """The message with the headers added: the caller's own stays as it is."""
        carried = self._carried
        if carried is None:
            carried = self._carried = _with_headers(self.message, self.headers)
        return carried


class ProcessOperation(Operation):
    """One delivery in the hands of its handler, or of the block of `delivery.process()`. `queue` is where it came from.

    `outcome` is "returned", "failed" or "cancelled".
    """

    __slots__ = ("delivery", "queue")

    name = "process"

    def __init__(self, delivery: Delivery, queue: str) -> None:
        super().__init__()
        self.delivery: Delivery = delivery
        self.queue: str = queue

    def ended_by(self, error: BaseException) -> str:
        """Whatever the handler raised is its failure."""
        return "failed" if isinstance(error, Exception) else "cancelled"


class GetOperation(Operation):
    """One `get`, until its answer: a `delivery`, or None as `queue` was empty.

    `outcome` is "received", "empty", "failed" or "cancelled".
    """

    __slots__ = ("delivery", "queue")

    name = "get"

    def __init__(self, queue: str) -> None:
        super().__init__()
        self.queue: str = queue
        self.delivery: Delivery | None = None

    def ended_by(self, error: BaseException) -> str:
        """Whatever was raised, nothing was received."""
        return "failed" if isinstance(error, Exception) else "cancelled"


class CallOperation(Operation):
    """One RPC call, until its answer; a client's, however often its request is sent.

    `outcome` is "answered", "failed" (the handler raised), "unroutable", "refused", "unknown", "unsent", or
    "cancelled": its caller gave up, mostly because its time was over. `given` are the caller's own headers.
    """

    __slots__ = ("exchange", "given", "headers", "routing_key")

    name = "call"

    def __init__(self, exchange: str, routing_key: str, given: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.exchange: str = exchange
        self.routing_key: str = routing_key
        self.given: Mapping[str, Any] | None = given
        self.headers: dict[str, str] = {}

    @property
    def carried(self) -> Mapping[str, Any]:
        """The headers of the request, in which the caller's own win over those added."""
        return self.headers | dict(self.given or {})


_processing: ContextVar[tuple[Instrumentation, ProcessOperation] | None] = ContextVar(
    "rabbitry processing", default=None
)
"""The delivery that the running task works on, as an operation, and who was told of it."""


def note_failure(delivery: Delivery, error: BaseException) -> None:
    """The handler of this delivery has failed, though that is not raised: a reply tells it."""
    _, operation = _processing.get() or (None, None)
    if operation is not None and operation.delivery is delivery:  # else of a handler that this one's server runs in
        operation.error = error


class Instruments:
    """An instrumentation, guarded: nothing that it raises gets any further."""

    __slots__ = ("_has_complained", "_instrumentation")

    def __init__(self, instrumentation: Instrumentation) -> None:
        self._instrumentation = instrumentation
        self._has_complained = False

    @classmethod
    def of(cls, instrumentation: Instrumentation | None) -> Instruments | None:
        """Guards this instrumentation; None where there is none. Refuses what can't be one, of which later nothing but
        the log would tell.
        """
        if instrumentation is None:
            return None
        methods = [getattr(instrumentation, name, None) for name in ("begin", "end", "count")]
        if isinstance(instrumentation, type) or not all(map(callable, methods)):
            raise TypeError(
                f"an instrumentation is an object with the methods begin, end and count, not {instrumentation!r}"
            )
        return cls(instrumentation)

    def begin(self, operation: Operation) -> None:
        """Tell that the operation begins."""
        try:
            self._instrumentation.begin(operation)
        except Exception:
            self._complain("begin")

    def end(self, operation: Operation, outcome: str, error: BaseException | None = None) -> None:
        """Tell how the operation ended, if it has not ended yet."""
        if operation.outcome:
            return
        operation._seconds = operation.seconds
        operation.outcome = outcome
        operation.error = error or operation.error
        try:
            self._instrumentation.end(operation)
        except Exception:
            self._complain("end")

    def count(self, event: Event, labels: Mapping[str, str]) -> None:
        """Tell that there is one more of this event."""
        try:
            self._instrumentation.count(event, labels)
        except Exception:
            self._complain("count")

    def _complain(self, method: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.exception("%s of the instrumentation failed; further failures are not logged", method)

    # --- around what is awaited ---------------------------------------------------------------------------------------

    @contextmanager
    def around(self, operation: Operation, returned: str) -> Iterator[None]:
        """The operation lasts as long as the block, and ends as that does: `returned` when it returns."""
        self.begin(operation)
        try:
            yield
        except BaseException as error:
            self.end(operation, operation.ended_by(error), error if isinstance(error, Exception) else None)
            raise
        self.end(operation, returned if operation.error is None else operation.ended_by(operation.error))

    @contextmanager
    def getting(self, operation: GetOperation) -> Iterator[None]:
        """The block gets its delivery."""
        with self.around(operation, "empty"):
            yield
            if operation.delivery is not None:
                self.end(operation, "received")

    @contextmanager
    def processing(self, operation: ProcessOperation) -> Iterator[None]:
        """The block is the handler, or within that of the same delivery a part of it, whose failure is the whole's."""
        outer = _processing.get()
        whole = self._whole(operation)
        if whole is not None:
            try:
                yield
            except Exception as error:
                whole.error = error
                raise
            return
        _processing.set((self._instrumentation, operation))
        try:
            with self.around(operation, "returned"):
                yield
        finally:
            _processing.set(outer)

    def _whole(self, part: ProcessOperation) -> ProcessOperation | None:
        """The operation under way here that this is a part of."""
        told, operation = _processing.get() or (None, part)
        is_whole = told is self._instrumentation and operation.delivery is part.delivery and not operation.outcome
        return operation if is_whole else None


def _with_headers(message: Message | bytes, headers: Mapping[str, str]) -> Message | bytes:
    if not headers:
        return message
    if isinstance(message, Message):
        return message.replace(headers={**headers, **(message.headers or {})})
    return Message(message, headers=headers)
