"""What can be said of paired trials: by which factor one side differs, how sure that is, and what chance alone does.

Robust against the odd trial that something else disturbed: ranks and medians, no means. Pure and repeatable: what is
drawn at random is drawn from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import exp, log, sqrt
from random import Random
from statistics import median

RESAMPLES = 2000
CONFIDENCE = 0.95
_SEED = 20_011


@dataclass(frozen=True, slots=True)
class Ratio:
    """By which factor the second side of pairs differs from the first: an estimate and its 95 % interval."""

    factor: float
    low: float
    high: float


def estimate_ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """The ratio of pairs of values above 0: the Hodges-Lehmann estimate (the median of all averages of two logarithms
    of ratios), with the percentile bootstrap's interval.

    Hodges & Lehmann 1963, "Estimates of Location Based on Rank Tests"; Efron & Tibshirani 1993, chapter 13.
    """
    differences = _logarithms(pairs)
    chance = Random(_SEED)
    drawn = sorted(_centre(chance.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    cut = int((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Ratio(exp(_centre(differences)), exp(drawn[cut]), exp(drawn[-1 - cut]))


def _logarithms(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [log(second / first) for first, second in pairs]


def _centre(values: Sequence[float]) -> float:
    return median((one + other) / 2 for one, other in combinations_with_replacement(values, 2))


def signed_rank(pairs: Sequence[tuple[float, float]]) -> float:
    """The chance of pairs at least as different as these if both sides were the same: Wilcoxon's signed-rank test,
    exact and two-sided, equal differences sharing their ranks. 1 if there is no difference at all.

    Wilcoxon 1945, "Individual Comparisons by Ranking Methods".
    """
    differences = [difference for difference in _logarithms(pairs) if difference]
    ranks = _doubled_ranks([abs(difference) for difference in differences])
    positive = sum(rank for rank, difference in zip(ranks, differences, strict=True) if difference > 0)
    ways = {0: 1}  # of choosing signs, by the sum of the positive ranks
    for rank in ranks:
        grown = dict(ways)
        for total, number in ways.items():
            grown[total + rank] = grown.get(total + rank, 0) + number
        ways = grown
    extreme = min(positive, sum(ranks) - positive)
    tail = sum(number for total, number in ways.items() if total <= extreme)
    return float(min(1.0, 2 * tail / 2 ** len(ranks)))


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice each value's rank, as those that share one have a half in it."""
    order = sorted(values)
    first = {value: order.index(value) for value in set(order)}
    count = {value: order.count(value) for value in first}
    return [2 * first[value] + count[value] + 1 for value in values]


def least_pairs(comparisons: int, level: float = 1 - CONFIDENCE) -> int:
    """How many pairs are needed for any difference at all to be found among so many comparisons."""
    pairs = 1
    while 2 / 2**pairs > level / comparisons:
        pairs += 1
    return pairs


def correct(chances: Sequence[float]) -> list[float]:
    """The chances of several comparisons, raised so that all of them together find nothing in nineteen of twenty cases
    where there is nothing.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    corrected, least = [1.0] * len(chances), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, chances[index] * (len(chances) - place)))
        corrected[index] = least
    return corrected


def noise(values: Sequence[float], pairs: int) -> float | None:
    """The factor, above 1, by which two sides of so many trials differ where nothing differs but chance, in nineteen of
    twenty cases: as random halves of these values do, brought to that many trials. None of fewer than four values.
    """
    if len(values) < 4:
        return None
    chance, logarithms, half = Random(_SEED), [log(value) for value in values], len(values) // 2
    found = []
    for _ in range(RESAMPLES):
        chance.shuffle(logarithms)
        found.append(abs(median(logarithms[:half]) - median(logarithms[half : 2 * half])))
    found.sort()
    return exp(found[int(CONFIDENCE * RESAMPLES)] * sqrt(half / pairs))
