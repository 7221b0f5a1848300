from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_intervals_merge_as_sets_do(numbers: list[int], others: list[int]) -> None:
    one, two, both = Intervals(), Intervals(), Intervals()
    for number in numbers:
        one.add(number)
        both.add(number)
    for number in others:
        two.add(number)
        both.add(number)
    before = two.spans
    one.merge(two)
    assert one.spans == both.spans == Intervals.from_plain(one.to_plain()).spans
    one.add(70)
    assert two.spans == before


def test_ledgers_of_two_processes_are_one() -> None:
    """What one sent the other received; what both received was a duplicate."""
    sender, receiver = Ledger(2), Ledger(2)
    for _ in range(6):
        sender.accounts[1].send()
    sender.accounts[1].disown(4)
    sender.receive(1, 0)
    for number in (0, 1, 2):
        receiver.receive(1, number)
    receiver.find(1, 5)
    sender.merge(receiver)
    assert sender.balance() == Balance(confirmed=5, unique=3, missing=2, resurrected=0)
    assert (sender.unique, sender.found) == (3, 1)
    assert sender.receive(1, 3)
    assert receiver.balance().unique == 3
