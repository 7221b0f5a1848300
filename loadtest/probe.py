"""Is the generator itself in the way? How late its event loop runs, and how long its garbage collector stops it.

The loop's probe sleeps for a fixed time again and again and notes how much longer it took: what every client of the
process suffers too. Both count only while they are told that the run is measuring.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic_ns
from typing import Any

import anyio

from loadtest.histogram import Histogram

_INTERVAL = 0.01


class LoopProbe:
    """Lateness of the event loop."""

    def __init__(self, is_measuring: Callable[[], bool]) -> None:
        self.lateness = Histogram()
        self._is_measuring = is_measuring

    async def run(self) -> None:
        """Probes until cancelled."""
        while True:
            started = monotonic_ns()
            await anyio.sleep(_INTERVAL)
            if self._is_measuring():
                self.lateness.record(monotonic_ns() - started - int(_INTERVAL * 1e9))


class CollectorPauses:
    """Pauses of the garbage collector, in nanoseconds."""

    def __init__(self, is_measuring: Callable[[], bool]) -> None:
        self.longest = 0
        self.total = 0
        self._is_measuring = is_measuring
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
        elif self._started and self._is_measuring():
            pause = monotonic_ns() - self._started
            self.total += pause
            self.longest = max(self.longest, pause)
