"""Brokers that exist in arithmetic alone, and searches for what they can bear, in simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from loadtest.capacity.search import Search
from loadtest.capacity.step import PUBLISH, QUEUES, Look, is_hopeless, is_stalled, judge_step

LOOK = 0.05
STEP, LONG_STEP, BUDGET = 2.5, 5.0, 35.0


class SimulatedBroker:
    """Takes what it is given, as fast as it can; seconds pass only while it works.

    ``noise`` is the relative deviation of each look's work, ``stalls`` how often it stops, on average, and for how
    long, ``knee`` by how much what waits slows it down, ``degrading`` what share of its capacity it loses each second,
    ``consuming`` what its consumers take at most, each second.
    """

    def __init__(
        self,
        capacity: float,
        seed: int = 0,
        *,
        noise: float = 0.0,
        stalls: tuple[float, float] = (inf, 0.0),
        knee: float = 0.0,
        degrading: float = 0.0,
        latency: float = 0.01,
        consuming: float = inf,
    ) -> None:
        self.now = 0.0
        self._capacity = capacity
        self._random = Random(seed)
        self._noise = noise
        self._every, self._stall = stalls
        self._stops_at = self._every * self._random.random()
        self._knee = knee
        self._degrading = degrading
        self._latency = latency
        self._consuming = consuming

    @property
    def sustainable(self) -> float:
        """What it can bear by now, each second, on average."""
        working = 1 - self._stall / self._every
        return min(self._consuming, self._capacity * working * (1 - self._degrading * self.now))

    def step(self, rate: float, seconds: float) -> list[Look]:
        """What an observer sees, who drains it afterwards."""
        rates, looks = {PUBLISH: rate, QUEUES: rate}, list[Look]()
        waiting = queued = passed = 0.0
        while passed < seconds or (passed < 2 * seconds and is_stalled(rates, looks)):
            passed += LOOK
            done = min(waiting + rate * LOOK, self._work(waiting) * LOOK)
            waiting += rate * LOOK - done
            queued += done
            queued -= min(queued, self._consuming * LOOK)
            looks.append(Look(passed, {PUBLISH: waiting + rate * self._latency, QUEUES: queued}))
            if is_hopeless(rates, looks[-1]) and not is_stalled(rates, looks):
                break
        self.now += waiting / self._capacity + (queued / self._consuming) + 0.1
        return looks

    def _work(self, waiting: float) -> float:
        self.now += LOOK
        if self.now >= self._stops_at:
            if self.now > self._stops_at + self._stall:
                self._stops_at = self.now + self._every * (0.5 + self._random.random())
            return 0.0
        capacity = self._capacity * (1 - self._degrading * self.now) / (1 + self._knee * waiting / self._capacity)
        return max(0.0, capacity * (1 + self._noise * self._random.gauss(0, 1)))


@dataclass(frozen=True, slots=True)
class Searched:
    """What came of a search."""

    rate: float | None
    steps: Sequence[tuple[float, bool, bool]]
    """Each step's rate, whether it was a verification, whether it was held."""
    seconds: float
    ratio: float
    """The rate by what the broker could bear at the end; 0 if none was found."""


def search_for(broker: SimulatedBroker, closed_rate: float) -> Searched:
    """Searches as a run does: with the same steps and the same time."""
    search, steps = Search(closed_rate), list[tuple[float, bool, bool]]()
    while True:
        probe = search.next(int((BUDGET - broker.now - LONG_STEP) / STEP // 1))
        if probe is None:
            break
        looks = broker.step(probe.rate, LONG_STEP if probe.is_long else STEP)
        rates = {PUBLISH: probe.rate, QUEUES: probe.rate}
        found = judge_step(rates, looks, is_verifying=probe.is_verifying)
        search.note(is_held=found.is_held, capacity=found.capacity, is_doubtful=found.is_doubtful)
        steps.append((probe.rate, probe.is_verifying, found.is_held))
    ratio = (search.sustainable or 0.0) / broker.sustainable
    return Searched(search.sustainable, steps, broker.now, ratio)
