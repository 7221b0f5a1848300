"""What a worker's run waits for, as `loadtest.execution.company` has it: the moments and the pace that all are told."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, monotonic_ns

from loadtest.execution.state import Run
from loadtest.fleet import messages as said
from loadtest.fleet.leadership import MARGIN, CoordinatorGone, Leadership
from loadtest.fleet.seeking import Order, follow

LEAVING_DRAIN = 3.0
"""Seconds of draining, at most, where nobody says any more when to close."""
LOOK = 0.1


class FleetCompany:
    """The others of one worker's run."""

    def __init__(self, lead: Leadership, run: Run) -> None:
        self.start_skew_ms: float | None = None
        """How much later than agreed the work began."""
        self.is_settled: Callable[[], bool] = lambda: False
        self._lead = lead
        self._run = run

    async def may_connect(self) -> None:
        """As its protocol says, and so the others."""
        connect: said.Connect = await self._lead.expect(said.Connect)
        await self._lead.wait_until(connect.at)
        if self._lead.gone:
            raise CoordinatorGone(self._lead.gone)

    async def may_begin(self) -> int:
        lead, run, tally = self._lead, self._run, self._run.record.tally
        await lead.tell(said.Ready(connected=tally.connected, failed=tally.failed))
        await lead.changes.until(lambda: said.Begin in lead.told or self._is_to_end())
        begin: said.Begin | None = lead.told.get(said.Begin)
        if begin is None:
            return monotonic_ns()
        await lead.wait_until(begin.at, run.enough.is_set)
        self.start_skew_ms = round((monotonic_ns() - begin.at) / 1e6, 3)
        return begin.at

    async def may_measure(self, begin_phase: Callable[[str], None]) -> None:
        lead, run = self._lead, self._run
        while not self._is_to_end():
            await lead.changes.until(lambda: bool(lead.paces) or said.Measure in lead.told or self._is_to_end())
            while lead.paces and not self._is_to_end():
                pace = lead.paces.popleft()
                if pace.phase != run.record.phases[-1].name:
                    begin_phase(pace.phase)
                run.begin_leg(follow(run, Order(**vars(pace))))
            measure: said.Measure | None = lead.told.get(said.Measure)
            if measure is not None:
                return await lead.wait_until(measure.at, run.enough.is_set)

    async def may_close(self, is_settled: Callable[[], bool]) -> None:
        lead, run = self._lead, self._run
        self.is_settled = is_settled
        if lead.leaving:
            await lead.tell(said.Leaving(reason=lead.leaving))
        give_up_at = monotonic() + run.settings.drain + MARGIN
        told_to_go = None
        while said.Close not in lead.told and monotonic() < give_up_at:
            if lead.is_over and told_to_go is None:
                told_to_go = monotonic() + LEAVING_DRAIN
            if told_to_go is not None and (is_settled() or monotonic() > told_to_go):
                return
            await lead.changes.until(lambda: said.Close in lead.told, LOOK)

    def _is_to_end(self) -> bool:
        return self._run.enough.is_set() or bool(self._lead.gone)
