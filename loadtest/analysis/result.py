"""The result file, schema 1: fixed names, units in the names, null for what did not run or can't be told.

Counts are of the whole run, from the warm-up to the end of the drain, so that they add up: `sent = confirmed +
unconfirmed + nacked + returned + unknown`, `received = requeued + unique + duplicates`, and `(confirmed +
unconfirmed) × copies_per_message + backlog.built + resurrected = unique + lost + backlog`, but for what connections
lost left behind: `backlog` then also has messages of unknown outcome, and some that had arrived. Rates, latencies and
processor time are of the measured phase alone. A message of `client_cpu_us_per_message` is one confirmed, one received,
or one RPC replied. What got no answer counts among the latencies with the time it was waited for: an RPC without a
reply, a publish of unknown outcome, and what was planned and never sent. In an open loop `planned = sent + skipped`;
where the rate was sought first, `planned` and `skipped` are of the schedule on which latency was measured, and `sent`
is of all. What was put into the queues beforehand is in the section `backlog` and among what was received, and not
among what was published, nor is what could not be put there; the timeline's rows of that phase, `fill`, have all of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from loadtest.analysis import traffic
from loadtest.analysis.calibration import describe_calibration
from loadtest.analysis.capacity import judge_both
from loadtest.analysis.continuity import connected_share, describe_confirms, describe_order, describe_silence
from loadtest.analysis.facts import gather_facts, most
from loadtest.analysis.failures import failures
from loadtest.analysis.scenes import describe_scenes
from loadtest.analysis.thresholds import check_aborts, check_thresholds, parse_threshold
from loadtest.analysis.verdict import judge
from loadtest.metrics.histogram import Histogram, Latency
from loadtest.metrics.latencies import Latencies
from loadtest.metrics.record import Planned, Record, Stock
from loadtest.scenarios.brokers import EMBEDDED, NOTICE, recorded_kind
from loadtest.scenarios.settings import Settings
from loadtest.urls import redact, redact_in

SCHEMA = 1


def build_result(
    settings: Settings, record: Record, environment: Mapping[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """The whole result, ready for JSON: of what was asked for, what was measured, and where."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": record.run_id,
        "started_at": record.started_at,
        "loop": settings.loop,
        "verdict": None,
        "interrupted": record.is_interrupted,
        "complete": record.is_complete,
        "scenario": describe_scenario(settings, arguments),
        "environment": {**environment, "broker": record.broker, "seed": settings.seed},
        "phases": [{"name": phase.name, "seconds": round(phase.seconds, 3)} for phase in record.phases],
        **{name: describe(settings, record) for name, describe in SECTIONS.items()},
        "error_examples": {
            name: redact_in(example, settings.all_urls) for name, example in record.errors.examples.items()
        },
        "timeline": record.timeline,
        "histograms": {name: _encoded(histogram) for name, histogram in _histograms(record.latencies).items()},
        "trials": None,
        "aborted": record.aborted,
        "calibration": describe_calibration(record),
        "management": record.management,
        **describe_scenes(settings, record),
        "capacity": None,
        "incomplete": [],
        "workers": None,
        "control": None,
    }
    found = check_thresholds(result, [parse_threshold(text) for text in settings.require])
    # (of several workloads each was looked at by itself, and not their sum)
    found += check_aborts(settings.abort_on, record.aborted, None if settings.workloads else result)
    result["requirements"] = [asdict(finding) for finding in found]
    # (what was put on and counted is judged as the result tells it)
    facts = gather_facts(settings, record)
    verdict = judge(facts, failures(result))
    if record.capacity is not None:
        result["capacity"], verdict = judge_both(record.capacity, facts, verdict)
    result["verdict"] = asdict(verdict)
    if recorded_kind(record.broker) == EMBEDDED:
        result["verdict"]["evidence"].append(f"broker: {NOTICE}")
    return result


_UNTOLD = (
    "output",
    "json",
    "quiet",
    "seed",
    "confirmed",
    "workloads",
    "control_url",
    "management",
    "metrics",
    "token_file",
    "join_timeout",
)
"""Settings that say nothing of the load."""


