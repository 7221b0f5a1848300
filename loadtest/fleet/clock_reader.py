"""Asks workers what time it is at their end: for the offsets of their clocks, as a sign of life, and for how long that
takes while the run goes on.

Each question has a number of its own, and only the worker that was asked can answer it.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from time import monotonic_ns

from loadtest.fleet.clocks import EXCHANGES, Exchange, Offset, estimate, known_as_equal
from loadtest.fleet.crew import Crew
from loadtest.fleet.members import Member
from loadtest.fleet.messages import Echo, Probe
from loadtest.metrics.histogram import Histogram

PROBE_BOUND = 2.0
"""Seconds that an answer may take."""
MARGIN = 0.25
LONGEST_MARGIN = 10.0
"""Seconds from when a common moment is told until it is there: time for all to be told, one after the other."""

LATEST = 2**62
"""Nanoseconds that any monotonic clock shows, at most: it is 146 years."""


class ClockReader:
    """Reads the clocks of one crew, whose host is this."""

    def __init__(self, crew: Crew, host: str) -> None:
        self.at_rest: list[int] = []
        """Nanoseconds that the round trips took which were made before the work, or after it."""
        self.at_work = Histogram()
        """Of those that were signs of life, while it went on."""
        self._crew = crew
        self._host = host
        self._numbers = count()
        self._asked: dict[int, tuple[Member, int]] = {}
        self._answers: dict[int, Exchange] = {}
        self._awaited: int | None = None

    async def ask(self, member: Member) -> None:
        """Asks, as a sign of life, and doesn't wait for the answer."""
        await self._ask(member, next(self._numbers))

    async def read(self, member: Member) -> Offset | None:
        """The member's clock, from a number of round trips; None if it doesn't answer."""
        exchanges = list[Exchange]()
        for _ in range(EXCHANGES):
            number = self._awaited = next(self._numbers)
            await self._ask(member, number)
            await self._crew.until(partial(self._is_answered, member, number), PROBE_BOUND)
            self._awaited = None
            answer = self._answers.pop(number, None)
            if answer is None:
                break
            exchanges.append(answer)
            self.at_rest.append(answer.on_the_way)
        offset = estimate(exchanges)
        is_here = offset is not None and member.join.host == self._host
        return known_as_equal(offset) if offset is not None and is_here else offset

    def take(self, member: Member, echo: Echo) -> bool:
        """An answer has come; False if this member was not asked that, or it is no answer."""
        returned = monotonic_ns()
        asked, sent = self._asked.get(echo.number, (None, 0))
        if asked is not member or not 0 <= echo.received <= echo.sent <= LATEST:
            return False
        del self._asked[echo.number]
        exchange = Exchange(sent, echo.received, echo.sent, returned)
        if echo.number == self._awaited:
            self._answers[echo.number] = exchange
        elif self._crew.has_begun and exchange.on_the_way >= 0:
            self.at_work.record(exchange.on_the_way)
        return True

    def _is_answered(self, member: Member, number: int) -> bool:
        return number in self._answers or not member.is_present

    def forget(self, member: Member) -> None:
        """The member won't answer any more."""
        self._asked = {number: each for number, each in self._asked.items() if each[0] is not member}

    def soon(self) -> int:
        """A moment, by this process's clock, that all members have heard of before it is there."""
        longest, members = max(self.at_rest, default=0), len(self._crew.roster.members)
        return monotonic_ns() + min(int(LONGEST_MARGIN * 1e9), max(int(MARGIN * 1e9), (members + 3) * longest))

    async def _ask(self, member: Member, number: int) -> None:
        self._asked[number] = member, monotonic_ns()
        await self._crew.tell(member, Probe(number=number))
