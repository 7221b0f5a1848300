"""The seam for time: the system's clocks, and another in their place."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from rabbitry._concurrency.clock import SYSTEM, Clock, clock, monotonic, utc_now, wall_time, with_clock


def test_it_is_the_systems_time() -> None:
    assert clock() is SYSTEM and clock().monotonic is time.monotonic
    before, now, after = time.monotonic(), monotonic(), time.monotonic()
    assert before <= now <= after
    before, now, after = time.time(), wall_time(), time.time()
    assert before <= now <= after
    assert abs(datetime.now(UTC) - utc_now()) < timedelta(minutes=1) and utc_now().tzinfo is UTC


def test_another_clock_takes_both_places_and_leaves_them() -> None:
    virtual = Clock(lambda: 5.0, lambda: 86400.0)
    with pytest.raises(ZeroDivisionError), with_clock(virtual):
        assert clock() is virtual and (monotonic(), wall_time()) == (5.0, 86400.0)
        assert utc_now() == datetime(1970, 1, 2, tzinfo=UTC)
        with with_clock(SYSTEM):
            assert monotonic() > 5.0 or wall_time() > 86400.0
        assert monotonic() == 5.0
        raise ZeroDivisionError
    assert clock() is SYSTEM
