"""Where the workloads of one run wait for each other, so that they begin to work at the same moment."""

from __future__ import annotations

import anyio


class Barrier:
    """Opens once all have come. Who fails before it ends the others, too, so that nobody waits in vain."""

    def __init__(self, expected: int) -> None:
        self._missing = expected
        self._began = 0
        self._open = anyio.Event()

    def begin(self, now: int) -> int:
        """When the first of them began, of whom the one who says so is the next: their times count from then."""
        self._began = self._began or now
        return self._began

    async def wait(self) -> None:
        """Returns when the last one has come."""
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await self._open.wait()
