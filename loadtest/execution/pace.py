"""When a client acts next: as soon as it may in a closed loop, when its schedule says so in an open one.

In an open loop the intended time is absolute and passed on, however late the client is: latencies count from it. What
a client behind its schedule has not done by the end is never done; what fell due in time is, though the event loop
woke it late. Why a client is late is told apart: it slept for longer than it had asked for, which is this program's
doing, or it was waiting for the broker.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns

from loadtest.execution.state import Run
from loadtest.scenarios.schedule import Schedule


class Pace:
    """One client's pace: its number is that among the clients of its role, and the schedules are theirs."""

    __slots__ = ("_index", "_number", "_run", "_schedule", "_start", "_woken_at", "slept_over", "was_due")

    def __init__(self, run: Run, index: int, schedules: Sequence[Schedule] | None) -> None:
        self._run = run
        self._index = index
        self._schedule = None if schedules is None else schedules[index]
        self._start = 0
        self._number = 0
        self._woken_at = 0
        self.was_due = False
        """Whether the latest intended time had come while the client was waiting for the broker."""
        self.slept_over = False
        """Whether it had come while the client slept until the one before."""

    async def begin(self) -> None:
        """Returns when it is the client's turn to start working."""
        await self._run.begin.wait()
        self._start = self._run.start_of(self._index)
        await self._run.timetable.sleep_until(self._start)
        self._woken_at = monotonic_ns()

    async def next(self) -> int | None:
        """The intended time of what comes next, never in the future; None once the run stops."""
        run = self._run
        if run.is_stopping:
            return None
        if self._schedule is None:
            return monotonic_ns()
        intended = self._schedule.due(self._start, self._number)
        if intended >= run.sending_ends:
            return None
        self._number += 1
        self.slept_over = intended <= self._woken_at
        self.was_due = not self.slept_over and monotonic_ns() >= intended
        if self.was_due:
            return intended
        if not self.slept_over:
            await run.timetable.sleep_until(intended)
            self._woken_at = monotonic_ns()
            if intended > self._woken_at or intended >= run.sending_ends:
                return None
        run.measurement.latencies(intended, self._woken_at).wake.record(self._woken_at - intended)
        return intended
