"""The program: settings, preflight, broker, run, result, exit code.

0 all well, 1 messages lost, connections failed or a load that was not put on, 2 wrong usage, 3 a requirement not
reached, 4 no broker, 130 interrupted. The first Ctrl-C or SIGTERM ends the run in order and reports what was measured;
the second drops everything. Results are written before anything is said of them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
from anyio.abc import TaskStatus

from loadtest.analysis.failures import failures
from loadtest.analysis.result import build_result
from loadtest.commands.flags import parse_settings
from loadtest.commands.target import TargetRefused, check_target, describe_target
from loadtest.drivers import LIBRARIES, DriverMissing, Library, load_driver
from loadtest.drivers.base import Driver
from loadtest.execution.conductor import Conductor
from loadtest.execution.queues import QueueRefused
from loadtest.execution.state import Run, start_run
from loadtest.machine.environment import describe_environment
from loadtest.machine.preflight import ADMINISTRATION, TLS_BYTES, Demand, Refused, prepare
from loadtest.machine.resources import Meter, find_broker
from loadtest.output.console import Speaker, make_console
from loadtest.output.files import DestinationRefused, check_destinations, save_elsewhere, write_result
from loadtest.output.progress import Progress
from loadtest.output.summary import render_summary
from loadtest.scenarios.settings import Settings
from loadtest.units import format_text
from loadtest.urls import is_encrypted, redact_in, with_vhost
from rabbitry.testing import NodeError, PrivateNode, RabbitMQNotFound

OK, FAILED, USAGE, NOT_REACHED, NO_BROKER, INTERRUPTED = 0, 1, 2, 3, 4, 130


class Unreachable(Exception):
    """There is no broker to test."""


class Unwritable(Exception):
    """The result could not be written where it was asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load tester with these arguments, the command line's by default; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = parse_settings(words, os.environ)
    logging.basicConfig(handlers=[logging.NullHandler()])  # errors are counted and reported, not logged by the thousand
    errors = make_console(stderr=True)
    console = errors if settings.json == "-" else make_console()
    try:
        if settings.urls and not settings.quiet:
            console.print(f"target    {describe_target(settings)}", markup=False, soft_wrap=True)
        check_target(settings)
        return _run(settings, words, console)
    except (DriverMissing, Refused, DestinationRefused, QueueRefused, TargetRefused) as error:
        code, text = USAGE, _text_of(error)
    except (Unreachable, NodeError, RabbitMQNotFound) as error:
        code, text = NO_BROKER, _text_of(error)
    except Unwritable as error:
        code, text = FAILED, _text_of(error)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted before anything was measured"
    errors.print(f"loadtest: {redact_in(text, (*words, *settings.urls))}", markup=False, soft_wrap=True)
    return code


def _text_of(error: Exception) -> str:
    """What an error says: on lines where they are ours, as those of a node's log, otherwise on one."""
    text = str(error)
    return (
        "\n".join(map(format_text, text.split("\n"))) if isinstance(error, Refused | NodeError) else format_text(text)
    )


def _run(settings: Settings, words: list[str], console: Speaker) -> int:
    library, driver = LIBRARIES[settings.driver], load_driver(settings.driver)
    check_destinations(settings)
    prepare(_demand(settings, library))
    environment = describe_environment(library.packages, settings.backend)
    run = start_run(settings)
    with Progress(console, quiet=settings.quiet) as progress:
        anyio.run(_execute, run, driver, progress, backend=settings.backend)
    result = build_result(settings, run.record, environment, words)
    found, written, unwritten = failures(result), list[Path](), ""
    try:
        written = write_result(result, settings)
    except OSError as error:
        unwritten = f"the result could not be written: {error}; {save_elsewhere(result)}"
    if not settings.quiet:
        console.print(render_summary(result, found))
        for path in written:
            console.print(f"written   {path}", markup=False, soft_wrap=True)
    if unwritten:
        raise Unwritable(unwritten)
    if run.record.is_interrupted:
        return INTERRUPTED
    if found:
        return FAILED
    return OK if all(each["holds"] for each in result["requirements"]) else NOT_REACHED


def _demand(settings: Settings, library: Library) -> Demand:
    return Demand(
        connections=settings.connections + settings.servers,
        destinations=max(1, len(settings.urls)),
        client_bytes=library.client_bytes + (TLS_BYTES if any(map(is_encrypted, settings.urls)) else 0),
        clients=settings.clients + settings.servers,
        has_private_node=not settings.urls,
    )


async def _execute(run: Run, driver: Driver, progress: Progress) -> None:
    """The run inside its event loop; the record is complete then. KeyboardInterrupt if it ended before it began."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tg:
        await tg.start(_heed_signals, run, tg.cancel_scope)
        try:
            async with _broker(run.settings, progress) as broker, driver.open() as session:
                meter = Meter(broker.process)
                conductor = Conductor(run, session, broker.urls, meter, progress, is_private=broker.is_private)
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
