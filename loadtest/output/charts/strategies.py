"""Ways to serve many clients as bars: what each got through and what it took, from the result of `strategies`.

Where a way could not go on there is no bar, but why it could not. Lines over the number of clients are in `scaling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtest.analysis.strategies import medians
from loadtest.output.charts.bars import Bar, Column, Row, bars_picture
from loadtest.output.naming import said

_WHY = {
    "connect": "not connected",
    "memory": "too much memory",
    "threads": "out of threads",
    "failures": "publishes failed",
    "dropped": "clients failed",
    "lost": "messages lost",
    "rate": "too slow",
    "bound": "did not end",
    "ended": "it crashed",
}
"""Why a way was given up, in as few words as have room; the page has the numbers."""
_ROWS: tuple[tuple[str, str, str, str, Callable[[float], str], float], ...] = (
    (
        "rate",
        "Messages a second, each confirmed",
        "Longer is better.",
        "messages a second (1/s)",
        lambda value: f"{value:,.0f}",
        1,
    ),
    (
        "confirm_p99_ms",
        "Wait for a confirm, the slowest hundredth",
        "Shorter is better.",
        "p99 (ms)",
        lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
        1,
    ),
    (
        "client_rss_bytes",
        "Memory of the client's process",
        "Shorter is better.",
        "memory (MiB)",
        lambda value: f"{value:,.0f}",
        2**20,
    ),
)


def strategies_picture(result: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of the picture, in the palette's variables."""
    table = medians(result)
    clients = sorted({row["clients"] for row in table})
    rows = []
    for figure, title, better, unit, tell, divisor in _ROWS:
        columns = [
            Column(f"{number:,} clients", unit, _bars(result, table, number, figure, tell, divisor))
            for number in clients
        ]
        if any(bar.value is not None for column in columns for bar in column.bars):
            rows.append(
                Row(
                    title, f"{better} The median of the trials; each number of clients has a scale of its own.", columns
                )
            )
    return bars_picture("Ways to serve many clients: the same work, a bar for each way", rows, "In blue: rabbitry.")


def _bars(
    result: Mapping[str, Any],
    table: Sequence[Mapping[str, Any]],
    clients: int,
    figure: str,
    tell: Callable[[float], str],
    divisor: float,
) -> list[Bar]:
    bars = []
    for row in table:
        if row["clients"] != clients:
            continue
        strategy = result["strategies"][row["strategy"]]
        name = said(strategy["title"])
        is_ours = str(strategy["driver"]).startswith("rabbitry")
        value = row[figure]
        if row["gave_up"] is not None:
            bars.append(Bar(name, None, f"✗ {_in_brief(result, row)}", is_ours=is_ours))
        elif value is None:
            bars.append(Bar(name, None, "–", is_ours=is_ours))
        else:
            bars.append(Bar(name, value / divisor, tell(value / divisor), is_ours=is_ours))
    return bars


def _in_brief(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    reasons = (
        cell["gave_up"]["reason"]
        for cell in result["cells"]
        if cell["gave_up"] and (cell["strategy"], cell["clients"]) == (row["strategy"], row["clients"])
    )
    reason = next(reasons, None)
    return "not tried" if reason is None else _WHY.get(reason, "given up")
