from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from loadtest.metrics.ledger import Ledger
from loadtest.metrics.order import Order, Seen


def arrive(*arrivals: int | tuple[int, bool], disowned: tuple[int, ...] = ()) -> Order:
    """The order of these numbers at one consumer; with True they are redelivered."""
    ledger, seen = Ledger(1), Seen()
    for number in disowned:
        ledger.accounts[0].disown(number)
    for each in arrivals:
        number, redelivered = each if isinstance(each, tuple) else (each, False)
        ledger.receive(0, number, redelivered, seen)
    return ledger.order


def test_what_comes_in_its_turn_is_nothing_to_tell() -> None:
    assert arrive(0, 1, 2, 3) == Order()
    assert arrive() == Order()


def test_a_gap_is_told_once_and_its_latecomers_are_out_of_order() -> None:
    assert arrive(0, 3, 4, 5) == Order(gaps=1)
    assert arrive(3, 4, 5) == Order(gaps=1), "the first one, too, is missed"
    assert arrive(0, 3, 1, 2, 4) == Order(gaps=1, reordered=2)
    assert arrive(0, (3, True), (1, True)) == Order(gaps=1, gaps_redelivered=1, reordered=1, reordered_redelivered=1)


def test_what_was_refused_is_no_gap() -> None:
    assert arrive(0, 3, disowned=(1, 2)) == Order()
    assert arrive(0, 3, disowned=(1,)) == Order(gaps=1)
    assert arrive(2, disowned=(0, 1)) == Order()


def test_duplicates_are_split_by_what_the_broker_says_of_them() -> None:
    assert arrive(0, 1, 1, (0, True), (1, True)) == Order(duplicates=3, duplicates_redelivered=2)


def test_consumers_of_one_queue_overtake_each_other_without_disorder() -> None:
    ledger, one, other = Ledger(1), Seen(), Seen()
    for number, seen in ((1, one), (0, other), (3, other), (2, one)):
        ledger.receive(0, number, False, seen)
    assert ledger.order.reordered == 0
    ledger.receive(0, 5, False, one)
    ledger.receive(0, 4, False, one)
    assert ledger.order.reordered == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 2), st.booleans()), max_size=60))
def test_it_is_what_looking_at_everything_gives(story: list[tuple[int, int, int, bool]]) -> None:
    """Consumers, numbers, producers, flags in any order, against an oracle that keeps all of it."""
    ledger, oracle = Ledger(3), Order()
    seen: dict[int, Seen] = defaultdict(dict)
    arrived: dict[int, set[int]] = defaultdict(set)
    had: dict[tuple[int, int], list[int]] = defaultdict(list)
    for consumer, number, producer, redelivered in story:
        ledger.receive(producer, number, redelivered, seen[consumer])
        if number in arrived[producer]:
            oracle.duplicates += 1
            oracle.duplicates_redelivered += redelivered
            continue
        if number > max(arrived[producer], default=-1) + 1:
            oracle.gaps += 1
            oracle.gaps_redelivered += redelivered
        if number < max(had[consumer, producer], default=-1):
            oracle.reordered += 1
            oracle.reordered_redelivered += redelivered
        arrived[producer].add(number)
        had[consumer, producer].append(number)
    assert ledger.order == oracle


def test_it_adds_up_and_can_be_sent() -> None:
    one, other = arrive(0, 3, 1), arrive(0, 0, 5)
    one.merge(other)
    assert one == Order(gaps=2, reordered=1, duplicates=1)
    assert Order.from_plain(one.to_plain()) == one
    assert Order.from_plain({}) == Order()
