"""Was it one steady state that was measured? From the rates of the measured intervals, one after the other.

What differs is told by its cause: intervals in which hardly anything was done are a stall, lost connections are told
as such, and only a rise that neither explains is a warm-up that was too short. Noise is none of these: of steady runs
of ten intervals, MSER alone calls 9.4 % warming up, and with the test of significance below it is 0.1 % (1.6 % where
each interval takes after the one before, with a correlation of 0.5). A test holds these figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import fmean, median, pvariance

ROWS_NEEDED = 10
STALLED = 0.1
"""Share of the median rate below which an interval counts as stalled."""
ENOUGH_TO_MISS = 20
"""Messages per interval below which an empty one says nothing."""
DRIFT = 0.25
RISE = 0.05
STANDARD_ERRORS = 4.0
"""By how many standard errors the halves of the measured time must differ, or it is noise."""


def find_unsteadiness(rates: Sequence[float], connections: Sequence[int] = ()) -> Iterator[str]:
    """What was not steady, in sentences; nothing if all was, or if there are too few intervals to tell."""
    usual = median(rates) if rates else 0.0
    stalled = [number for number, rate in enumerate(rates) if rate < STALLED * usual and usual >= ENOUGH_TO_MISS]
    if stalled:
        until = "to the end" if stalled[-1] == len(rates) - 1 else f"to the {stalled[-1] + 1}."
        yield (
            f"unsteady: a stall: in {len(stalled)} of {len(rates)} intervals hardly anything was done, from the "
            f"{stalled[0] + 1}. {until}"
        )
    lost = connections[0] - min(connections) if connections else 0
    if lost > 0:
        yield f"unsteady: connections were lost while it was measured: {connections[0]:,}, then {min(connections):,}"
    steady = [rate for number, rate in enumerate(rates) if number not in set(stalled)]
    if len(steady) >= ROWS_NEEDED and lost <= 0:
        yield from _find_trend(steady)


def _find_trend(rates: Sequence[float]) -> Iterator[str]:
    middle = len(rates) // 2
    first, second = rates[:middle], rates[middle:]
    if not _differ(first, second):
        return
    cut, limit = truncation_point(rates)
    before, after = median(first), median(second)
    drift = (after - before) / max(before, after, 1e-9)
    if cut >= limit and fmean(second) - fmean(first) > RISE * fmean(second):
        yield f"unsteady: by MSER the first {cut} or more of {len(rates)} intervals measured are still warm-up"
    if abs(drift) > DRIFT:
        yield f"unsteady: the second half ran at {after:,.0f} messages/s, the first at {before:,.0f} ({drift:+.0%})"


def _differ(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether their means differ by more than noise would have them (Welch's statistic)."""
    error = sqrt(sum(pvariance(half) / (len(half) - 1) for half in (first, second)))
    return abs(fmean(second) - fmean(first)) > STANDARD_ERRORS * error


def truncation_point(rates: Sequence[float]) -> tuple[int, int]:
    """How many rows MSER would cut off as warm-up, and how many it looked at: half of them.

    Those rows are cut off without which the mean of the rest is told most precisely. If it would cut half of them, or
    more, there is no steady state. Rows are averaged by fives (MSER-5) where there are at least fifty.
    """
    batch = 5 if len(rates) >= 50 else 1
    means = [fmean(rates[start : start + batch]) for start in range(0, len(rates) - batch + 1, batch)]

    def imprecision(cut: int) -> float:
        rest = means[cut:]
        mean = fmean(rest)
        return sum((value - mean) ** 2 for value in rest) / len(rest) ** 2

    limit = len(means) // 2
    return min(range(limit + 1), key=imprecision) * batch, limit * batch
