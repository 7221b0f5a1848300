"""Who looks at a run while it goes on: the progress that people see, and whoever else was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic_ns

from loadtest.commands.aborting import AbortWatch
from loadtest.execution.sampler import Display
from loadtest.execution.state import Run
from loadtest.metrics.timeline import Row
from loadtest.output.interval_log import IntervalLog


class Watchers:
    """Several displays as one."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = displays

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Each one looks, in their order."""
        for display in self._displays:
            display.update(run, row, now)


@contextmanager
def watched(run: Run, progress: Display) -> Iterator[Display]:
    """The progress, and what the run's settings ask for besides; to the end of the block, when logs are closed."""
    settings = run.settings
    displays: list[Display] = [progress]
    if settings.abort_on:
        displays.append(AbortWatch(settings.abort_on, settings.abort_after))
    if settings.output is None:
        yield Watchers(displays)
        return
    log = IntervalLog(settings.output / f"{run.record.run_id}.hlog")
    try:
        yield Watchers([*displays, log])
    finally:
        log.close(run, run.seconds_at(monotonic_ns()))
