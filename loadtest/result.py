"""The result file, schema 1: fixed names, units in the names, null for what did not run or can't be told.

Counts are of the whole run, from the warm-up to the end of the drain, so that they add up: `sent = confirmed + nacked
+ returned + unknown` and `confirmed + resurrected = unique + lost + backlog`, but for requeued duplicates. Rates,
latencies and processor time are of the measured phase alone. A message of `client_cpu_us_per_message` is one
confirmed, one received, or one RPC replied.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loadtest.conductor import Report
from loadtest.histogram import Histogram, Latency
from loadtest.ledger import count_lost
from loadtest.run import Run
from loadtest.settings import Settings, redact
from loadtest.timeline import STUB
from loadtest.verdict import Facts, judge

SCHEMA = 1


def build_result(run: Run, report: Report, environment: Mapping[str, Any], arguments: list[str]) -> dict[str, Any]:
    """The whole result, ready for JSON."""
    verdict = judge(_facts(run, report, environment))
    return {
        "schema": SCHEMA,
        "run_id": run.run_id,
        "started_at": run.started_at.isoformat(timespec="seconds"),
        "loop": run.settings.loop,
        "verdict": asdict(verdict),
        "interrupted": run.is_interrupted,
        "scenario": describe_scenario(run.settings, arguments),
        "environment": {**environment, "broker": report.broker, "seed": run.settings.seed},
        "phases": [{"name": phase.name, "seconds": round(phase.seconds, 3)} for phase in run.phases],
        "connect": _connect(run, report),
        "publish": _publish(run, report) if run.settings.producers else None,
        "consume": _consume(run, report) if run.settings.consumers or run.settings.producers else None,
        "rpc": _rpc(run, report) if run.settings.callers else None,
        "resources": _resources(run, report),
        "errors": dict(run.errors.counts),
        "error_examples": dict(run.errors.examples),
        "timeline": report.sampler.timeline.rows,
        "histograms": {name: _encoded(histogram) for name, histogram in _histograms(run).items()},
        "trials": None,
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """Why a run that ran to its end was not all right; empty if it was: exit code 1 or 0."""
    connect, consume = result["connect"], result["consume"]
    found = []
    if connect["failed"]:
        found.append(f"{connect['failed']:,} connections failed")
    if connect["dropped"]:
        found.append(f"{connect['dropped']:,} connections dropped")
    if consume and consume["lost"]:
        found.append(f"{consume['lost']:,} messages lost")
    if consume and consume["lost"] is None and not result["interrupted"]:
        found.append("whether messages were lost could not be counted")
    return found


def describe_scenario(settings: Settings, arguments: list[str]) -> dict[str, Any]:
    """What was asked for, without passwords."""
    asked = asdict(settings)
    for name in ("output", "json", "quiet", "seed"):
        del asked[name]
    command = shlex.join(["python", "-m", "loadtest", *map(redact, arguments)])
    return {
        **asked,
        "urls": [redact(url) for url in settings.urls],
        "queue_arguments": dict(settings.queue_arguments),
        "labels": dict(settings.labels),
        "command": command,
    }


def _connect(run: Run, report: Report) -> dict[str, Any]:
    seconds = report.connect_seconds
    memory = report.bytes_per_connection
    return {
        "connections": run.tally.connected,
        "failed": run.tally.failed,
        "dropped": run.tally.dropped,
        "reconnected": 0,
        "seconds": round(seconds, 3),
        "rate": round(run.tally.connected / seconds, 1) if seconds else None,
        "latency_ms": run.measured.connect.latency(),
        "client_bytes_per_connection": None if memory is None else round(memory),
    }


def _publish(run: Run, report: Report) -> dict[str, Any]:
    tally, latencies = run.tally, run.measured
    planned = run.count_planned()
    is_open = run.schedules is not None
    blocked = report.sampler.blocked_seconds
    return {
        "planned": planned,
        "sent": tally.sent,
        "confirmed": tally.confirmed,
        "nacked": tally.nacked,
        "returned": tally.returned,
        "unknown": tally.unknown,
        "skipped": None if planned is None else max(0, planned - tally.sent),
        "rate": _rate(report, "confirmed"),
        "confirm_latency_ms": _latency(report, latencies.confirm),
        # in a closed loop a message leaves when it is intended to: one latency is the other, and there is no lag
        "confirm_service_ms": _latency(report, latencies.service if is_open else latencies.confirm),
        "lag_ms": _latency(report, latencies.lag) if is_open else None,
        "blocked_seconds": None if blocked is None else round(blocked, 1),
        "fairness": None if (fairness := run.ledger.fairness()) is None else round(fairness, 4),
    }


def _consume(run: Run, report: Report) -> dict[str, Any]:
    balance = run.ledger.balance()
    backlog = report.backlog
    return {
        "received": run.tally.received,
        "unique": balance.unique,
        "duplicates": run.tally.received - balance.unique,
        "redelivered": run.tally.redelivered,
        "resurrected": balance.resurrected,
        "lost": None if backlog is None else count_lost(balance.missing, backlog),
        "backlog": backlog,
        "foreign": run.tally.foreign,
        "rate": _rate(report, "received") if run.settings.consumers else None,
        "end_to_end_latency_ms": _latency(report, run.measured.end_to_end) if run.settings.consumers else None,
    }


def _rpc(run: Run, report: Report) -> dict[str, Any]:
    tally = run.tally
    return {
        "calls": tally.calls,
        "replies": tally.replies,
        "timeouts": tally.rpc_timeouts,
        "errors": tally.rpc_errors,
        "rate": _rate(report, "replies"),
        "latency_ms": _latency(report, run.measured.rpc),
    }


def _resources(run: Run, report: Report) -> dict[str, Any]:
    interval = report.measured
    client = interval.used("client_cpu") if interval else None
    broker = interval.used("broker_cpu") if interval else None
    messages = sum(interval.count(name) for name in ("confirmed", "received", "replies")) if interval else 0
    return {
        "client_cpu_seconds": None if client is None else round(client, 3),
        "client_cpu_us_per_message": None if client is None or not messages else round(client / messages * 1e6, 2),
        "client_rss_peak_bytes": report.meter.client_rss_peak(),
        "broker_cpu_seconds": None if broker is None else round(broker, 3),
        "broker_cpu_us_per_message": None if broker is None or not messages else round(broker / messages * 1e6, 2),
        "broker_rss_peak_bytes": report.meter.broker_rss_peak,
        "loop_lateness_ms": _latency(report, report.probe.lateness),
        "wake_lateness_ms": _latency(report, run.measured.wake) if run.schedules is not None else None,
        "collector_longest_ms": round(report.pauses.longest / 1e6, 3),
        "collector_total_ms": round(report.pauses.total / 1e6, 3),
    }


def _facts(run: Run, report: Report, environment: Mapping[str, Any]) -> Facts | None:
    interval = report.measured
    if interval is None or interval.seconds <= 0:
        return None
    seconds = interval.seconds
    cores = environment["cores"] or 1
    broker = interval.used("broker_cpu")
    settings = run.settings
    return Facts(
        cores=cores,
        client_share=(interval.used("client_cpu") or 0.0) / seconds,
        broker_share=None if broker is None else broker / seconds,
        machine_share=(interval.used("machine_busy") or 0.0) / seconds / cores,
        stolen_share=(interval.used("machine_stolen") or 0.0) / seconds / cores,
        probe_p99_ms=report.probe.lateness.percentile(0.99),
        collector_longest_ms=report.pauses.longest / 1e6,
        wake_p99_ms=run.measured.wake.percentile(0.99),
        waiting_share=interval.count("waited") / sent if run.schedules and (sent := interval.count("sent")) else None,
        response_p99_ms=run.measured.confirm.percentile(0.99),
        planned=run.count_planned(),
        sent=run.tally.sent,
        blocked_seconds=report.sampler.blocked_seconds,
        in_flight=settings.producers * settings.window + settings.callers if run.schedules is None else None,
        rates=[
            (row["confirmed"] + row["consumed"] + row["rpc"]) / row["seconds"]
            for row in report.sampler.timeline.rows
            if row["phase"] == "measure" and row["seconds"] > STUB
        ],
    )


def _rate(report: Report, name: str) -> float | None:
    interval = report.measured
    return round(interval.count(name) / interval.seconds, 1) if interval and interval.seconds > 0 else None


def _latency(report: Report, histogram: Histogram) -> Latency | None:
    return histogram.latency() if report.measured else None


def _histograms(run: Run) -> dict[str, Histogram]:
    latencies = run.measured
    return {
        "connect": latencies.connect,
        "confirm": latencies.confirm,
        "confirm_service": latencies.service,
        "lag": latencies.lag,
        "end_to_end": latencies.end_to_end,
        "rpc": latencies.rpc,
    }


def _encoded(histogram: Histogram) -> str | None:
    return histogram.encode() if histogram.count else None
