"""Pumps tell a poller when to run: one made of callbacks for asyncio (and uvloop), one made of tasks for the rest.

A pump owns nothing but its place in the event loop. `wake` asks for one turn-end flush, `set_timer` for one call of
`run_timers`. What must stay true: whatever is woken during a turn runs after the tasks of that turn, and the
selector's descriptor has left the event loop before the poller closes it (closing it under its waiter hangs on every
loop).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from rabbitry._transport.poller import Poller

# After a pass with events that touched few sockets, one of which awaits a reply, this many more turns look for it
# before the loop is left to sleep: waking from sleep would be a good part of a confirmed publish's latency.
SPINS = 3
EARLY = 0.001  # loops may wake a timer this much too early (uvloop counts milliseconds)


class Pump(Protocol):
    def wake(self) -> None:
        """Have the poller flushed when the turn ends. The poller asks once for each turn."""
        ...

    def set_timer(self, when: float) -> None:
        """Have the poller's timers run at `when` instead of whatever was set before."""
        ...

    async def run(self, started: Callable[[], None]) -> None:
        """Run until cancelled."""
        ...


class AsyncioPump:
    """Callbacks on the running asyncio loop: half the CPU of a task that awaits readability each time."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # not that of whichever task happens to write first in a turn
        self._spins = 0
        self._turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._end_turn, context=self._context)

    def set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(when - monotonic(), EARLY)
        self._timer = self._loop.call_later(delay, self._poller.run_timers, context=self._context)

    async def run(self, started: Callable[[], None]) -> None:
        descriptor = self._poller.epoll.fileno()
        self._loop.add_reader(descriptor, self._on_readable)
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
        if self._poller.poll():
            self._spins = SPINS
            self.wake()

    def _end_turn(self) -> None:
        # `_turn` stays set until the end, so that the next call is queued behind the tasks that this one wakes.
        try:
            if self._spins:
                self._spins -= 1
                if not self._poller.is_awaiting():
                    self._spins = 0
                elif self._poller.poll():
                    self._spins = SPINS
            self._poller.flush()
        finally:
            self._turn = None
            if self._spins or self._poller.has_work:
                self.wake()


class TaskPump:
    """Three tasks on any AnyIO backend; a subclass may replace the primitives by faster ones of its backend."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._spins = 0  # while positive, `_read` comes back at the end of this turn and flushes, too
        self._parked: anyio.Event | None = None
        self._sleep: anyio.CancelScope | None = None

    def wake(self) -> None:
        if self._parked is not None and not self._spins:
            self._parked.set()

    def set_timer(self, when: float) -> None:
        if self._sleep is not None:
            self._sleep.deadline = anyio.current_time() + max(when - monotonic(), EARLY)

    async def run(self, started: Callable[[], None]) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._read)
            tg.start_soon(self._flush)
            tg.start_soon(self._keep_time)
            started()

    async def wait_readable(self, descriptor: int) -> None:
        await anyio.wait_readable(descriptor)

    async def end_of_turn(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def park(self) -> None:
        """Wait for `wake`."""
        self._parked = anyio.Event()
        await self._parked.wait()

    async def _read(self) -> None:
        poller = self._poller
        descriptor = poller.epoll.fileno()
        while True:
            await self.wait_readable(descriptor)
            self._spins = SPINS
            if not poller.poll():
                self._spins = 0
            while self._spins:
                await self.end_of_turn()
                # The tasks of one turn run in any order: whom the data woke may be awaiting a reply a turn later only.
                if self._spins < SPINS and not poller.is_awaiting():
                    self._spins = 0
                elif poller.poll():
                    self._spins = SPINS
                else:
                    self._spins -= 1
                poller.flush()
            if poller.has_work:
                self.wake()

    async def _flush(self) -> None:
        poller = self._poller
        while True:
            if poller.has_work and not self._spins:
                await self.end_of_turn()
            else:
                await self.park()
            poller.flush()

    async def _keep_time(self) -> None:
        while True:
            with anyio.CancelScope() as self._sleep:
                if (when := self._poller.next_deadline) is not None:
                    self.set_timer(when)
                await anyio.sleep_forever()
            self._sleep = None
            self._poller.run_timers()


def pump_for_backend(poller: Poller) -> Pump:
    """The best pump for whatever runs the current task. trio is looked at first: as a guest it runs inside asyncio."""
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            from rabbitry._transport.pump_trio import TrioPump

            return TrioPump(poller)
    try:
        return AsyncioPump(poller)
    except RuntimeError:  # no asyncio loop is running
        return TaskPump(poller)
