"""A run of several processes, from its settings to its result: the broker, the control channel, the workers, the pool.

For `--processes` the control channel is the embedded broker, in this process and on the loopback interface: what is
said of the run never queues behind the run. For `--workers` it is RabbitMQ, on a connection of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import anyio
import psutil
from anyio.abc import TaskStatus

from loadtest.analysis.fleet import add_fleet
from loadtest.analysis.result import build_result
from loadtest.commands.aborting import AbortWatch
from loadtest.commands.exits import Incomplete, Unreachable
from loadtest.commands.interrupts import Hold, ending_signals
from loadtest.commands.joining import CONTROL, TARGETS, TOKEN, make_seal, make_token, read_token
from loadtest.commands.watching import Watchers, exported
from loadtest.drivers import LIBRARIES, event_loop, load_driver
from loadtest.drivers.base import Connection, Driver, Session
from loadtest.execution.conductor import ABANDONED_BOUND, CONNECT_PATIENCE, STOCK_BOUND
from loadtest.execution.leftovers import Leftovers
from loadtest.execution.queues import QueueRefused, Queues
from loadtest.execution.remote import watch_broker
from loadtest.execution.sampler import Display
from loadtest.execution.state import start_run
from loadtest.execution.waiting import wait_for_brokers
from loadtest.fleet.bus import COORDINATOR, Bus, BusLost, NoBus, PlaceTaken, coordinators_address, open_bus
from loadtest.fleet.coordinator import Coordinator
from loadtest.fleet.crew import BrokenOff, Interrupted, Refused
from loadtest.fleet.messages import FROM_WORKERS, Hello
from loadtest.fleet.parts import CoordinatorPart, Part, WorkerPart, write_part
from loadtest.fleet.pooling import pool
from loadtest.fleet.processes import Processes
from loadtest.fleet.seal import Seal
from loadtest.fleet.seeking import LedRun
from loadtest.fleet.segments import find_idle
from loadtest.machine.environment import describe_broker, describe_environment
from loadtest.machine.management import Management
from loadtest.machine.preflight import Refused as MachineRefused
from loadtest.machine.resources import Meter
from loadtest.output.exporter import MetricsRefused
from loadtest.output.progress import Progress
from loadtest.scenarios.settings import Settings
from rabbitry.broker import Broker
from rabbitry.testing import NodeError

DISMISSAL = 3.0
"""Seconds to tell workers that there will be no run."""


class Provided(Protocol):
    """The broker under test."""

    @property
    def urls(self) -> tuple[str, ...]: ...

    @property
    def process(self) -> psutil.Process | None: ...

    @property
    def is_private(self) -> bool: ...


Provide = Callable[[Settings, Progress], AbstractAsyncContextManager[Provided]]


@dataclass(frozen=True, slots=True)
class _Control:
    """The control channel's end, and how it is told who has ended."""

    bus: Bus
    seal: Seal
    address: str
    processes: Processes | None


def perform_fleet(
    settings: Settings, words: Sequence[str], progress: Progress, provide: Provide, hold: Hold
) -> dict[str, Any]:
    """The result of a run that several processes make. It raises what `perform` raises, and Incomplete where a worker
    was lost before there was anything to measure. `hold` has begun once there is something to lose.
    """
    driver = load_driver(settings.driver)
    token = _token(settings, progress)
    environment = describe_environment(LIBRARIES[settings.driver].packages, settings.backend)
    leader = _Leader(_start(settings), driver, progress, token, words, environment, hold)
    with progress:
        anyio.run(leader.lead, provide, **event_loop(settings.backend))
    if leader.unwritten:
        progress.say(f"the parts could not be written: {leader.unwritten}")
    assert leader.own is not None
    return fleet_result(settings, leader.workers, leader.own)


def _start(settings: Settings) -> LedRun:
    """A run that stands for all workers, with a name of its own. Refused if some of them had nothing to do."""
    alone = start_run(settings)
    count = settings.workers or settings.processes
    if idle := find_idle(alone.plan, count):
        text = ", ".join(map(str, idle))
        raise MachineRefused(f"{count} workers for these clients: there would be nothing to do for worker {text}")
    return LedRun(settings, alone.plan, datetime.fromisoformat(alone.record.started_at))


def fleet_result(settings: Settings, workers: Sequence[WorkerPart], own: CoordinatorPart | None) -> dict[str, Any]:
    """The result that all parts of a run come to, heard over the bus or read from files."""
    pooled = pool(workers, own)
    environment = own.environment if own is not None else dict(workers[0].environment)
    result = build_result(settings, pooled.record, environment, list(own.words) if own is not None else [])
    return add_fleet(result, settings, pooled)


