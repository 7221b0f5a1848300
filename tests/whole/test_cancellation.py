"""Every public coroutine, cancelled at each of its await points and in the turn of each reply, on both backends.

A case sets its stage, yields the operation and is sent back what became of it; then it shows that nothing was lost,
doubled or left behind. After each attempt the channel does a round trip, or has ended with a clear error.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import pytest

import rabbitry
from rabbitry.testing import PrivateNode
from tests.support import client_cases
from tests.support.cancelling import (
    CASES,
    NATIVELY,
    Attempt,
    Case,
    Moment,
    Operation,
    Post,
    Stage,
    cancel_at,
    case,
    descriptors,
    moments,
)
from tests.support.cancelling import post as post
from tests.support.helpers import check_channel, counts, drain, exclusive_queue, has_counts, unique
from tests.support.in_memory import amqp_url as amqp_url
from tests.support.in_memory import anyio_backend as anyio_backend
from tests.support.in_memory import broker_in_memory as broker_in_memory

assert client_cases  # it registers the client's

BODIES = [b"first", b"second", b"third"]


@pytest.mark.parametrize("case", CASES)
async def test_cancelled_everywhere(case: Case, amqp_url: str, anyio_backend_name: str, post: Post) -> None:
    hits = 0
    async with rabbitry.open_reactor() as reactor:
        # Few channels: one that is not given back would soon be missed.
        async with reactor.connect(amqp_url, channel_max=8) as connection:
            walk = moments(anyio_backend_name)
            moment = next(walk)
            while True:
                stage = Stage(amqp_url, reactor, connection, anyio_backend_name)
                try:
                    with anyio.fail_after(15):
                        attempt = await _attempt(case, stage, moment, post)
                except BaseException as exc:
                    exc.add_note(f"cancelled at: {moment}")
                    raise
                if case.shielded and moment.kind != NATIVELY:  # no shield holds against asyncio itself
                    assert attempt.has_returned, attempt
                hits += attempt.came if case.shielded else attempt.is_cancelled
                try:
                    moment = walk.send(attempt)
                except StopIteration:
                    break
        assert repr(reactor) == "<Reactor with 0 connections>"
    assert hits >= case.least, f"only {hits} moments"


async def _attempt(case: Case, stage: Stage, moment: Moment, post: Post) -> Attempt:
    stage.channel = stage.connection.channel(**case.options)
    async with stage.channel, aclosing(case.play(stage)) as play:
        operation = await anext(play)
        attempt = await cancel_at(operation, moment, post)
        assert attempt.error is None, attempt
        assert attempt.came or not attempt.is_cancelled
        with pytest.raises(StopAsyncIteration):
            await play.asend(attempt)
        if case.may_close and not stage.channel.is_open:
            with pytest.raises(rabbitry.ChannelClosed, match="closed by this program"):
                await stage.channel.declare_queue()
            async with stage.connection.channel() as other:
                await check_channel(other)
        elif stage.channel.is_open:
            await check_channel(stage.channel)
    return attempt


# --- channels --------------------------------------------------------------------------------------------------------


async def entered(channel: rabbitry.Channel, attempt: Attempt, connection: rabbitry.Connection) -> None:
    if attempt.has_returned:
        assert attempt.value is channel
        await check_channel(channel)
        await channel.__aexit__(None, None, None)
    assert not channel.is_open
    with pytest.raises((rabbitry.ChannelClosed, rabbitry.NotConnected)):
        await channel.declare_queue()
    async with connection.channel() as another:
        await check_channel(another)


@case("Channel.__aenter__")
async def channel_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.connection.channel()
    await entered(channel, (yield channel.__aenter__()), stage.connection)


@case("Channel.__aenter__")
async def channel_enter_without_confirms(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.connection.channel(confirm=False)
    await entered(channel, (yield channel.__aenter__()), stage.connection)


@case("Channel.__aexit__", shielded=True)
async def channel_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.connection.channel()
    await channel.__aenter__()
    queue = await exclusive_queue(channel, BODIES)
    await channel.get(queue)
    yield channel.__aexit__(None, None, None)
    assert not channel.is_open
    assert await has_counts(stage.channel, queue, len(BODIES))  # what was got is put back a moment later
    assert await drain(stage.channel, queue) == BODIES


@case("Channel.declare_exchange", "Channel.delete_exchange")
async def declare_exchange(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    exchange = unique()
    attempt = yield stage.channel.declare_exchange(exchange, "fanout", durable=False)
    if attempt.has_returned:
        await stage.channel.declare_exchange(exchange, passive=True)
    await stage.channel.delete_exchange(exchange)


@case("Channel.delete_exchange")
async def delete_exchange(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    exchange = unique()
    await stage.channel.declare_exchange(exchange, durable=False)
    attempt = yield stage.channel.delete_exchange(exchange)
    if attempt.has_returned:
        async with stage.connection.channel() as other:
            with pytest.raises(rabbitry.NotFound):
                await other.declare_exchange(exchange, passive=True)
    await stage.channel.delete_exchange(exchange)


async def two_exchanges(channel: rabbitry.Channel) -> tuple[str, str, str]:
    """One that a queue is bound to, one that nothing is bound to."""
    queue, source, target = await exclusive_queue(channel), unique("source"), unique("target")
    for exchange in (source, target):
        await channel.declare_exchange(exchange, "fanout", durable=False, auto_delete=True)
    await channel.bind_queue(queue, target)
    return queue, source, target


@case("Channel.bind_exchange")
async def bind_exchange(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.channel
    queue, source, target = await two_exchanges(channel)
    attempt = yield channel.bind_exchange(target, source)
    await channel.publish(b"routed?", exchange=source)
    assert (await counts(channel, queue))[0] in ((1,) if attempt.has_returned else (0, 1))
    await channel.bind_exchange(target, source)
    await channel.unbind_exchange(target, source)


@case("Channel.unbind_exchange")
async def unbind_exchange(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.channel
    queue, source, target = await two_exchanges(channel)
    source2 = unique("keeper")  # so that an auto-delete source outlives the unbinding
    await channel.declare_exchange(source2, "fanout", durable=False)
    await channel.bind_exchange(target, source2)
    attempt = yield channel.unbind_exchange(target, source2)
    await channel.publish(b"routed?", exchange=source2)
    assert (await counts(channel, queue))[0] in ((0,) if attempt.has_returned else (0, 1))
    await channel.delete_exchange(source2)
    await channel.delete_exchange(source)


@case("Channel.declare")
async def declare(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue, exchange = rabbitry.Queue(unique(), exclusive=True), rabbitry.Exchange(unique(), "fanout")
    entities = rabbitry.Binding(queue, exchange), exchange, queue
    attempt = yield stage.channel.declare(*entities)
    if not attempt.has_returned:
        await stage.channel.declare(*entities)
    await stage.channel.publish(b"x", exchange=exchange.name, mandatory=True)
    await stage.channel.delete_exchange(exchange)


@case("Channel.declare_queue")
async def declare_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = unique()
    attempt = yield stage.channel.declare_queue(queue, exclusive=True)
    if attempt.has_returned:
        assert attempt.value == rabbitry.QueueInfo(queue, 0, 0)
        assert await has_counts(stage.channel, queue, 0)
    await stage.channel.delete_queue(queue)


@case("Channel.declare_queue")
async def declare_server_named_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    # Not exclusive, so that one left behind would outlive the connection: `test_no_queue_is_left_behind` looks for it.
    attempt = yield stage.channel.declare_queue(durable=False, arguments={"x-max-priority": 7})
    if attempt.has_returned:
        await stage.channel.delete_queue(attempt.value.name)


@case("Channel.delete_queue")
async def delete_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    attempt = yield stage.channel.delete_queue(queue)
    if attempt.has_returned:
        assert attempt.value == 3
        async with stage.connection.channel() as other:
            with pytest.raises(rabbitry.NotFound):
                await counts(other, queue)
    assert await stage.channel.delete_queue(queue) in (0, 3)


@case("Channel.purge_queue")
async def purge_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    attempt = yield stage.channel.purge_queue(queue)
    if attempt.has_returned:
        assert attempt.value == 3
        assert await has_counts(stage.channel, queue, 0)
    assert await stage.channel.purge_queue(queue) in (0, 3)


@case("Channel.bind_queue")
async def bind_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    attempt = yield stage.channel.bind_queue(queue, "amq.topic", f"{queue}.#")
    await stage.channel.publish(b"routed?", exchange="amq.topic", routing_key=f"{queue}.x")
    assert (await counts(stage.channel, queue))[0] in ((1,) if attempt.has_returned else (0, 1))


@case("Channel.unbind_queue")
async def unbind_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    await stage.channel.bind_queue(queue, "amq.topic", f"{queue}.#")
    attempt = yield stage.channel.unbind_queue(queue, "amq.topic", f"{queue}.#")
    await stage.channel.publish(b"routed?", exchange="amq.topic", routing_key=f"{queue}.x")
    assert (await counts(stage.channel, queue))[0] in ((0,) if attempt.has_returned else (0, 1))


@case("Channel.qos")
async def qos(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    attempt = yield stage.channel.qos(2)
    async with stage.channel.consume(queue):
        # Whether the cancelled one took effect is unknown, but then the next consumer must ask for what it wants.
        await until_ready(stage, queue, 1 if attempt.has_returned else 0, 1)
    async with stage.channel.consume(queue, prefetch=1):
        assert await has_counts(stage.channel, queue, 2, 1)


async def until_ready(stage: Stage, queue: str, *wanted: int) -> None:
    with anyio.fail_after(5):
        while (await counts(stage.channel, queue))[0] not in wanted:
            await anyio.sleep(0.002)


@case("Channel.flow")
async def flow(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    yield stage.channel.flow(True)


@case("Channel.recover")
async def recover(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.channel
    queue = await exclusive_queue(channel, BODIES)
    old = [await channel.get(queue) for _ in range(2)]
    attempt = yield channel.recover()
    assert old[0] is not None and old[1] is not None
    if attempt.has_returned or old[0].is_stale:
        with pytest.raises(rabbitry.StaleDelivery):
            old[0].ack()
        assert await drain(channel, queue) == BODIES
    else:
        for delivery in old:
            assert delivery is not None
            delivery.ack()
        assert await drain(channel, queue) == BODIES[2:]


# --- transactions ----------------------------------------------------------------------------------------------------


async def check_transaction(channel: rabbitry.Channel, queue: str, before: list[bytes]) -> None:
    """A transaction is what it should be; leaves the channel without one in progress."""
    await channel.publish(b"rolled back", routing_key=queue)
    await channel.rollback_tx()
    await channel.publish(b"committed", routing_key=queue)
    await channel.commit_tx()
    assert await drain(channel, queue) == [*before, b"committed"]
    await channel.commit_tx()


@case("Channel.select_tx", confirm=False)
async def select_tx(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    stage.channel, outer = stage.connection.channel(confirm=False), stage.channel
    async with stage.channel as channel:
        queue = await exclusive_queue(channel)
        attempt = yield channel.select_tx()
        if not attempt.has_returned:
            await channel.select_tx()
        await check_transaction(channel, queue, [])
    stage.channel = outer


@case("Channel.commit_tx", may_close=True, confirm=False, rabbitmq="it minds what follows a commit")
async def commit_tx(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.connection.channel(confirm=False)
    async with channel:
        await channel.select_tx()
        queue = await exclusive_queue(channel)
        await channel.publish(b"message", routing_key=queue)
        attempt = yield channel.commit_tx()
        if attempt.has_returned:
            await check_transaction(channel, queue, [b"message"])
        elif channel.is_open:  # nothing was committed yet
            assert attempt.moment.kind == "start"
            await channel.rollback_tx()
            await check_transaction(channel, queue, [])
        else:
            with pytest.raises(rabbitry.ChannelClosed, match="closed by this program"):
                await channel.publish(b"", routing_key=queue)
            assert await drain(stage.channel, queue) in ([], [b"message"])


@case("Channel.rollback_tx", confirm=False)
async def rollback_tx(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    channel = stage.connection.channel(confirm=False)
    async with channel:
        queue = await exclusive_queue(channel, BODIES)
        await channel.select_tx()
        taken = [await channel.get(queue) for _ in BODIES]
        taken[0].ack()  # type: ignore[union-attr]
        await channel.publish(b"gone", routing_key=queue)
        attempt = yield channel.rollback_tx()
        if attempt.moment.kind == "start":
            await channel.rollback_tx()
        await counts(channel, queue)  # the reply has come
        assert not any(delivery.is_settled for delivery in taken if delivery is not None)
        for delivery in taken:
            delivery.ack()  # type: ignore[union-attr]
        await channel.commit_tx()
        await check_transaction(channel, queue, [])


# --- publishing ------------------------------------------------------------------------------------------------------


async def published(stage: Stage, attempt: Attempt, queue: str, body: bytes = b"message") -> None:
    """Once where it returned, at most once where it was cancelled, not at all where it was cancelled before."""
    await stage.channel.publish(b"next", routing_key=queue)
    *bodies, last = await drain(stage.channel, queue)
    assert last == b"next"
    if attempt.has_returned:
        assert bodies == [body]
    else:
        assert bodies in ([], [body])
    if attempt.moment.kind == "start":
        assert bodies == []


@case("Channel.publish")
async def publish(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    await published(stage, (yield stage.channel.publish(b"message", routing_key=queue)), queue)


@case("Channel.publish")
async def publish_large(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    body = bytes(1_000_000)
    await published(stage, (yield stage.channel.publish(body, routing_key=queue)), queue, body)


@case("Channel.publish")
async def publish_mandatory(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    attempt = yield stage.channel.publish(b"message", routing_key=queue, mandatory=True)
    await published(stage, attempt, queue)
    with pytest.raises(rabbitry.Unroutable):
        await stage.channel.publish(b"", routing_key=unique(), mandatory=True)


@case("Channel.publish", least=1, confirm=False)
async def publish_without_confirms(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    await published(stage, (yield stage.channel.publish(b"message", routing_key=queue)), queue)


@case("Channel.publish", least=2, confirm=False)
async def publish_without_room(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    sent = 0
    with pytest.raises(anyio.WouldBlock):
        while True:
            stage.channel.publish_nowait(bytes(1_000_000), routing_key=queue)
            sent += 1
    attempt = yield stage.channel.publish(b"message", routing_key=queue)
    assert await has_counts(stage.channel, queue, sent + attempt.has_returned)


@case("Confirmation.wait", least=2)
async def confirmation_wait(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    confirmation = stage.channel.publish_nowait(b"message", routing_key=queue)
    assert confirmation is not None
    yield confirmation.wait()
    await confirmation.wait()
    assert confirmation.outcome == "confirmed"
    assert await drain(stage.channel, queue) == [b"message"]


@case("Publisher.__aenter__", least=1)
async def publisher_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    publisher = stage.channel.publisher()
    attempt = yield publisher.__aenter__()
    assert attempt.value is (publisher if attempt.has_returned else None)


@case("Publisher.__aexit__", least=2)
async def publisher_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    publisher = stage.channel.publisher()
    await publisher.__aenter__()
    for body in BODIES:
        await publisher.submit(body, routing_key=queue)
    attempt = yield publisher.__aexit__(None, None, None)
    if not attempt.has_returned:
        await publisher.__aexit__(None, None, None)
    assert (publisher.sent, publisher.confirmed, publisher.failed, publisher.pending) == (3, 3, 0, 0)
    assert await drain(stage.channel, queue) == BODIES


@case("Publisher.submit", least=1)
async def publisher_submit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.publisher() as publisher:
        attempt = yield publisher.submit(b"message", routing_key=queue)
    assert publisher.sent == publisher.confirmed == attempt.has_returned
    assert await drain(stage.channel, queue) == [b"message"] * attempt.has_returned


@case("Publisher.submit", least=2)
async def publisher_submit_with_a_full_window(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.publisher(window=1) as publisher:
        await publisher.submit(b"former", routing_key=queue)
        attempt = yield publisher.submit(b"message", routing_key=queue)
    assert publisher.sent == publisher.confirmed == 1 + attempt.has_returned
    assert await drain(stage.channel, queue) == [b"former"] + [b"message"] * attempt.has_returned


@case("Publisher.publish", least=3)
async def publisher_publish(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.publisher(window=1) as publisher:
        await publisher.submit(b"former", routing_key=queue)
        attempt = yield publisher.publish(b"message", routing_key=queue)
    assert publisher.sent == publisher.confirmed
    assert await drain(stage.channel, queue) == [b"former", b"message"][: publisher.sent]
    assert publisher.sent == 2 or not attempt.has_returned


@case("Publisher.flush", least=2)
async def publisher_flush(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.publisher() as publisher:
        for body in BODIES:
            await publisher.submit(body, routing_key=queue)
        attempt = yield publisher.flush()
        assert publisher.pending == 0 or not attempt.has_returned
    assert await drain(stage.channel, queue) == BODIES


# --- consuming -------------------------------------------------------------------------------------------------------


@case("Channel.get")
async def get(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    attempt = yield stage.channel.get(queue)
    rest = BODIES
    if attempt.has_returned:
        assert attempt.value.body == b"first"
        attempt.value.ack()
        rest = BODIES[1:]
    assert sorted(await drain(stage.channel, queue)) == sorted(rest)


@case("Channel.get")
async def get_without_ack(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    attempt = yield stage.channel.get(queue, no_ack=True)
    taken = [attempt.value.body] if attempt.has_returned else []
    if attempt.moment.kind == "suspension":
        await counts(stage.channel, queue)  # the late reply has come: its message waits for the next get
    assert taken + await drain(stage.channel, queue) == BODIES


@case("Channel.get")
async def get_from_an_empty_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    attempt = yield stage.channel.get(queue)
    assert attempt.value is None
    await stage.channel.publish(b"message", routing_key=queue)
    assert await drain(stage.channel, queue) == [b"message"]


@case("Consumer.__aenter__", rabbitmq="it crashes where a cancel overtakes consume-ok")
async def consumer_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    consumer = stage.channel.consume(queue)
    attempt = yield consumer.__aenter__()
    if attempt.has_returned:
        assert attempt.value is consumer
        assert (await anext(consumer)).body == b"first"
        await consumer.__aexit__(None, None, None)
        assert await has_counts(stage.channel, queue, 2)
    else:
        # Put back although the channel lives on, and without anybody leaving the consumer.
        assert await has_counts(stage.channel, queue, 3)


@case("Consumer.__aenter__", rabbitmq="it crashes where a cancel overtakes consume-ok")
async def consumer_enter_without_ack(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    consumer = stage.channel.consume(queue, no_ack=True)
    attempt = yield consumer.__aenter__()
    assert await has_counts(stage.channel, queue, 0, int(attempt.has_returned))
    await consumer.__aexit__(None, None, None)
    assert await has_counts(stage.channel, queue, 0)
    await stage.channel.publish(b"message", routing_key=queue)
    assert await has_counts(stage.channel, queue, 1)


@case("Consumer.__aexit__", shielded=True)
async def consumer_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    consumer = stage.channel.consume(queue)
    await consumer.__aenter__()
    taken = await anext(consumer)
    yield consumer.__aexit__(None, None, None)
    assert await has_counts(stage.channel, queue, 2)
    taken.ack()
    assert await drain(stage.channel, queue) == BODIES[1:]


async def iterated(stage: Stage, queue: str, consumer: rabbitry.Consumer, attempt: Attempt) -> None:
    """What the cancelled call did not hand out, the next one does."""
    bodies = []
    if attempt.has_returned:
        bodies.append(attempt.value.body)
        attempt.value.ack()
    with anyio.fail_after(5):
        while len(bodies) < 3:
            delivery = await anext(consumer)
            bodies.append(delivery.body)
            delivery.ack()
    assert bodies == BODIES
    assert await has_counts(stage.channel, queue, 0, 1)


@case("Consumer.__anext__", least=1)
async def consumer_next(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    async with stage.channel.consume(queue) as consumer:
        await until_ready(stage, queue, 0)
        await iterated(stage, queue, consumer, (yield consumer.__anext__()))


@case("Consumer.__anext__", least=2)  # it waits once: the checkpoint is where nothing needs to be waited for
async def consumer_next_that_waits(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.consume(queue) as consumer, stage.connection.channel() as other:
        for body in BODIES:
            other.publish_nowait(body, routing_key=queue)
        await iterated(stage, queue, consumer, (yield consumer.__anext__()))


@case("Batches.__anext__", least=2)  # all three may be there at its second look
async def batch_next(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with stage.channel.consume(queue) as consumer, stage.connection.channel() as other:
        batches = consumer.batches(3, within=5)
        for body in BODIES:
            other.publish_nowait(body, routing_key=queue)
        attempt = yield batches.__anext__()
        batch = attempt.value if attempt.has_returned else await anext(batches)
        assert [delivery.body for delivery in batch] == BODIES
        batch.ack()
        assert await has_counts(stage.channel, queue, 0, 1)


@case("Batches.__anext__", least=2)
async def batch_next_cancelled_half_full(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel, BODIES)
    async with stage.channel.consume(queue) as consumer:
        attempt = yield consumer.batches(4, within=0.05).__anext__()
        if attempt.has_returned:
            attempt.value.nack()
    assert await has_counts(stage.channel, queue, 3)


# --- connections -----------------------------------------------------------------------------------------------------


@case("Connection.__aenter__")
async def connection_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    before = descriptors()
    connection = stage.reactor.connect(stage.url)
    attempt = yield connection.__aenter__()
    if attempt.has_returned:
        assert attempt.value is connection
        async with connection.channel() as channel:
            await check_channel(channel)
        await connection.__aexit__(None, None, None)
    assert not connection.is_open
    assert repr(stage.reactor) == "<Reactor with 1 connections>"
    assert descriptors() == before


@case("Connection.__aexit__", shielded=True)
async def connection_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    before = descriptors()
    connection = stage.reactor.connect(stage.url)
    await connection.__aenter__()
    channel = connection.channel()
    await channel.__aenter__()
    yield connection.__aexit__(None, None, None)
    assert not connection.is_open
    with pytest.raises(rabbitry.ConnectionClosed, match="closed by this program"):
        await channel.publish(b"")
    await channel.__aexit__(None, None, None)
    await connection.wait_closed()
    assert descriptors() == before


@case("Connection.__aenter__", "Connection.__aexit__", "open_reactor")
async def connect_alone(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    """`rabbitry.connect`, which has a reactor of its own: entered and left in one cancel scope, as it must be."""

    async def operation() -> str:
        async with rabbitry.connect(stage.url) as connection:
            assert connection.is_open
        return "done"

    before = descriptors()
    attempt = yield operation()
    assert attempt.value == ("done" if attempt.has_returned else None)
    assert descriptors() == before


@case("open_reactor")
async def open_reactor_and_connect(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    connections = []

    async def operation() -> str:
        async with rabbitry.open_reactor() as reactor:
            for _ in range(2):
                connections.append(reactor.connect(stage.url))
                await connections[-1].__aenter__()
        return "done"  # the reactor has closed them

    before = descriptors()
    yield operation()
    for connection in connections:
        assert not connection.is_open
    assert descriptors() == before


@case("Connection.update_secret")
async def update_secret(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    attempt = yield stage.connection.update_secret("secret")
    assert attempt.value is None
    await stage.connection.update_secret(b"another", "just so")


@case("Connection.wait_closed", least=1)
async def wait_closed(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    connection = stage.reactor.connect(stage.url)
    await connection.__aenter__()

    async def operation() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.__aexit__, None, None, None)
            await connection.wait_closed()

    yield operation()
    assert not connection.is_open
    await connection.wait_closed()


# --- RPC -------------------------------------------------------------------------------------------------------------


async def double(number: int) -> int:
    return 2 * number


@case("RPC.__aenter__", least=4)
async def rpc_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    rpc = stage.connection.rpc()
    attempt = yield rpc.__aenter__()
    if attempt.has_returned:
        with pytest.raises(rabbitry.Unroutable):
            await rpc.call(unique())
        await rpc.__aexit__(None, None, None)
    with pytest.raises((rabbitry.ChannelClosed, rabbitry.NotConnected)):
        await rpc.call("x")


@case("RPC.__aexit__", shielded=True)
async def rpc_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    rpc = stage.connection.rpc()
    await rpc.__aenter__()
    yield rpc.__aexit__(None, None, None)
    with pytest.raises(rabbitry.ChannelClosed):
        await rpc.call("x")


@case("RPC.call")
async def rpc_call(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stage.connection.serve, queue, double)
        async with stage.connection.rpc() as rpc:
            attempt = yield rpc.call(queue, 21)
            assert attempt.value == (42 if attempt.has_returned else None)
            assert [await rpc.call(queue, number) for number in range(3)] == [0, 2, 4]
            assert repr(rpc).startswith("<RPC 0 calls in flight")
            assert rpc.late_replies in ((0,) if attempt.has_returned else (0, 1))
        tg.cancel_scope.cancel()
    assert await has_counts(stage.channel, queue, 0)


@case("RPC.request")
async def rpc_request(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stage.connection.serve, queue, double)
        async with stage.connection.rpc() as rpc:
            attempt = yield rpc.request(rabbitry.Message.msgpack(21), queue)
            assert not attempt.has_returned or attempt.value.decode() == 42
            assert (await rpc.request(rabbitry.Message.msgpack(1), queue)).decode() == 2
            assert rpc.late_replies in ((0,) if attempt.has_returned else (0, 1))
        tg.cancel_scope.cancel()
    assert await has_counts(stage.channel, queue, 0)


@case("Connection.serve", least=5)
async def serve(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    """Each request is answered, or put back and not answered."""
    queue, replies = await exclusive_queue(stage.channel), await exclusive_queue(stage.channel)
    for number in range(3):
        await stage.channel.publish(rabbitry.Message.msgpack(number, reply_to=replies), routing_key=queue)
    last = anyio.Event()

    async def handler(number: int) -> int:
        if number == 2:
            last.set()
        await anyio.sleep(0.001 * number)
        return 2 * number

    async def operation() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(stop, tg.cancel_scope)
            await stage.connection.serve(queue, handler)

    async def stop(scope: anyio.CancelScope) -> None:
        await last.wait()
        await anyio.sleep(0.01)
        scope.cancel()

    yield operation()
    answered = len(await drain(stage.channel, replies))
    assert await has_counts(stage.channel, queue, 3 - answered)


# --- nothing is missing ----------------------------------------------------------------------------------------------


def public_coroutines() -> set[str]:
    """The coroutines of everything that rabbitry exports, `Class.method`, and its asynchronous context managers."""
    found = set()
    for name in rabbitry.__all__:
        public = getattr(rabbitry, name)
        if inspect.isclass(public):
            for attribute, value in inspect.getmembers(public, inspect.iscoroutinefunction):
                if attribute.startswith("__") or not attribute.startswith("_"):
                    owner = value.__qualname__.removesuffix(f".{attribute}")
                    found.add(f"{owner if owner in rabbitry.__all__ else name}.{attribute}")
        elif inspect.iscoroutinefunction(public) or inspect.isasyncgenfunction(inspect.unwrap(public)):
            found.add(name)
    return found


def test_every_public_coroutine_has_a_case() -> None:
    covered = {name for parameters in CASES for name in parameters.values[0].covers}
    assert public_coroutines() == covered


async def test_no_queue_is_left_behind(node: PrivateNode, post: Post, anyio_backend_name: str) -> None:
    """A server-named queue whose declaration was cancelled is deleted again: nobody knows its name."""
    before = _generated_queues(node)
    play = next(parameters for parameters in CASES if parameters.id == "declare_server_named_queue")
    await test_cancelled_everywhere(play.values[0], node.url, anyio_backend_name, post)
    assert _generated_queues(node) <= before


def _generated_queues(node: PrivateNode) -> set[str]:
    return {
        line.split()[0] for line in node.rabbitmqctl("list_queues", "name").splitlines() if line.startswith("amq.gen")
    }
