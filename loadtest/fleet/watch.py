"""Keeps watch over the workers: tells them each second that somebody leads, and finds out who is there no more.

A death is told by the worker's queue, which goes with its connection; by the end of its process, where that is ours; or
by ten seconds of silence. While the broker takes nothing because of an alarm nobody can be heard, and silence tells
nothing.
"""

from __future__ import annotations

from time import monotonic

import anyio

from loadtest.fleet.clock_reader import ClockReader
from loadtest.fleet.crew import BrokenOff, Crew
from loadtest.fleet.members import Member
from loadtest.fleet.view import View

BEAT = 1.0
"""Seconds between two signs of life."""
SUSPECT = 3.0
SILENT = 10.0
"""Seconds of silence after which a worker is suspected, and taken for lost."""


class Watch:
    """The watch over one crew."""

    def __init__(self, crew: Crew, clocks: ClockReader, view: View, host: str) -> None:
        self._crew = crew
        self._clocks = clocks
        self._view = view
        self._host = host

    async def keep(self) -> None:
        """Finds out who is silent, and has the run drawn, until cancelled."""
        while True:
            await anyio.sleep(BEAT)
            is_blocked = self._crew.bus.is_blocked()
            for member in self._crew.roster:
                if is_blocked:
                    member.heard_at = monotonic()
                elif member.is_awaited:
                    self._look_at(member)
            self._view.show(is_blocked=is_blocked)
            self._crew.changes.note()  # (what is shown may end a run)

    async def keep_in_touch(self) -> None:
        """The signs of life themselves: a letter may wait for the broker, and the watch may not."""
        while True:
            await anyio.sleep(BEAT)
            for member in self._crew.roster:
                if member.is_present or member.is_awaited:
                    await self._clocks.ask(member)

    def note_exit(self, pid: int, code: int, last_words: str) -> None:
        """A worker's process, which is our own, has ended."""
        crew = self._crew
        for member in crew.roster:
            if member.join.pid == pid and member.join.host == self._host and member.part is None:
                told = f": {last_words}" if last_words else ""
                crew.lose(member, f"its process ended ({_name_of_end(code)}){told}")
                return
        if not crew.has_begun:
            crew.broken = BrokenOff(f"a worker's process ended before it had joined ({code}): {last_words}")
        crew.changes.note()

    def _look_at(self, member: Member) -> None:
        silence = monotonic() - member.heard_at
        member.is_suspect = silence > SUSPECT
        if silence > SILENT:
            self._crew.lose(member, f"nothing was heard of it for {silence:.0f} s")
            self._clocks.forget(member)


def _name_of_end(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"exit code {code}"
