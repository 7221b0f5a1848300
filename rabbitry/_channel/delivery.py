"""`Delivery`: a message received, and the ways to settle it.

What must stay true: settling is synchronous and queues a few bytes, so nothing can be cancelled halfway; a delivery
belongs to one channel life, and settling it later sends nothing and raises.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from inspect import iscoroutine
from types import TracebackType
from typing import Any, TypeAlias

from rabbitry._concurrency.repeated import Repeated
from rabbitry._errors import DecodeError, StaleDelivery, shown, shown_error
from rabbitry._values.codecs import Codec, decode_body
from rabbitry._values.message import Message
from rabbitry._values.nothing import NOTHING
from rabbitry._values.options import Verdict
from rabbitry._values.retry import attempt_told
from rabbitry.protocol.client.content import Content

__all__ = [
    "FAILURES",
    "STREAM_TAKES_NOTHING_BACK",
    "Death",
    "Delivery",
    "DeliveryHandler",
    "OnError",
    "ProcessDelivery",
    "check_on_error",
    "described",
    "log_failure",
    "queue_of",
    "settle_handled",
]

STREAM_TAKES_NOTHING_BACK = (
    'a stream takes nothing back: on_error="reject" goes on with the next, on_error="raise" ends with the error'
)

OnError = Verdict | Callable[["Delivery", Exception], Verdict]
DeliveryHandler: TypeAlias = Callable[["Delivery"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Death:
    """One entry of the x-death header: why, where and how often a message was dead-lettered, the latest first."""

    queue: str
    reason: str
    count: int
    exchange: str
    routing_keys: tuple[str, ...]
    time: datetime | None


class Delivery(Content):
    """A message the broker delivered. `body` is bytes; `delivery_tag` the broker's number for it on this channel."""

    __slots__ = ()

    def __repr__(self) -> str:
        state = "settled" if self.is_settled else "stale" if self.is_stale else "unsettled"
        return (
            f"<Delivery {self.delivery_tag} {state} exchange={self.exchange!r} routing_key={self.routing_key!r} "
            f"{len(self.body)} bytes>"
        )

    # --- settling --------------------------------------------------------------------------------------------------

    def ack(self) -> None:
        """Acknowledge: the broker may forget the message. Not a coroutine, though awaiting it is harmless; leaves with
        the next bytes, coalesced.

        Raises `AlreadySettled`, or `StaleDelivery` once the channel has ended. In another thread than the event loop's:
        `anyio.from_thread.run_sync(delivery.ack)`; called there as it is, it raises `LocalProtocolError` where that is
        noticed.
        """
        channel = self._channel
        endpoint = channel.connection.token
        if endpoint is None or endpoint.transport.scheduled:
            channel.ack(self.delivery_tag)
            return NOTHING  # type: ignore[no-any-return]
        endpoint.check_thread()
        channel.ack(self.delivery_tag)
        endpoint.transport.send_later()
        return NOTHING  # type: ignore[no-any-return]

    def nack(self, *, requeue: bool = True) -> None:
        """Say "not processed": back into its queue, or dead-lettered or dropped with `requeue=False`. Errors as
        `ack`. A stream takes neither this nor `reject`: RabbitMQ closes the connection (540).
        """
        self._check_thread()
        self._channel.nack(self.delivery_tag, requeue)
        self._wrote()
        return NOTHING  # type: ignore[no-any-return]

    def reject(self, *, requeue: bool = False) -> None:
        """Say "failed": dead-lettered where the queue says so, else dropped; `requeue=True` puts it back. Errors as
        `ack`.

        RabbitMQ 4.3 and newer count only rejects towards a quorum queue's delivery limit, not nacks.
        """
        self._check_thread()
        self._channel.reject(self.delivery_tag, requeue)
        self._wrote()
        return NOTHING  # type: ignore[no-any-return]

    def _is_outstanding(self) -> bool:
        """Neither settled nor stale. hot: without the calls of those."""
        return self.delivery_tag in self._channel.tags.outstanding

    def _settled_too_late(self) -> None:
        """The connection counts those whose `process` block ended after their channel."""
        self._channel.connection.stale_settlements += 1

    def _check_thread(self) -> None:
        endpoint = self._channel.connection.token
        if endpoint is not None:
            endpoint.check_thread()

    def _wrote(self) -> None:
        transport = self._channel.connection.token.transport
        if not transport.scheduled:
            transport.send_later()

    @property
    def is_settled(self) -> bool:
        """True once acknowledged, nacked or rejected, and from the start for a `no_ack` consumer's deliveries."""
        return not self._channel.is_outstanding(self.delivery_tag) and not self.is_stale

    @property
    def is_stale(self) -> bool:
        """True if the channel ended or was recovered before it was settled: the broker has put the message back."""
        return self._channel.is_stale(self.delivery_tag)

    def process(self, on_error: OnError = "requeue") -> ProcessDelivery:
        """A `with` block that settles this delivery by how the block ends.

        Returned: ack. Raised an `Exception`: by `on_error` — "requeue" (reject with requeue; logged, not raised),
        "reject" (reject without; logged, not raised), "raise" (nack with requeue, and the exception goes on), or a
        function of (delivery, exception) that returns one of these. Cancelled, or any other `BaseException`: nack
        with requeue, and it goes on. What the block settled itself stays so; a stale delivery is counted and logged,
        not raised.

        What "requeue" puts back comes again at once, and a message that always fails for ever: only `client.process`
        pauses. Of like failures one a second is logged.
        """
        check_on_error(on_error)
        return ProcessDelivery(self, on_error)

    # --- reading ---------------------------------------------------------------------------------------------------

    def decode(self, codec: str | Codec | None = None) -> Any:
        """The body as an object, by `codec` or else by its content type, with its content encoding undone (gzip,
        deflate; to 64 MiB at most) and by its charset. Raises `DecodeError`.

        The content type is the sender's: it chooses among "json", "msgpack", "text", "raw" and what was registered.
        """
        properties = self.properties
        return decode_body(self.body, properties.content_type, codec, properties.content_encoding)

    @property
    def message(self) -> Message:
        """The delivery as a `Message`, to publish again: without an expiration that is no number, and with a delivery
        mode other than 1 and 2, which RabbitMQ 4 lets pass, as the transient one that it takes it for.
        """
        properties = self.properties
        fields = {name: getattr(properties, name) for name in type(properties).__slots__}
        expiration = fields["expiration"]
        fields["expiration"] = int(expiration) / 1000 if expiration is not None and expiration.isdecimal() else None
        if fields["delivery_mode"] not in (None, 1, 2):
            fields["delivery_mode"] = 1
        return Message(self.body, **fields)

    @property
    def delivery_count(self) -> int:
        """How often it was delivered before without success, as quorum queues count (x-delivery-count); else 0 or 1.

        RabbitMQ 4.0 and older count a nack as well, 4.3 and newer a reject only.
        """
        count = self.headers.get("x-delivery-count")
        if isinstance(count, int):
            return count
        return int(self.redelivered and "x-acquired-count" not in self.headers)  # which 4.3's quorum queues add

    @property
    def attempt(self) -> int:
        """Which attempt this is at the message, as `client.process(retry=…)` counts: 1 the first time, and where no
        retries of this very queue are told of by its headers. What is put back and delivered again keeps its number.
        """
        return attempt_told(self.headers, queue_of(self))

    @property
    def deaths(self) -> tuple[Death, ...]:
        """The x-death header, typed: empty if the message was never dead-lettered."""
        deaths = self.headers.get("x-death")
        if not isinstance(deaths, list):
            return ()
        return tuple(_death(entry) for entry in deaths if isinstance(entry, dict))

    @property
    def stream_offset(self) -> int | None:
        """The offset in its stream (x-stream-offset); None from other queues."""
        offset = self.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None


