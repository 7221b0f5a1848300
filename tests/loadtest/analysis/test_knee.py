from __future__ import annotations

import pytest

from loadtest.analysis.knee import find_knees

QUEUE = [(share, 1.0 / (1.0 - share)) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)]
"""The response of a queue with one server, at shares of what it can do (M/M/1)."""


def test_a_queue_has_its_knee_where_it_turns_up() -> None:
    curvature, factor = find_knees(QUEUE)
    assert curvature.by == "maximum curvature"
    assert curvature.rate == 0.9  # 0.99 is the end, and of the rest the deepest below the line
    assert factor.rate == 0.5  # 1 / (1 - x) <= 2 / (1 - 0.1)


def test_a_flat_curve_has_none() -> None:
    assert find_knees([(rate, 1.0 + rate / 1000) for rate in range(10)]) == []
    assert find_knees([(rate, 1.0) for rate in range(10)]) == []


def test_a_straight_rise_has_no_curvature() -> None:
    assert [knee.by for knee in find_knees([(rate, float(rate)) for rate in range(1, 10)])] == [
        "the highest rate whose latency is at most 2 × that of the lowest"
    ]


def test_too_few_points_have_none() -> None:
    assert find_knees([]) == find_knees([(1, 1), (2, 9)]) == []


def test_one_slow_step_is_chance() -> None:
    assert find_knees([(1, 1.0), (2, 5.0), (3, 1.0), (4, 1.1), (5, 20.0)])[-1].rate == 4


@pytest.mark.parametrize("points", [QUEUE[::-1], QUEUE[5:] + QUEUE[:5]])
def test_the_order_does_not_matter(points: list[tuple[float, float]]) -> None:
    assert find_knees(points) == find_knees(QUEUE)
