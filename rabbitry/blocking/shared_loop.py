"""`SharedLoop`: an asyncio event loop that several threads run in turn, one at a time; `turns` says which.

Who may run it need not: `exchange` calls what sends something and waits at its socket for the answer, as the loop
would. One confirmed publish is no more than that, and asyncio's own turns cost as much as its sending and reading.

What must stay true: whatever else waits to be called is called by asyncio's `run_forever` alone, and in time: a wait at
a socket ends before the next timer and with whatever else the loop is to do, and begins only where nothing waits to be
called; who does no more than that takes a step of the loop once it `is_due`.
"""

from __future__ import annotations

import select
import selectors
import sys
import time
from asyncio.events import _set_running_loop
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

from rabbitry.blocking.waiter import Waiter

if TYPE_CHECKING:
    import asyncio

if TYPE_CHECKING or sys.platform != "win32":
    from asyncio import SelectorEventLoop as PlainLoop
else:
    from asyncio import ProactorEventLoop as PlainLoop

__all__ = ["SharedLoop"]

Arguments = TypeVarTuple("Arguments")

SPARED = 3
"""Looks at the sockets in a row that the loop goes without while it has something to call."""

DUE = 0.05
"""Seconds after which it is to be run though nothing is to be called: for timers, and to drop the cancelled ones.
"""

DAY = 86400.0
"""Seconds that a wait at a socket takes at the most: the system counts milliseconds, in a C integer."""


class SparingSelector(selectors.DefaultSelector):
    """hot: does not look at the sockets each time that the loop has something to call at once, but every fourth time.
    A publish goes through four steps of the loop, and waits in one of them; each other look takes 4 us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spared = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, after `timeout` seconds at the most; without a look where there is no time to wait."""
        if timeout is not None and timeout <= 0 and self._spared < SPARED:
            self._spared += 1
            return []
        self._spared = 0
        return super().select(timeout)


class SharedLoop(PlainLoop):
    """`keep` is what the spare thread does with `run_forever`; `attend` is told that something is to be called."""

    def __init__(self, keep: Callable[[Callable[[], None]], None], attend: Callable[[], None]) -> None:
        self._selector_fd = -1  # the selector's own descriptor, which is readable while the loop has something to read
        if sys.platform == "win32":
            super().__init__()
        else:
            selector = SparingSelector()
            super().__init__(selector)
            if isinstance(selector, getattr(selectors, "EpollSelector", ())):
                self._selector_fd = selector.fileno()
        self._keep = keep
        self._attend = attend
        self._poll: Any = None  # for the socket below and the selector
        self._polled_fd = -1
        self._ran_at = 0.0
        self.is_due: bool = False
        """Whether it was not run for so long, at the last `exchange`, that a step of it is to be taken."""
        self.to_call: deque[Any] | tuple[None] = getattr(self, "_ready", (None,))
        """What is to be called at once."""

    # --- run ----------------------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """What the spare thread does."""
        self._keep(self.run)

    def run(self) -> None:
        """Run until it is stopped."""
        super().run_forever()
        self._ran_at, self.is_due = time.monotonic(), False

    def has_work(self) -> bool:
        """Whether something is to be called at once."""
        return bool(self.to_call)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Have it called, by whoever runs the loop."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._attend()
        return handle

    # --- without being run, by who may run it -------------------------------------------------------------------------

    def exchange(self, waiter: Waiter, end: float | None) -> None:
        """Begin what `waiter` waits for, as if the loop was run already. Where that has sent something, wait until this
        time (None: for ever) for the answer and have it read, once; return sooner for whatever else the loop is to do.
        """
        _set_running_loop(self)
        try:
            waiter.begin()
            # hot: from here on to the waiting nothing costs time, since the broker has to work first.
            timeout = self._may_wait(waiter, end)
            if timeout is None:
                return
            source = waiter.source
            assert source is not None
            fd = source.fd
            if fd != self._polled_fd:
                self._poll_for(fd)
            # hot: the socket, and whatever else the loop has to read, in one call of the system; to be told by the
            # selector and to ask the poller for the socket took three. With a time-out of 1 ms, for which the system
            # has to set its clock, a publish took a quarter more.
            ready = self._poll.poll(timeout)
            if ready and ready[0][0] == fd:
                try:
                    source.read_now()
                except Exception as error:
                    self.call_exception_handler({"message": f"{source!r} failed", "exception": error})
        finally:
            _set_running_loop(None)

    def _may_wait(self, waiter: Waiter, end: float | None) -> float | None:
        """How many milliseconds to wait at the waiter's source, -1 without a bound; None where that has ended or the
        loop is rather to be run.
        """
        source, timers, now = waiter.source, getattr(self, "_scheduled", None), time.monotonic()
        self.is_due = now - self._ran_at > DUE
        if waiter.is_done or source is None or source.fd < 0 or source.is_reading_paused:
            return None
        if self.to_call or self.is_due or timers is None or self._selector_fd < 0:
            return None
        if timers and (end is None or timers[0].when() < end):
            end = timers[0].when()
        if end is None:
            return -1
        return min(end - now, DAY) * 1000 if end > now else None

    def _poll_for(self, fd: int) -> None:
        """Have `_poll` look at this socket first, and at the selector."""
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._selector_fd, select.POLLIN)
        self._polled_fd = fd

    def close(self) -> None:
        """As asyncio's."""
        super().close()
        self._selector_fd = -1