def _death(entry: dict[str, Any]) -> Death:
    """One entry as the broker writes it. Publishers may forge it, so what has another type counts as not there."""
    time, count, keys = entry.get("time"), entry.get("count"), entry.get("routing-keys")
    return Death(
        queue=str(entry.get("queue", "")),
        reason=str(entry.get("reason", "")),
        count=count if isinstance(count, int) else 1,
        exchange=str(entry.get("exchange", "")),
        routing_keys=tuple(str(key) for key in keys) if isinstance(keys, list) else (),
        time=time if isinstance(time, datetime) else None,
    )


def check_on_error(on_error: OnError) -> None:
    """Refuse what is no such policy."""
    if on_error not in ("requeue", "reject", "raise") and not callable(on_error):
        error = ValueError if isinstance(on_error, str) else TypeError
        raise error(f'on_error must be "requeue", "reject", "raise" or a function, not {on_error!r}')


FAILURES = Repeated()
"""One message that fails again and again, or a thousand that fail for one reason, must not fill the disk."""

_TOO_LATE = Repeated()


class ProcessDelivery:
    """The `with` block of `Delivery.process`."""

    __slots__ = ("_delivery", "_is_stream", "_on_error", "_put_back")

    def __init__(
        self,
        delivery: Delivery,
        on_error: OnError,
        *,
        is_stream: bool = False,
        put_back: Callable[[Delivery], float] | None = None,
    ) -> None:
        """From a stream (`is_stream`, or it looks so) "reject" skips it, by an ack; what would put it back leaves it
        unsettled. `put_back` does what "requeue" says, now or after the seconds that it returns.
        """
        self._is_stream = is_stream
        self._delivery = delivery
        self._on_error = on_error
        self._put_back = put_back

    def __enter__(self) -> Delivery:
        return self._delivery

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        verdict: str
        if error is None:
            verdict = "ack"
        elif not isinstance(error, Exception):
            verdict = "raise"
        elif callable(self._on_error):
            try:
                verdict = self._on_error(self._delivery, error)
            except BaseException:
                self._settle("raise")
                raise
        else:
            verdict = self._on_error
        became = self._settle(verdict)
        if error is None or verdict == "raise":
            return False
        log_failure(self._delivery, error, became)
        return True

    def _settle(self, verdict: str) -> str:
        """Settle it, and say in words what became of it."""
        delivery = self._delivery
        if delivery.is_settled:
            return "it was settled before"
        is_stream = verdict != "ack" and (self._is_stream or delivery.seems_streamed)
        try:
            match verdict:
                case "ack":
                    delivery.ack()
                case "reject" if is_stream:
                    delivery.ack()
                    return "skipped"
                case "raise" if is_stream:
                    pass
                case "requeue" if is_stream:
                    raise ValueError(STREAM_TAKES_NOTHING_BACK)
                case "requeue":
                    return self._requeue()
                case "reject":
                    delivery.reject(requeue=False)
                    return "rejected"
                case "raise":
                    delivery.nack(requeue=True)
                case _:
                    delivery.nack(requeue=True)
                    if iscoroutine(verdict):
                        verdict.close()
                        raise TypeError("on_error is asked while the delivery is settled: it can't be a coroutine")
                    raise ValueError(f'on_error must return "requeue", "reject" or "raise", not {verdict!r}')
        except StaleDelivery:
            delivery._settled_too_late()
            if verdict in ("ack", "reject"):  # else it is what was asked for
                _TOO_LATE.log(
                    logging.WARNING,
                    queue_of(delivery) or delivery.routing_key,
                    verdict,
                    "a delivery was processed after its channel had ended: the broker will deliver it again; %s",
                    described(delivery),
                )
            return "its channel has ended: the broker will deliver it again"
        return verdict

    def _requeue(self) -> str:
        if self._put_back is None:
            self._delivery.reject(requeue=True)
            return "put back"
        seconds = self._put_back(self._delivery)
        return f"to be put back in {seconds:.1f} s" if seconds else "put back"


