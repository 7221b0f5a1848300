from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtest.analysis.verdict import judge
from tests.loadtest.analysis.calm import CALM

OPEN = replace(
    CALM, wake_p50_ms=0.2, wake_p99_ms=1.1, waiting_share=0.0, bunched_share=0.0, planned=1000, in_flight=None,
    service_p50_ms=2.8,
)  # fmt: skip
GROWING: dict[str, Any] = {
    "confirmed_rate": 16_724.0,
    "consumed_rate": 601.0,
    "backlog_growth": 16_123.0,
    "is_backlog_growing": True,
    "queues": 1,
    "prefetch": 10,
}


def test_neither_end_at_its_limit() -> None:
    assert judge(CALM).status == "inconclusive"
    assert "with 50 in flight" in judge(CALM).evidence[0]
    assert "what would help: more clients" in judge(CALM).evidence[0]
    assert judge(OPEN).status == "paced"
    assert "the plan was met" in judge(OPEN).evidence[0]
    assert judge(None).evidence == ["nothing was measured"]


def test_what_failed_comes_before_all_else() -> None:
    busy = replace(CALM, client_share=0.97, rates=[100.0] * 10 + [50.0] * 10)
    verdict = judge(busy, ["5 messages lost", "1 connections failed"])
    assert verdict.status == "failed"
    assert verdict.evidence[:2] == ["failed: 5 messages lost", "failed: 1 connections failed"]
    assert any(text.startswith("generator: ") for text in verdict.evidence), "what is known is told all the same"
    assert judge(None, ["all is lost"]).status == "failed"


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({}, "unsteady", "a larger --prefetch than 10"),
        ({"broker_share": 1.0}, "broker-bound", "the queue is one process"),
        ({"broker_share": 1.0, "queues": 2}, "unsteady", "neither end was at its limit"),
        ({"broker_share": 1.6}, "machine-bound", "both ends share 2 cores, and used 1.90 of them (95%, limit 85%)"),
        ({"broker_share": 1.75, "client_share": 0.1, "broker_cores": 1.9}, "broker-bound", "1.75 of the 1.90 cores"),
        ({"client_share": 0.95}, "generator-bound", "95% of a core"),
        ({"client_share": 0.95, "broker_share": 1.6}, "machine-bound", "too small"),
    ],
)
def test_a_growing_backlog_is_named_and_who_is_its_limit(changes: dict[str, Any], status: str, told: str) -> None:
    for calm in (CALM, OPEN):
        verdict = judge(replace(calm, **GROWING | changes, planned=None))
        assert verdict.status == status
        assert verdict.evidence[0].startswith("backlog: 16,724/s were confirmed and 601/s consumed")
        assert told in "\n".join(verdict.evidence)


@pytest.mark.parametrize(
    ("lateness", "responses", "is_bound"),
    [
        (("p99", 9.0), {"p99": 283.0, "p50": 200.0}, False),  # 3 % of what is measured
        (("p99", 30.0), {"p99": 283.0}, True),
        (("p99", 3.0), {"p99": 12.0}, True),
        (("p99", 1.9), {"p99": 1.5}, False),  # timers
        (("p90", 4.0), {"p99": 1000.0, "p90": 11.0}, True),  # like is compared with like
        (("p90", 4.0), {"p99": 30.0, "p90": None}, False),
        (("p90", 6.0), {"p90": None}, True),
    ],
)
def test_lateness_is_weighed_by_the_latency(
    lateness: tuple[str, float], responses: dict[str, float | None], is_bound: bool
) -> None:
    verdict = judge(replace(CALM, lateness=lateness, responses=responses))
    assert (verdict.status == "generator-bound") is is_bound, verdict.evidence


def test_the_generators_own_timer_in_a_paced_latency_is_told() -> None:
    """0.8 of 1.9 ms: the plan was met, and the broker took 1.1."""
    verdict = judge(replace(OPEN, wake_p50_ms=0.8, responses={"p50": 1.9, "p99": 4.0}, service_p50_ms=1.1))
    assert verdict.status == "paced"
    assert "1.90 ms" in verdict.evidence[1] and "0.80 ms (42%)" in verdict.evidence[1]
    assert "once sent, it took 1.10 ms" in verdict.evidence[1]
    assert not any("timers" in text for text in judge(OPEN).evidence)


def test_coarse_timers_are_not_the_window() -> None:
    bunched = "\n".join(judge(replace(OPEN, bunched_share=0.6)).evidence)
    assert "timers are coarser than the plan: 60.0%" in bunched
    assert "--window" not in bunched


