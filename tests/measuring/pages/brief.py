"""Pictures for who sees the project for the first time: of a result with many figures those few that answer a question.

What must stay true: each shows what its result's page shows, with the same figures, and leaves out without choosing
among who is compared: every library and every way has its bar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest.analysis.strategies import medians
from loadtest.output.charts.bars import Bar, Column, Row, bars_picture
from loadtest.output.charts.panels import for_picture, make_panels
from loadtest.output.naming import said
from loadtest.output.told import headline_of
from tests.measuring.bench.comparison.pictures import bars_of
from tests.measuring.bench.comparison.plan import ONE_AT_A_TIME
from tests.measuring.bench.comparison.result import sizes_of

Result = Mapping[str, Any]

LIBRARIES_ALTERNATIVE = "Messages a second, processor time a message and memory a connection for each library"
STRATEGIES_ALTERNATIVE = "Messages a second, waits and memory for each way to serve the most clients"
RUN_ALTERNATIVE = "A load test: its headline, what was done in each second, and how long calls waited"

_JOBS = {"publish": "published, each confirmed", "consume": "consumed, each acknowledged"}
_LEFT_OUT = ("confirm_", "end_to_end_")
"""How the columns of the timeline begin whose waits have no line: those of calls tell the same."""


def brief_path(path: Path) -> Path:
    """Where the picture of the result in the file `path` is."""
    return path.with_name(f"{path.stem}-brief.svg")


# --- libraries --------------------------------------------------------------------------------------------------------


def libraries_brief(result: Result) -> dict[str, Any]:
    """Rate, processor time and memory, of the smallest bodies that were measured."""
    rows = [
        _of_jobs(result, "Messages a second", "Longer is better.", "rate", "messages a second (1/s)"),
        _of_jobs(result, "Processor time of the client for a message", "Shorter is better.", "cpu_us", "CPU (µs)"),
        Row(
            "Memory of the client for a connection",
            "What an open connection with a channel adds to the client's process. Shorter is better.",
            _columns(result, {"connections": ""}, "connection_bytes", "memory (KiB)", 1024),
        ),
    ]
    title = f"rabbitry beside other clients, with bodies of {min(sizes_of(result, 'publish'), default=0)} bytes"
    return bars_picture(
        title, [row for row in rows if row.columns], "In blue: rabbitry. Thin lines are 95 % intervals."
    )


def _of_jobs(result: Result, title: str, sentence: str, figure: str, unit: str) -> Row:
    serial = [each["title"] for each in result["libraries"].values() if _is_serial(each)]
    note = f" {' and '.join(serial)}: published one at a time, as there is no other way to wait for confirms."
    columns = _columns(result, _JOBS, figure, unit)
    return Row(title, sentence + (note if serial and figure == "rate" else ""), columns, has_one_scale=True)


def _is_serial(library: Mapping[str, Any]) -> bool:
    return str(library["ways"].get("publish", "")).startswith(ONE_AT_A_TIME)


def _columns(result: Result, jobs: Mapping[str, str], figure: str, unit: str, divisor: float = 1) -> list[Column]:
    columns = [
        Column(title, unit, bars_of(result, job, min(sizes_of(result, job), default=0), figure, divisor))
        for job, title in jobs.items()
    ]
    return [column for column in columns if any(bar.value is not None for bar in column.bars)]


# --- ways to serve many clients ---------------------------------------------------------------------------------------


def strategies_brief(result: Result) -> dict[str, Any]:
    """What each way got through and took with the most clients."""
    table = medians(result)
    most = max(row["clients"] for row in table)
    rows = [row for row in table if row["clients"] == most]
    columns = [
        Column("messages a second, confirmed", "1/s: longer is better", _ways(result, rows, "rate", _whole)),
        Column("slowest 1 % of the confirms", "ms: shorter is better", _ways(result, rows, "confirm_p99_ms", _whole)),
        Column(
            "memory of the client",
            "MiB: shorter is better",
            _ways(result, rows, "client_rss_bytes", lambda value: _whole(value / 2**20)),
        ),
    ]
    sentence = "Medians of the trials. ✗: this way could not go on with so many clients."
    row = Row("The same work for each", sentence, columns)
    return bars_picture(f"Ways to serve {most:,} clients", [row], "In blue: ways with rabbitry, also those to avoid.")


def _ways(result: Result, rows: Sequence[Mapping[str, Any]], figure: str, tell: Callable[[float], str]) -> list[Bar]:
    bars = []
    for row in rows:
        strategy = result["strategies"][row["strategy"]]
        value = None if row["gave_up"] is not None else row[figure]
        told = tell(value) if value is not None else "✗" if row["gave_up"] is not None else "–"
        is_ours = str(strategy["driver"]).startswith("rabbitry")
        bars.append(Bar(said(strategy["title"]), value, told, is_ours=is_ours))
    return bars


def _whole(value: float) -> str:
    return f"{value:,.0f}"


# --- a load test ------------------------------------------------------------------------------------------------------


def run_brief(result: Result) -> dict[str, Any]:
    """The headline, what was done in each second, and how long calls waited."""
    rows = [
        {name: value for name, value in row.items() if not name.startswith(_LEFT_OUT)} for row in result["timeline"]
    ]
    shown = []
    for panel in make_panels([{**result, "timeline": rows}]):
        if panel.name.startswith("rate-"):
            shown.append(panel)
        elif panel.name.startswith("latency-"):
            shown.append(replace(panel, title="Latency of RPC calls"))
    return for_picture(headline_of(result), shown)
