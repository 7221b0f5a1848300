"""The channel, consumer, delivery and RPC of an instrumented connection: each is the plain one, and tells what happens.

What must stay true: a connection without instrumentation makes none of these, so its code is as if they did not exist;
an instrumented one does what the plain one does, in the same order, and raises the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rabbitry._channel.channel import Channel
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import Consumer
from rabbitry._channel.delivery import Delivery, OnError, ProcessDelivery
from rabbitry._channel.publisher import Publisher
from rabbitry._instrumentation import (
    CallHeaders,
    CallOperation,
    GetOperation,
    Instruments,
    ProcessOperation,
    PublishOperation,
    operation_of,
)
from rabbitry._rpc.caller import RPC
from rabbitry._values.topology import Exchange, Queue, name_of

if TYPE_CHECKING:
    from rabbitry._connection.connection import Connection
    from rabbitry._values.message import Message

__all__ = [
    "InstrumentedChannel",
    "InstrumentedDelivery",
    "InstrumentedPublisher",
    "InstrumentedRPC",
    "Observer",
    "PublishesObserved",
    "like",
    "observed",
    "process_operation",
]

C = TypeVar("C", bound=Consumer)


# --- publishing -------------------------------------------------------------------------------------------------------


class Observer:
    """Stands before a confirmation's own `on_settled`: ends the operation, unless that ends with the call of `publish`
    that it belongs to.
    """

    __slots__ = ("_instruments", "_is_awaited", "_then", "operation")

    def __init__(
        self,
        instruments: Instruments,
        operation: PublishOperation,
        is_awaited: bool,
        then: Callable[[Confirmation], None] | None,
    ) -> None:
        self._instruments = instruments
        self.operation = operation
        self._is_awaited = is_awaited
        self._then = then

    def __call__(self, confirmation: Confirmation) -> None:
        if not self._is_awaited:
            self._instruments.end(self.operation, confirmation.outcome, confirmation.failure())
        elif confirmation.outcome == "unsent":
            self.operation.attempts -= 1
        if self._then is not None:
            self._then(confirmation)


class InstrumentedChannel(Channel):
    """All publishes pass `_queue_confirmed` or `_queue_plain`, so these add the headers."""

    __slots__ = ("_instruments",)

    def __init__(self, connection: Connection, confirm: bool, prefetch: int, instruments: Instruments) -> None:
        super().__init__(connection, confirm, prefetch)
        self._instruments = instruments

    def _operation(self, message: Message | bytes, exchange: str, routing_key: str) -> PublishOperation:
        operation = PublishOperation(message, exchange, routing_key)
        operation.located(self._connection._settings.address)
        return operation

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
    ) -> None:
        exchange = name_of(exchange)
        if operation_of(message) is not None:  # the client's
            return await super().publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        operation = self._operation(message, exchange, routing_key)
        with self._instruments.publishing(operation, "confirmed" if self._confirm else "queued"):
            await super().publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)

    def _queue_confirmed(self, confirmation: Confirmation, mandatory: bool) -> bool:
        observer = confirmation._on_settled
        if not isinstance(observer, Observer):  # else it waited for room, or for another life
            if not self._is_ready():
                return super()._queue_confirmed(confirmation, mandatory)
            observer = confirmation._on_settled = self._observer(confirmation)
        operation, message = observer.operation, confirmation.message
        try:
            confirmation.message = operation.carried
            queued = super()._queue_confirmed(confirmation, mandatory)
        except Exception as error:
            if not observer._is_awaited:
                self._instruments.end(operation, "unsent", error)
            raise
        finally:
            confirmation.message = message
        if queued:
            operation.attempts += 1
            operation.located(self._connection._settings.address)
        return queued

    def _observer(self, confirmation: Confirmation) -> Observer:
        operation = operation_of(confirmation.message)
        is_awaited = operation is not None
        if operation is None:
            operation = self._operation(confirmation.message, confirmation.exchange, confirmation.routing_key)
            self._instruments.begin(operation)
        return Observer(self._instruments, operation, is_awaited, confirmation._on_settled)

    def _queue_plain(self, message: Message | bytes, exchange: str, routing_key: str, mandatory: bool) -> bool:
        operation = operation_of(message)
        if operation is not None:
            queued = super()._queue_plain(operation.carried, exchange, routing_key, mandatory)
            operation.attempts += queued
            return queued
        if mandatory or not self._is_ready():
            return super()._queue_plain(message, exchange, routing_key, mandatory)
        operation = self._operation(message, exchange, routing_key)
        with self._instruments.around(operation, "queued"):
            return super()._queue_plain(operation.carried, exchange, routing_key, mandatory)

    def _is_ready(self) -> bool:
        """Whether a message will be queued now: an operation begins only then."""
        return self.is_open and not self._live.is_committing and self._endpoint.make_room()

    def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: Callable[[Confirmation], None] | None = None,
    ) -> Publisher:
        return InstrumentedPublisher(self, name_of(exchange), window, on_outcome)

    # --- consuming ----------------------------------------------------------------------------------------------------

    def consume(self, queue: str | Queue, **options: Any) -> Consumer:
        plain = super().consume(queue, **options)
        consumer: Consumer = _counted(Consumer)(self, plain.queue, plain._method, plain._prefetch)
        return consumer

    async def get(self, queue: str | Queue, *, no_ack: bool = False) -> Delivery | None:
        queue = name_of(queue)
        operation = GetOperation(queue)
        operation.located(self._connection._settings.address)
        with self._instruments.getting(operation):
            operation.delivery = delivery = await super().get(queue, no_ack=no_ack)
        if delivery is not None:
            delivery.consumer = Got(self, queue)
            self._instruments.count("consumed", {"queue": queue})
        return delivery

    def _observed(self, handler: Callable[[Delivery], Awaitable[Any]]) -> Callable[[Delivery], Awaitable[Any]]:
        return observed(handler)


class PublishesObserved:
    """What an instrumented publisher does otherwise: its `publish` is one operation, whatever happens to it."""

    __slots__ = ()

    if TYPE_CHECKING:
        _channel: Channel
        _exchange: str

    async def publish(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
    ) -> None:
        channel = self._channel
        assert isinstance(channel, InstrumentedChannel)
        exchange = self._exchange if exchange is None else name_of(exchange)
        with channel._instruments.publishing(channel._operation(message, exchange, routing_key)):
            await super().publish(  # type: ignore[misc]  # of the publisher that this is mixed into
                message, routing_key=routing_key, exchange=exchange, mandatory=mandatory
            )


class InstrumentedPublisher(PublishesObserved, Publisher):
    """Of an instrumented channel."""

    __slots__ = ()


# --- consuming --------------------------------------------------------------------------------------------------------


class CountedTaking:
    """What an instrumented consumer does otherwise: counts each delivery that is handed out, once."""

    _again: set[int] = set()  # noqa: RUF012 - tags of what a cancelled batch has put back; replaced, not filled

    if TYPE_CHECKING:
        _buffer: deque[Delivery]
        _channel: Channel
        queue: str

    def _take(self) -> Delivery:
        delivery: Delivery = super()._take()  # type: ignore[misc]  # of the consumer that this is mixed into
        if delivery.delivery_tag in self._again:
            self._again.discard(delivery.delivery_tag)
        else:
            _instruments(self._channel).count("consumed", {"queue": self.queue})
        return delivery

    def _return(self, taken: list[Delivery]) -> None:
        self._again = self._again.union(delivery.delivery_tag for delivery in taken)
        super()._return(taken)  # type: ignore[misc]  # likewise

    def drop_stale(self) -> None:
        again = self._again
        super().drop_stale()  # type: ignore[misc]  # likewise
        self._again = again.intersection(delivery.delivery_tag for delivery in self._buffer)


@cache
def _counted(kind: Any) -> Any:
    """The consumers of an instrumented channel, for each kind of them."""
    return type(f"Counted{kind.__name__}", (CountedTaking, kind), {})


def like(consumer: Consumer, kind: type[C]) -> type[C]:
    """This kind, counted if that consumer is: it is to stand in its place."""
    if not isinstance(consumer, CountedTaking):
        return kind
    plain: Any = kind
    counted: type[C] = _counted(plain)
    return counted


class Got:
    """Where a delivery of `get` came from."""

    __slots__ = ("_channel", "queue")

    def __init__(self, channel: Channel, queue: str) -> None:
        self._channel = channel
        self.queue = queue


class InstrumentedDelivery(Delivery):
    """Counts how it is settled; its `process` block is an operation."""

    __slots__ = ()

    def ack(self) -> None:
        super().ack()
        self._count("ack")

    def nack(self, *, requeue: bool = True) -> None:
        super().nack(requeue=requeue)
        self._count("nack")

    def reject(self, *, requeue: bool = False) -> None:
        super().reject(requeue=requeue)
        self._count("reject")

    def process(self, on_error: OnError = "requeue") -> ProcessDelivery:
        return InstrumentedProcessDelivery(self, on_error)

    def _count(self, how: str) -> None:
        source = self.consumer
        if isinstance(source, (Consumer, Got)):
            _instruments(source._channel).count("settled", {"queue": source.queue, "how": how})


class InstrumentedProcessDelivery(ProcessDelivery):
    """The `with` block of an instrumented delivery, settled inside the operation."""

    __slots__ = ("_operation",)

    def __enter__(self) -> Delivery:
        self._operation = _processing(self._delivery)
        self._operation.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            return super().__exit__(kind, error, traceback)
        finally:
            self._operation.__exit__(kind, error, traceback)


def observed(handler: Callable[[Delivery], Awaitable[Any]]) -> Callable[[Delivery], Awaitable[Any]]:
    """The handler, each run of which is an operation."""

    @wraps(handler)
    async def observed_handler(delivery: Delivery) -> Any:
        with _processing(delivery):
            return await handler(delivery)

    return observed_handler


def _processing(delivery: Delivery) -> AbstractContextManager[None]:
    source = delivery.consumer
    if not isinstance(source, (Consumer, Got)):
        return nullcontext()
    return _instruments(source._channel).processing(process_operation(delivery))


def process_operation(delivery: Delivery, queue: str = "") -> ProcessOperation:
    """To be begun: where the delivery came from is known unless a plain channel got it."""
    source = delivery.consumer
    if not isinstance(source, (Consumer, Got)):
        return ProcessOperation(delivery, queue)
    operation = ProcessOperation(delivery, queue or source.queue)
    operation.located(source._channel._connection._settings.address)
    return operation


def _instruments(channel: Channel) -> Instruments:
    assert isinstance(channel, InstrumentedChannel)
    return channel._instruments


# --- RPC --------------------------------------------------------------------------------------------------------------


class InstrumentedRPC(RPC):
    """Each call is an operation, whose headers go with the request."""

    __slots__ = ()

    async def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        address = self._channel._connection._settings.address
        if isinstance(headers, CallHeaders):  # the client's
            headers.operation.located(address)
            return await super().call(routing_key, payload, exchange=exchange, headers=headers, **options)
        operation = CallOperation(name_of(exchange), routing_key, headers)
        operation.located(address)
        with _instruments(self._channel).around(operation, "answered"):
            return await super().call(routing_key, payload, exchange=exchange, headers=operation.carried, **options)
