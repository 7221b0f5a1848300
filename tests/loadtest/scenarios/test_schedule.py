from __future__ import annotations

import itertools
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios.schedule import NANOSECONDS, Schedule, make_schedules


@given(
    st.floats(1e3, 1e10, allow_nan=False),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 10**15),
    st.integers(0, 100),
    st.floats(0, 1),
)
def test_planned_counts_exactly_what_is_due(interval: float, phase: float, start: int, turns: int, part: float) -> None:
    schedule = Schedule(interval, phase)
    end = start + int((turns + part) * interval)
    planned = schedule.planned(start, end)
    assert planned == 0 or schedule.due(start, planned - 1) < end
    assert schedule.due(start, planned) >= end or end <= start


def test_together_the_producers_make_the_rate_without_bursts() -> None:
    schedules = make_schedules(100, 10.0, Random(1))
    times = sorted(schedule.due(0, number) for schedule in schedules for number in range(20))
    within = [time for time in times if time < NANOSECONDS]
    assert len(within) == 1000
    gaps = [later - earlier for earlier, later in itertools.pairwise(within)]
    assert max(gaps) <= 2.1e6  # at most two intervals of a millisecond: an even spread


def test_the_seed_decides() -> None:
    assert make_schedules(10, 5.0, Random(7)) == make_schedules(10, 5.0, Random(7))
    assert make_schedules(10, 5.0, Random(7)) != make_schedules(10, 5.0, Random(8))


def test_many_are_told_as_means_of_some() -> None:
    schedule = Schedule(1000.0, 0.0)
    assert list(schedule.sample(0, 3, 6, 10)) == [(3000, 1), (4000, 1), (5000, 1)]
    few = list(schedule.sample(0, 0, 1001, 10))
    assert len(few) <= 10
    assert sum(number for _, number in few) == 1001
    assert few[0] == (50_000, 101)
    assert list(schedule.sample(0, 5, 5, 10)) == []
