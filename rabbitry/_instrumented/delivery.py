"""A delivery of an instrumented connection: it counts how it is settled, and its handler is an operation.

What must stay true: a delivery tells where it came from, by the consumer or the `get` that it came to; one of a
connection without instrumentation tells that, too, as far as it knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from types import TracebackType
from typing import Any, NamedTuple

from rabbitry._channel.consumer import Consumer, life_behind
from rabbitry._channel.delivery import Delivery, OnError, ProcessDelivery, check_on_error
from rabbitry._channel.life import ChannelLife
from rabbitry._instrumentation import ProcessOperation
from rabbitry._instrumented.life import InstrumentedLife
from rabbitry._values.nothing import NOTHING

__all__ = ["InstrumentedDelivery", "Origin", "observed", "process_operation"]


class Origin(NamedTuple):
    """Where a delivery came from. That of a `get` has one in the place of its consumer."""

    life: ChannelLife
    queue: str


def _origin(delivery: Delivery) -> Origin | None:
    """None for a reply to an RPC call, which no consumer of the user's got, and for what a plain channel got."""
    consumer = delivery.consumer
    if isinstance(consumer, Consumer):
        return Origin(life_behind(consumer), consumer.queue)
    return consumer if isinstance(consumer, Origin) else None


class InstrumentedDelivery(Delivery):
    """Counts how it is settled; its `process` block is an operation."""

    __slots__ = ()

    def ack(self) -> None:
        super().ack()
        self._count("ack")
        return NOTHING  # type: ignore[no-any-return]

    def nack(self, *, requeue: bool = True) -> None:
        super().nack(requeue=requeue)
        self._count("nack")
        return NOTHING  # type: ignore[no-any-return]

    def reject(self, *, requeue: bool = False) -> None:
        super().reject(requeue=requeue)
        self._count("reject")
        return NOTHING  # type: ignore[no-any-return]

    def process(self, on_error: OnError = "requeue") -> ProcessDelivery:
        check_on_error(on_error)
        return InstrumentedProcessDelivery(self, on_error)

    def _count(self, how: str) -> None:
        origin = _origin(self)
        if origin is not None:
            assert isinstance(origin.life, InstrumentedLife)
            origin.life.instruments.count("settled", {"queue": origin.queue, "how": how})


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
    origin = _origin(delivery)
    if origin is None:
        return nullcontext()
    assert isinstance(origin.life, InstrumentedLife)
    return origin.life.instruments.processing(process_operation(delivery))


def process_operation(delivery: Delivery, queue: str = "") -> ProcessOperation:
    """To be begun: where the delivery came from is known unless a plain channel got it."""
    origin = _origin(delivery)
    if origin is None:
        return ProcessOperation(delivery, queue)
    operation = ProcessOperation(delivery, queue or origin.queue)
    operation.located(origin.life.endpoint.host, origin.life.endpoint.port)
    return operation
