"""`publish`: bodies from the command line or stdin, pipelined, each confirmed.

What must stay true: it ends when every message has its outcome, also when interrupted; the exit code is 0 only if all
of them were confirmed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, NamedTuple

from rabbitry import ChannelClosed, ClientPublisher, Confirmation, Message
from rabbitry._cli.messages import parse_properties, parse_record
from rabbitry._cli.output import FAILED, OK, USAGE, CommandError, Progress, as_json, plural, say
from rabbitry._cli.pipes import Reader
from rabbitry._cli.session import Session

MOST_TOLD = 10
"""Failures that are told one by one."""


class Outgoing(NamedTuple):
    """A message on its way, and its number: of its line, or of the repetition."""

    number: int
    message: Message
    exchange: str
    routing_key: str


class Tally:
    """What became of the messages."""

    def __init__(self, noun: str) -> None:
        self.published = 0
        self.outcomes = {"confirmed": 0, "nacked": 0, "unroutable": 0, "unknown": 0, "unsent": 0}
        self.is_hopeless = False
        self.noun = noun
        self._untold = 0

    def ended(self, confirmation: Confirmation) -> None:
        """Count a message that has its outcome, and tell of a failure."""
        self.outcomes[confirmation.outcome] += 1
        failure = confirmation.failure()
        if failure is None:
            return
        if isinstance(failure.__cause__, ChannelClosed):  # no such exchange, no permission: the next would fail as well
            self.is_hopeless = True
        if self.failed <= MOST_TOLD:
            say(f"{self.noun} {confirmation.tag}: {failure}")
        else:
            self._untold += 1

    @property
    def failed(self) -> int:
        """How many have another outcome than confirmed."""
        return sum(self.outcomes.values()) - self.outcomes["confirmed"]

    def summary(self) -> str:
        """What became of the messages, in words."""
        return f"{plural(self.published, 'message')} published: " + ", ".join(
            f"{count:,} {outcome}" for outcome, count in self.outcomes.items() if count or outcome == "confirmed"
        )

    def progress(self) -> str:
        """How far it is, in fewer words."""
        return f"{self.published:,} published, {self.outcomes['confirmed']:,} confirmed"

    def tell_rest(self) -> None:
        """Say how many failures were not told one by one."""
        if self._untold:
            say(f"and {plural(self._untold, 'failure')} more")


async def publish(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry publish`."""
    is_many = arguments.lines or arguments.json_lines
    if is_many and (arguments.body is not None or arguments.repeat > 1):
        raise CommandError("--lines and --json-lines read the messages from stdin: without BODY and --repeat", USAGE)
    if arguments.null and not is_many:
        raise CommandError("--null is for --lines and --json-lines", USAGE)
    given = parse_properties(arguments.property, arguments.header)
    Message(b"", **given).encoded_properties()  # refuses what can't be sent before anything is read
    body: bytes | None = None
    if not is_many:
        body = await _body(arguments, session)
        if session.is_interrupted:
            return OK
    tally = Tally("message" if body is not None else "line")
    progress = Progress(tally.progress)
    try:
        async with (
            session.open_client() as client,
            client.publisher(window=arguments.window, on_outcome=tally.ended) as publisher,
            aclosing(_messages(arguments, given, body)) as messages,
        ):
            failure: CommandError | None = None
            with session.interruptible():
                try:
                    await _submit(messages, publisher, tally, progress, is_mandatory=arguments.mandatory)
                except CommandError as error:  # of one message: those before it have their outcomes yet to come
                    failure = error
            with session.ending_by(partial(_tell_pending, publisher)):
                await publisher.flush()
            if failure is not None:
                raise failure
    finally:
        progress.clear()
        tally.tell_rest()
        _report(tally, arguments)
    return OK if tally.outcomes["confirmed"] == tally.published else FAILED


async def _submit(
    messages: AsyncGenerator[Outgoing, None],
    publisher: ClientPublisher,
    tally: Tally,
    progress: Progress,
    *,
    is_mandatory: bool,
) -> None:
    """Publish the messages, ahead of their confirms. CommandError for one that can't be sent."""
    async for number, message, exchange, routing_key in messages:
        try:
            await publisher.submit(
                message, exchange=exchange, routing_key=routing_key, mandatory=is_mandatory, tag=number
            )
        except (TypeError, ValueError) as error:
            raise CommandError(f"{tally.noun} {number}: {error}", USAGE) from None
        tally.published += 1
        progress.tick()
        if tally.is_hopeless:
            break


def _tell_pending(publisher: ClientPublisher) -> None:
    if publisher.pending and sys.stderr.isatty():
        say(f"interrupted: waiting for the outcome of {plural(publisher.pending, 'message')}, if you let it")


def _report(tally: Tally, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(as_json({"published": tally.published, **tally.outcomes}), flush=True)
    elif tally.failed or (tally.published > 1 and sys.stderr.isatty()):
        say(tally.summary())


async def _body(arguments: argparse.Namespace, session: Session) -> bytes:
    if arguments.body is not None:
        return os.fsencode(arguments.body)
    if sys.stdin is not None and sys.stdin.isatty():
        say("reading the body from the terminal, up to Ctrl-D")
    body = b""
    with session.interruptible():
        body = await Reader().read_all()
    return body


async def _messages(
    arguments: argparse.Namespace, given: Mapping[str, Any], body: bytes | None
) -> AsyncGenerator[Outgoing, None]:
    exchange, routing_key = arguments.exchange or "", arguments.routing_key or ""
    if body is not None:
        message = Message(body, **given)
        for number in range(1, arguments.repeat + 1):
            yield Outgoing(number, message, exchange, routing_key)
        return
    empty = Message(b"", **given)
    number = 0
    async with aclosing(Reader().lines(b"\0" if arguments.null else b"\n")) as lines:
        async for line in lines:
            number += 1
            if not arguments.json_lines:
                yield Outgoing(number, empty.replace(body=line), exchange, routing_key)
            elif line.strip():
                try:
                    message, its_exchange, its_key = parse_record(line, given)
                except (ValueError, RecursionError) as error:  # the second where it is nested too deeply
                    raise CommandError(f"line {number}: {error}", USAGE) from None
                yield Outgoing(
                    number,
                    message,
                    exchange if arguments.exchange is not None else its_exchange or "",
                    routing_key if arguments.routing_key is not None else its_key or "",
                )
