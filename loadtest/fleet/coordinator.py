"""The coordinator: waits for its workers, has them prepare, connect and begin together, and collects their results.

It makes no load. A worker that refuses or is lost before the work has begun ends the run, as nothing was measured; one
lost later is listed with when and what it last told, and the others go on.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from time import process_time
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from loadtest.execution.conductor import LONGEST_SETTLING, SETTLING
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.sampler import Display
from loadtest.fleet import messages as said
from loadtest.fleet.bus import Bus, BusLost
from loadtest.fleet.clock_reader import ClockReader
from loadtest.fleet.crew import BrokenOff, Crew, Refused
from loadtest.fleet.draining import drain
from loadtest.fleet.hosts import identify_host
from loadtest.fleet.members import Member
from loadtest.fleet.parts import CoordinatorPart, WorkerPart
from loadtest.fleet.processes import Processes
from loadtest.fleet.reception import Reception
from loadtest.fleet.seal import Seal
from loadtest.fleet.seeking import FleetMeter, FleetSeeker, LedRun, Order, wait_or_end
from loadtest.fleet.sharing import digest_of, share
from loadtest.fleet.view import View
from loadtest.fleet.watch import SILENT, Watch
from loadtest.machine.resources import Meter
from loadtest.urls import redact, redact_in

ANSWER = 60.0
"""Seconds that a worker may take to prepare."""
CONNECT_BOUND = 120.0
CONNECTS_PER_SECOND = 20
"""Seconds that connecting may take, and how many connections each further second allows for."""
CLOSE_BOUND = 60.0
CLOSES_PER_SECOND = 100
LATE_END = 60.0
"""Seconds by which the measurement may end later than it was meant to."""


class Coordinator:
    """Leads one run of several workers."""

    def __init__(
        self, run: LedRun, bus: Bus, seal: Seal, *, workers: int, address: str, display: Display, meter: Meter
    ) -> None:
        host = identify_host(seal)
        self.crew = Crew(run, bus, workers)
        self.roster = self.crew.roster
        self.clocks = ClockReader(self.crew, host)
        self.reception = Reception(self.crew, self.clocks, address)
        self.watch = Watch(self.crew, self.clocks, View(self.crew, display), host)
        self._run = run
        self._meter = meter
        self._ordered_phase = "warmup"

    @asynccontextmanager
    async def staffed(self, processes: Processes | None) -> AsyncIterator[None]:
        """Listens and keeps watch while the block lasts. BusLost, in no group, if the control channel is lost."""
        lost: list[BusLost] = []

        async def keep(doing: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
            try:
                await doing()
            except BusLost as error:
                lost.append(error)
                scope.cancel()

        failure: Exception | None = None
        async with anyio.create_task_group() as staff:
            for doing in (self.reception.listen, self.watch.keep, self.watch.keep_in_touch):
                staff.start_soon(keep, doing, staff.cancel_scope)
            if processes is not None:
                staff.start_soon(processes.watch, self.watch.note_exit)
            try:
                yield
            except Exception as error:
                failure = error
            staff.cancel_scope.cancel()
        if failure is not None or lost:
            raise failure or lost[0]

    def interrupt(self) -> None:
        """Asks for an early end, in order."""
        self._run.interrupt()
        self.crew.changes.note()

    # --- before the work --------------------------------------------------------------------------------------------

    async def assemble(self, seconds: float) -> None:
        """Returns when all workers are there. Refused if they are not in that time."""
        roster = self.roster
        if not await self.crew.until(lambda: roster.is_full, seconds):
            names = ", ".join(member.name for member in roster) or "none"
            away = f"; turned away: {'; '.join(roster.turned_away)}" if roster.turned_away else ""
            raise Refused(
                f"{len(roster.members)} of {roster.expected} workers joined within {seconds:g} s: {names}{away}"
            )

    async def prepare(self, urls: Sequence[str]) -> None:
        """Reads the clocks, and has everybody make the plan and take a part of it. Refused if somebody doesn't."""
        for member in self.roster:
            member.before = await self.clocks.read(member)
            if member.before is None:
                raise BrokenOff(f"{member.name} didn't answer when its clock was read")
        plain = share(self._run.settings, urls)
        self.reception.digest = digest_of(plain)
        for member in self.roster:
            offsets = self.roster.offsets_for(member)
            message = said.Prepare(run_id=self._run.plan.run_id, settings=plain, offsets=offsets)
            try:
                await self.crew.tell(member, message)
            except ValueError as error:
                raise Refused(f"what the run is can't be told to its workers: {error}") from None
        await self.crew.all_are("prepared", ANSWER)

    # --- the work ---------------------------------------------------------------------------------------------------

    async def conduct(self, leftovers: Leftovers) -> None:
        """Connecting, the work and its end; returns when all results are there, or those of the survivors."""
        await self._connect()
        await self._begin()
        if self._run.settings.mode == "both":
            await self._seek()
        await self._wait_for_the_end()
        await drain(self.crew, leftovers)
        await self._collect()

    async def _connect(self) -> None:
        at = self.clocks.soon()
        self.crew.began_at = at / 1e9
        self._run.begin_phase("connect")
        self._run.began_at = at
        for member in self.roster:
            member.status = "connecting"
            await self.crew.tell(member, said.Connect(at=member.there(at)))
        sockets = sum(member.sockets for member in self.roster)
        await self.crew.all_are("ready", CONNECT_BOUND + sockets / CONNECTS_PER_SECOND)

    async def _begin(self) -> None:
        at = self.clocks.soon()
        for member in self.roster:
            await self.crew.tell(member, said.Begin(at=member.there(at)))
            if member.is_present:
                member.status = "working"
        self.crew.check_unbroken()
        self.crew.has_begun = True

    async def _seek(self) -> None:
        """Finds the rate that all together can keep up, and has them measure at the share of it."""
        run, roster = self._run, self.roster
        # what is sought is told by differences: they begin when all tell of their work
        await self.crew.until(lambda: all(each.beat.phase not in ("", "connect") for each in roster.present), SILENT)
        meter = FleetMeter(self._meter, lambda: sum(member.beat.cpu_seconds for member in roster))
        seeker = FleetSeeker(run, meter, self._order_phase)
        async with anyio.create_task_group() as tg:
            orders, ordered = anyio.create_memory_object_stream[Order](math.inf)
            run.on_leg = lambda leg: orders.send_nowait(seeker.order_of(leg, self._ordered_phase))
            tg.start_soon(self._pass_on, ordered)
            rate = await seeker.seek()
            if not run.enough.is_set():
                self._order_phase("settle")
                run.begin_leg(seeker.make_leg(rate, is_planned=True))
                await wait_or_end(run, min(LONGEST_SETTLING, SETTLING * run.settings.duration))
            run.on_leg = None
            orders.close()
        if not run.enough.is_set():
            at = self.clocks.soon()
            for member in roster.present:
                await self.crew.tell(member, said.Measure(at=member.there(at)))

    def _order_phase(self, name: str) -> None:
        """What is ordered from now on belongs to that phase; a closed loop begins with its phase alone."""
        self._ordered_phase = name
        if name == "closed" and self._run.on_leg is not None:
            self._run.on_leg(self._run.leg)

    async def _pass_on(self, ordered: MemoryObjectReceiveStream[Order]) -> None:
        async with ordered:
            async for order in ordered:
                for member in self.roster.present:
                    at = replace(order, start=member.there(order.start))
                    try:
                        await self.crew.tell(member, said.Pace(**asdict(at)))
                    except BusLost:
                        return self._run.enough.set()  # whoever says the next word hears of it

    async def _wait_for_the_end(self) -> None:
        """Returns when all who are left have ended the measurement."""
        settings = self._run.settings
        longest = settings.warmup + settings.duration + LATE_END  # (a search has ended)

        def is_over() -> bool:
            return all(member.beat.phase in ("drain", "close") for member in self.roster.present)

        def is_done() -> bool:
            beats = [member.beat for member in self.roster.present]
            return all(beat.is_done or beat.phase in ("drain", "close") for beat in beats)

        await self.crew.until(lambda: is_over() or is_done() or self._run.enough.is_set(), longest)
        if not is_over():
            stop = said.Stop(is_complete=is_done() and not self._run.enough.is_set())
            for member in self.roster.present:
                await self.crew.tell(member, stop)
            await self.crew.until(is_over, SILENT)

    # --- its end ----------------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        for member in self.roster.present:
            await self.crew.tell(member, said.Close())
        sockets = sum(member.sockets for member in self.roster)

        def is_there() -> bool:
            return all(member.part is not None for member in self.roster if member.status in ("working", "left"))

        await self.crew.until(is_there, CLOSE_BOUND + sockets / CLOSES_PER_SECOND)
        for member in self.roster:
            if member.is_present and member.part is not None:
                await self._let_go(member, member.part)
            else:
                self.crew.lose(member, "its result didn't come")

    async def _let_go(self, member: Member, part: WorkerPart) -> None:
        """Reads the clock of one whose result is there, once more, and says goodbye. It may end in between."""
        member.after = await self.clocks.read(member)
        member.status, member.reason = part.status, part.reason
        await self.crew.tell(member, said.Goodbye())

    async def dismiss(self, reason: str) -> None:
        """Sends everybody away: there will be no run, or not the rest of it."""
        present = self.roster.present
        for member in present:
            self.crew.lose(member, f"it was sent away: {reason}")
        for member in present:
            await self.crew.answer(member.address, member.instance, said.TurnedAway(reason=reason))

    # --- what came of it --------------------------------------------------------------------------------------------

    def workers_parts(self) -> list[WorkerPart]:
        """What came of each that was not lost."""
        return [member.part for member in self.roster if member.part is not None and member.status != "lost"]

    def part(self, words: Sequence[str], environment: Mapping[str, Any], broker: Mapping[str, Any]) -> CoordinatorPart:
        """What this end knows, without passwords."""
        run, record, guard = self._run, self._run.record, self.crew.bus.guard
        errors = record.errors.to_plain()
        return CoordinatorPart(
            run_id=run.plan.run_id,
            started_at=record.started_at,
            settings=share(run.settings, run.settings.urls),
            words=[redact(word) for word in words],
            environment=environment,
            broker=broker,
            capacity=record.capacity,
            management=record.management,
            aborted=record.aborted,
            stock=None if record.stock is None else asdict(record.stock),
            errors={
                "counts": dict(record.errors.counts - self.roster.sum_errors()),  # the workers' own are in theirs
                "examples": {name: redact_in(text, run.settings.all_urls) for name, text in errors["examples"].items()},
            },
            is_interrupted=record.is_interrupted,
            members=[member.describe() for member in self.roster],
            control={
                "round_trip_ms": _middle_ms(self.clocks.at_rest),
                "round_trip_at_work_ms": self.clocks.at_work.latency() if self.clocks.at_work.count else None,
                "sent": self.crew.bus.sent,
                "received": self.crew.bus.received,
                "rejected": dict(guard.rejected),
                "coordinator_cpu_seconds": round(process_time(), 3),
            },
        )


def _middle_ms(nanoseconds: Sequence[int]) -> float | None:
    return round(sorted(nanoseconds)[len(nanoseconds) // 2] / 1e6, 3) if nanoseconds else None
