"""What became of each publish, what arrived, and how long it took to be back after each fault. It does no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ACCOUNTED = frozenset({"confirmed", "Nacked", "OutcomeUnknown"})
"""How a publish may end that waits for a connection."""

CONFIRMED, UNCERTAIN = 1, 2
MANY = 255


class Sample(NamedTuple):
    """Running counts at a moment of the run."""

    seconds: float
    confirmed: int
    arrived: int
    down: int
    memory_bytes: int


class Fates:
    """Two bytes for each message of a client, so that the account of a long run does not hide a leak: whether it was
    confirmed, and how often it arrived. Numbers count from 0."""

    def __init__(self) -> None:
        self.outcomes = bytearray()
        self.arrivals = bytearray()

    def set_outcome(self, number: int, outcome: int) -> None:
        self._make_room(number)
        self.outcomes[number] = outcome

    def arrive(self, number: int) -> bool:
        """False if it had arrived before."""
        self._make_room(number)
        before = self.arrivals[number]
        self.arrivals[number] = min(MANY, before + 1)
        return before == 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each message's outcome, and how often it arrived."""
        return zip(self.outcomes, self.arrivals, strict=True)

    def _make_room(self, number: int) -> None:
        missing = number + 1 - len(self.outcomes)
        if missing > 0:
            self.outcomes.extend(bytes(missing))
            self.arrivals.extend(bytes(missing))


@dataclass
class Ledger:
    """Times are seconds of one clock."""

    began: float
    outcomes: Counter[str] = field(default_factory=Counter)
    arrived: int = 0
    duplicates: int = 0
    faults: list[tuple[float, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    latest: dict[int, float] = field(default_factory=dict)
    """When each client was confirmed a message last."""
    since_fault: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from each fault until each client's next confirm."""
    since_loss: list[float] = field(default_factory=list)
    """Seconds from each loss of a connection, as its client noticed it, until that client's next confirm."""
    _struck: dict[int, list[tuple[float, str]]] = field(default_factory=dict)  # by client, since its latest confirm
    _lost_at: dict[int, float] = field(default_factory=dict)  # by client, since its latest confirm
    _fates: defaultdict[int, Fates] = field(default_factory=lambda: defaultdict(Fates))
    down: set[int] = field(default_factory=set)
    """Clients without a connection."""

    def enter(self, client: int, now: float) -> None:
        self.latest[client], self._struck[client] = now, []

    def strike(self, name: str, now: float) -> None:
        self.faults.append((now, name))
        for struck in self._struck.values():
            struck.append((now, name))

    def lose(self, client: int, now: float) -> None:
        self.down.add(client)
        self._lost_at.setdefault(client, now)

    def return_(self, client: int) -> None:
        self.down.discard(client)

    def confirm(self, client: int, number: int, now: float) -> None:
        self.outcomes["confirmed"] += 1
        self._fates[client].set_outcome(number, CONFIRMED)
        self.latest[client] = now
        for at, name in self._struck[client]:
            self.since_fault[name].append(now - at)
        self._struck[client] = []
        if (at_loss := self._lost_at.pop(client, None)) is not None:
            self.since_loss.append(now - at_loss)

    def fail(self, client: int, number: int, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self._fates[client].set_outcome(number, UNCERTAIN)

    def arrive(self, client: int, number: int) -> None:
        self.arrived += 1
        if not self._fates[client].arrive(number):
            self.duplicates += 1

    def sample(self, now: float, memory_bytes: int) -> None:
        self.samples.append(Sample(now - self.began, self.confirmed, self.arrived, len(self.down), memory_bytes))

    def slowest(self, now: float) -> float:
        """For how many seconds the client that waits longest has had nothing confirmed."""
        return max((now - at for at in self.latest.values()), default=0.0)

    @property
    def confirmed(self) -> int:
        return self.outcomes["confirmed"]

    @property
    def lost(self) -> int:
        """Confirmed, and not delivered."""
        return self._count(CONFIRMED, arrived=False)

    @property
    def forged(self) -> int:
        """Delivered, though nobody published it."""
        return self._count(0, arrived=True)

    @property
    def uncertain_arrived(self) -> int:
        """Delivered, though not confirmed to their publisher."""
        return self._count(UNCERTAIN, arrived=True)

    @property
    def uncertain(self) -> int:
        return self.outcomes.total() - self.confirmed

    def _count(self, outcome: int, *, arrived: bool) -> int:
        messages = (message for fates in self._fates.values() for message in fates)
        return sum(found == outcome and (times > 0) == arrived for found, times in messages)

    def failures(self) -> list[str]:
        """What may not be."""
        failures = []
        if self.lost:
            failures.append(f"{self.lost:,} confirmed and never delivered")
        if self.forged:
            failures.append(f"{self.forged:,} delivered that nobody published")
        if unaccounted := self.outcomes.keys() - ACCOUNTED:
            failures.append(f"publishes ended as {', '.join(sorted(unaccounted))}")
        if not self.confirmed:
            failures.append("nothing was confirmed")
        return failures
