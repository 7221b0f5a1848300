"""What was published lately: each message, where it was published and where it went.

What must stay true: it is bounded, in messages and in octets; the oldest are forgotten first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rabbitry.broker.messages import Message

__all__ = ["History", "Record"]

MOST_OCTETS = 16 * 1024 * 1024
"""Of the bodies that are kept."""
TRIMMED_OCTETS = MOST_OCTETS // 4 * 3
"""What is left of more, so that it is not counted again with the next message."""


class Named(Protocol):
    """A queue."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


class Record(NamedTuple):
    """One publish: by whom (empty for the broker's own), in which virtual host, and the names of the queues."""

    message: Message
    user: str
    virtual_host: str
    queues: tuple[str, ...]


class History:
    """The last `most` publishes; with 0 none is kept."""

    __slots__ = ("_octets", "_records", "most")

    def __init__(self, most: int) -> None:
        self.most: int = most
        self._records: deque[tuple[Message, str, str, Sequence[Named]]] = deque(maxlen=most)
        self._octets = 0  # at least those that are kept: what `most` has pushed out is not taken off before it matters

    def add(self, message: Message, user: str, virtual_host: str, queues: Sequence[Named]) -> None:
        """hot: with every message. What was told is put into words when somebody asks."""
        self._records.append((message, user, virtual_host, queues))
        self._octets += message.octets
        if self._octets > MOST_OCTETS:
            self._trim()

    def _trim(self) -> None:
        records = self._records
        self._octets = sum([message.octets for message, *_ in records])
        if self._octets > MOST_OCTETS:
            while self._octets > TRIMMED_OCTETS:
                self._octets -= records.popleft()[0].octets

    def records(self) -> list[Record]:
        """The oldest first."""
        return [
            Record(message, user, virtual_host, tuple([queue.name for queue in queues]))
            for message, user, virtual_host, queues in self._records
        ]

    def clear(self) -> None:
        """Forget them all."""
        self._records.clear()
        self._octets = 0
