"""What the broker holds is bounded, and whoever makes it hold much keeps nobody else waiting; on both backends."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

import rabbitry
from rabbitry.broker import Broker
from rabbitry.broker.entries import Entry
from rabbitry.broker.listening import Listening
from rabbitry.broker.memory import memory_streams
from rabbitry.broker.messages import Facts, Message
from rabbitry.broker.peer import ROOM
from rabbitry.broker.unsettled import SPARE, Unsettled, UnsettledDeliveries
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.properties import Properties, encode_properties
from tests.broker.test_broker import sessions
from tests.broker.test_ways_in import client_context, server_context
from tests.protocol.server.test_hostile import HANDSHAKE
from tests.support.helpers import check_channel, until
from tests.support.protocol_broker import content_frames, method_frame

BODY = b"x" * 100_000
LIMIT = 4_000_000
WAYS = pytest.mark.parametrize("way", ["memory", "port"])


async def way_in(broker: Broker, way: str) -> Callable[[], rabbitry.Connection]:
    """How to connect to it."""
    if way == "memory":
        return broker.connect
    await broker.listen()
    return partial(rabbitry.connect, broker.url)


async def raw(broker: Broker, way: str) -> ByteStream:
    """A connection on which nothing has been said."""
    if way == "memory":
        return await broker.dial("", 0)
    return await anyio.connect_tcp("127.0.0.1", int(broker.url.rpartition(":")[2]))


def largest_queued(broker: Broker) -> int:
    """The most octets that wait to be sent to one client."""
    return max(each._connection.out_size for each in sessions(broker))


# --- memory ----------------------------------------------------------------------------------------------------------


@WAYS
async def test_publishers_wait_while_queues_hold_too_much(way: str) -> None:
    async with Broker(memory_limit=LIMIT) as broker:
        connect = await way_in(broker, way)
        async with connect() as publishing, publishing.channel() as channel, connect() as other:
            await channel.declare_queue("q")
            with anyio.move_on_after(1):
                for _ in range(200):
                    await channel.publish(BODY, routing_key="q")
            assert publishing.is_blocked
            assert broker._world.used_octets < LIMIT * 1.3
            async with other.channel() as there:
                assert await there.get("q", no_ack=True) is not None
            broker.drain("q")
            await until(lambda: not publishing.is_blocked)
            await check_channel(channel)


async def test_headers_count_as_bodies_do() -> None:
    message = rabbitry.Message(b"", headers={"fields": "x" * 50_000})
    async with Broker(memory_limit=LIMIT, history=0) as broker, broker.connect() as connection:
        async with connection.channel() as channel:
            await channel.declare_queue("q")
            with anyio.move_on_after(1):
                for _ in range(400):
                    await channel.publish(message, routing_key="q")
            assert connection.is_blocked
            assert LIMIT < broker._world.used_octets < LIMIT * 1.3
            broker.drain("q")
            await until(lambda: not connection.is_blocked)


@WAYS
async def test_what_consumers_hold_counts(way: str) -> None:
    async with Broker(memory_limit=LIMIT) as broker:
        connect = await way_in(broker, way)
        async with connect() as connection, connection.channel() as channel, connect() as publishing:
            await channel.declare_queue("q")
            async with channel.consume("q", prefetch=1000) as deliveries, publishing.channel() as there:
                held = []
                with anyio.move_on_after(1):
                    for _ in range(200):
                        await there.publish(BODY, routing_key="q")
                        held.append(await deliveries.__anext__())
                assert publishing.is_blocked and len(held) * len(BODY) < LIMIT * 1.3
                for delivery in held:
                    delivery.ack()
                await until(lambda: not publishing.is_blocked)


async def test_an_alarm_by_command_outlives_the_memorys_own() -> None:
    async with Broker(memory_limit=LIMIT) as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        broker.raise_alarm("disk")
        channel.publish_nowait(b"m", routing_key="q")
        await until(lambda: connection.is_blocked)
        await anyio.sleep(0.25)
        assert connection.is_blocked
        broker.clear_alarm("disk")
        await until(lambda: not connection.is_blocked)


async def test_the_memorys_own_alarm_is_not_ended_by_command() -> None:
    async with Broker(memory_limit=LIMIT) as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        while not connection.is_blocked:
            with suppress(anyio.WouldBlock):
                channel.publish_nowait(BODY, routing_key="q")
            await checkpoint()
        broker.raise_alarm()
        broker.stop_faults()
        broker.clear_alarm()
        await anyio.sleep(0.25)
        assert connection.is_blocked
        broker.drain("q")
        await until(lambda: not connection.is_blocked)


async def test_an_alarm_of_memory_by_command_outlives_the_memorys_own() -> None:
    async with Broker(memory_limit=LIMIT) as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        while not connection.is_blocked:
            with suppress(anyio.WouldBlock):
                channel.publish_nowait(BODY, routing_key="q")
            await checkpoint()
        broker.raise_alarm()
        broker.drain("q")
        await anyio.sleep(0.25)
        assert connection.is_blocked
        broker.clear_alarm()
        await until(lambda: not connection.is_blocked)


# --- a client that stops reading -------------------------------------------------------------------------------------


@WAYS
async def test_answers_to_a_client_that_does_not_read_are_not_made(way: str) -> None:
    """Many large gets in few octets: they would be copied all at once."""
    async with Broker() as broker:
        connect = await way_in(broker, way)
        async with connect() as connection, connection.channel() as channel, await raw(broker, way) as stream:
            await channel.declare_queue("q")
            for _ in range(400):
                broker.publish(BODY, "q")
            get = method_frame(1, methods.BasicGet(queue="q", no_ack=True))
            await stream.send(b"".join((*HANDSHAKE, method_frame(1, methods.ChannelOpen()), get * 400)))
            await until(lambda: len(broker.queue("q").ready) < 400)
            await anyio.sleep(0.1)
            assert largest_queued(broker) < 2 * ROOM + 2 * len(BODY)
            assert len(broker.queue("q").ready) > 100
            await check_channel(channel)
            received = 0
            with anyio.fail_after(20):
                while received < 400 * len(BODY):
                    received += len(await stream.receive(2**20))
            assert not broker.queue("q").ready


@WAYS
async def test_what_it_is_not_given_others_get(way: str) -> None:
    async with Broker() as broker:
        connect = await way_in(broker, way)
        async with connect() as one, connect() as other, await raw(broker, way) as stream:
            async with one.channel() as publishing, other.channel(prefetch=10) as consuming:
                await publishing.declare_queue("q")
                consume = method_frame(1, methods.BasicConsume(queue="q"))
                await stream.send(b"".join((*HANDSHAKE, method_frame(1, methods.ChannelOpen()), consume)))
                await until(lambda: len(broker.queue("q").consumers) == 1)
                with anyio.fail_after(20):
                    for _ in range(100):
                        await publishing.publish(BODY, routing_key="q")
                    async with consuming.consume("q") as deliveries:
                        for _ in range(150):
                            await publishing.publish(BODY, routing_key="q")
                            (await deliveries.__anext__()).ack()
                assert largest_queued(broker) < ROOM + 2 * len(BODY)


@WAYS
async def test_returns_that_are_not_read_hold_up_whom_they_are_for(way: str) -> None:
    async with Broker() as broker:
        connect = await way_in(broker, way)
        async with connect() as connection, connection.channel() as channel, await raw(broker, way) as stream:
            publish = b"".join(content_frames(1, methods.BasicPublish(routing_key="nowhere", mandatory=True), BODY))
            await stream.send(b"".join((*HANDSHAKE, method_frame(1, methods.ChannelOpen()))))
            sent = 0
            with anyio.move_on_after(1):
                for _ in range(400):
                    await stream.send(publish)
                    sent += 1
            assert sent < 400, "nobody reads what it publishes"
            assert largest_queued(broker) < 2 * ROOM + 2 * len(BODY)
            with anyio.fail_after(10):
                await check_channel(channel)


@WAYS
async def test_replies_that_are_not_read_count(way: str) -> None:
    async with Broker(memory_limit=LIMIT) as broker:
        connect = await way_in(broker, way)
        async with connect() as serving, serving.channel() as channel, connect() as other:
            await channel.declare_queue("q")
            async with await raw(broker, way) as stream:
                consume = methods.BasicConsume(queue="amq.rabbitmq.reply-to", no_ack=True)
                asking = Properties(reply_to="amq.rabbitmq.reply-to")
                frames = [method_frame(1, methods.ChannelOpen()), method_frame(1, consume)]
                frames += content_frames(
                    1, methods.BasicPublish(routing_key="q"), b"request", encode_properties(asking)
                )
                await stream.send(b"".join((*HANDSHAKE, *frames)))
                await until(lambda: broker.queue("q").ready)
                request = await channel.get("q", no_ack=True)
                assert request is not None and request.properties.reply_to is not None
                with anyio.move_on_after(1):
                    for _ in range(200):
                        await channel.publish(BODY, routing_key=request.properties.reply_to)
                assert serving.is_blocked
                assert broker._world.used_octets < LIMIT * 1.5
                async with other.channel() as there:
                    assert await there.get("q") is None
            await until(lambda: not serving.is_blocked)  # the caller is gone, and what it has not read
            await check_channel(channel)


# --- a slow consumer, and a long queue -------------------------------------------------------------------------------


@WAYS
async def test_a_slow_consumer_keeps_nobody_waiting(way: str) -> None:
    async with Broker() as broker:
        connect = await way_in(broker, way)
        async with connect() as slow, connect() as quick:
            async with slow.channel(prefetch=1) as one, quick.channel(prefetch=100) as two:
                await one.declare_queue("q")
                async with one.consume("q") as never, two.consume("q") as deliveries:
                    for _ in range(500):
                        broker.publish(b"m", "q")
                    await never.__anext__()
                    with anyio.fail_after(10):
                        for _ in range(499):
                            (await deliveries.__anext__()).ack()
                    await until(lambda: len(broker.queue("q").unacknowledged) == 1)


@WAYS
async def test_a_hundred_thousand_messages_in_a_queue(way: str) -> None:
    async with Broker(history=0) as broker:
        connect = await way_in(broker, way)
        async with connect() as connection, connection.channel(prefetch=500) as channel, connect() as other:
            await channel.declare_queue("q")
            message = rabbitry.Message(b"m")
            for _ in range(100_000):
                broker.publish(message, "q")
            assert (await channel.declare_queue("q", passive=True)).message_count == 100_000
            async with channel.consume("q") as deliveries, other.channel() as there:
                for _ in range(1000):
                    (await deliveries.__anext__()).ack()
                with anyio.fail_after(5):
                    await check_channel(there)
            assert broker._world.used_octets < 100_000 * 520


async def test_a_message_takes_no_more_than_is_counted() -> None:
    async with Broker(history=0) as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(5000):
                broker.publish(b"%d" % number, "q")
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert 5000 * 100 < taken < broker._world.used_octets


def test_settled_deliveries_behind_an_unsettled_one_are_forgotten() -> None:
    entry = Entry(Message("", ("q",), b"", b"", Facts({}, None, None, None, None)), 0, 0, None)
    deliveries = UnsettledDeliveries()
    for tag in range(1, 2000):
        deliveries.add(Unsettled(tag, entry, None, None, 0.0))
        if tag > 2:
            deliveries.take(tag, multiple=False)
    assert len(deliveries) == 2 and len(deliveries._order) <= 2 * 2 + SPARE + 1
    assert [one.tag for one in deliveries.take(2, multiple=True)] == [1, 2]


# --- a flood of connections ------------------------------------------------------------------------------------------


async def test_a_flood_of_connections_to_the_port() -> None:
    async with Broker(max_connections=50) as broker:
        await broker.listen()
        async with rabbitry.connect(broker.url) as connection, connection.channel() as channel:
            streams = [await raw(broker, "port") for _ in range(100)]
            await check_channel(channel)
            await until(lambda: len(sessions(broker)) == 50)
            for stream in streams:
                await stream.aclose()
            await until(lambda: len(sessions(broker)) == 1)
            async with rabbitry.connect(broker.url):
                pass


async def test_a_flood_of_connections_in_memory() -> None:
    async with Broker(max_connections=50) as broker:
        async with broker.connect() as connection, connection.channel() as channel:
            streams = [await broker.dial("", 0) for _ in range(49)]
            with pytest.raises(ConnectionRefusedError):
                await broker.dial("", 0)
            with pytest.raises(rabbitry.ConnectFailed, match="refuses connections"):
                async with broker.connect():
                    pass
            await check_channel(channel)
            for stream in streams:
                await stream.aclose()
            await until(lambda: len(sessions(broker)) == 1)
            async with broker.connect():
                pass


async def test_a_flood_of_connections_that_never_speak_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rabbitry.broker.listening.MOST_HANDSHAKES", 5)
    async with Broker() as broker:
        await broker.listen(tls=server_context())
        async with rabbitry.connect(broker.url, ssl_context=client_context()) as connection:
            streams = [await raw(broker, "port") for _ in range(8)]
            for stream in streams[5:]:
                with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            async with connection.channel() as channel:
                await check_channel(channel)
            for stream in streams:
                await stream.aclose()
            with anyio.fail_after(5):
                await until_connected(broker.url)


async def until_connected(url: str) -> None:
    """The places of those who have left are free in a moment."""
    while True:
        with suppress(rabbitry.ConnectFailed):
            async with rabbitry.connect(url, ssl_context=client_context()):
                return
        await anyio.sleep(0.01)


@pytest.fixture
def url_of_one_with_few_descriptors() -> Iterator[str]:
    """A broker in a process of its own."""
    command = [sys.executable, "-m", "rabbitry", "broker", "--port", "0", "--json"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=limit) as child:
        assert child.stdout is not None
        try:
            yield json.loads(child.stdout.readline())["url"]
        finally:
            child.terminate()


async def test_a_flood_beyond_the_descriptors(url_of_one_with_few_descriptors: str) -> None:
    """Who is there goes on, and others come once there is room."""
    url = url_of_one_with_few_descriptors
    async with rabbitry.connect(url) as connection, connection.channel() as channel:
        streams = [await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(60)]
        for _ in range(20):
            with anyio.fail_after(5):
                await check_channel(channel)
        for stream in streams:
            await stream.aclose()
        with anyio.fail_after(20):
            async with rabbitry.connect(url):
                pass


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), anyio.BrokenResourceError()])
async def test_an_accept_that_fails_ends_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each connection has a task of its own."""
    monkeypatch.setattr("rabbitry.broker.listening.PAUSE", 0.01)
    async with Broker() as broker:
        theirs, ours = memory_streams()
        outcomes: list[object] = [error, error, ours]

        class Listener:
            async def accept(self) -> object:
                if not outcomes:
                    await anyio.sleep_forever()
                outcome = outcomes.pop(0)
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

        listening = Listening([], "", broker._new_session, None, None)
        async with anyio.create_task_group() as tg:
            tg.start_soon(listening._accept_streams, Listener(), tg)

            async def dial(host: str, port: int) -> anyio.abc.ByteStream:
                return theirs

            async with rabbitry.connect("amqp://embedded", dial=dial) as connection, connection.channel() as channel:
                await check_channel(channel)
            tg.cancel_scope.cancel()
