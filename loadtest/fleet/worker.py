"""A worker: joins a coordinator, takes its segment of the plan, makes load with its own clients, hands over its part.

It heeds what its own command line allows and nothing else: targets, rate, backend. It ends by itself: told to, when its
own user wants it to, at its deadline, or ten seconds after it last heard of the coordinator, at once where the
coordinator's queue is gone. What it has measured by then it keeps in a file, whatever becomes of the bus.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, monotonic_ns, process_time
from typing import Any

import anyio

from loadtest.drivers import LIBRARIES, load_driver
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run
from loadtest.fleet import messages as said
from loadtest.fleet.bus import COORDINATOR, Bus, BusLost, Gone, Mail
from loadtest.fleet.crossing import Crossing, CrossingReader
from loadtest.fleet.hosts import identify_host, program_version
from loadtest.fleet.parts import WorkerPart, encode, write_part
from loadtest.fleet.seal import Seal
from loadtest.fleet.seeking import Order, follow, wait_or_end
from loadtest.fleet.segments import producers_by_worker, take_segment
from loadtest.fleet.sharing import NotAllowed, allow, digest_of, read_shared, share
from loadtest.machine.environment import describe_environment
from loadtest.machine.preflight import TLS_BYTES, Demand, Refused, prepare
from loadtest.machine.resources import Meter, find_broker
from loadtest.metrics.timeline import Row
from loadtest.scenarios.plan import make_plan
from loadtest.scenarios.settings import Role, Settings
from loadtest.urls import is_encrypted, redact_in

BEAT = 1.0
_BEATS = {"connect": 0.2, "settle": 0.2, "drain": 0.2}
SEEKING_BEAT = 0.05
"""Seconds between signs of life, in phases in which somebody waits for what they tell, and while a rate is sought."""
SILENT = 10.0
"""Seconds after which a coordinator that says nothing counts as gone."""
SEEKING = ("warmup", "closed", "search")
HELLO_EVERY = 0.5
CHUNK = 128 * 1024
ANSWER = 60.0
LEAVING_DRAIN = 3.0
"""Seconds of draining, at most, where nobody says any more when to close."""
MARGIN = 300.0
"""Seconds that a run may take beyond what its phases ask for: connecting, counting, closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What this worker's own command line allows and wants."""

    urls: Sequence[str]
    """The brokers it may load, and how to get there."""
    max_rate: float | None
    backend: str
    name: str
    directory: Path | None
    """Where its part is written; None for nowhere."""
    wait: float
    """Seconds to wait for a coordinator, and for the run to begin."""


class TurnedDown(Exception):
    """There will be no run with this worker, and why."""


class CoordinatorGone(Exception):
    """Nobody leads any more."""


