"""What is told of results, as headlines and tables of plain text: Markdown and the page say the same.

It owns which figures are told and what they are called, not how they look. What must stay true: text of a broker, of a
library or of a user is made harmless here (no controls, no passwords); whoever prints it still escapes it for his own
format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.analysis.failures import blemishes, failures
from loadtest.output.console import marked
from loadtest.output.naming import name_broker, name_published, name_runs, said
from loadtest.output.scenes import scene_entries, tell_fault
from loadtest.output.trials import tell_cells
from loadtest.output.ways import gave_up, read_strategies
from loadtest.scenarios.variations import name_cell
from loadtest.units import format_bytes, format_count, format_duration, format_milliseconds

Result = Mapping[str, Any]

_WORD = re.compile(r"[^\W\d_]{4}")
"""What no number with its unit has in it."""
_PERCENTILES = ("min", "p50", "p90", "p95", "p99", "p999", "p9999", "max")
_NAMES = {"p999": "p99.9", "p9999": "p99.99"}
LATENCIES = (
    ("connect", "latency_ms", "connect"),
    ("publish", "confirm_latency_ms", "confirm"),
    ("publish", "confirm_service_ms", "confirm, once sent"),
    ("publish", "lag_ms", "sent late by"),
    ("consume", "end_to_end_latency_ms", "end to end"),
    ("rpc", "latency_ms", "RPC"),
    ("rpc", "service_ms", "RPC, once called"),
)
EXPLAINED = (
    "A latency counts from the moment when its message was meant to leave; “once sent” counts from when it left. "
    "– stands where there are too few samples to tell."
)


@dataclass(frozen=True)
class Table:
    """A table: of its columns the first has the rows' names."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def is_number(self, column: int) -> bool:
        """Whether a column has numbers, which stand under each other and on one line, and not text."""
        cells = (row[column] for row in self.rows)
        return all(
            cell == "–" or (cell[:1].isdecimal() and len(cell) < 20 and not _WORD.search(cell)) for cell in cells
        )


def outcome_of(result: Result) -> tuple[str, list[str]]:
    """Whether the run was all right ("ok", "failed", "incomplete" or "interrupted"), and why not."""
    found = _failures_of_trials(result["trials"]) if result.get("trials") else failures(result)
    missing = list(result.get("incomplete") or ())
    if found:
        return "failed", [said(each) for each in (*found, *missing)]
    if result["interrupted"]:
        return "interrupted", ["this is what was measured until then"]
    if missing:
        return "incomplete", [said(each) for each in missing]
    return "ok", [said(each) for each in blemishes(result)]


