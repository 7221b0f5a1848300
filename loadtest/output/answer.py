"""What a run that sought its rate found, in four lines: how much, how fast, at what cost, and who was the limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape

from loadtest.units import format_bytes, format_count, format_milliseconds

Result = Mapping[str, Any]
Entry = tuple[str, str]
"""A label and what is told under it, in rich's markup."""

_LIMITS = {
    "broker-bound": "the broker",
    "generator-bound": "this load generator, and not the broker: the broker may bear more",
    "machine-bound": "this machine, whose {cores} cores both ends share",
}
_TOLD = (
    ("publish", "confirm_latency_ms", "confirm"),
    ("consume", "end_to_end_latency_ms", "end to end"),
    ("rpc", "latency_ms", "RPC"),
)
_SHARES = {0.25: "a quarter", 0.5: "half", 0.75: "three quarters", 1.0: "all"}


def describe_answer(result: Result) -> Iterator[Entry]:
    """The headline; nothing if no rate was sought."""
    capacity = result.get("capacity")
    if not capacity:
        return
    yield "kept up", _kept_up(result, capacity)
    if latencies := list(_latencies(result)):
        yield "latency", f"{_at(capacity)}: {'; '.join(latencies)}"
    if costs := list(_costs(result["resources"])):
        yield "cost", "; ".join(costs)
    yield "limit", _limit(result, capacity)


def describe_search(result: Result) -> Iterator[Entry]:
    """Which rates were tried, and what became of them."""
    capacity = result.get("capacity")
    if not capacity:
        return
    tried = [
        f"{format_count(round(step['rate']))}{' for longer' if step['is_verification'] else ''} "
        f"{'[green]✓[/]' if step['held'] else '[red]✗[/]'}"
        for step in capacity["steps"]
    ]
    found = f"; tried each second: {', '.join(tried)}" if tried else ""
    yield "search", f"a closed loop did {format_count(capacity['closed_rate'])}/s{found}"
    planned = [
        f"{format_count(counts['planned'] - counts['skipped'])} of {format_count(counts['planned'])} planned {what}"
        for section, what in (("publish", "messages"), ("rpc", "calls"))
        if (counts := result[section]) and counts["planned"]
    ]
    if planned:
        yield "paced", f"{' and '.join(planned)} were sent"


def _kept_up(result: Result, capacity: Mapping[str, Any]) -> str:
    rate = capacity["sustainable_rate"]
    clients = f"{format_count(result['scenario']['clients'])} clients"
    if rate is None:
        return f"[bold]no rate that was tried[/], by {clients}"
    step = next(step for step in reversed(capacity["steps"]) if step["is_verification"] and step["held"])
    if not result["publish"]:
        return f"[bold]{format_count(round(rate))} calls/s[/], by {clients}"
    done = "published, confirmed and consumed" if result["scenario"].get("consumers") else "published and confirmed"
    calls = f", and {format_count(round(step['reply_rate']))} RPC calls/s" if result["rpc"] else ""
    return f"[bold]{format_count(round(rate))} messages/s[/] {done}{calls}, by {clients}"


def _at(capacity: Mapping[str, Any]) -> str:
    share, rate = capacity["share"], f"{format_count(round(capacity['paced_rate']))}/s"
    if capacity["sustainable_rate"] is None:
        return f"at {rate}"
    return f"at {_SHARES.get(share, f'{share:.0%}')} of that, {rate}"


def _latencies(result: Result) -> Iterator[str]:
    for section, key, name in _TOLD:
        latency = result[section] and result[section].get(key)
        if latency and latency["count"]:
            highest = next((each for each in ("p99", "p90", "p50", "max") if latency[each] is not None), "max")
            shown = dict.fromkeys(each for each in ("p50", highest) if latency[each] is not None)
            yield f"{name} {', '.join(f'{each} {format_milliseconds(latency[each])}' for each in shown)}"


def _costs(used: Mapping[str, Any]) -> Iterator[str]:
    for side in ("client", "broker"):
        each, memory = used[f"{side}_cpu_us_per_message"], used[f"{side}_rss_peak_bytes"]
        if each is not None:
            yield f"{side} {each:.0f} µs of processor time a message, {format_bytes(memory)} of memory"


def _limit(result: Result, capacity: Mapping[str, Any]) -> str:
    verdict, cores = capacity["verdict"], result["environment"].get("cores")
    limit = _LIMITS.get(verdict["status"])
    if limit is None:
        doubts = [text.removeprefix("doubt: ") for text in verdict["evidence"] if text.startswith("doubt: ")]
        return f"not to be told: {escape(doubts[0] if doubts else verdict['evidence'][-1])}"
    return f"[bold]{limit.format(cores=cores)}[/]"