def describe_scenario(settings: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """What was asked for, without passwords."""
    asked = asdict(replace(settings, workloads=()))
    for name in _UNTOLD:
        del asked[name]
    command = shlex.join(["python", "-m", "loadtest", *map(redact, arguments)])
    return {
        **asked,
        **{name: [redact(url) for url in getattr(settings, name)] for name in ("urls", "publish_urls", "consume_urls")},
        "headers": {
            name: redact(value) if isinstance(value, str) else value for name, value in settings.headers.items()
        },
        "queue_arguments": {
            name: redact(value) if isinstance(value, str) else value for name, value in settings.queue_arguments.items()
        },
        "faults": [str(fault) for fault in settings.faults],
        "labels": {name: redact(value) for name, value in settings.labels.items()},
        "command": command,
    }


# --- sections -----------------------------------------------------------------------------------------------------


def _connect(settings: Settings, record: Record) -> dict[str, Any]:
    tally, seconds, weighed = record.tally, record.connect_seconds, record.weighed
    return {
        "connections": tally.connected,
        "failed": tally.failed,
        "dropped": tally.dropped,
        "reconnected": tally.reconnected,
        "seconds": round(seconds, 3),
        "rate": round(tally.connected / seconds, 1) if seconds else None,
        "latency_ms": record.latencies.connect.latency(),
        "client_bytes_per_connection": None if weighed is None else round(weighed.bytes / weighed.connections),
        "connected_share": connected_share(settings, record),
    }


def _publish(settings: Settings, record: Record) -> dict[str, Any] | None:
    if not settings.producers:
        return None
    tally, latencies, blocked = record.tally, record.latencies, record.blocked_seconds
    is_open = settings.loop == "open"
    filled = {name: record.scene.counts[f"backlog.{name}"] for name in ("built", "nacked", "returned", "unknown")}
    fairness = record.ledger.fairness(settings.producers)
    return {
        **_as_planned(record.published_as_planned),
        "sent": tally.sent - sum(filled.values()),
        "confirmed": tally.confirmed - filled["built"],
        "nacked": tally.nacked - filled["nacked"],
        "returned": tally.returned - filled["returned"],
        "unknown": tally.unknown - filled["unknown"],
        "rate": _rate(record, "confirmed"),
        "confirm_latency_ms": _latency(record, latencies.confirm),
        # in a closed loop a message leaves when it is intended to: one latency is the other, and there is no lag
        "confirm_service_ms": _latency(record, latencies.service if is_open else latencies.confirm),
        "lag_ms": _latency(record, latencies.lag) if is_open else None,
        "blocked_seconds": round(sum(blocked.values()), 1) if blocked else None,
        "fairness": None if fairness is None else round(fairness, 4),
        "confirms_per_frame": describe_confirms(record.confirm_sizes),
        **describe_silence(record.confirm_silence, is_told=not settings.no_confirm),
        **traffic.describe_sending(settings, record),
    }


def _consume(settings: Settings, record: Record) -> dict[str, Any] | None:
    if not traffic.has_queues(settings):
        return None
    balance, stock = record.ledger.balance(), record.stock or Stock()
    return {
        "received": record.tally.received,
        "unique": balance.unique,
        "duplicates": record.tally.received - record.tally.requeued - balance.unique,
        "redelivered": record.tally.redelivered,
        "resurrected": balance.resurrected,
        "lost": stock.lost,
        "backlog": stock.backlog,
        "foreign": record.tally.foreign,
        "cancelled": record.tally.cancelled,
        "copies": record.tally.copies,
        "rate": _rate(record, "received") if settings.consumers else None,
        "end_to_end_latency_ms": _latency(record, record.latencies.end_to_end) if settings.consumers else None,
        "end_to_end_service_ms": _latency(record, _once_sent(settings, record)) if settings.consumers else None,
        **describe_order(record),
        **describe_silence(record.delivery_silence, is_told=bool(settings.consumers)),
        **traffic.describe_taking(settings, record),
    }


def _rpc(settings: Settings, record: Record) -> dict[str, Any] | None:
    if not settings.callers:
        return None
    tally, latencies = record.tally, record.latencies
    is_open = settings.loop == "open"
    return {
        **_as_planned(record.called_as_planned),
        "calls": tally.calls,
        "replies": tally.replies,
        "timeouts": tally.rpc_timeouts,
        "unanswered": tally.rpc_unanswered,
        "errors": tally.rpc_errors,
        "servers_lost": tally.servers_lost,
        "rate": _rate(record, "replies"),
        "latency_ms": _latency(record, latencies.rpc),
        "service_ms": _latency(record, latencies.rpc_service if is_open else latencies.rpc),
        "lag_ms": _latency(record, latencies.rpc_lag) if is_open else None,
    }


def _once_sent(settings: Settings, record: Record) -> Histogram:
    """End to end from when the message was sent; in a closed loop that is when it was intended."""
    return record.latencies.end_to_end_service if settings.loop == "open" else record.latencies.end_to_end


def _as_planned(planned: Planned | None) -> dict[str, int | None]:
    return {"planned": None, "skipped": None} if planned is None else asdict(planned)


def _resources(settings: Settings, record: Record) -> dict[str, Any]:
    costs, work = record.costs, record.work
    used = [cost.client_cpu_seconds for cost in costs]
    known = [seconds for seconds in used if seconds is not None]
    client = sum(known) if known and len(known) == len(used) else None  # the sum of some would be taken for that of all
    broker = most(cost.broker_cpu_seconds for cost in costs)
    messages = sum(work.counts[name] for name in traffic.done(settings)) if work else 0
    return {
        "client_cpu_seconds": None if client is None else round(client, 3),
        "client_cpu_us_per_message": None if client is None or not messages else round(client / messages * 1e6, 2),
        "client_rss_peak_bytes": sum(cost.client_rss_peak_bytes for cost in costs),
        "broker_cpu_seconds": None if broker is None else round(broker, 3),
        "broker_cpu_us_per_message": None if broker is None or not messages else round(broker / messages * 1e6, 2),
        "broker_rss_peak_bytes": most(cost.broker_rss_peak_bytes for cost in costs),
        "loop_lateness_ms": _latency(record, record.loop_lateness),
        "wake_lateness_ms": _latency(record, record.latencies.wake) if settings.loop == "open" else None,
        "collector_longest_ms": round(max((cost.collector_longest_ms for cost in costs), default=0.0), 3),
        "collector_total_ms": round(sum(cost.collector_total_ms for cost in costs), 3),
    }


SECTIONS: Mapping[str, Callable[[Settings, Record], dict[str, Any] | None]] = {
    "connect": _connect,
    "publish": _publish,
    "consume": _consume,
    "rpc": _rpc,
    "resources": _resources,
    "errors": lambda _, record: dict(record.errors.counts),
}
"""The sections that numbers are in, each told by itself while a run goes on; None of what did not run."""


# --- what sections are made of ------------------------------------------------------------------------------------


def _rate(record: Record, name: str) -> float | None:
    work = record.work
    return round(work.counts[name] / work.seconds, 1) if work and work.seconds > 0 else None


def _latency(record: Record, histogram: Histogram) -> Latency | None:
    return histogram.latency() if record.work else None


def _histograms(latencies: Latencies) -> dict[str, Histogram]:
    return {
        "connect": latencies.connect,
        "confirm": latencies.confirm,
        "confirm_service": latencies.service,
        "lag": latencies.lag,
        "end_to_end": latencies.end_to_end,
        "rpc": latencies.rpc,
        "rpc_service": latencies.rpc_service,
        "end_to_end_service": latencies.end_to_end_service,
        "rpc_lag": latencies.rpc_lag,
    }


def _encoded(histogram: Histogram) -> str | None:
    return histogram.encode() if histogram.count else None
