"""Reads result files back: this program's own, whichever version wrote them, and nothing else.

What must stay true: what is returned has everything that reports look at. A file that has not is refused in a sentence
that says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from loadtest.output.junit import render_junit
from loadtest.output.markdown import render_markdown
from loadtest.output.ways import read_strategies

_COUNTS = {
    "connect": ("connections", "failed", "dropped", "rate", "latency_ms"),
    "publish": ("planned", "sent", "confirmed", "nacked", "returned", "unknown", "skipped", "rate"),
    "consume": ("unique", "duplicates", "lost", "backlog", "rate"),
    "rpc": ("planned", "skipped", "calls", "replies", "timeouts", "errors", "servers_lost", "rate"),
}
"""What each section has, where there is one."""
_KINDS: dict[str, type | tuple[type, ...]] = {
    "run_id": str,
    "started_at": str,
    "loop": (str, type(None)),
    "verdict": (dict, type(None)),
    "interrupted": bool,
    "scenario": dict,
    "environment": dict,
    "phases": list,
    "connect": (dict, type(None)),
    "publish": (dict, type(None)),
    "consume": (dict, type(None)),
    "rpc": (dict, type(None)),
    "resources": (dict, type(None)),
    "errors": dict,
    "timeline": list,
}
_TIMELINE = ("t_seconds", "seconds", "connections")
_FINDING = {"requirement": str, "holds": bool, "note": str}


class NoResult(Exception):
    """A file is no result; the message says which, and why."""


def read_json(path: Path) -> Any:
    """What is in a JSON file, in any of JSON's encodings. OSError if it can't be read, ValueError if it is none."""
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def read_result(path: Path) -> dict[str, Any]:
    """The result in a file. NoResult if there is none."""
    try:
        result = read_json(path)
    except OSError as error:
        raise NoResult(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise NoResult(f"{path}: it is no JSON: {error}") from None
    if isinstance(result, list):
        result = {"schema": 1, "strategies": result}
    if not isinstance(result, dict):
        raise NoResult(f"{path}: it is no result of this load tester")
    if (found := result.get("schema")) != 1:
        raise NoResult(f"{path}: it is no result of this load tester, schema 1 (its schema is {found!r})")
    if (fault := _find_fault(result)) is not None:
        raise NoResult(f"{path}: it is no whole result: {fault}")
    return result


def _find_fault(result: Mapping[str, Any]) -> str | None:
    """What is wrong with a result. There is much that a changed file could have: what can be told is whole."""
    try:
        fault = next(_faults(result), None)
        if fault is None:
            render_junit([result])
            render_markdown([result])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return fault


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _faults(result: Mapping[str, Any]) -> Iterator[str]:
    if "timeline" not in result and read_strategies(result):
        return  # the ways that `strategies` compared, without a run of their own
    for name, kind in _KINDS.items():
        if name not in result or not isinstance(result[name], kind):
            yield f"{name} is missing or of another kind"
            return
    if not result.get("trials"):  # of several cells nothing is the same
        yield from (f"{name} is missing" for name in ("connect", "resources") if result[name] is None)
    for section, names in _COUNTS.items():
        yield from (f"{section}.{name} is missing" for name in names if name not in (result[section] or names))
    if not isinstance(result["scenario"].get("clients"), int):
        yield "scenario.clients is no number"
    if result["verdict"] is not None:
        yield from _wrong(result["verdict"], "verdict", {"status": str, "evidence": list})
    for phase in result["phases"]:
        yield from _wrong(phase, "phases", {"name": str, "seconds": (int, float)})
    for row in result["timeline"]:
        yield from _wrong(row, "timeline", dict.fromkeys(_TIMELINE, (int, float)))
    for finding in result.get("requirements") or ():
        yield from _wrong(finding, "requirements", _FINDING)


def _wrong(row: Any, where: str, kinds: Mapping[str, type | tuple[type, ...]]) -> Iterator[str]:
    if not isinstance(row, Mapping):
        yield f"{where} has an entry of another kind"
    else:
        missing = (name for name, kind in kinds.items() if not isinstance(row.get(name), kind))
        yield from (f"{where} has an entry without a right {name}" for name in missing)
