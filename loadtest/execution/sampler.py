"""Looks at a run twice a second: rows of the timeline, the broker's memory, its blocking of publishers, the display.

It only reads, and what it reads is whole numbers; at 10,000 clients a look costs well under a millisecond.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import Protocol

import anyio

from loadtest.execution.state import Run
from loadtest.machine.resources import Meter
from loadtest.metrics.timeline import Row, Timeline, last_full_row

INTERVAL = 0.5
_LOOKS_A_ROW = 2
_BLOCKED_SAMPLE = 8
"""How many connections are looked at: an alarm blocks all that publish, so a few of them tell."""


class Display(Protocol):
    """Whoever shows a run while it goes on."""

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """A look at the run, ``now`` seconds after it began; ``row`` is the timeline's newest that tells of rates."""
        ...


class Sampler:
    """The eyes of the run: what it sees it enters into the record."""

    def __init__(self, run: Run, meter: Meter, display: Display) -> None:
        self._run = run
        self._timeline = Timeline(run.record.timeline)
        self._meter = meter
        self._display = display

    async def watch(self) -> None:
        """Looks until cancelled, once the first phase has begun."""
        looks = 0
        before = monotonic_ns()
        while True:
            await anyio.sleep(INTERVAL)
            now = monotonic_ns()
            self._look_for_blocking((now - before) / 1e9)
            before = now
            looks += 1
            if looks % _LOOKS_A_ROW == 0:
                self.add_row()
                self._meter.sample()
            row = last_full_row(self._run.record.timeline)
            self._display.update(self._run, row, self._run.seconds_at(now))

    def add_row(self) -> None:
        """Ends the timeline's current interval; at the end of a phase, too."""
        run, record = self._run, self._run.record
        latencies = (run.measurement.inside, run.measurement.outside)
        self._timeline.add(run.seconds_at(monotonic_ns()), record.phases[-1].name, record.tally, latencies)

    def _look_for_blocking(self, seconds: float) -> None:
        if self._run.over.is_set():
            self._run.is_blocked = False
            return  # everybody is leaving
        told = [connection.is_blocked for connection in self._run.some_publishing(_BLOCKED_SAMPLE)]
        known = [blocked for blocked in told if blocked is not None]
        self._run.is_blocked = any(known)
        if known:
            blocked, phase = self._run.record.blocked_seconds, self._run.record.phases[-1].name
            blocked[phase] = blocked.get(phase, 0.0) + (seconds if any(known) else 0.0)
