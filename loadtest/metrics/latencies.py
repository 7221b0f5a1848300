"""The kinds of latency that a run tells, and which samples belong to what is measured.

A sample belongs to the measurement if any of its life, from when it was intended to when it ended, lies in the measured
window: a stall at either edge is not hidden, nor is a backlog that an impossible rate has built up. Nothing here reads
a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from loadtest.metrics.histogram import Histogram
from loadtest.metrics.silence import Silence

NEVER = 2**63
"""Later than any moment."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """One histogram for each kind of latency.

    A publish has `confirm` from the intended time to the confirm, `service` from the actual one, `lag` between the two;
    a call has `rpc`, `rpc_service` and `rpc_lag` in the same way, and a delivery `end_to_end` and `end_to_end_service`,
    whose lag is that of its publish. `wake` is what of all this is the program's own: how late it woke clients that
    had nothing in their way. Who got no answer counts with the time that it was waited for: calls without a reply,
    publishes of unknown outcome, and what a schedule asked for and was never sent, which has a lag and no service time.
    """

    connect: Histogram = field(default_factory=Histogram)
    confirm: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    wake: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)
    rpc: Histogram = field(default_factory=Histogram)
    rpc_service: Histogram = field(default_factory=Histogram)
    end_to_end_service: Histogram = field(default_factory=Histogram)
    rpc_lag: Histogram = field(default_factory=Histogram)

    def merge(self, other: Latencies) -> None:
        """Adds another's samples."""
        for kind in fields(self):
            getattr(self, kind.name).merge(getattr(other, kind.name))

    def to_plain(self) -> dict[str, Any]:
        """All histograms as numbers and lists, by their kind."""
        return {kind.name: getattr(self, kind.name).to_plain() for kind in fields(self)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The latencies that `to_plain` was asked of."""
        return cls(**{name: Histogram.from_plain(each) for name, each in plain.items()})


class Measurement:
    """The measured window of a run, in nanoseconds of the monotonic clock, and the latencies inside and outside it.

    Until `open` is called nothing belongs to it.
    """

    __slots__ = ("_silences", "end", "inside", "outside", "start")

    def __init__(self, inside: Latencies, silences: Sequence[Silence] = ()) -> None:
        self.inside = inside
        self._silences = silences
        self.outside = Latencies()
        """What isn't measured, but happened: the timeline shows it."""
        self.start = self.end = NEVER

    def open(self, start: int, end: int) -> None:
        """Begins, and says when it is meant to end."""
        self.start, self.end = start, end
        for silence in self._silences:
            silence.open(start)

    def close(self, now: int) -> None:
        """Ends, now if it was meant to end later."""
        self.end = min(self.end, now)
        for silence in self._silences:
            silence.close(self.end)

    def covers(self, when: int) -> bool:
        """Whether that moment is measured."""
        return self.start <= when < self.end

    def latencies(self, intended: int, ended: int) -> Latencies:
        """Where a sample belongs that was intended and ended then."""
        return self.inside if intended < self.end and ended >= self.start else self.outside
