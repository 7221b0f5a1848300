"""`python -m tests.measuring.hostile`: what a caller that means ill costs the other callers of a server.

It may write to one exchange and nothing else, and publishes ten requests a second there, of one kind at a time. Turns
with it and turns without it alternate, and the others' answers in each are counted. What must hold: they have at least
95 % as many with it, none of their calls fails, and no connection of the server's is lost.

With --control there is a third turn, in which they go to a queue whose consumer acknowledges them unread: `control` is
the ratio of that, which has all that they cost this program and the broker, but for the process of the queue that the
others' requests are in. There is one kind that no server can help with: a message with a hundred thousand values in its
headers takes 22,600 reductions and 2.4 MB in that process of RabbitMQ 3.10's, and a plain one 240 reductions.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from struct import pack
from time import process_time
from typing import Any, Literal, TypeAlias

import anyio

import rabbitry
from rabbitry._channel.channel import life_of
from rabbitry._rpc.addresses import own_address
from rabbitry.protocol.wire.properties import Properties, encode_properties
from rabbitry.testing import PrivateNode
from tests.support.helpers import unique, until

RATE = 10.0
"""Requests of the hostile caller's in a second."""
CALLERS = 10
WORK = 0.01
"""Seconds that a handler takes."""
BOUND = 0.95
"""Part of their answers that the others must have."""
PATIENCE = 10.0
"""Seconds after which a call counts as failed."""

CONTROL = 2
"""The turn in which what is sent is acknowledged unread."""

Layer: TypeAlias = Literal["client", "connection"]
Request: TypeAlias = tuple[bytes, bytes]
"""Encoded properties, and a body."""
Kind: TypeAlias = Callable[["Hostile"], Request]
"""Makes the next request of a kind."""


class Hostile:
    """What the hostile caller knows: an address of its own, its node, and the queue it writes to."""

    def __init__(self, own_address: str, queue: str) -> None:
        self.own_address = own_address
        self.queue = queue
        self.count = 0
        self.chance = Random(7)

    @property
    def identifier(self) -> bytes:
        """The node's process that answers to its address."""
        return b64decode(self.own_address.split(".")[3])

    def address(self, *, node: bytes | None = None, number: int = 700, serial: int = 0, head: bytes = b"\x83Xv") -> str:
        """An address of the genuine form."""
        own = self.identifier
        if node is None:
            node = own[5:-12]
        identifier = head + pack(">H", len(node)) + node + pack(">III", number, serial, 1)
        return address_of(identifier, self.own_address.split(".")[4])


def address_of(identifier: bytes, key: str) -> str:
    return f"amq.rabbitmq.reply-to.{b64encode(identifier).decode()}.{key}"


# --- the kinds --------------------------------------------------------------------------------------------------------


def sized(octets: bytes) -> bytes:
    return pack(">I", len(octets)) + octets


def with_headers(table: bytes, **properties: Any) -> bytes:
    """Encoded properties whose headers are these octets."""
    encoded = encode_properties(Properties(headers={}, **properties))
    at = encoded.index(bytes(4), 2)
    return encoded[:at] + sized(table) + encoded[at + 4 :]


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + sized(table)
    return table


def colliding(count: int) -> bytes:
    """A MessagePack map of numbers that are all in one place of a dict."""
    pairs = b"".join(b"\xcf" + pack(">Q", number << 40) + b"\x01" for number in range(1, count + 1))
    return b"\xdf" + pack(">I", count) + pairs


NUMBER = b"\x01"
"""A good payload."""
COLLIDING = colliding(45_000)
NESTED = (b"\xdc\x13\xec" * 1020)[:5_100]
NESTED_LARGE = b"\xdd\x00\x06\xdd\xd0" * 500 + bytes(447_000)
BOMB = gzip.compress(bytes(60_000_000))
MANY_VALUES = b"\x01aA" + sized(b"V" * 100_000)
TEXT = "x" * 255
WRONG: Sequence[Any] = (None, True, -1, 2**63 - 1, -(2**63), 1.5, "", TEXT, b"\xff", [], {}, [1, {"a": [None]}])
OURS = ("x-rabbitry-remaining", "x-rabbitry-deadline", "x-rabbitry-reply-exchange", "x-rabbitry-error")
THEIRS = ("x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset", "traceparent", "CC", "x-match")


