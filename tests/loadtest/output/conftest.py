from __future__ import annotations

from typing import Any

import pytest

from loadtest.metrics.histogram import Histogram


@pytest.fixture
def result() -> dict[str, Any]:
    histogram = Histogram()
    for milliseconds in range(1, 2001):
        histogram.record(milliseconds * 1_000_000)
    latency = histogram.latency()
    row = {"phase": "measure", "connections": 9, "published": 90, "confirmed": 80, "consumed": 70, "rpc": 60}
    row |= {f"{kind}_{name}_ms": 5.0 for kind in ("confirm", "end_to_end", "rpc") for name in ("p50", "p99", "max")}
    return {
        "schema": 1,
        "started_at": "2026-01-01T00:00:00+00:00",
        "run_id": "20260101T000000Z-abcdef",
        "loop": "open",
        "interrupted": False,
        "verdict": {"status": "broker-bound", "evidence": ["broker: it used [all]"]},
        "scenario": {
            "clients": 10_000,
            "producers": 4500,
            "consumers": 4500,
            "callers": 1000,
            "driver": "rabbitry",
            "backend": "trio",
            "command": "python -m loadtest",
        },
        "environment": {"broker": {"product": "RabbitMQ", "version": "3.10.8", "private_node": True}},
        "phases": [{"name": "connect", "seconds": 1.0}, {"name": "measure", "seconds": 20.0}],
        "connect": {
            "connections": 9998,
            "failed": 2,
            "dropped": 1,
            "seconds": 7.2,
            "rate": 1388.6,
            "latency_ms": latency,
            "client_bytes_per_connection": 12_345,
        },
        "publish": {
            "planned": 1000,
            "sent": 990,
            "confirmed": 980,
            "nacked": 4,
            "returned": 0,
            "unknown": 6,
            "skipped": 10,
            "rate": 49.0,
            "confirm_latency_ms": latency,
            "confirm_service_ms": latency,
            "lag_ms": latency,
        },
        "consume": {
            "unique": 977,
            "duplicates": 1,
            "lost": 3,
            "backlog": 0,
            "rate": 48.0,
            "end_to_end_latency_ms": latency,
        },
        "rpc": {
            "planned": 9,
            "skipped": 2,
            "calls": 7,
            "replies": 6,
            "timeouts": 1,
            "errors": 0,
            "servers_lost": 0,
            "rate": 0.3,
            "latency_ms": latency,
            "service_ms": latency,
        },
        "resources": {
            "client_cpu_seconds": 1.5,
            "client_cpu_us_per_message": 33.3,
            "client_rss_peak_bytes": 2**27,
            "broker_cpu_seconds": None,
            "broker_cpu_us_per_message": None,
            "broker_rss_peak_bytes": None,
        },
        "errors": {"ConnectFailed": 2},
        "error_examples": {"ConnectFailed": "no [answer]"},
        "timeline": [
            {**row, "t_seconds": end, "seconds": length} for end, length in ((1.0, 1.0), (2.0, 1.0), (2.01, 0.01))
        ],
        "histograms": {"confirm": histogram.encode(), "rpc": None},
        "trials": None,
        "requirements": [
            {"requirement": "confirm.p99 < 50ms", "value": 1980.4, "holds": False, "note": "1.98 s"},
            {"requirement": "rpc.rate >= 0.1", "value": 0.3, "holds": True, "note": "0.3"},
        ],
    }