class Worker:
    """One worker, on an open bus."""

    def __init__(self, terms: Terms, bus: Bus, seal: Seal, address: str, say: Callable[[str], None]) -> None:
        self.written: Path | None = None
        self.status = "finished"
        self.reason = ""
        self._terms = terms
        self._bus = bus
        self._seal = seal
        self._address = address
        self._leader = ""
        self._say = say
        self._changed = anyio.Event()
        self._told: dict[type[Any], Any] = {}
        self._paces: deque[said.Pace] = deque()
        self._heard_at = monotonic()
        self._has_joined = False
        self._is_gone = ""
        """Why there is no coordinator any more."""
        self._run: Run | None = None
        self._is_settled: Callable[[], bool] = lambda: False
        self._start_skew: float | None = None
        self._crossing = Crossing()
        self._deadline = monotonic() + terms.wait

    # --- from the first word to the last ----------------------------------------------------------------------------

    async def work(self, leaders_address: str) -> None:
        """Everything, from joining to the goodbye. TurnedDown, CoordinatorGone, or the errors of `conduct`."""
        welcome = await self._join(leaders_address)
        self._say(f"worker {welcome.number} of {welcome.of}: waiting for the run to begin")
        self._deadline = monotonic() + self._terms.wait + ANSWER
        prepare_ = await self._expect(said.Prepare)
        settings, run = await self._prepare(prepare_, welcome)
        longest = (
            settings.warmup
            + 4 * settings.search
            + settings.duration
            + settings.drain
            + MARGIN
            + len(run.plan.sockets) / 10
        )
        self._deadline = monotonic() + longest
        self._run = run
        await self._conduct(settings, run)
        await self._hand_over(settings, run, welcome)

    async def _join(self, leaders_address: str) -> said.Welcome:
        """Says hello until there is a coordinator, and joins it."""
        while said.Challenge not in self._told:
            try:
                await self._bus.send(leaders_address, COORDINATOR, said.Hello(address=self._address))
                await self._wait_for(lambda: said.Challenge in self._told or bool(self._is_gone), 2.0)
            except Gone:
                pass  # not yet there
            except BusLost as error:
                raise CoordinatorGone(f"the control connection was lost: {error}") from None
            self._check_deadline()
            if said.Challenge not in self._told:
                await anyio.sleep(HELLO_EVERY)
        self._has_joined, self._heard_at = True, monotonic()
        await self._tell(
            said.Join(
                address=self._address,
                protocol=said.PROTOCOL,
                version=program_version(),
                name=self._terms.name,
                host=identify_host(self._seal),
                pid=os.getpid(),
                cores=os.cpu_count() or 1,
                backend=self._terms.backend,
            )
        )
        welcome: said.Welcome = await self._expect(said.Welcome)
        return welcome

    async def _prepare(self, message: said.Prepare, welcome: said.Welcome) -> tuple[Settings, Run]:
        """Makes the plan and takes its segment. TurnedDown, which the coordinator is told, if that can't be."""
        try:
            settings = read_shared(message.settings)
            digest = digest_of(share(settings, settings.urls))
            plan = take_segment(make_plan(settings, message.run_id), welcome.number, welcome.of)
            senders = len(plan.placed(Role.PRODUCER)) + len(plan.placed(Role.CALLER))
            load = None if settings.rate_each is None else settings.rate_each * senders
            settings = allow(settings, self._terms.urls, load=load, max_rate=self._terms.max_rate)
            load_driver(settings.driver)
            clients = sum(map(len, plan.sockets))
            prepare(_demand(settings, len(plan.sockets) + len(plan.server_queues), clients + len(plan.server_queues)))
        except (NotAllowed, Refused, ValueError, KeyError, ImportError) as error:
            text = redact_in(str(error), self._terms.urls)
            await self._tell(said.Refusal(reason=text))
            raise TurnedDown(text) from None
        run = Run(settings, plan, datetime.now(UTC))
        owners = producers_by_worker(make_plan(settings, message.run_id), welcome.of)
        leads = {index: message.offsets[owner] for index, owner in owners.items() if owner in message.offsets}
        if leads:
            run.reading = partial(CrossingReader, run, self._crossing, leads)
        await self._tell(said.Prepared(digest=digest, sockets=len(plan.sockets), clients=clients))
        return settings, run

    async def _conduct(self, settings: Settings, run: Run) -> None:
        meter = Meter(find_broker(settings.urls))
        async with load_driver(settings.driver).open() as session:
            conductor = Conductor(
                run, session, settings.urls, meter, _Unseen(), is_private=False, company=_Company(self, run)
            )
            await conductor.conduct()

    async def _hand_over(self, settings: Settings, run: Run, welcome: said.Welcome) -> None:
        """Writes the part, sends it, and stays until it is dismissed."""
        run.record.errors.examples = {
            name: redact_in(text, settings.all_urls) for name, text in run.record.errors.examples.items()
        }
        if self._is_gone and not self.reason:
            self.status, self.reason = "abandoned", self._is_gone
        part = WorkerPart(
            run_id=run.plan.run_id,
            number=welcome.number,
            of=welcome.of,
            name=self._terms.name,
            host=identify_host(self._seal),
            status=self.status,
            reason=self.reason,
            settings=share(settings, settings.urls),
            record=run.record.to_plain(),
            crossing=self._crossing.to_plain(),
            environment=describe_environment(LIBRARIES[settings.driver].packages, settings.backend),
            start_skew_ms=self._start_skew,
            rejected=dict(self._bus.guard.rejected),
        )
        if self._terms.directory is not None:
            with suppress(OSError):  # it is sent, too
                self.written = write_part(part, self._terms.directory)
        if self._is_gone:
            raise CoordinatorGone(self._is_gone)
        await self._send_part(encode(part))
        if not await self._wait_for(lambda: said.Received in self._told or bool(self._is_gone), ANSWER):
            raise CoordinatorGone("it did not say that it has received what was measured here")
        await self._wait_for(lambda: said.Goodbye in self._told or bool(self._is_gone), ANSWER)

    async def _send_part(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        for number, piece in enumerate(pieces):
            await self._tell(said.Chunk(number=number, of=len(pieces), digest=digest, data=piece))
        if self._is_gone:
            raise CoordinatorGone(self._is_gone)

    # --- what it is told --------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Heeds the coordinator, until cancelled. Where the bus is lost, it notes that, and returns."""
        try:
            async for mail in self._bus.receive():
                received = monotonic_ns()
                self._heard_at = monotonic()
                await self._heed(mail, received)
                self._note_change()
        except BusLost as error:
            self._give_up(f"the control connection was lost: {error}")

    async def _heed(self, mail: Mail, received: int) -> None:
        guard, message = self._bus.guard, mail.message
        if isinstance(message, said.Challenge):
            if guard.peer is not None:
                return guard.turn_away("late")
            guard.session, guard.peer = mail.session, mail.sender  # from here on, this one alone is heeded
            self._leader = message.address
            return self._told.update({said.Challenge: message})
        if isinstance(message, said.Probe):
            return await self._tell(said.Echo(number=message.number, received=received, sent=monotonic_ns()))
        if isinstance(message, said.Lead):
            return None
        if isinstance(message, said.Stop):
            if self._run is not None:
                self._run.interrupt()
            return None
        if isinstance(message, said.Pace):
            return self._paces.append(message)
        if type(message) in self._told:
            return guard.turn_away("late")
        self._told[type(message)] = message
        if isinstance(message, said.TurnedAway) and self._run is not None:
            self._give_up(f"the coordinator ended the run: {message.reason}")
        return None

    # --- signs of life ----------------------------------------------------------------------------------------------

    async def keep_in_touch(self) -> None:
        """Tells every second how far it is, until cancelled or nobody is there to hear."""
        due = monotonic()
        while not self._is_gone:
            is_sought = self._run is not None and self._run.settings.mode == "both" and self._phase in SEEKING
            pause = SEEKING_BEAT if is_sought else _BEATS.get(self._phase, BEAT)
            due = max(monotonic(), due) + pause
            with anyio.move_on_after(pause):
                await anyio.sleep(pause)
            if self._has_joined and self._told.get(said.Welcome) and said.Goodbye not in self._told:
                await self._tell(self._beat((monotonic() - due) * 1e3))

    async def keep_watch(self, abort: Callable[[], None]) -> None:
        """Finds out whether somebody leads, until cancelled; calls `abort` where there is nothing to end in order."""
        while True:
            await anyio.sleep(BEAT / 2)
            if not self._has_joined or self._bus.is_blocked():
                self._heard_at = monotonic()
            elif monotonic() - self._heard_at > SILENT:
                self._give_up(f"nothing was heard of the coordinator for {SILENT:g} s")
            if self._has_joined and monotonic() > self._deadline and not self._is_gone:
                self._give_up("the run took longer than it was meant to")
            if monotonic() > self._deadline + MARGIN:
                abort()

    def leave(self, reason: str) -> None:
        """This worker's own user wants it to end: in order, if it has begun."""
        self.status, self.reason = "left", reason
        if self._run is not None:
            self._run.interrupt()
        self._note_change()

    @property
    def _phase(self) -> str:
        phases = self._run.record.phases if self._run is not None else []
        return phases[-1].name if phases else ""

    def _beat(self, late_ms: float) -> said.Beat:
        run = self._run
        if run is None or not run.record.phases:
            return said.Beat()
        return said.Beat(
            phase=self._phase,
            is_settled=self._is_settled(),
            consumers=len(run.consumers),
            unique=run.record.ledger.unique,
            counts=run.record.tally.to_plain(),
            cpu_seconds=process_time(),
            late_ms=round(max(0.0, late_ms), 3),
        )

    # --- what its run waits for -------------------------------------------------------------------------------------

    async def may_connect(self) -> None:
        """As `loadtest.execution.company.Company`, and so the next two."""
        connect = await self._expect(said.Connect)
        await self._sleep_until(connect.at)

    async def may_begin(self, run: Run) -> int:
        tally = run.record.tally
        await self._tell(said.Ready(connected=tally.connected, failed=tally.failed))
        await self._wait_for(lambda: said.Begin in self._told or run.enough.is_set() or bool(self._is_gone))
        begin: said.Begin | None = self._told.get(said.Begin)
        if begin is None:
            return monotonic_ns()
        await self._sleep_until(begin.at)
        self._start_skew = round((monotonic_ns() - begin.at) / 1e6, 3)
        return begin.at

    async def may_measure(self, run: Run, begin_phase: Callable[[str], None]) -> None:
        while True:
            await self._wait_for(
                lambda: bool(self._paces) or said.Measure in self._told or run.enough.is_set() or bool(self._is_gone)
            )
            if run.enough.is_set() or self._is_gone:
                return
            while self._paces:
                pace = self._paces.popleft()
                if pace.phase != self._phase:
                    begin_phase(pace.phase)
                run.begin_leg(follow(run, Order(**vars(pace))))
            measure: said.Measure | None = self._told.get(said.Measure)
            if measure is not None:
                await wait_or_end(run, (measure.at - monotonic_ns()) / 1e9)
                return

    async def may_close(self, run: Run, is_settled: Callable[[], bool]) -> None:
        self._is_settled = is_settled
        if self.status == "left":
            await self._tell(said.Leaving(reason=self.reason))
        give_up_at = monotonic() + run.settings.drain + MARGIN
        told_to_go = None
        while said.Close not in self._told and monotonic() < give_up_at:
            if (self._is_gone or self.status == "left") and told_to_go is None:
                told_to_go = monotonic() + LEAVING_DRAIN
            if told_to_go is not None and (is_settled() or monotonic() > told_to_go):
                return
            await self._wait_for(lambda: said.Close in self._told, 0.1)

    # --- what it is made of -----------------------------------------------------------------------------------------

    def _give_up(self, reason: str) -> None:
        """Nobody leads any more: the load ends, in order."""
        if not self._is_gone:
            self._is_gone = reason
            if self._run is not None:
                self._run.interrupt()
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()

    async def _wait_for(self, holds: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Waits until it holds, for so long at most; whether it does."""
        with anyio.move_on_after(seconds):
            while not holds():
                self._changed = anyio.Event()
                await self._changed.wait()
        return holds()

    async def _expect(self, kind: type[Any]) -> Any:
        """The message of that kind. TurnedDown or CoordinatorGone if there will be none."""
        await self._wait_for(
            lambda: kind in self._told or said.TurnedAway in self._told or bool(self._is_gone) or self.status == "left"
        )
        if kind in self._told:
            return self._told[kind]
        if said.TurnedAway in self._told:
            raise TurnedDown(self._told[said.TurnedAway].reason)
        if self._is_gone:
            raise CoordinatorGone(self._is_gone)
        await self._tell(said.Refusal(reason=self.reason))
        raise TurnedDown(self.reason)

    async def _tell(self, message: Any) -> None:
        """Says it to the coordinator, if there still is one."""
        if self._is_gone:
            return
        try:
            await self._bus.send(self._leader, COORDINATOR, message)
        except Gone:
            self._give_up("the coordinator is gone")
        except BusLost as error:
            self._give_up(f"the control connection was lost: {error}")

    async def _sleep_until(self, when: int) -> None:
        await anyio.sleep(max(0, when - monotonic_ns()) / 1e9)

    def _check_deadline(self) -> None:
        if self.status == "left":
            raise TurnedDown(self.reason)
        if self._is_gone:
            raise CoordinatorGone(self._is_gone)
        if monotonic() > self._deadline:
            raise CoordinatorGone(f"no coordinator was there within {self._terms.wait:g} s")


class _Company:
    """What the conductor asks of a worker."""

    def __init__(self, worker: Worker, run: Run) -> None:
        self._worker = worker
        self._run = run

    async def may_connect(self) -> None:
        await self._worker.may_connect()

    async def may_begin(self) -> int:
        return await self._worker.may_begin(self._run)

    async def may_measure(self, begin_phase: Callable[[str], None]) -> None:
        await self._worker.may_measure(self._run, begin_phase)

    async def may_close(self, is_settled: Callable[[], bool]) -> None:
        await self._worker.may_close(self._run, is_settled)


class _Unseen:
    """A worker shows nothing: the coordinator does."""

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Nothing."""


def _demand(settings: Settings, connections: int, clients: int) -> Demand:
    library = LIBRARIES[settings.driver]
    return Demand(
        connections=connections,
        destinations=len(settings.all_urls),
        client_bytes=library.client_bytes + (TLS_BYTES if any(map(is_encrypted, settings.all_urls)) else 0),
        clients=clients,
        has_private_node=False,
    )
