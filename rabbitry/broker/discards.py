"""The dead messages of one queue that dead-letters at least once: each is kept until all queues that it is for have it.

What must stay true: what is held here counts towards its queue's length, and is sent again from time to time, whatever
was wrong: no exchange, no queue, a full one. It is gone with the queue.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from rabbitry.broker.messages import Message

__all__ = ["DeadLetter", "Discards"]


class DeadLetter(NamedTuple):
    """A message as it is published to a dead-letter exchange, why it died, and the names of the queues that have it."""

    message: Message
    reason: str
    taken: set[str]


class Discards:
    """Those of one queue. To full quorum queues it is the publisher of what it sends."""

    __slots__ = ("__weakref__", "_held", "count", "is_watched", "octets")

    def __init__(self) -> None:
        self._held: dict[int, DeadLetter] = {}  # by identity, the oldest first
        self.count: int = 0
        self.octets: int = 0
        """Of their bodies."""
        self.is_watched: bool = False
        """Whether somebody will send again what is held."""

    def hold(self, letter: DeadLetter) -> None:
        """Keep it until it is let go."""
        self._held[id(letter)] = letter
        self.count += 1
        self.octets += len(letter.message.body)

    def let_go(self, letter: DeadLetter) -> None:
        """All have it."""
        if self._held.pop(id(letter), None) is not None:
            self.count -= 1
            self.octets -= len(letter.message.body)

    def held(self) -> Collection[DeadLetter]:
        """What is kept now, the oldest first."""
        return list(self._held.values())

    def clear(self) -> None:
        """Forget them all: the queue is gone."""
        self._held.clear()
        self.count = self.octets = 0
