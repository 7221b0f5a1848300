"""The workers as whoever leads them has them: told something, waited for, lost; and what ends a run before its work.

Until the work has begun the first loss, refusal or interrupt ends it all, as nothing was measured. From then on nothing
that becomes of a worker ends the others'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from loadtest.fleet.bus import Bus, Gone
from loadtest.fleet.changes import Changes
from loadtest.fleet.members import Member, Roster
from loadtest.fleet.seeking import LedRun


class Refused(Exception):
    """A worker takes no part, or too few have come; the message says who and why."""


class Interrupted(Exception):
    """It was to end before there was anything to measure."""


class BrokenOff(Exception):
    """A worker was lost before there was anything to measure."""


class Crew:
    """All members, and the bus on which they are reached."""

    def __init__(self, run: LedRun, bus: Bus, expected: int) -> None:
        self.run = run
        self.bus = bus
        self.roster = Roster(expected)
        self.changes = Changes()
        self.began_at: float | None = None
        """When connecting began, by this process's clock."""
        self.has_begun = False
        """Whether the work has."""
        self.broken: Exception | None = None
        """What ends the run if its work has not begun."""

    async def tell(self, member: Member, message: Any) -> None:
        """Says something to a member; who can't be reached is lost. BusLost if nobody can be."""
        try:
            await self.bus.send(member.address, member.instance, message)
        except Gone:
            self.lose(member, "its connection to the control broker is gone")

    async def answer(self, address: str, recipient: str, message: Any) -> None:
        """Says something to somebody who is no member, and may be gone."""
        try:
            await self.bus.send(address, recipient, message)
        except Gone:
            self.bus.guard.turn_away("of somebody who is gone")

    def lose(self, member: Member, reason: str) -> None:
        """A member is not there any more, unless it has done its part."""
        if member.is_awaited:
            member.lose(reason, monotonic(), self.began_at)
        self.changes.note()

    def lose_all(self, reason: str) -> None:
        """Nobody can be reached any more."""
        for member in self.roster:
            self.lose(member, reason)

    async def until(self, holds: Callable[[], bool], seconds: float = math.inf) -> bool:
        """Waits until it holds, for so long at most; whether it does. Refused, Interrupted or BrokenOff before the
        work.
        """

        def is_so() -> bool:
            self.check_unbroken()
            return holds()

        return await self.changes.until(is_so, seconds)

    async def all_are(self, status: str, seconds: float) -> None:
        """Returns when all members are that far. BrokenOff if they are not in that time."""
        members = list(self.roster)
        if not await self.until(lambda: all(member.status == status for member in members), seconds):
            late = ", ".join(member.name for member in members if member.status != status)
            raise BrokenOff(f"not {status} within {seconds:.0f} s: {late}")

    def check_unbroken(self) -> None:
        """Refused, Interrupted or BrokenOff where the run has ended before its work."""
        if self.has_begun:
            return
        if self.broken is not None:
            raise self.broken
        if self.run.enough.is_set():
            raise Interrupted
        for member in self.roster:
            if member.status == "refused":
                raise Refused(f"{member.name} takes no part: {member.reason}")
            if not member.is_present:
                raise BrokenOff(f"{member.name} was lost before the work began: {member.reason or 'it left'}")
