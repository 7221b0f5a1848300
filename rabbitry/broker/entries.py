"""A message in a queue, and the messages that are ready: in the order in which they leave.

Two kinds of order, which is most of what tells a classic queue from a quorum queue: a message that comes back goes to
its old place, or ahead of all. What must stay true: taking and coming back cost the same whatever the queue's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import merge
from operator import attrgetter

from rabbitry.broker.messages import Message

__all__ = ["Entry", "InPlace", "ReturnsFirst"]


class Entry:
    """A message in one queue. `expires` is the moment at which it may not be delivered any more."""

    __slots__ = ("acquired", "count", "expires", "level", "message", "place", "redelivered")

    def __init__(self, message: Message, place: int, level: int, expires: float | None) -> None:
        self.message: Message = message
        self.place: int = place
        self.level: int = level
        self.expires: float | None = expires
        self.redelivered: bool = message.was_delivered
        self.acquired: int = 0  # how often it came back
        self.count: int = 0  # how often it came back as what had failed


_place = attrgetter("place")


class InPlace:
    """By priority, then by age: a message that comes back has its old place."""

    __slots__ = ("_levels",)

    def __init__(self, max_priority: int) -> None:
        self._levels: list[deque[Entry]] = [deque() for _ in range(max_priority + 1)]  # the highest last

    def append(self, entry: Entry) -> None:
        """A new message."""
        self._levels[entry.level].append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Messages that were taken."""
        by_level: dict[int, list[Entry]] = {}
        for entry in sorted(entries, key=_place):
            by_level.setdefault(entry.level, []).append(entry)
        for level, returned in by_level.items():
            waiting = self._levels[level]
            if not waiting or returned[-1].place < waiting[0].place:
                waiting.extendleft(reversed(returned))
            else:
                self._levels[level] = deque(merge(returned, waiting, key=_place))

    def pop(self) -> Entry | None:
        """The next to be delivered."""
        for level in reversed(self._levels):
            if level:
                return level.popleft()
        return None

    def heads(self) -> Iterator[deque[Entry]]:
        """Each sequence whose head may expire, the next once the one before is empty: what is behind a message of a
        higher priority stays, however old it is.
        """
        for level in reversed(self._levels):
            if level:
                yield level
            if level:
                return

    def __iter__(self) -> Iterator[Entry]:
        """In the order in which they leave."""
        for level in reversed(self._levels):
            yield from level

    def clear(self) -> None:
        """Forget them all."""
        for level in self._levels:
            level.clear()


class ReturnsFirst:
    """By age, but for messages that come back: they are next, in the order in which they came back."""

    __slots__ = ("_new", "_returned")

    def __init__(self) -> None:
        self._new: deque[Entry] = deque()
        self._returned: deque[Entry] = deque()

    def append(self, entry: Entry) -> None:
        """A new message."""
        self._new.append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Messages that were taken."""
        self._returned.extend(entries)

    def pop(self) -> Entry | None:
        """The next to be delivered."""
        if self._returned:
            return self._returned.popleft()
        return self._new.popleft() if self._new else None

    def heads(self) -> Iterator[deque[Entry]]:
        """The sequence whose head may expire."""
        yield self._returned if self._returned else self._new

    def __iter__(self) -> Iterator[Entry]:
        """In the order in which they leave."""
        yield from self._returned
        yield from self._new

    def clear(self) -> None:
        """Forget them all."""
        self._new.clear()
        self._returned.clear()
