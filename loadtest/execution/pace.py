"""When a client acts next: as soon as it may in a closed loop, when its schedule says so in an open one.

In an open loop the intended time is absolute and passed on, however late the client is: latencies count from it. What
a client behind its schedule has not done by the end is never done; what fell due in time is, though the event loop
woke it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns

from loadtest.execution.state import Run
from loadtest.scenarios.schedule import Schedule


class Pace:
    """One client's pace: its number is that among the clients of its role, and the schedules are theirs."""

    __slots__ = ("_index", "_number", "_run", "_schedule", "_start", "was_due")

    def __init__(self, run: Run, index: int, schedules: Sequence[Schedule] | None) -> None:
        self._run = run
        self._index = index
        self._schedule = None if schedules is None else schedules[index]
        self._start = 0
        self._number = 0
        self.was_due = False
        """Whether the latest intended time had come before the client asked for it."""

    async def begin(self) -> None:
        """Returns when it is the client's turn to start working."""
        await self._run.begin.wait()
        self._start = self._run.start_of(self._index)
        await self._run.timetable.sleep_until(self._start)

    async def next(self) -> int | None:
        """The intended time of what comes next, never in the future; None once the run stops."""
        run = self._run
        if run.is_stopping:
            return None
        if self._schedule is None:
            return monotonic_ns()
        intended = self._schedule.due(self._start, self._number)
        self._number += 1
        self.was_due = monotonic_ns() >= intended
        if self.was_due:
            return intended
        await run.timetable.sleep_until(intended)
        now = monotonic_ns()
        if now < intended or (run.is_stopping and intended >= run.measurement.end):
            return None
        run.measurement.latencies(intended, now).wake.record(now - intended)
        return intended
