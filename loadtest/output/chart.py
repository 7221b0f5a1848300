"""A run as one self-contained picture: rates and latencies over time, drawn by hand as SVG, from the result alone.

Two panels share the time axis; latencies are on a logarithmic scale. Phases are bands. There is no script in it and no
font: it looks the same in a browser, in a review and in a year.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import accumulate
from math import ceil, floor, log10
from typing import Any

from loadtest.metrics.timeline import STUB
from loadtest.units import format_count, format_milliseconds

_WIDTH, _LEFT, _RIGHT = 960, 70, 150
_PANEL, _TOP, _GAP = 200, 40, 50
_HEIGHT = _TOP + 2 * _PANEL + _GAP + 40
_COLOURS = ("#1b6ca8", "#c4541d", "#3a7d44")
_BANDS = {"connect": "#eef3f8", "warmup": "#faf3e6", "measure": "#ffffff", "drain": "#f1f1f1", "close": "#e8e8e8"}

Points = list[tuple[float, float]]
Scale = Callable[[float], float]


def draw_chart(result: Mapping[str, Any]) -> str:
    """The picture, as the text of an SVG file."""
    rows = [row for row in result["timeline"] if row["seconds"] > STUB]
    phases = result["phases"]
    end = max([sum(phase["seconds"] for phase in phases), *(row["t_seconds"] for row in rows), 1e-3])

    def across(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / float(end)

    scenario = result["scenario"]
    title = f"{scenario['clients']:,} clients, {scenario['driver']} on {scenario['backend']}, {result['run_id']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_bands(phases, across),
        *_rates(rows, across, _TOP),
        *_latencies(rows, across, _TOP + _PANEL + _GAP),
        *_seconds(end, across),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bands(phases: Sequence[Mapping[str, Any]], across: Scale) -> Iterator[str]:
    ends = list(accumulate(phase["seconds"] for phase in phases))
    for phase, end in zip(phases, ends, strict=True):
        start = across(end - phase["seconds"])
        for top in (_TOP, _TOP + _PANEL + _GAP):
            colour = _BANDS.get(phase["name"], "#ffffff")
            yield (
                f'<rect x="{start:.1f}" y="{top}" width="{across(end) - start:.1f}" height="{_PANEL}" fill="{colour}" '
                f'stroke="#cccccc" stroke-width="0.5"/>'
            )
        if across(end) - start > 45:
            yield f'<text x="{start + 4:.1f}" y="{_TOP + 14}" fill="#777777">{phase["name"]}</text>'


def _rates(rows: Sequence[Mapping[str, Any]], across: Scale, top: int) -> Iterator[str]:
    names = ("confirmed", "consumed", "rpc")
    series: dict[str, Points] = {
        name: [(row["t_seconds"], row[name] / row["seconds"]) for row in rows] for name in names
    }
    highest = max((value for points in series.values() for _, value in points), default=0.0)
    step = _step(highest)
    ceiling = max(1, ceil(highest / step)) * step

    def down(value: float) -> float:
        return top + _PANEL * (1 - value / ceiling)

    yield _caption("messages/s", top)
    for number in range(round(ceiling / step) + 1):
        yield from _gridline(down(number * step), format_count(number * step))
    for index, (name, points) in enumerate(series.items()):
        yield from _line(points, across, down, name, index, top)


def _latencies(rows: Sequence[Mapping[str, Any]], across: Scale, top: int) -> Iterator[str]:
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
        return top + _PANEL * (high - log10(value)) / (high - low)

    yield _caption("latency", top)
    for exponent in range(low, high + 1):
        yield from _gridline(down(10.0**exponent), format_milliseconds(10.0**exponent))
    for index, (name, points) in enumerate(series.items()):
        yield from _line(points, across, down, name, index, top, dashed=name.endswith("p99"))


def _line(
    points: Points,
    across: Scale,
    down: Scale,
    name: str,
    index: int,
    top: int,
    *,
    dashed: bool = False,
) -> Iterator[str]:
    if not points:
        return
    stroke = _COLOURS[index % len(_COLOURS)]
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    y = top + 14 + 18 * index
    x = _WIDTH - _RIGHT + 12
    yield f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.5"{dashes}/>'
    yield f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{stroke}" stroke-width="2"{dashes}/>'
    yield f'<text x="{x + 28}" y="{y}">{name}</text>'


def _gridline(y: float, label: str) -> Iterator[str]:
    yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#dddddd" stroke-width="0.5"/>'
    yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{label}</text>'


def _caption(text: str, top: int) -> str:
    return f'<text x="{_LEFT}" y="{top - 6}" fill="#555555">{text}</text>'


def _seconds(end: float, across: Scale) -> Iterator[str]:
    step = _step(end)
    y = _TOP + 2 * _PANEL + _GAP + 16
    for number in range(int(end / step) + 1):
        x = across(number * step)
        yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="#555555">{number * step:g} s</text>'


def _step(highest: float) -> float:
    """A round distance between four to ten gridlines."""
    if highest <= 0:
        return 1.0
    magnitude: float = 10.0 ** floor(log10(highest))
    return next(magnitude * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if highest / (magnitude * part) <= 8)
