from __future__ import annotations

from itertools import product
from math import exp, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.analysis.statistics import correct, estimate_ratio, least_pairs, noise, signed_rank


def pairs_of(seed: int, number: int, factor: float = 1.0, spread: float = 0.05) -> list[tuple[float, float]]:
    chance = Random(seed)
    return [(exp(chance.gauss(0, spread)), factor * exp(chance.gauss(0, spread))) for _ in range(number)]


def test_a_constant_factor_is_found_exactly() -> None:
    ratio = estimate_ratio([(2.0, 3.0), (20.0, 30.0), (4.0, 6.0)])
    assert (ratio.factor, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_holds_the_factor_in_about_nineteen_of_twenty_cases() -> None:
    held = 0
    for seed in range(100):
        ratio = estimate_ratio(pairs_of(seed, 16, 1.2))
        held += ratio.low <= 1.2 <= ratio.high
    assert 86 <= held <= 99


def test_one_odd_trial_does_not_move_the_estimate() -> None:
    pairs = [*pairs_of(1, 15, 1.1), (1.0, 50.0)]
    assert estimate_ratio(pairs).factor == pytest.approx(1.1, rel=0.04)


@given(st.lists(st.floats(-1, 1).map(lambda value: round(value, 1)), min_size=1, max_size=9))
def test_the_signed_rank_is_that_of_all_signs_tried(differences: list[float]) -> None:
    pairs = [(1.0, exp(difference)) for difference in differences]
    known = [log(second) for _, second in pairs if log(second)]
    sizes = sorted(map(abs, known))
    ranks = [sum(i + 1 for i, size in enumerate(sizes) if size == abs(each)) / sizes.count(abs(each)) for each in known]
    seen = sum(rank for rank, each in zip(ranks, known, strict=True) if each > 0)
    extreme = min(seen, sum(ranks) - seen)
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(ranks))
    ]
    expected = min(1.0, 2 * sum(total <= extreme + 1e-9 for total in sums) / len(sums))
    assert signed_rank(pairs) == pytest.approx(expected)


def test_the_signed_rank_by_known_values() -> None:
    """Of n differences that all point one way, 2 / 2^n; tables have 5 for n = 10 and a chance of 0.0195."""
    assert signed_rank([(1, 1.1)] * 6) == pytest.approx(2 / 64)
    ranked = [(1.0, exp(-rank if rank in (2, 3) else rank)) for rank in range(1, 11)]
    assert signed_rank(ranked) == pytest.approx(0.01953125)
    assert signed_rank([(1.0, 1.0)]) == 1.0


def test_holms_correction() -> None:
    assert correct([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert correct([]) == []


def test_how_many_pairs_are_needed() -> None:
    assert [least_pairs(number) for number in (1, 13)] == [6, 10]
    assert (
        correct([signed_rank([(1, 1.1)] * 9)] + [1.0] * 12)[0]
        > 0.05
        > correct([signed_rank([(1, 1.1)] * 10)] + [1.0] * 12)[0]
    )


def test_the_noise_is_what_equal_sides_differ_by() -> None:
    values = [exp(Random(seed).gauss(0, 0.05)) for seed in range(40)]
    floor = noise(values, 16)
    assert floor is not None and 1.02 < floor < 1.07
    assert noise(values, 4) > floor  # type: ignore[operator]  # a number, of 40 values
    assert noise([1.0, 1.0, 1.0], 3) is None
