"""A transaction: what a channel has published and settled, kept until it commits.

What must stay true: RabbitMQ's order: messages first, settlements after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rabbitry.broker.consuming import Outcome
from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.unsettled import Unsettled

__all__ = ["Publish", "Transaction"]


class Publish(NamedTuple):
    """A message that is checked and routed, and waits. Its queues may be gone when it is committed."""

    exchange: Exchange
    message: Message
    mandatory: bool
    queues: Sequence[Queue]


class Transaction:
    """What waits for the next commit."""

    __slots__ = ("publishes", "settlements")

    def __init__(self) -> None:
        self.publishes: list[Publish] = []
        self.settlements: list[tuple[Outcome, list[Unsettled]]] = []

    def held(self) -> Iterator[Unsettled]:
        """The deliveries in it."""
        for _, taken in self.settlements:
            yield from taken
