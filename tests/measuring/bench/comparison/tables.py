"""The comparison's rows in words, which the terminal and the page share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.measuring.bench.comparison.plan import JOBS
from tests.measuring.bench.comparison.result import Result, cell_of, sizes_of
from tests.measuring.bench.comparison.rounds import format_size
from tests.measuring.bench.report import columns, number

STOLEN = 0.02
"""The host's share of the processors' time above which a run is told of."""


@dataclass(frozen=True)
class Table:
    """A job with bodies of one size: a row for each library."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(result: Result) -> Iterator[Table]:
    """All of them that have a cell."""
    for job in JOBS:
        for size in sizes_of(result, job.name):
            found = ((library, cell_of(result, name, job.name, size)) for name, library in result["libraries"].items())
            cells = [(library["title"], cell) for library, cell in found if cell is not None]
            if job.name == "connections":
                headings = ["library", "KiB a connection", "95 % interval", "CPU µs to open one", "trials"]
                rows = [
                    [title, *_figure(cell, "connection_bytes", 1024), _median(cell, "connect_cpu_us"), _trials(cell)]
                    for title, cell in cells
                ]
                yield Table(f"{job.title}: {cells[0][1]['count']:,} of them", headings, rows)
                continue
            headings = ["library", "messages/s", "95 % interval", "CPU µs a message", "95 % interval", "in the kernel"]
            headings += ["p50 µs", "p99 µs", "trials"] if job.name == "publish_one" else ["trials"]
            rows = [
                [title, *_figure(cell, "rate"), *_figure(cell, "cpu_us"), _median(cell, "system_us")]
                + ([_median(cell, "p50_us"), _median(cell, "p99_us")] if job.name == "publish_one" else [])
                + [_trials(cell)]
                for title, cell in cells
            ]
            yield Table(f"{job.title}: {format_size(size)}", headings, rows)


def remarks(result: Result) -> Iterator[str]:
    """What could not be measured, and what disturbed it."""
    yield from (f"Skipped: {reason}" for reason in result["skipped"])
    for cell in result["cells"]:
        for failure in cell["failures"]:
            title = result["libraries"][cell["library"]]["title"]
            yield f"Failed: {title}, {cell['job']}, {format_size(cell['size'])}: {failure}"
    stolen = sum(trial["steal"] > STOLEN for trial in result["trials"])
    if stolen:
        yield f"In {stolen} of {len(result['trials'])} runs the host took over {STOLEN:.0%} of the processors."
    if result["interrupted"]:
        yield "It was interrupted: this is what was measured until then."


def text(result: Result) -> str:
    """All of it for the terminal."""
    parts = [f"{table.title}\n{columns(table.headings, table.rows)}" for table in tables(result)]
    return "\n\n".join([*parts, *remarks(result)])


def _figure(cell: Mapping[str, Any], name: str, divisor: float = 1) -> list[str]:
    found = cell.get(name)
    if found is None:
        return ["–", "–"]
    return [
        number(found["median"] / divisor),
        f"{number(found['low'] / divisor)} – {number(found['high'] / divisor)}",
    ]


def _median(cell: Mapping[str, Any], name: str) -> str:
    return number(cell[name]["median"]) if name in cell else "–"


def _trials(cell: Mapping[str, Any]) -> str:
    good = cell["trials"] - len(cell["failures"])
    return str(good) if good == cell["trials"] else f"{good} of {cell['trials']}"
