"""Charts whose x is no time: percentile spectra, the steps to the sustainable rate, a sweep's curve and its knee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from loadtest.output.charts.lines import NUMBERS, Key, chart_of, draw_lines, keys, linear, logarithmic
from loadtest.output.charts.over_time import Panel
from loadtest.output.charts.palette import ALARM, LINES, SOFT
from loadtest.output.charts.points import Result
from loadtest.output.naming import name_runs
from loadtest.output.spectrum import KINDS, spectra

_PERCENTILE = (
    "datum.value <= 1 ? '0 %' : datum.value < 11 ? '90 %' : datum.value < 101 ? '99 %' : datum.value < 1001 ? '99.9 %' "
    ": datum.value < 10001 ? '99.99 %' : datum.value < 100001 ? '99.999 %' : '99.9999 %'"
)
_DECADES = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]


def percentile_spectra(results: Sequence[Result]) -> Iterator[Panel]:
    """How latency grows towards the slowest: of one result all kinds in a chart, of several a chart for each kind."""
    several = len(results) > 1
    found = {name: spectra(result) for name, result in zip(name_runs(results), results, strict=True)}
    for kinds in [[kind] for kind in KINDS.values()] if several else [list(KINDS.values())]:
        records: list[dict[str, Any]] = [
            {"x": round(step.one_in, 4), "value": step.milliseconds or None, "what": kind, "run": run}
            for run, each in found.items()
            for kind in kinds
            for step in each.get(kind, ())
        ]
        if not records:
            continue
        by = "run" if several else "what"
        names = list(dict.fromkeys(record[by] for record in records))
        told = [
            *([alt.Tooltip("run:N", title="run")] if several else []),
            alt.Tooltip("what:N", title="latency"),
            alt.Tooltip("x:Q", title="all but one in", format=",.0f"),
            alt.Tooltip("value:Q", title="took at most (ms)", format=",.3~f"),
        ]
        most = max(record["x"] for record in records)
        x = alt.X(
            "x:Q",
            title="percentile, by log 1/(1−p)",
            scale=alt.Scale(type="log", domain=[1, max(10.0, most)], nice=False),
            axis=alt.Axis(values=[each for each in _DECADES if each <= max(10.0, most)], labelExpr=_PERCENTILE),
        )
        y = logarithmic((record["value"] for record in records), "latency (ms)")
        title = f"Percentile spectrum: {kinds[0]}" if several else "Percentile spectrum"
        said = "How long all but the slowest tenth, hundredth, thousandth … took; each line ends at its maximum."
        name = f"spectrum-{list(KINDS.values()).index(kinds[0])}"
        chart = alt.layer(*draw_lines(records, x=x, y=y, by=by, names=names, told=told))
        yield Panel(name, title, said, chart, 240, keys(names))


def capacity_steps(result: Result) -> Iterator[Panel]:
    """What the controller tried on its way to the sustainable rate, and which of it was borne."""
    capacity = result.get("capacity") or {}
    records = [
        {"step": number, "value": step["rate"], "held": "sustained" if step.get("held") else "not sustained"}
        for number, step in enumerate(capacity.get("steps") or (), 1)
        if isinstance(step, Mapping) and isinstance(step.get("rate"), int | float)
    ]
    if not records:
        return
    scale = alt.Scale(domain=["sustained", "not sustained"], range=[LINES[0], ALARM])
    base = chart_of(records).encode(
        x=alt.X(
            "step:Q", title="step", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False, padding=12)
        ),
        y=linear("rate tried (1/s)"),
    )
    layers = [
        base.mark_line(color=SOFT, strokeWidth=1, opacity=0.6),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            color=alt.Color("held:N", scale=scale),
            shape=alt.Shape("held:N", scale=alt.Scale(domain=scale.domain, range=["circle", "cross"])),
            tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("value:Q", title="rate (1/s)", format=",.0f"), "held:N"],
        ),
    ]
    layers += _levels(
        [
            (capacity.get("sustainable_rate"), "sustainable", LINES[2]),
            (capacity.get("closed_rate"), "closed loop", LINES[1]),
        ]
    )
    legend = [Key("sustained", LINES[0], "circle"), Key("not sustained", ALARM, "cross")]
    said = "Each rate that was tried, and whether backlog and latency stayed bounded at it."
    yield Panel("capacity", "The search for the sustainable rate", said, alt.layer(*layers), 200, legend)


def sweep_curve(result: Result) -> Iterator[Panel]:
    """Latency against rate, and the knee beyond which it rises faster than what it brings."""
    points, knee = read_sweep(result)
    records = [
        {"x": point["rate"], "value": point[name], "what": name}
        for name in ("p50", "p99", "max")
        for point in points
        if point.get(name)
    ]
    if not records:
        return
    names = list(dict.fromkeys(record["what"] for record in records))
    x = alt.X("x:Q", title="rate reached (1/s)", axis=alt.Axis(format=NUMBERS), scale=alt.Scale(zero=True))
    y = logarithmic((record["value"] for record in records), "latency (ms)")
    told = [
        alt.Tooltip("what:N", title="latency"),
        alt.Tooltip("x:Q", title="rate (1/s)", format=",.0f"),
        alt.Tooltip("value:Q", title="latency (ms)", format=",.3~f"),
    ]
    layers = draw_lines(records, x=x, y=y, by="what", names=names, told=told)
    if knee is not None:
        mark = chart_of([{"x": knee, "said": f"knee: {knee:,.0f}/s"}]).encode(x="x:Q")
        layers.append(mark.mark_rule(color=ALARM, strokeDash=[5, 3]))
        layers.append(
            mark.mark_text(align="right", dx=-5, dy=10, color=ALARM, fontSize=12).encode(y=alt.value(0), text="said:N")
        )
    said = "Latency at each rate of the sweep; beyond the knee it rises faster than the rate."
    yield Panel("sweep", "Latency by rate", said, alt.layer(*layers), 240, keys(names))


def read_sweep(result: Result) -> tuple[list[dict[str, Any]], float | None]:
    """The steps of a sweep by their rates, with p50, p99 and max, and its first knee; nothing where there was none."""
    sweep = result.get("sweep") or {}
    points = []
    for step in sweep.get("steps") or ():
        response = step.get("response_ms") if isinstance(step, Mapping) else None
        rate = (step.get("achieved_rate") or step.get("rate")) if isinstance(step, Mapping) else None
        if isinstance(response, Mapping) and isinstance(rate, int | float):
            points.append({"rate": float(rate), **{name: response.get(name) for name in ("p50", "p99", "max")}})
    knees = [knee.get("rate") for knee in sweep.get("knees") or () if isinstance(knee, Mapping)]
    return sorted(points, key=lambda each: each["rate"]), next((k for k in knees if isinstance(k, int | float)), None)


def _levels(levels: Sequence[tuple[Any, str, str]]) -> Iterator[Any]:
    for rate, name, colour in levels:
        if isinstance(rate, int | float):
            base = chart_of([{"value": rate, "said": f"{name}: {rate:,.0f}/s"}]).encode(y="value:Q")
            yield base.mark_rule(color=colour, strokeDash=[5, 3])
            yield base.mark_text(align="left", dx=4, dy=-6, color=colour, fontSize=11).encode(
                x=alt.value(0), text="said:N"
            )
