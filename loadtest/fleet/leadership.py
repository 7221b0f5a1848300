"""Who leads a worker: what he has said, whether he still lives, and how he is told something.

One coordinator is heeded, the first that shows he has the token, and each of his words in its order: what comes before
its time or a second time is counted and changes nothing. Once he is gone, for whatever reason, he stays so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic, monotonic_ns
from typing import Any

import anyio

from loadtest.execution.state import Run
from loadtest.fleet import messages as said
from loadtest.fleet.bus import COORDINATOR, Bus, BusLost, Gone, Mail
from loadtest.fleet.changes import Changes

LOOK = 0.5
SILENT = 10.0
"""Seconds after which a coordinator that says nothing counts as gone."""
MARGIN = 300.0
"""Seconds that a run may take beyond what its phases ask for: connecting, counting, closing."""
LONGEST_WAIT = 60.0
"""Seconds until a moment that all were told of, at most: it is a quarter of one, and no bus makes it so many."""

AFTER: Mapping[type[Any], type[Any]] = {
    said.Welcome: said.Challenge,
    said.Prepare: said.Welcome,
    said.Connect: said.Prepare,
    said.Begin: said.Connect,
    said.Pace: said.Begin,
    said.Measure: said.Begin,
    said.Close: said.Begin,
    said.Received: said.Begin,
    said.Goodbye: said.Received,
}
"""What must have been said before. Probe, Stop and TurnedAway may come at any time."""


class TurnedDown(Exception):
    """There will be no run with this worker, and why."""


class CoordinatorGone(Exception):
    """Nobody leads any more."""


class Leadership:
    """The coordinator, as one worker knows him."""

    def __init__(self, bus: Bus, wait: float) -> None:
        """`wait` is for how many seconds he is waited for."""
        self.told: dict[type[Any], Any] = {}
        self.paces: deque[said.Pace] = deque()
        self.changes = Changes()
        self.gone = ""
        """Why nobody leads any more."""
        self.leaving = ""
        """Why this worker itself wants to end."""
        self.run: Run | None = None
        """What is ended where nobody leads any more."""
        self.deadline = monotonic() + wait
        self.overdue = f"no coordinator was there within {wait:g} s"
        """What it means when the deadline has passed."""
        self._bus = bus
        self._address = ""
        self._heard_at = monotonic()
        self._has_joined = False

    @property
    def is_known(self) -> bool:
        """Whether there has been a coordinator."""
        return said.Challenge in self.told

    def join(self) -> None:
        """From now on he must be heard of."""
        self._has_joined, self._heard_at = True, monotonic()
        self.overdue = "no run began in the time that --wait allows for"

    # --- what he says -----------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Heeds the coordinator, until cancelled. Where the bus is lost, it notes that, and returns."""
        try:
            async for mail in self._bus:
                received = monotonic_ns()
                self._heard_at = monotonic()
                await self._heed(mail, received)
                self.changes.note()
        except BusLost as error:
            self.give_up(f"the control connection was lost: {error}")

    async def _heed(self, mail: Mail, received: int) -> None:
        guard, message = self._bus.guard, mail.message
        kind = type(message)
        if kind is said.Challenge:
            if guard.peer is not None:
                return guard.turn_away("late")
            guard.session, guard.peer = mail.session, mail.sender  # from here on, this one alone is heeded
            self._address = message.address
            return self.told.update({kind: message})
        if kind is said.Probe:
            return await self.tell(said.Echo(number=message.number, received=received, sent=monotonic_ns()))
        if kind is said.Stop:
            return self._end_early(message)
        if kind in AFTER and AFTER[kind] not in self.told:
            return guard.turn_away("out of order")
        if kind is said.Pace:
            return self.paces.append(message)
        if kind in self.told:
            return guard.turn_away("late")
        self.told[kind] = message
        if kind is said.TurnedAway and self.run is not None:
            self.give_up(f"the coordinator ended the run: {message.reason}")
        return None

    def _end_early(self, stop: said.Stop) -> None:
        if self.run is not None and stop.is_complete:
            self.run.complete()
        elif self.run is not None:
            self.run.interrupt()

    async def expect(self, kind: type[Any]) -> Any:
        """The message of that kind. TurnedDown or CoordinatorGone if there will be none."""
        told = self.told
        await self.changes.until(lambda: kind in told or said.TurnedAway in told or self.is_over)
        if kind in told:
            return told[kind]
        if said.TurnedAway in told:
            raise TurnedDown(told[said.TurnedAway].reason)
        if self.gone:
            raise CoordinatorGone(self.gone)
        await self.tell(said.Refusal(reason=self.leaving))
        raise TurnedDown(self.leaving)

    async def wait_until(self, when: int, holds: Callable[[], bool] = lambda: False) -> None:
        """Returns at that moment of the monotonic clock, or when this worker is to end, or it holds. A moment further
        away than it can be is not waited for: nobody leads who doesn't know the time.
        """
        seconds = (when - monotonic_ns()) / 1e9
        if seconds > LONGEST_WAIT:
            self.give_up(f"the coordinator named a moment that is {seconds:,.0f} s away: it has not read this clock")
        await self.changes.until(lambda: self.is_over or holds(), max(0.0, seconds))

    # --- what he is told --------------------------------------------------------------------------------------------

    async def tell(self, message: Any) -> None:
        """Says it to him, if he is still there."""
        if self.gone:
            return
        try:
            await self._bus.send(self._address, COORDINATOR, message)
        except Gone:
            self.give_up("the coordinator is gone")
        except BusLost as error:
            self.give_up(f"the control connection was lost: {error}")

    # --- whether he is there ----------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nobody leads any more, or this worker itself wants to end."""
        return bool(self.gone or self.leaving)

    def give_up(self, reason: str) -> None:
        """Nobody leads any more: the load ends, in order."""
        if not self.gone:
            self.gone = reason
            if self.run is not None:
                self.run.interrupt()
        self.changes.note()

    def leave(self, reason: str) -> None:
        """This worker ends before the others: in order, if it has begun."""
        self.leaving = self.leaving or reason
        if self.run is not None:
            self.run.interrupt()
        self.changes.note()

    async def keep_watch(self, abort: Callable[[], None]) -> None:
        """Finds out whether somebody leads, until cancelled; calls `abort` where there is nothing to end in order."""
        while True:
            await anyio.sleep(LOOK)
            if not self._has_joined or self._bus.is_blocked():
                self._heard_at = monotonic()
            elif monotonic() - self._heard_at > SILENT:
                self.give_up(f"nothing was heard of the coordinator for {SILENT:g} s")
            if monotonic() > self.deadline and not self.gone:
                self.give_up(self.overdue)
            if monotonic() > self.deadline + MARGIN:
                abort()
