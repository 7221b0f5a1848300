"""What each of several results is called where they stand side by side, and how to repeat what somebody else said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.scenarios.brokers import EMBEDDED, recorded_kind
from loadtest.units import format_text
from loadtest.urls import redact_in

Result = Mapping[str, Any]


def said(text: object) -> str:
    """Text of somebody else, on one line and without secrets."""
    return redact_in(format_text(str(text)))


def name_broker(broker: Mapping[str, Any] | None) -> str:
    """What a result's broker is called: the embedded one never by the name that it tells clients."""
    told = broker or {}
    name = said(f"{told.get('product') or 'broker'} {told.get('version') or ''}").strip()
    if recorded_kind(told) == EMBEDDED:
        return f"the embedded broker (like {name}, which it is not)"
    return f"{name} (private node)" if told.get("private_node") else name


def name_published(result: Result) -> str:
    """What the rate of publishing is one of: without confirms nothing is confirmed."""
    return "sent" if (result.get("publish") or {}).get("confirms") is False else "confirmed"


def name_runs(results: Sequence[Result]) -> list[str]:
    """A short name for each of several results: its labels if they tell all apart, its way, or the end of its run's."""
    ways: list[list[str]] = [[said(", ".join(f"{k}={v}" for k, v in _labels(each).items())) for each in results]]
    ways.append([said(f"{each['scenario'].get('driver')} on {each['scenario'].get('backend')}") for each in results])
    for names in ways:
        if all(names) and len(set(names)) == len(names):
            return names
    runs = [said(each["run_id"]).rpartition("-")[2] for each in results]  # what differs of its time and its number
    return runs if len(set(runs)) == len(runs) else [f"{number}: {run}" for number, run in enumerate(runs, 1)]


def _labels(result: Result) -> Mapping[str, Any]:
    labels: Mapping[str, Any] = result["scenario"].get("labels") or {}
    return labels
