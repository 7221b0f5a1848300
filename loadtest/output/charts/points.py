"""What lines are drawn of: points, few enough to draw, with every peak among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from loadtest.output.naming import said

Point = tuple[float, float | None]
"""Where, and how much; None is a gap in the line."""
Result = Mapping[str, Any]
MOST = 300
"""Points of one line: about one for every three pixels of a wide page."""


def thin(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most about so many of the points: of each stretch the lowest and the highest, in their order.

    So no peak and no trough is lost, however long the line is. The first and the last point stay, and a stretch that
    has gaps alone is a gap.
    """
    if len(points) <= most:
        return list(points)
    inner, stretches = points[1:-1], max(1, (most - 2) // 2)
    bounds = [round(number * len(inner) / stretches) for number in range(stretches + 1)]
    kept = [points[0]]
    for start, end in pairwise(bounds):
        kept += _extremes(inner[start:end])
    return [*kept, points[-1]]


def _extremes(stretch: Sequence[Point]) -> list[Point]:
    known = [(value, number) for number, (_, value) in enumerate(stretch) if value is not None]
    if not known:
        return list(stretch[:1])
    numbers = {min(known)[1], max(known, key=lambda each: each[0])[1]}
    return [stretch[number] for number in sorted(numbers)]


def spans(phases: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """Each phase's name, and when it began and ended, in seconds."""
    start = 0.0
    for phase in phases:
        yield said(phase["name"]), start, start + phase["seconds"]
        start += phase["seconds"]


def missing_seconds(result: Result) -> float:
    """Seconds that were to be measured and were not; a fiftieth of them is a busy machine's."""
    asked = result["scenario"].get("duration") or 0.0
    missing = asked - sum(phase["seconds"] for phase in result["phases"] if phase["name"] == "measure")
    return missing if missing > asked / 50 else 0.0
