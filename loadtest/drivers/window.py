"""Publishes in flight for a library on asyncio that has no window of its own: a task for each of them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from loadtest.drivers.base import ConnectionLost, Outcome, Settled


class Windowed(ABC):
    """A producer that awaits each of its publishes; `window` of them are in flight at most."""

    def __init__(self, window: int, settled: Settled) -> None:
        self._window = asyncio.Semaphore(window)
        self._settled = settled
        self.in_flight: set[asyncio.Task[None]] = set()

    @abstractmethod
    def check_open(self) -> None:
        """Raises ConnectionLost where nothing can be sent any more."""

    @abstractmethod
    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        """As `loadtest.drivers.base.Producer.publish`."""

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        """As `loadtest.drivers.base.Producer.submit`."""
        await self._window.acquire()
        try:
            self.check_open()
        except ConnectionLost:
            self._window.release()
            raise
        task = asyncio.create_task(self._settle(body, token, key))
        self.in_flight.add(task)
        task.add_done_callback(self.in_flight.discard)

    async def flush(self) -> None:
        """As `loadtest.drivers.base.Producer.flush`."""
        while self.in_flight:
            await asyncio.wait(self.in_flight)

    async def _settle(self, body: bytes, token: object, key: str | None) -> None:
        outcome = Outcome.UNKNOWN
        try:
            outcome = await self.publish(body, key)
        except ConnectionLost:
            pass
        finally:
            self._window.release()
            self._settled(token, outcome)
