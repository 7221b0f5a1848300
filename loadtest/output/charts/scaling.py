"""How ways of doing the same work scale with the number of clients: one chart for each thing they cost or bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import altair as alt

from loadtest.output.charts.lines import SHOWN, chart_of, colour, keys, logarithmic, unless_hidden
from loadtest.output.charts.over_time import Panel
from loadtest.output.ways import gave_up

_SHOWN: tuple[tuple[str, str, str, str, float], ...] = (
    ("rate", "Throughput", "messages a second (1/s)", "More is better.", 1),
    ("p50_ms", "Median latency", "p50 (ms)", "Less is better.", 1),
    ("p99_ms", "Slowest hundredth", "p99 (ms)", "Less is better.", 1),
    ("memory_bytes", "Memory of the client", "memory (MiB)", "Less is better.", 2**20),
    ("client_cpu_us", "Processor time of the client", "CPU a message (µs)", "Less is better.", 1),
    ("broker_cpu_us", "Processor time of the broker", "CPU a message (µs)", "Less is better.", 1),
)
_SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"]


def scaling(rows: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    """The charts of what `loadtest.output.ways.read_strategies` found."""
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    for key, title, unit, better, divisor in _SHOWN:
        if chart := _chart(rows, names, key, unit, divisor):
            said = f"The median of all trials at each number of clients, and each trial as a faint mark. {better}"
            if any(map(gave_up, rows)):
                said += " A × is where a way could not go on: the table below says why."
            yield Panel(
                f"strategies-{key}", f"{title} by number of clients", said, chart, 260, keys(names, _shapes(names))
            )


def _chart(rows: Sequence[Mapping[str, Any]], names: Sequence[str], key: str, unit: str, divisor: float) -> Any:
    trials: list[dict[str, Any]] = [
        {"clients": row["clients"], "value": row[key] / divisor, "strategy": row["strategy"]}
        for row in rows
        if isinstance(row.get(key), int | float) and row[key] > 0 and not gave_up(row)
    ]
    if not trials:
        return None
    cells: dict[tuple[str, int], list[float]] = {}
    for trial in trials:
        cells.setdefault((trial["strategy"], trial["clients"]), []).append(trial["value"])
    medians: list[dict[str, Any]] = [
        {"clients": c, "value": median(found), "strategy": s} for (s, c), found in sorted(cells.items())
    ]
    # where a way could not go on, it is marked at the height that it had last
    heights: dict[str, float] = {each["strategy"]: each["value"] for each in medians}
    least = min(heights.values())
    ends = {
        (row["strategy"], row["clients"]): {
            "clients": row["clients"],
            "value": heights.get(row["strategy"], least),
            "strategy": row["strategy"],
            "why": gave_up(row),
        }
        for row in rows
        if gave_up(row)
    }
    x = alt.X(
        "clients:Q",
        title="clients",
        scale=alt.Scale(type="log", nice=False, padding=16),
        axis=alt.Axis(values=sorted({row["clients"] for row in rows}), format=",d"),
    )
    y = logarithmic((trial["value"] for trial in trials), unit)
    shape = alt.Shape("strategy:N", scale=alt.Scale(domain=list(names), range=_shapes(names)))
    opacity = unless_hidden("strategy")
    told = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("clients:Q", format=",d"),
        alt.Tooltip("value:Q", title=unit, format=",.4~g"),
    ]
    base = chart_of(medians).encode(x=x, y=y, color=colour("strategy", names), opacity=opacity)
    layers = [
        base.mark_line(strokeWidth=1.8).add_params(SHOWN),
        base.mark_point(filled=True, size=75).encode(shape=shape, tooltip=told),
        chart_of(trials)
        .mark_point(size=30, strokeOpacity=0.45)
        .encode(x=x, y=y, color=colour("strategy", names), shape=shape, opacity=opacity, tooltip=told),
    ]
    if ends:
        layers.append(
            chart_of(list(ends.values()))
            .mark_text(text="×", fontSize=22, fontWeight="bold", baseline="middle")
            .encode(
                x=x,
                y=y,
                color=colour("strategy", names),
                opacity=opacity,
                tooltip=[alt.Tooltip("strategy:N"), alt.Tooltip("clients:Q", format=",d"), alt.Tooltip("why:N")],
            )
        )
    return alt.layer(*layers)


def _shapes(names: Sequence[str]) -> list[str]:
    return [_SHAPES[number % len(_SHAPES)] for number in range(len(names))]
