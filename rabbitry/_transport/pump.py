"""Pumps tell a poller when to run: one made of callbacks for asyncio (and uvloop), one made of tasks for the rest.

A pump owns nothing but its place in the event loop. `wake` asks for one turn-end flush, `set_timer` for one call of
`run_timers`. What must stay true: whatever is woken during a turn runs after the tasks of that turn, and the
selector's descriptor has left the event loop before the poller closes it (closing it under its waiter hangs on every
loop).
"""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from rabbitry._concurrency.clock import clock, loop_time
from rabbitry._later import Later
from rabbitry._transport.contracts import Turn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
else:
    asyncio = Later("asyncio")

__all__ = ["PATIENCE", "SPINS", "AsyncioPump", "TaskPump"]

# After a pass with events that touched few sockets, one of which awaits a reply, this many more turns look for it
# before the loop is left to sleep: waking from sleep would be a good part of a confirmed publish's latency.
SPINS = 3
# Where that one reply is all that is awaited, and what was read before came as soon, as from a broker on this machine,
# it goes on looking for so many seconds. To sleep and be woken would take longer than the reply, and not much less CPU.
PATIENCE = 0.00025
EARLY = 0.001  # loops may wake a timer this much too early (uvloop counts milliseconds)


class Patience:
    """Whether to look on for a reply beyond the `SPINS`."""

    __slots__ = ("_monotonic", "_poller", "_since", "_was_short")

    def __init__(self, poller: Turn) -> None:
        self._poller = poller
        self._monotonic = clock().monotonic
        self._since = 0.0  # when something was last read
        self._was_short = False  # what had been waited for then

    def begin(self) -> None:
        """Something was read."""
        now = self._monotonic()
        self._was_short = now - self._since < PATIENCE
        self._since = now

    def lasts(self) -> bool:
        """Whether to look again; asked where nothing was read."""
        return self._was_short and self._monotonic() - self._since < PATIENCE and self._poller.awaits_one()


class AsyncioPump:
    """Callbacks on the running asyncio loop: half the CPU of a task that awaits readability each time. The tasks that a
    pass has woken follow it at once, in the same callback, and the flush of what they wrote.
    """

    def __init__(self, poller: Turn) -> None:
        from rabbitry._concurrency.waiting_asyncio import wakes_of  # which needs asyncio, and that may not be there yet

        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._monotonic = clock().monotonic
        self._context = _context()
        # An event loop of our own may say whether it has anything to call: if not, nobody was woken by what was read.
        self._has_work: Callable[[], bool] | None = getattr(self._loop, "has_work", None)
        self._wakes = wakes_of(self._loop)
        self._spins = 0
        self._patience = Patience(poller)
        self._has_flushed = False  # since it last read, as that woke somebody
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn, context=self._context)

    def set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(when - self._monotonic(), EARLY)
        self._timer = self._loop.call_later(delay, self._poller.run_timers, context=self._context)

    async def run(self, started: Callable[[], None]) -> None:
        descriptor = self._poller.descriptor
        self._context.run(self._loop.add_reader, descriptor, self._on_readable)
        try:
            self.wake()  # for what was asked for before we ran
            self._poller.run_timers()
            started()
            await anyio.sleep_forever()
        finally:
            self._loop.remove_reader(descriptor)
            for handle in (self._turn, self._timer):
                if handle is not None:
                    handle.cancel()

    def _on_readable(self) -> None:
        if self._read():
            self._spins = SPINS
            self._patience.begin()
            self.wake()

    def _read(self) -> bool:
        """One pass of the poller, then one step of each task that it has woken, and what these have written leaves.
        True if spinning may be worth it.
        """
        poller, wakes = self._poller, self._wakes
        wakes.begin()
        try:
            is_worth_it = poller.poll()
        finally:
            self._has_flushed = wakes.run()
        if self._has_flushed:
            poller.flush()
            return is_worth_it
        return is_worth_it and (self._has_work is None or self._has_work())

    def _end_turn(self) -> None:
        # `_turn` stays set until the end, so that the next call is queued behind the tasks that this one wakes.
        self._has_flushed = False
        try:
            if self._spins:
                if not self._poller.is_awaiting():
                    self._spins = 0
                elif self._read():
                    self._spins = SPINS
                    self._patience.begin()
                elif self._spins > 1 or not self._patience.lasts():
                    self._spins -= 1
            if not self._has_flushed:
                self._poller.flush()
        finally:
            self._turn = None
            if self._spins or self._poller.has_work:
                self.wake()


def _context() -> contextvars.Context:
    """What callbacks run in: not the context of whichever task happens to write first in a turn, and one in which AnyIO
    knows that it is asyncio. Outside of tasks it goes by sniffio's variable, where that is installed, and only
    `anyio.run` sets it, `asyncio.run` does not; without it nothing called while reading could start a task.
    """
    context = contextvars.copy_context()
    if (sniffio := sys.modules.get("sniffio")) is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context


class TaskPump:
    """Three tasks on any AnyIO backend: `reading`, `flushing` and `keeping_time`.

    A subclass may replace the primitives by faster ones of its backend.
    """

    def __init__(self, poller: Turn) -> None:
        self._poller = poller
        self._monotonic = clock().monotonic
        self._patience = Patience(poller)
        self._spins = 0  # while positive, `reading` comes back at the end of this turn and flushes, too
        self._parked: anyio.Event | None = None
        self._sleep: anyio.CancelScope | None = None

    def wake(self) -> None:
        if self._parked is not None and not self._spins:
            self._parked.set()

    def set_timer(self, when: float) -> None:
        if self._sleep is not None:
            self._sleep.deadline = loop_time() + max(when - self._monotonic(), EARLY)

    async def run(self, started: Callable[[], None]) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.reading)
            tg.start_soon(self.flushing)
            tg.start_soon(self.keeping_time)
            started()

    async def wait_readable(self, descriptor: int) -> None:
        await anyio.wait_readable(descriptor)

    async def end_of_turn(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def park(self) -> None:
        """Wait for `wake`."""
        self._parked = anyio.Event()
        await self._parked.wait()

    async def reading(self) -> None:
        """Poll where there is something to read, and some turns longer while a reply is awaited."""
        poller, patience = self._poller, self._patience
        descriptor = poller.descriptor
        while True:
            await self.wait_readable(descriptor)
            self._spins = SPINS
            if poller.poll():
                patience.begin()
            else:
                self._spins = 0
            while self._spins:
                await self.end_of_turn()
                # The tasks of one turn run in any order: whom the data woke may be awaiting a reply a turn later only.
                if self._spins < SPINS and not poller.is_awaiting():
                    self._spins = 0
                elif poller.poll():
                    self._spins = SPINS
                    patience.begin()
                elif self._spins > 1 or not patience.lasts():
                    self._spins -= 1
                poller.flush()
            if poller.has_work:
                self.wake()

    async def flushing(self) -> None:
        """Flush at the end of each turn that has something to flush, but for those that `reading` ends."""
        poller = self._poller
        while True:
            if poller.has_work and not self._spins:
                await self.end_of_turn()
            else:
                await self.park()
            poller.flush()

    async def keeping_time(self) -> None:
        """Run the timers when the next deadline has come, whichever that is by then."""
        while True:
            with anyio.CancelScope() as self._sleep:
                if (when := self._poller.next_deadline) is not None:
                    self.set_timer(when)
                await anyio.sleep_forever()
            self._sleep = None
            self._poller.run_timers()
