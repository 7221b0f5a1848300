"""Whose messages a quorum queue rejects when it is full (`reject-publish`): it tells publishers, a little late.

What must stay true: a publisher is rejected from the moment at which the queue was over its limit, by one message, and
until it is well below; one that comes while the queue is just full is not.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

__all__ = ["Admission"]

ROOMY = 0.8
"""The part of its limit below which a queue takes messages again of those whom it has rejected."""


class Admission:
    """The publishers of one queue. None is kept alive by it."""

    __slots__ = ("_blocked", "_max_bytes", "_max_length", "_publishers")

    def __init__(self, max_length: int | None, max_bytes: int | None) -> None:
        self._max_length = max_length
        self._max_bytes = max_bytes
        self._publishers: WeakSet[Any] = WeakSet()
        self._blocked: WeakSet[Any] = WeakSet()

    def admits(self, publisher: object, count: int, octets: int) -> bool:
        """Whether its message is taken, with so many messages and octets ready."""
        if publisher not in self._publishers:
            self._publishers.add(publisher)
            if self._is_over(count, octets, 1.0):
                self._blocked.add(publisher)
        return publisher not in self._blocked

    def grow(self, count: int, octets: int) -> None:
        """There are so many after a message has come or come back."""
        if self._is_over(count, octets, 1.0):
            self._blocked.update(self._publishers)

    def shrink(self, count: int, octets: int) -> None:
        """There are so many after one has left."""
        if self._blocked and not self._is_over(count, octets, ROOMY):
            self._blocked.clear()

    def _is_over(self, count: int, octets: int, part: float) -> bool:
        if self._max_length is not None and count > int(self._max_length * part):
            return True
        return self._max_bytes is not None and octets > int(self._max_bytes * part)
