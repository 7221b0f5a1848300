"""What happened when: rates, latencies and connections over the time of a run, its phases shaded and its faults marked.

Of one result all kinds share a chart; several results share one for each kind, from the beginning of what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from loadtest.metrics.timeline import STUB
from loadtest.output.charts.lines import Key, chart_of, draw_lines, keys, linear, logarithmic
from loadtest.output.charts.palette import ALARM, OTHER_PHASE, PHASES, SOFT
from loadtest.output.charts.points import Point, Result, missing_seconds, spans, thin
from loadtest.output.naming import name_published, name_runs, said

RATES = {"confirmed": "confirmed", "consumed": "consumed", "rpc": "RPC replies"}
LATENCIES = {"confirm": "confirm", "end_to_end": "end to end", "rpc": "RPC"}
PERCENTILES = {"p50": "p50", "p99": "p99", "max": "max"}
PLOT_WIDTH = "PLOT_WIDTH"
"""Stands in expressions for the width of the plot, in pixels."""
_LETTER = 6.6
"""Pixels of a letter of the names of phases and faults."""
_DASHES = {"p50": (1, 0), "p99": (6, 3), "max": (2, 3)}


@dataclass(frozen=True)
class Panel:
    """One chart with what is said of it."""

    name: str
    title: str
    sentence: str
    chart: Any
    height: int = 220
    legend: Sequence[Key] = ()


def over_time(results: Sequence[Result]) -> Iterator[Panel]:
    """The charts that have the time as their x."""
    several = len(results) > 1
    axis = "seconds since the measurement began" if several else "seconds since the run began"
    names = name_runs(results)
    for kinds in _groups(RATES, several):
        lines = [line for result, name in zip(results, names, strict=True) for line in _rate_lines(result, name, kinds)]
        title = f"Rate: {RATES[kinds[0]]}" if several else "Messages a second"
        said = "How many were done in each second" + ("." if several else "; the phases of the run are shaded.")
        yield from _panel(f"rate-{kinds[0]}", title, said, "messages a second (1/s)", axis, lines, results)
    for kinds in _groups(LATENCIES, several):
        lines = [line for result, name in zip(results, names, strict=True) for line in _wait_lines(result, name, kinds)]
        title = f"Latency: {LATENCIES[kinds[0]]}" if several else "Latency over time"
        said = (
            "Each second's median, 99th percentile and maximum, from the intended moment on; logarithmic. "
            "A percentile is drawn only where there are enough samples."
        )
        yield from _panel(f"latency-{kinds[0]}", title, said, "latency (ms)", axis, lines, results, is_log=True)
    lines = [line for result, name in zip(results, names, strict=True) for line in _connection_lines(result, name)]
    said = "How many were open at the end of each second."
    yield from _panel("connections", "Connections", said, "open connections", axis, lines, results, height=130)


@dataclass(frozen=True)
class _Line:
    what: str
    run: str
    points: Sequence[Point]
    percentile: str = ""


def _groups(kinds: Mapping[str, str], several: bool) -> list[list[str]]:
    return [[key] for key in kinds] if several else [list(kinds)]


def _rows(result: Result) -> list[Mapping[str, Any]]:
    return [row for row in result["timeline"] if row["seconds"] > STUB]


def _rate_lines(result: Result, run: str, keys: Sequence[str]) -> Iterator[_Line]:
    rows = _rows(result)
    for key in keys:
        column, what = key, RATES[key]
        if key == "confirmed" and name_published(result) != what:  # what was sent is all that is known
            column, what = "published", name_published(result)
        points = [(row["t_seconds"], row.get(column, 0) / row["seconds"]) for row in rows]
        if any(value for _, value in points):
            yield _Line(what, run, points)


def _wait_lines(result: Result, run: str, keys: Sequence[str]) -> Iterator[_Line]:
    rows = _rows(result)
    for key in keys:
        for percentile, told in PERCENTILES.items():
            # what is nothing or unknown has no place on a logarithmic scale
            points = [(row["t_seconds"], row.get(f"{key}_{percentile}_ms") or None) for row in rows]
            if any(value is not None for _, value in points):
                yield _Line(LATENCIES[key], run, points, told)


def _connection_lines(result: Result, run: str) -> Iterator[_Line]:
    points = [(row["t_seconds"], row["connections"]) for row in _rows(result)]
    if points:
        yield _Line("connections", run, points)


def _origin(result: Result, several: bool) -> float:
    """What is second 0: of several runs that take different times to connect, the measurement's beginning."""
    return _measured_from(result) if several else 0.0


def _measured_from(result: Result) -> float:
    return next((start for name, start, _ in spans(result["phases"]) if name == "measure"), 0.0)


