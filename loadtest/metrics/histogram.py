"""Latencies of one kind, counted in buckets of three significant digits from 1 µs to one hour.

It owns the fast recorder, the percentiles and the export in the HDR histogram's own format (V2, compressed, base64), so
that runs can be merged exactly: histograms add up, percentiles don't. A sample beyond the range is clamped, never
dropped. The buckets are those of HdrHistogram(1, 3_600_000_000, 3), and a test holds both equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypedDict

from loadtest.metrics.encoding import encode_buckets

LONGEST = 3_600_000_000
"""The longest latency that is told apart, in microseconds."""

_HALF_BITS = 10  # 2 × 1,024 sub-buckets hold three significant digits
_BITS = _HALF_BITS + 1
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "p9999": 0.9999}
"""The percentiles that are told, by their names in the result."""
_SAMPLES_BEYOND = 10
"""A percentile is told only if about this many samples lie above it: p99 needs 1,000 samples, p99.99 needs 100,000."""

Counts = Mapping[int, int]
"""Samples by the index of their bucket."""


class Latency(TypedDict):
    """A distribution of latencies as the result file has it: milliseconds, None where samples are too few."""

    count: int
    min: float | None
    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p999: float | None
    p9999: float | None
    max: float | None


class Histogram:
    """A recorder for one kind of latency: for a whole run, not for each client."""

    __slots__ = ("counts", "largest", "smallest")

    def __init__(self) -> None:
        self.counts: defaultdict[int, int] = defaultdict(int)
        self.smallest = LONGEST
        self.largest = 0

    def record(self, nanoseconds: int) -> None:
        """Counts one sample; less than nothing counts as nothing."""
        # hot: once or twice for each message. 0.17 µs, against 1.1 for hdrh's record_value, which drops what is out of
        # range besides. HDR's bucket index without its divisions: the top 11 bits of the value, and how many follow.
        value = nanoseconds // 1000
        if not 0 <= value <= LONGEST:
            value = 0 if value < 0 else LONGEST
        shift = (value >> _BITS).bit_length()
        self.counts[(shift << _HALF_BITS) + (value >> shift)] += 1
        if value > self.largest:
            self.largest = value
        if value < self.smallest:
            self.smallest = value

    def record_many(self, nanoseconds: int, number: int) -> None:
        """Counts so many samples of one length."""
        one = Histogram()
        one.record(nanoseconds)
        (index,) = one.counts
        one.counts[index] = number
        self.merge(one)

    def merge(self, other: Histogram) -> None:
        """Adds another's samples."""
        for index, number in other.counts.items():
            self.counts[index] += number
        self.largest = max(self.largest, other.largest)
        self.smallest = min(self.smallest, other.smallest)

    def to_plain(self) -> dict[str, Any]:
        """The samples as numbers and lists: each bucket's index, and after it how many are in it."""
        pairs = [number for index in sorted(self.counts) for number in (index, self.counts[index])]
        return {"counts": pairs, "smallest": self.smallest, "largest": self.largest}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The histogram that `to_plain` was asked of."""
        histogram = cls()
        pairs = plain["counts"]
        histogram.counts.update(zip(pairs[::2], pairs[1::2], strict=True))
        histogram.smallest, histogram.largest = plain["smallest"], plain["largest"]
        return histogram

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(self.counts.values())

    def percentile(self, fraction: float) -> float | None:
        """The latency, in milliseconds, that this fraction of the samples doesn't exceed; None with too few samples.

        It is what a reader of the exported histogram finds, but never more than the largest sample.
        """
        (found,) = self.percentiles((fraction,))
        return found

    def percentiles(self, fractions: Sequence[float]) -> list[float | None]:
        """Several of them, in ascending order, at little more than the price of one."""
        largest = self.largest / 1000
        return [None if found is None else min(found, largest) for found in percentiles_of(self.counts, fractions)]

    def latency(self) -> Latency:
        """The distribution as the result file has it."""
        count = self.count
        total = sum(_middle_of(index) * number for index, number in self.counts.items())
        told = dict(zip(PERCENTILES, self.percentiles(list(PERCENTILES.values())), strict=True))
        return {
            "count": count,
            "min": self.smallest / 1000 if count else None,
            "mean": round(total / count / 1000, 4) if count else None,
            "p50": told["p50"],
            "p90": told["p90"],
            "p95": told["p95"],
            "p99": told["p99"],
            "p999": told["p999"],
            "p9999": told["p9999"],
            "max": self.largest / 1000 if count else None,
        }

    def encode(self) -> str:
        """The whole histogram as HdrHistogram V2: compressed, base64, in microseconds."""
        return encode_counts(self.counts)


def percentile_of(counts: Counts, fraction: float) -> float | None:
    """The percentile, in milliseconds, of a histogram's counts, or of the difference between two readings of them."""
    (found,) = percentiles_of(counts, (fraction,))
    return found


def percentiles_of(counts: Counts, fractions: Sequence[float]) -> list[float | None]:
    """These percentiles, fractions in ascending order; None of those for which there are too few samples.

    Rank and value are those of HdrHistogram: the rank is rounded to the nearest, the value is its bucket's highest.
    """
    total = sum(counts.values())
    found: list[float | None] = []
    indices, reached, index = iter(sorted(counts)), 0, 0
    for fraction in fractions:
        if total * (1 - fraction) < _SAMPLES_BEYOND - 1e-6:
            found.append(None)
            continue
        wanted = max(1, int(fraction * 100 * total / 100 + 0.5))
        while reached < wanted:
            index = next(indices)
            reached += counts[index]
        found.append(_highest_of(index) / 1000)
    return found


def encode_counts(counts: Counts) -> str:
    """A histogram's counts, or the difference between two readings of them, as HdrHistogram V2."""
    return encode_buckets(counts, digits=3, lowest=1, highest=LONGEST)


def largest_of(counts: Counts) -> float | None:
    """The largest, in milliseconds, of a histogram's counts, or of the difference between two readings of them."""
    found = max((index for index, number in counts.items() if number), default=None)
    return None if found is None else _highest_of(found) / 1000


def _lowest_of(index: int) -> tuple[int, int]:
    """The lowest value of a bucket, in microseconds, and how many it holds: one up to 2,047 µs, 2, 4, 8 … beyond."""
    if index < 1 << _BITS:
        return index, 1
    shift = (index >> _HALF_BITS) - 1
    return (index - (shift << _HALF_BITS)) << shift, 1 << shift


def _middle_of(index: int) -> float:
    lowest, width = _lowest_of(index)
    return lowest + (width - 1) / 2


def _highest_of(index: int) -> int:
    lowest, width = _lowest_of(index)
    return lowest + width - 1
