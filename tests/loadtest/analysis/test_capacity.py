"""Who was the limit at the rate that was kept up, and how that goes together with the latency below it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtest.analysis.capacity import find_limit, join_verdicts, judge_both, judge_capacity
from loadtest.analysis.facts import Facts
from loadtest.analysis.verdict import Verdict

FACTS = Facts(
    cores=2,
    client_share=0.4,
    broker_share=0.5,
    broker_cores=1.6,
    machine_share=0.45,
    stolen_share=0.0,
    lateness=("p99", 1.2),
    collector_longest_ms=0.1,
    collector_share=0.01,
    wake_p50_ms=0.1,
    wake_p99_ms=1.1,
    waiting_share=0.0,
    bunched_share=0.0,
    responses={"p50": 3.0, "p90": 4.0, "p99": 5.0},
    service_p50_ms=2.8,
    planned=1000,
    skipped=0,
    blocked_seconds=0.0,
    all_dropped=False,
    in_flight=None,
    rates=[100.0] * 20,
    queues=2,
    all_in_flight=50,
)
PACED = Verdict("paced", ["the plan was met"])


def step(rate: float, *, held: bool = True, **others: Any) -> dict[str, Any]:
    told = {
        "rate": rate,
        "sent_rate": rate,
        "confirmed_rate": rate,
        "consumed_rate": rate,
        "reply_rate": 0.0,
        "client_cores": 0.5,
        "broker_cores": 0.6,
        "machine_cores": 1.15,
        "stolen_cores": 0.0,
        "is_verification": False,
        "held": held,
        "reason": "held" if held else "messages in the queues grew by 100 each second",
    }
    return {**told, **others}


def capacity_of(*steps: dict[str, Any], rate: float | None = 900.0, **others: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "sustainable_rate": rate,
        "closed_rate": 1000.0,
        "share": 0.5,
        "paced_rate": 450.0,
        "closed": step(1000.0),
        "steps": [step(800.0), *steps, step(900.0, is_verification=True)],
    }
    return {**told, **others}


@pytest.mark.parametrize(
    ("used", "status", "told"),
    [
        ({"client_cores": 0.97}, "generator-bound", "97% of a core"),
        ({"client_cores": 0.15, "broker_cores": 1.75}, "broker-bound", "1.75 of the 1.85 cores"),
        ({"broker_cores": 1.45}, "machine-bound", "this program 0.50, the broker 1.45"),
        (
            {"client_cores": 0.97, "broker_cores": 1.0, "machine_cores": 1.99},
            "machine-bound",
            "on cores that they share",
        ),
        ({"client_cores": 0.89, "broker_cores": 0.99, "machine_cores": 1.97}, "machine-bound", "both ends share"),
        ({}, "inconclusive", "the broker's disk, or one of its processes"),
        ({"consumed_rate": 500.0}, "inconclusive", "consumers were; what would help: more of them"),
        ({"client_cores": 0.8, "broker_cores": 0.7, "machine_cores": 2.0}, "inconclusive", "other processes used 0.50"),
        ({"stolen_cores": 0.2}, "inconclusive", "the hypervisor took 10.0%"),
    ],
)
def test_who_was_the_limit_shows_just_above_the_rate(used: dict[str, Any], status: str, told: str) -> None:
    capacity = capacity_of(step(1500.0, held=False), step(1000.0, held=False, **used))
    verdict = judge_capacity(capacity, FACTS)
    assert verdict.status == status
    assert verdict.evidence[0] == "900/s were kept up, found in 4 steps (a closed loop did 1,000/s)"
    assert verdict.evidence[1].startswith("1,000/s could not be kept up: messages in the queues")
    assert told in "\n".join(verdict.evidence)


def test_one_queue_is_one_core() -> None:
    capacity = capacity_of(step(1000.0, held=False, broker_cores=0.98, consumed_rate=600.0))
    assert judge_capacity(capacity, replace(FACTS, queues=1)).status == "broker-bound"


def test_half_a_core_burnt_beside_it_changes_the_verdict() -> None:
    both = {"client_cores": 0.97, "broker_cores": 1.0, "machine_cores": 1.99}
    beside = {"client_cores": 0.75, "broker_cores": 0.76, "machine_cores": 1.99}
    status = [
        judge_both(capacity_of(step(1000.0, held=False, **used)), FACTS, PACED)[1].status for used in (both, beside)
    ]
    assert status == ["machine-bound", "paced"], "the latency is not touched by what was beside the search alone"
    foreign = Verdict("inconclusive", ["doubt: other processes used 0.50 cores of 2"])
    assert judge_both(capacity_of(step(1000.0, held=False, **beside)), FACTS, foreign)[1].status == "inconclusive"


def test_what_failed_below_the_rate_is_no_limit() -> None:
    assert find_limit(capacity_of(step(850.0, held=False), step(950.0, held=False))) == (
        "950/s could not be kept up: messages in the queues grew by 100 each second",
        step(950.0, held=False),
    )


def test_where_nothing_failed_the_closed_loop_shows_it() -> None:
    capacity = capacity_of(closed=step(1000.0, client_cores=0.98))
    verdict = judge_capacity(capacity, FACTS)
    assert verdict.status == "generator-bound"
    assert "in the closed loop" in verdict.evidence[1]


def test_a_broker_elsewhere_has_no_figures() -> None:
    capacity = capacity_of(step(1000.0, held=False, broker_cores=None))
    verdict = judge_capacity(capacity, replace(FACTS, broker_share=None))
    assert verdict.status == "inconclusive"
    assert "neither end" not in verdict.evidence[-1]
    assert "it may be the broker, or the way to it" in verdict.evidence[-1]


def test_no_rate_at_all() -> None:
    nothing = step(0.0)
    capacity = capacity_of(rate=None, steps=[], closed=nothing, closed_rate=0.0)
    assert judge_capacity(capacity, FACTS).status == "inconclusive"
    section, verdict = judge_both(capacity, None, Verdict("failed", ["failed: nothing was confirmed"]))
    assert verdict.status == "failed"
    assert verdict.evidence[0] == "failed: nothing was confirmed"
    assert verdict.evidence[1].startswith("capacity: no rate was kept up in 0 steps")
    assert (section["verdict"]["status"], section["latency_verdict"]["status"]) == ("inconclusive", "failed")


@pytest.mark.parametrize(
    ("capacity", "latency", "status"),
    [
        ("machine-bound", "paced", "machine-bound"),
        ("broker-bound", "generator-bound", "broker-bound"),
        ("inconclusive", "paced", "paced"),
        ("machine-bound", "unsteady", "unsteady"),
        ("machine-bound", "inconclusive", "inconclusive"),
        ("broker-bound", "failed", "failed"),
    ],
)
def test_both_make_one(capacity: str, latency: str, status: str) -> None:
    told = ["failed: it was lost"] if latency == "failed" else ["what would help: rest"]
    verdict = join_verdicts(
        Verdict(capacity, ["kept up", "what would help: rest"]), Verdict(latency, told), capacity_of()
    )
    assert verdict.status == status
    assert verdict.evidence.count("latency: what would help: rest") + verdict.evidence.count("failed: it was lost") == 1
    assert "capacity: kept up" in verdict.evidence


def test_without_a_rate_nothing_is_the_limit() -> None:
    section = capacity_of(rate=None)
    assert join_verdicts(Verdict("inconclusive", ["none"]), PACED, section).status == "inconclusive"
