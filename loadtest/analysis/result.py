"""The result file, schema 1: fixed names, units in the names, null for what did not run or can't be told.

Counts are of the whole run, from the warm-up to the end of the drain, so that they add up: `sent = confirmed + nacked
+ returned + unknown` and `confirmed + resurrected = unique + lost + backlog`, but for what connections lost left
behind: `backlog` then also has messages of unknown outcome, and some that had arrived. Rates, latencies and processor
time are of the measured phase alone. A message of `client_cpu_us_per_message` is one confirmed, one received, or one
RPC replied. An RPC that got no reply counts among the latencies with the time it was waited for.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loadtest.analysis.verdict import Facts, judge
from loadtest.execution.conductor import Report
from loadtest.execution.state import Planned, Run
from loadtest.metrics.histogram import Histogram, Latency
from loadtest.metrics.timeline import STUB
from loadtest.scenarios.settings import Settings, redact

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
    if result["rpc"] and result["rpc"]["servers_lost"]:
        found.append(f"{result['rpc']['servers_lost']:,} RPC servers lost")
    if consume and consume["lost"]:
        found.append(f"{consume['lost']:,} messages lost")
    if consume and consume["lost"] is None and not result["interrupted"]:
        found.append("whether messages were lost could not be counted")
    return found


def blemishes(result: Mapping[str, Any]) -> list[str]:
    """What else did not end well, though it fails no run: the broker may have been asked to refuse."""
    publish, rpc = result["publish"] or {}, result["rpc"] or {}
    found = [
        f"{publish[name]:,} of {publish['sent']:,} publishes {text}"
        for name, text in (("nacked", "were nacked"), ("returned", "were returned"), ("unknown", "ended unknown"))
        if publish.get(name)
    ]
    found += [
        f"{rpc[name]:,} of {rpc['calls']:,} calls {text}"
        for name, text in (("timeouts", "got no reply in time"), ("errors", "failed"))
        if rpc.get(name)
    ]
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
    is_open = run.schedules is not None
    blocked = report.sampler.blocked_seconds
    return {
        **_as_planned(run.published_as_planned),
        "sent": tally.sent,
        "confirmed": tally.confirmed,
        "nacked": tally.nacked,
        "returned": tally.returned,
        "unknown": tally.unknown,
        "rate": _rate(report, "confirmed"),
        "confirm_latency_ms": _latency(report, latencies.confirm),
        # in a closed loop a message leaves when it is intended to: one latency is the other, and there is no lag
        "confirm_service_ms": _latency(report, latencies.service if is_open else latencies.confirm),
        "lag_ms": _latency(report, latencies.lag) if is_open else None,
        "blocked_seconds": round(sum(blocked.values()), 1) if blocked else None,
        "fairness": None if (fairness := run.ledger.fairness()) is None else round(fairness, 4),
    }


def _consume(run: Run, report: Report) -> dict[str, Any]:
    balance = run.ledger.balance()
    return {
        "received": run.tally.received,
        "unique": balance.unique,
        "duplicates": run.tally.received - balance.unique,
        "redelivered": run.tally.redelivered,
        "resurrected": balance.resurrected,
        "lost": report.leftovers.lost,
        "backlog": report.leftovers.count,
        "foreign": run.tally.foreign,
        "rate": _rate(report, "received") if run.settings.consumers else None,
        "end_to_end_latency_ms": _latency(report, run.measured.end_to_end) if run.settings.consumers else None,
    }


def _rpc(run: Run, report: Report) -> dict[str, Any]:
    tally, latencies = run.tally, run.measured
    is_open = run.call_schedules is not None
    return {
        **_as_planned(run.called_as_planned),
        "calls": tally.calls,
        "replies": tally.replies,
        "timeouts": tally.rpc_timeouts,
        "errors": tally.rpc_errors,
        "servers_lost": tally.servers_lost,
        "rate": _rate(report, "replies"),
        "latency_ms": _latency(report, latencies.rpc),
        "service_ms": _latency(report, latencies.rpc_service if is_open else latencies.rpc),
    }


def _as_planned(planned: Planned | None) -> dict[str, int | None]:
    return {"planned": None, "skipped": None} if planned is None else asdict(planned)


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
    broker = interval.used("broker_cpu")
    settings, tally, cores = run.settings, run.tally, report.meter.cores
    client_share = (interval.used("client_cpu") or 0.0) / seconds
    planned = run.published_as_planned
    return Facts(
        cores=cores.machine,
        client_share=client_share,
        broker_share=None if broker is None else broker / seconds,
        broker_cores=cores.broker - client_share * cores.shared,
        machine_share=(interval.used("machine_busy") or 0.0) / seconds / cores.machine,
        stolen_share=(interval.used("machine_stolen") or 0.0) / seconds / cores.machine,
        lateness=_lateness(report.probe.lateness),
        collector_longest_ms=report.pauses.longest / 1e6,
        collector_share=report.pauses.total / 1e9 / seconds,
        wake_p99_ms=run.measured.wake.percentile(0.99),
        waiting_share=interval.count("waited") / sent if run.schedules and (sent := interval.count("sent")) else None,
        response_p99_ms=run.measured.confirm.percentile(0.99),
        planned=None if planned is None else planned.planned,
        skipped=0 if planned is None else planned.skipped,
        blocked_seconds=report.sampler.blocked_seconds.get("measure"),
        all_dropped=0 < tally.connected <= tally.dropped,
        in_flight=settings.producers * settings.window + settings.callers if run.schedules is None else None,
        rates=[
            (row["confirmed"] + row["consumed"] + row["rpc"]) / row["seconds"]
            for row in report.sampler.timeline.rows
            if row["phase"] == "measure" and row["seconds"] > STUB
        ],
    )


def _lateness(lateness: Histogram) -> tuple[str, float] | None:
    """The highest percentile that there are samples enough for: p99 from ten seconds on."""
    for name, fraction in (("p99", 0.99), ("p90", 0.9), ("p50", 0.5)):
        if (found := lateness.percentile(fraction)) is not None:
            return name, found
    return None


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
        "rpc_service": latencies.rpc_service,
    }


def _encoded(histogram: Histogram) -> str | None:
    return histogram.encode() if histogram.count else None
