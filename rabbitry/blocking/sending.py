"""`Sending`: one publish at a time, without a task where nothing but the broker's confirm has to be waited for.

A task, with what it takes to run, cancel and bound it, costs as much as the rest of a confirmed publish. So whoever
begins to wait queues the message itself, and the confirm ends its waiting.

What must stay true: what can't be queued at once, and what is not confirmed, becomes the coroutine's that does it in
general, which alone decides what is raised; no message is queued by both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from rabbitry import Confirmation, PublishFailed
from rabbitry.blocking.operation import Deadline, Operation
from rabbitry.blocking.turns import Turns
from rabbitry.blocking.waiter import Source

__all__ = ["Sending"]

GoOn: TypeAlias = Callable[[PublishFailed], Awaitable[None]]
"""What goes on with a message that was not confirmed, or raises that."""

Queued: TypeAlias = tuple[Confirmation | None, Source | None, GoOn | None]
"""The message's confirmation, None on a channel without; where that comes from; what goes on where it fails, None to
raise that.
"""


class Sending(Operation[None]):
    """One message. `queue` queues it, and may raise, or return None, where that needs more: then `publish` does all."""

    __slots__ = ("_confirmation", "_go_on", "_queue", "_timer")

    source: Source | None

    def __init__(
        self,
        queue: Callable[[], Queued | None],
        publish: Callable[[], Awaitable[None]],
        deadline: Deadline,
        turns: Turns,
    ) -> None:
        Operation.__init__(self, publish, deadline, turns)  # hot: without `super()`
        self._queue = queue
        self._confirmation: Confirmation | None = None
        self._go_on: GoOn | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Queue the message. Harmless when done twice."""
        if self._is_started or self.is_done:
            return
        rest = self.deadline.rest
        try:
            queued = self._queue() if rest is None or rest > 0 else None
        except Exception:  # nothing was queued: the coroutine will raise the same, or wait
            queued = None
        if queued is None:
            super().begin()
            return
        self._is_started = True
        self._confirmation, self.source, self._go_on = queued
        if self._confirmation is None:
            self._turns.end(self)
            return
        if rest is not None:
            self._timer = self._turns.loop.call_later(rest, self._expire)
        self._confirmation.tell(self)

    def set(self) -> None:
        """The confirmation has its outcome."""
        if self.is_done:  # nobody waits any more
            return
        assert self._confirmation is not None
        if self._timer is not None:
            self._stop_timer()
        if self._confirmation.outcome == "confirmed":
            self._turns.end_while_reading(self)  # hot: `_end`, which has nothing to do here
            return
        failure = self._confirmation.failure()
        if failure is not None and self._go_on is not None:
            self._function = partial(self._go_on, failure)
            self._start()
        else:
            self._end(failure, while_reading=True)

    def _expire(self) -> None:
        if not self.is_done:
            self._end(self.deadline.error(", and cancelled"))

    def cancel(self) -> None:
        self._stop_timer()
        super().cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