def plain(body: bytes = NUMBER, **properties: Any) -> Kind:
    """The same request each time, whose reply goes to a real address of the hostile caller's unless said otherwise."""

    def make(hostile: Hostile) -> Request:
        return encode_properties(Properties(**{"reply_to": hostile.own_address, "delivery_mode": 1} | properties)), body

    return make


def to(*addresses: Callable[[Hostile], str]) -> Kind:
    """A good request whose reply goes to these in turn."""

    def make(hostile: Hostile) -> Request:
        address = addresses[hostile.count % len(addresses)](hostile)
        return encode_properties(Properties(reply_to=address, correlation_id="1", delivery_mode=1)), NUMBER

    return make


def in_turn(*kinds: Kind) -> Kind:
    return lambda hostile: kinds[hostile.count % len(kinds)](hostile)


def raw_headers(*tables: bytes) -> Kind:
    def make(hostile: Hostile) -> Request:
        table = tables[hostile.count % len(tables)]
        return with_headers(table, reply_to=hostile.own_address, correlation_id="1", delivery_mode=1), NUMBER

    return make


def wrong_headers(names: Sequence[str]) -> Kind:
    def make(hostile: Hostile) -> Request:
        headers = {name: hostile.chance.choice(WRONG) for name in names}
        properties = Properties(reply_to=hostile.own_address, correlation_id="1", delivery_mode=1, headers=headers)
        return encode_properties(properties), NUMBER

    return make


