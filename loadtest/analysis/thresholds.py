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
from typing import Any

from loadtest.units import format_milliseconds, parse_count, parse_duration

_LATENCIES = {
    "connect": ("connect", "latency_ms"),
    "confirm": ("publish", "confirm_latency_ms"),
    "confirm_service": ("publish", "confirm_service_ms"),
    "lag": ("publish", "lag_ms"),
    "end_to_end": ("consume", "end_to_end_latency_ms"),
    "rpc": ("rpc", "latency_ms"),
    "rpc_service": ("rpc", "service_ms"),
}
_PERCENTILES = ("min", "mean", "p50", "p90", "p99", "p999", "max")
_NUMBERS = {
    "connect": ("connections", "failed", "dropped", "seconds", "rate"),
    "publish": ("sent", "confirmed", "nacked", "returned", "unknown", "skipped", "rate", "blocked_seconds", "fairness"),
    "consume": ("received", "unique", "duplicates", "redelivered", "lost", "backlog", "foreign", "rate"),
    "rpc": ("calls", "replies", "timeouts", "errors", "rate"),
    "resources": ("client_cpu_us_per_message", "broker_cpu_us_per_message", "client_rss_peak_bytes"),
}
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_EXPRESSION = re.compile(r"\s*([a-z_]+)\.([a-z0-9_.]+)\s*(<=|>=|==|<|>)\s*(\S.*?)\s*")


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
    what, field, comparison, limit = match.groups()
    field = "p999" if field == "p99.9" else field
    if what in _LATENCIES and field in _PERCENTILES:
        return Threshold(text, (*_LATENCIES[what], field), comparison, parse_duration(limit) * 1000)
    if field in _NUMBERS.get(what, ()):
        return Threshold(text, (what, field), comparison, _parse_number(limit))
    known = [*(_PERCENTILES if what in _LATENCIES else ()), *_NUMBERS.get(what, ())]
    names = f"{what} has {', '.join(known)}" if known else f"there are {', '.join(sorted({*_LATENCIES, *_NUMBERS}))}"
    raise ValueError(f"{text!r}: there is no {what}.{field}: {names}")


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return parse_count(text)


def check_thresholds(result: Mapping[str, Any], thresholds: Sequence[Threshold]) -> list[Finding]:
    """What became of each requirement, in their order."""
    return [_check(result, threshold) for threshold in thresholds]


def _check(result: Mapping[str, Any], threshold: Threshold) -> Finding:
    *way, name = threshold.path
    section: Any = result
    for step in way:
        section = section and section[step]
    value = section[name] if section else None
    if value is None:
        has_some = bool(section) and bool(section.get("count"))
        note = f"too few samples: {section['count']:,}" if has_some else "not measured"
        return Finding(threshold.text, None, holds=False, note=note)
    note = format_milliseconds(value) if len(threshold.path) == 3 else f"{value:,}"
    return Finding(threshold.text, value, _COMPARE[threshold.comparison](value, threshold.limit), note)
