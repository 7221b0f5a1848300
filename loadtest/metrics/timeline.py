"""What happened in each second of a run, in bounded memory.

A row holds the counts since the row before it, and the percentiles of that interval alone. When there are more rows
than `LIMIT`, each two neighbours become one: counts add up, and of two percentiles the worse stays, because
percentiles can't be merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.execution.state import Latencies
from loadtest.metrics.histogram import Counts, percentile_of
from loadtest.metrics.tally import Tally

LIMIT = 3600
COUNTED = {"published": "sent", "confirmed": "confirmed", "consumed": "received", "rpc": "replies"}
"""The counts of a row, and what they are called in the tally."""
TIMED = ("confirm", "end_to_end", "rpc")
"""The latencies of a row, by their histograms: p50 and p99 of each, in milliseconds."""

Row = dict[str, Any]
"""One interval: `seconds` is its length, `t_seconds` its end, counted from when the run began to connect. It lies in
one phase.
"""
STUB = 0.25
"""Seconds below which an interval (the last of a phase may be one) tells nothing of rates."""


class Timeline:
    """The rows of one run."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.rows: list[Row] = []
        self._limit = limit
        self._ended = 0.0
        self._before = dict.fromkeys(COUNTED, 0)
        self._readings = {name: _Reading() for name in TIMED}

    def add(self, t_seconds: float, phase: str, tally: Tally, latencies: Sequence[Latencies]) -> None:
        """Adds the interval that ends now. What is drained may belong to the measurement: all latencies count."""
        row: Row = {
            "t_seconds": round(t_seconds, 3),
            "seconds": round(t_seconds - self._ended, 3),
            "phase": phase,
            "connections": tally.connected - tally.dropped,
        }
        self._ended = t_seconds
        for name, source in COUNTED.items():
            now = getattr(tally, source)
            row[name] = now - self._before[name]
            self._before[name] = now
        for name, reading in self._readings.items():
            row |= reading.take(name, [getattr(one, name).counts for one in latencies])
        self.rows.append(row)
        if len(self.rows) > self._limit:
            self.rows = list(_merge_neighbours(self.rows))


class _Reading:
    """Takes the difference between one look at the histograms of a latency and the next."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: Counter[int] = Counter()

    def take(self, name: str, histograms: Sequence[Counts]) -> dict[str, float | None]:
        now: Counter[int] = Counter()
        for counts in histograms:
            now.update(counts)
        recent = {index: number - self._before[index] for index, number in now.items()}
        self._before = now
        return {f"{name}_p50_ms": percentile_of(recent, 0.5), f"{name}_p99_ms": percentile_of(recent, 0.99)}


def _merge_neighbours(rows: list[Row]) -> Iterator[Row]:
    for first, second in zip(rows[::2], rows[1::2], strict=False):
        merged = dict(second)
        for name in ("seconds", *COUNTED):
            merged[name] = first[name] + second[name]
        for name in merged:
            if name.endswith("_ms"):
                merged[name] = max((row[name] for row in (first, second) if row[name] is not None), default=None)
        yield merged
    if len(rows) % 2:
        yield rows[-1]