def _token(settings: Settings, progress: Progress) -> str:
    """The token to join by: for processes of our own a new one."""
    if not settings.workers:
        return make_token()
    try:
        token = read_token(settings.token_file, os.environ)
        if token is not None:
            make_seal(token)
    except ValueError as error:
        raise MachineRefused(str(error)) from None
    if token is None and settings.quiet:
        raise MachineRefused(f"--quiet with --workers: nobody would see the join token; set ${TOKEN} or --token-file")
    return token or make_token()


class _Leader:
    """Leads the run inside its event loop."""

    def __init__(
        self,
        run: LedRun,
        driver: Driver,
        progress: Progress,
        token: str,
        words: Sequence[str],
        environment: Mapping[str, Any],
        hold: Hold,
    ) -> None:
        self.own: CoordinatorPart | None = None
        self.workers: list[WorkerPart] = []
        self.unwritten = ""
        """Why the parts are in no files, where they were to be."""
        self._run = run
        self._driver = driver
        self._progress = progress
        self._token = token
        self._words = words
        self._environment = environment
        self._hold = hold
        self._coordinator: Coordinator | None = None
        self._broker: dict[str, Any] = {}
        self._is_silent = False

    async def lead(self, provide: Provide) -> None:
        """The whole run. What it raises is in no group."""
        failure: BaseException | None = None
        async with anyio.create_task_group() as tg:
            await tg.start(self._heed_signals, tg.cancel_scope)
            try:
                if self._run.settings.wait_broker:
                    self._progress.say("waiting for the broker")
                    async with self._driver.open() as session:
                        await wait_for_brokers(session, self._run.settings.all_urls, self._run.settings.wait_broker)
                async with (
                    provide(self._run.settings, self._progress) as broker,
                    self._driver.open() as session,
                    self._open_control(broker) as control,
                ):
                    with exported([self._run], self._progress, are_made_here=False):
                        if (url := self._run.settings.management) is not None:
                            tg.start_soon(watch_broker, [self._run], Management(url))
                        await self._lead(broker, session, control)
            except Interrupted:
                failure = KeyboardInterrupt()
            except Refused as error:
                failure = MachineRefused(str(error))
            except PlaceTaken:
                failure = MachineRefused("another coordinator with this join token is at work: use another token")
            except (BrokenOff, BusLost) as error:
                failure = Incomplete(f"nothing was measured: {error}")
            except NoBus as error:
                failure = Unreachable(f"no control broker: {error}")
            except OSError as error:
                failure = Unreachable(f"no broker to test: {error}")
            except (NodeError, QueueRefused, MetricsRefused) as error:
                failure = error
            tg.cancel_scope.cancel()
        self._hold.begin()
        if failure is None and self.own is None:
            failure = KeyboardInterrupt()
        if failure is not None:
            raise failure

    async def _heed_signals(self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*ending_signals()) as signals:
            task_status.started()
            async for _ in signals:
                if self._coordinator is None or self._run.record.is_interrupted:
                    scope.cancel()
                else:
                    self._coordinator.interrupt()

    async def _lead(self, broker: Provided, session: Session, control: _Control) -> None:
        run, settings = self._run, self._run.settings
        displays: list[Display] = [self._progress]
        if settings.abort_on:
            displays.append(AbortWatch(settings.abort_on, settings.abort_after))
        coordinator = self._coordinator = Coordinator(
            run,
            control.bus,
            control.seal,
            workers=settings.workers or settings.processes,
            address=control.address,
            display=Watchers(displays),
            meter=Meter(broker.process),
        )

        def connect() -> AbstractAsyncContextManager[Connection]:
            return session.connect(broker.urls[0], f"{run.plan.prefix} administrator")

        longest = CONNECT_PATIENCE + settings.warmup + 4 * settings.search + settings.duration + settings.drain
        queues = Queues(run, connect, longest=longest)
        has_queues, bound = False, STOCK_BOUND
        try:
            async with coordinator.staffed(control.processes):
                await coordinator.assemble(settings.join_timeout)
                self._progress.say(f"{len(coordinator.roster.members)} workers are there")
                await coordinator.prepare(broker.urls)
                has_queues = True
                self._broker = describe_broker(await queues.declare(), broker.is_private)
                await coordinator.conduct(Leftovers(run, connect))
        except BusLost as error:
            coordinator.crew.lose_all(f"the control connection was lost ({error}); it keeps what it measured in a file")
            if not coordinator.crew.has_begun:
                raise
        except BaseException as error:
            bound = STOCK_BOUND if isinstance(error, Exception) else ABANDONED_BOUND
            with anyio.move_on_after(DISMISSAL, shield=True), suppress(BusLost):
                await coordinator.dismiss(str(error) or "it was interrupted")
            raise
        finally:
            with anyio.move_on_after(bound, shield=True):
                if coordinator.crew.has_begun:
                    await self._take_stock(coordinator, connect)
                if has_queues and not broker.is_private and not self._is_silent:
                    await queues.delete()
            if coordinator.crew.has_begun:
                self._close_the_books(coordinator)

    async def _take_stock(
        self, coordinator: Coordinator, connect: Callable[[], AbstractAsyncContextManager[Connection]]
    ) -> None:
        """Counts what is left in the queues, against what all workers together know of their messages."""
        run, own_errors = self._run, self._run.record.errors
        self.workers = coordinator.workers_parts()
        is_interrupted = run.record.is_interrupted
        pooled = pool(self.workers, coordinator.part(self._words, self._environment, self._broker))
        run.record = pooled.record
        run.record.errors, run.record.is_interrupted = own_errors, is_interrupted
        missing = run.record.ledger.balance().missing
        leftovers = Leftovers(run, connect)
        await leftovers.take_stock()
        self._is_silent = leftovers.is_silent
        stock = run.record.stock
        if stock is not None and len(self.workers) < coordinator.roster.expected:
            # what the lost one received nobody knows: then only nothing missing says that nothing is lost
            stock.lost = None if missing or not self.workers else 0

    def _close_the_books(self, coordinator: Coordinator) -> None:
        """What is known in the end, here and in files: these may be lost, and the result is not."""
        own = self.own = coordinator.part(self._words, self._environment, self._broker)
        if (directory := self._parts_directory) is None:
            return
        parts: list[Part] = [own, *self.workers]
        try:
            for part in parts:
                write_part(part, directory)
        except OSError as error:
            self.unwritten = f"{directory}: {error.strerror or error}"

    @property
    def _parts_directory(self) -> Path | None:
        """Where the parts of the run are written: by each process of this machine, and by this one those of all."""
        output = self._run.settings.output
        return None if output is None else output / f"{self._run.plan.run_id}.parts"

    @asynccontextmanager
    async def _open_control(self, broker: Provided) -> AsyncIterator[_Control]:
        """The control channel, and the worker processes if they are ours, which have ended when the block has."""
        settings, seal = self._run.settings, make_seal(self._token)
        if settings.workers:
            url = settings.control_url or settings.urls[0]
            async with self._open_bus(url, seal) as bus:
                self._progress.say(self._invitation(settings))
                yield _Control(bus, seal, coordinators_address(seal), None)
            return
        async with Broker() as embedded:
            await embedded.listen()
            processes = self._make_processes(embedded.url, broker.urls)
            try:
                async with self._open_bus(embedded.url, seal) as bus:
                    processes.start()
                    yield _Control(bus, seal, coordinators_address(seal), processes)
                    with anyio.CancelScope(shield=True):
                        await processes.end()
            finally:
                with anyio.CancelScope(shield=True):
                    await processes.end(patience=1.0)

    def _open_bus(self, url: str, seal: Seal) -> AbstractAsyncContextManager[Bus]:
        return open_bus(
            url,
            seal,
            me=COORDINATOR,
            address=coordinators_address(seal),
            session=self._run.plan.run_id,
            greeting=Hello,
            kinds=FROM_WORKERS,
            name=f"{self._run.plan.prefix} coordinator",
        )

    def _make_processes(self, control_url: str, urls: Sequence[str]) -> Processes:
        settings = self._run.settings
        targets = dict.fromkeys((*urls, *settings.publish_urls, *settings.consume_urls))
        environment = {TOKEN: self._token, CONTROL: control_url, TARGETS: " ".join(targets)}
        words = ["--backend", settings.backend, "--quiet"]
        if self._parts_directory is not None:
            words += ["--output", str(self._parts_directory)]
        return Processes(settings.processes, words, environment)

    def _invitation(self, settings: Settings) -> str:
        """How a worker joins."""
        known = read_token(settings.token_file, os.environ) is not None
        variable = "" if known else f"{TOKEN}={self._token} "
        control = "" if settings.control_url is None else " --control-url URL"
        backend = "" if settings.backend == "asyncio" else f" --backend {settings.backend}"
        return (
            f"waiting for {settings.workers} workers: {variable}python -m loadtest worker --url URL{control}{backend}"
        )
