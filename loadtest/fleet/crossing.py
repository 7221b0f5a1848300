"""End-to-end latencies of messages that came from another host: they depend on two clocks, and are kept apart.

What they are worth is known to the bound that the clocks' readings have. A message that seems to have arrived before it
left counts as 0, and such are counted. Those of the same host share its monotonic clock and are not touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns
from typing import Any

from loadtest.execution.state import Run
from loadtest.metrics.histogram import Histogram


class Crossing:
    """What crossed hosts on its way to this process."""

    def __init__(self) -> None:
        self.latencies = Histogram()
        self.clamped = 0
        """How many seemed to take less than no time."""

    def to_plain(self) -> dict[str, Any]:
        """The samples as numbers and lists."""
        return {"latencies": self.latencies.to_plain(), "clamped": self.clamped}

    def merge_plain(self, plain: Mapping[str, Any]) -> None:
        """Adds another process's samples."""
        self.latencies.merge(Histogram.from_plain(plain["latencies"]))
        self.clamped += plain["clamped"]


class CrossingBodies:
    """A run's body maker that keeps the intended time of a message from another host to itself, and times it here."""

    def __init__(self, run: Run, crossing: Crossing, leads: Mapping[int, int]) -> None:
        """`leads` has, for each producer on another host, what turns a moment of its clock into one of ours."""
        self._inner = run.bodies
        self._run = run
        self._crossing = crossing
        self._leads = leads
        self.owns = run.bodies.owns

    def __call__(self, *arguments: Any) -> Any:
        """As the run's own maker."""
        return self._inner(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def read(self, body: bytes) -> Any:
        """The stamp, without the intended time where that is of another clock."""
        stamp = self._inner.read(body)
        if stamp is None or (lead := self._leads.get(stamp[1])) is None:
            return stamp
        tag, producer, number, intended = stamp
        if intended and number not in self._run.record.ledger.accounts[producer].arrived:
            self._note(intended + lead)
        return tag, producer, number, 0

    def _note(self, intended: int) -> None:
        now, measurement = monotonic_ns(), self._run.measurement
        if measurement.latencies(intended, now) is measurement.inside:
            self._crossing.clamped += now < intended
            self._crossing.latencies.record(now - intended)
