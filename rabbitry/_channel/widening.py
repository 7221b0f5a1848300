"""`Widening`: the prefetch of those who handle deliveries, as it rises where handlers are quicker than a round trip.

The law. A worker that finds nothing here, though its queue has more, waits for a round trip r: with a prefetch P and
handlers that take h, P / (r + h) messages a second are all that can be had. So P rises, fourfold, while workers are
seen to wait and the queue says that it has more: which is where h is shorter than r. It never rises to what would take
longer than `WORTH` seconds to handle at the present rate, so that other workers get theirs and none is held past the
broker's time-out; and when what waits here comes to be worth more than that, because handlers became slow, it falls
back to where it began, and what is too much goes back. What must stay true: nothing is asked of the broker, and no task
runs, where nothing is handled or handlers are slow; a delivery costs an addition, whatever happens here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import anyio

from rabbitry._channel.consumer import Consumer, has_ended, is_starved, life_behind, method_of, waiting_at
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.second import SecondConsumer, StreamConsumer
from rabbitry._concurrency.clock import clock
from rabbitry._errors import Closed, RabbitryError
from rabbitry.protocol.wire import methods

__all__ = ["HELD_MOST", "Widening"]

LOOK_EVERY = 17
"""Deliveries between two looks at whether handlers might be quick. Odd: deliveries come two by two with a prefetch of
two, and the second of each pair must not always be the one that is missed.
"""

TICK = 0.25
"""Seconds over which the rate is measured."""

PATIENCE = 4
"""Ticks in a row in which it must be too much, or of no use, before it falls."""

WORTH = 1.0
"""Seconds that it may take to handle what waits here."""

STEP = 4
"""How many times as much the next prefetch is."""

MOST = 100
"""To which prefetch it rises, at the most; with many workers to ten times their number. What `consume` has is 100."""

MOST_BYTES = 8 * 1024 * 1024
"""Of bodies as large as the largest that was lately seen, so many bytes may wait here."""

ASK_AGAIN = 3.0
"""Seconds until a queue that had no more is asked again."""

HELD_MOST = 100
HELD_BYTES = 64 * 1024 * 1024
"""Deliveries that are held for later without counting towards the prefetch, at the most, and bytes of them, if all are
as large as the largest.
"""

ASKS_BY = ("basic.consume", "queue.declare")
"""What a broker may refuse of this: by a policy, say, that allows a channel one consumer."""

FIRST_REST, LONGEST_REST = 2.0, 120.0
"""Seconds, doubling, for which it does not rise after it had to fall: jobs that are quick now and slow then."""


class Widening:
    """Of one set of workers, whose consumers' prefetch is `base` at first. With `may_rise=False` it never rises, and
    only what is held for later is made up for.
    """

    __slots__ = (
        "_allowance",
        "_base",
        "_changed",
        "_concurrency",
        "_is_useless",
        "_is_watching",
        "_largest",
        "_may_rise",
        "_monotonic",
        "_next",
        "_rest",
        "_rest_until",
        "_risen",
        "done",
        "held",
        "look_at",
        "start_soon",
        "stream_offset",
    )

    def __init__(self, base: int, concurrency: int, *, may_rise: bool = True) -> None:
        self._base = base
        self._concurrency = concurrency
        self._may_rise = may_rise
        self._monotonic = clock().monotonic
        self._is_watching = False
        self._next: Delivery | None = None  # held while watching: its consumer may be the next life's
        self._is_useless = base == 0
        self._changed = anyio.Event()
        self._risen, self._allowance = base, 0  # what it wants: for what is handled, and for what is held
        self._largest = 0
        self._rest, self._rest_until = FIRST_REST, -inf
        self.done = 0  # deliveries handled
        self.look_at: float = LOOK_EVERY if may_rise else inf  # how many must have been handled for the next look
        self.held: Callable[[], int] = int  # deliveries held for later
        self.start_soon: Callable[..., object] | None = None  # of the workers, while they run
        self.stream_offset: Callable[[], int | None] | None = None  # of a stream, the offset after what came last

    # --- called by the workers ----------------------------------------------------------------------------------------

    def look(self, delivery: Delivery) -> None:
        """Now and then, after a delivery: begin to watch where its handlers may be quicker than a round trip."""
        self.look_at = self.done + LOOK_EVERY
        self._largest = max(len(delivery.body), self._largest * 3 // 4)
        consumer = delivery.consumer
        if self._is_watching or not isinstance(consumer, Consumer) or waiting_at(consumer):
            return
        if self._monotonic() >= self._rest_until:
            self._watch(delivery)

    def hold_changed(self, delivery: Delivery) -> None:
        """This one is held for later."""
        self._largest = max(self._largest, len(delivery.body))
        self._changed.set()
        if self._is_watching:
            self._next = delivery
        else:
            self._watch(delivery)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _watch(self, delivery: Delivery) -> None:
        consumer = delivery.consumer
        if self._is_useless or self.start_soon is None or not isinstance(consumer, Consumer) or has_ended(consumer):
            return
        method = method_of(consumer)
        is_strange = self.stream_offset is None and delivery.seems_streamed
        if method.exclusive or method.no_ack or is_strange:  # which can't have a second one
            self._is_useless = True
            return
        self._is_watching = True
        self.start_soon(self._watched, consumer)

    async def _watched(self, consumer: Consumer) -> None:
        second: SecondConsumer | StreamConsumer = SecondConsumer(consumer)
        if self.stream_offset is not None:
            second = StreamConsumer(consumer, self._base, self.stream_offset)
        try:
            await self._follow(consumer, second)
        except RabbitryError as error:  # the channel has ended; if by what was asked for here, that is not asked again
            self._is_useless = isinstance(error, Closed) and error.method in ASKS_BY
        finally:
            second.consumer_ended(consumer)
            self._is_watching = False
            self._risen, self._allowance = self._base, 0
            following, self._next = self._next, None
        if following is not None and self.held():
            self._watch(following)

    async def _follow(self, consumer: Consumer, second: SecondConsumer | StreamConsumer) -> None:
        """Give the second consumer the prefetch that is right, until none is."""
        too_much = unneeded = 0  # ticks in a row
        before = self.done
        while not has_ended(consumer):
            done, began = self.done, self._monotonic()
            await self._tick(second, began + TICK)
            rate, waiting = (self.done - done) / (self._monotonic() - began), waiting_at(consumer)

            is_too_much = self._risen > self._base and waiting > max(self._base, rate * WORTH)
            too_much = too_much + 1 if is_too_much else 0
            is_unneeded = not self.held() and waiting <= self._base and 4 * rate < self._risen
            unneeded = unneeded + 1 if is_unneeded else 0

            wanted = self._wanted(rate) if is_starved(consumer) and not second.is_over else 0
            if too_much == PATIENCE:
                await self._fall(second)
            elif second.prefetch and not second.deliveries and self.done - before > 4 * (self._base + second.prefetch):
                self._is_useless = True  # its queue has a single active consumer, then, which is the first
                return
            elif wanted > self._risen and await self._has_more(consumer):
                self._risen = wanted
            elif unneeded == PATIENCE or self._risen + self._allowance == self._base:
                await second.set_prefetch(0)
                return

    async def _tick(self, second: SecondConsumer | StreamConsumer, end: float) -> None:
        """Wait for a tick, and see to what is held as soon as that changes."""
        while True:
            self._changed = anyio.Event()
            if self.held() > self._allowance:
                most = min(HELD_MOST, HELD_BYTES // max(1, self._largest))
                self._allowance = max(self._allowance, min(most, 2 ** self.held().bit_length()))
            prefetch = self._risen - self._base + self._allowance
            if second.prefetch != prefetch and not second.is_over:
                await second.set_prefetch(prefetch)
            with anyio.move_on_after(end - self._monotonic()) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                return

    def _wanted(self, rate: float) -> int:
        """The next prefetch, within all bounds."""
        most = max(MOST, 10 * self._concurrency)
        return int(min(STEP * self._risen, most, rate * WORTH, MOST_BYTES / max(1, self._largest)))

    async def _has_more(self, consumer: Consumer) -> bool:
        """Whether its queue has more than the prefetch lets come here."""
        if not self._may_rise or self._monotonic() < self._rest_until:
            return False
        queue = method_of(consumer).queue
        info = await life_behind(consumer).call(methods.QueueDeclare(queue=queue, passive=True))
        has_more: bool = info.message_count > 0
        if not has_more:
            self._rest_until = self._monotonic() + ASK_AGAIN
        return has_more

    async def _fall(self, second: SecondConsumer | StreamConsumer) -> None:
        """Handlers have become slow: others may have what waits here."""
        now = self._monotonic()
        self._rest = FIRST_REST if now - self._rest_until > LONGEST_REST else min(2 * self._rest, LONGEST_REST)
        self._rest_until = now + self._rest
        self._risen = self._base
        await second.set_prefetch(self._allowance, put_back=True)
        second.shed(self._concurrency)
