"""Figures over time as one self-contained SVG: panels that share a time axis, and marks for what struck when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, LEFT, RIGHT = 960, 70, 190
PANEL, TOP, GAP = 150, 60, 45
COLOURS = ("#1b6ca8", "#3a7d44", "#7b4ea3", "#444444")
STRONG, WEAK = "#b00020", "#cfae70"

Points = Sequence[tuple[float, float]]
"""Seconds and the value then."""


@dataclass(frozen=True)
class Panel:
    caption: str
    lines: dict[str, Points]


@dataclass(frozen=True)
class Mark:
    """Something that happened. The legend says what the `strong` ones are."""

    seconds: float
    name: str
    strong: bool = False


def draw(title: str, panels: Sequence[Panel], marks: Sequence[Mark] = ()) -> str:
    """The picture, as the text of an SVG file."""
    end = max((seconds for panel in panels for line in panel.lines.values() for seconds, _ in line), default=1.0) or 1.0
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + index * (PANEL + GAP), end, marks)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _across(seconds: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * seconds / end


def _panel(panel: Panel, top: int, end: float, marks: Sequence[Mark]) -> Iterator[str]:
    bottom, right = top + PANEL, WIDTH - RIGHT
    highest = _round_up(max((value for line in panel.lines.values() for _, value in line), default=1.0))
    yield f'<text x="{LEFT}" y="{top - 6}" fill="#555555">{escape(panel.caption)}</text>'
    for part in (0, 0.25, 0.5, 0.75, 1):
        y, value = bottom - PANEL * part, highest * part
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd" stroke-width="0.5"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{value:,.6g}</text>'
    for mark in marks:
        x, colour = _across(mark.seconds, end), STRONG if mark.strong else WEAK
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}" stroke-width="0.7">'
        yield f"<title>{escape(mark.name)}, {mark.seconds:.1f} s</title></line>"
    legend = [(name, COLOURS[index % len(COLOURS)]) for index, name in enumerate(panel.lines)]
    for (_, colour), points in zip(legend, panel.lines.values(), strict=True):
        path = " ".join(f"{_across(x, end):.1f},{bottom - PANEL * y / highest:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
    legend += [(name, STRONG) for name in dict.fromkeys(mark.name for mark in marks if mark.strong)]
    legend += [("other faults", WEAK)] if any(not mark.strong for mark in marks) else []
    for index, (name, colour) in enumerate(legend):
        y = top + 12 + 18 * index
        yield f'<line x1="{right + 10}" y1="{y - 4}" x2="{right + 30}" y2="{y - 4}" stroke="{colour}"/>'
        yield f'<text x="{right + 36}" y="{y}">{escape(name)}</text>'
    step = _round_up(end / 8)
    for number in range(int(end / step) + 1):
        seconds = number * step
        yield f'<text x="{_across(seconds, end):.1f}" y="{bottom + 15}" text-anchor="middle" fill="#555555">'
        yield f"{seconds:,.6g} s</text>"


def _round_up(value: float) -> float:
    magnitude = 1e-3
    while magnitude * 10 < value:
        magnitude *= 10
    return next(magnitude * step for step in (1, 2, 4, 5, 8, 10) if magnitude * step >= value)


def rates(counts: Points) -> list[tuple[float, float]]:
    """How fast a running count grew, between each two points, per second."""
    return [(after, (new - old) / (after - before)) for (before, old), (after, new) in pairwise(counts)]
