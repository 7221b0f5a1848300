"""What a run is required to reach, as people write it: ``confirm.p99 < 50ms``, ``publish.rate >= 10k``.

It owns the names that may be written and what they stand for in the result. What must stay true: a requirement whose
value is not known doesn't hold. A percentile with too few samples is null, and null is less than any limit to those who
compare it by hand. Pure: from the result alone.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any

from loadtest.metrics.histogram import PERCENTILES
from loadtest.units import format_milliseconds, parse_count, parse_duration, parse_size

_LATENCIES = {
    "connect": ("connect", "latency_ms"),
    "confirm": ("publish", "confirm_latency_ms"),
    "confirm_service": ("publish", "confirm_service_ms"),
    "lag": ("publish", "lag_ms"),
    "end_to_end": ("consume", "end_to_end_latency_ms"),
    "rpc": ("rpc", "latency_ms"),
    "rpc_service": ("rpc", "service_ms"),
    "end_to_end_service": ("consume", "end_to_end_service_ms"),
    "rpc_lag": ("rpc", "lag_ms"),
    "loop_lateness": ("resources", "loop_lateness_ms"),
}
_PERCENTILES = ("min", "mean", *PERCENTILES, "max")
_WRITTEN = {"p99.9": "p999", "p99.99": "p9999"}
_MILLISECONDS = ("longest_gap", "longest_gap_total", "collector_longest", "collector_total")
"""Numbers that are durations: written without the unit that their name has in the result."""
_NUMBERS = {
    "connect": ("connections", "failed", "dropped", "seconds", "rate", "connected_share"),
    "publish": (
        *("planned", "sent", "confirmed", "nacked", "returned", "unknown", "skipped", "rate", "blocked_seconds"),
        *("fairness", "longest_gap", "longest_gap_total"),
    ),
    "consume": (
        *("received", "unique", "duplicates", "duplicates_redelivered", "redelivered", "lost", "backlog", "foreign"),
        *("cancelled", "resurrected", "rate", "gaps", "gaps_redelivered", "reordered", "reordered_redelivered"),
        *("longest_gap", "longest_gap_total"),
    ),
    "rpc": ("planned", "skipped", "calls", "replies", "timeouts", "unanswered", "errors", "servers_lost", "rate"),
    "resources": (
        *("client_cpu_seconds", "broker_cpu_seconds", "client_cpu_us_per_message", "broker_cpu_us_per_message"),
        *("client_rss_peak_bytes", "broker_rss_peak_bytes", "collector_longest", "collector_total"),
    ),
    "errors": ("total",),
}
_SHARES = ("connected_share", "fairness")
"""Numbers that may be written in percent."""
_ALL_ERRORS = ("errors", "total")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_EXPRESSION = re.compile(r"\s*([^\s<>=!]+)\s*([<>=!]+)\s*(\S.*?)\s*")
_SHORT = {"lost": ("consume", "lost"), "duplicates": ("consume", "duplicates"), "errors": _ALL_ERRORS}
"""What may be written without the section that it stands in."""
_AT_THE_END = {"lost", "backlog", "resurrected"}
"""What is counted only when a run is over, as is what it has cost."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One requirement."""

    text: str
    path: tuple[str, ...]
    """Where the value stands in the result."""
    comparison: str
    limit: float
    """In the value's own unit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a requirement."""

    requirement: str
    value: float | None
    holds: bool
    note: str
    """The value as people read it, or why there is none."""


def parse_threshold(text: str) -> Threshold:
    """The requirement that is written there. ValueError, with what may be written, for anything else."""
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no requirement (write for example confirm.p99 < 50ms, or publish.rate >= 10k)")
    written, comparison, limit = match.groups()
    try:
        if comparison not in _COMPARE:
            raise ValueError(f"{comparison} is no comparison: there are {', '.join(_COMPARE)}")
        path, parse = _find(written)
        return Threshold(text, path, comparison, parse(limit))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def _find(written: str) -> tuple[tuple[str, ...], Callable[[str], float]]:
    """Where a name's value stands in the result, and what reads its limit. ValueError, with the names, for none."""
    what, _, field = written.partition(".")
    if not field:
        what, field = _SHORT.get(what, (what, ""))
    field = _WRITTEN.get(field, field)
    if what in _LATENCIES and field in _PERCENTILES:
        return (*_LATENCIES[what], field), _parse_milliseconds
    if field in _NUMBERS.get(what, ()):
        if field in _MILLISECONDS:
            return (what, f"{field}_ms"), _parse_milliseconds
        return (what, field), _reader(field)
    known = [*(_PERCENTILES if what in _LATENCIES else ()), *_NUMBERS.get(what, ())]
    names = f"{what} has {', '.join(known)}" if known else f"there are {', '.join(sorted({*_LATENCIES, *_NUMBERS}))}"
    raise ValueError(f"there is no {'.'.join(filter(None, (what, field)))}: {names}{_nearest(written)}")


