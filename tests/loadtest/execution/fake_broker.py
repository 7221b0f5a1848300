"""A broker in memory that misbehaves on demand: refuse, hang, lose, repeat, drop; and whole runs against it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgpack

from loadtest.analysis.result import build_result
from loadtest.commands.flags import parse_settings
from loadtest.drivers.base import ConsumerOptions, Outcome, ProducerOptions, Receive, Settled
from loadtest.execution.conductor import Conductor
from loadtest.execution.state import Run, start_run
from loadtest.machine.environment import describe_environment
from loadtest.machine.resources import Meter
from loadtest.metrics.record import Record
from loadtest.metrics.timeline import Row
from tests.support.lines import without_search

Result = dict[str, Any]


class Broker:
    """Queues in memory; what goes wrong is set by the test."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[bytes]] = {}
        self.published = 0
        self.open = 0
        self.opened = 0
        self.most_opening = 0
        self.opening = 0
        self.refuse_every = 0
        self.hang_every = 0
        self.lose_every = 0
        self.repeat_every = 0
        self.unknown_every = 0
        self.nack_every = 0
        self.silent_after = 0
        self.fail_after = 0
        self.slow_by = 0.0
        self.consume_pause = 0.0
        self.drop_consumers_after = 0
        self.drops_unacknowledged = False
        self.slow_counts = 0
        self.mute_servers = False
        self.received = 0
        self.in_flight: Counter[int] = Counter()

    @classmethod
    def with_queue(cls, name: str) -> Broker:
        broker = cls()
        broker.queues[name] = deque()
        return broker

    @asynccontextmanager
    async def connect(self, url: str, name: str) -> AsyncIterator[Connection]:
        if not name.endswith("administrator"):
            self.opened += 1
            number = self.opened
            self.opening += 1
            self.most_opening = max(self.most_opening, self.opening)
            try:
                await anyio.sleep(0.001)
                if self.hang_every and number % self.hang_every == 0:
                    await anyio.sleep_forever()
                if self.refuse_every and number % self.refuse_every == 0:
                    raise ConnectionRefusedError("the broker refuses")
            finally:
                self.opening -= 1
        self.open += 1
        try:
            yield Connection(self, is_client=not name.endswith("administrator"))
        finally:
            self.open -= 1


class Connection:
    server_properties: Mapping[str, Any] = {"product": "Fake", "version": "1"}
    is_blocked = False

    def __init__(self, broker: Broker, *, is_client: bool) -> None:
        self.broker = broker
        self.is_client = is_client

    @asynccontextmanager
    async def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> AsyncIterator[Producer]:
        yield Producer(self.broker, queue, options, settled)

    @asynccontextmanager
    async def consumer(self, queue: str, options: ConsumerOptions) -> AsyncIterator[Consumer]:
        yield Consumer(self.broker, queue, self.is_client)

    @asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        yield Caller()

    @asynccontextmanager
    async def administrator(self) -> AsyncIterator[Connection]:
        yield self

    async def serve(self, queue: str) -> None:
        if self.broker.mute_servers:
            raise ConnectionResetError("the server is gone")
        await anyio.sleep_forever()

    async def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.broker.queues[name] = deque()

    async def count_messages(self, name: str) -> int | None:
        if self.broker.slow_counts:
            self.broker.slow_counts -= 1
            return 0
        return len(self.broker.queues[name]) if name in self.broker.queues else None

    async def delete_queue(self, name: str) -> None:
        self.broker.queues.pop(name, None)


class Producer:
    def __init__(self, broker: Broker, queue: str, options: ProducerOptions, settled: Settled) -> None:
        self.broker = broker
        self.queue = broker.queues[queue]
        self.done = Outcome.CONFIRMED if options.confirms else Outcome.SENT
        self.settled = settled

    async def publish(self, body: bytes, key: str | None = None) -> Outcome:
        broker, queue = self.broker, self.queue if key is None else self.broker.queues[key]
        broker.in_flight[id(self)] += 1
        assert broker.in_flight[id(self)] == 1
        if broker.fail_after and broker.published >= broker.fail_after:
            broker.in_flight[id(self)] -= 1
            raise ConnectionResetError("the connection is gone")
        if broker.silent_after and broker.published >= broker.silent_after:
            await anyio.sleep_forever()
        await anyio.sleep(0.002 + broker.slow_by)
        broker.in_flight[id(self)] -= 1
        broker.published += 1
        if not (broker.lose_every and broker.published % broker.lose_every == 0):
            queue.append(body)
        if broker.unknown_every and broker.published % broker.unknown_every == 0:
            return Outcome.UNKNOWN
        if broker.nack_every and broker.published % broker.nack_every == 0:
            queue.pop()
            return Outcome.NACKED
        return self.done

    async def submit(self, body: bytes, token: object, key: str | None = None) -> None:
        self.settled(token, await self.publish(body, key))

    async def flush(self) -> None: ...


class Consumer:
    def __init__(self, broker: Broker, queue: str, is_client: bool) -> None:
        self.broker = broker
        self.queue = broker.queues[queue]
        self.is_client = is_client
        self.stopped = False

    async def run(self, receive: Receive) -> None:
        broker = self.broker
        while not self.stopped:
            while self.queue:
                body = self.queue.popleft()
                receive(body, False)
                if not self.is_client:
                    continue
                broker.received += 1
                if broker.drops_unacknowledged:
                    self.queue.append(body)  # it arrived, and is queued again
                    break
                if broker.consume_pause:
                    await anyio.sleep(broker.consume_pause)
                    if self.stopped:
                        return
                if broker.repeat_every and broker.received % broker.repeat_every == 0:
                    receive(body, True)
            if self.is_client and broker.drop_consumers_after and broker.received > broker.drop_consumers_after:
                raise ConnectionResetError("the broker dropped it")
            await anyio.sleep(0.002)

    def stop(self) -> None:
        self.stopped = True


class Caller:
    async def call(self, queue: str, body: bytes) -> bytes:
        await anyio.sleep(0.002)
        return body


class Watcher:
    def __init__(self) -> None:
        self.looks: defaultdict[str, int] = defaultdict(int)

    def update(self, run: Run, row: Row | None, now: float) -> None:
        self.looks[run.record.phases[-1].name] += 1


def sent_on(record: Record) -> Record:
    """The record as another process gets it; it says the same."""
    plain = record.to_plain()
    assert msgpack.unpackb(msgpack.packb(plain)) == json.loads(json.dumps(plain)) == plain
    received = Record.from_plain(json.loads(json.dumps(plain)))
    assert received.to_plain() == plain
    return received


async def conduct(broker: Broker, line: str, *, interrupt_after: float | None = None) -> Result:
    """A whole run against the fake; also checks that nothing is left behind."""
    words = line.split()
    settings = parse_settings(without_search("--duration", "0.4", "--warmup", "0.1", "--drain", "5", *words), {})
    run = start_run(settings)
    conductor = Conductor(run, broker, ["amqp://fake"], Meter(None), Watcher(), is_private=False)
    records: list[Record] = []

    async def play() -> None:
        records.append(await conductor.conduct())

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tg:
            tg.start_soon(play)
            if interrupt_after is not None:
                await anyio.sleep(interrupt_after)
                run.interrupt()
    assert broker.open == 0
    assert not broker.queues
    return build_result(settings, sent_on(records[0]), describe_environment((), "fake"), words)