def _panel(
    name: str,
    title: str,
    sentence: str,
    unit: str,
    axis: str,
    lines: Sequence[_Line],
    results: Sequence[Result],
    *,
    is_log: bool = False,
    height: int = 220,
) -> Iterator[Panel]:
    if not lines:
        return
    several = len(results) > 1
    by = "run" if several else "what"
    origins = dict(zip(name_runs(results), (_origin(result, several) for result in results), strict=True))
    records: list[dict[str, Any]] = [
        {
            "t": round(when - origins[line.run], 2),
            "value": None if value is None else round(value, 4 if is_log else 1),
            "what": line.what,
            "percentile": line.percentile,
            "run": line.run,
            "line": f"{line.what} {line.percentile}".strip(),
        }
        for line in lines
        for when, value in thin(line.points)
    ]
    x = alt.X("t:Q", title=axis, scale=alt.Scale(domain=_domain(results, several), nice=False))
    y = logarithmic((record["value"] for record in records), unit) if is_log else linear(unit)
    told = [
        *([alt.Tooltip("run:N", title="run")] if several else []),
        alt.Tooltip("line:N", title="line"),
        alt.Tooltip("t:Q", title="seconds", format=",.1f"),
        alt.Tooltip("value:Q", title=unit, format=",.3~f" if is_log else ",.1~f"),
    ]
    dash, legend = None, []
    if is_log:
        present = [each for each in PERCENTILES.values() if any(line.percentile == each for line in lines)]
        dash = alt.StrokeDash(
            "percentile:N",
            scale=alt.Scale(domain=present, range=[list(_DASHES[each]) for each in present]),
            legend=alt.Legend(symbolStrokeColor=SOFT, symbolType="stroke"),
        )
        legend = [Key(each, dash=_DASHES[each]) for each in present]
    names = list(dict.fromkeys(getattr(line, by) for line in lines))
    drawn = draw_lines(records, x=x, y=y, by=by, names=names, dash=dash, told=told)
    marks = [] if several else [*_bands(results[0])]
    faults = [] if several else [*_faults(results[0])]
    yield Panel(name, title, sentence, alt.layer(*marks, *drawn, *faults), height, [*keys(names), *legend])


def _end(result: Result) -> float:
    ran = sum(phase["seconds"] for phase in result["phases"])
    return float(max([ran, *(row["t_seconds"] for row in _rows(result)), 1e-3]))


def _domain(results: Sequence[Result], several: bool) -> list[float]:
    ends = [_end(result) + missing_seconds(result) - _origin(result, several) for result in results]
    starts = [-_origin(result, several) for result in results]
    return [round(min(starts), 2), round(max(ends), 2)]


def _bands(result: Result) -> Iterator[Any]:
    """The phases behind all, and behind them the time that was to be measured and was not."""
    end = _end(result)
    bands = [
        {"name": name, "from": start, "to": to, "colour": PHASES.get(name, OTHER_PHASE)}
        for name, start, to in spans(result["phases"])
    ]
    if missing := missing_seconds(result):
        told = f"missing: {missing:.1f} s were not measured"
        bands.append({"name": told, "from": end, "to": end + missing, "colour": PHASES["missing"]})
    if not bands:
        return
    whole = end + missing_seconds(result)
    base = chart_of(bands).encode(x=alt.X("from:Q"), x2="to:Q")
    yield base.mark_rect(opacity=0.7).encode(
        fill=alt.Fill("colour:N", scale=None, legend=None), tooltip=alt.Tooltip("name:N", title="phase")
    )
    yield (
        chart_of(bands)
        .transform_filter(_has_room("datum.to - datum.from", "datum.name", whole))
        .mark_text(align="left", baseline="top", dx=4, dy=3, fontSize=11, color=SOFT)
        .encode(x="from:Q", y=alt.value(0), text="name:N")
    )


def _faults(result: Result) -> Iterator[Any]:
    """Where a fault struck, and what it was; in words where there is room for them."""
    marks = [
        {"t": each["at_seconds"] + _measured_from(result), "name": said(each.get("action") or each.get("fault"))}
        for each in result.get("faults") or ()
        if isinstance(each.get("at_seconds"), int | float)
    ]
    whole = _end(result) + missing_seconds(result)
    for mark, following in zip(marks, [*(mark["t"] for mark in marks[1:]), whole], strict=bool(marks)):
        mark["free"] = following - mark["t"]
    if marks:
        base = chart_of(marks).encode(x="t:Q", tooltip=alt.Tooltip("name:N", title="fault"))
        yield base.mark_rule(color=ALARM, strokeWidth=1.5, strokeDash=[4, 2])
        text = base.transform_filter(_has_room("datum.free", "datum.name", whole))
        yield text.mark_text(align="left", baseline="top", dx=4, dy=18, fontSize=11, color=ALARM).encode(
            y=alt.value(0), text="name:N"
        )


def _has_room(seconds: str, text: str, whole: float) -> str:
    """Whether so many of all seconds are as wide as the text: an expression, as only the page knows how wide it is."""
    return f"({seconds}) * {PLOT_WIDTH} > length({text}) * {_LETTER} * {max(whole, 1e-3):.3f}"
