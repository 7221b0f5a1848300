"""How this library waits: one-shot waiters for replies, and the checkpoints of operations that need not wait.

Operations that find their work done already must still notice cancellation, and now and then let other tasks run.
A full checkpoint each time would cost more than the operation (a publish 8 to 13 us instead of 2), so operations look
for cancellation every time and give way every 32nd (`GIVE_WAY`); looking alone never lets a deadline's timer run.
"""

from __future__ import annotations

from typing import Any

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

__all__ = ["GIVE_WAY", "Waiter", "checkpoint", "checkpoint_if_cancelled"]

GIVE_WAY = 31
"""`calls & GIVE_WAY == 0` on every 32nd call."""


class Waiter:
    """The one place a task waits for one reply. Setting it twice keeps the first; nobody waiting costs nothing."""

    __slots__ = ("_error", "_event", "is_done", "value")

    def __init__(self) -> None:
        self.is_done = False
        self.value: Any = None
        self._error: BaseException | None = None
        self._event: anyio.Event | None = None

    def set(self, value: Any) -> None:
        """The reply came."""
        if not self.is_done:
            self.is_done = True
            self.value = value
            if self._event is not None:
                self._event.set()

    def fail(self, error: BaseException) -> None:
        """There will be no reply, because of `error`."""
        if not self.is_done:
            self._error = error
            self.set(None)

    async def wait(self) -> Any:
        """The reply. Cancelling leaves the waiter as it was."""
        if not self.is_done:
            self._event = anyio.Event()
            await self._event.wait()
        if self._error is not None:
            raise self._error
        return self.value
