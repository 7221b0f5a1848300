"""The sections of the result that belong to one scenario, or to its faults; null where there is nothing to tell.

Pure: from the settings and what the record's scene has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.metrics.record import Record
from loadtest.scenarios.settings import Settings


def describe_scenes(settings: Settings, record: Record) -> dict[str, Any]:
    """All of these sections."""
    return {
        "connect_cost": _connect_cost(record),
        "queues": _queues(settings, record) if settings.scenario == "queues" else None,
        "churn": _churn(record) if settings.churn else None,
        "backlog": _backlog(settings, record) if settings.backlog else None,
        "faults": record.scene.faults if settings.faults else None,
        "sweep": None,
        "workloads": None,
    }


def scene_failures(result: Mapping[str, Any]) -> Iterator[str]:
    """Why a scenario did not answer its question."""
    backlog, churn = result.get("backlog"), result.get("churn")
    if backlog and backlog["built"] < backlog["asked"] and not result["interrupted"]:
        yield f"only {backlog['built']:,} of the backlog's {backlog['asked']:,} messages were put there"
    if churn and churn["failed"]:
        yield f"{churn['failed']:,} rounds of connecting, sending and closing failed"
    for fault in result.get("faults") or ():
        if fault["error"] is not None:
            yield f"the fault {fault['fault']!r} failed: {fault['error']}"
    for workload in result.get("workloads") or ():
        yield from (f"{workload['name']}: {text}" for text in workload["failures"])


def _connect_cost(record: Record) -> dict[str, float | None]:
    """What connecting cost both ends: processor time, altogether and for each connection."""
    client, broker = record.scene.used.get("connect.client"), record.scene.times.get("connect.broker")
    each = record.tally.connected
    return {
        "client_cpu_seconds": _rounded(client),
        "broker_cpu_seconds": _rounded(broker),
        "client_cpu_ms_per_connection": _rounded(client and each and client / each * 1e3),
        "broker_cpu_ms_per_connection": _rounded(broker and each and broker / each * 1e3),
    }


def _queues(settings: Settings, record: Record) -> dict[str, Any]:
    scene, number = record.scene, settings.queues + settings.servers
    broker = scene.times.get("queues.broker")
    grown = scene.counts.get("queues.broker_bytes")
    return {
        "declared": scene.timings["queues.declare"].count,
        "declare_ms": scene.timings["queues.declare"].latency(),
        "delete_ms": scene.timings["queues.delete"].latency(),
        "broker_cpu_ms_per_queue": _rounded(broker and broker / number * 1e3),
        "broker_bytes_per_queue": None if grown is None else round(grown / number),
    }


def _churn(record: Record) -> dict[str, Any]:
    scene, work = record.scene, record.work
    rounds = scene.counts["churn.rounds"]
    return {
        "rounds": rounds,
        "failed": scene.counts["churn.failed"],
        "rate": round(rounds / work.seconds, 1) if work and work.seconds > 0 else None,
        **{f"{name}_ms": scene.timings[f"churn.{name}"].latency() for name in ("connect", "work", "close", "round")},
    }


def _backlog(settings: Settings, record: Record) -> dict[str, Any]:
    scene = record.scene
    built = scene.counts["backlog.built"]
    build, drain = scene.times.get("backlog.build"), scene.times.get("backlog.drain")
    return {
        "asked": settings.backlog,
        "built": built,
        "built_bytes": built * settings.size,
        "build_seconds": _rounded(build),
        "build_rate": _rounded(build and built / build, 1),
        "drain_seconds": _rounded(drain),
        "drain_rate": _rounded(drain and scene.counts["backlog.received_meanwhile"] / drain, 1),
        "published_meanwhile": scene.counts["backlog.published_meanwhile"] if drain is not None else None,
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)
