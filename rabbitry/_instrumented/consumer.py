"""The consumer of an instrumented channel: it counts each delivery that is handed out, once.

What must stay true: what a cancelled batch put back and hands out again is not counted again.
"""

from __future__ import annotations

from collections.abc import Callable

from rabbitry._channel.consumer import Consumer
from rabbitry._channel.delivery import Delivery
from rabbitry._errors import RabbitryError
from rabbitry._instrumented.life import InstrumentedLife
from rabbitry.protocol.wire import methods

__all__ = ["InstrumentedConsumer"]


class InstrumentedConsumer(Consumer):
    """Made by an instrumented channel."""

    __slots__ = ("_again", "_instruments")

    def __init__(
        self,
        life: InstrumentedLife,
        method: methods.BasicConsume,
        prefetch: int | None,
        on_arrival: Callable[[Delivery], None] | None,
        on_end: Callable[[RabbitryError | None], None] | None,
    ) -> None:
        super().__init__(life, method, prefetch, on_arrival, on_end)
        self._instruments = life.instruments
        self._again: set[int] = set()  # tags of what a cancelled batch has put back

    def _take(self) -> Delivery:
        delivery = super()._take()
        if delivery.delivery_tag in self._again:
            self._again.discard(delivery.delivery_tag)
        else:
            self._instruments.count("consumed", {"queue": self.queue})
        return delivery

    def _return(self, taken: list[Delivery]) -> None:
        self._again.update(delivery.delivery_tag for delivery in taken)
        super()._return(taken)

    def drop_stale(self) -> None:
        again = set(self._again)
        super().drop_stale()
        self._again = again.intersection(delivery.delivery_tag for delivery in self._buffer)