def _nearest(written: str) -> str:
    """What was probably meant: a name that looks alike, or that of a value by where it stands in the result."""
    meant = {f"{what}.{field}": f"{what}.{field}" for what, fields in _NUMBERS.items() for field in fields}
    for what, path in _LATENCIES.items():
        for field in _PERCENTILES:
            meant[f"{what}.{field}"] = meant[f"{'.'.join(path)}.{field}"] = f"{what}.{field}"
    meant |= {name: name for name in _SHORT}
    near = get_close_matches(written.lower().replace("-", "_"), meant, 1, 0.75)
    return f" (is it {meant[near[0]]}?)" if near else ""


def parse_abort(text: str) -> Threshold:
    """The same of an expression that ends a run as soon as it is true. ValueError, too, for what is known too late."""
    threshold = parse_threshold(text)
    section, name = threshold.path[0], threshold.path[-1]
    if name in _AT_THE_END or (section == "resources" and len(threshold.path) == 2):
        raise ValueError(f"{text!r}: it is known only when the run is over: use --require")
    return threshold


def _reader(field: str) -> Callable[[str], float]:
    """What reads a limit in the unit that a number's name has."""
    if field.endswith("_bytes"):
        return parse_size
    if field.endswith("seconds"):
        return lambda text: _parse_number(text, 1)
    if "_us_" in field:
        return lambda text: _parse_number(text, 1e6)
    if field in _SHARES:
        return _parse_share
    return lambda text: _parse_number(text.removesuffix("/s") if field == "rate" else text)


def _parse_milliseconds(text: str) -> float:
    """A latency needs its unit: it is milliseconds in results, and seconds for other flags."""
    if text.strip().replace(".", "", 1).isdecimal() and float(text):
        raise ValueError(f"{text} has no unit: write {text}ms, or {text}s")
    return parse_duration(text) * 1000


def _parse_number(text: str, per_second: float | None = None) -> float:
    """A number, or of those that are durations, of which `per_second` make a second, one with its unit."""
    try:
        value = float(text)
    except ValueError:
        return parse_count(text) if per_second is None else parse_duration(text) * per_second
    if not isfinite(value) or value < 0:
        raise ValueError(f"{text} is no number from 0 upwards")
    return value


def _parse_share(text: str) -> float:
    return _parse_number(text[:-1]) / 100 if text.endswith("%") else _parse_number(text)


def check_thresholds(result: Mapping[str, Any], thresholds: Sequence[Threshold]) -> list[Finding]:
    """What became of each requirement, in their order."""
    return [_check(result, threshold) for threshold in thresholds]


def check_aborts(
    texts: Sequence[str], aborted: Mapping[str, Any] | None, result: Mapping[str, Any] | None = None
) -> list[Finding]:
    """What became of each expression that was to end the run, told as requirements that it never be true. With the
    result, it is also looked whether one is true in the end: of a run's last moments nobody had looked at.
    """
    found = {text: Finding(f"not {text.strip()}", None, holds=True, note="never true") for text in texts}
    for finding in check_thresholds(result, [parse_abort(text) for text in texts]) if result is not None else ():
        if finding.holds:
            text = finding.requirement
            found[text] = Finding(f"not {text.strip()}", finding.value, holds=False, note=f"{finding.note} in the end")
    if aborted is not None:
        text = aborted["expression"]
        found[text] = Finding(f"not {text.strip()}", aborted["value"], holds=False, note=aborted["note"])
    return list(found.values())


def _check(result: Mapping[str, Any], threshold: Threshold) -> Finding:
    *way, name = threshold.path
    section: Any = result
    for step in way:
        section = section and section[step]
    if threshold.path == _ALL_ERRORS:
        value: float | None = sum(result["errors"].values())
    else:
        value = section.get(name) if section else None
    if value is None:
        has_some = bool(section) and bool(section.get("count"))
        note = f"too few samples: {section['count']:,}" if has_some and len(threshold.path) == 3 else "not measured"
        return Finding(threshold.text, None, holds=False, note=note)
    note = format_milliseconds(value) if _is_duration(threshold) else f"{value:,}"
    return Finding(threshold.text, value, _COMPARE[threshold.comparison](value, threshold.limit), note)


def _is_duration(threshold: Threshold) -> bool:
    return len(threshold.path) == 3 or threshold.path[-1].endswith("_ms")
