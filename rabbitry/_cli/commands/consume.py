"""`consume` and `get`: from a queue to stdout.

What must stay true: a message is acknowledged when all its bytes were written, and goes back otherwise, also when this
is interrupted, the pipe breaks or its reader stalls.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import anyio

from rabbitry import Binding, Delivery, Queue, StaleDelivery, Subscription
from rabbitry._cli.messages import as_record
from rabbitry._cli.output import FAILED, OK, USAGE, CommandError, Progress, as_json, plural, say
from rabbitry._cli.pipes import Writer
from rabbitry._cli.session import Session

LARGEST_BATCH = 500
UNLIMITED = 65535
"""The largest prefetch that can be said; beyond it there is 0, which is no limit."""


class Printer:
    """Writes deliveries to stdout, and settles those that were written."""

    def __init__(self, arguments: argparse.Namespace, *, end: bytes | None) -> None:
        """`end` follows each body, unless the flags say what does; None: nothing, but on a terminal."""
        self._writer = Writer()
        if end is None:
            end = b"\n" if self._writer.is_terminal else b""
        self._as_json: bool = arguments.json
        self._settles = not (arguments.requeue or arguments.no_ack)
        self._end = b"\0" if arguments.null else b"" if arguments.bare else end
        self.count = 0

    async def print(self, deliveries: Sequence[Delivery]) -> None:
        """Write the deliveries. What cancels this leaves unsettled what was not written whole."""
        ends: list[int] = []
        data = bytearray()
        for delivery in deliveries:
            data += self._encoded(delivery)
            ends.append(len(data))
        began = self._writer.written
        try:
            await self._writer.write(bytes(data))
        finally:
            done = sum(end <= self._writer.written - began for end in ends)
            self.count += done
            if self._settles:
                _ack(deliveries[:done])

    def _encoded(self, delivery: Delivery) -> bytes:
        if self._as_json:
            return as_json(as_record(delivery)).encode() + b"\n"
        return self._writer.shown(delivery.body) + self._end

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks on."""
        return self._writer.is_terminal


def _ack(deliveries: Sequence[Delivery]) -> None:
    stale = 0
    for delivery in deliveries:
        try:
            delivery.ack()
        except StaleDelivery:
            stale += 1
    if stale:
        say(f"the connection was lost: {plural(stale, 'message')} written before will come again")


# --- consume --------------------------------------------------------------------------------------------------------


async def consume(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry consume`."""
    _check(arguments)
    printer = Printer(arguments, end=b"\n")
    progress = Progress(lambda: f"{printer.count:,} messages")
    wanted = arguments.count or math.inf
    async with session.open_client() as client:
        queue: str | Queue = arguments.queue
        if arguments.exchange is not None:
            queue = Queue.temporary()
            bindings = [Binding(queue, arguments.exchange, key) for key in arguments.routing_key or [""]]
            await client.declare(queue, *bindings)
        deliveries = client.consume(
            queue,
            prefetch=_prefetch(arguments),
            no_ack=arguments.no_ack,
            exclusive=arguments.exclusive,
            offset=_offset(arguments.offset),
        )
        try:
            with session.interruptible():
                async with deliveries:
                    while printer.count < wanted:
                        batch = await _next(deliveries, arguments, wanted - printer.count)
                        if not batch:
                            break
                        if printer.count + len(batch) >= wanted:
                            deliveries.stop()  # ahead of the acknowledgements, which would bring more
                        await printer.print(batch)
                        if not printer.is_terminal:
                            progress.tick()
        finally:
            progress.clear()
    if session.is_interrupted and sys.stderr.isatty():
        say(f"interrupted after {plural(printer.count, 'message')}; what was not written is back in the queue")
    return OK if printer.count >= (arguments.count or 1) else FAILED


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.queue is None) == (arguments.exchange is None):
        raise CommandError("consume either QUEUE or --exchange", USAGE)
    if arguments.routing_key and arguments.exchange is None:
        raise CommandError("--routing-key is for --exchange", USAGE)
    if arguments.no_ack and arguments.requeue:
        raise CommandError("--no-ack has nothing left to --requeue", USAGE)
    if arguments.no_ack and arguments.count:
        raise CommandError(
            "--no-ack has the broker forget messages as it sends them, so that those sent beyond --count would be "
            "lost; `get --no-ack --count` takes no more than it is told to",
            USAGE,
        )


def _prefetch(arguments: argparse.Namespace) -> int:
    count = arguments.count or math.inf
    if arguments.requeue:  # all of them are kept
        return int(count) if count <= UNLIMITED else 0
    if arguments.prefetch == 0:
        return 0
    return int(min(arguments.prefetch, count))


def _offset(text: str | None) -> Literal["first", "last", "next"] | int | datetime | None:
    match text:
        case None | "first" | "last" | "next":
            return text
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--offset: first, last, next, a number, or a time, not {text!r}") from None
    return time if time.tzinfo is not None else time.astimezone()


async def _next(deliveries: Subscription, arguments: argparse.Namespace, most: float) -> Sequence[Delivery]:
    """The deliveries that have come, one at least; none when nothing more comes, or nothing for too long."""
    size = int(min(most, _prefetch(arguments) or LARGEST_BATCH, LARGEST_BATCH))
    with anyio.move_on_after(arguments.timeout):
        try:
            return (await anext(deliveries.batches(size, within=0))).deliveries
        except StopAsyncIteration:
            pass
    return ()


# --- get ------------------------------------------------------------------------------------------------------------


async def get(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry get`."""
    if arguments.no_ack and arguments.requeue:
        raise CommandError("--no-ack has nothing left to --requeue", USAGE)
    printer = Printer(arguments, end=b"\n" if arguments.count > 1 else None)
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        with session.interruptible():
            while printer.count < arguments.count:
                delivery = await channel.get(arguments.queue, no_ack=arguments.no_ack)
                if delivery is None:
                    break
                await printer.print([delivery])
    if not printer.count and not session.is_interrupted:
        say(f"queue {arguments.queue!r} has nothing to get")
    return OK if printer.count else FAILED
