"""`Spare`: when the spare thread is to run the event loop, which it does while nobody waits. `turns` has it do so.

What must stay true: where nobody leads and there is something to do, it is due within the time that this has; else it
is woken as seldom as can be: while somebody leads it sleeps until that one has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rabbitry.blocking.waiter import Waiter

__all__ = ["Spare"]

UNATTENDED = 0.05
"""Seconds for which nobody needs to run the loop: heartbeats and the like take longer."""


class Spare:
    """`turn` is locked while somebody leads. What it is alerted for, which `has_something` tells of, is to be done
    within `soon` seconds.
    """

    def __init__(self, turn: threading.Lock, has_something: Callable[[], bool], soon: float) -> None:
        self._turn = turn
        self._has_something = has_something
        self._soon = soon
        self._waiter = Waiter()
        self._is_wanted = self._is_alert = False
        self.sleeps_long: bool = False
        """Until it is woken, since another thread leads."""
        self.led = 0
        """How often another thread led."""

    # --- in any thread ------------------------------------------------------------------------------------------------

    def want(self) -> None:
        """It is to lead now, unless somebody does."""
        self._is_wanted = True
        self._waiter.wake()

    def alert(self) -> None:
        """There is something to do soon."""
        if not self._is_alert:
            self._is_alert = True
            self._waiter.wake()

    def look_after(self) -> None:
        """Nobody leads any more: it is to look after this from now on. To be called where it `sleeps_long`."""
        self._waiter.wake()

    # --- in the spare thread ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """It leads, and does what it was wanted for."""
        self._is_wanted = False

    def is_due(self) -> bool:
        """Sleep, and then say whether to lead, if nobody else does."""
        led, seconds = self.led, self._soon if self._is_alert else UNATTENDED
        if not self._is_wanted:
            self._waiter.sleep(seconds)
        if self._is_wanted:
            self._is_wanted = False
            return True
        if self._is_alert:
            if self._has_something():
                return True
            self._is_alert = False
            return self._has_something()
        if led != self.led:
            return False
        if self._turn.locked():
            self.sleeps_long = True
            if self._turn.locked() and not (self._is_wanted or self._is_alert):
                self._waiter.sleep(None)
            self.sleeps_long = False
            return False
        return True
