"""Medians with their uncertainty. Ratios are taken as logarithms, so that twice and half weigh alike."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

RESAMPLES = 4_000
SEED = 1
LEAST = 1e-9
"""Stands for nothing at all, which has no logarithm."""


@dataclass(frozen=True)
class Estimate:
    """A median, its bootstrap 95 % interval (never wider than the sample) and the sample's size."""

    median: float
    low: float
    high: float
    count: int


def estimate(values: Sequence[float]) -> Estimate:
    """By the percentile bootstrap of the median logarithm."""
    logarithms = [math.log(max(value, LEAST)) for value in values]
    chance = random.Random(SEED)
    medians = sorted(median(chance.choices(logarithms, k=len(logarithms))) for _ in range(RESAMPLES))
    return Estimate(
        math.exp(median(logarithms)),
        math.exp(medians[round(0.025 * RESAMPLES)]),
        math.exp(medians[round(0.975 * RESAMPLES) - 1]),
        len(values),
    )


def unsteadiness(values: Sequence[float]) -> float | None:
    """By which factor a value typically differs from the one a round before: what noise alone does to a ratio."""
    steps = [abs(math.log(later / earlier)) for earlier, later in pairwise(values)]
    return math.exp(median(steps)) if steps else None
