"""The exact account of every message: which were confirmed, which arrived, which arrived twice, which are gone.

Each producer numbers its own messages from 0. An account holds two sets of these numbers, kept as intervals: those
that arrived, and those that were *not* confirmed; the rest was. So a run may last for days: memory grows with the gaps
in the sequences (losses, nacks), not with the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self

from loadtest.metrics.intervals import Intervals
from loadtest.metrics.order import Order, Seen


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

    def refused(self, start: int, end: int) -> bool:
        """Whether none of these numbers, up to the end, is owed: all of them were disowned."""
        disowned = self.disowned
        return disowned is not None and all(number in disowned for number in range(start, end))

    def take_back(self) -> None:
        """The latest number was given to a message that was certainly not sent."""
        self.sent -= 1

    def disown(self, number: int) -> None:
        """The message was nacked or returned, or its outcome is unknown: it may arrive, and need not."""
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

    def merge(self, other: Account) -> None:
        """Adds what another process knows of the same producer's messages. One process alone has sent them."""
        self.sent = max(self.sent, other.sent)
        self.arrived.merge(other.arrived)
        self.disowned = _union(self.disowned, other.disowned)
        self.left = _union(self.left, other.left)

    def to_plain(self) -> list[Any]:
        """The account as numbers and lists."""
        sets = (self.arrived, self.disowned, self.left)
        return [self.sent, *(None if each is None else each.to_plain() for each in sets)]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Self:
        """The account that `to_plain` was asked of."""
        account = cls()
        account.sent, arrived, disowned, left = plain
        account.arrived = Intervals.from_plain(arrived)
        account.disowned = None if disowned is None else Intervals.from_plain(disowned)
        account.left = None if left is None else Intervals.from_plain(left)
        return account


def _union(one: Intervals | None, other: Intervals | None) -> Intervals | None:
    if other is None:
        return one
    union = Intervals() if one is None else one
    union.merge(other)
    return union


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

    __slots__ = ("accounts", "found", "order", "unique")

    def __init__(self, producers: int) -> None:
        self.accounts = [Account() for _ in range(producers)]
        self.unique = 0
        self.found = 0
        self.order = Order()

    def receive(self, producer: int, number: int, redelivered: bool = False, seen: Seen | None = None) -> bool:
        """Notes an arrival; True if this message had not arrived before. IndexError for a producer there isn't.

        `seen` is the consumer's own, for as long as it consumes; without it nothing is told of its order.
        """
        bounds = self.accounts[producer].arrived.bounds
        if len(bounds) == 2 and bounds[1] == number and not bounds[0]:
            # hot: the next one, and all before it are there: nothing is out of order, and there is nothing to note
            bounds[1] = number + 1
            self.unique += 1
            return True
        return self._receive_out_of_turn(producer, number, redelivered, seen)

    def _receive_out_of_turn(self, producer: int, number: int, redelivered: bool, seen: Seen | None) -> bool:
        account, order = self.accounts[producer], self.order
        end = account.arrived.bounds[-1] if account.arrived.bounds else 0
        if not account.arrived.add(number):
            order.duplicates += 1
            order.duplicates_redelivered += redelivered
            return False
        self.unique += 1
        if number > end and not account.refused(end, number):
            order.gaps += 1
            order.gaps_redelivered += redelivered
        if seen is not None:
            if seen.get(producer, -1) > number:
                order.reordered += 1
                order.reordered_redelivered += redelivered
            else:
                seen[producer] = number
        return True

    def find(self, producer: int, number: int) -> None:
        """Notes a message that was still in a queue when the run was over. IndexError as for `receive`."""
        self.found += self.accounts[producer].leave(number)

    def spread(self, producers: int) -> None:
        """Tells the accounts of further copies what was sent: the k-th copy of a producer's messages, which goes to the
        k-th queue, has the account that is k times ``producers`` further on.
        """
        for number, account in enumerate(self.accounts[producers:], producers):
            original = self.accounts[number % producers]
            account.sent, account.disowned = original.sent, original.disowned

    def merge(self, other: Ledger) -> None:
        """Adds another process's ledger of the same producers: what both saw arrive, arrived twice."""
        for _ in range(len(other.accounts) - len(self.accounts)):
            self.accounts.append(Account())
        for mine, theirs in zip_longest(self.accounts, other.accounts, fillvalue=Account()):
            mine.merge(theirs)
        self.order.merge(other.order)
        self._recount()

    def to_plain(self) -> list[list[Any]]:
        """All accounts as numbers and lists."""
        return [account.to_plain() for account in self.accounts]

    @classmethod
    def from_plain(cls, plain: list[list[Any]]) -> Self:
        """The ledger that `to_plain` was asked of."""
        ledger = cls(0)
        ledger.accounts = [Account.from_plain(each) for each in plain]
        ledger._recount()
        return ledger

    def _recount(self) -> None:
        self.unique = sum(len(account.arrived) for account in self.accounts)
        self.found = sum(len(account.left) for account in self.accounts if account.left is not None)

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
