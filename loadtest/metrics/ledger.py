"""The exact account of every message: which were confirmed, which arrived, which arrived twice, which are gone.

Each producer numbers its own messages from 0. An account holds two sets of these numbers, kept as intervals: those
that arrived, and those that were *not* confirmed; the rest was. So a run may last for days: memory grows with the gaps
in the sequences (losses, nacks), not with the messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.metrics.intervals import Intervals


class Account:
    """One producer's messages. By the end of a run each number below ``sent`` was confirmed or disowned."""

    __slots__ = ("arrived", "disowned", "left", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.arrived = Intervals()
        self.disowned: Intervals | None = None
        self.left: Intervals | None = None

    def send(self) -> int:
        """The number of the next message."""
        number = self.sent
        self.sent = number + 1
        return number

    def disown(self, number: int) -> None:
        """The message was nacked, returned or not sent, or its outcome is unknown: it may arrive, and need not."""
        if self.disowned is None:
            self.disowned = Intervals()
        self.disowned.add(number)

    def leave(self, number: int) -> bool:
        """Notes a message found in the queue after the run; True if it was missing until now."""
        if number in self.arrived or (self.disowned is not None and number in self.disowned):
            return False
        if self.left is None:
            self.left = Intervals()
        return self.left.add(number)


@dataclass(frozen=True, slots=True)
class Balance:
    """What all accounts come to.

    ``missing`` were confirmed and have not arrived: still queued, or lost. ``resurrected`` were disowned and arrived.
    """

    confirmed: int
    unique: int
    missing: int
    resurrected: int


class Ledger:
    """The accounts of all producers of a run, by their index."""

    __slots__ = ("accounts", "found", "unique")

    def __init__(self, producers: int) -> None:
        self.accounts = [Account() for _ in range(producers)]
        self.unique = 0
        self.found = 0

    def receive(self, producer: int, number: int) -> bool:
        """Notes an arrival; True if this message had not arrived before. IndexError for a producer there isn't."""
        if self.accounts[producer].arrived.add(number):
            self.unique += 1
            return True
        return False

    def find(self, producer: int, number: int) -> None:
        """Notes a message that was still in a queue when the run was over. IndexError as for `receive`."""
        self.found += self.accounts[producer].leave(number)

    def balance(self) -> Balance:
        """Adds up all accounts; exact once nothing is in flight any more."""
        confirmed = missing = resurrected = 0
        for account in self.accounts:
            arrived = len(account.arrived)
            disowned = account.disowned
            revived = disowned.overlap(account.arrived) if disowned else 0
            owned = account.sent - (len(disowned) if disowned else 0)
            confirmed += owned
            missing += max(0, owned - (arrived - revived))
            resurrected += revived
        return Balance(confirmed, self.unique, missing, resurrected)

    def fairness(self) -> float | None:
        """Jain's index of what each producer sent: 1.0 is all the same, 1/n is all from one; None without messages."""
        sent = [account.sent for account in self.accounts]
        squares = sum(number * number for number in sent)
        return sum(sent) ** 2 / (len(sent) * squares) if squares else None
