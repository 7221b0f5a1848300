"""Who may join, and when all of them together have nothing left to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.fleet.members import Roster
from loadtest.fleet.messages import Beat, Join
from loadtest.metrics.tally import Tally

JOIN = Join(address="q", protocol=1, version="1", name="n", host="h", pid=1, cores=2, backend="asyncio")


def beat(*, is_settled: bool = True, unique: int = 0, consumers: int = 1, **counts: int) -> Beat:
    told = Tally().to_plain() | counts
    return Beat(phase="drain", is_settled=is_settled, unique=unique, consumers=consumers, counts=told)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": 2}, "version 2"),
        ({"version": "0"}, "both must be the same"),
        ({"backend": "trio"}, "--backend asyncio"),
    ],
)
def test_who_does_not_fit_is_told_why(change: dict[str, object], reason: str) -> None:
    roster = Roster(1)
    assert roster.find_disagreement(JOIN, "1", 1, "asyncio") is None
    found = roster.find_disagreement(replace(JOIN, **change), "1", 1, "asyncio")  # type: ignore[arg-type]
    assert found is not None
    assert reason in found


def test_no_more_join_than_are_expected() -> None:
    roster = Roster(2)
    assert [roster.add(str(number), JOIN, 0.0).number for number in range(2)] == [0, 1]
    assert roster.is_full
    assert "have joined already" in (roster.find_disagreement(JOIN, "1", 1, "asyncio") or "")


def test_all_is_drained_when_all_together_have_received_what_all_have_confirmed() -> None:
    roster = Roster(2)
    one, other = (roster.add(str(number), JOIN, 0.0) for number in range(2))
    one.beat, other.beat = beat(confirmed=10, unique=4), beat(confirmed=5, unique=10)
    assert not roster.is_drained(15)
    one.beat = beat(confirmed=10, unique=5)
    assert roster.is_drained(15)
    assert not roster.is_drained(30), "of two copies each"
    assert roster.sum_tally().confirmed == 15
    one.beat = replace(one.beat, is_settled=False)
    assert not roster.is_drained(15), "it still sends"


def test_a_lost_one_is_not_waited_for() -> None:
    roster = Roster(2)
    one, other = (roster.add(str(number), JOIN, 0.0) for number in range(2))
    one.beat, other.beat = beat(confirmed=5, unique=5), beat(is_settled=False, confirmed=5, unique=5)
    assert not roster.is_drained(10)
    other.lose("killed", 1.0, 0.0)
    assert roster.is_drained(10)
    assert [member.number for member in roster.present] == [0]
    assert roster.sum_tally().confirmed == 10, "what it told stays known"


def test_without_consumers_nothing_is_waited_for() -> None:
    roster = Roster(1)
    roster.add("0", JOIN, 0.0).beat = beat(confirmed=5, consumers=0)
    assert roster.is_drained(5)
