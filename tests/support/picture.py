"""Figures over time as one SVG: panels that share a time axis, and marks for what struck when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import altair as alt

from loadtest.output.charts.lines import chart_of, draw_lines, linear
from loadtest.output.charts.over_time import Panel as Chart
from loadtest.output.charts.palette import ALARM, LINES
from loadtest.output.charts.panels import for_picture
from loadtest.output.charts.points import thin
from loadtest.output.charts.rendering import to_svg

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """What is drawn over the time; the caption names its unit."""

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
    return to_svg(for_picture(title, [_chart(number, panel, end, marks) for number, panel in enumerate(panels)]))


def _chart(number: int, panel: Panel, end: float, marks: Sequence[Mark]) -> Chart:
    names = list(panel.lines)
    records = [
        {"t": round(when, 2), "value": value, "what": name}
        for name, points in panel.lines.items()
        for when, value in thin(points)
    ]
    x = alt.X("t:Q", title="seconds", scale=alt.Scale(domain=[0, end], nice=False))
    layers = [*_marks(marks), *draw_lines(records, x=x, y=linear(panel.caption), by="what", names=names)]
    sentence = ", ".join(names)
    if number == 0 and marks:
        strong = ", ".join(dict.fromkeys(mark.name for mark in marks if mark.strong))
        sentence += "; dashed lines: " + ", ".join(filter(None, [strong, *_weak(marks)]))
    return Chart(f"panel-{number}", panel.caption, sentence, alt.layer(*layers), 150)


def _weak(marks: Sequence[Mark]) -> list[str]:
    return ["and, pale, other faults"] if any(not mark.strong for mark in marks) else []


def _marks(marks: Sequence[Mark]) -> Iterator[Any]:
    for is_strong, colour in ((False, LINES[4]), (True, ALARM)):
        found = [{"t": mark.seconds, "name": mark.name} for mark in marks if mark.strong == is_strong]
        if found:
            rule = chart_of(found).mark_rule(color=colour, strokeDash=[4, 2], opacity=0.7)
            yield rule.encode(x="t:Q")


def rates(counts: Points) -> Points:
    """How fast a running count grew, between each two points, per second."""
    return [(after, (new - old) / (after - before)) for (before, old), (after, new) in pairwise(counts)]
