"""`Repeats`: what the broker delivers again while its handler of a former life is still at work waits for that.

What must stay true: no handler runs beside its own former run; what waits here keeps no worker from other messages. The
broker gives a message no identity. What it delivers again is marked so (a stream's has its offset), and looks as it
did: same route, same body, same ids. Of two messages that look the same one may wait for the other's handler, and no
harm is done.
"""

from __future__ import annotations

from collections.abc import Iterable

from rabbitry._channel.delivery import Delivery
from rabbitry._errors import DecodeError

__all__ = ["Repeats"]


class Repeats:
    """Of one set of workers. `former` are the deliveries of lost lives that they still work on, `waiting` what came
    again.
    """

    __slots__ = ("former", "waiting")

    def __init__(self) -> None:
        self.former: list[Delivery] = []
        self.waiting: list[Delivery] = []

    def lost(self, at_work: Iterable[Delivery]) -> None:
        """A life was lost: the broker will deliver again what was not settled, and what was, if that was lost as well.
        Called while reading.
        """
        self.former = list(at_work)
        self.waiting = [delivery for delivery in self.waiting if not delivery.is_stale]

    def holds(self, delivery: Delivery) -> bool:
        """Whether to let it wait, which it does from then on, until `take` gives it."""
        if not self._is_at_work(delivery):
            return False
        self.waiting.append(delivery)
        return True

    def finished(self, delivery: Delivery) -> None:
        """This one is worked on no more."""
        self.former = [each for each in self.former if each is not delivery]

    def take(self) -> Delivery | None:
        """The first that has to wait no more, if any."""
        for position, delivery in enumerate(self.waiting):
            if not self._is_at_work(delivery):
                return self.waiting.pop(position)
        return None

    def put_back(self) -> None:
        """No handler will take what waits. A stream keeps it anyway, and takes no nack."""
        waiting, self.waiting = self.waiting, []
        for delivery in waiting:
            if not delivery.is_stale and not delivery.is_settled and not delivery.seems_streamed:
                delivery.nack()

    def _is_at_work(self, delivery: Delivery) -> bool:
        if not delivery.redelivered and not delivery.seems_streamed:
            return False
        look = _look(delivery)
        return any(_look(each) == look for each in self.former)


def _look(delivery: Delivery) -> tuple[object, ...]:
    """What stays the same of a message, whichever life it is delivered in."""
    try:
        properties = delivery.properties
        ids = properties.message_id, properties.correlation_id, delivery.stream_offset
    except DecodeError:
        ids = None, None, None
    return delivery.exchange, delivery.routing_key, ids, delivery.body