KINDS: Mapping[str, Kind] = {
    "good requests": plain(correlation_id="1"),
    "addresses: unknown nodes": to(
        lambda hostile: hostile.address(node=b"reply@%d" % hostile.chance.randrange(1 << 27))
    ),
    "addresses: one unknown node": to(lambda hostile: hostile.address(node=b"reply@12345")),
    "addresses: no such process": to(
        lambda hostile: hostile.address(number=1 << 28),
        lambda hostile: hostile.address(number=(1 << 32) - 1),
        lambda hostile: hostile.address(serial=1 << 13),
        lambda hostile: hostile.address(number=(1 << 28) - 1),
    ),
    "addresses: other terms": to(
        lambda hostile: hostile.address(head=b"\x83gv"),
        lambda hostile: address_of(b"\x83a\x05", hostile.own_address.split(".")[4]),
        lambda hostile: address_of(b"\x83w\x05" + b"abcde", hostile.own_address.split(".")[4]),
        lambda hostile: address_of(hostile.identifier[:-1], hostile.own_address.split(".")[4]),
        lambda hostile: hostile.address(node=b"rabbit@localhost"),
        lambda hostile: hostile.address(node=b"nonode"),
    ),
    "addresses: garbage": to(
        lambda hostile: "amq.rabbitmq.reply-to.abcd.efgh",
        lambda hostile: "amq.rabbitmq.reply-to.",
        lambda hostile: "amq.rabbitmq.reply-to",
        lambda hostile: "amq.rabbitmq.reply-to.!!!!.????",
        lambda hostile: hostile.own_address.replace("==", "="),
        lambda hostile: hostile.own_address + "=",
        lambda hostile: hostile.own_address + "\r\n",
        lambda hostile: "amq.rabbitmq.reply-to." + "A" * 233,
        lambda hostile: "amq.rabbitmq.reply-to.\udcff\udcfe.x",
    ),
    "addresses: of nobody": to(
        lambda hostile: hostile.address(),
        lambda hostile: hostile.address(number=0),
        lambda hostile: hostile.address(number=hostile.chance.randrange(5000)),
    ),
    "queues": to(
        lambda hostile: "no-such-queue",
        lambda hostile: hostile.queue,
        lambda hostile: "amq.gen-" + TEXT[:200],
        lambda hostile: TEXT,
        lambda hostile: "\x1b[2J\n\0\udcff",
    ),
    "exchanges": in_turn(
        *(
            plain(headers={"x-rabbitry-reply-exchange": exchange}, reply_to="any", correlation_id="1")
            for exchange in ("no-such-exchange", "amq.topic", "amq.rabbitmq.trace", "", TEXT, 7, ["amq.direct"])
        )
    ),
    "payloads: garbage": in_turn(
        *(plain(body) for body in (b"", b"\xc1", b"\xff" * 100_000, b"{", b"\x93\x01", b"\0" * 100))
    ),
    "payloads: colliding numbers": plain(COLLIDING),
    "payloads: heads of arrays": in_turn(plain(NESTED), plain(NESTED_LARGE)),
    "payloads: deep": in_turn(plain(b"\x91" * 100_000), plain(b"[" * 100_000, content_type="application/json")),
    "payloads: compressed": plain(BOMB, content_encoding="gzip", content_type="application/msgpack"),
    "content types": in_turn(
        *(
            plain(content_type=kind, content_encoding=encoding)
            for kind in (
                "application/json",
                "text/plain; charset=rot13",
                "application/x-pickle",
                TEXT,
                "\udcff",
                "a/b;" * 60,
            )
            for encoding in (None, "gzip", "utf-7", "," * 200, TEXT, "\x1b[2J")
        )
    ),
    "headers: many values": raw_headers(MANY_VALUES, b"\0V" * 50_000, b"\x01aA" + sized(b"F\0\0\0\0" * 20_000)),
    "headers: deep": raw_headers(nested(60), nested(70), nested(5_000)),
    "headers: large": raw_headers(b"\x01aS" + sized(b"x" * 120_000), b"\x01aS" + sized(b"\xff" * 120_000)),
    "headers: ours, wrong": wrong_headers(OURS),
    "headers: others', wrong": wrong_headers(THEIRS[:5]),
    "deadlines": in_turn(
        *(
            plain(headers={"x-rabbitry-remaining": remaining, "x-rabbitry-deadline": deadline})
            for remaining in (0, 1, -1, 2**63 - 1, -(2**63), 10_000)
            for deadline in (0, 2**63 - 1, -(2**63), 1_700_000_000_000)
        )
    ),
    "expirations": in_turn(*(plain(expiration=each) for each in ("0", "1", "4294967295", "00010"))),
    "identifiers": in_turn(
        *(
            plain(correlation_id=each, message_id=each, type=each, app_id=each, cluster_id=each, priority=255)
            for each in ("", TEXT, "\udcff" * 255, "\x1b[2J", "\0\r\n")
        )
    ),
    "no address": plain(reply_to=None),
}
"""What it sends, a kind after the other."""


# --- the scene --------------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """A server, its callers at work, and the hostile one."""

    hostile: Hostile
    hostile_url: str
    exchange: str
    unserved: str
    """Another exchange, what comes to which is acknowledged unread."""
    layer: Layer
    client: rabbitry.Client
    answers: int = 0
    failures: int = 0
    servers_ended: int = 0

    @property
    def lives(self) -> int:
        """Of the server's connections."""
        statistics = self.client.statistics()
        return statistics["publishing_lives"] + statistics["consuming_lives"] + self.servers_ended

    async def attack(self, kind: Kind, exchange: str) -> None:
        """Send requests of this kind until cancelled, from another connection where the broker closes one over them."""
        begun, sent = anyio.current_time(), 0
        while True:
            with suppress(rabbitry.RabbitryError):
                async with rabbitry.connect(self.hostile_url, name="hostile") as connection:
                    async with connection.channel(confirm=False) as channel:
                        life = life_of(channel)
                        while True:
                            properties, body = kind(self.hostile)
                            self.hostile.count += 1
                            life.live.publish(properties, body, exchange, "", False)
                            life.endpoint.wrote()
                            sent += 1
                            await anyio.sleep(max(0, begun + sent / RATE - anyio.current_time()))


