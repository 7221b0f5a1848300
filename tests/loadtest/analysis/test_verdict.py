from __future__ import annotations

from dataclasses import replace
from random import Random

from loadtest.analysis.facts import Facts
from loadtest.analysis.verdict import judge, truncation_point

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
    wake_p99_ms=None,
    waiting_share=None,
    response_p99_ms=5.0,
    planned=None,
    skipped=0,
    blocked_seconds=0.0,
    all_dropped=False,
    in_flight=50,
    rates=[100.0] * 20,
)
OPEN = replace(CALM, wake_p99_ms=1.1, waiting_share=0.0, planned=1000, in_flight=None)


def test_neither_end_at_its_limit() -> None:
    assert judge(CALM).status == judge(OPEN).status == "inconclusive"
    assert "with 50 in flight" in judge(CALM).evidence[0]
    assert "the plan was met" in judge(OPEN).evidence[0]
    assert judge(None).evidence == ["nothing was measured"]


def test_generator_bound() -> None:
    for facts in (
        replace(CALM, client_share=0.97),
        replace(CALM, lateness=("p90", 9.0)),
        replace(CALM, collector_share=0.17),
        replace(CALM, collector_longest_ms=8.0),
        replace(OPEN, wake_p99_ms=4.0),
    ):
        verdict = judge(facts)
        assert verdict.status == "generator-bound"
        assert verdict.evidence[0].startswith("generator: ")


def test_the_timers_own_lateness_is_no_evidence() -> None:
    assert judge(replace(OPEN, wake_p99_ms=1.9)).status == "inconclusive"


def test_broker_bound() -> None:
    busy = replace(CALM, client_share=0.6, broker_share=1.35, broker_cores=1.4, machine_share=0.99)
    assert judge(busy).status == "broker-bound"
    assert judge(replace(busy, broker_cores=2.0)).status == "inconclusive"  # it has cores of its own
    assert judge(replace(CALM, blocked_seconds=2.0)).status == "broker-bound"


def test_both_at_their_limit_can_not_be_told_apart() -> None:
    verdict = judge(replace(CALM, client_share=0.95, broker_share=1.03, broker_cores=1.05, machine_share=0.99))
    assert verdict.status == "inconclusive"
    assert "too small" in verdict.evidence[-1]


def test_foreign_load_is_a_doubt() -> None:
    assert judge(replace(CALM, client_share=0.95, stolen_share=0.05)).status == "inconclusive"
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


def test_noise_is_steady() -> None:
    random = Random(5)
    unsteady = sum(
        judge(replace(CALM, rates=[random.gauss(1000, 100) for _ in range(20)])).status == "unsteady"
        for _ in range(200)
    )
    assert unsteady < 20


def test_mser_finds_the_end_of_a_warmup() -> None:
    random = Random(6)
    warm = [random.gauss(1000, 30) for _ in range(60)]
    assert truncation_point([100.0] * 10 + warm)[0] == 10
    assert truncation_point(warm)[0] < 30
