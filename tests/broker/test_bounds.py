"""What the broker holds is bounded, and whoever makes it hold much keeps nobody else waiting; on both backends."""

from __future__ import annotations

import anyio
import pytest

import rabbitry
from rabbitry.broker import Broker
from rabbitry.broker.peer import ROOM
from rabbitry.protocol.wire import methods
from tests.broker.test_broker import sessions
from tests.protocol.server.test_hostile import HANDSHAKE
from tests.support.helpers import check_channel, until
from tests.support.protocol_broker import method_frame

BODY = b"x" * 100_000
LIMIT = 4_000_000


async def test_publishers_wait_while_queues_hold_too_much() -> None:
    async with Broker(memory_limit=LIMIT) as broker:
        async with broker.connect() as publishing, publishing.channel() as channel, broker.connect() as other:
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


async def test_what_consumers_hold_counts() -> None:
    async with Broker(memory_limit=LIMIT) as broker:
        async with broker.connect() as connection, connection.channel() as channel, broker.connect() as publishing:
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


@pytest.mark.parametrize("way", ["memory", "port"])
async def test_answers_to_a_client_that_does_not_read_are_not_made(way: str) -> None:
    """Many large gets in few octets: they would be copied all at once."""
    async with Broker() as broker:
        await broker.listen()
        async with broker.connect() as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            for _ in range(400):
                broker.publish(BODY, "q")
            port = int(broker.url.rpartition(":")[2])
            stream = await (anyio.connect_tcp("127.0.0.1", port) if way == "port" else broker.dial("", 0))
            get = method_frame(1, methods.BasicGet(queue="q", no_ack=True))
            await stream.send(b"".join((*HANDSHAKE, method_frame(1, methods.ChannelOpen()), get * 400)))
            await until(lambda: len(broker.queue("q").ready) < 400)
            await anyio.sleep(0.1)
            assert max(each._connection.out_size for each in sessions(broker)) < 2 * ROOM + 2 * len(BODY)
            assert len(broker.queue("q").ready) > 100
            await check_channel(channel)
            received = 0
            with anyio.fail_after(20):
                while received < 400 * len(BODY):
                    received += len(await stream.receive(2**20))
            assert not broker.queue("q").ready
            await stream.aclose()


async def test_a_slow_consumer_keeps_nobody_waiting() -> None:
    async with Broker() as broker, broker.connect() as slow, broker.connect() as quick:
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


async def test_a_hundred_thousand_messages_in_a_queue() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel(prefetch=500) as channel:
        await channel.declare_queue("q")
        message = rabbitry.Message(b"m")
        for _ in range(100_000):
            broker.publish(message, "q")
        assert (await channel.declare_queue("q", passive=True)).message_count == 100_000
        async with channel.consume("q") as deliveries:
            for _ in range(2000):
                (await deliveries.__anext__()).ack()
        assert broker._world.used_octets < 100_000 * 520


async def test_a_flood_of_connections_that_say_nothing() -> None:
    async with Broker(max_connections=50) as broker:
        await broker.listen()
        port = int(broker.url.rpartition(":")[2])
        async with rabbitry.connect(broker.url) as connection, connection.channel() as channel:
            streams = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(100)]
            await check_channel(channel)
            await until(lambda: len(sessions(broker)) == 50)
            for stream in streams:
                await stream.aclose()
            await until(lambda: len(sessions(broker)) == 1)
            async with rabbitry.connect(broker.url):
                pass