@contextmanager
def hostile_user(node: PrivateNode) -> Iterator[str]:
    """The URL of a user that may write to the exchange of requests alone."""
    name = unique("hostile")
    node.rabbitmqctl("add_user", name, "secret")
    try:
        node.rabbitmqctl("set_permissions", name, "^$", "^requests-", "^$")
        yield node.url.replace("guest:guest", f"{name}:secret")
    finally:
        with suppress(Exception):
            node.rabbitmqctl("delete_user", name)


async def handler(number: Any) -> Any:
    await anyio.sleep(WORK)
    return number


@asynccontextmanager
async def scene(url: str, hostile_url: str, layer: Layer) -> AsyncIterator[Scene]:
    """All at work."""
    exchange, unserved = unique("requests"), unique("requests-unserved")
    async with rabbitry.connect(url) as own, own.channel() as channel:
        queue = (await channel.declare_queue(unique("served"))).name
        await channel.declare_exchange(exchange, "fanout", durable=False)
        await channel.bind_queue(queue, exchange)
        nobodys = rabbitry.Queue(unique("unserved"), max_length=10)
        await channel.declare(nobodys)
        await channel.declare_exchange(unserved, "fanout", durable=False)
        await channel.bind_queue(nobodys.name, unserved)
        try:
            async with (
                rabbitry.open_client(url, name="server") as client,
                rabbitry.open_client(url, name="callers") as callers,
                callers.rpc() as rpc,
                anyio.create_task_group() as tg,
            ):
                this = Scene(Hostile(await address_at(own), queue), hostile_url, exchange, unserved, layer, client)
                tg.start_soon(serve, this, url, queue)
                tg.start_soon(acknowledge, client, nobodys.name)

                async def call() -> None:
                    while True:
                        try:
                            with anyio.fail_after(PATIENCE):
                                assert await rpc.call(queue, 7) == 7
                            this.answers += 1
                        except (rabbitry.RabbitryError, TimeoutError):
                            this.failures += 1

                for _ in range(CALLERS):
                    tg.start_soon(call)
                await until(lambda: this.answers > 100)
                yield this
                tg.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await channel.delete_queue(queue)
                await channel.delete_exchange(exchange)
                await channel.delete_queue(nobodys.name)
                await channel.delete_exchange(unserved)


async def serve(this: Scene, url: str, queue: str) -> None:
    if this.layer == "client":
        await this.client.serve(queue, handler, concurrency=CALLERS)
    while True:  # as a supervisor would
        try:
            async with rabbitry.connect(url, name="server") as connection:
                await connection.serve(queue, handler, concurrency=CALLERS)
        except rabbitry.RabbitryError:
            this.servers_ended += 1


async def acknowledge(client: rabbitry.Client, queue: str) -> None:
    """What comes, without a look at it."""
    async with client.consume(queue) as deliveries:
        async for delivery in deliveries:
            delivery.ack()


async def address_at(connection: rabbitry.Connection) -> str:
    """A direct reply-to address of this connection's."""
    address = await own_address(connection.channel(confirm=False))
    assert address is not None
    return address


