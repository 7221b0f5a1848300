from __future__ import annotations

from math import exp
from random import Random
from typing import Any

import pytest

from loadtest.analysis.comparison import compare

Trial = dict[str, Any]


def make_trial(
    chance: Random, *, rate: float = 1000, cpu: float = 20, loop: str = "closed", spread: float = 0.04
) -> Trial:
    def near(value: float) -> float:
        return value * exp(chance.gauss(0, spread))

    return {
        "loop": loop,
        "publish": {"rate": near(rate), "confirm_latency_ms": {"p50": near(3), "p99": near(9)}},
        "consume": {"rate": near(rate), "end_to_end_latency_ms": {"p50": near(2), "p99": near(8)}},
        "rpc": None,
        "resources": {"client_cpu_us_per_message": near(cpu), "broker_cpu_us_per_message": near(50)},
        "connect": {"latency_ms": {"p50": None}},
    }


def make_side(seed: int, number: int = 16, **values: Any) -> list[Trial]:
    chance = Random(seed)
    return [make_trial(chance, **values) for _ in range(number)]


def test_equal_sides_show_no_difference() -> None:
    found = [compare(make_side(seed), make_side(1000 + seed), tolerance=0.05) for seed in range(40)]
    assert sum(any(each.direction != "not shown" for each in one.differences) for one in found) <= 2
    assert not [one for one in found if one.regressions]


def test_a_slower_client_is_found_by_its_processor_time() -> None:
    found = [compare(make_side(seed), make_side(1000 + seed, cpu=22), tolerance=0.05) for seed in range(40)]
    named = [[each.metric for each in one.regressions] for one in found]
    assert sum("client CPU a message" in each for each in named) >= 37
    assert sum(len(each) > 1 for each in named) <= 2


def test_what_is_better_is_no_regression() -> None:
    comparison = compare(make_side(1), make_side(2, rate=2000, cpu=10), tolerance=0.05)
    directions = {each.metric: each.direction for each in comparison.differences}
    assert directions["publish rate"] == directions["client CPU a message"] == "better"
    assert directions["confirm p50"] == "not shown"
    assert not comparison.regressions


def test_worse_within_the_tolerance_is_told_and_no_regression() -> None:
    comparison = compare(make_side(1), make_side(2, cpu=22), tolerance=0.3)
    assert [each.metric for each in comparison.differences if each.direction == "worse"] == ["client CPU a message"]
    assert not comparison.regressions


def test_a_rate_that_was_planned_says_nothing() -> None:
    comparison = compare(make_side(1, loop="open"), make_side(2, loop="open", rate=100), tolerance=0.05)
    assert "publish rate" not in [each.metric for each in comparison.differences]


def test_metrics_that_were_not_measured_are_left_out() -> None:
    comparison = compare(make_side(1), make_side(2), tolerance=0.05)
    assert {"RPC rate", "connect p50"}.isdisjoint(each.metric for each in comparison.differences)


def test_what_a_reader_has_to_know() -> None:
    base, new = make_side(1, 4), make_side(2, 5, loop="open")
    base[0]["failures"] = ["1 messages lost"]
    base[1]["environment"] = {"broker": {"product": "RabbitMQ", "version": "3.10.8"}}
    new[1]["environment"] = {"broker": {"product": "RabbitMQ", "version": "4.0.5"}}
    comparison = compare(base, new, tolerance=0.05)
    assert comparison.too_few.startswith("4 pairs can't show any difference among ")
    remarks = " | ".join(comparison.remarks)
    for text in ("4 trials against 5", "1 of 9 trials failed", "loops: closed, open", "4.0.5"):
        assert text in remarks


def test_a_noisier_machine_raises_the_floor() -> None:
    quiet, loud = make_side(1), make_side(2, spread=0.3)
    floors = [
        {each.metric: each.noise for each in compare(quiet, make_side(3), tolerance=0.05, same=same).differences}
        for same in ((), loud)
    ]
    assert all(one < other for one, other in zip(floors[0].values(), floors[1].values(), strict=True))


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="no trials to compare"):
        compare([], make_side(1), tolerance=0.05)


def at(side: list[Trial], broker: dict[str, Any] | None) -> list[Trial]:
    return [{**trial, "environment": {"broker": broker}} for trial in side]


RABBITMQ = {"product": "RabbitMQ", "version": "3.10.8", "private_node": True}
EMBEDDED = {**RABBITMQ, "kind": "embedded", "private_node": False}


@pytest.mark.parametrize("before", [RABBITMQ, {**RABBITMQ, "kind": "rabbitmq"}], ids=["an older result", "a new one"])
def test_figures_of_different_kinds_of_broker_are_not_compared(before: dict[str, Any]) -> None:
    sides = at(make_side(1), before), at(make_side(2), EMBEDDED)
    for base, new in (sides, reversed(sides)):
        with pytest.raises(ValueError, match=r"different kinds of broker \(embedded, rabbitmq\)"):
            compare(base, new, tolerance=0.05)
    with pytest.raises(ValueError, match="different kinds of broker"):
        compare(sides[0], sides[0], tolerance=0.05, same=sides[1])


def test_figures_of_one_kind_are() -> None:
    newer = {**RABBITMQ, "version": "4.0.5", "kind": "rabbitmq"}
    for base, new in ((EMBEDDED, EMBEDDED), (RABBITMQ, newer), (None, newer), ({}, EMBEDDED)):
        assert compare(at(make_side(1), base), at(make_side(2), new), tolerance=0.05).differences
