"""What the clients of every strategy do, and the books they keep of it.

A book has one writer: the event loop's clients share one, each thread has its own, and all are added up at the end. So
there is no lock on the way of a message. A latency belongs to the measurement if any of its life lies in the measured
window; a message counts for the rate if it ended there.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic_ns

from loadtest.drivers.base import ConsumerOptions, Outcome, ProducerOptions
from loadtest.execution.body import BodyMaker
from loadtest.metrics.histogram import Histogram
from loadtest.metrics.latencies import NEVER
from loadtest.metrics.ledger import Account, Balance, Ledger
from loadtest.scenarios.shares import choose_queues

TOGETHER = 200
"""Connections being opened at a time."""
NUMBER_BITS = 40
"""A message is kept as its producer and, in so many bits, its number."""
RETRY_AFTER = 0.1
"""Seconds that a client waits who couldn't even send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One strategy with one number of clients: what its process is told."""

    strategy: str
    clients: int
    trial: int
    url: str
    broker_pid: int | None
    """The broker's process; None if it isn't known, so that nothing is told of what it uses."""
    seconds: float
    warmup: float
    size: int
    prefetch: int
    memory_bound: int
    bound: float
    """Seconds after which the process is over, whatever it does."""
    prefix: str = "strategies"
    """What the names of the queues begin with."""

    @property
    def producers(self) -> int:
        """How many clients publish; the others consume."""
        return self.clients - self.clients // 2

    @property
    def consumers(self) -> int:
        """How many clients consume."""
        return self.clients // 2

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues."""
        return tuple(f"{self.prefix}.{number}" for number in range(choose_queues(self.producers, self.consumers)))

    def queue_of(self, number: int) -> str:
        """The queue of the client of that number among those of its role."""
        return self.queues[number % len(self.queues)]

    @property
    def publishing(self) -> ProducerOptions:
        """How all publish."""
        return ProducerOptions(window=1, persistent=True, mandatory=False)

    @property
    def consuming(self) -> ConsumerOptions:
        """How all consume."""
        return ConsumerOptions(prefetch=self.prefetch, ack_every=1)


class Window:
    """The measured time, and whether to go on; set by one, read by all."""

    __slots__ = ("end", "is_stopping", "start")

    def __init__(self) -> None:
        self.start = self.end = NEVER
        self.is_stopping = False


@dataclass(slots=True)
class Book:
    """What some clients did. Only one thread writes into it."""

    window: Window
    bodies: BodyMaker
    accounts: defaultdict[int, Account] = field(default_factory=lambda: defaultdict(Account))
    arrivals: array[int] = field(default_factory=lambda: array("Q"))
    """What arrived, in its order: 8 bytes a message. A set for each producer would weigh more than a thread."""
    in_flight: dict[int, tuple[int, int]] = field(default_factory=dict)
    confirm: Histogram = field(default_factory=Histogram)
    end_to_end: Histogram = field(default_factory=Histogram)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    """Messages that could not be sent."""
    confirmed_in_window: int = 0
    received_in_window: int = 0
    received: int = 0
    foreign: int = 0

    def begin(self, producer: int) -> bytes:
        """The next message's body."""
        now = monotonic_ns()
        number = self.accounts[producer].send()
        self.in_flight[producer] = (number, now)
        return self.bodies(producer, number, now)

    def settle(self, producer: int, outcome: Outcome) -> None:
        """It ended."""
        number, began = self.in_flight.pop(producer)
        self.outcomes[outcome.value] += 1
        if outcome is not Outcome.CONFIRMED:
            self.accounts[producer].disown(number)
        now, window = monotonic_ns(), self.window
        if began < window.end and now >= window.start:
            self.confirm.record(now - began)
            if outcome is Outcome.CONFIRMED and now < window.end:
                self.confirmed_in_window += 1

    def take_back(self, producer: int, error: BaseException) -> None:
        """It could not be sent."""
        self.in_flight.pop(producer, None)
        self.accounts[producer].take_back()
        self.failed += 1
        self.note(error)

    def receive(self, body: bytes) -> None:
        """A delivery."""
        now = monotonic_ns()
        stamp = self.bodies.read(body)
        if stamp is None:
            self.foreign += 1
            return
        _, producer, number, began = stamp
        self.received += 1
        self.arrivals.append(producer << NUMBER_BITS | number)
        window = self.window
        if began < window.end and now >= window.start:
            self.end_to_end.record(now - began)
            if now < window.end:
                self.received_in_window += 1

    def note(self, error: BaseException) -> None:
        """Something failed."""
        self.errors[f"{type(error).__name__}: {str(error) or 'no reason given'}"[:200]] += 1


@dataclass(slots=True)
class Total:
    """All books together."""

    confirm: Histogram
    end_to_end: Histogram
    outcomes: Counter[str]
    errors: Counter[str]
    sent: int
    failed: int
    confirmed_in_window: int
    received_in_window: int
    received: int
    balance: Balance
    fairness: float | None = None


def add_up(books: Iterable[Book], producers: int) -> Total:
    """Closes the books: of what is in flight now the outcome stays unknown."""
    ledger = Ledger(producers)
    total = Total(Histogram(), Histogram(), Counter(), Counter(), 0, 0, 0, 0, 0, ledger.balance())
    for book in books:
        for producer in list(book.in_flight):
            book.settle(producer, Outcome.UNKNOWN)
        for producer, account in list(book.accounts.items()):
            ledger.accounts[producer].merge(account)
        for arrival in book.arrivals:
            ledger.receive(arrival >> NUMBER_BITS, arrival & (1 << NUMBER_BITS) - 1)
        total.confirm.merge(book.confirm)
        total.end_to_end.merge(book.end_to_end)
        total.outcomes += book.outcomes
        total.errors += book.errors
        for name in ("failed", "confirmed_in_window", "received_in_window", "received"):
            setattr(total, name, getattr(total, name) + getattr(book, name))
    total.balance = ledger.balance()
    total.fairness = ledger.fairness()
    total.sent = sum(account.sent for account in ledger.accounts)
    return total
