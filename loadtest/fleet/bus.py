"""The control channel: one connection of its own to a broker, on which sealed letters go from queue to queue.

It uses rabbitry as its users do. Each end has one queue, which goes with its connection: that a queue is gone is how
the other end hears of a death at once. A bus that is lost is not opened again; who depends on it ends in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

import rabbitry
from loadtest.fleet.messages import pack, unpack
from loadtest.fleet.seal import Guard, Letter, Seal, as_message

SEND_BOUND = 15.0
"""Seconds that a letter may take until the broker has it."""
COORDINATOR = "coordinator"
"""What every coordinator is called: a worker's first word goes to one of whom it knows nothing else."""
PREFETCH = 20
"""Letters on their way to one end: of the largest, so many megabytes."""


class BusLost(Exception):
    """The control connection ended, or the broker at its other end doesn't take letters any more."""


class Gone(Exception):
    """The recipient's queue is no more: he is dead, or was never there."""


class NoBus(Exception):
    """The control broker can't be reached, or doesn't take us."""


class PlaceTaken(Exception):
    """Another coordinator with this token is at work on this bus."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that came, from whom, and of which session."""

    sender: str
    session: str
    message: Any


class Bus:
    """One end of the control channel."""

    def __init__(
        self,
        connection: rabbitry.Connection,
        channel: rabbitry.Channel,
        deliveries: rabbitry.Consumer,
        seal: Seal,
        guard: Guard,
        kinds: Sequence[Any],
    ) -> None:
        self.guard = guard
        self.sent = 0
        self.received = 0
        self._connection = connection
        self._channel = channel
        self._deliveries = deliveries
        self._seal = seal
        self._kinds = kinds
        self._turn = anyio.Lock()
        self._sending = anyio.CancelScope()

    @property
    def me(self) -> str:
        """This end's name."""
        return self.guard.me

    async def send(self, address: str, recipient: str, message: Any) -> None:
        """Sends a message; returns when the broker has it. Gone, BusLost, or ValueError if it is too large.

        Cancelled, it may have been sent.
        """
        kind, content = pack(message)
        async with self._turn:  # the numbers must arrive in their order
            self.sent += 1
            letter = Letter(
                session=self.guard.session,
                sender=self.me,
                recipient=recipient,
                number=self.sent,
                kind=kind,
                content=content,
            )
            body = self._seal.close(letter)
            try:
                with anyio.move_on_after(SEND_BOUND) as self._sending:
                    await self._channel.publish(as_message(body), routing_key=address, mandatory=True)
                    return
            except rabbitry.Unroutable:
                raise Gone(recipient) from None
            except (rabbitry.RabbitryError, OSError) as error:
                raise BusLost(str(error) or repr(error)) from error
            raise BusLost(f"the broker took no letter for {SEND_BOUND:g} s")

    def is_blocked(self) -> bool:
        """Whether the broker takes nothing because of an alarm. Asked every second, a letter that waits for its end is
        waited for: silence then tells of no death.
        """
        if not self._connection.is_blocked:
            return False
        self._sending.deadline = anyio.current_time() + SEND_BOUND
        return True

    def __aiter__(self) -> AsyncIterator[Mail]:
        """What comes for this end and is to be heeded. Ends by BusLost."""
        return self

    async def __anext__(self) -> Mail:
        while True:
            try:
                delivery = await anext(self._deliveries)
                delivery.ack()
            except StopAsyncIteration:
                raise BusLost("the subscription ended") from None
            except (rabbitry.RabbitryError, OSError) as error:
                raise BusLost(str(error) or repr(error)) from error
            letter = self.guard.admit(delivery.body)
            if letter is None:
                continue
            try:
                message = unpack(letter.kind, letter.content, self._kinds)
            except ValueError:
                self.guard.turn_away("malformed")
                continue
            self.received += 1
            return Mail(letter.sender, letter.session, message)


def coordinators_address(seal: Seal) -> str:
    """The queue of the coordinator, known to all who have the token."""
    return f"loadtest.fleet.{seal.name}"


@asynccontextmanager
async def open_bus(
    url: str,
    seal: Seal,
    *,
    me: str,
    address: str,
    session: str,
    greeting: type[Any],
    kinds: Sequence[type[Any]],
    name: str,
) -> AsyncIterator[Bus]:
    """Connects, as `me`, and has a queue of that address until the block's end. NoBus, or PlaceTaken if somebody has
    it.

    `greeting` is the kind of letter that is heeded whatever its session.
    """
    guard = Guard(seal, me, session, greeting.__name__)
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(rabbitry.connect(url, name=name, heartbeat=10))
            channel = await stack.enter_async_context(connection.channel(confirm=True, prefetch=PREFETCH))
            await channel.declare_queue(address, durable=False, exclusive=True)
            deliveries = await stack.enter_async_context(channel.consume(address))
        except rabbitry.ResourceLocked:
            raise PlaceTaken(address) from None
        except (rabbitry.RabbitryError, OSError) as error:
            raise NoBus(str(error) or repr(error)) from error
        yield Bus(connection, channel, deliveries, seal, guard, kinds)
