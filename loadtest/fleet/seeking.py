"""Seeking a rate with several processes: one seeker asks and judges, the workers pace as they are told.

The search is a single process's own, on a run that stands for all of them: its counters are the sums of what the
workers tell twenty times a second meanwhile, and each change of its pace goes to every worker, who makes the same
schedules from the same seed and follows his clients' part. Response times are not among what is told, as percentiles
can't be summed: a rate is judged by what waits, which is what decides it anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import anyio

from loadtest.execution.leg import Leg
from loadtest.execution.seeking import Seeker
from loadtest.execution.state import Run
from loadtest.machine.resources import Meter, Usage
from loadtest.scenarios.schedule import NANOSECONDS, make_schedules

LEAD = 0.15
"""Seconds more until a leg begins than in a single process: all workers must have heard of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How to pace from now on, as it can be sent: in which phase, and with which leg, by its number and its rate."""

    phase: str
    number: int = 0
    rate: float | None = None
    """None is a closed loop, or a pause."""
    start: int = 0
    """What the schedules count from, on the coordinator's clock."""
    is_paused: bool = False
    is_planned: bool = False


class LedRun(Run):
    """The run that stands for all workers: whatever changes its pace is told to them."""

    on_leg: Callable[[Leg], None] | None = None

    def begin_leg(self, leg: Leg) -> None:
        """As `Run.begin_leg`, everywhere."""
        super().begin_leg(leg)
        if self.on_leg is not None:
            self.on_leg(leg)


class FleetMeter(Meter):
    """Reads the broker and the machine as one process does; the clients' processor time is what the workers tell."""

    def __init__(self, meter: Meter, told: Callable[[], float]) -> None:
        super().__init__(None)
        self._meter = meter
        self._told = told

    def read(self) -> Usage:
        """What was used so far."""
        return replace(self._meter.read(), client_cpu=self._told())


class FleetSeeker(Seeker):
    """A seeker whose legs can be sent."""

    def __init__(self, run: LedRun, meter: Meter, begin_phase: Callable[[str], None]) -> None:
        super().__init__(run, meter, begin_phase)
        self._orders: dict[Leg, tuple[int, float]] = {}

    def make_leg(self, rate: float, *, is_planned: bool) -> Leg:
        """As `Seeker.make_leg`, a little later."""
        made = super().make_leg(rate, is_planned=is_planned)
        leg = replace(made, start=(made.start or 0) + int(LEAD * NANOSECONDS))
        self._orders[leg] = (self._legs, rate)
        return leg

    def order_of(self, leg: Leg, phase: str) -> Order:
        """What a leg is for those who make it themselves."""
        number, rate = self._orders.get(leg, (0, None))
        return Order(
            phase=phase,
            number=number,
            rate=rate,
            start=leg.start or 0,
            is_paused=leg.is_paused,
            is_planned=leg.is_planned,
        )


def follow(run: Run, order: Order) -> Leg:
    """The leg of an order: the same for all, whoever makes it. `start` is on this process's clock already."""
    settings, record = run.settings, run.record
    if order.rate is None:
        return Leg(is_paused=order.is_paused, is_planned=order.is_planned)
    random, each = Random(f"{settings.seed}/{order.number}"), order.rate / (settings.producers or settings.callers)
    publishing, calling = (make_schedules(count, each, random) for count in (settings.producers, settings.callers))
    return Leg(
        publishing=publishing,
        calling=calling,
        start=order.start,
        is_planned=order.is_planned,
        sent_before=[account.sent for account in record.ledger.accounts],
        called_before=list(record.calls_made),
    )


async def wait_or_end(run: Run, seconds: float) -> None:
    """Waits, but not after the run was interrupted."""
    with anyio.move_on_after(max(0.0, seconds)):
        await run.enough.wait()
