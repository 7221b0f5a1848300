"""`strategies`: the ways in which programs answer the C10K question, compared on a private node, or on a broker that is
there already.

Exit codes: 0 all cells are done (a strategy that was given up is a finding), 1 the result could not be written, 2 wrong
usage, 4 no broker, or none any more, 130 interrupted; the latter two with what there was by then. The result is written
before its findings are said.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import psutil

import rabbitry
from loadtest import units
from loadtest.analysis.strategies import build_strategies_result
from loadtest.commands.exits import FAILED, INTERRUPTED, NO_BROKER, OK, USAGE, Unreachable, Unwritable
from loadtest.commands.flags.broker import BROKER_HELP
from loadtest.commands.interrupts import held, interruptible
from loadtest.commands.parsing import Parser, duration, number, typed
from loadtest.commands.target import find_kind, tell_embedded
from loadtest.drivers import LIBRARIES, DriverMissing, load_driver
from loadtest.execution.state import name_run
from loadtest.machine.embedded import EmbeddedBroker
from loadtest.machine.environment import describe_broker, describe_environment
from loadtest.machine.preflight import ADMINISTRATION, Demand, Refused, prepare
from loadtest.output.console import Speaker, make_console, silence
from loadtest.output.files import DestinationRefused, check_destinations, save_elsewhere, write_whole
from loadtest.output.strategies import render_page
from loadtest.scenarios.brokers import AUTO, CHOICES, EMBEDDED, RABBITMQ, kind_of
from loadtest.scenarios.completing import refuse
from loadtest.scenarios.settings import STAMP_BYTES
from loadtest.strategies.ground import GivenGround, Ground, PrivateGround
from loadtest.strategies.table import STRATEGIES, describe_rule
from loadtest.strategies.tournament import Plan, Tournament
from loadtest.urls import is_amqp_url, redact, redact_in
from rabbitry.testing import NodeError, PrivateNode, RabbitMQNotFound

CLIENTS = "10,100,1000,10000"
MEMORY_SHARE = 0.5
"""Of the memory that is available at the start: what a cell's process may take, unless told."""
SPARE = 100
"""Connections that the node admits beside those of the clients: of the cell before, which are being closed."""


def main(arguments: Sequence[str]) -> int:
    """Compares the strategies that these arguments ask for; returns the exit code."""
    asked = _parse(arguments)
    errors = make_console(stderr=True)
    console = errors if asked.json == "-" else make_console()
    console.quiet = asked.quiet
    if asked.broker == AUTO and asked.url is None:
        asked.broker, missing = find_kind()
    else:
        missing = ""
    try:
        for name in asked.strategies:
            load_driver(STRATEGIES[name].driver)  # what is missing is said before all else
        check_destinations(asked.output, asked.json)
        most = max(asked.clients)
        prepare(
            Demand(
                connections=most,
                destinations=1,
                client_bytes=20_000,
                clients=most,
                own_broker=None if asked.url else asked.broker,
            )
        )
        for line in tell_embedded(missing) if asked.broker == EMBEDDED else ():
            console.print(line, markup=False, soft_wrap=True)
        with interruptible():
            return _run(asked, console, errors)
    except (DriverMissing, Refused, DestinationRefused) as error:
        code, text = USAGE, str(error)
    except (NodeError, RabbitMQNotFound, Unreachable) as error:
        code, text = NO_BROKER, str(error)
    except Unwritable as error:
        code, text = FAILED, str(error)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted before anything was measured"
    errors.print(f"loadtest strategies: {redact_in(text, arguments)}", markup=False, soft_wrap=True)
    return code


