"""`clean`: removes the queues and exchanges that broken runs have left on a broker.

They are known by their names, which begin with ``loadtest.`` and the run's own name, and where several workloads ran at
once, the workload's. AMQP doesn't list queues, so either the management API does (`--management`), or the runs are
named, by their result files or their names. What still has consumers belongs to a run that goes on and stays, and
nothing is removed before it was shown and agreed to. (A stream's consumers are told by the management API alone.)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread

import rabbitry
from loadtest.commands.exits import FAILED, INTERRUPTED, NO_BROKER, OK, USAGE
from loadtest.commands.parsing import Parser
from loadtest.machine.management import Management, ManagementFailed
from loadtest.output.console import make_console
from loadtest.output.reading import read_json
from loadtest.scenarios.completing import refuse
from loadtest.units import format_text
from loadtest.urls import is_amqp_url, redact, redact_in

RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
"""The name of a run."""
PART = re.compile(RUN.pattern + r"(\.[\w-]{1,40})?")
"""The name of a run, or of one of its workloads."""
PREFIX = "loadtest."
LEFT = re.compile(re.escape(PREFIX) + RUN.pattern + r"\..+")
"""The name of a queue or an exchange that belongs to one."""
AWAY = "down or inaccessible"
"""What RabbitMQ says of a queue that is on a node that is not there, with the code of one that does not exist."""
MISSES = 3
"""Numbers in a row without a queue after which a run has no further ones: `rpc.0` follows where `0` is missing."""
NAME = "loadtest clean"
"""What the broker lists the connections as."""
PATIENCE = 30.0
"""Seconds that the broker may take for each answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that a run has left."""

    kind: str
    name: str
    messages: int | None = None
    consumers: int = 0
    is_away: bool = False
    """Whether it is on a node of the cluster that can't be reached, and so can't be removed now."""

    @property
    def why_it_stays(self) -> str:
        """Why it can't be removed; empty if it can."""
        if self.is_away:
            return "its node is down, it stays until that is back"
        return f"{self.consumers} consumers: in use, it stays" if self.consumers else ""


def main(arguments: Sequence[str]) -> int:
    """Cleans what these arguments name; returns the exit code."""
    parser = _make_parser()
    parser.words = arguments
    asked = parser.parse_args(arguments)
    console = make_console(stderr=True)
    try:
        runs = [run for text in asked.run for run in _read_runs(text)]
        refuse(
            not is_amqp_url(asked.url), f"{redact(asked.url)!r} is no AMQP URL (amqp://user:password@host:port/vhost)"
        )
        refuse(not (runs or asked.management), "say which runs (result files, or their names), or --management URL")
        return _clean(anyio.run(_find_all, asked, runs), asked)
    except (ManagementFailed, rabbitry.RabbitryError, ConnectionError, TimeoutError) as error:
        code, text = NO_BROKER, str(error) or f"the broker did not answer within {PATIENCE:g} s"
    except (ValueError, OSError) as error:
        code, text = USAGE, str(error)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted: what was removed is gone, the rest is there"
    console.print(f"loadtest clean: {format_text(redact_in(text, arguments))}", markup=False, soft_wrap=True)
    return code


