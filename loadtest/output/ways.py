"""Reads what `strategies` has found: a row for each trial of a way to serve many clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.output.naming import said

Row = Mapping[str, Any]
_WHERE: Mapping[str, tuple[str, ...]] = {
    "rate": ("publish", "rate"),
    "p50_ms": ("publish", "confirm_latency_ms", "p50"),
    "p99_ms": ("publish", "confirm_latency_ms", "p99"),
    "memory_bytes": ("resources", "client_rss_bytes"),
    "client_cpu_us": ("resources", "client_cpu_us_per_message"),
    "broker_cpu_us": ("resources", "broker_cpu_us_per_message"),
}
"""What a row has, and where it stands in a trial."""


def read_strategies(result: Mapping[str, Any]) -> list[Row]:
    """The rows of a result, plain or as trials; empty where it has none, or none that can be read.

    A row has "strategy", "clients", the names above, and "gave_up": why it could not go on, or null.
    """
    titles = result.get("strategies")
    if isinstance(titles, list):
        found = [dict(row) for row in titles if isinstance(row, Mapping)]
    else:
        found = list(_read_trials(result))
        for row in found:
            named = titles.get(row.get("strategy")) if isinstance(titles, Mapping) else None
            row["strategy"] = named["title"] if isinstance(named, Mapping) and "title" in named else row.get("strategy")
    whole = (row for row in found if isinstance(row.get("strategy"), str) and isinstance(row.get("clients"), int))
    return [{**row, "strategy": said(row["strategy"])} for row in whole if row["clients"] > 0]


def gave_up(row: Row) -> str:
    """Why a way could not go on at that number of clients; empty if it could."""
    why = row.get("gave_up")
    return "" if not why else "it gave up" if why is True else said(why)


def _read_trials(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for trial in _mappings(result.get("cells")):
        why = trial.get("gave_up")
        yield {
            "strategy": trial.get("strategy"),
            "clients": trial.get("clients"),
            "gave_up": why.get("text", True) if isinstance(why, Mapping) else why,
            **{name: _find(trial, path) for name, path in _WHERE.items()},
        }
    for each in _mappings(result.get("not_tried")):
        because = each.get("because")
        fewer = because.get("clients") if isinstance(because, Mapping) else None
        why = f"not tried: given up with {fewer:,} clients" if isinstance(fewer, int) else "not tried"
        yield {"strategy": each.get("strategy"), "clients": each.get("clients"), "gave_up": why}


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    yield from (each for each in (value if isinstance(value, list) else ()) if isinstance(each, Mapping))


def _find(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