def make_parser() -> Parser:
    """The parser behind `--help`."""
    parser = Parser(
        prog="loadtest strategies",
        usage="python -m loadtest strategies [options]",
        description="Ways in which programs serve many clients, on the same work: rate, latency, memory, processor "
        "time of both ends, and where each of them can't go on.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = "numbers of clients, half of which publish and half consume (default %(default)s)"
    add("--clients", type=typed(_numbers), default=CLIENTS, metavar="N,N…", help=text)
    text = "some strategies only, by their names (--list-strategies)"
    add("--strategies", type=typed(_names), default=",".join(STRATEGIES), metavar="A,B…", help=text)
    text = "a running broker, on whose virtual host each trial has queues of its own, which are deleted afterwards "
    text += "(default: a private node, started for it, with a virtual host for each trial, or the embedded broker)"
    add("--url", help=text)
    add("--broker", choices=CHOICES, default=AUTO, help=BROKER_HELP)
    add("--list-strategies", action="store_true", help="say what strategies there are, and end")
    add("--repeat", **number(), default=3, help="trials of each (default %(default)s)")
    add("--duration", **duration("how long to measure each", 6.0, positive=True))
    add("--warmup", **duration("how long to run each before measuring", 1.0))
    add("--size", type=typed(units.parse_size), metavar="BYTES", default=128, help="body size (default %(default)s)")
    text = "messages in flight for each consumer, 0 is unlimited (default %(default)s)"
    add("--prefetch", **number(least=0, most=65535), default=100, help=text)
    text = "what a strategy's process may take (default: half of what is available)"
    add("--memory", type=typed(units.parse_size), metavar="BYTES", help=text)
    add("--seed", **number(least=0), help="of the order (default: a new one, in the result)")
    add("--output", type=Path, metavar="DIR", help="write the result there as JSON, and a page about it in Markdown")
    add("--json", metavar="FILE", help="write the result as JSON; - is the standard output")
    add("--quiet", action="store_true", help="say nothing")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = make_parser()
    parser.words = tuple(arguments)
    asked = parser.parse_args(arguments)
    if asked.list_strategies:
        for name, strategy in STRATEGIES.items():
            sys.stdout.write(f"{name:<24} {strategy.title}\n")
        parser.exit()
    try:
        refuse(asked.size < STAMP_BYTES, f"--size {asked.size}: each message carries {STAMP_BYTES} bytes of its own")
        refuse(asked.json == "", "--json is empty")
        refuse(
            asked.broker == EMBEDDED and asked.url is not None,
            "--broker embedded starts a broker of its own: leave out --url",
        )
        refuse(
            asked.url is not None and not is_amqp_url(asked.url),
            f"{redact(asked.url or '')!r} is no AMQP URL (amqp://user:password@host:port/vhost)",
        )
    except ValueError as error:
        parser.error(str(error))
    if asked.seed is None:
        asked.seed = secrets.randbelow(2**32)
    if asked.memory is None:
        asked.memory = int(psutil.virtual_memory().available * MEMORY_SHARE)
    return asked


def _numbers(text: str) -> list[int]:
    found = sorted({units.parse_count(part) for part in text.split(",")})
    refuse(found[0] < 2, f"{found[0]} is less than 2: one publishes, one consumes")
    return found


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        refuse(name not in STRATEGIES, f"{name!r} is none of {', '.join(STRATEGIES)}")
    return names


@dataclass(slots=True)
class _Played:
    """A tournament, and how it ended."""

    tournament: Tournament
    broker: dict[str, Any]
    """What the broker says of itself."""
    code: int = OK
    ended_by: str | None = None
    """Why the broker does not go on, if that is so."""


def _run(asked: argparse.Namespace, console: Speaker, errors: Speaker) -> int:
    plan = _make_plan(asked)
    started, rule = datetime.now(UTC), describe_rule(plan.memory_bound)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    cells = sum(map(len, plan.orders()))
    say(f"{cells} cells, about {units.format_duration(plan.estimate())}. {rule}")
    packages = [package for name in plan.strategies for package in LIBRARIES[STRATEGIES[name].driver].packages]
    environment = describe_environment(packages, "asyncio")
    with held() as hold:
        with _open_ground(asked, plan, started, say) as ground:
            played = _play(asked, Tournament(plan, ground, say))
            hold.begin()  # from here on nothing is to be lost, however long the broker takes to end
        result = _make_result(played, started, rule, environment)
        name = f"strategies-{started:%Y%m%dT%H%M%SZ}"
        written, failure = _write(result, asked, name)
        for path in written:
            say(f"written   {path}")
        elsewhere = "" if failure is None else save_elsewhere(result, name)
    for finding in result["findings"]:
        say(finding)
    if played.ended_by is not None:
        done = len(played.tournament.cells)
        text = f"only {done} of {cells} cells were done, as the broker does not go on: {played.ended_by}"
        errors.print(f"loadtest strategies: {text}", markup=False, soft_wrap=True)
    if failure is not None:
        raise Unwritable(f"the result could not be written: {failure}; {elsewhere}")
    return played.code


def _make_plan(asked: argparse.Namespace) -> Plan:
    return Plan(
        strategies=asked.strategies,
        clients=asked.clients,
        trials=asked.repeat,
        seconds=asked.duration,
        warmup=asked.warmup,
        size=asked.size,
        prefetch=asked.prefetch,
        memory_bound=asked.memory,
        seed=asked.seed,
    )


def _play(asked: argparse.Namespace, tournament: Tournament) -> _Played:
    """All cells, or those that there were until it was interrupted or the broker was gone. Unreachable if there is no
    broker, or none after which there is a cell.
    """
    url = tournament.ground.url
    try:
        server_properties = anyio.run(_ask_broker, url)
    except (rabbitry.RabbitryError, OSError) as error:
        raise Unreachable(f"no broker to test: {error}") from error
    if asked.broker == RABBITMQ and kind_of(server_properties) != RABBITMQ:
        raise Unreachable(f"--broker rabbitmq: what answers at {redact(url)} is none")
    played = _Played(tournament, describe_broker(server_properties, is_private=asked.url is None))
    try:
        tournament.run()
    except KeyboardInterrupt:
        played.code = INTERRUPTED
    except (rabbitry.RabbitryError, OSError, NodeError, subprocess.TimeoutExpired) as error:
        played.code, played.ended_by = NO_BROKER, redact_in(str(error) or repr(error), (url,))
        if not tournament.cells:
            raise Unreachable(played.ended_by) from None
    return played


def _make_result(played: _Played, started: datetime, rule: str, environment: dict[str, Any]) -> dict[str, Any]:
    tournament, plan = played.tournament, played.tournament.plan
    return build_strategies_result(
        started_at=started.isoformat(timespec="seconds"),
        plan={
            "clients": plan.clients,
            "trials": plan.trials,
            "seconds": plan.seconds,
            "warmup": plan.warmup,
            "size": plan.size,
            "prefetch": plan.prefetch,
            "memory_bound_bytes": plan.memory_bound,
            "seed": plan.seed,
        },
        rule=rule,
        strategies={name: _describe(name) for name in plan.strategies},
        environment=environment,
        broker=played.broker,
        cells=tournament.cells,
        not_tried=tournament.not_tried,
        is_finished=played.code == OK,
    )


@contextmanager
def _open_ground(
    asked: argparse.Namespace, plan: Plan, started: datetime, say: Callable[[str], None]
) -> Iterator[Ground]:
    """The broker that was named, or one of our own for as long as the block lasts."""
    if asked.url is not None:
        say(f"target    {redact(asked.url)}")
        yield GivenGround(asked.url, name_run(started))
        return
    if asked.broker == EMBEDDED:
        say("starting the embedded broker")
        with EmbeddedBroker(connections=max(plan.clients) + SPARE) as broker:
            yield GivenGround(broker.url, name_run(started))
        return
    say("starting a private RabbitMQ node")
    with PrivateNode(connections=max(plan.clients) + SPARE + ADMINISTRATION) as node:
        yield PrivateGround(node)


def _describe(name: str) -> dict[str, str]:
    strategy = STRATEGIES[name]
    return {
        "title": strategy.title,
        "driver": strategy.driver,
        "way": strategy.way.value,
        "source": strategy.source,
    }


async def _ask_broker(url: str) -> dict[str, Any]:
    async with rabbitry.connect(url) as connection:
        return dict(connection.server_properties)


def _write(result: dict[str, Any], asked: argparse.Namespace, name: str) -> tuple[list[Path], OSError | None]:
    """Writes the result wherever it was asked for; returns the files written, and what went wrong first."""
    text, written, errors = json.dumps(result, indent=1) + "\n", list[Path](), list[OSError]()
    files: dict[Path, str] = {}
    if asked.output is not None:
        files = {asked.output / f"{name}.json": text, asked.output / f"{name}.md": render_page(result)}
    if asked.json not in (None, "-"):
        files[Path(asked.json)] = text
    for path, content in files.items():
        try:
            write_whole(path, content)
            written.append(path)
        except OSError as error:
            errors.append(error)
    if asked.json == "-":
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            silence(sys.stdout)
            errors.append(error)
    return written, next(iter(errors), None)
