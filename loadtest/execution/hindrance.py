"""What keeps consumers from working as fast as they could: a fault that pauses them, or slows them down."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from loadtest.scenarios.faults import Fault


class Hindrance:
    """What keeps consumers from working as fast as they could; they ask it after each message."""

    __slots__ = ("_each", "_pause", "_until", "_usual")

    def __init__(self, usual: Callable[[], float] | None) -> None:
        """`usual` is what a message takes without it."""
        self._usual = usual
        self._until = 0.0
        self._each = 0.0
        self._pause = False

    def begin(self, fault: Fault) -> None:
        """From now on, for as long as the fault lasts."""
        self._until = monotonic() + fault.seconds
        self._each = fault.each
        self._pause = fault.action == "pause-consumers"

    def __call__(self) -> float:
        """Seconds that the next message takes."""
        seconds = 0.0 if self._usual is None else self._usual()
        left = self._until - monotonic()
        if left > 0:
            seconds += left if self._pause else self._each
        return seconds
