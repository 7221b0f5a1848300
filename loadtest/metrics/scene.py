"""What a scenario counts and times beside the traffic that every run has: by name, so that each scenario has its own.

It adds up as a record does: counts and processor time by sum, histograms by their counts, times by the longest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Self

from loadtest.metrics.histogram import Histogram


class Scene:
    """Names are `scenario.what`, such as `churn.cycles`."""

    __slots__ = ("counts", "faults", "times", "timings", "used")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.timings: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.times: dict[str, float] = {}
        """How long something took, in seconds."""
        self.used: dict[str, float] = {}
        """Processor time, in seconds."""
        self.faults: list[dict[str, Any]] = []
        """What was done to the broker or the clients, and what came of it."""

    def merge(self, other: Scene) -> None:
        """Adds what another process has. Each process tells of the faults that it made."""
        self.counts.update(other.counts)
        for name, histogram in other.timings.items():
            self.timings[name].merge(histogram)
        for name, seconds in other.times.items():
            self.times[name] = max(seconds, self.times.get(name, 0.0))
        for name, seconds in other.used.items():
            self.used[name] = seconds + self.used.get(name, 0.0)
        self.faults = [*self.faults, *other.faults]

    def to_plain(self) -> dict[str, Any]:
        """Everything as dictionaries, lists and numbers."""
        return {
            "counts": dict(self.counts),
            "timings": {name: histogram.to_plain() for name, histogram in self.timings.items()},
            "times": dict(self.times),
            "used": dict(self.used),
            "faults": [dict(fault) for fault in self.faults],
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The scene that `to_plain` was asked of."""
        scene = cls()
        scene.counts.update(plain["counts"])
        scene.timings.update({name: Histogram.from_plain(each) for name, each in plain["timings"].items()})
        scene.times.update(plain["times"])
        scene.used.update(plain["used"])
        scene.faults = [dict(fault) for fault in plain["faults"]]
        return scene
