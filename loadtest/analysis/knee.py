"""Where a curve of latency over rate turns up: its knee, found in two ways, each of which says how.

Pure. *Maximum curvature*: rate and latency are scaled to 0 … 1, and the knee is the rate at which the curve lies
deepest below the straight line from its first to its last point (the "kneedle" of Satopää and others, 2011). *Twice
the base*: the highest rate whose latency is at most twice that of the lowest one; one slow step before it is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CURVED = 0.2
"""How deep the curve must lie below the line, as a share of the whole, to have a knee at all."""
FACTOR = 2.0

Point = tuple[float, float]
"""A rate, and the latency at it."""


@dataclass(frozen=True, slots=True)
class Knee:
    """The rate up to which latency is as it was, and how that was told."""

    rate: float
    by: str


def find_knees(points: Sequence[Point]) -> list[Knee]:
    """The knees by each way that finds one. Points are sorted by their rates; three at least, or there is none."""
    ordered = sorted(points)
    if len(ordered) < 3:
        return []
    found = (_by_curvature(ordered), _by_factor(ordered))
    return [knee for knee in found if knee is not None]


def _by_curvature(points: Sequence[Point]) -> Knee | None:
    (first, lowest), (last, highest) = points[0], points[-1]
    if last <= first or highest <= lowest:
        return None
    depths = [
        ((rate - first) / (last - first) - (latency - lowest) / (highest - lowest), rate) for rate, latency in points
    ]
    depth, rate = max(depths)
    return Knee(rate, "maximum curvature") if depth >= CURVED and highest > FACTOR * lowest else None


def _by_factor(points: Sequence[Point]) -> Knee | None:
    base = points[0][1]
    calm = [number for number, (_, latency) in enumerate(points) if latency <= FACTOR * base]
    if calm[-1] == len(points) - 1:
        return None
    return Knee(points[calm[-1]][0], f"the highest rate whose latency is at most {FACTOR:g} × that of the lowest")
