"""The result of `strategies`: its schema, its rows for charts, and what can be said of it in plain sentences.

Each sentence is made from the figures beside it. Of the trials of a cell the median counts; where one was given up, its
number and its reason stand in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from loadtest.scenarios.brokers import EMBEDDED, NOTICE, recorded_kind

SCHEMA = "rabbitry-loadtest-strategies"
VERSION = 1
"""Result: {"kind": SCHEMA, "schema": VERSION, "started_at", "finished", "rule", "plan": {...}, "strategies": {name:
{"title", "driver", "way", "source"}}, "environment": {...}, "broker": {...}, "cells": [...], "not_tried": [...],
"findings": [...]}. Units are in the names, as in a run's result. Each cell has "strategy", "clients", "trial", "order",
"gave_up" (null or {"reason", "text", "number"}), "connect", "publish", "consume", "resources", "errors": sections that
did not come about are null.
"""

UNFAIR = 0.5
"""Jain's index of what each producer sent, 1.0 if all is alike, below which it is told."""

MOST_COMPANY = 0.1
"""Cores that other processes may take without being told of."""

Cells = Sequence[Mapping[str, Any]]

METRICS: Mapping[str, tuple[str, ...]] = {
    "rate": ("publish", "rate"),
    "fairness": ("publish", "fairness"),
    "confirm_mean_ms": ("publish", "confirm_latency_ms", "mean"),
    "confirm_p50_ms": ("publish", "confirm_latency_ms", "p50"),
    "confirm_p99_ms": ("publish", "confirm_latency_ms", "p99"),
    "confirm_max_ms": ("publish", "confirm_latency_ms", "max"),
    "end_to_end_p50_ms": ("consume", "end_to_end_latency_ms", "p50"),
    "connect_seconds": ("connect", "seconds"),
    "client_rss_bytes": ("resources", "client_rss_bytes"),
    "client_cpu_us_per_message": ("resources", "client_cpu_us_per_message"),
    "client_threads": ("resources", "client_threads"),
    "broker_cpu_us_per_message": ("resources", "broker_cpu_us_per_message"),
    "broker_rss_peak_bytes": ("resources", "broker_rss_peak_bytes"),
}
"""What rows have of each cell, and where it stands there."""


def build_strategies_result(
    *,
    started_at: str,
    plan: Mapping[str, Any],
    rule: str,
    strategies: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
    broker: Mapping[str, Any],
    cells: Cells,
    not_tried: Cells,
    is_finished: bool,
) -> dict[str, Any]:
    """Everything in one value, as it is written."""
    result = {
        "kind": SCHEMA,
        "schema": VERSION,
        "started_at": started_at,
        "finished": is_finished,
        "rule": rule,
        "plan": dict(plan),
        "strategies": dict(strategies),
        "environment": dict(environment),
        "broker": dict(broker),
        "cells": list(cells),
        "not_tried": list(not_tried),
    }
    return {**result, "findings": findings(result)}


def rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each cell, with plain values: for charts and tables."""
    return [
        {name: cell[name] for name in ("strategy", "clients", "trial")}
        | {"gave_up": cell["gave_up"]["text"] if cell["gave_up"] else None}
        | {name: _find(cell, path) for name, path in METRICS.items()}
        for cell in result["cells"]
    ]


def medians(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each strategy and number of clients: the medians of its trials, and the rate's range.

    What was given up has only what it was given up for. A strategy counts as given up where most of its trials were.
    """
    found = []
    all_rows = rows(result)
    for strategy in result["strategies"]:
        for clients in sorted(result["plan"]["clients"]):
            trials = [row for row in all_rows if (row["strategy"], row["clients"]) == (strategy, clients)]
            good = [row for row in trials if row["gave_up"] is None]
            base: dict[str, Any] = {"strategy": strategy, "clients": clients, "trials": len(trials), "good": len(good)}
            if len(good) * 2 > len(trials):
                values = {name: _median([row[name] for row in good]) for name in METRICS}
                rates = [row["rate"] for row in good]
                found.append(base | values | {"rate_least": min(rates), "rate_most": max(rates), "gave_up": None})
            else:
                reasons = [row["gave_up"] for row in trials if row["gave_up"]]
                why = reasons[0] if reasons else _why_not_tried(result, strategy, clients)
                found.append(base | dict.fromkeys(METRICS) | {"rate_least": None, "rate_most": None, "gave_up": why})
    return found


