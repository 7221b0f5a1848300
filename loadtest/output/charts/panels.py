"""Which charts a set of results has, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

import altair as alt

from loadtest.output.charts.curves import capacity_steps, percentile_spectra, sweep_curve
from loadtest.output.charts.over_time import PLOT_WIDTH, Panel, over_time
from loadtest.output.charts.palette import LOOKS, PAPER, in_light
from loadtest.output.charts.points import Result
from loadtest.output.charts.scaling import scaling
from loadtest.output.ways import read_strategies

WIDTH = 860
"""Of a picture's charts, in pixels."""
TITLE_LINE, SENTENCE_LINE = 85, 140
"""How many characters fit above a chart, of the picture's title and of what is said of each chart."""


def make_panels(results: Sequence[Result]) -> Iterator[Panel]:
    """Every chart of these results that has anything to show."""
    if rows := [row for result in results for row in read_strategies(result)]:
        yield from scaling(rows)
    measured = [result for result in results if "timeline" in result]
    if not measured:
        return
    if len(measured) == 1:
        yield from sweep_curve(measured[0])
        yield from capacity_steps(measured[0])
    yield from over_time(measured)
    yield from percentile_spectra(measured)


def for_page(panel: Panel) -> dict[str, Any]:
    """The chart as part of a page: as wide as its place, in the page's colours; the page itself has the legend."""
    chart = panel.chart.properties(width="container", height=panel.height).configure(**LOOKS)
    found: dict[str, Any] = _fill_in("width", _without_legends(chart.to_dict()))
    return found


def for_picture(title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """All charts below each other, as the specification of one picture."""
    charts = [
        _without_params(
            panel.chart.properties(
                width=WIDTH,
                height=panel.height,
                title=alt.TitleParams(panel.title, subtitle=wrap(panel.sentence, SENTENCE_LINE)),
            ).to_dict()
        )
        for panel in panels
    ]
    whole = {
        "$schema": alt.SCHEMA_URL,
        "title": {"text": wrap(title, TITLE_LINE), "fontSize": 18, "offset": 16},
        "background": PAPER,
        "padding": 16,
        "spacing": 28,
        "vconcat": charts,
        "resolve": {"scale": dict.fromkeys(("color", "fill", "shape", "strokeDash"), "independent")},
        "config": {**LOOKS, "background": PAPER},
    }
    found: dict[str, Any] = _fill_in(str(WIDTH), in_light(whole))
    return found


def _fill_in(width: str, specification: Any) -> Any:
    """The specification with what its expressions are to take for the width of the plot."""
    return json.loads(json.dumps(specification).replace(PLOT_WIDTH, width))


def _without_legends(specification: Any) -> Any:
    if isinstance(specification, list):
        return [_without_legends(each) for each in specification]
    if not isinstance(specification, dict):
        return specification
    found = {key: _without_legends(value) for key, value in specification.items()}
    for channel in ("color", "shape", "strokeDash"):
        if "field" in found.get("encoding", {}).get(channel, ()):
            found["encoding"][channel]["legend"] = None
    return found


def _without_params(specification: Any) -> Any:
    """The specification without what a pointer could do to it, and what depends on that."""
    if isinstance(specification, list):
        return [_without_params(each) for each in specification]
    if not isinstance(specification, dict):
        return specification
    kept = {key: value for key, value in specification.items() if key not in ("params", "tooltip")}
    if isinstance(opacity := kept.get("opacity"), dict) and "condition" in opacity:
        kept["opacity"] = {"value": 0 if opacity["condition"].get("param") == "near" else 1}
    return {key: _without_params(value) for key, value in kept.items()}
