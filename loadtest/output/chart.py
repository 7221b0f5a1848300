"""A run as one self-contained picture: rates and latencies over time, from the result alone.

Two panels share the time axis; latencies are on a logarithmic scale. Phases are bands, and so is, behind them, the time
that was to be measured and was not: a run that a killed broker cut short is no short run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, floor, log10
from typing import Any

from loadtest.metrics.timeline import STUB
from loadtest.output.frame import Frame, Points, round_step
from loadtest.units import format_count, format_milliseconds

_RATES, _LATENCIES = 0, 1
"""The panels' numbers, from above."""
_BANDS = {"connect": "#eef3f8", "warmup": "#faf3e6", "measure": "#ffffff", "drain": "#f1f1f1", "close": "#e8e8e8"}

Rows = Sequence[Mapping[str, Any]]


def draw_chart(result: Mapping[str, Any]) -> str:
    """The picture, as the text of an SVG file."""
    rows = [row for row in result["timeline"] if row["seconds"] > STUB]
    phases = result["phases"]
    ran = max([sum(phase["seconds"] for phase in phases), *(row["t_seconds"] for row in rows), 1e-3])
    scenario = result["scenario"]
    missing = _missing(phases, scenario.get("duration") or 0.0)
    frame = Frame(seconds=float(ran + missing), panels=2)
    title = f"{scenario['clients']:,} clients, {scenario['driver']} on {scenario['backend']}, {result['run_id']}"
    bands = [*_bands(frame, phases), *_gap(frame, ran, missing)]
    return frame.document(title, [*bands, *_rates(frame, rows), *_latencies(frame, rows)])


def _bands(frame: Frame, phases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    ends = list(accumulate(phase["seconds"] for phase in phases))
    for phase, end in zip(phases, ends, strict=True):
        start = end - phase["seconds"]
        for panel in (_RATES, _LATENCIES):
            yield frame.band(panel, start, end, _BANDS.get(phase["name"], "#ffffff"))
        x = frame.across(start)
        if frame.across(end) - x > 45:
            yield f'<text x="{x + 4:.1f}" y="{frame.top_of(_RATES) + 14}" fill="#777777">{phase["name"]}</text>'


def _missing(phases: Sequence[Mapping[str, Any]], duration: float) -> float:
    """Seconds that were to be measured and were not; a fiftieth of them is a busy machine's."""
    missing = duration - sum(phase["seconds"] for phase in phases if phase["name"] == "measure")
    return missing if missing > duration / 50 else 0.0


def _gap(frame: Frame, start: float, missing: float) -> Iterator[str]:
    if not missing:
        return
    for panel in (_RATES, _LATENCIES):
        yield frame.band(panel, start, start + missing, "#f6d5d5")
    x, y = frame.across(start) + 4, frame.top_of(_RATES) + 28
    yield f'<text x="{x:.1f}" y="{y}" fill="#a02020">missing: {missing:.1f} s were not measured</text>'


def _rates(frame: Frame, rows: Rows) -> Iterator[str]:
    names = ("confirmed", "consumed", "rpc")
    series: dict[str, Points] = {
        name: [(row["t_seconds"], row[name] / row["seconds"]) for row in rows] for name in names
    }
    highest = max((value for points in series.values() for _, value in points), default=0.0)
    step = round_step(highest)
    ceiling = max(1, ceil(highest / step)) * step

    def down(value: float) -> float:
        return frame.top_of(_RATES) + frame.panel * (1 - value / ceiling)

    yield frame.caption(_RATES, "messages/s")
    for number in range(round(ceiling / step) + 1):
        yield from frame.gridline(down(number * step), format_count(number * step))
    for index, (name, points) in enumerate(series.items()):
        yield from frame.line(_RATES, index, name, points, down)


def _latencies(frame: Frame, rows: Rows) -> Iterator[str]:
    series = {
        f"{label} {percentile}": [
            (row["t_seconds"], row[f"{key}_{percentile}_ms"]) for row in rows if row[f"{key}_{percentile}_ms"]
        ]
        for percentile in ("p50", "p99")
        for key, label in (("confirm", "confirm"), ("end_to_end", "end to end"), ("rpc", "RPC"))
    }
    values = [value for points in series.values() for _, value in points]
    low = floor(log10(min(values))) if values else 0
    high = max(low + 1, ceil(log10(max(values)))) if values else 1

    def down(value: float) -> float:
        return frame.top_of(_LATENCIES) + frame.panel * (high - log10(value)) / (high - low)

    yield frame.caption(_LATENCIES, "latency")
    for exponent in range(low, high + 1):
        yield from frame.gridline(down(10.0**exponent), format_milliseconds(10.0**exponent))
    for index, (name, points) in enumerate(series.items()):
        yield from frame.line(_LATENCIES, index, name, points, down, dashed=name.endswith("p99"))
