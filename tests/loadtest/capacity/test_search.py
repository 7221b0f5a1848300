"""The search for the rate that can be kept up, against brokers whose capacity is known."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.capacity.search import MOST_STEPS, Search
from tests.loadtest.capacity.simulated import BUDGET, SimulatedBroker, search_for

CAPACITY = 10_000.0
CLOSED = (2000.0, 6000.0, 9000.0, 10_000.0, 12_000.0, 40_000.0)
"""What a closed loop did: held up by its round trips, right, or more than consumers take."""


def ratios(closed: float, seeds: int, **kind: Any) -> list[float]:
    found = [search_for(SimulatedBroker(CAPACITY, seed, **kind), closed) for seed in range(seeds)]
    assert max(len(each.steps) for each in found) <= MOST_STEPS
    assert max(each.seconds for each in found) < 2.5 * BUDGET
    return sorted(each.ratio for each in found)


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(
    "kind",
    [{}, {"knee": 0.5}, {"latency": 0.4}, {"degrading": 0.002}, {"consuming": 3000.0}, {"latency": 0.0}],
    ids=["ideal", "knee", "far", "degrading", "slow-consumers", "near"],
)
def test_it_finds_what_a_steady_broker_bears(closed: float, kind: dict[str, Any]) -> None:
    (ratio,) = ratios(closed, 1, **kind)
    assert 0.9 <= ratio <= 1.02


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize(
    "kind",
    [{"noise": 0.2}, {"stalls": (4.0, 0.3)}, {"stalls": (12.0, 1.0)}, {"noise": 0.1, "stalls": (10.0, 0.5)}],
    ids=["noisy", "stalling", "pausing", "both"],
)
def test_noise_and_pauses_rarely_mislead_it(closed: float, kind: dict[str, Any]) -> None:
    found = ratios(closed, 40, **kind)
    assert found[0] > 0.75 and found[-1] < 1.15
    right = [ratio for ratio in found if 0.9 <= ratio <= 1.1]
    assert len(right) >= 0.7 * len(found)


def test_a_pause_is_not_taken_for_a_limit() -> None:
    """The rate that failed once is tried again before it is believed."""
    search = Search(1000.0)
    first = search.next()
    assert first is not None and first.rate == pytest.approx(900)
    search.note(is_held=False, capacity=0.99)
    tried = list[float]()
    while (probe := search.next()) is not None and len(tried) < 20:
        tried.append(probe.rate)
        search.note(is_held=probe.rate <= 1000, capacity=1000 / probe.rate)
    assert search.sustainable is not None and search.sustainable > 900


def test_a_rate_that_failed_is_tried_again_for_longer() -> None:
    """A broker that takes more once some work waits has time to, then."""
    search = Search(1000.0)
    while (probe := search.next()) is not None:
        search.note(is_held=probe.rate <= (1000 if probe.is_long else 900), capacity=0.9)
    assert search.sustainable is not None and search.sustainable > 900


def test_a_verification_in_which_all_stood_still_is_repeated_once() -> None:
    search = Search(1000.0)
    verified = list[float]()
    while (probe := search.next()) is not None:
        if probe.is_verifying:
            verified.append(probe.rate)
        search.note(
            is_held=probe.rate <= 1000 and not probe.is_verifying, capacity=0.99, is_doubtful=probe.is_verifying
        )
    assert verified[0] == verified[1] > verified[2] == verified[3] > verified[4]
    assert search.sustainable is None


def test_what_can_not_be_kept_up_at_all_ends() -> None:
    search, rates = Search(1000.0), list[float]()
    while (probe := search.next()) is not None:
        rates.append(probe.rate)
        search.note(is_held=False, capacity=0.0)
    assert len(rates) == MOST_STEPS
    assert rates == sorted(rates, reverse=True)
    assert search.sustainable is None and search.held == 0


def test_nothing_is_tried_where_a_closed_loop_did_nothing() -> None:
    assert Search(0.0).next() is None


def test_without_time_it_verifies_what_it_has() -> None:
    search = Search(1000.0)
    assert search.next(0) is not None
    search.note(is_held=True)
    while (probe := search.next(-10)) is not None:
        assert probe.is_verifying and probe.rate < 900
        search.note(is_held=True)
    assert search.sustainable == pytest.approx(0.93 * 900)


def test_without_time_and_without_any_rate_it_gives_up() -> None:
    search = Search(1000.0)
    assert search.next(0) is not None
    search.note(is_held=False, capacity=0.5)
    assert search.next(-10) is None
    assert search.sustainable is None
