"""The operations: each a task that does the same again and again while a fault strikes, and keeps account of it.

What must stay true: an operation counts a round only when it got what it wanted, or a clear error; and at the end it
says what was confirmed or taken and is nowhere to be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, ClassVar

import anyio
from anyio.abc import TaskGroup

import rabbitry
from rabbitry import Backoff, Confirmation, Delivery, Queue
from rabbitry._concurrency.scopes import background
from tests.support.helpers import unique

CALL_BOUND = 15.0
"""Seconds after which a caller would give up; where a request went with its queue, it has to."""
PREFILLED = 2000


class World:
    """What the operations of one run share: where the broker is, by way of the fault and directly, and the time."""

    def __init__(self, urls: list[str], calm_urls: list[str], queue_type: str) -> None:
        self.urls = urls
        self.calm_urls = calm_urls
        self.queue_type: Any = queue_type
        self.calm: rabbitry.Client  # on connections that the proxy's faults don't reach
        self.is_armed = False
        self.struck = anyio.Event()
        self.over = anyio.Event()
        self.call_bound = CALL_BOUND
        self.healed_at = float("inf")

    @asynccontextmanager
    async def client(self, urls: list[str] | None = None) -> AsyncIterator[rabbitry.Client]:
        async with rabbitry.open_client(
            urls or self.urls, reconnect=Backoff(initial=0.05, maximum=0.5), heartbeat=1, connect_timeout=5
        ) as client:
            yield client


@asynccontextmanager
async def beside() -> AsyncIterator[TaskGroup]:
    """A task group that ends with its body, whose error leaves it as it is."""
    async with background() as tg:
        try:
            yield tg
        finally:
            tg.cancel_scope.cancel()


class Operation:
    """`seen` counts how rounds ended, `lost` what is missing, `duplicates` what came twice."""

    name: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world
        self.queue = Queue(unique(self.name), type=world.queue_type)
        self.seen: Counter[str] = Counter()
        self.rounds = 0
        self.is_holding = True  # in the state that the fault is to meet; those that hold none are always
        self.has_ended = False
        self.recovered_at: float | None = None
        self.slowest_close = 0.0
        self.lost = 0
        self.duplicates = 0

    async def run(self) -> None:
        """Work until the run is over, or an error ends it."""
        await self.world.calm.declare(self.queue)
        try:
            await self.work()
        except (rabbitry.RabbitryError, TimeoutError) as error:
            self.see(type(error).__name__)
        finally:
            self.has_ended = True

    async def work(self) -> None:
        raise NotImplementedError

    async def verify(self) -> None:
        """Compare what was promised with what is there."""

    @property
    def is_over(self) -> bool:
        return self.world.over.is_set()

    def see(self, what: str, *, finished: bool = True) -> None:
        self.seen[what] += 1
        if finished:
            self.rounds += 1
            if self.recovered_at is None and anyio.current_time() > self.world.healed_at:
                self.recovered_at = anyio.current_time()

    async def arrived(self) -> Counter[int]:
        """The numbers that are in the queue."""
        found: Counter[int] = Counter()
        calm = self.world.calm
        while (info := await calm.inspect(self.queue)) is not None and info.message_count:
            async with calm.consume(self.queue, prefetch=500) as deliveries:
                while True:
                    with anyio.move_on_after(0.5) as scope:
                        delivery = await anext(deliveries)
                    if scope.cancelled_caught:
                        break
                    found[int(delivery.body)] += 1
                    delivery.ack()
        return found

    def compare(self, promised: set[int], found: Counter[int]) -> None:
        self.lost = len(promised - found.keys())
        self.duplicates = found.total() - len(found)


class Publish(Operation):
    """One at a time, each confirmed."""

    name = "publish"
    confirmed: set[int]

    async def work(self) -> None:
        self.confirmed = set()
        async with self.world.client() as client:
            for number in count():
                if self.is_over:
                    return
                try:
                    await client.publish(b"%d" % number, routing_key=self.queue.name, mandatory=True)
                except rabbitry.PublishFailed as error:
                    self.see(type(error).__name__)
                else:
                    self.confirmed.add(number)
                    self.see("confirmed")
                await anyio.sleep(0.002)

    async def verify(self) -> None:
        self.compare(self.confirmed, await self.arrived())


class Submit(Operation):
    """Pipelined, with a window."""

    name = "submit"
    confirmed: set[int]

    async def work(self) -> None:
        self.confirmed = set()

        def ended(confirmation: Confirmation) -> None:
            if confirmation.outcome == "confirmed":
                self.confirmed.add(confirmation.tag)
            self.see(confirmation.outcome)

        async with self.world.client() as client, client.publisher(window=50, on_outcome=ended) as publisher:
            for number in count():
                if self.is_over:
                    return
                await publisher.submit(b"%d" % number, routing_key=self.queue.name, mandatory=True, tag=number)
                await anyio.sleep(0.001)

    async def verify(self) -> None:
        self.compare(self.confirmed, await self.arrived())


class Consume(Operation):
    """Iterating, while somebody else publishes."""

    name = "consume"
    _is_fed = False

    async def work(self) -> None:
        found: Counter[int] = Counter()
        fed: set[int] = set()
        async with self.world.client() as client, beside() as tg:
            tg.start_soon(self._feed, fed)
            async with client.consume(self.queue, prefetch=20) as deliveries:
                with anyio.CancelScope() as scope:
                    tg.start_soon(end_when, scope, lambda: self._is_fed and fed <= found.keys())
                    async for delivery in deliveries:
                        found[int(delivery.body)] += 1
                        delivery.ack()
                        self.see("received")
        self.compare(fed, found)

    async def _feed(self, fed: set[int]) -> None:
        for number in count():
            if self.is_over:
                break
            try:
                await self.world.calm.publish(b"%d" % number, routing_key=self.queue.name)
            except rabbitry.OutcomeUnknown:
                continue
            fed.add(number)
            await anyio.sleep(0.005)
        self._is_fed = True


async def end_when(scope: anyio.CancelScope, condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.sleep(0.01)
    scope.cancel()


class Ack(Operation):
    """Acknowledging what was delivered before the fault."""

    name = "ack"

    async def work(self) -> None:
        self.is_holding = False
        calm = self.world.calm
        async with self.world.client() as client, client.consume(self.queue, prefetch=1) as deliveries:
            for number in count():
                if self.is_over:
                    break
                await calm.publish(b"%d" % number, routing_key=self.queue.name, on_unknown="republish")
                delivery = await anext(deliveries)
                if self.world.is_armed and not self.is_holding:
                    self.is_holding = True
                    await self.world.struck.wait()
                    await anyio.sleep(0.3)
                try:
                    delivery.ack()
                except rabbitry.StaleDelivery:
                    self.see("StaleDelivery")
                    again = await anext(deliveries)
                    assert again.redelivered  # this one, or one before it whose ack was lost
                    again.ack()
                else:
                    self.see("acked")
            await anyio.sleep(0.05)

    async def verify(self) -> None:
        left = await self.arrived()
        self.duplicates = left.total()  # acknowledged, but the acknowledgement was lost with its connection


class Get(Operation):
    """One at a time, on a raw channel, which belongs to one life."""

    name = "get"

    async def work(self) -> None:
        found: Counter[int] = Counter()
        async with self.world.calm.publisher() as publisher:
            for number in range(PREFILLED):
                await publisher.submit(b"%d" % number, routing_key=self.queue.name)
        async with self.world.client() as client:
            while not self.is_over:
                try:
                    async with client.channel(confirm=False) as channel:
                        while not self.is_over:
                            delivery = await channel.get(self.queue)
                            if delivery is not None:
                                found[int(delivery.body)] += 1
                                delivery.ack()
                            self.see("got")
                            await anyio.sleep(0.01)
                except rabbitry.NotFound:
                    raise
                except (rabbitry.Closed, rabbitry.StaleDelivery) as error:
                    self.see(type(error).__name__)
        self.compare(set(range(PREFILLED)), found + await self.arrived())


class Declare(Operation):
    """Topology, old and new, of which some is this connection's alone."""

    name = "declare"

    async def work(self) -> None:
        declared: list[Queue] = []
        async with self.world.client() as client:
            while not self.is_over:
                queue = Queue(unique("own"), exclusive=True)
                await client.declare(self.queue, queue)
                declared.append(queue)
                self.see("declared")
                await anyio.sleep(0.1)
            self.lost = sum([await client.inspect(queue) is None for queue in declared])


