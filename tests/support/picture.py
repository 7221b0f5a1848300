"""Figures over time as one self-contained SVG: panels that share a time axis, and marks for what struck when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from loadtest.output.frame import Frame, Points

STRONG, WEAK = "#b00020", "#cfae70"


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
    frame = Frame(seconds=end, panels=len(panels), right=190, top=60, panel=150, gap=45)
    parts = [part for number, panel in enumerate(panels) for part in _panel(frame, number, panel, marks)]
    return frame.document(title, parts)


def _panel(frame: Frame, number: int, panel: Panel, marks: Sequence[Mark]) -> Iterator[str]:
    top = frame.top_of(number)
    bottom = top + frame.panel
    highest = _round_up(max((value for line in panel.lines.values() for _, value in line), default=1.0))

    def down(value: float) -> float:
        return bottom - frame.panel * value / highest

    yield frame.caption(number, panel.caption)
    for part in (0, 0.25, 0.5, 0.75, 1):
        yield from frame.gridline(down(highest * part), f"{highest * part:,.6g}")
    for mark in marks:
        x, colour = frame.across(mark.seconds), STRONG if mark.strong else WEAK
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}" stroke-width="0.7">'
        yield f"<title>{escape(mark.name)}, {mark.seconds:.1f} s</title></line>"
    for index, (name, points) in enumerate(panel.lines.items()):
        yield from frame.line(number, index, name, list(points), down)
    legend = [(name, STRONG) for name in dict.fromkeys(mark.name for mark in marks if mark.strong)]
    legend += [("other faults", WEAK)] if any(not mark.strong for mark in marks) else []
    for index, (name, colour) in enumerate(legend, len(panel.lines)):
        x, y = frame.width - frame.right + 12, top + 14 + 18 * index
        yield f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{colour}"/>'
        yield f'<text x="{x + 28}" y="{y}">{escape(name)}</text>'


def _round_up(value: float) -> float:
    magnitude = 1e-3
    while magnitude * 10 < value:
        magnitude *= 10
    return next(magnitude * step for step in (1, 2, 4, 5, 8, 10) if magnitude * step >= value)


def rates(counts: Points) -> Points:
    """How fast a running count grew, between each two points, per second."""
    return [(after, (new - old) / (after - before)) for (before, old), (after, new) in pairwise(counts)]
