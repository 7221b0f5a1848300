"""`publish`: bodies from the command line or stdin, pipelined, each confirmed.

What must stay true: it ends when every message has its outcome, also when interrupted; the exit code is 0 only if all
of them were confirmed. Whoever filled the pipe behind stdin may have forgotten what was read: so a message that the
broker refuses, or a line that is no message, ends nothing and takes no other message with it; what is of unknown
outcome is sent again, and counted; and where all would fail, that shows before any is read, or at the first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from rabbitry import AccessRefused, Client, ClientPublisher, Message, ResourceLocked
from rabbitry._cli.messages import parse_properties, parse_record, record_of
from rabbitry._cli.output import OK, USAGE, CommandError, Progress, as_json, plural, say
from rabbitry._cli.pipes import Reader
from rabbitry._cli.session import Session
from rabbitry._cli.tally import Tally


class Outgoing(NamedTuple):
    """A message on its way, and its number: of its line, or of the repetition."""

    number: int
    message: Message
    exchange: str
    routing_key: str


async def publish(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry publish`."""
    is_many = arguments.lines or arguments.json_lines
    if is_many and (arguments.body is not None or arguments.repeat > 1):
        raise CommandError("--lines and --json-lines read the messages from stdin: without BODY and --repeat", USAGE)
    if arguments.null and not is_many:
        raise CommandError("--null is for --lines and --json-lines", USAGE)
    given = parse_properties(arguments.property, arguments.header)
    Message(b"", **given).encoded_properties()  # refuses what can't be sent before anything is read
    bodies: list[bytes] = []
    if not is_many:
        bodies = await _bodies(arguments, session)
        if session.is_interrupted:
            say("interrupted: nothing was published")
            return OK
    is_one_exchange = not arguments.json_lines or arguments.exchange is not None
    source = Source(arguments, given, bodies)
    is_one_route = arguments.lines or (arguments.json_lines and arguments.routing_key is not None)
    tally = Tally(
        "line" if is_many else "message",
        is_one_exchange=is_one_exchange,
        is_one_route=is_one_route and source.is_piped and arguments.failed is None,
    )
    progress = Progress(tally.progress)
    with _failed_file(arguments.failed) as tally.failed_file:
        try:
            async with session.open_client() as client:
                if is_many:  # what is read from a pipe may be in no queue any more
                    await _check_destination(client, arguments, is_piped=source.is_piped)
                async with client.publisher(
                    window=arguments.window, on_outcome=tally.ended, on_unknown="republish"
                ) as publisher:
                    try:
                        with session.ending_by(partial(_end, source, publisher)):
                            await _submit(source, publisher, tally, progress, is_mandatory=arguments.mandatory)
                            await publisher.flush()
                    finally:
                        source.leave(tally)
                        tally.republished = publisher.republished
        finally:
            progress.clear()
            tally.tell_rest()
            _report(tally, arguments, session)
    return tally.code


async def _check_destination(client: Client, arguments: argparse.Namespace, *, is_piped: bool) -> None:
    """Refuse a place for all lines that there is not. Of a file the failures tell, and it still has the lines."""
    if arguments.exchange:
        async with client.channel(confirm=False) as channel:
            await channel.declare_exchange(arguments.exchange, passive=True)
        return
    is_one_queue = arguments.routing_key and (arguments.lines or arguments.exchange is not None)
    if is_one_queue and is_piped and arguments.mandatory and arguments.failed is None:
        with suppress(AccessRefused, ResourceLocked):  # it may be published to all the same
            if await client.inspect(arguments.routing_key) is None:
                raise CommandError(f"there is no queue {arguments.routing_key!r}: nothing was read")


