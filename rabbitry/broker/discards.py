"""The dead messages of one queue that dead-letters at least once: each is kept until all queues that it is for have it.

What must stay true: what is held here counts towards its queue's length, and is sent again from time to time, whatever
was wrong: no exchange, no queue, a full one. It is gone with the queue. So many are on their way at once, and no more:
the others wait behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from rabbitry.broker.messages import Message

__all__ = ["MOST", "DeadLetter", "Discards"]

MOST = 32
"""How many are sent before one of them has arrived, as in RabbitMQ."""


class DeadLetter(NamedTuple):
    """A message as it is published to a dead-letter exchange, why it died, and the names of the queues that have it."""

    message: Message
    reason: str
    taken: set[str]


class Discards:
    """Those of one queue. To full quorum queues it is the publisher of what it sends."""

    __slots__ = ("__weakref__", "_held", "_waiting", "content_octets", "count", "is_watched", "octets")

    def __init__(self) -> None:
        self._held: dict[int, DeadLetter] = {}  # by identity, the oldest first
        self._waiting: deque[DeadLetter] = deque()
        self.count: int = 0
        self.octets: int = 0
        """Of their bodies."""
        self.content_octets: int = 0
        """Of their bodies and properties."""
        self.is_watched: bool = False
        """Whether somebody will send again what is held."""

    @property
    def is_full(self) -> bool:
        """Whether so many are held that another one is not sent, but waits."""
        return len(self._held) >= MOST

    def hold(self, letter: DeadLetter) -> None:
        """Keep it until it is let go. It has been sent, or waits until it can be (see `admit`)."""
        if self.is_full:
            self._waiting.append(letter)
        else:
            self._held[id(letter)] = letter
        self.count += 1
        self.octets += len(letter.message.body)
        self.content_octets += letter.message.octets

    def admit(self) -> DeadLetter | None:
        """The next of those that wait, which is to be sent now: if there is one, and room for it."""
        if not self._waiting or self.is_full:
            return None
        letter = self._waiting.popleft()
        self._held[id(letter)] = letter
        return letter

    def let_go(self, letter: DeadLetter) -> None:
        """All have it."""
        if self._held.pop(id(letter), None) is not None:
            self.count -= 1
            self.octets -= len(letter.message.body)
            self.content_octets -= letter.message.octets

    def held(self) -> Collection[DeadLetter]:
        """What has been sent and is kept, the oldest first."""
        return list(self._held.values())

    def clear(self) -> None:
        """Forget them all: the queue is gone."""
        self._held.clear()
        self._waiting.clear()
        self.count = self.octets = self.content_octets = 0