def settle_handled(delivery: Delivery) -> None:
    """Do what leaving the block without an error does."""
    if delivery._is_outstanding():
        delivery.ack()
    elif delivery.is_stale:
        ProcessDelivery(delivery, "raise").__exit__(None, None, None)  # which tells of it


def log_failure(delivery: Delivery, error: BaseException, became: str) -> None:
    """Tell of a handler's failure, and what became of its delivery."""
    FAILURES.log(
        logging.ERROR,
        queue_of(delivery) or delivery.routing_key,
        type(error).__qualname__,
        "the handler of a delivery failed with %s (%s); %s",
        shown_error(error),
        became,
        described(delivery),
        error=error,
    )


def queue_of(delivery: Delivery) -> str | None:
    """The queue that it came from; None where nothing tells, as for a `get`."""
    queue = getattr(delivery.consumer, "queue", None)
    return queue if isinstance(queue, str) else None


def described(delivery: Delivery) -> str:
    """Which delivery it is, for a line of the log: never its body, nor headers, and no more than fits into a line."""
    queue = queue_of(delivery)
    words = [] if queue is None else [f"queue '{shown(queue)}'"]
    words += [f"exchange '{shown(delivery.exchange)}'", f"routing key '{shown(delivery.routing_key)}'"]
    try:
        message_id = delivery.properties.message_id
    except DecodeError:
        words.append("properties that can't be read")
    else:
        words.append("no message id" if message_id is None else f"message id '{shown(str(message_id))}'")
    words.append("redelivered" if delivery.redelivered else "delivered for the first time")
    return ", ".join(words)
