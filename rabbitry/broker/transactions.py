"""A transaction: what a channel has published and settled, kept until it commits.

What must stay true: settlements with one outcome that follow one another are one settlement, in the order of their
tags, as in RabbitMQ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from rabbitry.broker.consuming import Outcome
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.unsettled import Unsettled

__all__ = ["Publish", "Settlement", "Transaction"]

Settlement: TypeAlias = tuple[Outcome, list[Unsettled]]
"""Deliveries, and what becomes of them."""

_tag = attrgetter("tag")


class Publish(NamedTuple):
    """A message that is checked and routed, and waits. Its queues may be gone when it is committed."""

    exchange: Exchange
    message: Message
    mandatory: bool
    queues: Sequence[Queue]


class Transaction:
    """What waits for the next commit."""

    __slots__ = ("_settlements", "publishes")

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self._settlements: list[Settlement] = []

    def settle(self, outcome: Outcome, taken: list[Unsettled]) -> None:
        """These deliveries are settled with the commit."""
        if self._settlements and self._settlements[-1][0] == outcome:
            self._settlements[-1][1].extend(taken)
        else:
            self._settlements.append((outcome, taken))

    def settlements(self) -> Iterator[Settlement]:
        """What is settled, and how."""
        for outcome, taken in self._settlements:
            yield outcome, sorted(taken, key=_tag)

    def held(self) -> Iterator[Unsettled]:
        """The deliveries in it."""
        for _, taken in self._settlements:
            yield from taken
