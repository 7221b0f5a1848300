"""`SharedLoop`: an asyncio event loop that several threads run in turn, one at a time; `turns` says which.

Who may run it need not: `call_now` calls what begins a wait, and `watch` waits for a socket and has it read, as the
loop would. One confirmed publish is no more than that, and asyncio's own turns cost as much as its sending and reading.

What must stay true: whatever else waits to be called is called by asyncio's `run_forever` alone, and in time: a watch
ends before the next timer and is kept only where nothing waits to be called; who only watches takes a step of the loop
once it `is_due`.
"""

from __future__ import annotations

import os
import select
import selectors
import sys
import time
from asyncio.events import _set_running_loop
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack

if TYPE_CHECKING:
    import asyncio

    from _typeshed import FileDescriptorLike

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
"""Seconds that a watch takes at the most: the system counts milliseconds, in a C integer."""


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
        self._epoll: Any = None  # the selector's, by a descriptor of its own
        if sys.platform == "win32":
            super().__init__()
        else:
            selector = SparingSelector()
            super().__init__(selector)
            if isinstance(selector, getattr(selectors, "EpollSelector", ())):
                self._epoll = select.epoll.fromfd(os.dup(selector.fileno()))
        self._keep = keep
        self._attend = attend
        self._readers: dict[int, Callable[[], object]] = {}
        self._ran_at = 0.0

    # --- run ----------------------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """What the spare thread does."""
        self._keep(self.run)

    def run(self) -> None:
        """Run until it is stopped."""
        super().run_forever()
        self._ran_at = time.monotonic()

    def has_work(self) -> bool:
        """Whether something is to be called at once."""
        return bool(getattr(self, "_ready", True))

    def is_due(self) -> bool:
        """Whether it was not run for so long that a step of it is to be taken."""
        return time.monotonic() - self._ran_at > DUE

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Arguments]], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """Have it called, by whoever runs the loop."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._attend()
        return handle

    # --- without being run, by who may run it -------------------------------------------------------------------------

    def call_now(self, callback: Callable[[], object]) -> None:
        """Call it: as if the loop was run already."""
        _set_running_loop(self)
        try:
            callback()
        finally:
            _set_running_loop(None)

    def watch(self, end: float | None) -> None:
        """Wait for sockets until this time (None: for ever), and have those read that can be, once. Returns sooner for
        whatever else the loop is to do.

        hot: with a time-out of 1 ms instead, for which the system has to set its clock, a publish took a quarter more.
        """
        timeout = self._may_watch(end)
        if timeout is None:
            return
        _set_running_loop(self)
        try:
            for descriptor, _ in self._epoll.poll(timeout, 2):
                reader = self._readers.get(descriptor)
                if reader is not None:
                    self._read(reader)
        finally:
            _set_running_loop(None)

    def _may_watch(self, end: float | None) -> float | None:
        """How many seconds to watch sockets for, -1 without a bound; None where the loop is rather to be run."""
        timers, now = getattr(self, "_scheduled", None), time.monotonic()
        if timers is None or self._epoll is None or self.has_work():
            return None
        if timers and (end is None or timers[0].when() < end):
            end = timers[0].when()
        if end is None:
            return -1
        return min(end - now, DAY) if end > now else None

    def _read(self, reader: Callable[[], object]) -> None:
        try:
            reader()
        except Exception as error:
            self.call_exception_handler({"message": f"{reader!r} failed", "exception": error})

    def add_reader(
        self, fd: FileDescriptorLike, callback: Callable[[Unpack[Arguments]], Any], *args: *Arguments
    ) -> None:
        """As asyncio's, and the callback is known to `watch`."""
        super().add_reader(fd, callback, *args)
        self._readers[_number(fd)] = partial(copy_context().run, callback, *args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """As asyncio's."""
        self._readers.pop(_number(fd), None)
        return super().remove_reader(fd)

    def close(self) -> None:
        """As asyncio's."""
        super().close()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None


def _number(fd: FileDescriptorLike) -> int:
    return fd if isinstance(fd, int) else fd.fileno()
