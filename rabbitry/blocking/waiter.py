"""`Waiter`: what a thread waits for while the event loop runs, in this thread or in another."""

from __future__ import annotations

import threading
from typing import Protocol

__all__ = ["Source", "Waiter"]

LONGEST_OF_MAIN = 1.0
"""Seconds that the main thread sleeps at a time. A signal that comes just before it falls asleep wakes nobody: its
handler runs when the thread next looks.
"""


class Source(Protocol):
    """Where an answer comes from: a connection's transport."""

    @property
    def fd(self) -> int:
        """Its socket, -1 where there is none to wait for."""
        ...

    @property
    def is_reading_paused(self) -> bool:
        """Whether it is not to be read now."""
        ...

    def read_now(self) -> None:
        """Read it once."""
        ...


class Waiter:
    """What a thread waits for, in `Turns.wait`; `Turns.end` ends it."""

    __slots__ = ("_awake", "is_begun", "is_done", "source")

    def __init__(self) -> None:
        self.is_done: bool = False
        self.is_begun: bool = False
        self.source: Source | None = None  # where `begin` has sent something that this is the answer to
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
        """Return once it is woken, or so many seconds have passed (None: any number); in the main thread sooner."""
        is_main = threading.get_ident() == threading.main_thread().ident
        most = LONGEST_OF_MAIN if is_main else threading.TIMEOUT_MAX
        self._awake.acquire(timeout=most if seconds is None else min(max(seconds, 0.0), most))
