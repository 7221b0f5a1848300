"""When each message and each call of an open-loop run is meant to leave.

The plan is absolute: a client's k-th is due at ``start + (phase + k) × interval``, whatever became of the one before
it, so that a slow broker can't slow down the question it is asked (coordinated omission). The phases come from the
run's seed and spread the clients over the interval; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """When one client acts, in nanoseconds."""

    interval: float
    phase: float

    def due(self, start: int, number: int) -> int:
        """The intended time of a message or call, counted from 0."""
        return start + int((self.phase + number) * self.interval)

    def planned(self, start: int, end: int) -> int:
        """How many are due from ``start`` until before ``end``."""
        if end <= start:
            return 0
        number = max(0, int((end - start) / self.interval - self.phase) - 1)
        while self.due(start, number) < end:
            number += 1
        return number

    def sample(self, start: int, first: int, last: int, most: int) -> Iterator[tuple[int, int]]:
        """When those from number ``first`` to before ``last`` are due; beyond ``most`` of them, as a mean of some.

        Each comes with the number of those that it stands for.
        """
        step = max(1, -(-(last - first) // most))
        for number in range(first, last, step):
            length = min(step, last - number)
            yield (self.due(start, number) + self.due(start, number + length - 1)) // 2, length


def make_schedules(clients: int, rate: float, random: Random) -> tuple[Schedule, ...]:
    """Makes one schedule for each client, ``rate`` messages per second each."""
    interval = NANOSECONDS / rate
    return tuple(Schedule(interval, phase) for phase in spread_phases(clients, random))


def spread_phases(clients: int, random: Random) -> Iterator[float]:
    """A phase for each client: an even spread, shuffled and jittered: no burst at any time, and no two neighbours in
    step.
    """
    slots = list(range(clients))
    random.shuffle(slots)
    return ((slot + random.random()) / clients for slot in slots)
