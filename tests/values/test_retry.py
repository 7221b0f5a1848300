"""`Retry` and the levels of delays: what they take, what they refuse, and how far a delay is rounded."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from math import inf
from random import Random
from typing import Any

import pytest

from rabbitry import Queue, Retry
from rabbitry._client.delays import SHORTEST_MS, level_of
from rabbitry._values.retry import (
    ATTEMPT,
    LONGEST_DELAY,
    TO,
    attempt_told,
    checked_delay,
    to_exchange,
    to_queue,
    without_traces,
)


def test_delays_are_seconds_or_timedeltas() -> None:
    retry = Retry([1, 2.5, timedelta(minutes=1)], dead=Queue("jobs.dead"), give_up_on=(ValueError,))
    assert retry.delays == (1.0, 2.5, 60.0)
    assert retry.dead_name == "jobs.dead"
    assert Retry(delays=(1,), dead="d").dead_name == "d" and Retry([]).dead_name is None
    assert Retry(iter([1, 2])).delays == (1, 2)  # type: ignore[arg-type]
    assert Retry([1], give_up_on=KeyError).give_up_on == (KeyError,)  # type: ignore[arg-type]


def test_a_retry_is_a_value() -> None:
    retry = Retry([1, 5], dead="d")
    assert retry == Retry((1.0, 5.0), dead="d") and hash(retry) == hash(Retry((1, 5), dead="d"))
    assert pickle.loads(pickle.dumps(retry)) == copy.deepcopy(retry) == retry
    with pytest.raises(AttributeError):
        retry.dead = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((5,), {}, TypeError),
        (("5",), {}, TypeError),
        ((["5"],), {}, TypeError),
        (([True],), {}, TypeError),
        (([-1],), {}, ValueError),
        (([inf],), {}, ValueError),
        (([LONGEST_DELAY + 1],), {}, ValueError),
        (([1],), {"dead": ""}, ValueError),
        (([1],), {"dead": 5}, TypeError),
        (([1],), {"dead": "x" * 256}, ValueError),
        (([1],), {"dead": Queue.temporary()}, ValueError),
        (([1],), {"give_up_on": (5,)}, TypeError),
        (([1],), {"give_up_on": [ValueError]}, TypeError),
        (([1],), {"give_up_on": BaseException}, TypeError),
    ],
)
def test_what_is_no_retry_is_refused(arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Retry(*arguments, **options)


def test_growing_delays() -> None:
    assert Retry.exponential(attempts=5).delays == (1, 2, 4, 8)
    grown = Retry.exponential(first=10, factor=3, longest=timedelta(minutes=1), attempts=4, dead="d")
    assert grown == Retry([10, 30, 60], dead="d")
    assert Retry.exponential(attempts=1).delays == ()
    assert Retry.exponential(first=100, longest=10, attempts=2).delays == (10,)
    assert max(Retry.exponential(attempts=5000).delays) == 600  # and no overflow


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"factor": 0.5}, {"first": -1}, {"longest": -1}, {"factor": inf}, {"factor": True}]
)
def test_what_can_not_grow_is_refused(options: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Retry.exponential(**options)


@pytest.mark.parametrize("delay", [1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 300, 600, 900, 1800, 3600, 0.1, 0.25, 0.5])
def test_what_people_write_is_a_level_or_near_one(delay: float) -> None:
    assert delay * 1000 <= level_of(delay) <= delay * 1000 * 1.05


def test_a_delay_is_never_shorter_and_less_than_a_tenth_longer() -> None:
    random = Random(1)
    levels = {SHORTEST_MS}
    for _ in range(100_000):
        delay = 10 ** random.uniform(-2, 6.623)
        level = level_of(delay)
        levels.add(level)
        assert level == SHORTEST_MS or delay * 1000 - 1e-5 <= level < delay * 1000 * 1.1 + 1, delay
        assert level_of(level / 1000) == level
    assert len(levels) == 300 and max(levels) == LONGEST_DELAY * 1000 < 2**32


def test_a_delay_that_no_queue_can_have_is_refused() -> None:
    assert checked_delay(timedelta(days=48)) == 48 * 86400
    for delay in (-0.001, LONGEST_DELAY + 0.001):
        with pytest.raises(ValueError, match="48 days"):
            checked_delay(delay)


def test_attempts_are_of_the_queue_that_they_were_counted_in() -> None:
    headers = {ATTEMPT: 3, TO: to_queue("jobs")}
    assert attempt_told(headers, "jobs") == attempt_told(headers, None) == 3
    assert attempt_told(headers, "others") == 1
    assert attempt_told({**headers, TO: to_exchange("jobs")}, "jobs") == 1
    for forged in ("3", True, 0, -5, 2.5, None, [3]):
        assert attempt_told({**headers, ATTEMPT: forged}, "jobs") == 1


def test_traces_are_those_of_the_broker_and_ours() -> None:
    headers = {"x-death": [{}], "x-last-death-queue": "q", "x-delivery-count": 1, TO: "queue:q", ATTEMPT: 2, "mine": 1}
    assert without_traces(headers) == {"mine": 1} and without_traces(None) == {}
