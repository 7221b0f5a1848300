"""The readable end of a run: the result in a few lines, from the result alone.

What matters first: whether the run was all right, then rates and latencies, then what they cost, then how far to trust
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.analysis.result import blemishes
from loadtest.units import format_bytes, format_count, format_duration, format_milliseconds, format_text

Result = Mapping[str, Any]
_COLUMNS = ("p50", "p90", "p99", "p999", "max")


def render_summary(result: Result, failures: Sequence[str]) -> RenderableType:
    """What a person wants to know of a run."""
    lines = [*_headline(result, failures), *_connect(result), *_traffic(result), *_accounts(result)]
    parts: list[RenderableType] = [Text.from_markup("\n".join(lines))]
    if (table := _latencies(result)).row_count:
        parts += [Text(), table]
    parts += [Text(), Text.from_markup("\n".join((*_cost(result), *_verdict(result), *_errors(result))))]
    return Group(*parts)


def _headline(result: Result, failures: Sequence[str]) -> Iterator[str]:
    scenario, broker = result["scenario"], result["environment"]["broker"]
    yield (
        f"[bold]{format_count(scenario['clients'])} clients[/] ({format_count(scenario['producers'])} producers, "
        f"{format_count(scenario['consumers'])} consumers, {format_count(scenario['callers'])} callers) · "
        f"{scenario['driver']} on {scenario['backend']} · {_said(broker.get('product', 'broker'))} "
        f"{_said(broker.get('version', ''))}"
        f"{' (private node)' if broker.get('private_node') else ''}"
    )
    if result["interrupted"]:
        yield "[bold yellow]interrupted[/]: this is what was measured until then"
    if failures:
        yield f"[bold red]failed[/]: {'; '.join(failures)}"
    elif not result["interrupted"]:
        yield "[bold green]ok[/]: no connection failed, nothing was lost"
    if found := blemishes(result):
        yield f"[bold yellow]but[/]: {'; '.join(found)}"


def _connect(result: Result) -> Iterator[str]:
    connect = result["connect"]
    latency, memory = connect["latency_ms"], connect["client_bytes_per_connection"]
    each = "" if memory is None else f", {format_bytes(memory)} each here"
    yield (
        f"connect   {format_count(connect['connections'])} connections in {format_duration(connect['seconds'])} "
        f"({format_count(connect['rate'] or 0)}/s), handshake p50 {format_milliseconds(latency['p50'])}, "
        f"max {format_milliseconds(latency['max'])}{each}"
    )


def _traffic(result: Result) -> Iterator[str]:
    rates = []
    for section, verb in (("publish", "confirmed"), ("consume", "consumed"), ("rpc", "RPC replies")):
        if result[section] and result[section]["rate"] is not None:
            rates.append(f"[bold]{format_count(result[section]['rate'])}/s[/] {verb}")
    measured = next((phase["seconds"] for phase in result["phases"] if phase["name"] == "measure"), None)
    if rates and measured is not None:
        yield f"rates     {', '.join(rates)} (over {format_duration(measured)}, {result['loop']} loop)"


def _accounts(result: Result) -> Iterator[str]:
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    if publish:
        planned, skipped = _plan(publish)
        parts = [f"{format_count(publish[name])} {name}" for name in ("nacked", "returned", "unknown") if publish[name]]
        yield (
            f"published {planned}{format_count(publish['sent'])} sent, {format_count(publish['confirmed'])} confirmed"
            f"{''.join(', ' + part for part in parts)}{skipped}"
        )
    if consume:
        lost = "unknown" if consume["lost"] is None else format_count(consume["lost"])
        backlog = "unknown" if consume["backlog"] is None else format_count(consume["backlog"])
        yield (
            f"received  {format_count(consume['unique'])} unique, {format_count(consume['duplicates'])} duplicates, "
            f"[bold]{lost} lost[/], {backlog} left in the queues"
        )
    if rpc:
        planned, skipped = _plan(rpc)
        yield (
            f"RPC       {planned}{format_count(rpc['calls'])} calls, {format_count(rpc['replies'])} replies, "
            f"{format_count(rpc['timeouts'])} timeouts, {format_count(rpc['errors'])} errors{skipped}"
        )


def _plan(section: Mapping[str, Any]) -> tuple[str, str]:
    """What was planned and what of it was skipped, in words; nothing in a closed loop."""
    planned = f"{format_count(section['planned'])} planned, " if section["planned"] is not None else ""
    return planned, f", {format_count(section['skipped'])} skipped" if section["skipped"] else ""


def _latencies(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("latency", style="bold")
    for name in (*_COLUMNS, "samples"):
        table.add_column("p99.9" if name == "p999" else name, justify="right")
    for section, key, name in (
        ("publish", "confirm_latency_ms", "confirm"),
        ("publish", "confirm_service_ms", "· once sent"),
        ("publish", "lag_ms", "· sent late by"),
        ("consume", "end_to_end_latency_ms", "end to end"),
        ("rpc", "latency_ms", "RPC"),
        ("rpc", "service_ms", "· once called"),
    ):
        latency = result[section] and result[section][key]
        if not latency or not latency["count"] or (name.startswith("· once") and result["loop"] == "closed"):
            continue
        cells = (format_milliseconds(latency[column]) for column in _COLUMNS)
        table.add_row(name, *cells, format_count(latency["count"]))
    return table


def _cost(result: Result) -> Iterator[str]:
    used = result["resources"]
    for side in ("client", "broker"):
        cpu, each, rss = (used[f"{side}_{name}"] for name in ("cpu_seconds", "cpu_us_per_message", "rss_peak_bytes"))
        if cpu is not None:
            per_message = f" ({each:.1f} µs a message)" if each is not None else ""
            yield f"{side:<10}{cpu:.1f} s of processor time{per_message}, at most {format_bytes(rss)}"


def _verdict(result: Result) -> Iterator[str]:
    verdict = result["verdict"]
    yield f"verdict   [bold]{verdict['status']}[/]"
    yield from (f"          {escape(text)}" for text in verdict["evidence"])


def _errors(result: Result) -> Iterator[str]:
    for name, count in sorted(result["errors"].items(), key=lambda item: -item[1]):
        example = result["error_examples"].get(name, "")
        yield f"[red]error[/]     {format_count(count)} × {_said(name)}: {_said(example)}"


def _said(text: str) -> str:
    """What a broker or a library says, as text and nothing else."""
    return escape(format_text(text))
