"""`Waiter`: what a thread waits for while the event loop runs, in this thread or in another."""

from __future__ import annotations

import threading

__all__ = ["Waiter"]


class Waiter:
    """What a thread waits for, in `Turns.wait`; `Turns.end` ends it."""

    __slots__ = ("_awake", "is_begun", "is_done")

    def __init__(self) -> None:
        self.is_done = self.is_begun = False
        self._awake = threading.Lock()
        self._awake.acquire()

    def begin(self) -> None:
        """What is to be done on the loop, first of all, or as who is about to run it."""

    def give_up(self) -> None:
        """The loop has ended, and nothing will come."""
        self.is_done = True
        self.wake()

    def wake(self) -> None:
        """Have its thread look again. Harmless when done twice."""
        try:
            self._awake.release()
        except RuntimeError:
            pass

    def sleep(self, seconds: float | None) -> None:
        """Return once it is woken, or so many seconds have passed (None: whenever that is)."""
        self._awake.acquire(timeout=-1 if seconds is None else min(max(seconds, 0.0), threading.TIMEOUT_MAX))
