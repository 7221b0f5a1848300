"""`consume` and `get`: from a queue to stdout.

What must stay true: a message is acknowledged when all its bytes were written, and goes back otherwise, also when this
is interrupted, the pipe breaks or its reader stalls. Where nobody said how many (`--count`), a pipe gets one message at
a time, and it counts as written when it was read: `consume q | head -3` takes three.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import Literal

import anyio

from rabbitry import Binding, DecodeError, Delivery, Queue, StaleDelivery, Subscription
from rabbitry._cli.messages import as_record
from rabbitry._cli.output import FAILED, OK, USAGE, CommandError, Progress, as_json, plural, say
from rabbitry._cli.pipes import Writer
from rabbitry._cli.session import Session

LARGEST_BATCH = 500
LOOK = 1.0
"""Seconds between looks whether somebody still reads, while nothing comes."""
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
        self._kept: list[Delivery] | None = [] if arguments.requeue else None
        self._most_deliveries = 0
        self._is_stepwise = self._settles and not arguments.count and self._writer.is_pipe
        self._end = b"\0" if arguments.null else b"" if arguments.bare else end
        self.count = 0

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """In the block a pipe is made ready for taking one message at a time, if it shall."""
        with self._writer.narrowed() if self._is_stepwise else nullcontext():
            yield

    async def print(self, deliveries: Sequence[Delivery]) -> None:
        """Write the deliveries. What cancels this leaves unsettled what was not written whole, or not read."""
        if self._is_stepwise:
            for delivery in deliveries:
                await self._print([delivery])
        else:
            await self._print(deliveries)

    async def _print(self, deliveries: Sequence[Delivery]) -> None:
        ends: list[int] = []
        data = bytearray()
        for delivery in deliveries:
            data += self._encoded(delivery)
            ends.append(len(data))
        began = self._writer.written
        taken = 0
        try:
            await self._writer.write(bytes(data))
            if self._is_stepwise:
                await self._writer.wait_taken()
            taken = len(data)
        finally:
            taken = taken or self._writer.taken - began
            done = sum(end <= taken for end in ends)
            self.count += done
            if self._settles:
                _ack(deliveries[:done])
            elif self._kept is not None:
                self._keep(deliveries)

    def _keep(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._most_deliveries = max(self._most_deliveries, _counted(delivery))
            delivery.body = b""  # it was written: a long queue need not fit into memory
        assert self._kept is not None
        self._kept += deliveries

    def put_back(self) -> None:
        """Put back what was only looked at. Once its consumer has stopped: before, it would come again."""
        for delivery in self._kept or ():
            if not delivery.seems_streamed:  # which takes nothing back, and keeps all
                with suppress(StaleDelivery):
                    delivery.nack()

    def warn(self, queue: str | None) -> None:
        """Tell of a queue that counts how often it was looked at."""
        if self._kept and self._most_deliveries:
            say(
                f"{f'queue {queue!r}' if queue else 'this'} is a quorum queue, which counts each look as a delivery "
                f"(of one message the {_ordinal(self._most_deliveries)} now): beyond its delivery limit, if it has one "
                "(x-delivery-limit; from RabbitMQ 4.0 on 20 by default), messages are dead-lettered or dropped"
            )

    def _encoded(self, delivery: Delivery) -> bytes:
        if self._as_json:
            return as_json(as_record(delivery)).encode() + b"\n"
        return self._writer.shown(delivery.body) + self._end

    def check_reader(self) -> None:
        """BrokenPipeError if stdout's reader has gone, which otherwise shows when there is something to write."""
        self._writer.check_reader()

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks on."""
        return self._writer.is_terminal


def _counted(delivery: Delivery) -> int:
    """How often the message will have been delivered, for its queue's limit, once it is put back; 0 if nothing is
    counted: by queues of other types, and by RabbitMQ 4.3, which counts failures and has another header for the rest.
    """
    try:
        headers = delivery.message.headers or {}
    except DecodeError:
        return 0
    count = headers.get("x-delivery-count")
    return count + 1 if isinstance(count, int) and "x-acquired-count" not in headers else 0


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


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
            with session.interruptible(), printer.prepared():
                async with deliveries:
                    try:
                        while printer.count < wanted:
                            batch = await _next(deliveries, arguments, printer, wanted - printer.count)
                            if not batch:
                                break
                            if printer.count + len(batch) >= wanted:
                                deliveries.stop()  # ahead of the acknowledgements, which would bring more
                            await printer.print(batch)
                            if not printer.is_terminal:
                                progress.tick()
                    finally:
                        deliveries.stop()
                        printer.put_back()
        finally:
            progress.clear()
            printer.warn(arguments.queue)
    if session.is_interrupted and sys.stderr.isatty():
        say(f"interrupted after {plural(printer.count, 'message')}; what was not written or read whole is back")
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


async def _next(
    deliveries: Subscription, arguments: argparse.Namespace, printer: Printer, most: float
) -> Sequence[Delivery]:
    """The deliveries that have come, one at least; none when nothing more comes, or nothing for too long.
    BrokenPipeError if nobody reads any more.
    """
    size = int(min(most, _prefetch(arguments) or LARGEST_BATCH, LARGEST_BATCH))
    end = math.inf if arguments.timeout is None else anyio.current_time() + arguments.timeout
    while True:
        with anyio.move_on_after(min(end - anyio.current_time(), LOOK)):
            try:
                return (await anext(deliveries.batches(size, within=0))).deliveries
            except StopAsyncIteration:
                return ()
        if anyio.current_time() >= end:
            return ()
        printer.check_reader()


# --- get ------------------------------------------------------------------------------------------------------------


async def get(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry get`."""
    if arguments.no_ack and arguments.requeue:
        raise CommandError("--no-ack has nothing left to --requeue", USAGE)
    printer = Printer(arguments, end=b"\n" if arguments.count > 1 else None)
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        try:
            with session.interruptible():
                while printer.count < arguments.count:
                    delivery = await channel.get(arguments.queue, no_ack=arguments.no_ack)
                    if delivery is None:
                        break
                    await printer.print([delivery])
        finally:
            printer.put_back()
            printer.warn(arguments.queue)
    if not printer.count and not session.is_interrupted:
        say(f"queue {arguments.queue!r} has nothing to get")
    return OK if printer.count else FAILED