@contextmanager
def _failed_file(name: str | None) -> Iterator[BinaryIO | None]:
    if name is None:
        yield None
        return
    try:
        file = open(name, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise CommandError(f"--failed {name}: {error.strerror}", USAGE) from None
    with file:
        yield file


async def _submit(
    source: Source, publisher: ClientPublisher, tally: Tally, progress: Progress, *, is_mandatory: bool
) -> None:
    """Publish the messages, ahead of their confirms, but for the first one."""
    async with aclosing(source.messages(tally)) as messages:
        async for number, message, exchange, routing_key in messages:
            try:
                await publisher.submit(
                    message, exchange=exchange, routing_key=routing_key, mandatory=is_mandatory, tag=number
                )
            except (ValueError, TypeError) as error:
                tally.is_no_message(number, error, _line(message, exchange, routing_key))
                continue
            except BaseException:  # of the client, or the second signal
                tally.leave(_line(message, exchange, routing_key))
                raise
            tally.published += 1
            progress.tick()
            if tally.published == 1:
                await publisher.flush()
            if tally.is_hopeless:
                break


def _line(message: Message, exchange: str, routing_key: str) -> bytes:
    return as_json(record_of(message, exchange, routing_key)).encode()


def _end(source: Source, publisher: ClientPublisher) -> None:
    """Read no more, and wait for what was read."""
    source.stop()
    _tell_pending(publisher)


def _tell_pending(publisher: ClientPublisher) -> None:
    if publisher.pending and sys.stderr.isatty():
        say(f"interrupted: waiting for the outcome of {plural(publisher.pending, 'message')}, if you let it")


def _report(tally: Tally, arguments: argparse.Namespace, session: Session) -> None:
    if arguments.json:
        print(as_json(tally.record()), flush=True)
    elif session.is_interrupted:
        say(f"interrupted: {tally.summary()}")
    elif tally.code or tally.republished or (tally.published > 1 and sys.stderr.isatty()):
        say(tally.summary())


async def _bodies(arguments: argparse.Namespace, session: Session) -> list[bytes]:
    if arguments.body is not None:
        return [os.fsencode(body) for body in (arguments.body, *arguments.more)]
    if sys.stdin is not None and sys.stdin.isatty():
        say("reading the body from the terminal, up to Ctrl-D")
    body = b""
    with session.interruptible():
        body = await Reader().read_all()
    return [body]


class Source:
    """Where the messages come from: the command line, or lines of stdin."""

    def __init__(self, arguments: argparse.Namespace, given: Mapping[str, Any], bodies: Sequence[bytes]) -> None:
        self._arguments = arguments
        self._given = given
        self._bodies = bodies
        self._exchange, self._routing_key = arguments.exchange or "", arguments.routing_key or ""
        self._reader = None if bodies else Reader()
        self.is_piped = self._reader is not None and self._reader.is_pipe
        self._empty = Message(b"", **given)
        self._is_stopped = False

    def stop(self) -> None:
        """Read no more lines; those that were read still come, as a pipe's writer takes them for published."""
        self._is_stopped = True
        if self._reader is not None:
            self._reader.stop()

    async def messages(self, tally: Tally) -> AsyncGenerator[Outgoing, None]:
        """All of them, in order; of lines that are none the tally is told."""
        exchange, routing_key = self._exchange, self._routing_key
        if self._reader is None:
            messages = [Message(body, **self._given) for body in self._bodies]
            for number in range(self._arguments.repeat * len(messages)):
                if self._is_stopped:
                    return
                yield Outgoing(number + 1, messages[number % len(messages)], exchange, routing_key)
            return
        number = 0
        async with aclosing(self._reader.lines(b"\0" if self._arguments.null else b"\n")) as lines:
            async for line in lines:
                number += 1
                if not self._arguments.json_lines:
                    yield Outgoing(number, self._empty.replace(body=line), exchange, routing_key)
                elif line.strip():
                    try:
                        outgoing = self._parsed(number, line, exchange, routing_key)
                    except (ValueError, TypeError, RecursionError) as error:  # the last where it is nested too deeply
                        tally.is_no_message(number, error, line)
                    else:
                        yield outgoing

    def leave(self, tally: Tally) -> None:
        """Give up what was read and is yet to come."""
        for line in self._reader.waiting if self._reader is not None else ():
            if self._arguments.lines:
                line = _line(self._empty.replace(body=line), self._exchange, self._routing_key)
            tally.leave(line)

    def _parsed(self, number: int, line: bytes, exchange: str, routing_key: str) -> Outgoing:
        message, its_exchange, its_key = parse_record(line, self._given)
        return Outgoing(
            number,
            message,
            exchange if self._arguments.exchange is not None else its_exchange or "",
            routing_key if self._arguments.routing_key is not None else its_key or "",
        )