def test_a_machine_that_is_used_up() -> None:
    assert judge(replace(CALM, client_share=0.8, broker_share=0.95, machine_share=0.97)).status == "machine-bound"


def test_generator_bound() -> None:
    for facts in (
        replace(CALM, client_share=0.97),
        replace(CALM, lateness=("p90", 9.0)),
        replace(OPEN, lateness=("p99", 9.0)),
        replace(CALM, collector_share=0.17),
        replace(CALM, collector_longest_ms=8.0),
        replace(OPEN, wake_p99_ms=4.0),
    ):
        verdict = judge(facts)
        assert verdict.status == "generator-bound"
        assert verdict.evidence[0].startswith("generator: ")


def test_the_timers_own_lateness_is_no_evidence() -> None:
    assert judge(replace(OPEN, wake_p99_ms=1.9)).status == "paced"


def test_broker_bound() -> None:
    busy = replace(CALM, client_share=0.15, broker_share=1.7, broker_cores=1.85, machine_share=0.95)
    assert judge(busy).status == "broker-bound"
    assert judge(replace(busy, client_share=0.6, broker_share=1.35, broker_cores=1.4)).status == "machine-bound"
    apart = replace(busy, shared_cores=0.0, broker_cores=2.0, broker_share=1.6, machine_share=0.9)
    assert judge(apart).status == "inconclusive", "it has cores of its own"
    assert judge(replace(apart, broker_share=1.85)).status == "broker-bound"
    assert judge(replace(CALM, blocked_seconds=2.0)).status == "broker-bound"


def test_both_at_their_limit_can_not_be_told_apart() -> None:
    verdict = judge(replace(CALM, client_share=0.95, broker_share=1.03, broker_cores=1.05, machine_share=0.99))
    assert verdict.status == "machine-bound"
    assert "too small" in verdict.evidence[-1]
    both = replace(CALM, client_share=0.95, broker_share=None, blocked_seconds=2.0)
    assert judge(both).status == "inconclusive", "where the broker runs elsewhere"


def test_foreign_load_is_a_doubt() -> None:
    assert judge(replace(CALM, client_share=0.95, stolen_share=0.05)).status == "inconclusive"
    assert "what would help" in judge(replace(CALM, stolen_share=0.05)).evidence[-1]
    assert "every connection was lost" in judge(replace(CALM, all_dropped=True)).evidence[0]
    assert "other processes" in judge(replace(CALM, machine_share=0.9)).evidence[0]


def test_a_plan_that_was_not_met_is_told() -> None:
    verdict = judge(replace(OPEN, skipped=100, client_share=0.95))
    assert verdict.status == "generator-bound"
    assert "900 of 1,000" in verdict.evidence[-1]
    assert "12.0% of the messages" in judge(replace(OPEN, waiting_share=0.12)).evidence[-1]


def test_drift_and_long_warmups_are_unsteady() -> None:
    assert judge(replace(CALM, rates=[100.0] * 10 + [50.0] * 10)).status == "unsteady"
    assert judge(replace(CALM, rates=[float(rate) for rate in range(1, 21)])).status == "unsteady"
    assert judge(replace(CALM, rates=[1.0, 2.0])).status == "inconclusive"  # too short to tell


def test_a_generator_that_reaches_little_more_alone_calls_no_broker_the_limit() -> None:
    bound = replace(CALM, client_share=0.15, broker_share=1.75, broker_cores=1.85, reached_rate=1000.0)
    assert judge(bound).status == "broker-bound"
    assert judge(replace(bound, alone_rate=1450.0)).status == "broker-bound"
    near = judge(replace(bound, alone_rate=1449.0))
    assert near.status == "inconclusive"
    assert "calibration: this generator alone reaches 1,449 messages/s here, 1.45 × of the 1,000/s" in near.evidence[2]
    assert "what would help: a faster machine" in near.evidence[-1]
    both = {"client_share": 0.95, "broker_share": 1.0, "broker_cores": 1.05}
    assert judge(replace(bound, alone_rate=1100.0, **both)).status == "machine-bound"
    assert judge(replace(OPEN, alone_rate=1100.0, reached_rate=1000.0)).status == "paced", "nobody was called a limit"


def test_what_slows_the_generator_is_evidence() -> None:
    verdict = judge(replace(CALM, slowed_by=["a profiler", "tracemalloc"]))
    assert verdict.status == "generator-bound"
    assert verdict.evidence == ["generator: it is slower than it needs to be: a profiler, tracemalloc"]
