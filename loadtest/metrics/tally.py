"""The counters of a run: everything that happened, from the first connection to the end of the drain.

Shared by all clients of the process and read by the sampler: whole numbers only, changed without an await in between.
The ledger says *which* messages; this says how many.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

from loadtest.drivers.base import Outcome


class Tally:
    """How often each thing happened.

    ``sent`` is ``confirmed + unconfirmed + nacked + returned + unknown`` and what is in flight.
    """

    __slots__ = (
        "bunched",
        "calls",
        "cancelled",
        "confirmed",
        "connected",
        "copies",
        "corrupted",
        "dropped",
        "failed",
        "foreign",
        "nacked",
        "received",
        "redelivered",
        "rejected",
        "replies",
        "requeued",
        "returned",
        "rpc_errors",
        "rpc_timeouts",
        "rpc_unanswered",
        "sent",
        "servers_lost",
        "unconfirmed",
        "unknown",
        "waited",
    )

    def __init__(self) -> None:
        self.connected = 0
        self.failed = 0
        self.dropped = 0
        self.sent = 0
        self.confirmed = 0
        self.nacked = 0
        self.returned = 0
        self.unknown = 0
        self.unconfirmed = 0  # messages sent without asking for a confirm
        self.waited = 0  # messages that fell due while there was no room for them in the window
        self.bunched = 0  # messages that fell due while their producer slept until the one before
        self.cancelled = 0  # consumers that the broker cancelled
        self.received = 0
        self.redelivered = 0
        self.requeued = 0  # deliveries put back: received, and not arrived
        self.rejected = 0  # deliveries arrived, and rejected by wish
        self.corrupted = 0  # deliveries whose bodies are not what was sent
        self.copies = 0  # messages that another consumer of the same stream read, too
        self.foreign = 0
        self.calls = 0
        self.replies = 0
        self.rpc_timeouts = 0
        self.rpc_unanswered = 0  # of the timeouts, those that the end of the run cut off
        self.rpc_errors = 0
        self.servers_lost = 0

    def count_outcome(self, outcome: Outcome) -> None:
        """Counts how a publish ended."""
        if outcome is Outcome.CONFIRMED:
            self.confirmed += 1
        elif outcome is Outcome.NACKED:
            self.nacked += 1
        elif outcome is Outcome.RETURNED:
            self.returned += 1
        elif outcome is Outcome.SENT:
            self.unconfirmed += 1
        else:
            self.unknown += 1

    @property
    def settled(self) -> int:
        """How many publishes have ended, one way or another."""
        return self.confirmed + self.unconfirmed + self.nacked + self.returned + self.unknown

    @property
    def taken(self) -> int:
        """How many messages the broker has taken, or was sent without being asked."""
        return self.confirmed + self.unconfirmed

    def merge(self, other: Tally) -> None:
        """Adds another's counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def to_plain(self) -> dict[str, int]:
        """Every count by its name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, plain: dict[str, int]) -> Self:
        """The tally that `to_plain` was asked of."""
        tally = cls()
        for name, number in plain.items():
            setattr(tally, name, number)
        return tally


class Errors:
    """What went wrong, by name, with the first text of each name."""

    __slots__ = ("counts", "examples")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def note(self, error: BaseException, suffix: str = "") -> None:
        """Counts an exception under its class's name."""
        self.note_name(type(error).__name__ + suffix, str(error) or repr(error))

    def note_name(self, name: str, text: str) -> None:
        """Counts an error that is no exception."""
        self.counts[name] += 1
        self.examples.setdefault(name, text[:300])

    def merge(self, other: Errors) -> None:
        """Adds another's counts; of two examples the first stays."""
        self.counts.update(other.counts)
        self.examples = {**other.examples, **self.examples}

    def to_plain(self) -> dict[str, Any]:
        """Counts and examples by the errors' names."""
        return {"counts": dict(self.counts), "examples": dict(self.examples)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The errors that `to_plain` was asked of."""
        errors = cls()
        errors.counts.update(plain["counts"])
        errors.examples.update(plain["examples"])
        return errors