class Rpc(Operation):
    """Calling a server that no fault reaches."""

    name = "rpc"

    async def work(self) -> None:
        async with beside() as tg:
            await tg.start(lambda **status: serve(self, self.world.calm, **status))
            async with self.world.client() as client, client.rpc() as rpc:
                await call(self, rpc)


class Serve(Operation):
    """Answering a caller that no fault reaches."""

    name = "serve"

    async def work(self) -> None:
        async with self.world.client() as client, beside() as tg:
            await tg.start(lambda **status: serve(self, client, **status))
            async with self.world.calm.rpc() as rpc:
                await call(self, rpc)


async def serve(operation: Operation, client: rabbitry.Client, *, task_status: Any) -> None:
    async def double(number: int) -> int:
        return 2 * number

    try:
        await client.serve(operation.queue, double, task_status=task_status)
    except rabbitry.RabbitryError as error:
        operation.see(f"server: {type(error).__name__}", finished=False)


async def call(operation: Operation, rpc: rabbitry.ClientRPC) -> None:
    for number in count():
        if operation.is_over:
            return
        try:
            with anyio.fail_after(operation.world.call_bound):
                reply = await rpc.call(operation.queue.name, number)
        except (rabbitry.OutcomeUnknown, rabbitry.Unroutable, TimeoutError) as error:
            operation.see(type(error).__name__)
        else:
            operation.lost += reply != 2 * number
            operation.see("answered")
        await anyio.sleep(0.005)


class Close(Operation):
    """Leaving a client that publishes and consumes, while the fault lasts."""

    name = "close"

    async def work(self) -> None:
        self.is_holding = False

        async def ignore(delivery: Delivery) -> None: ...

        while not self.is_over:
            async with beside() as tg:
                async with self.world.client() as client:
                    await client.publish(b"1", routing_key=self.queue.name, on_unknown="republish")
                    tg.start_soon(self._process, client, ignore)
                    if self.world.is_armed and not self.is_holding:
                        self.is_holding = True
                        await self.world.struck.wait()
                        with anyio.move_on_after(0.3):  # under an alarm only who publishes is blocked
                            while True:
                                await client.publish(b"1", routing_key=self.queue.name, on_unknown="republish")
                    leaving = anyio.current_time()
                self.slowest_close = max(self.slowest_close, anyio.current_time() - leaving)
            self.see("closed")
            await anyio.sleep(0.2)

    async def _process(self, client: rabbitry.Client, handler: Any) -> None:
        try:
            await client.process(self.queue, handler)
        except (rabbitry.ConsumerCancelled, rabbitry.NotFound, rabbitry.NotConnected) as error:
            self.see(f"process: {type(error).__name__}", finished=False)


OPERATIONS: tuple[type[Operation], ...] = (Publish, Submit, Consume, Ack, Get, Declare, Rpc, Serve, Close)
