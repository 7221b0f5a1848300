"""With whom this process makes its run: those whom its phases wait for, and who does what is done once for all.

A process that is alone leads itself, and there is no company. One of several leaves the queues to whoever leads, begins
its work when all are there, and goes when there is nothing left in any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Company(Protocol):
    """What one process of several waits for. All of these return at once when the run is to end before its time."""

    async def may_connect(self) -> None:
        """Returns when the first phase begins."""
        ...

    async def may_begin(self) -> int:
        """All of this process's clients are there; returns at the moment from which the work counts, and that moment
        in nanoseconds of the monotonic clock.
        """
        ...

    async def may_measure(self, begin_phase: Callable[[str], None]) -> None:
        """Paces as whoever seeks the rate for all has it, in the phases that he names; returns when the measurement
        begins.
        """
        ...

    async def may_close(self, is_settled: Callable[[], bool]) -> None:
        """Returns when nothing is on its way any more, in any process, or it is no use to wait for it.

        `is_settled` says whether this process sends nothing more and waits for no answer.
        """
        ...
