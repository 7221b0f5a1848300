"""A worker: joins a coordinator, takes its segment of the plan, makes load with its own clients, hands over its part.

It heeds what its own command line allows and nothing else: targets, rate, backend. It ends by itself: told to, when its
own user wants it to, at its deadline, or ten seconds after it last heard of the coordinator, at once where the
coordinator's queue is gone. What it has measured by then it keeps in a file, whatever becomes of the bus.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, process_time

import anyio

from loadtest.drivers import LIBRARIES, DriverMissing, load_driver
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run
from loadtest.fleet import messages as said
from loadtest.fleet.bus import COORDINATOR, Bus, BusLost, Gone
from loadtest.fleet.company import FleetCompany
from loadtest.fleet.crossing import Crossing, CrossingReader
from loadtest.fleet.hosts import identify_host, program_version
from loadtest.fleet.leadership import MARGIN, CoordinatorGone, Leadership, TurnedDown
from loadtest.fleet.parts import WorkerPart, encode, write_part
from loadtest.fleet.seal import Seal
from loadtest.fleet.segments import producers_by_worker, take_segment
from loadtest.fleet.sharing import NotAllowed, check_allowed, check_rate, digest_of, read_shared, share, with_ways
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
SEEKING = ("warmup", "closed", "search")
BRIEF_BEAT = 0.2
"""The same where a run is over once all workers have told that they are done: until then it is measured."""
HELLO_EVERY = 0.5
CHALLENGE_BOUND = 2.0
"""Seconds between hellos where nobody is there, and where somebody is who doesn't answer."""
CHUNK = 128 * 1024
ANSWER = 60.0
CONNECTS_PER_SECOND = 10
MOST_ERRORS = 20
"""Kinds of errors that a sign of life tells of."""
MOST_TOLD = 500
"""Characters of a failure that is told of."""


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


