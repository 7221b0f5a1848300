"""A run in which nothing was at its limit: what tests of verdicts begin with."""

from __future__ import annotations

from loadtest.analysis.facts import Facts

CALM = Facts(
    cores=2,
    client_share=0.3,
    broker_share=0.4,
    broker_cores=1.7,
    machine_share=0.4,
    stolen_share=0.0,
    lateness=("p99", 1.2),
    collector_longest_ms=0.1,
    collector_share=0.01,
    wake_p50_ms=None,
    wake_p99_ms=None,
    waiting_share=None,
    bunched_share=None,
    responses={"p50": 3.0, "p90": 4.0, "p99": 5.0},
    service_p50_ms=None,
    planned=None,
    skipped=0,
    blocked_seconds=0.0,
    all_dropped=False,
    in_flight=50,
    rates=[100.0] * 20,
)
