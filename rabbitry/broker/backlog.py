"""What a client has sent and nobody has dealt with, as it has to wait: for room, for the end of an alarm, by command.

What must stay true: it is dealt with in the order in which it came, and nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from rabbitry.protocol.server.events import Event

__all__ = ["Backlog"]


class Backlog:
    """That of one connection."""

    __slots__ = ("_events", "_late")

    def __init__(self) -> None:
        self._events: Iterator[Event] | None = None
        self._late: list[bytes] = []

    @property
    def is_holding(self) -> bool:
        """Whether the client has to wait, with something or nothing to be dealt with."""
        return self._events is not None

    def hold(self, events: Iterator[Event]) -> None:
        """Keep these, and whatever comes."""
        self._events = events

    def add(self, data: bytes) -> None:
        """More has come."""
        self._late.append(data)

    def take(self, receive: Callable[[bytes], Iterator[Event]]) -> Iterator[Event]:
        """What is to be dealt with now; `receive` makes events of what came meanwhile, one chunk after the other."""
        assert self._events is not None
        events, late = self._events, self._late
        self._events, self._late = None, []
        return chain(events, chain.from_iterable(map(receive, late)))

    def clear(self) -> None:
        """Forget it: the client is gone."""
        self._events = None
        self._late.clear()