@dataclass
class Turns:
    """Pairs of turns, without and with the attack: the answers in each, and this process's seconds of CPU time."""

    answers: list[tuple[int, int]] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    controls: list[int] = field(default_factory=list)
    """The answers while as many such messages were acknowledged unread; none where that was not asked for."""
    requests: int = 0
    """The hostile caller's."""
    failures: int = 0
    connections_lost: int = 0

    @property
    def ratio(self) -> float:
        """The answers with the attack to those without."""
        return ratio(self.answers)

    @property
    def control(self) -> float | None:
        """The answers while the messages were acknowledged unread to those without any."""
        if not self.controls:
            return None
        return ratio([(before, after) for (before, _), after in zip(self.answers, self.controls, strict=True)])

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the ratios that as many pairs, drawn of these, have."""
        chance = Random(7)
        drawn = sorted(ratio(chance.choices(self.answers, k=len(self.answers))) for _ in range(1000))
        return drawn[25], drawn[974]

    @property
    def cost_ms(self) -> float:
        """CPU time that a hostile request took, its sending included: how busy the machine is hardly matters to it."""
        (before, after), (without, under) = map(totals, (self.answers, self.cpu))
        return 1000 * (under - without / max(1, before) * after) / max(1, self.requests)

    def __str__(self) -> str:
        (before, after), (low, high) = totals(self.answers), self.interval
        control = "" if self.control is None else f"{self.control:.3f}"
        return (
            f"{before:8} {after:8} {self.ratio:7.3f} [{low:.3f}, {high:.3f}] {control:>7} "
            f"{self.cost_ms:8.2f} {self.failures:7} {self.connections_lost:7}"
        )


HEADINGS = (
    f"{'without':>8} {'with':>8} {'ratio':>7} {'95 %':^14} {'control':>7} {'CPU ms':>8} {'failed':>7} {'lost':>7}"
)


def totals(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(first for first, _ in pairs), sum(second for _, second in pairs)


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    without, under_attack = totals(pairs)
    return under_attack / max(1, without)


async def measure(
    this: Scene, kind: Kind, turns: Turns, *, pairs: int, seconds: float, has_control: bool = False
) -> None:
    """Add some pairs of turns, in which what is first changes, each with a third one if `has_control`."""
    lives, failures = this.lives, this.failures
    for number in range(pairs):
        counts, cpu = [0, 0, 0], [0.0, 0.0, 0.0]
        for attacked in (number % 2, 1 - number % 2, *([CONTROL] if has_control else [])):
            sent = this.hostile.count
            before, began = this.answers, process_time()
            async with anyio.create_task_group() as tg:
                if attacked:
                    tg.start_soon(this.attack, kind, this.unserved if attacked == CONTROL else this.exchange)
                await anyio.sleep(seconds)
                tg.cancel_scope.cancel()
            counts[attacked], cpu[attacked] = this.answers - before, process_time() - began
            if attacked != CONTROL:
                turns.requests += this.hostile.count - sent
        turns.answers.append((counts[0], counts[1]))
        turns.cpu.append((cpu[0], cpu[1]))
        if has_control:
            turns.controls.append(counts[CONTROL])
    turns.failures += this.failures - failures
    turns.connections_lost += this.lives - lives


async def main(
    url: str,
    hostile_url: str,
    layers: Sequence[Layer],
    kinds: Sequence[str],
    pairs: int,
    seconds: float,
    has_control: bool,
) -> bool:
    well = True
    for layer in layers:
        print(f"\n{layer}.serve\n{'':26} {HEADINGS}")
        async with scene(url, hostile_url, layer) as this:
            for kind in kinds:
                turns = Turns()
                await measure(this, KINDS[kind], turns, pairs=pairs, seconds=seconds, has_control=has_control)
                is_well = turns.interval[1] >= BOUND and not turns.failures and not turns.connections_lost
                well &= is_well
                print(f"{kind:26} {turns}{'' if is_well else '  <'}", flush=True)
    return well


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.hostile", description=__doc__)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--layer", action="append", choices=("client", "connection"), help="only these")
    parser.add_argument("--pairs", type=int, default=16, help="of turns, without and with")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn")
    parser.add_argument("--control", action="store_true", help="with a third turn: requests are not served")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    arguments = parser.parse_args()
    logging.getLogger("rabbitry").addHandler(logging.NullHandler())
    with PrivateNode() as private, hostile_user(private) as hostile_url:
        run = partial(
            main, private.url, hostile_url, arguments.layer or ("client", "connection"), arguments.kind or tuple(KINDS),
            arguments.pairs, arguments.seconds, arguments.control,
        )  # fmt: skip
        sys.exit(0 if anyio.run(run, backend=arguments.backend) else 1)