def _failures_of_trials(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each reason once, with the cell in which it was."""
    found = [(name_cell(tuple(each["cell"].items())), text) for each in trials for text in each["failures"]]
    return list(dict.fromkeys(f"{cell}: {text}" for cell, text in found))


def headline_of(result: Result) -> str:
    """What came of a run, in a sentence."""
    clients = f"{format_count(result['scenario']['clients'])} clients"
    what = ", ".join(_done(result)) or "nothing was measured"
    capacity = result.get("capacity") or {}
    if capacity.get("sustainable_rate") is None:
        return f"{clients}: {what}"
    share = f"{capacity['share']:.0%} of it" if capacity.get("share") else "a share of it"
    return f"{clients} kept up {format_count(round(capacity['sustainable_rate']))}/s; at {share}: {what}"


def _done(result: Result) -> Iterator[str]:
    for section, key, verb in (
        ("publish", "confirm_latency_ms", name_published(result)),
        ("consume", "end_to_end_latency_ms", "consumed"),
        ("rpc", "latency_ms", "RPC"),
    ):
        found = result.get(section)
        if found and found.get("rate") is not None:
            latency = found.get(key) or {}
            slow = next((name for name in ("p99", "max") if latency.get(name) is not None), None)
            waits = f" ({slow} {format_milliseconds(latency[slow])})" if slow else ""
            yield f"{format_count(round(found['rate']))}/s {verb}{waits}"


def title_of(results: Sequence[Mapping[str, Any]]) -> str:
    """What a report of these results is called."""
    runs = [result for result in results if "timeline" in result]
    if len(runs) == 1:
        return headline_of(runs[0])
    return f"Load test: {len(runs)} runs" if runs else "Ways to serve many clients"


def setting_of(result: Result) -> str:
    """Who loaded what, in a line."""
    scenario, where = result["scenario"], name_broker(result["environment"].get("broker"))
    loop = {"open": "open loop, on a schedule", "closed": "closed loop"}.get(result["loop"], "")
    return said(f"{scenario.get('driver')} on {scenario.get('backend')} · {where} · {loop} · {result['started_at']}")


def tables_of(results: Sequence[Result]) -> Iterator[Table]:
    """Every table of these results: each figure in a row, each run in a column."""
    if rows := [row for result in results for row in read_strategies(result)]:
        yield _strategies(rows)
    runs = [result for result in results if "timeline" in result]
    if not runs:
        return
    names = name_runs(runs) if len(runs) > 1 else [""]
    if any(result.get("requirements") for result in runs):
        yield _requirements(runs, names)
    yield from _trials(runs, names)
    yield _figures("Rates", runs, names, _rates(runs))
    if any(result.get("capacity") for result in runs):
        yield _figures("Capacity", runs, names, _CAPACITY)
    yield _latencies(runs, names)
    yield from _steps(runs, names)
    yield _figures("Account", runs, names, _ACCOUNT, note="Of the whole run, from the warm-up to the end of the drain.")
    if found := [*_scenes(runs, names)]:
        yield Table("Scenario", ("", "what was found"), found)
    yield _figures("Cost", runs, names, _COST)
    if errors := [*_errors(runs, names)]:
        yield Table("Errors", ("error", "times", "example"), errors)
    if faults := [*_faults(runs, names)]:
        note = "Seconds count from the beginning of the measurement."
        yield Table("Faults", ("fault", "at", "what it cost", *(["run"] if len(runs) > 1 else [])), faults, note)
    yield _figures("Environment", runs, names, _ENVIRONMENT)
    yield Table("Phases", ("", *names), [*_phases(runs)])


# --- figures: where each stands, and how it reads -----------------------------------------------------------------

Format = Callable[[Any], str]
Figure = tuple[str, tuple[str, ...], Format]


def _rate(value: float) -> str:
    return f"{format_count(value)}/s"


def _cpu(value: float) -> str:
    return f"{value:,.1f} µs"


def _seconds(value: float) -> str:
    return f"{value:,.1f} s"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _rates(runs: Sequence[Result]) -> tuple[Figure, ...]:
    verbs = {name_published(result) for result in runs if result.get("publish")}
    return (
        ("published" if len(verbs) > 1 else "".join(verbs), ("publish", "rate"), _rate),
        ("consumed", ("consume", "rate"), _rate),
        ("RPC replies", ("rpc", "rate"), _rate),
        ("connections opened", ("connect", "rate"), _rate),
    )


_CAPACITY: tuple[Figure, ...] = (
    ("sustainable", ("capacity", "sustainable_rate"), _rate),
    ("in a closed loop", ("capacity", "closed_rate"), _rate),
    ("measured at a share of", ("capacity", "share"), _share),
)
_STEP = {
    "rate": "rate tried (1/s)",
    "confirmed_rate": "confirmed (1/s)",
    "consumed_rate": "consumed (1/s)",
    "reply_rate": "RPC (1/s)",
    "response_p99_ms": "p99 (ms)",
    "held": "sustained",
    "reason": "reason",
}
"""What is told of each step of the search."""
_ACCOUNT: tuple[Figure, ...] = (
    *((f"connections {name}", ("connect", name), format_count) for name in ("failed", "dropped", "reconnected")),
    ("connections", ("connect", "connections"), format_count),
    *(
        (f"publishes {name}", ("publish", name), format_count)
        for name in ("planned", "skipped", "sent", "confirmed", "nacked", "returned", "unknown")
    ),
    ("publishes unconfirmed", ("publish", "unconfirmed"), format_count),
    ("publishers blocked", ("publish", "blocked_seconds"), _seconds),
    *(
        (f"messages {name}", ("consume", name), format_count)
        for name in ("received", "unique", "duplicates", "redelivered", "resurrected", "lost", "foreign")
    ),
    *((f"messages {name}", ("consume", name), format_count) for name in ("requeued", "rejected", "corrupted")),
    ("messages left in queues", ("consume", "backlog"), format_count),
    *(
        (f"RPC {name}", ("rpc", name), format_count)
        for name in ("planned", "skipped", "calls", "replies", "timeouts", "errors")
    ),
)
_RARE = ("unconfirmed", "requeued", "rejected", "corrupted")
"""Counts that are told only where there are any."""
_COST: tuple[Figure, ...] = (
    ("client's CPU a message", ("resources", "client_cpu_us_per_message"), _cpu),
    ("broker's CPU a message", ("resources", "broker_cpu_us_per_message"), _cpu),
    ("client's CPU", ("resources", "client_cpu_seconds"), _seconds),
    ("broker's CPU", ("resources", "broker_cpu_seconds"), _seconds),
    ("client's memory, at most", ("resources", "client_rss_peak_bytes"), format_bytes),
    ("broker's memory, at most", ("resources", "broker_rss_peak_bytes"), format_bytes),
    ("client's memory a connection", ("connect", "client_bytes_per_connection"), format_bytes),
    ("event loop late, p99", ("resources", "loop_lateness_ms", "p99"), format_milliseconds),
    ("event loop late, max", ("resources", "loop_lateness_ms", "max"), format_milliseconds),
)
_ENVIRONMENT: tuple[Figure, ...] = (
    ("broker", ("environment", "broker", "product"), said),
    ("its kind", ("environment", "broker", "kind"), said),
    ("its version", ("environment", "broker", "version"), said),
    ("its platform", ("environment", "broker", "platform"), said),
    ("processor", ("environment", "cpu"), said),
    ("cores", ("environment", "cores"), str),
    ("memory", ("environment", "memory_bytes"), format_bytes),
    ("kernel", ("environment", "kernel"), said),
    ("Python", ("environment", "python"), said),
    ("event loop", ("environment", "backend"), said),
    ("packages", ("environment", "packages"), lambda each: _joined(each)),
    ("load before the run", ("environment", "load_before"), lambda each: ", ".join(map(said, each))),
    ("commit", ("environment", "commit"), said),
    ("seed", ("environment", "seed"), str),
    ("labels", ("scenario", "labels"), lambda each: _joined(each)),
    ("run", ("run_id",), said),
    ("started", ("started_at",), said),
)


def _joined(pairs: Mapping[str, Any]) -> str:
    return ", ".join(f"{said(name)} {said(value)}" for name, value in pairs.items() if value is not None)


def _figures(
    title: str, runs: Sequence[Result], names: Sequence[str], figures: Sequence[Figure], note: str = ""
) -> Table:
    rows = []
    for label, path, form in figures:
        values = [_at(result, path) for result in runs]
        if any(values) if path[-1] in _RARE else any(value is not None and value != {} for value in values):
            rows.append((label, *("–" if value is None else form(value) for value in values)))
    return Table(title, ("", *names), rows, note)


def _at(result: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(result, Mapping):
            return None
        result = result.get(name)
    return result


# --- tables -------------------------------------------------------------------------------------------------------


def _latencies(runs: Sequence[Result], names: Sequence[str]) -> Table:
    rows, columns = [], dict.fromkeys(_PERCENTILES, False)
    found = []
    for section, key, kind in LATENCIES:
        for result, name in zip(runs, names, strict=True):
            latency = _at(result, (section, key))
            if not latency or not latency.get("count"):
                continue
            if "once" in kind and result["loop"] == "closed":
                continue
            found.append((f"{kind} · {name}" if len(runs) > 1 else kind, latency))
            for each in _PERCENTILES:
                columns[each] |= each in latency
    shown = [each for each, is_there in columns.items() if is_there]
    for kind, latency in found:
        rows.append((kind, *(format_milliseconds(latency.get(each)) for each in shown), format_count(latency["count"])))
    return Table("Latencies", ("", *(_NAMES.get(each, each) for each in shown), "samples"), rows, EXPLAINED)


def _requirements(runs: Sequence[Result], names: Sequence[str]) -> Table:
    rows = [
        (
            "✓" if each["holds"] else "✗",
            said(each["requirement"]),
            said(each["note"]),
            *([name] if len(runs) > 1 else []),
        )
        for result, name in zip(runs, names, strict=True)
        for each in result.get("requirements") or ()
    ]
    return Table("Requirements", ("", "required", "reached", *(["run"] if len(runs) > 1 else [])), rows)


def _trials(runs: Sequence[Result], names: Sequence[str]) -> Iterator[Table]:
    for result, name in zip(runs, names, strict=True):
        if trials := result.get("trials"):
            cells, rows = tell_cells(trials)
            note = "The median of each cell's trials, and their range."
            of = f" of {name}" if len(runs) > 1 else ""
            yield Table(f"Trials{of}", ("", *map(said, cells)), rows, note)


def _steps(runs: Sequence[Result], names: Sequence[str]) -> Iterator[Table]:
    for result, name in zip(runs, names, strict=True):
        steps = [step for step in _at(result, ("capacity", "steps")) or () if isinstance(step, Mapping)]
        shown = {key: told for key, told in _STEP.items() if any(step.get(key) is not None for step in steps)}
        if shown:
            rows = [(str(number), *(_cell(step.get(key)) for key in shown)) for number, step in enumerate(steps, 1)]
            of = f" of {name}" if len(runs) > 1 else ""
            yield Table(f"Steps to the capacity{of}", ("step", *shown.values()), rows)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else (f"{value:,.0f}" if isinstance(value, int | float) else said(value))
    )


def _errors(runs: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for result, name in zip(runs, names, strict=True):
        for error, count in sorted(result["errors"].items(), key=lambda item: -item[1]):
            of = f"{name}: " if len(runs) > 1 else ""
            yield of + said(error), format_count(count), said((result.get("error_examples") or {}).get(error, ""))


def _scenes(runs: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What scenarios found, but for faults, which have a table of their own."""
    for result, name in zip(runs, names, strict=True):
        of = f"{name}: " if len(runs) > 1 else ""
        for label, text in scene_entries({**result, "faults": None}):
            yield of + label, said(marked(text).plain)


def _faults(runs: Sequence[Result], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for result, name in zip(runs, names, strict=True):
        for fault in result.get("faults") or ():
            when = fault.get("at_seconds")
            told = said(fault["error"]) if fault.get("error") else tell_fault(fault) or "–"
            at = "–" if when is None else _seconds(when)
            yield (said(fault.get("fault") or fault.get("action")), at, told, *([name] if len(runs) > 1 else []))


def _phases(runs: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    known = list(dict.fromkeys(phase["name"] for result in runs for phase in result["phases"]))
    for name in known:
        took = [sum(each["seconds"] for each in result["phases"] if each["name"] == name) for result in runs]
        yield (said(name), *(format_duration(seconds) for seconds in took))


def _strategies(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns: tuple[tuple[str, str, Format], ...] = (
        ("rate", "rate", _rate),
        ("p50_ms", "p50", format_milliseconds),
        ("p99_ms", "p99", format_milliseconds),
        ("memory_bytes", "memory", format_bytes),
        ("client_cpu_us", "client's CPU", _cpu),
        ("broker_cpu_us", "broker's CPU", _cpu),
    )
    cells: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["clients"], said(row["strategy"])), []).append(row)
    told = []
    for (clients, way), trials in sorted(cells.items()):
        ended = [said(gave_up(row)) for row in trials if gave_up(row)]
        middles = [_median([row.get(key) for row in trials if not gave_up(row)]) for key, _, _ in columns]
        shown = ["–" if each is None else form(each) for each, (_, _, form) in zip(middles, columns, strict=True)]
        told.append((way, format_count(clients), str(len(trials)), *shown, "; ".join(dict.fromkeys(ended)) or "–"))
    heads = ("way", "clients", "trials", *(name for _, name, _ in columns), "gave up")
    return Table("Ways to serve many clients", heads, told, "The median of the trials; CPU is that of one message.")


def _median(values: Sequence[Any]) -> float | None:
    known = [value for value in values if isinstance(value, int | float)]
    return median(known) if known else None


def findings_of(results: Sequence[Result]) -> list[str]:
    """What comparing ways has found, in sentences."""
    return [said(each) for result in results for each in result.get("findings") or () if isinstance(each, str)]
