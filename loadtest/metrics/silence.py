"""The longest time in which nothing came: no confirm, or no delivery.

A stall that a percentile hides stands here. Within the measured window it counts from the window's beginning and to its
end, so that a broker that says nothing at all has been silent all the time; outside of it between one and the next.
"""

from __future__ import annotations

from typing import Any, Self


class Silence:
    """Hears of each moment at which something came, in nanoseconds of the monotonic clock, in their order."""

    __slots__ = ("_start", "last", "least", "longest", "measured")

    def __init__(self) -> None:
        self.longest = 0
        """In the whole run."""
        self.measured: int | None = None
        """In the measured window; None if there was none."""
        self.last = 0
        self.least = 0
        """What a silence must exceed to be of interest."""
        self._start: int | None = None

    def note(self, now: int) -> None:
        """Something came. Who hears of it for each message does this by himself: see `execution.producer`."""
        silent = now - self.last
        if silent > self.least:
            self.found(now)
        self.last = now

    def found(self, now: int) -> None:
        """A silence ends now that may be longer than all before it. (Before the first time there was none.)"""
        if self.last:
            self.longest = max(self.longest, now - self.last)
        if self._start is not None and self.measured is not None:
            self.measured = max(self.measured, now - max(self.last, self._start))
            self.least = self.measured
        elif self.last:
            self.least = self.longest

    def open(self, now: int) -> None:
        """The measured window begins."""
        self._start, self.measured, self.least = now, 0, 0

    def close(self, now: int) -> None:
        """The measured window ends."""
        if self._start is not None:
            self.found(now)
            self._start, self.least = None, self.longest

    def merge(self, other: Silence) -> None:
        """The longest of both processes: how long both were silent at once, nobody knows."""
        self.longest = max(self.longest, other.longest)
        known = [each for each in (self.measured, other.measured) if each is not None]
        self.measured = max(known, default=None)

    def to_plain(self) -> dict[str, int | None]:
        """The longest silences in nanoseconds."""
        return {"longest": self.longest, "measured": self.measured}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """What `to_plain` was asked of."""
        silence = cls()
        silence.longest, silence.measured = plain["longest"], plain["measured"]
        return silence
