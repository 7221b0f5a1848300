"""The books: what belongs to the measurement, and what adds up."""

from __future__ import annotations

from loadtest.drivers.base import Outcome
from loadtest.execution.body import BodyMaker
from loadtest.metrics.latencies import NEVER
from loadtest.strategies.work import Book, Window, add_up

BODIES = BodyMaker(7, 64)


def test_what_several_books_know_of_one_producer_adds_up() -> None:
    window = Window()
    window.start, window.end = 0, NEVER
    sender, one, other = (Book(window, BODIES) for _ in range(3))
    bodies = []
    for outcome in (Outcome.CONFIRMED, Outcome.CONFIRMED, Outcome.NACKED, Outcome.CONFIRMED):
        bodies.append(sender.begin(0))
        sender.settle(0, outcome)
    one.receive(bodies[0])
    other.receive(bodies[1])
    other.receive(bodies[1])
    one.receive(b"somebody else's message, which has no stamp of ours in it")
    total = add_up([sender, one, other], 1)
    assert (total.sent, total.outcomes) == (4, {"confirmed": 3, "nacked": 1})
    assert (total.received, total.balance.unique, total.balance.missing) == (3, 2, 1)
    assert (total.confirmed_in_window, total.received_in_window) == (3, 3)
    assert one.foreign == 1


def test_what_is_in_flight_at_the_end_is_unknown_and_counts_with_its_wait() -> None:
    window = Window()
    window.start, window.end = 0, NEVER
    book = Book(window, BODIES)
    book.begin(0)
    total = add_up([book], 1)
    assert (total.outcomes, total.confirm.count, total.balance.missing) == ({"unknown": 1}, 1, 0)


def test_what_could_not_be_sent_has_no_number() -> None:
    book = Book(Window(), BODIES)
    book.begin(0)
    book.take_back(0, OSError("no way"))
    total = add_up([book], 1)
    assert (total.sent, total.failed, total.errors) == (0, 1, {"OSError: no way": 1})


def test_before_and_after_the_window_nothing_is_measured() -> None:
    window = Window()
    book = Book(window, BODIES)
    body = book.begin(0)
    book.settle(0, Outcome.CONFIRMED)
    book.receive(body)
    assert (book.confirm.count, book.end_to_end.count, book.confirmed_in_window, book.received) == (0, 0, 0, 1)
    window.start, window.end = 0, 1
    book.begin(0)
    book.settle(0, Outcome.CONFIRMED)
    assert (book.confirm.count, book.confirmed_in_window) == (0, 0)
