"""Ends a run as soon as something is true of it that was not to be: looked at each second of what is measured.

What is looked at is what was measured so far, by the names and with the arithmetic of the result. What can't be told
yet, such as a percentile of too few samples, ends nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from loadtest.analysis.result import SECTIONS
from loadtest.analysis.thresholds import check_thresholds, parse_abort
from loadtest.execution.state import Run
from loadtest.metrics.record import Work
from loadtest.metrics.timeline import Row
from loadtest.scenarios.schedule import NANOSECONDS

INTERVAL = 0.95
"""Seconds between looks: a second, at a display that is called twice in it."""


class AbortWatch:
    """A display that shows nothing: it looks, and may end the run."""

    def __init__(self, expressions: Sequence[str], after: float, everybody: Sequence[Run] = ()) -> None:
        """`everybody` are the workloads that end together with the one that is looked at."""
        self._thresholds = [parse_abort(text) for text in expressions]
        self._sections = {threshold.path[0] for threshold in self._thresholds}
        self._after = after
        self._everybody = everybody
        self._looked_at = 0.0
        self._began: tuple[float, dict[str, int]] | None = None
        """When measuring was first seen, and what had been counted then."""

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """A look at the run, as `loadtest.execution.sampler.Display` says."""
        record = run.record
        if record.phases[-1].name != "measure" or record.aborted is not None:
            return
        if self._began is None:
            self._began = now, record.tally.to_plain()
        seconds = now - (run.measurement.start - run.began_at) / NANOSECONDS
        if seconds < self._after or now < self._looked_at + INTERVAL:
            return
        if now > self._began[0]:  # (before, no rate and no latency is known)
            self._looked_at = now
        record.aborted = self._find(run, seconds, now)
        if record.aborted is not None:
            self._end(run, record.aborted)

    def _end(self, run: Run, why: dict[str, Any]) -> None:
        run.enough.set()
        for other in self._everybody:
            if other is not run and other.record.aborted is None:
                note = f"in the workload {run.settings.workload}: {why['note']}"
                other.record.aborted = {**why, "note": note}
                other.enough.set()

    def _find(self, run: Run, seconds: float, now: float) -> dict[str, Any] | None:
        """The first expression that is true of what was measured until now."""
        assert self._began is not None
        began, before = self._began
        counts = {name: number - before[name] for name, number in run.record.tally.to_plain().items()}
        so_far = replace(run.record, work=Work(now - began, counts) if now > began else None)
        result = {name: SECTIONS[name](run.settings, so_far) for name in self._sections}
        whose = f" in workload {run.settings.workload}" if run.settings.workload else ""
        for finding in check_thresholds(result, self._thresholds):
            if finding.holds:
                return {
                    "expression": finding.requirement,
                    "t_seconds": round(now, 3),
                    "measured_seconds": round(seconds, 3),
                    "value": finding.value,
                    "note": f"{finding.note}{whose} after {seconds:.1f} s of measuring, which ended the run",
                }
        return None
