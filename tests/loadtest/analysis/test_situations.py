"""What is said of situations as they happen: each a row, with the verdict it must have and what must be told.

The figures are those of a machine of two cores on which both ends run, unless a row says otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtest.analysis.capacity import judge_both, judge_capacity
from loadtest.analysis.facts import Facts
from loadtest.analysis.verdict import Verdict, judge
from tests.loadtest.analysis.calm import CALM

CLOSED = replace(CALM, queues=4, prefetch=10, all_in_flight=50)
PACED = replace(
    CLOSED,
    wake_p50_ms=0.2,
    wake_p99_ms=1.1,
    waiting_share=0.0,
    bunched_share=0.0,
    planned=1000,
    in_flight=None,
    service_p50_ms=2.8,
)


def used(client: float, broker: float | None, others: float = 0.05, cores: int = 2) -> dict[str, Any]:
    """So many cores, where both ends run on all of them."""
    return {
        "cores": cores,
        "client_share": client,
        "broker_share": broker,
        "broker_cores": cores - client,
        "machine_share": (client + (broker or 0.0) + others) / cores,
    }


SITUATIONS: list[tuple[str, Facts, dict[str, Any], str, str]] = [
    # one end is the limit
    ("a generator's one core", CLOSED, used(0.97, 0.6), "generator-bound", "97% of a core (limit 90%)"),
    ("a generator that is late", PACED, {"lateness": ("p99", 9.0)}, "generator-bound", "9.0 ms late at p99"),
    ("a generator that is profiled", CLOSED, {"slowed_by": ["a profiler"]}, "generator-bound", "a profiler"),
    ("a broker on all that is left", CLOSED, used(0.15, 1.75), "broker-bound", "1.75 of the 1.85 cores"),
    ("a broker with an alarm", CLOSED, {"blocked_seconds": 3.0}, "broker-bound", "3.0 s (an alarm)"),
    (
        "a broker of eight cores, the generator aside",
        CLOSED,
        used(0.7, 6.9, cores=8),
        "broker-bound",
        "6.90 of the 7.30 cores",
    ),
    ("a broker with an alarm elsewhere", CLOSED, used(0.3, None) | {"blocked_seconds": 3.0}, "broker-bound", "alarm"),
    # both are, on the cores that they share
    ("all of the machine", CLOSED, used(0.7, 1.25), "machine-bound", "this program 0.70, the broker 1.25"),
    ("nine tenths of it", CLOSED, used(0.56, 1.24, 0.1), "machine-bound", "used 1.80 of them (90%, limit 85%)"),
    ("both at their limit", CLOSED, used(0.96, 1.0, 0.03), "machine-bound", "too small to tell them apart"),
    ("a plan met on a full machine", PACED, used(0.7, 1.25), "machine-bound", "used to 100%"),
    ("a plan missed on a busy one", PACED, used(0.6, 1.2) | {"skipped": 90}, "machine-bound", "910 of 1,000"),
    # each on cores of its own
    (
        "both at their limit, pinned apart",
        CLOSED,
        used(0.96, 0.95, 0.03) | {"shared_cores": 0.0, "broker_cores": 1.0},
        "inconclusive",
        "each on cores of its own",
    ),
    (
        "both busy, pinned apart",
        CLOSED,
        used(0.88, 0.85, 0.03) | {"shared_cores": 0.0, "broker_cores": 1.0},
        "inconclusive",
        "neither end was at its limit",
    ),
    # somebody else
    ("steal time", CLOSED, used(0.7, 0.8) | {"stolen_share": 0.1}, "inconclusive", "hypervisor took 10.0%"),
    ("steal time is no other process", CLOSED, used(0.7, 0.8, 0.4) | {"stolen_share": 0.15}, "inconclusive", "15.0%"),
    ("half a core burnt beside it", CLOSED, used(0.5, 0.97, 0.5), "inconclusive", "other processes used 0.50 cores"),
    ("half a core burnt beside a schedule", PACED, used(0.3, 0.5, 0.5), "inconclusive", "other processes used 0.50"),
    ("half a core of eight", PACED, used(0.3, 0.5, 0.5, cores=8), "paced", "the plan was met"),
    ("half a core, and all eight full", CLOSED, used(0.7, 6.6, 0.6, cores=8), "inconclusive", "used 0.60 cores of 8"),
    ("all of this machine, the broker unseen", CLOSED, used(0.5, None, 1.48), "inconclusive", "1.48 of them by others"),
    # nobody
    ("a window too small", CLOSED, {}, "inconclusive", "with 50 in flight the rate is what the round trips allow"),
    ("a plan met", PACED, {}, "paced", "the plan was met and neither end was at its limit"),
    ("a window too small for the plan", PACED, {"waiting_share": 0.4}, "paced", "before there was room for them"),
    (
        "a window far too small for the plan",
        PACED,
        {"waiting_share": 0.9, "skipped": 300},
        "inconclusive",
        "what would help: a larger --window, or more producers",
    ),
    ("timers too coarse", PACED, {"bunched_share": 0.6}, "paced", "its timers are coarser than the plan: 60.0%"),
    (
        "a latency that is half timers",
        PACED,
        {"wake_p50_ms": 0.8, "responses": {"p50": 1.9}, "service_p50_ms": 1.1},
        "paced",
        "0.80 ms (42%)",
    ),
    # a broker elsewhere
    ("a plan met elsewhere", PACED, used(0.3, None), "paced", "the broker's processor time is not known"),
    ("a closed loop elsewhere", CLOSED, used(0.3, None), "inconclusive", "--management URL tells what the broker uses"),
    ("a generator's core, elsewhere", CLOSED, used(0.97, None), "generator-bound", "97% of a core"),
    # no steady state
    ("a broker that was paused", PACED, {"rates": [100.0] * 9 + [0.0] * 3 + [100.0] * 8}, "unsteady", "a stall"),
    ("a broker that never came back", PACED, {"rates": [100.0] * 9 + [0.0] * 9}, "unsteady", "to the end"),
    ("connections lost", CLOSED, {"connections": [50] * 9 + [40] * 9}, "unsteady", "connections were lost"),
    ("a warm-up too short", CLOSED, {"rates": [float(rate) for rate in range(1, 21)]}, "unsteady", "still warm-up"),
    (
        "consumers too slow",
        CLOSED,
        {"is_backlog_growing": True, "confirmed_rate": 900.0, "consumed_rate": 300.0, "backlog_growth": 600.0},
        "unsteady",
        "what would help: more consumers or queues",
    ),
    (
        "a queue's one core",
        CLOSED,
        used(0.3, 0.98) | {"queues": 1, "is_backlog_growing": True, "confirmed_rate": 9e3, "consumed_rate": 6e3},
        "broker-bound",
        "the queue is one process, which uses one core at most",
    ),
    # a generator that can do little more by itself
    (
        "a calibration too near",
        CLOSED,
        used(0.15, 1.75) | {"alone_rate": 1400.0, "reached_rate": 1000.0},
        "inconclusive",
        "less than 1.45 × of that",
    ),
    (
        "a calibration far off",
        CLOSED,
        used(0.15, 1.75) | {"alone_rate": 1460.0, "reached_rate": 1000.0},
        "broker-bound",
        "1.46 × of the 1,000/s",
    ),
    (
        "an alarm, and a calibration too near",
        CLOSED,
        {"blocked_seconds": 3.0, "alone_rate": 1400.0, "reached_rate": 1000.0},
        "inconclusive",
        "less than 1.45 × of that",
    ),
]


@pytest.mark.parametrize(
    ("calm", "changes", "status", "told"), [each[1:] for each in SITUATIONS], ids=[each[0] for each in SITUATIONS]
)
def test_a_situation(calm: Facts, changes: dict[str, Any], status: str, told: str) -> None:
    verdict = judge(replace(calm, **changes))
    assert verdict.status == status, verdict.evidence
    assert told in "\n".join(verdict.evidence), verdict.evidence
    if status == "inconclusive":
        assert any("what would help" in text for text in verdict.evidence) or "own; what" in verdict.evidence[-1]


def test_an_end_that_is_not_known_is_not_called_idle() -> None:
    for calm in (CLOSED, PACED, replace(PACED, skipped=300)):
        assert not any("neither end" in text for text in judge(replace(calm, **used(0.3, None))).evidence)


# --- where a rate was sought --------------------------------------------------------------------------------------


def step(rate: float, client: float, broker: float | None, others: float = 0.05, **changes: Any) -> dict[str, Any]:
    told = {
        "rate": rate,
        "confirmed_rate": rate,
        "consumed_rate": rate,
        "reply_rate": rate / 4,
        "client_cores": client,
        "broker_cores": broker,
        "machine_cores": client + (broker or 0.0) + others,
        "stolen_cores": 0.0,
        "is_verification": False,
        "held": False,
        "reason": "messages in the queues grew by 100 each second",
        "stalled": False,
    }
    return {**told, **changes}


def sought(*failed: dict[str, Any]) -> dict[str, Any]:
    held = step(2220.0, 0.5, 1.1, held=True, reason="held")
    closed = step(2400.0, 0.58, 1.27)
    return {
        "sustainable_rate": 2220.0,
        "closed_rate": 2400.0,
        "share": 0.5,
        "closed": closed,
        "steps": [held, *failed, {**held, "is_verification": True}],
    }


MANY = replace(PACED, all_in_flight=5500, service_p50_ms=1.6)

SEARCHES: list[tuple[str, dict[str, Any], Facts, str, str]] = [
    ("10,000 clients beside their broker", step(2390.0, 0.56, 1.24, 0.12), MANY, "machine-bound", "used 1.80 of them"),
    ("a broker that has all", step(2390.0, 0.15, 1.75), MANY, "broker-bound", "1.75 of the 1.85 cores"),
    ("a generator's core", step(2390.0, 0.95, 0.6), MANY, "generator-bound", "95% of a core"),
    ("both at their limit", step(2390.0, 0.96, 1.0, 0.02), MANY, "machine-bound", "on cores that they share"),
    ("half a core burnt", step(2390.0, 0.45, 1.0, 0.53), MANY, "inconclusive", "other processes used 0.53 cores"),
    ("steal time", step(2390.0, 0.5, 1.0, stolen_cores=0.2), MANY, "inconclusive", "hypervisor took 10.0%"),
    (
        "a broker that was paused",
        step(2390.0, 0.2, 0.4, stalled=True),
        MANY,
        "inconclusive",
        "the broker, or this machine, stood still",
    ),
    (
        "consumers too slow",
        step(2390.0, 0.4, 0.6, consumed_rate=900.0),
        MANY,
        "inconclusive",
        "consumers were; what would help: more of them",
    ),
    (
        "a window too small",
        step(2390.0, 0.4, 0.6),
        replace(MANY, all_in_flight=5, service_p50_ms=1.6),
        "inconclusive",
        "with 5 in flight at most, round trips allow about 3,125 each second; what would help for more: more clients",
    ),
    ("a slow disk", step(2390.0, 0.4, 0.6), MANY, "inconclusive", "may be the broker's disk, or one of its processes"),
    (
        "a broker elsewhere",
        step(2390.0, 0.4, None),
        replace(MANY, broker_share=None),
        "inconclusive",
        "it may be the broker, or the way to it; what would help: --management URL",
    ),
    (
        "a calibration too near what the closed loop did",
        step(2100.0, 0.15, 1.75),
        replace(MANY, alone_rate=9000.0, reached_rate=6300.0),
        "inconclusive",
        "1.43 × of the 6,300/s",
    ),
]


@pytest.mark.parametrize(
    ("failed", "facts", "status", "told"), [each[1:] for each in SEARCHES], ids=[each[0] for each in SEARCHES]
)
def test_a_search(failed: dict[str, Any], facts: Facts, status: str, told: str) -> None:
    verdict = judge_capacity(sought({**failed, "rate": 2390.0}), facts)
    assert verdict.status == status, verdict.evidence
    assert told in "\n".join(verdict.evidence), verdict.evidence
    if facts.broker_share is None:
        assert "neither end" not in "\n".join(verdict.evidence)


def test_a_pause_shows_a_limit_only_where_nothing_else_does() -> None:
    paused, full = step(2300.0, 0.2, 0.4, stalled=True), step(2600.0, 0.56, 1.24, 0.12)
    assert judge_capacity(sought(paused, full), MANY).status == "machine-bound"


def test_the_default_run_beside_its_broker_names_the_machine() -> None:
    paced = Verdict("paced", ["the plan was met"])
    section, verdict = judge_both(sought(step(2390.0, 0.56, 1.24, 0.12)), MANY, paced)
    assert (section["verdict"]["status"], verdict.status) == ("machine-bound", "machine-bound")
    assert any("capacity: machine: both ends share 2 cores" in text for text in verdict.evidence)


def test_half_a_core_burnt_to_the_end_leaves_nothing_to_say() -> None:
    paced = judge(replace(PACED, **used(0.3, 0.7, 0.5)))
    _, verdict = judge_both(sought(step(2390.0, 0.45, 1.0, 0.53)), MANY, paced)
    assert verdict.status == "inconclusive"
    assert sum("other processes used" in text for text in verdict.evidence) == 2


def test_who_used_the_processor_is_named_where_it_was_seen() -> None:
    beside = used(0.5, 0.97, 0.5) | {"neighbours": {"python3 (4711)": 0.48}}
    told = "doubt: other processes used 0.50 cores of 2 (limit 0.20): python3 (4711) 0.48"
    assert told in judge(replace(CLOSED, **beside)).evidence
    squeezed = used(0.42, 1.10, 0.28) | {"neighbours": {"python3 (4711)": 0.28}}  # half a core's worth wanted the rest
    assert judge(replace(CLOSED, **squeezed)).status == "inconclusive"
    unseen = used(0.5, None, 1.48) | {"neighbours": {"beam.smp (12)": 1.4}}
    assert any("beam.smp (12) 1.40" in text for text in judge(replace(CLOSED, **unseen)).evidence)
