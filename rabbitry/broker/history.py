"""What was published lately: each message, where it was published and where it went.

What must stay true: it is bounded, in messages and in octets; the oldest are forgotten first.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rabbitry.broker.messages import Message

__all__ = ["History", "Record"]

MOST_OCTETS = 16 * 1024 * 1024
"""Of the bodies that are kept."""


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
        self.most = most
        self._records: deque[Record] = deque()
        self._octets = 0

    def add(self, record: Record) -> None:
        """hot: with every message."""
        records = self._records
        records.append(record)
        self._octets += len(record.message.body)
        while len(records) > self.most or (self._octets > MOST_OCTETS and records):
            self._octets -= len(records.popleft().message.body)

    def records(self) -> list[Record]:
        """The oldest first."""
        return list(self._records)

    def clear(self) -> None:
        """Forget them all."""
        self._records.clear()
        self._octets = 0
