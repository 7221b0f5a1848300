"""What became of each publish, what arrived, and how long it took to be back after each fault. It does no I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

ACCOUNTED = frozenset({"confirmed", "Nacked", "OutcomeUnknown"})
"""How a publish may end that waits for a connection."""


class Sample(NamedTuple):
    """Running counts at a moment of the run."""

    seconds: float
    confirmed: int
    arrived: int
    down: int
    memory_bytes: int


@dataclass
class Ledger:
    """Times are seconds of one clock; messages are (client, number)."""

    began: float
    outcomes: Counter[str] = field(default_factory=Counter)
    confirmed: set[tuple[int, int]] = field(default_factory=set)
    uncertain: set[tuple[int, int]] = field(default_factory=set)
    arrived: Counter[tuple[int, int]] = field(default_factory=Counter)
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
        self.confirmed.add((client, number))
        self.latest[client] = now
        for at, name in self._struck[client]:
            self.since_fault[name].append(now - at)
        self._struck[client] = []
        if (at_loss := self._lost_at.pop(client, None)) is not None:
            self.since_loss.append(now - at_loss)

    def fail(self, client: int, number: int, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.uncertain.add((client, number))

    def sample(self, now: float, memory_bytes: int) -> None:
        arrived = self.arrived.total()
        self.samples.append(Sample(now - self.began, len(self.confirmed), arrived, len(self.down), memory_bytes))

    def slowest(self, now: float) -> float:
        """For how many seconds the client that waits longest has had nothing confirmed."""
        return max((now - at for at in self.latest.values()), default=0.0)

    @property
    def lost(self) -> set[tuple[int, int]]:
        """Confirmed, and not delivered."""
        return self.confirmed - self.arrived.keys()

    @property
    def never_sent(self) -> set[tuple[int, int]]:
        """Delivered, though nobody published it."""
        return self.arrived.keys() - self.confirmed - self.uncertain

    @property
    def duplicates(self) -> int:
        return self.arrived.total() - len(self.arrived)

    def failures(self) -> list[str]:
        """What may not be."""
        failures = []
        if self.lost:
            failures.append(f"{len(self.lost):,} confirmed and never delivered")
        if self.never_sent:
            failures.append(f"{len(self.never_sent):,} delivered that nobody published")
        if unaccounted := self.outcomes.keys() - ACCOUNTED:
            failures.append(f"publishes ended as {', '.join(sorted(unaccounted))}")
        if not self.confirmed:
            failures.append("nothing was confirmed")
        return failures
