"""`python -m loadtest worker`: one of several processes that make a run, wherever it is. It says what it may load."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from loadtest import units
from loadtest.commands.exits import FAILED, INCOMPLETE, INTERRUPTED, NO_BROKER, OK, USAGE
from loadtest.commands.interrupts import ending_signals
from loadtest.commands.joining import CONTROL, TARGETS, TOKEN, make_seal, read_token
from loadtest.commands.parsing import Parser, duration, typed
from loadtest.drivers import BACKENDS, DriverMissing, event_loop
from loadtest.fleet.bus import NoBus, coordinators_address, open_bus
from loadtest.fleet.leadership import CoordinatorGone, TurnedDown
from loadtest.fleet.messages import FROM_COORDINATOR, Challenge
from loadtest.fleet.seal import Seal
from loadtest.fleet.worker import Terms, Worker
from loadtest.output.console import make_console
from loadtest.units import format_text
from loadtest.urls import is_amqp_url, redact, redact_in

WAIT = 60.0


@dataclass(frozen=True, slots=True)
class _Options:
    terms: Terms
    seal: Seal
    control_url: str
    is_quiet: bool


def make_parser() -> Parser:
    """The parser behind `worker --help`."""
    parser = Parser(
        prog="loadtest worker",
        usage="python -m loadtest worker --url URL [options]",
        description="Joins a coordinator (python -m loadtest --workers N) and makes its share of the load. It loads "
        "the brokers named here and no others.",
        epilog="Exit codes: 0 the run is over, 1 this worker failed in it, 2 wrong usage, or there was no run with it, "
        "4 no broker, 5 the coordinator is gone (what was measured is in a file: python -m loadtest merge), 130 "
        "interrupted.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = f"the broker to load, and to be led over unless --control-url is another (repeatable; or ${TARGETS})"
    add("--url", action="append", default=[], help=text)
    text = "a further broker that may be loaded (repeatable)"
    add("--allow-target", action="append", default=[], metavar="URL", help=text)
    text = "messages and calls a second, at most: a run that asks this worker for more is refused, a closed loop too"
    add("--max-rate", type=typed(units.parse_rate), metavar="N", help=text)
    add("--control-url", metavar="URL", help=f"the broker over which the coordinator leads (or ${CONTROL})")
    text = f"the join token, which the coordinator has, too: a file (or ${TOKEN})"
    add("--token-file", type=Path, metavar="FILE", help=text)
    text = "the event loop; the run must ask for the same (default %(default)s)"
    add("--backend", choices=BACKENDS, default="asyncio", help=text)
    add("--name", default=socket.gethostname(), help="how it is called in the result (default: this host's name)")
    text = "write what was measured here, too (default: the working directory)"
    add("--output", type=Path, metavar="DIR", help=text)
    add("--wait", **duration("how long to wait for a coordinator, and for the run to begin", WAIT, positive=True))
    add("--quiet", action="store_true", help="say nothing but errors, and write a file only where --output says")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Works until the run is over; returns the exit code."""
    options = _parse(arguments, os.environ)
    logging.basicConfig(handlers=[logging.NullHandler()])
    console = make_console(stderr=True)

    def say(text: str) -> None:
        if not options.is_quiet:
            console.print(f"loadtest worker: {text}", markup=False, soft_wrap=True)

    try:
        return anyio.run(_work, options, say, **event_loop(options.terms.backend))
    except (TurnedDown, DriverMissing) as error:
        code, text = USAGE, str(error)
    except CoordinatorGone as error:
        code, text = INCOMPLETE, str(error)
    except NoBus as error:
        code, text = NO_BROKER, f"no control broker: {error}"
    except KeyboardInterrupt:
        return INTERRUPTED
    secrets_ = (*options.terms.urls, options.control_url)
    console.print(f"loadtest worker: {format_text(redact_in(text, secrets_))}", markup=False, soft_wrap=True)
    return code


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> _Options:
    parser = make_parser()
    parser.words = (*arguments, environment.get(CONTROL, ""), environment.get(TARGETS, ""))
    given = parser.parse_args(arguments)
    urls = [*(given.url or environment.get(TARGETS, "").split()), *given.allow_target]
    control = given.control_url or environment.get(CONTROL) or (given.url[0] if given.url else None)
    try:
        if not urls:
            raise ValueError(f"--url is missing: the broker to load (or ${TARGETS})")
        if control is None:
            raise ValueError(f"--control-url is missing: the broker over which the coordinator leads (or ${CONTROL})")
        for url in (*urls, control):
            if not is_amqp_url(url):
                raise ValueError(f"{redact(url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)")
        token = read_token(given.token_file, environment)
        if token is None:
            raise ValueError(f"the join token is missing: set ${TOKEN}, or --token-file; the coordinator tells it")
        seal = make_seal(token)
    except ValueError as error:
        parser.error(str(error))
    terms = Terms(
        urls=urls,
        max_rate=given.max_rate,
        backend=given.backend,
        name=given.name[:100],
        directory=given.output if given.quiet else given.output or Path(),
        wait=given.wait,
    )
    return _Options(terms, seal, control, given.quiet)


async def _work(options: _Options, say: Callable[[str], None]) -> int:
    """The worker inside its event loop. What it raises is in no group."""
    seal, failure = options.seal, None
    leader = coordinators_address(seal)
    address = f"{leader}.{secrets.token_hex(8)}"
    worker: Worker | None = None
    async with anyio.create_task_group() as tg:
        try:
            async with open_bus(
                options.control_url,
                seal,
                me=secrets.token_hex(16),
                address=address,
                session="",
                greeting=Challenge,
                kinds=FROM_COORDINATOR,
                name="loadtest worker",
            ) as bus:
                worker = Worker(options.terms, bus, seal, address, say)
                await tg.start(_heed_signals, worker, tg.cancel_scope)
                tg.start_soon(worker.lead.listen)
                tg.start_soon(worker.keep_in_touch)
                tg.start_soon(worker.lead.keep_watch, tg.cancel_scope.cancel)
                say("waiting for a coordinator")
                await worker.work(leader)
        except (TurnedDown, CoordinatorGone, NoBus) as error:
            failure = error
        tg.cancel_scope.cancel()
    if worker is None:
        assert failure is not None
        raise failure
    if failure is None and worker.lead.gone and not worker.is_done:
        failure = CoordinatorGone(worker.lead.gone)  # (it was ended at the deadline, by force)
        worker.keep()
    if worker.written is not None:
        say(f"what was measured here is in {worker.written}")
    if worker.unwritten:
        say(f"what was measured here could not be written: {worker.unwritten}")
    if worker.is_interrupted:
        return INTERRUPTED
    if failure is not None:
        raise failure
    return OK if not worker.lead.leaving else FAILED


async def _heed_signals(worker: Worker, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(*ending_signals()) as signals:
        task_status.started()
        async for _ in signals:
            if worker.is_interrupted:
                scope.cancel()
            worker.interrupt()
