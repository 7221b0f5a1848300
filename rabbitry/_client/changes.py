"""`Change`: what a client tells of its connections' states, and `Changes`, which hands it to whoever asked.

What must stay true: telling never waits and never fails; a subscriber that falls behind misses changes, and holds up
nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from rabbitry._values.options import State

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ["Change", "Changes"]


CHANGES_KEPT = 100
"""Changes of state that a subscriber may be behind; further ones are dropped."""


@dataclass(frozen=True, slots=True)
class Change:
    """A connection's new state, when (`anyio.current_time()`), and the error that ended the state before, if any.

    With `is_alarm` the state is what it was, "connected": an alarm of the broker has begun to block what is published
    on the connection, and `blocked_reason` says why; or it is over, and that is None. RabbitMQ tells a connection of an
    alarm when something is next published on it.
    """

    connection: str
    state: State
    error: Exception | None
    time: float
    blocked_reason: str | None = None
    is_alarm: bool = False


class Changes:
    """The subscribers to one client's changes, until the client has ended."""

    __slots__ = ("_has_ended", "_on_change", "_subscribers")

    def __init__(self, on_change: Callable[[Change], None] | None = None) -> None:
        """`on_change` is told of each change as well: an instrumented client counts them."""
        self._on_change = on_change
        self._subscribers: list[MemoryObjectSendStream[Change]] = []
        self._has_ended = False

    @contextmanager
    def subscribed(self) -> Iterator[MemoryObjectReceiveStream[Change]]:
        """The changes to come, for one subscriber."""
        sender, receiver = anyio.create_memory_object_stream[Change](CHANGES_KEPT)
        self._subscribers.append(sender)
        if self._has_ended:
            sender.close()
        try:
            with receiver:
                yield receiver
        finally:
            sender.close()
            self._subscribers.remove(sender)

    def tell(self, change: Change) -> None:
        """Hand a change to all subscribers."""
        for subscriber in self._subscribers:
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                subscriber.send_nowait(change)
        if self._on_change is not None:
            self._on_change(change)

    def end(self) -> None:
        """There will be no more changes."""
        self._has_ended = True
        for subscriber in self._subscribers:
            subscriber.close()
