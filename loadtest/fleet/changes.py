"""Waiting for something to be true that others make true: they say that something has changed, and who waits looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio


class Changes:
    """Wakes all who wait, each time that something has changed."""

    def __init__(self) -> None:
        self._next = anyio.Event()

    def note(self) -> None:
        """Something has changed."""
        self._next, now = anyio.Event(), self._next
        now.set()

    async def until(self, holds: Callable[[], bool], seconds: float = math.inf) -> bool:
        """Waits until it holds, for so long at most; whether it does. What `holds` raises is raised."""
        with anyio.move_on_after(seconds):
            while not holds():
                await self._next.wait()
        return holds()
