"""The page of `strategies`: Markdown, made from its result alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loadtest.analysis.strategies import medians
from loadtest.output.naming import name_broker

_COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("clients", "clients", lambda value: f"{value:,}"),
    ("rate", "confirmed/s", lambda value: f"{value:,.0f}"),
    ("confirm_mean_ms", "mean ms", lambda value: f"{value:,.1f}"),
    ("confirm_p50_ms", "p50 ms", lambda value: f"{value:,.1f}"),
    ("confirm_p99_ms", "p99 ms", lambda value: f"{value:,.1f}"),
    ("connect_seconds", "connected in s", lambda value: f"{value:,.1f}"),
    ("client_rss_bytes", "client MiB", lambda value: f"{value / 2**20:,.0f}"),
    ("client_cpu_us_per_message", "client µs a message", lambda value: f"{value:,.0f}"),
    ("client_threads", "threads", lambda value: f"{value:,.0f}"),
    ("broker_cpu_us_per_message", "broker µs a message", lambda value: f"{value:,.0f}"),
    ("broker_rss_peak_bytes", "broker MiB", lambda value: f"{value / 2**20:,.0f}"),
)


def render_page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_lines(result)) + "\n"


def _place(result: Mapping[str, Any]) -> str:
    return "a virtual host" if result["broker"].get("private_node", True) else "queues"


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    plan, environment = result["plan"], result["environment"]
    yield "# Ways to serve many clients"
    yield ""
    yield (
        f"The same work for each strategy: half of the clients publish persistent messages of {plan['size']} bytes, "
        f"one at a time, each confirmed; half consume with a prefetch of {plan['prefetch']} and acknowledge each. For "
        f"each number of clients there are trials of {plan['seconds']:g} s, {plan['trials']} of each strategy, in an "
        f"order drawn from seed {plan['seed']}, each in a process and on {_place(result)} of its own. {result['rule']}"
    )
    yield ""
    yield (
        f"{name_broker(result['broker'])}, "
        f"Python {environment.get('python', '')}, {environment.get('cores', '')} cores; {result['started_at']}"
        + ("." if result["finished"] else ". It was not finished: what was not tried is missing.")
    )
    yield ""
    yield "## What was found"
    yield ""
    for finding in result["findings"]:
        yield f"- {finding}"
    table = medians(result)
    for name, strategy in result["strategies"].items():
        yield ""
        yield f"## {strategy['title'][0].upper()}{strategy['title'][1:]}"
        yield ""
        yield f"`{name}`, driver `{strategy['driver']}`; {strategy['source']}."
        yield ""
        yield "| " + " | ".join(title for _, title, _ in _COLUMNS) + " |"
        yield "|" + "---:|" * len(_COLUMNS)
        for row in table:
            if row["strategy"] == name:
                yield _row(row)
    yield ""
    yield (
        "Medians of the trials. Memory of the client is its process's; of the broker the most while measuring, and it "
        "serves all cells one after the other. Processor time is for each confirmed message, both ends of its way "
        "included. p99 needs 1,000 samples."
    )


def _row(row: Mapping[str, Any]) -> str:
    if row["gave_up"] is not None:
        return f"| {row['clients']:,} | {row['gave_up']} |" + " |" * (len(_COLUMNS) - 2)
    told = ("–" if row[name] is None else tell(row[name]) for name, _, tell in _COLUMNS)
    return "| " + " | ".join(told) + " |"
