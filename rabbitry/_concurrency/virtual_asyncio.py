"""Virtual time on asyncio: an event loop whose clock leaps to the next timer as soon as there is nothing else to do.

What must stay true: time moves only when nothing is ready, and when no worker thread and no real socket (nor pipe, nor
process) may still have something to say; then it moves to the next timer and no further, so the same program does the
same in the same order each time. The clocks of this library go with it while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime
from random import Random
from typing import TypeVar, TypeVarTuple

from rabbitry._concurrency.clock import Clock, with_clock

__all__ = ["VirtualTimeLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger("rabbitry")

TOLD_AFTER = 5.0
"""Real seconds for which time stands still before it is said why."""


class _Selector(selectors.DefaultSelector):
    """asyncio asks it for events, and says how long its next timer allows it to wait: that is when time moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.what_holds: Callable[[], str] = str
        """What may still happen in real time, in words; "" for nothing."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None:  # no timer: only a thread, a socket or a signal can go on
            return super().select(None)
        holding = self.what_holds()
        if not holding:
            self.now += timeout
            return []
        if not (events := super().select(TOLD_AFTER)) and self.what_holds():
            logger.warning("virtual time stands still, and a timer waits for it, because of %s", holding)
            events = super().select(None)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop for tests, in which waiting takes no time: `fail_after`, `sleep`, and whatever this library
    waits for, from heartbeats to the TTLs of `rabbitry.broker`.

        asyncio.Runner(loop_factory=VirtualTimeLoop)
        anyio.run(main, backend_options={"loop_factory": VirtualTimeLoop})

    `time()` begins at 0; the library's wall clock begins at `start`, by default now, and moves along.
    `functools.partial(VirtualTimeLoop, start=…)` makes the times that messages tell the same in each run, as the jitter
    of back-off is. Python's own `time` and `datetime` stay real.

    Real connections are refused by this library here, as the network takes real time. Those that others open, worker
    threads at work and processes hold up time until they are closed or done; a warning names them after 5 s.
    """

    def __init__(self, *, start: datetime | None = None) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        if start is not None and start.tzinfo is None:
            self.close()
            raise ValueError(f"start must have a time zone, or what it means depends on the machine: {start!r}")
        self._own = frozenset(self._virtual.get_map())
        self._in_executors = 0
        self._virtual.what_holds = self._what_holds
        began = time.time() if start is None else start.timestamp()
        self._clock = Clock(self.time, lambda: began + self.time(), Random(0), is_virtual=True)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def run_forever(self) -> None:
        with with_clock(self._clock):
            super().run_forever()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._in_executors += 1
        future.add_done_callback(self._leave_executor)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's
        """As asyncio has it, for which cancelling it means that threads go on; its time-out does not pass meanwhile."""
        self._in_executors += 1
        try:
            await super().shutdown_default_executor(*(() if timeout is None else (timeout,)))
        finally:
            self._in_executors -= 1

    def _leave_executor(self, _: object) -> None:
        self._in_executors -= 1

    def _what_holds(self) -> str:
        if self._in_executors + _threads_at_work(self) > 0:
            return "a worker thread at work"
        if others := set(self._virtual.get_map()) - self._own:
            descriptors = ", ".join(sorted(map(str, others)))
            return f"real sockets, pipes or processes that are still open (descriptors {descriptors})"
        return ""


def _threads_at_work(loop: asyncio.AbstractEventLoop) -> int:
    """AnyIO's worker threads that do not wait for this loop themselves, by `anyio.from_thread.run`.

    It tells of those alone that have the usual limiter, so this goes by what its threads and tasks are.
    """
    at_work = [thread for thread in threading.enumerate() if getattr(thread, "loop", None) is loop]
    count = sum(thread not in getattr(thread, "idle_workers", (thread,)) for thread in at_work)
    if count:
        names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks(loop))
        count -= sum("run_async_from_thread" in name for name in names)
    return count
