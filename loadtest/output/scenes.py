"""What a scenario found, in a few lines of the summary, from the result alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape

from loadtest.output.naming import name_published
from loadtest.units import format_bytes, format_count, format_duration, format_milliseconds

Result = Mapping[str, Any]
Entry = tuple[str, str]


def scene_entries(result: Result) -> Iterator[Entry]:
    """A label and its text for each thing there is to tell."""
    if result["scenario"].get("scenario") == "storm":
        yield from _storm(result)
    for name, tell in _TOLD.items():
        if result.get(name):
            yield from tell(result[name])


def _storm(result: Result) -> Iterator[Entry]:
    cost, latency = result["connect_cost"], result["connect"]["latency_ms"]
    waits = ", ".join(
        f"{name} {format_milliseconds(latency[key])}"
        for name, key in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("max", "max"))
        if latency[key] is not None
    )
    costs = ", ".join(
        f"{cost[f'{side}_cpu_ms_per_connection']:.2f} ms of the {side}'s processor"
        for side in ("client", "broker")
        if cost[f"{side}_cpu_ms_per_connection"] is not None
    )
    yield "storm", f"until connected {waits}; each connection cost {costs or 'what is not known'}"


def _churn(churn: Result) -> Iterator[Entry]:
    steps = ", ".join(
        f"{name} {format_milliseconds(churn[f'{name}_ms']['p50'])}" for name in ("connect", "work", "close", "round")
    )
    rate = "unknown" if churn["rate"] is None else f"{format_count(churn['rate'])}/s"
    yield "churn", f"[bold]{rate}[/] rounds of connecting, sending and closing; p50 of {steps}"


def _backlog(backlog: Result) -> Iterator[Entry]:
    size = f"{format_count(backlog['built'])} messages, {format_bytes(backlog['built_bytes'])}"
    if backlog["drain_seconds"] is None:
        yield "backlog", f"{size}: consumers had not caught up when the run ended"
        return
    drained = f"taken in [bold]{format_duration(backlog['drain_seconds'])}[/], {format_count(backlog['drain_rate'])}/s"
    meanwhile = backlog["published_meanwhile"]
    more = f", while {format_count(meanwhile)} more were published" if meanwhile else ""
    yield "backlog", f"{size}: {drained}{more}"


def _queues(queues: Result) -> Iterator[Entry]:
    declare, delete = (format_milliseconds(queues[name]["mean"]) for name in ("declare_ms", "delete_ms"))
    cost = [
        text
        for value, text in (
            (queues["broker_bytes_per_queue"], f"{format_bytes(queues['broker_bytes_per_queue'])} of the broker"),
            (queues["broker_cpu_ms_per_queue"], f"{queues['broker_cpu_ms_per_queue']} ms of its processor"),
        )
        if value is not None
    ]
    each = f"; each took {' and '.join(cost)}" if cost else ""
    yield "queues", f"{format_count(queues['declared'])}: declared in {declare}, deleted in {delete} (mean){each}"


def tell_fault(fault: Result) -> str:
    """What a fault has cost, as plain text: silences, and what was left of messages and connections."""
    told = [
        f"{gap} without a {name}{_recovery(fault, name)}"
        for name in ("confirm", "delivery")
        if (gap := _gap(fault, name)) is not None
    ]
    counts = [
        f"{format_count(fault[name])} {name.replace('_', ' ')}"
        for name in ("killed", "reconnected", "dropped", "unknown", "redelivered", "duplicates")
        if fault.get(name)
    ]
    return ", ".join([*told, *counts])


def _faults(faults: list[Result]) -> Iterator[Entry]:
    for fault in faults:
        whose = f" ({fault['workload']})" if fault.get("workload") else ""
        yield "fault", f"{escape(fault['fault'])}{whose}: {tell_fault(fault)}"


def _gap(fault: Result, name: str) -> str | None:
    seconds = fault.get(f"{name}_outage_seconds")
    return None if seconds is None else format_milliseconds(seconds * 1000)


def _recovery(fault: Result, name: str) -> str:
    seconds = fault.get(f"{name}_recovery_seconds")
    return "" if seconds is None else f" (as before after {format_milliseconds(seconds * 1000)})"


def _sweep(sweep: Result) -> Iterator[Entry]:
    for step in sweep["steps"]:
        latency = format_milliseconds(step["response_ms"].get(sweep["knee_of"]))
        mark = "" if step["put_on"] else " [red]not put on[/]"
        rate = f"{format_count(round(step['achieved_rate'])):>9}/s"
        yield "sweep", f"{step['share']:>4.0%} {rate}  {sweep['knee_of']} {latency}{mark}"
    for knee in sweep["knees"]:
        yield "knee", f"[bold]{format_count(round(knee['rate']))}/s[/] by {escape(knee['by'])}"
    if not sweep["knees"]:
        yield "knee", "none: latency did not turn up"


def _workloads(workloads: list[Result]) -> Iterator[Entry]:
    for workload in workloads:
        parts = []
        for section, verb, latency in (
            ("publish", name_published(workload), "confirm_latency_ms"),
            ("consume", "consumed", "end_to_end_latency_ms"),
            ("rpc", "replies", "latency_ms"),
        ):
            own = workload[section]
            if own and own["rate"] is not None:
                p99 = (own[latency] or {}).get("p99")
                parts.append(
                    f"{format_count(own['rate'])}/s {verb}" + (f", p99 {format_milliseconds(p99)}" if p99 else "")
                )
        yield "workload", f"[bold]{escape(workload['name'])}[/] ({workload['loop']} loop): {'; '.join(parts)}"


_TOLD: Mapping[str, Any] = {
    "churn": _churn,
    "backlog": _backlog,
    "queues": _queues,
    "faults": _faults,
    "sweep": _sweep,
    "workloads": _workloads,
}
