"""What keeps consumers from working as fast as they could: a fault that pauses them, or slows them down."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from loadtest.scenarios.faults import Fault


class Hindrance:
    """What keeps consumers from working as fast as they could; they ask it after each message."""

    __slots__ = ("_each", "_pause", "_until")

    def __init__(self) -> None:
        self._until = 0.0
        self._each = 0.0
        self._pause = False

    def beside(self, work: Callable[[], float] | None) -> Callable[[], float]:
        """What a message takes with it, where it takes that much without."""
        return self if work is None else lambda: work() + self()

    def begin(self, fault: Fault) -> None:
        """From now on, for as long as the fault lasts."""
        self._until = monotonic() + fault.seconds
        self._each = fault.each
        self._pause = fault.action == "pause-consumers"

    def __call__(self) -> float:
        """Seconds that the next message takes longer."""
        left = self._until - monotonic()
        return 0.0 if left <= 0 else left if self._pause else self._each
