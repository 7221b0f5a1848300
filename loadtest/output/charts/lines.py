"""A line chart as all of them are: lines in colours, points to point at, a legend that hides and shows.

It owns what makes a chart readable in a page: what a pointer or a finger is nearest to is told, the legend can have one
line shown alone, and who holds Shift zooms with the wheel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import altair as alt

from loadtest.output.charts.palette import LINES

SPARSE = 40
"""Values below which each has a visible dot: a line of one point could not be seen."""
NUMBERS = ",.10~g"
"""How axes write numbers: 10,000 and 0.5, never 1e+4."""
SHOWN = alt.param(name="shown", value=None)
"""What alone is shown: the name of a line; null shows all. The page's legend sets it."""
Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a line's colour with its shape, or, without a colour, a kind of line by its dashes."""

    name: str
    colour: str = ""
    shape: str = ""
    dash: tuple[int, int] | None = None


def keys(names: Sequence[str], shapes: Sequence[str] = ()) -> list[Key]:
    """The legend of lines that `colour` colours; a single one needs none."""
    if len(names) < 2:
        return []
    found = enumerate(names)
    return [Key(name, LINES[n % len(LINES)], shapes[n % len(shapes)] if shapes else "") for n, name in found]


def chart_of(records: Records) -> Any:
    """A chart of these records, with nothing drawn yet."""
    data: Any = alt.Data  # without types
    return alt.Chart(data(values=list(records)))


def unless_hidden(by: str) -> Any:
    """The opacity of what is shown, and of what is not."""
    return alt.condition(f"shown === null || datum.{by} === shown", alt.value(1.0), alt.value(0.07))


def colour(field: str, names: Sequence[str]) -> Any:
    """Colour by a field, in the order of the names."""
    scale = alt.Scale(domain=list(names), range=[LINES[number % len(LINES)] for number in range(len(names))])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend() if len(names) > 1 else None)


def logarithmic(values: Iterable[float | None], title: str) -> Any:
    """A logarithmic y from the last round number below all values to the first above, with lines at round numbers."""
    known = [value for value in values if value]
    low, high = (_round(min(known), up=False), _round(max(known), up=True)) if known else (1.0, 10.0)
    if low == high:
        high *= 2
    decades = log10(high / low)
    steps = (1, 2, 5) if decades <= 3.5 else (1,)
    first, last = floor(log10(low)), ceil(log10(high))
    marks = [number * 10.0**power for power in range(first, last + 1) for number in steps]
    marks = [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.Y(
        "value:Q", title=title, scale=scale, axis=alt.Axis(values=marks, format=NUMBERS, labelOverlap="greedy")
    )


def linear(title: str) -> Any:
    """A y from 0."""
    scale = alt.Scale(zero=True, nice=True)
    return alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format=NUMBERS, tickCount=5))


def _round(value: float, *, up: bool) -> float:
    """The next of 1, 2, 5, 10, 20 … that is not above the value, or not below it."""
    power = 10.0 ** floor(log10(value))
    steps = [power * number for number in (1, 2, 5, 10)]
    if up:
        return next(step for step in steps if step >= value * (1 - 1e-9))
    return next(step for step in reversed(steps) if step <= value * (1 + 1e-9))


def draw_lines(
    records: Records, *, x: Any, y: Any, by: str, names: Sequence[str], dash: Any = None, told: Sequence[Any] = ()
) -> list[Any]:
    """The layers of lines of the records, a colour for each value of the field ``by``.

    ``dash`` tells several lines of a colour apart; ``told`` is what is said of the point that one points at.
    """
    near = alt.selection_point(name="near", nearest=True, on="pointerover", clear="pointerout", empty=False)
    zoom = alt.selection_interval(
        name="zoom",
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.shiftKey]",
        translate="[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
    )
    encoded: dict[str, Any] = {"x": x, "y": y, "color": colour(by, names)}
    if dash is not None:
        encoded["strokeDash"] = dash
    lines = (
        chart_of(records)
        .mark_line(strokeWidth=1.8, interpolate="linear", point={"size": 18} if len(records) <= SPARSE else False)
        .encode(**encoded, opacity=unless_hidden(by))
        .add_params(SHOWN, zoom)
    )
    points = (
        chart_of(records)
        .transform_filter("isValid(datum.value)")
        .mark_point(filled=True, size=70)
        .encode(
            x=x,
            y=y,
            color=colour(by, names),
            opacity=alt.condition(near, alt.value(1.0), alt.value(0.0)),
            tooltip=list(told),
        )
        .add_params(near)
    )
    return [lines, points]
