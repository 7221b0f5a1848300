"""`Batches` collects a consumer's deliveries into one `Batch` after another.

What must stay true: a batch has at least one delivery, all of one channel life; cancelling loses none of those that
were collected.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Self

import anyio

from rabbitry._channel.delivery import Delivery
from rabbitry._errors import RabbitryError
from rabbitry._values.arguments import whole
from rabbitry._values.durations import seconds
from rabbitry._values.nothing import NOTHING

__all__ = ["Batch", "Batches", "batch_time"]


def batch_time(size: int, within: float | timedelta) -> float:
    """The seconds that a batch has to fill; refuses a size or a time that none can have."""
    whole(size, "the size of a batch", 1, 65535)
    within = seconds(within)
    if within < 0:
        raise ValueError(f"within must not be negative: {within}")
    return within


class Batches:
    """Iterates a consumer in batches; made by `Consumer.batches`."""

    __slots__ = ("_put_back", "_size", "_take", "_take_some", "_within")

    def __init__(
        self,
        take: Callable[[], Awaitable[Delivery]],
        take_some: Callable[[int], list[Delivery]],
        put_back: Callable[[list[Delivery]], None],
        size: int,
        within: float,
    ) -> None:
        """`take` waits for a delivery, `take_some` gives those that are here, up to a number, `put_back` puts some in
        front again.
        """
        self._take = take
        self._take_some = take_some
        self._put_back = put_back
        self._size = size
        self._within = within

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """The next batch, never empty. Cancelling it puts what was collected back in front: nothing is lost."""
        taken = [await self._take()]
        taken += self._take_some(self._size - 1)
        try:
            with anyio.move_on_after(self._within):
                while len(taken) < self._size:
                    taken.append(await self._take())
        except StopAsyncIteration:
            pass
        except RabbitryError:  # hand out what there is, unless it is the broker's again; the next call raises it
            if all(delivery.is_stale for delivery in taken):
                raise
        except BaseException:
            self._put_back(taken)
            raise
        return Batch(taken)


class Batch:
    """Deliveries of one channel life, settled together."""

    __slots__ = ("deliveries",)

    def __init__(self, deliveries: list[Delivery]) -> None:
        self.deliveries: list[Delivery] = deliveries

    def __len__(self) -> int:
        return len(self.deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    def __getitem__(self, index: int) -> Delivery:
        return self.deliveries[index]

    def __repr__(self) -> str:
        return f"<Batch of {len(self.deliveries)} deliveries>"

    def ack(self) -> None:
        """Acknowledge those not settled yet, in as few frames as possible. `StaleDelivery` if the channel has ended."""
        for delivery in self.deliveries:
            if not delivery.is_settled:
                delivery.ack()
        return NOTHING  # type: ignore[no-any-return]

    def nack(self, *, requeue: bool = True) -> None:
        """Say "not processed" of those not settled yet."""
        for delivery in self.deliveries:
            if not delivery.is_settled:
                delivery.nack(requeue=requeue)
        return NOTHING  # type: ignore[no-any-return]

    def reject(self, *, requeue: bool = False) -> None:
        """Say "failed" of those not settled yet."""
        for delivery in self.deliveries:
            if not delivery.is_settled:
                delivery.reject(requeue=requeue)
        return NOTHING  # type: ignore[no-any-return]
