"""`Widening`: the prefetch of those who handle deliveries, as it rises where handlers are quicker than a round trip.

The law. A worker that finds nothing waits for a round trip r; with a prefetch P and handlers that take h, P / (r + h)
messages a second are all that can be had. So P rises, fourfold, while what is on its way (the rate × r, by Little) is
half of P or more, which is where h is no longer than r. It never rises to what would take longer than `WORTH` seconds
to handle at the present rate, so that other workers get theirs and none is held past the broker's time-out; and when
what waits here comes to be worth more than that, because handlers became slow, it falls back to where it began and puts
back what is too much. What must stay true: nothing is asked of the broker, and no task runs, where nothing is handled
or handlers are slow; a delivery costs a few additions, whatever happens here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import anyio

from rabbitry._channel.consumer import Consumer, has_ended, life_behind, method_of, shed, waiting_at
from rabbitry._channel.delivery import Delivery
from rabbitry._channel.second import SecondConsumer
from rabbitry._concurrency.clock import clock
from rabbitry._errors import RabbitryError
from rabbitry.protocol.wire import methods

__all__ = ["LOOK_EVERY", "Widening"]

LOOK_EVERY = 31
"""`done & LOOK_EVERY == 0` after every 32nd delivery: how often it is asked whether handlers might be quick."""

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

ASKED_LATELY = 5.0
"""Seconds for which a round trip that was measured is taken to be the present one."""

HELD_MOST = 100
"""Deliveries that are held for later without counting towards the prefetch, at the most."""

FIRST_REST, LONGEST_REST = 2.0, 120.0
"""Seconds, doubling, for which it does not rise after it had to fall: jobs that are quick now and slow then."""


class Widening:
    """Of one set of workers, whose consumers' prefetch is `base` at first. With `may_rise=False` it never rises, and
    only what is held for later is made up for.
    """

    __slots__ = (
        "_allowance",
        "_asked_at",
        "_base",
        "_changed",
        "_concurrency",
        "_done_at_look",
        "_is_useless",
        "_is_watching",
        "_largest",
        "_looked_at",
        "_may_rise",
        "_monotonic",
        "_rest",
        "_rest_until",
        "_risen",
        "_round_trip",
        "done",
        "held",
        "start_soon",
    )

    def __init__(self, base: int, concurrency: int, *, may_rise: bool = True) -> None:
        self._base = base
        self._concurrency = concurrency
        self._may_rise = may_rise
        self._monotonic = clock().monotonic
        self._is_watching = False
        self._is_useless = base == 0
        self._changed = anyio.Event()
        self._risen, self._allowance = base, 0  # what it wants: for what is handled, and for what is held
        self._largest = 0
        self._looked_at, self._done_at_look = self._monotonic(), 0
        self._asked_at, self._round_trip = -inf, 0.0
        self._rest, self._rest_until = FIRST_REST, -inf
        self.done = 0  # deliveries handled
        self.held: Callable[[], int] = int  # deliveries held for later
        self.start_soon: Callable[..., object] | None = None  # of the workers, while they run

    # --- called by the workers ----------------------------------------------------------------------------------------

    def look(self, delivery: Delivery) -> None:
        """After every 32nd delivery: begin to watch where its handlers may be quicker than a round trip."""
        now = self._monotonic()
        elapsed, done = now - self._looked_at, self.done - self._done_at_look
        self._looked_at, self._done_at_look = now, self.done
        self._largest = max(len(delivery.body), self._largest * 3 // 4)
        if self._is_watching or not self._may_rise or now < self._rest_until:
            return
        if now - self._asked_at < ASKED_LATELY and 2 * done * self._round_trip < self._base * elapsed:
            return
        self._watch(delivery)

    def hold_changed(self, delivery: Delivery) -> None:
        """The number of deliveries held is another."""
        self._changed.set()
        if not self._is_watching:
            self._watch(delivery)

    # --- watching -----------------------------------------------------------------------------------------------------

    def _watch(self, delivery: Delivery) -> None:
        consumer = delivery.consumer
        if self._is_useless or self.start_soon is None or not isinstance(consumer, Consumer) or has_ended(consumer):
            return
        method = method_of(consumer)
        if method.exclusive or method.no_ack or delivery.seems_streamed:  # which can't have a second one
            self._is_useless = True
            return
        self._is_watching = True
        self.start_soon(self._watched, consumer)

    async def _watched(self, consumer: Consumer) -> None:
        second = SecondConsumer(consumer)
        try:
            await self._follow(consumer, second)
        except RabbitryError:  # the channel has ended
            pass
        finally:
            second.consumer_ended(consumer)
            self._is_watching = False
            self._risen, self._allowance = self._base, 0

    async def _follow(self, consumer: Consumer, second: SecondConsumer) -> None:
        """Give the second consumer the prefetch that is right, until none is."""
        too_much = unneeded = 0  # ticks in a row
        while not has_ended(consumer):
            done, by_second, began = self.done, second.deliveries, self._monotonic()
            await self._tick(second, began + TICK)
            done, by_second = self.done - done, second.deliveries - by_second
            rate, waiting = done / (self._monotonic() - began), waiting_at(consumer)

            is_too_much = self._risen > self._base and waiting > max(self._base, rate * WORTH)
            too_much = too_much + 1 if is_too_much else 0
            is_unneeded = not self.held() and waiting <= self._base and 16 * rate * self._round_trip < self._risen
            unneeded = unneeded + 1 if is_unneeded else 0

            if too_much == PATIENCE:
                await self._fall(consumer, second)
            elif await self._may_rise_to(self._wanted(rate), consumer, rate):
                self._risen = self._wanted(rate)
            elif second.prefetch and not by_second and done > 4 * (self._base + second.prefetch):
                self._is_useless = True  # its queue has a single active consumer, then, which is the first
                return
            elif unneeded == PATIENCE or self._risen + self._allowance == self._base:
                await second.set_prefetch(0)
                return

    async def _tick(self, second: SecondConsumer, end: float) -> None:
        """Wait for a tick, and see to what is held as soon as that changes."""
        while True:
            self._changed = anyio.Event()
            if self.held() > self._allowance and self._allowance < HELD_MOST:
                self._allowance = min(HELD_MOST, 2 ** self.held().bit_length())
            prefetch = self._risen - self._base + self._allowance
            if second.prefetch != prefetch:
                await second.set_prefetch(prefetch)
            with anyio.move_on_after(end - self._monotonic()) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                return

    def _wanted(self, rate: float) -> int:
        """The next prefetch, within all bounds."""
        most = max(MOST, 10 * self._concurrency)
        return int(min(STEP * self._risen, most, rate * WORTH, MOST_BYTES / max(1, self._largest)))

    async def _may_rise_to(self, wanted: int, consumer: Consumer, rate: float) -> bool:
        """Whether it is the prefetch that bounds the rate, and not the handlers, nor what there is to handle."""
        if wanted <= self._risen or not self._may_rise or self._monotonic() < self._rest_until:
            return False
        began = self._monotonic()
        if began - self._asked_at > ASKED_LATELY:
            life = life_behind(consumer)
            await life.call(methods.BasicQos(prefetch_count=wanted))
            life.prefetch_sent = wanted
            self._asked_at = self._monotonic()
            self._round_trip = self._asked_at - began
        return 2 * rate * self._round_trip >= self._risen

    async def _fall(self, consumer: Consumer, second: SecondConsumer) -> None:
        """Handlers have become slow: others may have what waits here."""
        now = self._monotonic()
        self._rest = FIRST_REST if now - self._rest_until > LONGEST_REST else min(2 * self._rest, LONGEST_REST)
        self._rest_until = now + self._rest
        self._risen = self._base
        await second.set_prefetch(self._allowance, put_back=True)
        shed(consumer, self._concurrency)
