"""The coordinator: waits for its workers, has them prepare, connect and begin together, watches them, and collects.

It makes no load. A worker that refuses or is lost before the work has begun ends the run, as nothing was measured; one
lost later is listed with when and what it last told, and the others go on. It judges a death by the worker's queue,
which goes with its connection, by the end of its process where that is ours, or by ten seconds of silence.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from time import monotonic, monotonic_ns, process_time
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from loadtest.execution.conductor import LONGEST_SETTLING, SETTLING
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.sampler import Display
from loadtest.fleet import messages as said
from loadtest.fleet.bus import Bus, BusLost, Gone
from loadtest.fleet.clocks import EXCHANGES, Exchange, estimate, known_as_equal
from loadtest.fleet.hosts import identify_host, program_version
from loadtest.fleet.members import Member, Roster
from loadtest.fleet.parts import CoordinatorPart, WorkerPart
from loadtest.fleet.processes import Processes
from loadtest.fleet.seal import Seal
from loadtest.fleet.seeking import FleetMeter, FleetSeeker, LedRun, Order, wait_or_end
from loadtest.fleet.sharing import digest_of, share
from loadtest.machine.resources import Meter
from loadtest.metrics.timeline import Row, Timeline

BEAT = 1.0
"""Seconds between two signs of life."""
SUSPECT = 3.0
SILENT = 10.0
"""Seconds of silence after which a worker is suspected, and taken for lost."""
ANSWER = 60.0
"""Seconds that a worker may take to prepare."""
CONNECT_BOUND = 120.0
CONNECTS_PER_SECOND = 20
"""Seconds that connecting may take, and how many connections each further second allows for."""
CLOSE_BOUND = 60.0
CLOSES_PER_SECOND = 100
PROBE_BOUND = 2.0
INTERRUPTED_DRAIN = 3.0
STALL = 2.0
"""Seconds without a delivery after which the broker is asked whether anything is left."""
MARGIN = 0.25
"""Seconds from when a common moment is told until it is there; four round trips if they are longer."""


class Refused(Exception):
    """A worker takes no part, or too few have come; the message says who and why."""


class Interrupted(Exception):
    """It was to end before there was anything to measure."""


class BrokenOff(Exception):
    """A worker was lost before there was anything to measure."""


class Coordinator:
    """Leads one run of several workers."""

    def __init__(
        self, run: LedRun, bus: Bus, seal: Seal, *, workers: int, address: str, display: Display, meter: Meter
    ) -> None:
        self.roster = Roster(workers)
        self.began_at: float | None = None
        """When connecting began, by this process's clock."""
        self._run = run
        self._bus = bus
        self._seal = seal
        self._address = address
        self._display = display
        self._meter = meter
        self._ordered_phase = "warmup"
        self._version = program_version()
        self._host = identify_host(seal)
        self._changed = anyio.Event()
        self._has_begun = False
        self._is_broken: Exception | None = None
        self._echo: said.Echo | None = None
        self._rows: list[Row] = []
        self._timeline = Timeline(self._rows)
        self._round_trips: list[int] = []

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
            for doing in (self.listen, self.keep_watch, self.keep_in_touch):
                staff.start_soon(keep, doing, staff.cancel_scope)
            if processes is not None:
                staff.start_soon(processes.watch, self.note_exit)
            try:
                yield
            except Exception as error:
                failure = error
            staff.cancel_scope.cancel()
        if failure is not None or lost:
            raise failure or lost[0]

    # --- what others tell it ----------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Heeds what comes, until cancelled. BusLost if the control channel is gone."""
        handlers: Mapping[type[Any], Callable[[Member, Any], Awaitable[None] | None]] = {
            said.Echo: self._on_echo,
            said.Prepared: self._on_prepared,
            said.Refusal: self._on_refusal,
            said.Ready: self._on_ready,
            said.Beat: self._on_beat,
            said.Leaving: self._on_leaving,
            said.Chunk: self._on_chunk,
        }
        async for mail in self._bus.receive():
            message = mail.message
            if isinstance(message, said.Hello):
                await self._try_to_send(message.address, mail.sender, said.Challenge(address=self._address))
            elif isinstance(message, said.Join):
                await self._on_join(mail.sender, message)
            else:
                member = self.roster.members.get(mail.sender)
                if member is None or member.status in ("lost", "refused"):
                    self._bus.guard.turn_away("late" if member else "of a stranger")
                    continue
                member.heard_at, member.is_suspect = monotonic(), False
                handled = handlers[type(message)](member, message)
                if handled is not None:
                    await handled
            self._note_change()

    async def _on_join(self, instance: str, join: said.Join) -> None:
        roster = self.roster
        if instance in roster.members:
            return self._bus.guard.turn_away("late")
        reason = roster.find_disagreement(join, self._version, said.PROTOCOL, self._run.settings.backend)
        if reason is not None:
            return await self._try_to_send(join.address, instance, said.TurnedAway(reason=reason))
        member = roster.add(instance, join, monotonic())
        await self._tell(member, said.Welcome(number=member.number, of=roster.expected))

    def _on_echo(self, member: Member, echo: said.Echo) -> None:
        self._echo = echo

    def _on_prepared(self, member: Member, prepared: said.Prepared) -> None:
        member.status = "prepared"
        member.sockets, member.clients = prepared.sockets, prepared.clients
        if prepared.digest != self._digest:
            member.status, member.reason = "refused", "it reads the settings otherwise: it is another version"

    def _on_refusal(self, member: Member, refusal: said.Refusal) -> None:
        if self._has_begun:
            return self._bus.guard.turn_away("late")
        member.status, member.reason = "refused", refusal.reason

    def _on_ready(self, member: Member, _: said.Ready) -> None:
        member.status = "ready"

    def _on_beat(self, member: Member, beat: said.Beat) -> None:
        if beat.phase:
            member.beat = beat
            self._run.record.tally = self.roster.sum_tally()
            self._run.record.ledger.unique = sum(each.beat.unique for each in self.roster)

    def _on_leaving(self, member: Member, leaving: said.Leaving) -> None:
        member.status, member.reason = "left", leaving.reason
        member.at_seconds = None if self.began_at is None else monotonic() - self.began_at

    async def _on_chunk(self, member: Member, chunk: said.Chunk) -> None:
        try:
            is_whole = member.take(chunk)
        except ValueError as error:
            return self._lose(member, f"its result can't be read: {error}")
        if is_whole:
            await self._tell(member, said.Received())
            if member.status == "left":
                await self._tell(member, said.Goodbye())

    def note_exit(self, pid: int, code: int, last_words: str) -> None:
        """A worker's process, which is our own, has ended."""
        for member in self.roster:
            if member.join.pid == pid and member.join.host == self._host and member.part is None:
                self._lose(member, f"its process ended ({_name_of_end(code)}){': ' if last_words else ''}{last_words}")
                return
        if not self._has_begun:
            self._is_broken = BrokenOff(f"a worker's process ended before it had joined ({code}): {last_words}")
        self._note_change()

    def interrupt(self) -> None:
        """Asks for an early end, in order."""
        self._run.interrupt()
        self._note_change()

    # --- the run ----------------------------------------------------------------------------------------------------

    async def assemble(self, seconds: float) -> None:
        """Returns when all workers are there. Refused if they are not in that time."""
        roster = self.roster
        if not await self._until(lambda: roster.is_full, seconds):
            names = ", ".join(member.name for member in roster) or "none"
            raise Refused(f"{len(roster.members)} of {roster.expected} workers joined within {seconds:g} s: {names}")

    async def prepare(self, urls: Sequence[str]) -> None:
        """Reads the clocks, and has everybody make the plan and take a part of it. Refused if somebody doesn't."""
        for member in self.roster:
            member.before = await self._read_clock(member)
            if member.before is None:
                raise BrokenOff(f"{member.name} didn't answer when its clock was read")
        plain = share(self._run.settings, urls)
        self._digest = digest_of(plain)
        for member in self.roster:
            offsets = self._offsets_for(member)
            await self._tell(member, said.Prepare(run_id=self._run.plan.run_id, settings=plain, offsets=offsets))
        await self._all_are("prepared", ANSWER)

    async def conduct(self, leftovers: Leftovers) -> None:
        """Connecting, the work and its end; returns when all results are there, or those of the survivors."""
        await self._connect()
        await self._begin()
        if self._run.settings.mode == "both":
            await self._seek()
        await self._watch()
        await self._drain(leftovers)
        await self._collect()

    async def _connect(self) -> None:
        at = self._soon()
        self.began_at = at / 1e9
        self._run.begin_phase("connect")
        self._run.began_at = at
        for member in self.roster:
            member.status = "connecting"
            await self._tell(member, said.Connect(at=self._at_member(member, at)))
        sockets = sum(member.sockets for member in self.roster)
        await self._all_are("ready", CONNECT_BOUND + sockets / CONNECTS_PER_SECOND)

    async def _begin(self) -> None:
        at = self._soon()
        for member in self.roster:
            await self._tell(member, said.Begin(at=self._at_member(member, at)))
            if member.is_present:
                member.status = "working"
        self._has_begun = True

    async def _seek(self) -> None:
        """Finds the rate that all together can keep up, and has them measure at the share of it."""
        run = self._run
        # what is sought is told by differences: they begin when all tell of their work
        await self._until(lambda: all(each.beat.phase not in ("", "connect") for each in self.roster.present), SILENT)
        meter = FleetMeter(self._meter, lambda: sum(member.beat.cpu_seconds for member in self.roster))
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
            at = self._soon()
            for member in self.roster.present:
                await self._tell(member, said.Measure(at=self._at_member(member, at)))

    def _order_phase(self, name: str) -> None:
        """What is ordered from now on belongs to that phase; a closed loop begins with its phase alone."""
        self._ordered_phase = name
        if name == "closed" and self._run.on_leg is not None:
            self._run.on_leg(self._run.leg)

    async def _pass_on(self, ordered: MemoryObjectReceiveStream[Order]) -> None:
        async with ordered:
            async for order in ordered:
                for member in self.roster.present:
                    start = self._at_member(member, order.start)
                    try:
                        await self._tell(member, said.Pace(**asdict(replace(order, start=start))))
                    except BusLost:
                        return self._run.enough.set()  # whoever says the next word hears of it

    async def _watch(self) -> None:
        """Returns when all who are left have ended the measurement."""
        settings = self._run.settings
        longest = settings.warmup + settings.duration + 60.0  # (a search has ended)

        def is_over() -> bool:
            return all(member.beat.phase in ("drain", "close") for member in self.roster.present)

        def is_to_stop() -> bool:
            return is_over() or self._run.enough.is_set()

        await self._until(is_to_stop, longest)
        if not is_over():
            for member in self.roster.present:
                await self._tell(member, said.Stop())
            await self._until(is_over, SILENT)

    async def _drain(self, leftovers: Leftovers) -> None:
        began = monotonic()
        received, stalled_at = -1, began + STALL
        while self.roster.present and not self._is_drained():
            drain = self._run.settings.drain
            patience = min(drain, INTERRUPTED_DRAIN) if self._run.record.is_interrupted else drain
            left = began + patience - monotonic()
            if left < 0:
                return
            await self._until(self._is_drained, min(left, 0.25))
            now = self.roster.sum_tally().received
            if now != received:
                received, stalled_at = now, monotonic() + STALL
            elif monotonic() > stalled_at:
                with anyio.move_on_after(left):
                    if self.roster.is_settled() and await leftovers.recount() == 0:
                        return
                stalled_at = monotonic() + STALL

    def _is_drained(self) -> bool:
        return self.roster.is_drained(self._run.expected)

    async def _collect(self) -> None:
        present = self.roster.present
        for member in present:
            await self._tell(member, said.Close())
        sockets = sum(member.sockets for member in self.roster)

        def is_there() -> bool:
            return all(member.part is not None for member in self.roster if member.status in ("working", "left"))

        await self._until(is_there, CLOSE_BOUND + sockets / CLOSES_PER_SECOND)
        for member in self.roster:
            if member.part is None and (member.is_present or member.status == "left"):
                self._lose(member, "its result didn't come")
            elif member.is_present and member.part is not None:
                member.after = await self._read_clock(member)
                if member.is_present:  # (it was still there)
                    member.status = "finished"
                    if member.part.status != "finished":
                        member.status, member.reason = member.part.status, member.part.reason
                await self._tell(member, said.Goodbye())

    async def dismiss(self, reason: str) -> None:
        """Sends everybody away: there will be no run."""
        for member in self.roster:
            if member.is_present:
                await self._try_to_send(member.address, member.instance, said.TurnedAway(reason=reason))

    def workers_parts(self) -> list[WorkerPart]:
        """What came of each that was not lost."""
        return [member.part for member in self.roster if member.part is not None and member.status != "lost"]

    def part(self, words: Sequence[str], environment: Mapping[str, Any], broker: Mapping[str, Any]) -> CoordinatorPart:
        """What this end knows."""
        run = self._run
        return CoordinatorPart(
            run_id=run.plan.run_id,
            started_at=run.record.started_at,
            settings=share(run.settings, run.settings.urls),
            words=list(words),
            environment=environment,
            broker=broker,
            capacity=run.record.capacity,
            is_interrupted=run.record.is_interrupted,
            members=[member.describe() for member in self.roster],
            control={
                "round_trip_ms": _middle_ms(self._round_trips),
                "sent": self._bus.sent,
                "received": self._bus.received,
                "rejected": dict(self._bus.guard.rejected),
                "coordinator_cpu_seconds": round(process_time(), 3),
            },
        )

    # --- keeping watch ----------------------------------------------------------------------------------------------

    async def keep_watch(self) -> None:
        """Tells the workers every second that it lives, and finds out who doesn't, until cancelled."""
        while True:
            await anyio.sleep(BEAT)
            if self._bus.is_blocked():  # nobody can be heard then
                for member in self.roster:
                    member.heard_at = monotonic()
                continue
            for member in self.roster:
                if member.is_present or (member.status == "left" and member.part is None):
                    self._watch_over(member)
            self._show()

    async def keep_in_touch(self) -> None:
        """The signs of life themselves: a letter may wait for the broker, and the watch may not."""
        while True:
            await anyio.sleep(BEAT)
            for member in self.roster:
                if member.is_present:
                    await self._tell(member, said.Lead())

    def _watch_over(self, member: Member) -> None:
        silence = monotonic() - member.heard_at
        member.is_suspect = silence > SUSPECT
        if silence > SILENT:
            self._lose(member, f"nothing was heard of it for {silence:.0f} s")

    def _lose(self, member: Member, reason: str) -> None:
        if member.is_present or (member.status == "left" and member.part is None):
            member.lose(reason, monotonic(), self.began_at)
        self._note_change()

    def _show(self) -> None:
        """Draws the whole run, as far as the workers have told of it."""
        run = self._run
        if self.began_at is None:
            return
        phase = next((member.beat.phase for member in self.roster.present if member.beat.phase), "")
        if phase and phase != run.record.phases[-1].name:
            run.end_phase()
            run.begin_phase(phase)
        now = run.seconds_at(monotonic_ns())
        self._timeline.add(now, run.record.phases[-1].name, run.record.tally, ())
        self._display.update(run, self._rows[-1], now)

    # --- what it is made of -----------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._changed.set()

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Waits until it holds, for so long at most; whether it does. Before the work, the first loss ends it all."""
        with anyio.move_on_after(seconds):
            while not holds():
                self._check_unbroken()
                self._changed = anyio.Event()
                await self._changed.wait()
        self._check_unbroken()
        return holds()

    def _check_unbroken(self) -> None:
        if self._has_begun:
            return
        if self._is_broken is not None:
            raise self._is_broken
        if self._run.enough.is_set():
            raise Interrupted
        for member in self.roster:
            if member.status == "refused":
                raise Refused(f"{member.name} takes no part: {member.reason}")
            if not member.is_present:
                raise BrokenOff(f"{member.name} was lost before the work began: {member.reason or 'it left'}")

    async def _all_are(self, status: str, seconds: float) -> None:
        members = list(self.roster)
        if not await self._until(lambda: all(member.status == status for member in members), seconds):
            late = ", ".join(member.name for member in members if member.status != status)
            raise BrokenOff(f"not {status} within {seconds:.0f} s: {late}")

    async def _read_clock(self, member: Member) -> Any:
        """The member's clock, from a number of round trips; None if it doesn't answer."""
        exchanges = list[Exchange]()
        for number in range(EXCHANGES):
            self._echo, sent = None, monotonic_ns()
            await self._tell(member, said.Probe(number=number))
            answered = await self._until(partial(self._has_answered, member, number), PROBE_BOUND)
            returned, echo = monotonic_ns(), self._echo
            if not answered or echo is None:
                break
            exchanges.append(Exchange(sent, echo.received, echo.sent, returned))
            self._round_trips.append(exchanges[-1].on_the_way)
        offset = estimate(exchanges)
        is_here = offset is not None and member.join.host == self._host
        return known_as_equal(offset) if offset is not None and is_here else offset

    def _has_answered(self, member: Member, number: int) -> bool:
        return (self._echo is not None and self._echo.number == number) or not member.is_present

    def _offsets_for(self, member: Member) -> dict[int, int]:
        """What makes another host's moments this member's. Those on its own host have its clock."""
        assert member.before is not None
        return {
            other.number: member.before.offset - other.before.offset
            for other in self.roster
            if other.join.host != member.join.host and other.before is not None
        }

    def _at_member(self, member: Member, at: int) -> int:
        return at if member.before is None else member.before.there(at)

    def _soon(self) -> int:
        """A moment that all have heard of before it is there."""
        longest = max(self._round_trips[-EXCHANGES:], default=0)
        return monotonic_ns() + max(int(MARGIN * 1e9), 4 * longest)

    async def _tell(self, member: Member, message: Any) -> None:
        try:
            await self._bus.send(member.address, member.instance, message)
        except Gone:
            self._lose(member, "its connection to the control broker is gone")

    async def _try_to_send(self, address: str, recipient: str, message: Any) -> None:
        try:
            await self._bus.send(address, recipient, message)
        except Gone:
            self._bus.guard.turn_away("of somebody who is gone")


def _name_of_end(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"exit code {code}"


def _middle_ms(nanoseconds: Sequence[int]) -> float | None:
    return round(sorted(nanoseconds)[len(nanoseconds) // 2] / 1e6, 3) if nanoseconds else None
