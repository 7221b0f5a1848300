"""What happened in each second of a run, in bounded memory.

A row holds the counts since the row before it, and the percentiles and maxima of that interval alone. A second in which
all stood still shows in the maximum of the row in which it ended: too few messages waited for it to move percentiles.
When there are more rows than `LIMIT`, each two neighbours become one, and rows of several processes become one where
they tell of the same second: counts add up, and of two percentiles the worse stays, because percentiles can't be
merged.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.metrics.histogram import Counts, largest_of, percentile_of
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.tally import Tally

LIMIT = 3600
COUNTED = {"published": "sent", "confirmed": "confirmed", "consumed": "received", "rpc": "replies"}
"""The counts of a row, and what they are called in the tally."""
TIMED = ("confirm", "end_to_end", "rpc")
"""The latencies of a row, by their histograms: p50, p99 and the maximum of each, in milliseconds."""

Row = dict[str, Any]
"""What happened in one interval: `seconds` is its length, `t_seconds` its end, counted from when the run began to
connect. It lies in one phase.
"""
STUB = 0.25
"""Seconds below which an interval (the last of a phase may be one) tells nothing of rates."""


class Timeline:
    """Writes the rows of one process into a list."""

    def __init__(self, rows: list[Row], limit: int = LIMIT) -> None:
        self.rows = rows
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
            self.rows[:] = _merge_neighbours(self.rows)


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
        return {
            f"{name}_p50_ms": percentile_of(recent, 0.5),
            f"{name}_p99_ms": percentile_of(recent, 0.99),
            f"{name}_max_ms": largest_of(recent),
        }


def last_full_row(rows: Sequence[Row]) -> Row | None:
    """The newest row that tells of rates."""
    return next((row for row in reversed(rows) if row["seconds"] > STUB), None)


def join_timelines(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Makes one timeline of two processes that went through their phases together.

    The coarser one's intervals stay; each row of the other adds to the one in whose interval its middle lies, and is a
    row of its own where there is none.
    """
    coarse, fine = (rows, others) if len(rows) <= len(others) else (others, rows)
    ends = [row["t_seconds"] for row in coarse]
    joined = [dict(row) for row in coarse]
    for row in fine:
        middle = row["t_seconds"] - row["seconds"] / 2
        around = bisect_left(ends, middle)
        number = _nearest(coarse, range(max(0, around - 1), min(len(ends), around + 2)), row["phase"], middle)
        if number is None:
            joined.append(dict(row))
            continue
        _add(joined[number], row)
        # of several rows in one interval, the last one says how many connections there are
        joined[number]["connections"] = coarse[number]["connections"] + row["connections"]
    return sorted(joined, key=lambda row: row["t_seconds"])


def _nearest(rows: Sequence[Row], numbers: Sequence[int], phase: str, when: float) -> int | None:
    """Which of these rows has that moment of that phase in its interval, or nearly: phases end almost together."""
    distances = (
        (max(0.0, rows[number]["t_seconds"] - rows[number]["seconds"] - when, when - rows[number]["t_seconds"]), number)
        for number in numbers
        if rows[number]["phase"] == phase
    )
    distance, number = min(distances, default=(STUB, 0))
    return number if distance < STUB else None


def _merge_neighbours(rows: Sequence[Row]) -> Iterator[Row]:
    for first, second in zip(rows[::2], rows[1::2], strict=False):
        merged = dict(second)
        merged["seconds"] = first["seconds"] + second["seconds"]
        _add(merged, first)
        yield merged
    if len(rows) % 2:
        yield rows[-1]


def _add(row: Row, other: Row) -> None:
    """Adds another row's counts, and keeps the worse of each two percentiles."""
    for name in COUNTED:
        row[name] += other[name]
    for name in row:
        if name.endswith("_ms"):
            row[name] = max((each[name] for each in (row, other) if each[name] is not None), default=None)
