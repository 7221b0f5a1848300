from __future__ import annotations

from random import Random

import pytest

from loadtest.analysis.steadiness import find_unsteadiness, truncation_point


def told(rates: list[float], connections: list[int] | None = None) -> str:
    return "\n".join(find_unsteadiness(rates, connections or []))


def steady_run(random: Random, intervals: int, spread: float, correlation: float) -> list[float]:
    """Rates around 1,000/s, each after the one before as far as the correlation says."""
    rates, deviation = [], random.gauss(0, 1)
    for _ in range(intervals):
        rates.append(1000 * (1 + spread * deviation))
        deviation = correlation * deviation + (1 - correlation**2) ** 0.5 * random.gauss(0, 1)
    return rates


@pytest.mark.parametrize("intervals", [10, 20, 60])
@pytest.mark.parametrize("spread", [0.03, 0.1, 0.2])
@pytest.mark.parametrize(("correlation", "most"), [(0.0, 0.005), (0.5, 0.04)])
def test_a_steady_run_is_hardly_ever_called_unsteady(
    intervals: int, spread: float, correlation: float, most: float
) -> None:
    random = Random(1)
    runs = [steady_run(random, intervals, spread, correlation) for _ in range(1000)]
    assert sum(bool(told(rates)) for rates in runs) / len(runs) <= most


def test_what_significance_is_for() -> None:
    """MSER alone calls every tenth of them warming up."""
    random = Random(1)
    runs = [steady_run(random, 10, 0.1, 0.0) for _ in range(4000)]
    alone = sum(cut >= limit for cut, limit in map(truncation_point, runs)) / len(runs)
    assert alone == pytest.approx(0.094, abs=0.02)
    assert sum("warm-up" in told(rates) for rates in runs) / len(runs) <= 0.002


def test_a_warmup_is_seen_in_noise() -> None:
    random = Random(2)
    for intervals in (10, 20, 60):
        for _ in range(50):
            rates = [1000 * (0.4 + 0.6 * number / intervals) + random.gauss(0, 20) for number in range(intervals)]
            assert told(rates)
    assert "still warm-up" in told([1000 * (1 - 0.9 ** (number + 1)) for number in range(20)])


def test_a_drift_down_is_no_warmup() -> None:
    fell = told([100.0] * 10 + [50.0] * 10)
    assert "(-50%)" in fell and "warm-up" not in fell


def test_a_stall_is_a_stall_wherever_it_is() -> None:
    random = Random(3)
    for start, end in ((0, 3), (4, 6), (8, 10), (3, 10)):
        rates = [random.gauss(1000, 30) for _ in range(20)]
        rates[start * 2 : end * 2] = [0.0] * (end - start) * 2
        text = told(rates)
        if end - start < 5:
            assert "a stall" in text and "warm-up" not in text and "%" not in text, text
            assert f"from the {start * 2 + 1}. to the" in text
    assert "to the end" in told([1000.0] * 15 + [0.0] * 5)
    assert told([2.0, 0.0, 3.0, 1.0] * 5) == "", "where hardly anything is asked for, nothing is missed"


def test_a_run_too_short_for_trends_still_shows_a_stall() -> None:
    assert "a stall: in 1 of 5" in told([1000.0, 1000.0, 0.0, 1000.0, 1000.0])
    assert told([1.0, 2.0, 3.0]) == told([]) == ""


def test_lost_connections_are_no_warmup() -> None:
    text = told([1000.0] * 10 + [600.0] * 10, [30] * 10 + [20] * 10)
    assert text == "unsteady: connections were lost while it was measured: 30, then 20"


def test_mser_finds_the_end_of_a_warmup() -> None:
    random = Random(6)
    warm = [random.gauss(1000, 30) for _ in range(60)]
    assert truncation_point([100.0] * 10 + warm)[0] == 10
    assert truncation_point(warm)[0] < 30
