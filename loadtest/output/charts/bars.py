"""Bars that need no explanation: one for each thing that is compared, from nought, with its figure at its end.

Rows of columns stand below each other in a picture: a column is one scale with its unit, its bars have the same names
as those beside it. It owns how bars look and how much room they get; it knows nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import altair as alt

from loadtest.output.charts.lines import chart_of
from loadtest.output.charts.palette import INK, LINES, LOOKS, PAPER, SOFT

WIDTH = 640
"""Of all columns of a row together, in pixels: beside them stand the names."""
GAP = 26
BAR = 22
"""Pixels from one bar to the next; a name of two lines gets more."""
NAME = 36
"""Letters of a line of a name."""
_LETTER = 6.4
_LINE = 13
_END = "¦"
"""Between the lines of a name: no name has it."""


@dataclass(frozen=True)
class Bar:
    """A figure; `told` is what stands at its end, also where there is no figure, and `low` and `high` its interval."""

    name: str
    value: float | None
    told: str
    low: float | None = None
    high: float | None = None
    is_ours: bool = False
    """Drawn in colour: the others are what it is compared with."""


@dataclass(frozen=True)
class Column:
    """Bars on one scale. `title` may be empty where the row has only this one."""

    title: str
    unit: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Row:
    """Columns beside each other, with what is said of them."""

    title: str
    sentence: str
    columns: Sequence[Column]
    has_one_scale: bool = False
    """Whether a length means the same in all of its columns."""


def bars_picture(title: str, rows: Sequence[Row], sentence: str = "") -> dict[str, Any]:
    """The specification of a picture, in the palette's variables: `in_colours` puts colours in. `sentence` is said of
    all rows: what the colour means.
    """
    return {
        "$schema": alt.SCHEMA_URL,
        "title": {"text": title, "fontSize": 18, "offset": 16, **({"subtitle": sentence} if sentence else {})},
        "background": PAPER,
        "padding": 16,
        "spacing": 30,
        "vconcat": [_row(row) for row in rows],
        "config": {**LOOKS, "background": PAPER, "concat": {"spacing": GAP}},
    }


def _row(row: Row) -> dict[str, Any]:
    width = (WIDTH - GAP * (len(row.columns) - 1)) // len(row.columns)
    ends = [_end(column.bars, width) for column in row.columns]
    if row.has_one_scale:
        ends = [max(ends)] * len(ends)
    names = [_lines_of(bar.name) for bar in row.columns[0].bars]
    step = max(BAR, max(name.count(_END) + 1 for name in names) * _LINE + 8)
    charts = [
        _column(column, end, width, step * len(names), has_names=number == 0)
        for number, (column, end) in enumerate(zip(row.columns, ends, strict=True))
    ]
    title = {"text": row.title, "subtitle": wrap(row.sentence, 110)}
    return {"title": title, "hconcat": charts, "spacing": GAP}


def _column(column: Column, end: float, width: int, height: int, *, has_names: bool) -> Mapping[str, Any]:
    values = [
        {
            "name": _lines_of(bar.name),
            "value": bar.value or 0,
            "low": bar.value if bar.low is None else bar.low,
            "high": bar.value if bar.high is None else bar.high,
            "told": bar.told,
            "ours": bar.is_ours,
            "known": bar.value is not None,
        }
        for bar in column.bars
    ]
    order = [_lines_of(bar.name) for bar in column.bars]
    names = alt.Axis(
        labels=has_names,
        labelExpr=f"split(datum.label, '{_END}')",
        labelLineHeight=_LINE,
        labelOffset=alt.ExprRef(f"-{_LINE / 2} * (length(split(datum.label, '{_END}')) - 1)"),
        labelColor=INK,
        labelFontSize=12,
        labelLimit=400,
        labelOverlap=False,
        ticks=False,
        title=None,
    )
    y = alt.Y("name:N", sort=order, axis=names, scale=alt.Scale(paddingInner=0.28, paddingOuter=0.14))
    scale = alt.Scale(domain=[0, end], nice=False)
    # no marks along the axis: each figure stands at its bar
    axis = alt.Axis(title=column.unit, labels=False, ticks=False, grid=False, titleFontSize=11)
    x = alt.X("value:Q", scale=scale, axis=axis)
    base = chart_of(values).encode(y=y)
    known = base.transform_filter("datum.known")
    colour = alt.Color("ours:N", legend=None, scale=alt.Scale(domain=[True, False], range=[LINES[0], LINES[6]]))
    opacity = alt.Opacity("ours:N", legend=None, scale=alt.Scale(domain=[True, False], range=[1, 0.5]))
    layers = [
        known.mark_bar(cornerRadiusEnd=2).encode(x=x, color=colour, opacity=opacity),
        known.transform_filter("datum.high > datum.low")
        .mark_rule(strokeWidth=1.4, color=INK)
        .encode(x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q"),
        base.transform_calculate(end="datum.known ? max(datum.value, datum.high) : 0")
        .mark_text(align="left", baseline="middle", dx=5, color=INK, fontSize=11)
        .encode(x=alt.X("end:Q", scale=scale, axis=axis), text="told:N"),
    ]
    title = alt.TitleParams(column.title, fontSize=12, color=SOFT, offset=4, frame="group")
    found: Mapping[str, Any] = alt.layer(*layers).properties(width=width, height=height, title=title).to_dict()
    return found


def _end(bars: Sequence[Bar], width: int) -> float:
    """Where the scale ends: as soon as there is room behind each bar for what is told of it."""
    ends = [
        length / max(0.2, 1 - (5 + _LETTER * len(bar.told)) / width)
        for bar in bars
        if bar.value is not None and (length := max(bar.value, bar.high or 0.0)) > 0
    ]
    return max(ends, default=1.0)


def _lines_of(name: str) -> str:
    return _END.join(wrap(name, NAME)) or " "
