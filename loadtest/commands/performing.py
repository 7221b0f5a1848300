"""One run from its settings to its result: preflight, broker, event loop. It says nothing and writes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import psutil
from anyio.abc import TaskStatus

from loadtest.analysis.failures import failures
from loadtest.analysis.result import build_result
from loadtest.analysis.workloads import join_results
from loadtest.commands.exits import Unreachable
from loadtest.commands.interrupts import Hold, ending_signals, held
from loadtest.commands.leading import perform_fleet
from loadtest.commands.sweeping import Performed, make_vhost, sweep
from loadtest.commands.watching import exported, watched
from loadtest.drivers import LIBRARIES, Library, event_loop, load_driver
from loadtest.drivers.base import Driver, Session
from loadtest.execution.conductor import Conductor
from loadtest.execution.queues import QueueRefused
from loadtest.execution.remote import watch_broker
from loadtest.execution.state import Run, start_run, start_workloads
from loadtest.execution.waiting import wait_for_brokers
from loadtest.machine.embedded import EmbeddedBroker
from loadtest.machine.environment import describe_environment
from loadtest.machine.management import Management
from loadtest.machine.preflight import ADMINISTRATION, TLS_BYTES, Demand, prepare
from loadtest.machine.resources import Meter, find_broker
from loadtest.output.exporter import MetricsRefused
from loadtest.output.progress import Progress
from loadtest.scenarios.brokers import AUTO, EMBEDDED, RABBITMQ
from loadtest.scenarios.settings import Settings
from loadtest.urls import is_encrypted, with_vhost
from rabbitry.testing import NodeError, PrivateNode


def perform(
    settings: Settings, words: Sequence[str], progress: Progress, calibration: Mapping[str, Any] | None = None
) -> Performed:
    """Runs what the settings ask for, with the event loop they name; `words` are the command line, `calibration` what
    `loadtest.commands.calibrating` found.

    DriverMissing, Refused, Unreachable, NodeError, RabbitMQNotFound or QueueRefused if it can't begin,
    KeyboardInterrupt if it was interrupted before it began. Interrupted later, it tells what was measured.
    """
    if settings.scenario == "sweep":
        return sweep(settings, words, progress, lambda step: _perform(step, words, progress, calibration))
    return _perform(settings, words, progress, calibration)


def _perform(
    settings: Settings, words: Sequence[str], progress: Progress, calibration: Mapping[str, Any] | None
) -> Performed:
    library = LIBRARIES[settings.driver]
    driver = load_driver(settings.driver, is_lasting=settings.reconnect)
    prepare(_demand(settings, library))
    if settings.processes > 1 or settings.workers:
        with held() as hold:
            result = perform_fleet(settings, words, progress, _broker, hold)
        return Performed(result, failures(result), hold.came or result["interrupted"])
    environment = describe_environment(library.packages, settings.backend)
    runs = start_workloads(settings) if settings.workloads else [start_run(settings)]
    for run in runs:
        run.record.calibration = None if calibration is None else dict(calibration)
    with held() as hold:
        with progress:
            anyio.run(_execute, settings, runs, driver, progress, hold, **event_loop(settings.backend))
        if settings.workloads:
            result = join_results(settings, [run.record for run in runs], environment, words)
        else:
            result = build_result(settings, runs[0].record, environment, words)
        found = failures(result)
    return Performed(result, found, hold.came or any(run.record.is_interrupted for run in runs))


def _demand(settings: Settings, library: Library) -> Demand:
    return Demand(
        connections=settings.connections + settings.servers,
        destinations=max(1, len(settings.all_urls)),
        client_bytes=library.client_bytes + (TLS_BYTES if any(map(is_encrypted, settings.all_urls)) else 0),
        clients=settings.clients + settings.servers,
        own_broker=None if settings.urls else RABBITMQ if settings.broker == AUTO else settings.broker,
        processes=settings.processes,
    )


async def _execute(settings: Settings, runs: Sequence[Run], driver: Driver, progress: Progress, hold: Hold) -> None:
    """The run inside its event loop; the records are complete then, and `hold` has begun, lest they be lost.

    KeyboardInterrupt if it ended before it began.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tg:
        await tg.start(_heed_signals, runs, tg.cancel_scope)
        try:
            if settings.wait_broker:
                progress.say("waiting for the broker")
                async with driver.open() as session:
                    await wait_for_brokers(session, settings.all_urls, settings.wait_broker)
            async with _broker(settings, progress) as broker, driver.open() as session:
                with exported(runs, progress):
                    if settings.management is not None:
                        tg.start_soon(watch_broker, runs, Management(settings.management))
                    await _conduct(runs, session, broker, progress)
        except OSError as error:  # every failure to connect is one
            failure = Unreachable(f"no broker to test: {error}")
        except (NodeError, QueueRefused, MetricsRefused) as error:
            failure = error
        tg.cancel_scope.cancel()
    hold.begin()
    if failure is not None:  # raised here, it is in no group
        raise failure
    if not any(run.record.phases for run in runs):
        raise KeyboardInterrupt


async def _conduct(runs: Sequence[Run], session: Session, broker: Broker, progress: Progress) -> None:
    """All runs at once, if there are several: OSError, NodeError or QueueRefused of the first that can't begin."""
    failures: list[Exception] = []

    async def conduct(run: Run) -> None:
        meter = Meter(broker.process, broker.pid)
        try:
            with watched(run, progress, runs) as display:
                conductor = Conductor(
                    run, session, broker.urls, meter, display, node=broker.node, is_private=broker.is_private
                )
                await conductor.conduct()
        except (OSError, NodeError, QueueRefused) as error:
            failures.append(error)
            workloads.cancel_scope.cancel()

    async with anyio.create_task_group() as workloads:
        for run in runs:
            workloads.start_soon(conduct, run)
    if failures:
        raise failures[0]


async def _heed_signals(runs: Sequence[Run], scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(*ending_signals()) as signals:
        task_status.started()
        async for _ in signals:
            if any(run.record.is_interrupted or not run.record.phases for run in runs):
                scope.cancel()
            for run in runs:
                run.interrupt()


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and what of it is ours."""

    urls: tuple[str, ...]
    process: psutil.Process | None
    is_private: bool
    node: PrivateNode | EmbeddedBroker | None = None

    @property
    def pid(self) -> Callable[[], int] | None:
        """Tells the process id that a broker of our own has now; None if it is not ours."""
        node = self.node
        return None if node is None else lambda: node.pid


@asynccontextmanager
async def _broker(settings: Settings, progress: Progress) -> AsyncIterator[Broker]:
    """The broker named in the settings, or one of our own for as long as the block lasts."""
    if settings.urls:
        yield Broker(settings.urls, find_broker(settings.urls), is_private=False)
        return
    connections = settings.connections + settings.servers
    if settings.broker == EMBEDDED:
        progress.say("starting the embedded broker")
        async with EmbeddedBroker(connections=connections, vhost=settings.vhost) as broker:
            url = with_vhost(broker.url, settings.vhost)
            yield Broker((url,), psutil.Process(broker.pid), is_private=True, node=broker)
        return
    progress.say("starting a private RabbitMQ node")
    async with PrivateNode(connections=connections + ADMINISTRATION) as node:
        if settings.vhost is not None:
            await anyio.to_thread.run_sync(make_vhost, node, settings.vhost)
        yield Broker((with_vhost(node.url, settings.vhost),), psutil.Process(node.pid), is_private=True, node=node)
