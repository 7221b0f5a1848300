"""What is to happen when: moments and callbacks, for whoever knows what time it is. No clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

__all__ = ["Timers"]


class Timers:
    """Callbacks by the moment at which they are due. A callback gets the time, and may find nothing left to do."""

    __slots__ = ("_heap", "_order", "on_earlier", "wall_offset")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self.on_earlier: Callable[[], None] | None = None
        """Called when the next moment has become an earlier one."""
        self.wall_offset: float = 0.0
        """What is to be added to a moment for the time of day."""

    def schedule(self, when: float, callback: Callable[[float], None]) -> None:
        """Have `callback` called at `when` or after."""
        before = self.next_deadline
        heappush(self._heap, (when, next(self._order), callback))
        if self.on_earlier is not None and (before is None or when < before):
            self.on_earlier()

    @property
    def next_deadline(self) -> float | None:
        """When `run` has something to do; None for never."""
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Call what is due."""
        while self._heap and self._heap[0][0] <= now:
            _, _, callback = heappop(self._heap)
            callback(now)
