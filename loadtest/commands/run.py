"""The program: settings, preflight, broker, run, result, exit code.

0 all well, 1 messages lost or connections failed, 2 wrong usage, 130 interrupted. The first Ctrl-C or SIGTERM ends the
run in order and reports what was measured; the second drops everything.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
from anyio.abc import TaskStatus
from rich.console import Console

from loadtest.analysis.result import build_result, failures
from loadtest.drivers import DriverMissing, load_driver
from loadtest.drivers.base import Driver
from loadtest.execution.conductor import Conductor, QueueRefused, Report
from loadtest.execution.state import Run
from loadtest.machine.environment import describe_environment
from loadtest.machine.preflight import ADMINISTRATION, TLS_BYTES, Demand, Refused, prepare
from loadtest.machine.resources import Meter, find_broker
from loadtest.output.chart import draw_chart
from loadtest.output.progress import Progress
from loadtest.output.summary import render_summary
from loadtest.scenarios.settings import Settings, parse_settings, with_vhost
from rabbitry.testing import NodeError, PrivateNode, RabbitMQNotFound

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Unreachable(Exception):
    """There is no broker to test."""


class Unwritable(Exception):
    """The result could not be written where it was asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load tester with these arguments, the command line's by default; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    settings = parse_settings(words, os.environ)
    logging.basicConfig(handlers=[logging.NullHandler()])  # errors are counted and reported, not logged by the thousand
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    console = errors if settings.json == "-" else Console(soft_wrap=True, highlight=False)
    try:
        return _run(settings, words, console)
    except (DriverMissing, Refused, RabbitMQNotFound, QueueRefused) as error:
        code, text = USAGE, str(error)
    except (Unreachable, Unwritable, NodeError) as error:
        code, text = FAILED, str(error)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted before anything was measured"
    errors.print(f"loadtest: {text}", markup=False)
    return code


def _run(settings: Settings, words: list[str], console: Console) -> int:
    driver = load_driver(settings.driver)
    check_destinations(settings)
    prepare(_demand(settings, driver))
    environment = describe_environment(driver.packages, settings.backend)
    run = Run(settings)
    with Progress(console, quiet=settings.quiet) as progress:
        report = anyio.run(_execute, run, driver, progress, backend=settings.backend)
    result = build_result(run, report, environment, words)
    found = failures(result)
    if not settings.quiet:
        console.print(render_summary(result, found))
    try:
        for path in write_result(result, settings):
            if not settings.quiet:
                console.print(f"written   {path}", markup=False)
    except OSError as error:
        raise Unwritable(f"the result could not be written: {error}; {save_elsewhere(result)}") from None
    return INTERRUPTED if run.is_interrupted else FAILED if found else OK


def check_destinations(settings: Settings) -> None:
    """Refused if the result could not be written in the end: better now than after an hour."""
    flag = "--output"
    try:
        if settings.output is not None:
            settings.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.output):
                pass
        flag = "--json"
        if settings.json not in (None, "-"):
            path = Path(settings.json)
            is_new = not path.exists()
            path.open("a").close()
            if is_new:
                path.unlink()
    except OSError as error:
        raise Refused(f"{flag}: the result could not be written there: {error}") from None


def write_result(result: dict[str, Any], settings: Settings) -> Iterator[Path]:
    """Writes the result wherever it was asked for, and tells each file written. OSError if that fails."""
    text = _as_json(result)
    if settings.json == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    elif settings.json:
        Path(settings.json).write_text(text, encoding="utf-8")
        yield Path(settings.json)
    if settings.output is not None:
        settings.output.mkdir(parents=True, exist_ok=True)
        for suffix, content in ((".json", text), (".svg", draw_chart(result))):
            path = settings.output / f"{result['run_id']}{suffix}"
            path.write_text(content, encoding="utf-8")
            yield path


def save_elsewhere(result: dict[str, Any]) -> str:
    """Writes the result into the temporary directory, lest an hour's work be lost, and says where it is."""
    path = Path(tempfile.gettempdir()) / f"loadtest-{result['run_id']}.json"
    try:
        path.write_text(_as_json(result), encoding="utf-8")
    except OSError as error:
        return f"nor into {path}: {error}"
    return f"it is in {path} instead"


def _as_json(result: dict[str, Any]) -> str:
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def _demand(settings: Settings, driver: Driver) -> Demand:
    return Demand(
        connections=settings.connections + settings.servers,
        destinations=max(1, len(settings.urls)),
        client_bytes=driver.client_bytes + (TLS_BYTES if any(url.startswith("amqps") for url in settings.urls) else 0),
        clients=settings.clients + settings.servers,
        has_private_node=not settings.urls,
    )


async def _execute(run: Run, driver: Driver, progress: Progress) -> Report:
    """The run inside its event loop. KeyboardInterrupt if it was interrupted before it began."""
    report: Report | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as tg:
        await tg.start(_heed_signals, run, tg.cancel_scope)
        try:
            async with _broker(run.settings, progress) as broker, driver.open() as session:
                meter = Meter(broker.process)
                conductor = Conductor(run, session, broker.urls, meter, progress, is_private=broker.is_private)
                report = conductor.report
                await conductor.conduct()
        except OSError as error:  # every failure to connect is one
            failure = Unreachable(f"no broker to test: {error}")
        except (NodeError, QueueRefused) as error:
            failure = error
        tg.cancel_scope.cancel()
    if failure is not None:  # raised here, it is in no group
        raise failure
    if report is None or not run.phases:
        raise KeyboardInterrupt
    return report


async def _heed_signals(run: Run, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if run.is_interrupted or not run.phases:
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
