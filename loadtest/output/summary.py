"""The readable end of a run: the result in a few lines, from the result alone.

What matters first: whether the run was all right, then rates and latencies, then what they cost, then how far to trust
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from loadtest.analysis.failures import blemishes
from loadtest.output.answer import describe_answer, describe_search
from loadtest.output.console import marked
from loadtest.output.naming import name_broker, name_published
from loadtest.output.scenes import scene_entries
from loadtest.units import format_bytes, format_count, format_duration, format_milliseconds, format_text

Result = Mapping[str, Any]
Entry = tuple[str, str]
"""A label and what is told under it, in rich's markup."""

_COLUMNS = ("p50", "p90", "p99", "p999", "max")
_NAMES = {"p999": "p99.9"}
_NARROW = 60
"""Columns below which a label stands above its text."""
_TABLE = 76
"""Columns that the table of latencies needs."""


def render_summary(result: Result, failures: Sequence[str]) -> RenderableType:
    """What a person wants to know of a run. It breaks its lines between words, however narrow the terminal is."""
    return _Summary(result, failures)


class _Summary:
    """Fits what is told into the columns that there are, and loses nothing of it."""

    def __init__(self, result: Result, failures: Sequence[str]) -> None:
        self._result = result
        self._failures = failures

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts(options.max_width):
            for line in console.render_lines(part, options, pad=False):
                yield from _without_blanks(line)
                yield Segment.line()

    def _parts(self, width: int) -> Iterator[RenderableType]:
        result = self._result
        for line in _headline(result, self._failures):
            yield marked(line)
        if answer := list(describe_answer(result)):
            yield _aligned(answer, width)
            yield Text()
        yield _aligned([*_connect(result), *_traffic(result), *_accounts(result), *scene_entries(result)], width)
        if latencies := list(_latencies(result)):
            yield Text()
            yield _table(latencies) if width >= _TABLE else _stacked(_listed(latencies))
        yield Text()
        yield _aligned([*_cost(result), *_verdict(result), *_requirements(result), *_errors(result)], width)


def _without_blanks(line: Sequence[Segment]) -> Iterator[Segment]:
    """A line without the blanks that a table puts at its end: no log needs them."""
    length = len("".join(segment.text for segment in line).rstrip())
    for segment in line:
        if length > 0:
            yield Segment(segment.text[:length], segment.style, segment.control)
        length -= len(segment.text)


def _stacked(entries: Iterable[Entry]) -> RenderableType:
    """Labels with their texts below them."""
    parts: list[RenderableType] = []
    for label, text in entries:
        parts += [marked(label)] if label else []
        parts.append(Padding(marked(text), (0, 0, 0, 2)))
    return Group(*parts)


def _aligned(entries: Sequence[Entry], width: int) -> RenderableType:
    """Labels with their texts beside them, or below them where that would leave too little room."""
    if width < _NARROW:
        return _stacked(entries)
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, width=9)
    grid.add_column(overflow="fold")
    for label, text in entries:
        grid.add_row(marked(label), marked(text))
    return grid


