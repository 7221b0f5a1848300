"""Is the generator itself in the way? How late its event loop runs, and how long its garbage collector stops it.

The loop's probe is due every 10 ms on an absolute schedule, and each tick that was missed counts with how late it came:
a loop that stands still for a second is a hundred late ticks, not one. That is what every client of the process
suffers too. Both count only what falls into the measured window.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic_ns
from typing import Any

import anyio

from loadtest.metrics.histogram import Histogram

_INTERVAL = 10_000_000  # nanoseconds

IsMeasured = Callable[[int], bool]
"""Whether that moment lies in the measured window."""


class LoopProbe:
    """How late the event loop runs."""

    def __init__(self, is_measured: IsMeasured, lateness: Histogram) -> None:
        self.lateness = lateness
        self._is_measured = is_measured

    async def run(self) -> None:
        """Probes until cancelled."""
        due = monotonic_ns() + _INTERVAL
        while True:
            await anyio.sleep(max(0, due - monotonic_ns()) / 1e9)
            now = monotonic_ns()
            while due <= now:
                if self._is_measured(due):
                    self.lateness.record(now - due)
                due += _INTERVAL


class CollectorPauses:
    """How long the garbage collector paused the process, in nanoseconds."""

    def __init__(self, is_measured: IsMeasured) -> None:
        self.longest = 0
        self.total = 0
        self._is_measured = is_measured
        self._started = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watches inside the block."""
        gc.callbacks.append(self._note)
        try:
            yield
        finally:
            gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._started = monotonic_ns()
        elif self._started and self._is_measured(self._started):
            pause = monotonic_ns() - self._started
            self.total += pause
            self.longest = max(self.longest, pause)
