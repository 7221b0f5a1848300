"""The comparison's pictures, made from its result alone: messages a second, processor time a message, memory a
connection, a bar for each library.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadtest.output.charts.bars import Bar, Column, Row, bars_picture
from tests.measuring.bench.comparison.plan import ONE_AT_A_TIME
from tests.measuring.bench.comparison.result import Result, cell_of, sizes_of
from tests.measuring.bench.comparison.rounds import format_size
from tests.measuring.bench.report import number

_LEGEND = "In blue: rabbitry. Thin lines are 95 % intervals."
_TITLES = {"publish": "Publishing, each message confirmed", "consume": "Consuming, each message acknowledged"}


def pictures(result: Result) -> dict[str, dict[str, Any]]:
    """The specification of each picture that has anything to show, by its name."""
    found = {
        "messages": ("Messages a second", _by_size(result, "rate", "messages a second (1/s)", "Longer is better.")),
        "cpu": (
            "Processor time of the client",
            _by_size(result, "cpu_us", "CPU a message (µs)", "Of the client's process alone. Shorter is better."),
        ),
        "memory": ("Memory of the client", _memory(result)),
    }
    return {
        name: bars_picture(title, rows, "In blue: rabbitry. Thin lines are 95 % intervals.")
        for name, (title, rows) in found.items()
        if rows
    }


def _by_size(result: Result, figure: str, unit: str, sentence: str) -> list[Row]:
    rows = []
    for job, title in _TITLES.items():
        sizes = sizes_of(result, job)
        columns = [Column(f"bodies of {format_size(size)}", unit, bars_of(result, job, size, figure)) for size in sizes]
        if any(bar.value is not None for column in columns for bar in column.bars):
            notes = [
                sentence,
                *(["Each size has a scale of its own."] if len(columns) > 1 else []),
                *_serial(result, job),
            ]
            rows.append(Row(title, " ".join(notes), columns))
    return rows


def _serial(result: Result, job: str) -> Iterator[str]:
    """Who publishes otherwise than the rest."""
    ways = ((library["title"], library["ways"].get(job, "")) for library in result["libraries"].values())
    if names := [title for title, way in ways if way.startswith(ONE_AT_A_TIME)]:
        yield f"{' and '.join(names)}: one message at a time, as there is no other way to wait for confirms."


def _memory(result: Result) -> list[Row]:
    rows = []
    for size in sizes_of(result, "connections"):
        bars = bars_of(result, "connections", size, "connection_bytes", 1024)
        if any(bar.value is not None for bar in bars):
            sentence = "What an open connection with a channel adds to the client's process. Shorter is better."
            rows.append(Row("Memory a connection", sentence, [Column("", "memory a connection (KiB)", bars)]))
    return rows


def bars_of(result: Result, job: str, size: int, figure: str, divisor: float = 1) -> list[Bar]:
    """A bar for each library: this figure of one job with bodies of one size."""
    bars = []
    for name, library in result["libraries"].items():
        cell = cell_of(result, name, job, size)
        found = cell and cell.get(figure)
        if found:
            value, low, high = (found[name] / divisor for name in ("median", "low", "high"))
            bars.append(Bar(library["title"], value, number(value), low, high, library["is_ours"]))
        else:
            bars.append(Bar(library["title"], None, "not measured", is_ours=library["is_ours"]))
    return bars