def _table(latencies: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("latency", style="bold", no_wrap=True)
    for name in (*_COLUMNS, "samples"):
        table.add_column(_NAMES.get(name, name), justify="right", no_wrap=True)
    for name, latency in latencies:
        cells = (format_milliseconds(latency[column]) for column in _COLUMNS)
        table.add_row(name, *cells, format_count(latency["count"]))
    return table


def _listed(latencies: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Entry]:
    for name, latency in latencies:
        cells = (f"{_NAMES.get(column, column)} {format_milliseconds(latency[column])}" for column in _COLUMNS)
        told = [*cells, f"{format_count(latency['count'])} samples"]
        yield f"[bold]{name}[/]", ", ".join(told)


def _headline(result: Result, failures: Sequence[str]) -> Iterator[str]:
    scenario, broker = result["scenario"], name_broker(result["environment"]["broker"])
    yield (
        f"[bold]{format_count(scenario['clients'])} clients[/] ({format_count(scenario['producers'])} producers, "
        f"{format_count(scenario['consumers'])} consumers, {format_count(scenario['callers'])} callers) · "
        f"{scenario['driver']} on {scenario['backend']} · {escape(broker)}"
    )
    if result["interrupted"]:
        yield "[bold yellow]interrupted[/]: this is what was measured until then"
    for text in result.get("incomplete", ()):
        yield f"[bold red]incomplete[/]: {_said(text)}"
    if failures:
        yield f"[bold red]failed[/]: {escape('; '.join(failures))}"
    elif not result["interrupted"] and not result.get("incomplete"):
        yield f"[bold green]ok[/]: no connection failed, {_losses(result)}"
    if found := blemishes(result):
        yield f"[bold yellow]but[/]: {escape('; '.join(found))}"


def _losses(result: Result) -> str:
    """What is known of them: of what is published for others to take, who took it isn't."""
    publish, consume = result["publish"], result["consume"]
    if not publish or (consume and consume["lost"] is not None):
        return "nothing was lost"
    hint = "" if result["scenario"].get("mandatory") else " (--mandatory tells what no queue took)"
    return f"what became of the messages is not known here{hint}"


def _connect(result: Result) -> Iterator[Entry]:
    connect = result["connect"]
    latency, memory = connect["latency_ms"], connect["client_bytes_per_connection"]
    each = "" if memory is None else f", {format_bytes(memory)} each here"
    yield (
        "connect",
        f"{format_count(connect['connections'])} connections in {format_duration(connect['seconds'])} "
        f"({format_count(connect['rate'] or 0)}/s), handshake p50 {format_milliseconds(latency['p50'])}, "
        f"max {format_milliseconds(latency['max'])}{each}",
    )


def _traffic(result: Result) -> Iterator[Entry]:
    rates = []
    for section, verb in (("publish", name_published(result)), ("consume", "consumed"), ("rpc", "RPC replies")):
        if result[section] and result[section]["rate"] is not None:
            rates.append(f"[bold]{format_count(result[section]['rate'])}/s[/] {verb}")
    measured = next((phase["seconds"] for phase in result["phases"] if phase["name"] == "measure"), None)
    if rates and measured is not None:
        yield "rates", f"{', '.join(rates)} (over {format_duration(measured)}, {result['loop'] or 'mixed'} loop)"
    yield from describe_search(result)


def _accounts(result: Result) -> Iterator[Entry]:
    publish, consume, rpc = result["publish"], result["consume"], result["rpc"]
    has_search = bool(result.get("capacity"))
    if publish:
        planned, skipped = _plan(publish, has_search=has_search)
        kinds = ("unconfirmed", "nacked", "returned", "unknown")
        parts = [f"{format_count(publish[name])} {name}" for name in kinds if publish.get(name)]
        yield (
            "published",
            f"{planned}{format_count(publish['sent'])} sent, {format_count(publish['confirmed'])} confirmed"
            f"{''.join(', ' + part for part in parts)}{skipped}",
        )
    if consume:
        lost = "unknown" if consume["lost"] is None else format_count(consume["lost"])
        backlog = "unknown" if consume["backlog"] is None else format_count(consume["backlog"])
        kinds = ("requeued", "rejected", "corrupted", "foreign")
        others = "".join(f", {format_count(consume[kind])} {kind}" for kind in kinds if consume.get(kind))
        copies = consume.get("copies_per_message", 1)
        others += f", {copies} copies a message" if copies > 1 else ""
        others += " (lost of what was sent: nothing was confirmed)" if consume.get("lost_of") == "sent" else ""
        yield (
            "received",
            f"{format_count(consume['unique'])} unique, {format_count(consume['duplicates'])} duplicates, "
            f"[bold]{lost} lost[/], {backlog} left in the queues{others}",
        )
    if rpc:
        planned, skipped = _plan(rpc, has_search=has_search)
        yield (
            "RPC",
            f"{planned}{format_count(rpc['calls'])} calls, {format_count(rpc['replies'])} replies, "
            f"{format_count(rpc['timeouts'])} timeouts, {format_count(rpc['errors'])} errors{skipped}",
        )


def _plan(section: Mapping[str, Any], *, has_search: bool) -> tuple[str, str]:
    """What was planned and what of it was skipped, in words; nothing in a closed loop."""
    if has_search:  # most of what was sent was no part of the plan: that is told by itself
        return "", ""
    planned = f"{format_count(section['planned'])} planned, " if section["planned"] is not None else ""
    return planned, f", {format_count(section['skipped'])} skipped" if section["skipped"] else ""


def _latencies(result: Result) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for section, key, name in (
        ("publish", "confirm_latency_ms", "confirm"),
        ("publish", "confirm_service_ms", "· once sent"),
        ("publish", "lag_ms", "· sent late by"),
        ("consume", "end_to_end_latency_ms", "end to end"),
        ("rpc", "latency_ms", "RPC"),
        ("rpc", "service_ms", "· once called"),
    ):
        latency = result[section] and result[section][key]
        if latency and latency["count"] and not (name.startswith("· once") and result["loop"] == "closed"):
            yield name, latency


def _cost(result: Result) -> Iterator[Entry]:
    used = result["resources"]
    for side in ("client", "broker"):
        cpu, each, rss = (used[f"{side}_{name}"] for name in ("cpu_seconds", "cpu_us_per_message", "rss_peak_bytes"))
        if cpu is not None:
            per_message = f" ({each:.1f} µs a message)" if each is not None else ""
            yield side, f"{cpu:.1f} s of processor time{per_message}, at most {format_bytes(rss)}"
    if told := result.get("management"):
        yield "broker", _told(told)


def _told(management: Mapping[str, Any]) -> str:
    """What the broker says of itself."""
    if not management["readings"]:
        return f"[yellow]unknown[/]: {_said(management['error'] or 'nothing was asked')}"
    cpu, memory = management["cpu_seconds"], management["memory_peak_bytes"]
    parts = [f"at most {format_bytes(memory)}"] if memory is not None else []
    parts += [f"{cpu:.1f} s of processor time"] if cpu is not None else []
    parts += [f"{format_count(number)} {name}" for name, number in management["counted"].items() if number]
    notes = [_said(text) for text in (management["note"], management["error"]) if text is not None]
    note = f" ({'; '.join(notes)})" if notes else ""
    told = ", ".join(parts) or "nothing"
    seconds = f" in {format_duration(management['seconds'])}" if management["readings"] > 1 else ", at one moment"
    return f"by its own account {told}{seconds}{note}"


def _verdict(result: Result) -> Iterator[Entry]:
    verdict = result["verdict"]
    yield "verdict", f"[bold]{verdict['status']}[/]"
    yield from (("", escape(text)) for text in verdict["evidence"])


def _requirements(result: Result) -> Iterator[Entry]:
    for finding in result.get("requirements", ()):
        mark = "[green]✓[/]" if finding["holds"] else "[red]✗[/]"
        yield "required", f"{mark} {escape(finding['requirement'])} ({escape(finding['note'])})"


def _errors(result: Result) -> Iterator[Entry]:
    for name, count in sorted(result["errors"].items(), key=lambda item: -item[1]):
        example = result["error_examples"].get(name, "")
        yield "[red]error[/]", f"{format_count(count)} × {_said(name)}: {_said(example)}"


def _said(text: str) -> str:
    """What a broker or a library says, as text and nothing else."""
    return escape(format_text(text))
