from __future__ import annotations

import pytest

from loadtest.analysis.calibration import describe_calibration, find_nearness, reached_rate, tell_calibration
from loadtest.metrics.record import Record, Work
from loadtest.metrics.tally import Tally


def record(*, alone: float | None = 3000.0) -> Record:
    tally = Tally()
    tally.confirmed, tally.unconfirmed, tally.received, tally.replies = 600, 400, 900, 100
    found = Record(run_id="a", started_at="")
    found.work = Work(2.0, tally.to_plain())
    found.calibration = None if alone is None else {"rate": alone}
    return found


def test_all_kinds_of_messages_count() -> None:
    assert reached_rate(record().work) == 1000.0
    assert reached_rate(None) == 0.0


def test_the_section() -> None:
    assert describe_calibration(record(alone=None)) is None
    assert describe_calibration(record()) == {"rate": 3000.0, "reached_rate": 1000.0, "ratio": 3.0, "limit": 1.45}
    silent = record()
    silent.work = None
    assert describe_calibration(silent) == {"rate": 3000.0, "reached_rate": 0.0, "ratio": None, "limit": 1.45}


def test_with_a_search_the_closed_loop_is_what_was_reached() -> None:
    both = record()
    both.capacity = {"closed": {"confirmed_rate": 1200.0, "consumed_rate": 1200.0, "reply_rate": None}}
    told = describe_calibration(both)
    assert told is not None and (told["reached_rate"], told["ratio"]) == (2400.0, 1.25)


@pytest.mark.parametrize(("alone", "near"), [(None, False), (1449.9, True), (1450.0, False)])
def test_who_is_near(alone: float | None, near: bool) -> None:
    assert bool(list(find_nearness(alone, 1000.0))) is near


def test_nothing_is_told_that_is_not_known() -> None:
    assert list(tell_calibration(None, 1000.0)) == list(tell_calibration(1000.0, 0.0)) == []
