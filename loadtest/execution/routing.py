"""What a producer's messages bear beside their bodies, where that differs from one to the next: queue, priority."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from loadtest.drivers.base import Outcome, Producer
from loadtest.execution.pace import Pace
from loadtest.execution.state import Run
from loadtest.scenarios.plan import Place


class RoutedProducer:
    """A producer that publishes each message to another of some queues, in an order that was drawn beforehand."""

    __slots__ = ("_keys", "_next", "_producer")

    def __init__(self, producer: Producer, keys: Sequence[str], index: int, sent: int = 0) -> None:
        """`sent` is how many messages the producer of that index has sent already."""
        self._producer = producer
        self._keys = keys
        self._next = (index * 97 + sent) % len(keys)

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        """Publishes to the next queue, unless to `key`."""
        return await self._producer.publish(body, key or self._take())

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        """The same without waiting for the outcome."""
        await self._producer.submit(body, token, key or self._take())

    async def flush(self) -> None:
        """As the producer's."""
        await self._producer.flush()

    def _take(self) -> str:
        key = self._keys[self._next]
        self._next = (self._next + 1) % len(self._keys)
        return key


class CountedPace(Pace):
    """A pace that ends after so many messages."""

    __slots__ = ("_left",)

    def count(self, number: int) -> CountedPace:
        """Ends after that number."""
        self._left = number
        return self

    async def next(self) -> int | None:
        """As `Pace.next`; None once all were asked for, too."""
        if not self._left:
            return None
        if (intended := await super().next()) is not None:
            self._left -= 1
        return intended


def make_pace(run: Run, place: Place) -> Pace:
    """When a producer's messages leave, and how many of them."""
    if (quota := run.plan.quota(place.index)) is None:
        return Pace(run, place)
    return CountedPace(run, place).count(quota)


def make_priority(run: Run, place: Place) -> Callable[[], int] | None:
    """What draws each further message's priority, from 1 to the highest; None if messages have none."""
    highest = run.settings.priorities
    if not highest:
        return None
    sent = run.record.ledger.accounts[place.index].sent
    randrange = Random(f"{run.settings.seed} priorities {place.index} {sent}").randrange
    return lambda: randrange(highest) + 1
