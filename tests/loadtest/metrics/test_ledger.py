from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.execution.body import OVERHEAD, BodyMaker, read_stamp
from loadtest.metrics.intervals import Intervals
from loadtest.metrics.ledger import Balance, Ledger


@given(st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_intervals_are_a_set(numbers: list[int], others: list[int]) -> None:
    one, two = Intervals(), Intervals()
    seen: set[int] = set()
    for number in numbers:
        assert one.add(number) is (number not in seen)
        seen.add(number)
        spans = one.spans
        assert all(start < end for start, end in spans)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))
    for number in others:
        two.add(number)
    assert len(one) == len(seen)
    assert {number for number in range(62) if number in one} == seen
    assert one.overlap(two) == two.overlap(one) == len(seen & set(others))


def test_a_million_messages_almost_in_order_are_one_interval() -> None:
    intervals = Intervals()
    for number in range(0, 100_000, 2):
        intervals.add(number + 1)
        intervals.add(number)
    assert intervals.spans == [(0, 100_000)]


def test_a_run_in_which_everything_can_happen() -> None:
    ledger = Ledger(2)
    first, second = ledger.accounts
    assert [first.send() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert second.send() == 0
    first.disown(3)  # nacked, and never arrives
    first.disown(4)  # unknown, but arrives
    for number in (1, 0, 4, 1):
        ledger.receive(0, number)
    assert ledger.receive(1, 0)
    assert not ledger.receive(1, 0)
    # confirmed: 0, 1, 2 of the first and 0 of the second; 2 is missing; 4 is resurrected
    assert ledger.balance() == Balance(confirmed=4, unique=4, missing=1, resurrected=1)
    assert ledger.unique == 4
    with pytest.raises(IndexError):
        ledger.receive(2, 0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3))))
def test_the_balance_is_what_counting_one_by_one_gives(story: list[tuple[bool, int]]) -> None:
    ledger = Ledger(1)
    missing = resurrected = unique = 0
    for confirmed, arrivals in story:
        number = ledger.accounts[0].send()
        if not confirmed:
            ledger.accounts[0].disown(number)
        for _ in range(arrivals):
            ledger.receive(0, number)
        unique += arrivals > 0
        missing += confirmed and not arrivals
        resurrected += bool(not confirmed and arrivals)
    assert ledger.balance() == Balance(sum(confirmed for confirmed, _ in story), unique, missing, resurrected)


def test_of_what_is_found_in_a_queue_only_what_is_missing_counts() -> None:
    ledger = Ledger(1)
    account = ledger.accounts[0]
    for _ in range(5):
        account.send()
    ledger.receive(0, 0)
    account.disown(1)
    for number in (0, 1, 2, 2, 4):  # had arrived; of unknown outcome; missing, and once more; missing
        ledger.find(0, number)
    assert ledger.balance().missing == 3
    assert ledger.found == 2


def test_fairness() -> None:
    ledger = Ledger(4)
    assert ledger.fairness() is None
    ledger.accounts[0].send()
    assert ledger.fairness() == pytest.approx(0.25)
    for account in ledger.accounts[1:]:
        account.send()
    assert ledger.fairness() == pytest.approx(1.0)


def test_bodies_carry_their_stamp_and_have_their_size() -> None:
    make = BodyMaker(tag=2**32 - 1, size=128)
    body = make(4499, 2**40, 2**62)
    assert len(body) == 128
    assert read_stamp(body) == (2**32 - 1, 4499, 2**40, 2**62)
    assert len(BodyMaker(1, OVERHEAD)(0, 0, 0)) == OVERHEAD
    assert read_stamp(b"short") is None
    with pytest.raises(ValueError, match="no room"):
        BodyMaker(1, OVERHEAD - 1)