class Worker:
    """One worker, on an open bus."""

    def __init__(self, terms: Terms, bus: Bus, seal: Seal, address: str, say: Callable[[str], None]) -> None:
        self.lead = Leadership(bus, terms.wait)
        self.written: Path | None = None
        """Where its part was written."""
        self.unwritten = ""
        """Why it was not, where it was to be."""
        self.is_interrupted = False
        self.is_done = False
        """Whether its work has come to its end, whichever that was."""
        self._terms = terms
        self._bus = bus
        self._seal = seal
        self._address = address
        self._say = say
        self._run: Run | None = None
        self._company: FleetCompany | None = None
        self._number = self._of = 0
        self._crossing = Crossing()

    def interrupt(self) -> None:
        """This worker's own user wants it to end: in order, if it has begun."""
        self.is_interrupted = True
        self.lead.leave("it was interrupted at its own end")

    # --- from the first word to the last ----------------------------------------------------------------------------

    async def work(self, leaders_address: str) -> None:
        """Everything, from joining to the goodbye. TurnedDown or CoordinatorGone if it doesn't come to that.

        Cancelled, it drops everything.
        """
        lead = self.lead
        await self._join(leaders_address)
        welcome: said.Welcome = await lead.expect(said.Welcome)
        self._number, self._of = welcome.number, welcome.of
        self._say(f"worker {welcome.number} of {welcome.of}: waiting for the run to begin")
        lead.deadline = monotonic() + self._terms.wait + ANSWER
        run = await self._prepare(await lead.expect(said.Prepare))
        lead.deadline, lead.overdue = monotonic() + _longest(run), "the run took longer than it was meant to"
        self._run = lead.run = run
        await self._conduct(run)
        await self._hand_over(run)
        self.is_done = True

    async def _join(self, leaders_address: str) -> None:
        """Says hello until there is a coordinator, and joins it."""
        lead = self.lead
        while not lead.is_known:
            try:
                await self._bus.send(leaders_address, COORDINATOR, said.Hello(address=self._address))
                await lead.changes.until(lambda: lead.is_known or lead.is_over, CHALLENGE_BOUND)
            except Gone:
                await lead.changes.until(lambda: lead.is_over, HELLO_EVERY)  # not yet there
            except BusLost as error:
                raise CoordinatorGone(f"the control connection was lost: {error}") from None
            if lead.leaving:
                raise TurnedDown(lead.leaving)
            if lead.gone or monotonic() > lead.deadline:
                raise CoordinatorGone(lead.gone or lead.overdue)
        lead.join()
        await lead.tell(
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

    async def _prepare(self, message: said.Prepare) -> Run:
        """Makes the plan and takes its segment. TurnedDown, which the coordinator is told, if that can't be."""
        try:
            settings = read_shared(message.settings)
            digest = digest_of(share(settings, settings.urls))
            check_allowed(settings, self._terms.urls)
            whole = make_plan(settings, message.run_id)
            plan = take_segment(whole, self._number, self._of)
            senders = len(plan.placed(Role.PRODUCER)) + len(plan.placed(Role.CALLER))
            check_rate(settings, senders, self._terms.max_rate)
            settings = with_ways(settings, self._terms.urls)
            load_driver(settings.driver, is_lasting=settings.reconnect)
            clients = sum(map(len, plan.sockets))
            prepare(_demand(settings, len(plan.sockets) + len(plan.server_queues), clients + len(plan.server_queues)))
        except (NotAllowed, Refused, ValueError, KeyError, DriverMissing) as error:
            text = redact_in(str(error), self._terms.urls)
            await self.lead.tell(said.Refusal(reason=text))
            raise TurnedDown(text) from None
        run = Run(settings, plan, datetime.now(UTC))
        owners = producers_by_worker(whole, self._of)
        leads = {index: message.offsets[owner] for index, owner in owners.items() if owner in message.offsets}
        if leads:
            run.reading = partial(CrossingReader, run, self._crossing, leads)
        await self.lead.tell(said.Prepared(digest=digest, sockets=len(plan.sockets), clients=clients))
        return run

    async def _conduct(self, run: Run) -> None:
        """The run's own part. What fails in it is told, and what was measured until then is handed over."""
        settings = run.settings
        self._company = FleetCompany(self.lead, run)
        try:
            async with load_driver(settings.driver, is_lasting=settings.reconnect).open() as session:
                meter = Meter(find_broker(settings.urls))
                conductor = Conductor(
                    run, session, settings.urls, meter, _Unseen(), is_private=False, company=self._company
                )
                await conductor.conduct()
        except (TurnedDown, CoordinatorGone):
            raise  # before there was anything to measure
        except Exception as error:
            failure = _first_of(error)
            run.record.errors.note(failure, " (worker)")
            text = f"it failed: {type(failure).__name__}: {failure}"
            self.lead.leave(redact_in(text[:MOST_TOLD], settings.all_urls))
            await self.lead.tell(said.Leaving(reason=self.lead.leaving))

    async def _hand_over(self, run: Run) -> None:
        """Writes the part, sends it, and stays until it is dismissed."""
        lead = self.lead
        part = self._make_part(run)
        self._write(part)
        if not lead.gone:
            await self._send_part(encode(part))
        if not await lead.changes.until(lambda: said.Received in lead.told or bool(lead.gone), ANSWER):
            raise CoordinatorGone("it did not say that it has received what was measured here")
        if said.Received not in lead.told:
            raise CoordinatorGone(lead.gone)
        await lead.changes.until(lambda: said.Goodbye in lead.told or bool(lead.gone), ANSWER)

    def keep(self) -> None:
        """Writes what was measured, where that has not been done: after something went wrong."""
        if self._run is not None and self._run.record.phases and self.written is None and not self.unwritten:
            self._write(self._make_part(self._run))

    def _write(self, part: WorkerPart) -> None:
        if self._terms.directory is not None:
            try:
                self.written = write_part(part, self._terms.directory)
            except OSError as error:  # it may be sent, too
                self.unwritten = f"{self._terms.directory}: {error.strerror or error}"

    async def _send_part(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        pieces = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        for number, piece in enumerate(pieces):
            await self.lead.tell(said.Chunk(number=number, of=len(pieces), digest=digest, data=piece))

    def _make_part(self, run: Run) -> WorkerPart:
        lead, settings, errors = self.lead, run.settings, run.record.errors
        errors.examples = {name: redact_in(text, settings.all_urls) for name, text in errors.examples.items()}
        is_whole = said.Close in lead.told or not lead.gone
        status = "left" if lead.leaving else "finished" if is_whole else "abandoned"
        return WorkerPart(
            run_id=run.plan.run_id,
            number=self._number,
            of=self._of,
            name=self._terms.name,
            host=identify_host(self._seal),
            status=status,
            reason=lead.leaving or ("" if is_whole else lead.gone),
            settings=share(settings, settings.urls),
            record=run.record.to_plain(),
            crossing=self._crossing.to_plain(),
            environment=describe_environment(LIBRARIES[settings.driver].packages, settings.backend),
            start_skew_ms=None if self._company is None else self._company.start_skew_ms,
            rejected=dict(self._bus.guard.rejected),
        )

    # --- signs of life ----------------------------------------------------------------------------------------------

    async def keep_in_touch(self) -> None:
        """Tells every second how far it is, until cancelled or nobody is there to hear."""
        lead = self.lead
        while not lead.gone:
            await anyio.sleep(self._beat_seconds)
            if said.Welcome in lead.told and said.Goodbye not in lead.told:
                await lead.tell(self._beat())

    @property
    def _beat_seconds(self) -> float:
        settings = None if self._run is None else self._run.settings
        if settings is not None and settings.mode == "both" and self._phase in SEEKING:
            return SEEKING_BEAT
        if settings is not None and (settings.messages is not None or settings.until_idle):
            return BRIEF_BEAT
        return _BEATS.get(self._phase, BEAT)

    @property
    def _phase(self) -> str:
        phases = self._run.record.phases if self._run is not None else []
        return phases[-1].name if phases else ""

    def _beat(self) -> said.Beat:
        run = self._run
        if run is None or self._company is None or not run.record.phases:
            return said.Beat()
        return said.Beat(
            phase=self._phase,
            is_settled=self._company.is_settled(),
            is_done=run.is_done,
            consumers=len(run.consumers),
            unique=run.record.ledger.unique,
            counts=run.record.tally.to_plain(),
            cpu_seconds=process_time(),
            errors=dict(run.record.errors.counts.most_common(MOST_ERRORS)),
            is_blocked=run.is_blocked,
        )


class _Unseen:
    """A worker shows nothing: the coordinator does."""

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Nothing."""


def _first_of(error: Exception) -> Exception:
    """What went wrong, out of the groups that it comes in."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _longest(run: Run) -> float:
    """Seconds after which a run can't be but stuck."""
    settings = run.settings
    phases = settings.warmup + 4 * settings.search + settings.duration + settings.drain
    return phases + MARGIN + len(run.plan.sockets) / CONNECTS_PER_SECOND


def _demand(settings: Settings, connections: int, clients: int) -> Demand:
    library = LIBRARIES[settings.driver]
    return Demand(
        connections=connections,
        destinations=len(settings.all_urls),
        client_bytes=library.client_bytes + (TLS_BYTES if any(map(is_encrypted, settings.all_urls)) else 0),
        clients=clients,
        own_broker=None,
    )
