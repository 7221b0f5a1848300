"""End-to-end latencies of messages that came from another host: they depend on two clocks, and are kept apart.

What they are worth is known to the bound that the clocks' readings have. A message that seems to have arrived before it
left counts as 0, and such are counted. Those of the same host share its monotonic clock and are not touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic_ns
from typing import Any

from loadtest.execution.body import NUMBER, Stamp
from loadtest.execution.state import Read, Run
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


class CrossingReader:
    """Reads stamps, keeps the intended time of a message from another host to itself, and times it here."""

    def __init__(self, run: Run, crossing: Crossing, leads: Mapping[int, int], read: Read) -> None:
        """`leads` has, for each producer on another host, what turns a moment of its clock into one of ours."""
        self._run = run
        self._crossing = crossing
        self._leads = leads
        self._read = read

    def __call__(self, body: bytes) -> Stamp | None:
        """The stamp, without the intended time where that is of another clock."""
        stamp = self._read(body)
        if stamp is None:
            return None
        tag, account, number, intended = stamp  # (further copies have accounts of their own, as many for each)
        lead = self._leads.get(account % self._run.settings.producers)
        if lead is None:
            return stamp
        if intended and number & NUMBER not in self._run.record.ledger.accounts[account].arrived:
            self._note(intended + lead)
        return tag, account, number, 0

    def _note(self, intended: int) -> None:
        now, measurement = monotonic_ns(), self._run.measurement
        if measurement.latencies(intended, now) is measurement.inside:
            self._crossing.clamped += now < intended
            self._crossing.latencies.record(now - intended)
