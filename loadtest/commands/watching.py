"""Who looks at a run while it goes on: the progress that people see, and whoever else was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic_ns

from loadtest.commands.aborting import AbortWatch
from loadtest.execution.sampler import Display
from loadtest.execution.state import Run
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.timeline import Row
from loadtest.output.exporter import serve_metrics
from loadtest.output.interval_log import IntervalLog
from loadtest.output.progress import Progress


class Exported:
    """A run as `loadtest.output.exporter` reads it. Of one that others make, latencies are known at its end only."""

    def __init__(self, run: Run, *, is_made_here: bool = True) -> None:
        self._run = run
        self._is_made_here = is_made_here
        self.tally = run.record.tally
        self.errors = run.record.errors.counts
        self.labels = {
            "run_id": run.record.run_id,
            "workload": run.settings.workload,
            **{f"label_{name}": value for name, value in run.settings.labels.items()},
        }

    @property
    def phase(self) -> str:
        """The phase that the run is in."""
        phases = self._run.record.phases
        return phases[-1].name if phases else "start"

    @property
    def latencies(self) -> tuple[Latencies, ...]:
        """Those of the measured window, and those outside it; none if nothing is known of them."""
        return (self._run.measurement.inside, self._run.measurement.outside) if self._is_made_here else ()


@contextmanager
def exported(runs: Sequence[Run], progress: Progress, *, are_made_here: bool = True) -> Iterator[None]:
    """The runs are served to Prometheus while the block lasts, if that was asked for."""
    sources = [Exported(run, is_made_here=are_made_here) for run in runs]
    with serve_metrics(runs[0].settings.metrics, sources) as url:
        if url is not None:
            progress.note(f"metrics   {url}")
        yield


class Watchers:
    """Several displays as one."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Each one looks, in their order."""
        for display in self._displays:
            display.update(run, row, now)


@contextmanager
def watched(run: Run, progress: Display, everybody: Sequence[Run] = ()) -> Iterator[Display]:
    """The progress, and what the run's settings ask for besides; to the end of the block, when logs are closed. Of
    several workloads each is watched, and what ends one of them ends everybody.
    """
    settings = run.settings
    displays: list[Display] = [progress]
    if settings.abort_on:
        displays.append(AbortWatch(settings.abort_on, settings.abort_after, everybody))
    if settings.output is None:
        yield Watchers(displays)
        return
    log = IntervalLog(settings.output / f"{run.record.run_id}.hlog")
    try:
        yield Watchers([*displays, log])
    finally:
        log.close(run, run.seconds_at(monotonic_ns()))