def _make_parser() -> Parser:
    parser = Parser(
        prog="loadtest clean",
        usage="python -m loadtest clean --url URL [--management URL] [RUN...]",
        description="Remove the queues and exchanges that broken load tests left in a virtual host.",
        epilog="Exit codes: 0 nothing is left, 1 something is (it has consumers, or was refused), 2 wrong usage or not "
        "agreed to, 4 no broker.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    text = "result files, or names of runs such as 20261130T101500Z-a1b2c3, or of one workload's such as "
    add("run", nargs="*", metavar="RUN", help=f"{text}20261130T101500Z-a1b2c3.steady")
    add("--url", required=True, help="the broker, with the virtual host")
    add("--management", metavar="URL", help="its management API, which lists what all runs have left")
    add("--dry-run", action="store_true", help="only say what would be removed")
    add("--yes", action="store_true", help="remove it without asking")
    return parser


def _read_runs(text: str) -> list[str]:
    """The names of the runs in a result file, and of their workloads; or the one that was given."""
    if PART.fullmatch(text):
        return [text]
    refuse(not Path(text).exists(), f"{text!r} is neither a file nor the name of a run")
    try:
        result = read_json(Path(text))
        workloads = [str(each["name"]) for each in result.get("workloads") or ()]
        runs = [str(each["run_id"]) for each in (result, *(result.get("trials") or ()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{text!r}: this is no result") from None
    runs += [f"{run}.{workload}" for run in runs for workload in workloads]
    refuse(not all(map(PART.fullmatch, runs)), f"{text!r}: this is no result")
    return list(dict.fromkeys(runs))


def _clean(found: Sequence[Found], asked: argparse.Namespace) -> int:
    """Shows what was found, has it agreed to, and removes what nobody uses. No connection waits for an answer."""
    console = make_console()

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    for each in found:
        amount = "" if each.messages is None else f", {each.messages:,} messages"
        stays = f", {each.why_it_stays}" if each.why_it_stays else ""
        say(f"{each.kind} {format_text(each.name)}{amount}{stays}")
    idle = [each for each in found if not each.why_it_stays]
    if not found and asked.management is None:
        say("nothing has these names; --management URL finds what others there may be, such as of workloads")
    if not idle or asked.dry_run:
        away = sum(each.is_away for each in found)
        rest = f", {away} not reached" if away else ""
        say(f"{len(idle)} to remove, {len(found) - len(idle) - away} in use{rest}")
        return OK if not found else FAILED
    if not asked.yes and not _agree(len(idle)):
        return USAGE
    removed = anyio.run(_remove_all, asked.url, idle, say)
    say(f"{removed} removed, {len(found) - removed} left")
    return OK if removed == len(found) else FAILED


def _agree(number: int) -> bool:
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        sys.stderr.write(f"loadtest clean: say --yes to remove these {number}\n")
        return False
    sys.stderr.write(f"loadtest clean: remove these {number}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- finding and removing -----------------------------------------------------------------------------------------


async def _find_all(asked: argparse.Namespace, runs: Sequence[str]) -> list[Found]:
    async with rabbitry.connect(asked.url, name=NAME) as connection:
        return [each async for each in _find(connection, asked, runs)]


async def _find(
    connection: rabbitry.Connection, asked: argparse.Namespace, runs: Sequence[str]
) -> AsyncIterator[Found]:
    """What the runs have left, or with a management API and no runs, what any run has."""
    if asked.management is None:
        for run in runs:
            async for each in _probe(connection, run):
                yield each
        return
    source, vhost = Management(asked.management), unquote(urlsplit(asked.url).path[1:]) or "/"
    for kind in ("queue", "exchange"):
        for name, consumers in await anyio.to_thread.run_sync(source.names, f"{kind}s", vhost, PREFIX):
            is_asked = not runs or any(name.startswith(f"{PREFIX}{run}.") for run in runs)
            if LEFT.fullmatch(name) and is_asked:
                seen = await _look(connection, name) if kind == "queue" else None
                # (of a stream's consumers AMQP tells nothing)
                if seen is None:
                    yield Found(kind, name, consumers=consumers)
                else:
                    yield replace(seen, consumers=max(consumers, seen.consumers))


async def _probe(connection: rabbitry.Connection, run: str) -> AsyncIterator[Found]:
    """What there is under the names that a run gives, which are numbered."""
    for prefix in (f"loadtest.{run}.", f"loadtest.{run}.rpc."):
        missed = number = 0
        while missed < MISSES:
            found = await _look(connection, f"{prefix}{number}")
            missed, number = (missed + 1 if found is None else 0), number + 1
            if found is not None:
                yield found
    exchange = f"loadtest.{run}.exchange"
    try:
        with anyio.fail_after(PATIENCE):
            async with connection.channel(confirm=False) as channel:
                await channel.declare_exchange(exchange, passive=True)
    except rabbitry.NotFound:
        return
    yield Found("exchange", exchange)


async def _look(connection: rabbitry.Connection, name: str) -> Found | None:
    """The queue of that name, if there is one."""
    try:
        with anyio.fail_after(PATIENCE):
            async with connection.channel(confirm=False) as channel:
                queue = await channel.declare_queue(name, passive=True)
    except rabbitry.NotFound as error:
        return Found("queue", name, is_away=True) if AWAY in str(error) else None
    return Found("queue", name, queue.message_count, queue.consumer_count)


async def _remove_all(url: str, idle: Sequence[Found], say: Callable[[str], None]) -> int:
    """Removes them, and says why one stays; returns how many were removed."""
    removed = 0
    async with rabbitry.connect(url, name=NAME) as connection:
        for each in reversed(idle):  # if this is interrupted, what is left is numbered from 0, as it is looked for
            refusal = await _remove(connection, each)
            removed += not refusal
            if refusal:
                say(f"{each.kind} {format_text(each.name)} stays: {format_text(refusal)}")
    return removed


async def _remove(connection: rabbitry.Connection, found: Found) -> str:
    """Removes it; returns why it stays, or nothing.

    Whoever began to consume a queue since it was looked at keeps it. (RabbitMQ would look by itself, by `if_unused`,
    but closes the whole connection over it where the queue is a quorum one.)
    """
    try:
        with anyio.fail_after(PATIENCE):
            async with connection.channel(confirm=False) as channel:
                if found.kind == "exchange":
                    await channel.delete_exchange(found.name)
                elif (await channel.declare_queue(found.name, passive=True)).consumer_count:
                    return "somebody consumes it now"
                else:
                    await channel.delete_queue(found.name)
    except rabbitry.ChannelClosed as error:
        if not isinstance(error, rabbitry.NotFound) or AWAY in str(error):  # or somebody else was quicker
            return str(error)
    return ""
