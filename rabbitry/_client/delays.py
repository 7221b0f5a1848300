"""`Delays`: publishes a message that is to arrive later, by queues at the broker that hold it until then.

Each delay is one queue, `rabbitry.delay.5000ms`, behind a fanout exchange of the same name, so that a message keeps its
routing key, CC and BCC. It is a durable quorum queue with a time to live, which dead-letters at least once: RabbitMQ
keeps the message there until whoever is next has confirmed it. A delay is rounded up, by less than a tenth, to one of
300 such levels between 50 ms and 48 days, of which those exist that were used. All of them dead-letter to the headers
exchange `rabbitry.delayed`, which routes by `x-rabbitry-to`: to a queue, or to an exchange.

What must stay true: something is always routed to. RabbitMQ keeps what is not, and 32 such messages hold up all others
of their level for good. So what finds its queue gone is kept in the queue `rabbitry.undelivered`, and what goes to an
exchange, where perhaps nobody is bound, goes to `rabbitry.discarded` as well, which keeps nothing. Queues of ours never
expire, and are the same for every client of a virtual host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial
from math import ceil
from typing import Literal

import anyio

from rabbitry._client.link import Link
from rabbitry._client.outcomes import check_policies, in_a_life
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    AccessRefused,
    ConnectionBlocked,
    NotFound,
    PublishFailed,
    Refused,
    Unroutable,
)
from rabbitry._values.arguments import check_name
from rabbitry._values.message import Message
from rabbitry._values.options import OnUnknown, WhileDown
from rabbitry._values.retry import EXCHANGE, TO, checked_delay, to_exchange, to_queue, without_traces
from rabbitry._values.topology import Binding, Entity, Exchange, ExchangeBinding, Queue

__all__ = ["DELAYED", "Delays", "Need", "level_of"]

UNDELIVERED = "rabbitry.undelivered"
DISCARDED = "rabbitry.discarded"
DELAYED = Exchange("rabbitry.delayed", "headers", alternate=UNDELIVERED)
QUEUES = Exchange("rabbitry.delayed.queues", "direct", alternate=UNDELIVERED)
"""Does what the default exchange does, to which nothing can be bound, for the queues that are bound here."""

SHARED: tuple[Entity, ...] = (
    Exchange(UNDELIVERED, "fanout"),
    Queue(UNDELIVERED, type="quorum"),
    Binding(UNDELIVERED, UNDELIVERED),
    Queue(DISCARDED, type="quorum", max_length=0),
    DELAYED,
    QUEUES,
)

SHORTEST_MS = 50
PERMISSIONS = (
    "delays and retries need the permissions to configure, write and read what is named 'rabbitry\\..*', and to write "
    "to the queue or exchange that a message goes to"
)

MISSING = 404

REMEMBERED = 10_000
"""Needs of which it is known that they are there; beyond that, all are forgotten and declared again."""

Need = int | str | tuple[Literal["key"], str]
"""What a message takes: its level by the milliseconds, the way out by what `TO` says, a routing key that is a queue."""


def level_of(delay: float) -> int:
    """The milliseconds that a message waits for a delay of so many seconds: its two leading digits, rounded up. To 20
    there is each, up to 50 the even ones and fives, then fives: what people write (2.5 s, 5 min, an hour) is near.
    """
    milliseconds = max(SHORTEST_MS, ceil(delay * 1000 - 1e-6))
    unit: int = 10 ** (len(str(milliseconds)) - 2)
    leading = -(-milliseconds // unit)
    steps = (1,) if leading <= 20 else (2, 5) if leading <= 50 else (5,)
    return min(-(-leading // step) * step for step in steps) * unit


def name_of_level(milliseconds: int) -> str:
    """What its queue and its exchange are called."""
    return f"rabbitry.delay.{milliseconds}ms"


def level(milliseconds: int) -> tuple[Entity, ...]:
    """The exchange and the queue of a level."""
    name = name_of_level(milliseconds)
    queue = Queue(
        name,
        type="quorum",
        message_ttl=timedelta(milliseconds=milliseconds),
        overflow="reject-publish",
        dead_letter_exchange=DELAYED.name,
        arguments={"x-dead-letter-strategy": "at-least-once"},
    )
    return (Exchange(name, "fanout"), queue, Binding(name, name))


def way_out(to: str) -> tuple[Entity, ...]:
    """Has `rabbitry.delayed` route to the queue, or the exchange, that `TO` names so."""
    kind, _, name = to.partition(":")
    matching = {"x-match": "all-with-x", TO: to}
    if kind == "queue":
        return (Binding(name, DELAYED.name, arguments=matching),)
    if not name:
        return (ExchangeBinding(QUEUES.name, DELAYED.name, arguments=matching),)
    return (
        Binding(DISCARDED, DELAYED.name, arguments=matching),
        ExchangeBinding(name, DELAYED.name, arguments=matching),
    )


def entities_of(need: Need) -> tuple[Entity, ...]:
    """What is to be declared for it, beside what all share."""
    match need:
        case int():
            return level(need)
        case str():
            return way_out(need)
    _, key = need
    return (Binding(key, QUEUES.name, routing_key=key),)


class Delays:
    """Of one client. What it needs at the broker is declared when it is first needed in each life of the publishing
    connection, in case that it is another broker's by then; and in between only for what `forget` was told of.
    """

    __slots__ = ("_declared", "_life", "_link", "_lock", "_publish_after")

    def __init__(self, publish_after: Callable[..., Awaitable[None]], link: Link) -> None:
        """`publish_after` is the client's, whose `link` is the publishing one."""
        self._publish_after = publish_after
        self._link = link
        self._lock = anyio.Lock()
        self._life = 0
        self._declared: set[Need] = set()

    async def publish(
        self,
        message: Message | bytes,
        delay: float | timedelta,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        """Publish, as `client.publish(delay=…)` says."""
        duration = checked_delay(delay)
        check_policies(while_down, on_unknown)
        check_name("the name of an exchange", exchange)
        check_name("routing_key", routing_key)
        if not isinstance(message, Message):
            message = Message(message)
        if mandatory:
            raise ValueError(
                "mandatory and delay exclude each other: whether a queue is bound for the message shows when its delay "
                "is over, and then nobody is there to be told (a queue, or an exchange, must exist even now)"
            )
        if message.expiration is not None:
            raise ValueError(
                "expiration and delay exclude each other: it would count from now on, and end with the delay; give the "
                "target queue a message_ttl"
            )
        headers = without_traces(message.headers)
        keys = [key for key in (routing_key, *_copies(headers)) if key] if not exchange else []
        if not exchange and not keys:
            raise ValueError("the default exchange routes by a queue's name: give routing_key, or an exchange")
        held = message.replace(headers={**headers, TO: to_exchange(exchange), EXCHANGE: exchange})
        try:
            await self.hold(
                held,
                duration,
                to=to_exchange(exchange),
                routing_key=routing_key,
                more=[("key", key) for key in keys],
                while_down=while_down,
                on_unknown=on_unknown,
            )
        except NotFound as error:
            if exchange:
                raise Refused(message, exchange, routing_key, error.code, error.text) from error
            raise Unroutable(message, exchange, routing_key, (error.code, error.text)) from error
        except PublishFailed as error:
            error.message, error.exchange = message, exchange  # as they were given
            raise

    async def hold(
        self,
        message: Message,
        delay: float,
        *,
        to: str,
        routing_key: str,
        while_down: WhileDown,
        on_unknown: OnUnknown,
        more: Iterable[Need] = (),
    ) -> None:
        """Publish a message to the level of this delay, from which it goes `to` where its header says. Returns once the
        broker has it.
        """
        milliseconds = level_of(delay)
        name = name_of_level(milliseconds)
        needed = (milliseconds, to, *more)
        provide = partial(self.provide, needed, while_down)
        for is_last in (False, True):
            try:
                return await self._publish_after(provide, message, name, routing_key, True, while_down, on_unknown)
            except (Unroutable, Refused) as error:  # somebody has deleted the level
                if is_last or (isinstance(error, Refused) and error.code != MISSING):
                    raise
                self._declared = set()

    def forget(self, *entities: Entity) -> None:
        """These were deleted, or declared, and with a queue or exchange that is new the binding to it is gone."""
        gone: set[Need] = set()
        for entity in entities:
            if isinstance(entity, Queue):
                gone |= {to_queue(entity.name), ("key", entity.name)}
            elif isinstance(entity, Exchange):
                gone.add(to_exchange(entity.name))
        self._declared = self._declared - gone  # another set: what is just being declared is noted in the former one

    async def provide(self, needs: Iterable[Need], while_down: WhileDown) -> None:
        """Have at the broker what these take. Cancelling it does no harm."""
        needed = dict.fromkeys(needs)
        if self._life == self._link.lives and needed.keys() <= self._declared:
            return

        def check_unblocked(connection: Connection) -> None:
            if while_down == "fail" and connection.blocked_reason is not None:
                raise ConnectionBlocked(connection.blocked_reason)

        async def declare(connection: Connection) -> None:
            check_unblocked(connection)  # before it waits for others, who wait for the end of the alarm perhaps
            async with self._lock:
                check_unblocked(connection)
                if self._life != self._link.lives or len(self._declared) > REMEMBERED:
                    self._life = self._link.lives
                    self._declared = set()
                declared = self._declared
                missing = [need for need in needed if need not in declared]
                entities = [entity for need in missing for entity in entities_of(need)]
                if not missing:
                    return
                async with connection.channel(confirm=False) as channel:
                    await channel.declare(*(() if declared else SHARED), *entities)
                declared.update(missing)

        try:
            await in_a_life(self._link, while_down, declare)
        except AccessRefused as error:
            raise AccessRefused(f"{error.text} ({PERMISSIONS})", code=error.code, method=error.method) from error


def _copies(headers: dict[str, object]) -> list[str]:
    """The other routing keys of a message, by which RabbitMQ routes it, too."""
    found = [headers.get(name) for name in ("CC", "BCC")]
    return [key for keys in found if isinstance(keys, list) for key in keys if isinstance(key, str)]
