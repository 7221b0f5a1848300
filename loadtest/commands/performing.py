"""One run from its settings to its result: preflight, broker, event loop. It says nothing and writes nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import psutil
from anyio.abc import TaskStatus

from loadtest.analysis.failures import failures
from loadtest.analysis.result import build_result
from loadtest.commands.exits import Unreachable
from loadtest.commands.fleeting import perform_fleet
from loadtest.commands.watching import watched
from loadtest.drivers import LIBRARIES, Library, load_driver
from loadtest.drivers.base import Driver
from loadtest.execution.conductor import Conductor
from loadtest.execution.queues import QueueRefused
from loadtest.execution.state import Run, start_run
from loadtest.execution.waiting import wait_for_brokers
from loadtest.machine.environment import describe_environment
from loadtest.machine.preflight import ADMINISTRATION, TLS_BYTES, Demand, prepare
from loadtest.machine.resources import Meter, find_broker
from loadtest.output.progress import Progress
from loadtest.scenarios.settings import Settings
from loadtest.urls import is_encrypted, with_vhost
from rabbitry.testing import NodeError, PrivateNode


@dataclass(frozen=True, slots=True)
class Performed:
    """What came of a run."""

    result: dict[str, Any]
    failures: list[str]
    """Why it was not all right; empty if it was."""
    is_interrupted: bool


def perform(
    settings: Settings, words: Sequence[str], progress: Progress, calibration: Mapping[str, Any] | None = None
) -> Performed:
    """Runs what the settings ask for, with the event loop they name; `words` are the command line, `calibration` what
    `loadtest.commands.calibrating` found.

    DriverMissing, Refused, Unreachable, NodeError, RabbitMQNotFound or QueueRefused if it can't begin,
    KeyboardInterrupt if it was interrupted before it began. Interrupted later, it tells what was measured.
    """
    library, driver = LIBRARIES[settings.driver], load_driver(settings.driver)
    prepare(_demand(settings, library))
    if settings.processes > 1 or settings.workers:
        result = perform_fleet(settings, words, progress, _broker)
        return Performed(result, failures(result), result["interrupted"])
    environment = describe_environment(library.packages, settings.backend)
    run = start_run(settings)
    run.record.calibration = None if calibration is None else dict(calibration)
    with progress:
        anyio.run(_execute, run, driver, progress, backend=settings.backend)
    result = build_result(settings, run.record, environment, words)
    return Performed(result, failures(result), run.record.is_interrupted)


def _demand(settings: Settings, library: Library) -> Demand:
    return Demand(
        connections=settings.connections + settings.servers,
        destinations=max(1, len(settings.all_urls)),
        client_bytes=library.client_bytes + (TLS_BYTES if any(map(is_encrypted, settings.all_urls)) else 0),
        clients=settings.clients + settings.servers,
        has_private_node=not settings.urls,
        processes=settings.processes,
    )


async def _execute(run: Run, driver: Driver, progress: Progress) -> None:
    """The run inside its event loop; the record is complete then. KeyboardInterrupt if it ended before it began."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tg:
        await tg.start(_heed_signals, run, tg.cancel_scope)
        try:
            if run.settings.wait_broker:
                progress.say("waiting for the broker")
                async with driver.open() as session:
                    await wait_for_brokers(session, run.settings.all_urls, run.settings.wait_broker)
            async with _broker(run.settings, progress) as broker, driver.open() as session:
                meter = Meter(broker.process)
                with watched(run, progress) as display:
                    conductor = Conductor(run, session, broker.urls, meter, display, is_private=broker.is_private)
                    await conductor.conduct()
        except OSError as error:  # every failure to connect is one
            failure = Unreachable(f"no broker to test: {error}")
        except (NodeError, QueueRefused) as error:
            failure = error
        tg.cancel_scope.cancel()
    if failure is not None:  # raised here, it is in no group
        raise failure
    if not run.record.phases:
        raise KeyboardInterrupt


async def _heed_signals(run: Run, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if run.record.is_interrupted or not run.record.phases:
                scope.cancel()
            run.interrupt()


@dataclass(frozen=True, slots=True)
class _Broker:
    urls: tuple[str, ...]
    process: psutil.Process | None
    is_private: bool


@asynccontextmanager
async def _broker(settings: Settings, progress: Progress) -> AsyncIterator[_Broker]:
    """The broker named in the settings, or a private node for as long as the block lasts."""
    if settings.urls:
        yield _Broker(settings.urls, find_broker(settings.urls), is_private=False)
        return
    progress.say("starting a private RabbitMQ node")
    async with PrivateNode(connections=settings.connections + settings.servers + ADMINISTRATION) as node:
        if settings.vhost is not None:
            await anyio.to_thread.run_sync(node.rabbitmqctl, "add_vhost", settings.vhost)
            rights = ("set_permissions", "-p", settings.vhost, "guest", ".*", ".*", ".*")
            await anyio.to_thread.run_sync(node.rabbitmqctl, *rights)
        yield _Broker((with_vhost(node.url, settings.vhost),), psutil.Process(node.pid), is_private=True)
