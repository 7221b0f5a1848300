"""When a client acts next: as soon as it may in a closed loop, when its schedule says so in an open one.

In an open loop the intended time is absolute and passed on, however late the client is: latencies count from it. What
a client behind its schedule has not done by the end is never done; what fell due in time is, though the event loop
woke it late. Why a client is late is told apart: it slept for longer than it had asked for, which is this program's
doing, or it was waiting for the broker. The pace may change while the run goes on: with each leg of it.
"""

from __future__ import annotations

from time import monotonic_ns

from loadtest.execution.state import Run
from loadtest.metrics.latencies import NEVER
from loadtest.scenarios.plan import Place


class Pace:
    """One client's pace."""

    __slots__ = ("_leg", "_number", "_place", "_run", "_schedule", "_start", "_woken_at", "slept_over", "was_due")

    def __init__(self, run: Run, place: Place) -> None:
        self._run = run
        self._place = place
        self._woken_at = 0
        self.was_due = False
        """Whether the latest intended time had come while the client was waiting for the broker."""
        self.slept_over = False
        """Whether it had come while the client slept until the one before."""

    async def begin(self) -> None:
        """Returns when it is the client's turn to start working."""
        run = self._run
        await run.begin.wait()
        self._follow()
        if self._start > monotonic_ns():
            await run.timetable.sleep_until(self._start)
        self._woken_at = monotonic_ns()

    def _follow(self) -> None:
        """Takes up the run's current leg, from its beginning."""
        self._leg = self._run.leg
        self._schedule = self._leg.schedule_of(self._place)
        self._start = self._run.start_of(self._place.index)
        self._number = 0

    async def next(self) -> int | None:
        """The intended time of what comes next, never in the future; None once the run stops."""
        run = self._run
        while not run.is_stopping:
            if run.leg is not self._leg:
                self._follow()
            if self._schedule is not None:
                intended = self._schedule.due(self._start, self._number)
                if intended >= run.sending_ends:
                    return None
                if await self._is_time(intended):
                    self._number += 1
                    return intended
            elif not self._leg.is_paused:
                return monotonic_ns()
            else:
                await run.timetable.sleep_until(NEVER)  # until the next leg begins
                self._woken_at = monotonic_ns()
        return None

    async def _is_time(self, intended: int) -> bool:
        """Waits for the intended time; False if it was woken before, or too late to do it."""
        run = self._run
        self.slept_over = intended <= self._woken_at
        self.was_due = not self.slept_over and monotonic_ns() >= intended
        if self.was_due:
            return True
        if not self.slept_over:
            await run.timetable.sleep_until(intended)
            self._woken_at = monotonic_ns()
            if intended > self._woken_at or intended >= run.sending_ends or run.leg is not self._leg:
                return False
        run.measurement.latencies(intended, self._woken_at).wake.record(self._woken_at - intended)
        return True
