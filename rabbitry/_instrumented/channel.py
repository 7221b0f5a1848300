"""The channel of an instrumented connection and its publisher: each is the plain one, and tells what happens.

What must stay true: they do what the plain ones do, in the same order, and raise the same.
"""

from __future__ import annotations

from collections.abc import Callable

from rabbitry._channel.channel import Channel
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.consumer import Consumer
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.publisher import Publisher
from rabbitry._concurrency.waiting import GIVE_WAY, checkpoint, checkpoint_if_cancelled
from rabbitry._errors import RabbitryError
from rabbitry._instrumentation import GetOperation, PublishOperation
from rabbitry._instrumented.consumer import InstrumentedConsumer
from rabbitry._instrumented.delivery import Origin
from rabbitry._instrumented.life import InstrumentedLife
from rabbitry._values.message import Message
from rabbitry._values.topology import Exchange, Queue, name_of
from rabbitry.protocol.wire import methods

__all__ = ["InstrumentedChannel", "InstrumentedPublisher"]


class InstrumentedChannel(Channel):
    """Its publishes and gets are operations; what it makes is instrumented, too."""

    __slots__ = ("_observing",)

    def __init__(self, life: InstrumentedLife) -> None:
        super().__init__(life)
        self._observing = life  # the same, by the type that it has

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(
        self,
        message: Message | bytes,
        *,
        exchange: str | Exchange = "",
        routing_key: str = "",
        mandatory: bool = False,
    ) -> None:
        life = self._observing
        operation = life.operation(message, name_of(exchange, Exchange), routing_key)
        with life.instruments.around(operation, "confirmed" if life.confirm else "queued"):
            await self.publish_within(operation, mandatory)

    async def publish_within(self, operation: PublishOperation, mandatory: bool) -> None:
        """Publish as a part of this operation, which has begun: a client's may take several lives."""
        life = self._observing
        life.endpoint.check_loop()
        self._calls += 1
        if self._calls & GIVE_WAY or (life.confirm and life.is_open):
            await life.endpoint.checkpoint_if_cancelled()
        else:
            await checkpoint()
        if life.confirm:
            message, observer = operation.message, life.awaited(operation)
            confirmation = Confirmation(message, operation.exchange, operation.routing_key, None, observer)
            await life.publish(message, confirmation, mandatory)
        else:
            while not life.queue_within(operation, mandatory):
                await life.wait_ready()

    def publisher(
        self,
        *,
        exchange: str | Exchange = "",
        window: int = 1000,
        on_outcome: Callable[[Confirmation], None] | None = None,
    ) -> Publisher:
        return InstrumentedPublisher(self._observing, name_of(exchange, Exchange), window, on_outcome)

    # --- consuming ----------------------------------------------------------------------------------------------------

    def _new_consumer(
        self,
        method: methods.BasicConsume,
        prefetch: int | None = None,
        *,
        on_arrival: Callable[[Delivery], None] | None = None,
        on_end: Callable[[RabbitryError | None], None] | None = None,
    ) -> Consumer:
        return InstrumentedConsumer(self._observing, method, prefetch, on_arrival, on_end)

    async def get(self, queue: str | Queue, *, no_ack: bool = False) -> Delivery | None:
        life, queue = self._observing, name_of(queue)
        operation = GetOperation(queue)
        operation.located(life.endpoint.host, life.endpoint.port)
        with life.instruments.getting(operation):
            operation.delivery = delivery = await super().get(queue, no_ack=no_ack)
        if delivery is not None:
            delivery.consumer = Origin(life, queue)
            life.instruments.count("consumed", {"queue": queue})
        return delivery


class InstrumentedPublisher(Publisher):
    """Of an instrumented channel: its `publish` is one operation, and so is each `submit` by itself."""

    __slots__ = ("_observing",)

    def __init__(
        self,
        life: InstrumentedLife,
        exchange: str,
        window: int,
        on_outcome: Callable[[Confirmation], None] | None,
    ) -> None:
        super().__init__(life, exchange, window, on_outcome)
        self._observing = life

    async def publish(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
    ) -> None:
        life = self._observing
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        operation = life.operation(message, exchange, routing_key)
        with life.instruments.around(operation, "confirmed"):
            await checkpoint_if_cancelled()
            observer = life.awaited(operation, self._settled)
            confirmation = Confirmation(message, exchange, routing_key, None, observer)
            await self._queue(confirmation, mandatory)
            await confirmation.wait()
