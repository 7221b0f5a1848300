"""When each message of an open-loop run is meant to leave.

The plan is absolute: the k-th message of a producer is due at ``start + (phase + k) × interval``, whatever became of
the one before it, so that a slow broker can't slow down the question it is asked (coordinated omission). The phases
come from the run's seed and spread the producers over the interval; nothing here reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """One producer's plan, in nanoseconds."""

    interval: float
    phase: float

    def due(self, start: int, number: int) -> int:
        """The intended time of a producer's message, counted from 0."""
        return start + int((self.phase + number) * self.interval)

    def planned(self, start: int, end: int) -> int:
        """How many messages are due from ``start`` until before ``end``."""
        if end <= start:
            return 0
        number = max(0, int((end - start) / self.interval - self.phase) - 1)
        while self.due(start, number) < end:
            number += 1
        return number


def make_schedules(producers: int, rate: float, random: Random) -> list[Schedule]:
    """One plan for each producer, ``rate`` messages per second altogether.

    The phases are an even spread, shuffled and jittered: no burst at any time, and no two neighbours in step.
    """
    interval = producers / rate * NANOSECONDS
    slots = list(range(producers))
    random.shuffle(slots)
    return [Schedule(interval, (slot + random.random()) / producers) for slot in slots]
