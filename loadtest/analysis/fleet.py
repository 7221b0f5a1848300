"""What a result tells of a run that several processes made: who took part, and what that makes of the figures.

The figures are of those who were there to the end, and of those who left in order. What a lost worker did is in no sum:
what it last told of itself stands beside its name. Pure: from the pool alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtest.analysis.facts import Facts, gather_facts
from loadtest.fleet.parts import MemberPart, WorkerPart
from loadtest.fleet.pooling import Pooled
from loadtest.metrics.record import Record
from loadtest.scenarios.settings import Settings

TOLD = ("connected", "sent", "confirmed", "received", "calls", "replies")
"""Of a worker's counters, those that stand in the result, by their names in the tally."""


def add_fleet(result: dict[str, Any], settings: Settings, pooled: Pooled) -> dict[str, Any]:
    """Adds the sections on workers to a result."""
    result["workers"] = [
        _describe(member, pooled.parts.get(member.number), pooled.records.get(member.number), settings)
        for member in pooled.members
    ]
    result["incomplete"] = [_why(each) for each in result["workers"] if each["status"] != "finished"]
    result["control"] = pooled.control
    if result["consume"] is not None:
        result["consume"]["end_to_end_crossing"] = _crossing(pooled)
        result["consume"]["from_lost_workers"] = pooled.of_lost_workers
    result["verdict"]["evidence"] += _evidence(result)
    return result


def _describe(member: MemberPart, part: WorkerPart | None, record: Record | None, settings: Settings) -> dict[str, Any]:
    facts = gather_facts(settings, record) if record is not None else None
    counts = record.tally.to_plain() if record is not None else member.counts
    return {
        "number": member.number,
        "name": member.name,
        "host": member.host[:8],
        "pid": member.pid,
        "status": member.status,
        "reason": member.reason or None,
        "at_seconds": member.at_seconds,
        "phase": member.phase or None,
        "silent_seconds": member.silent_seconds if member.status == "lost" else None,
        "sockets": member.sockets,
        "clients": member.clients,
        "counted": record is not None,
        **{name: counts.get(name) for name in TOLD},
        "client_share": None if facts is None else round(facts.client_share, 3),
        "loop_lateness_ms": _lateness(facts),
        "start_skew_ms": None if part is None else part.start_skew_ms,
        "clock": {"offset_ms": member.offset_ms, "bound_ms": member.bound_ms, "drift_ppm": member.drift_ppm},
        "rejected": dict(part.rejected) if part is not None else {},
    }


def _lateness(facts: Facts | None) -> dict[str, float] | None:
    return None if facts is None or facts.lateness is None else {facts.lateness[0]: facts.lateness[1]}


def _crossing(pooled: Pooled) -> dict[str, Any] | None:
    """Latencies between hosts, and how wrong they may be; None if no message went from one to another."""
    crossing = pooled.crossing
    if not crossing.latencies.count:
        return None
    bounds = [member.bound_ms for member in pooled.members if member.bound_ms is not None]
    return {
        "latency_ms": crossing.latencies.latency(),
        "bound_ms": round(sum(sorted(bounds)[-2:]), 4) if bounds else None,
        "clamped": crossing.clamped,
    }


def _evidence(result: Mapping[str, Any]) -> list[str]:
    """What the verdict must say of the workers: who is missing, and which of them was the busiest."""
    found = [f"incomplete: {text}" for text in result["incomplete"]]
    known = [each for each in result["workers"] if each["client_share"] is not None]
    if len(known) > 1 and any(text.startswith("generator:") for text in result["verdict"]["evidence"]):
        busiest = max(known, key=lambda each: each["client_share"])
        found.append(
            f"of {len(known)} workers, worker {busiest['number']} ({busiest['name']}) was the busiest, with "
            f"{busiest['client_share']:.0%} of a core"
        )
    return found


def _why(worker: Mapping[str, Any]) -> str:
    when = "" if worker["at_seconds"] is None else f" after {worker['at_seconds']:.1f} s"
    return f"worker {worker['number']} ({worker['name']}) {worker['status']}{when}: {worker['reason']}"