def findings(result: Mapping[str, Any]) -> list[str]:
    """What the figures say, a sentence for each finding."""
    return list(_find_all(result))


def _find_all(result: Mapping[str, Any]) -> Iterator[str]:
    if recorded_kind(result["broker"]) == EMBEDDED:
        yield f"These cells met {NOTICE}."
    table = medians(result)
    titles = {name: each["title"] for name, each in result["strategies"].items()}
    for clients in sorted(result["plan"]["clients"]):
        here = [row for row in table if row["clients"] == clients]
        done = sorted((row for row in here if row["gave_up"] is None), key=lambda row: -row["rate"])
        if not done:
            was_tried = any(row["trials"] for row in here)
            yield f"{clients:,} clients: {'no strategy got through' if was_tried else 'nothing was tried'}."
            continue
        best, worst = done[0], done[-1]
        yield f"{clients:,} clients: {len(done)} of {len(here)} strategies got through."
        yield (
            f"{clients:,} clients: the most was confirmed with {titles[best['strategy']]}, "
            f"{best['rate']:,.0f} messages/s"
            + (
                f", {best['rate'] / worst['rate']:.1f} times as many as with {titles[worst['strategy']]} "
                f"({worst['rate']:,.0f}/s)."
                if worst is not best and worst["rate"]
                else "."
            )
        )
        yield from _starved(clients, done, titles)
        yield from _compare(clients, done, titles, "client_rss_bytes", "memory of the client's process", _mib)
        yield from _compare(clients, done, titles, "client_cpu_us_per_message", "the client's processor time", _us)
        yield from _compare(clients, done, titles, "broker_cpu_us_per_message", "the broker's processor time", _us)
    yield from _ends(table, titles)
    yield from _company(result)


def _starved(clients: int, done: Cells, titles: Mapping[str, str]) -> Iterator[str]:
    for row in done:
        if row["fairness"] is not None and row["fairness"] < UNFAIR:
            yield (
                f"{clients:,} clients: with {titles[row['strategy']]} some publish far more than others (Jain's index "
                f"of fairness is {row['fairness']:.2f}), so that its median says little."
            )


def _compare(clients: int, done: Cells, titles: Mapping[str, str], metric: str, what: str, tell: Any) -> Iterator[str]:
    known = sorted((row for row in done if row[metric] is not None), key=lambda row: float(row[metric]))
    if len(known) > 1:
        least, most = known[0], known[-1]
        yield (
            f"{clients:,} clients: {what}: {tell(least[metric])} with {titles[least['strategy']]}, "
            f"{tell(most[metric])} with {titles[most['strategy']]}."
        )


def _ends(table: Cells, titles: Mapping[str, str]) -> Iterator[str]:
    for name, title in titles.items():
        for row in table:
            if row["strategy"] == name and row["gave_up"] is not None and row["trials"]:
                yield f"With {row['clients']:,} clients {title} was given up: {row['gave_up']}."
                break


def _company(result: Mapping[str, Any]) -> Iterator[str]:
    """Whether the machine was quiet: what others took while cells were measured."""
    others = [
        (each["machine_busy_seconds"] - each["client_cpu_seconds"] - (each["broker_cpu_seconds"] or 0.0)) / seconds
        for cell in result["cells"]
        if (each := cell["resources"]) and (seconds := cell["measured_seconds"]) and each["client_cpu_seconds"]
    ]
    if others and median(others) > MOST_COMPANY:
        yield (
            f"Other processes took {median(others):.1f} of {result['environment']['cores']} cores while cells were "
            "measured (the median): rates and latencies are theirs, too."
        )


def _why_not_tried(result: Mapping[str, Any], strategy: str, clients: int) -> str:
    for each in result["not_tried"]:
        if (each["strategy"], each["clients"]) == (strategy, clients):
            return f"not tried: given up with {each['because']['clients']:,} clients"
    return "not tried: interrupted before"


def _find(cell: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = cell
    for name in path:
        value = None if value is None else value.get(name)
    return value


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _us(microseconds: float) -> str:
    return f"{microseconds:,.0f} µs a message"
