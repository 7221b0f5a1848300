"""The interval log: each second's histograms, written while the run goes on, so that a crash loses seconds only.

It is HdrHistogram's log format, which the tools of that family open: a line for each kind of latency and second, tagged
with the kind, in microseconds; times are seconds since the run began to connect. What is added up gives the whole run,
not only what was measured: the log doesn't know phases, and comments tell when they began.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from time import time

from loadtest.execution.state import Run
from loadtest.metrics.histogram import encode_counts, largest_of
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.timeline import Row

INTERVAL = 0.95
"""Seconds between entries: a second, at a display that is called twice in it."""
KINDS = {each.name: {"service": "confirm_service"}.get(each.name, each.name) for each in fields(Latencies)}
"""The kinds of latency, and what they are called here and in the result."""


class IntervalLog:
    """A display that writes, into a file that it opens with the first entry.

    What can't be written ends the log, not the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIOWrapper | None = None
        self._before: dict[str, dict[int, int]] = {name: {} for name in KINDS}
        self._written_at = 0.0
        self._phases = 0  # how many of the run's are told
        self._is_over = False

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """A look at the run, as `loadtest.execution.sampler.Display` says."""
        if now < self._written_at + INTERVAL or self._is_over:
            return
        try:
            self._write(run, now)
        except OSError as error:
            self._is_over = True
            run.record.errors.note(error, " (interval log)")

    def close(self, run: Run, now: float) -> None:
        """Writes what has come since the last entry, and closes the file."""
        was_over, self._is_over = self._is_over, True
        try:
            if not was_over and run.record.phases:
                self._write(run, now)
            if self._file is not None:
                self._file.close()
        except OSError as error:
            run.record.errors.note(error, " (interval log)")

    def _write(self, run: Run, now: float) -> None:
        if self._file is None:
            self._file = self._begin(run, now)
        phases = run.record.phases  # of which several may have begun since the last entry
        lines = [f"#[Phase: {phase.name} began at {phase.began:.3f}]\n" for phase in phases[self._phases :]]
        self._phases = len(phases)
        inside, outside = run.measurement.inside, run.measurement.outside
        for name, tag in KINDS.items():
            counts = dict(getattr(inside, name).counts)
            for index, number in getattr(outside, name).counts.items():
                counts[index] = counts.get(index, 0) + number
            before, self._before[name] = self._before[name], counts
            recent = {index: number - before.get(index, 0) for index, number in counts.items()}
            if (largest := largest_of(recent)) is not None:
                seconds = now - self._written_at
                lines.append(f"Tag={tag},{self._written_at:.3f},{seconds:.3f},{largest:.3f},{encode_counts(recent)}\n")
        self._written_at = now
        self._file.writelines(lines)
        self._file.flush()

    def _begin(self, run: Run, now: float) -> TextIOWrapper:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("w", encoding="utf-8")
        started = datetime.fromtimestamp(time() - now, UTC)
        file.write(
            f"#[Run: {run.record.run_id}; latencies in microseconds, interval maxima in milliseconds]\n"
            "#[Histogram log format version 1.3]\n"
            f"#[StartTime: {started.timestamp():.3f} (seconds since epoch), {started:%a %b %d %H:%M:%S UTC %Y}]\n"
            '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
        )
        return file
