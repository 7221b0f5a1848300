"""`Broker`: in memory and on a port, each its own world, and its end; on both backends."""

from __future__ import annotations

import gc
import ssl
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import rabbitry
from rabbitry.broker import Broker
from rabbitry.broker.memory import KEPT, memory_streams
from rabbitry.broker.peer import ROOM
from rabbitry.broker.session import Session
from rabbitry.protocol.wire import methods
from tests.protocol.server.test_hostile import HANDSHAKE
from tests.support.helpers import check_channel, until
from tests.support.protocol_broker import method_frame


def sessions(broker: Broker) -> dict[Session, None]:
    return broker._sessions


async def test_a_connection_in_memory() -> None:
    async with Broker() as broker:
        async with broker.connect() as connection, connection.channel() as channel:
            await check_channel(channel)
            assert connection.server_properties["version"] == "3.10.8"
            assert "test double" in connection.server_properties["platform"]
        await until(lambda: not sessions(broker))


async def test_a_connection_to_its_port() -> None:
    async with Broker(compat="4.0") as broker:
        await broker.listen()
        async with rabbitry.connect(broker.url) as connection, connection.channel() as channel:
            await check_channel(channel)
            assert connection.server_properties["version"].startswith("4.0")
        await until(lambda: not sessions(broker))
    with pytest.raises(rabbitry.ConnectFailed):
        async with rabbitry.connect(broker.url):
            pass


async def test_a_client_in_memory() -> None:
    async with Broker() as broker, broker.open_client() as client:
        await client.declare(rabbitry.Queue("jobs"))
        await client.publish(b"job", routing_key="jobs")
        async with client.consume("jobs") as deliveries:
            async for delivery in deliveries:
                delivery.ack()
                assert delivery.body == b"job"
                break


async def test_brokers_share_nothing() -> None:
    async with Broker() as one, Broker() as two:
        for broker in (one, two):
            async with broker.connect() as connection, connection.channel() as channel:
                with pytest.raises(rabbitry.NotFound):
                    await channel.declare_queue("q", passive=True)
            async with broker.connect() as connection, connection.channel() as channel:
                await channel.declare_queue("q")


async def test_connections_of_both_kinds_meet() -> None:
    async with Broker() as broker:
        await broker.listen()
        async with rabbitry.connect(broker.url) as far, broker.connect() as near:
            async with far.channel() as there, near.channel() as here:
                await there.declare_queue("q")
                await here.publish(b"m", routing_key="q")
                delivery = await there.get("q")
                assert delivery is not None and delivery.body == b"m"


async def test_leaving_ends_connections() -> None:
    broker, connected, ended = Broker(), anyio.Event(), anyio.Event()
    here = anyio.Event()

    async def host() -> None:
        async with broker:
            here.set()
            await connected.wait()
        assert not sessions(broker)

    async def stay() -> None:
        with pytest.raises(rabbitry.ConnectionClosed):
            async with broker.connect() as connection, connection.channel() as channel:
                queue = await channel.declare_queue(exclusive=True)
                connected.set()
                async with channel.consume(queue.name) as deliveries:
                    async for _ in deliveries:
                        pass
        ended.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(host)
            await here.wait()
            tg.start_soon(stay)
            await ended.wait()


async def test_what_the_body_raises_leaves_as_it_is() -> None:
    with pytest.raises(KeyError) as caught:
        async with Broker() as broker, broker.connect():
            await broker.listen()
            raise KeyError("mine")
    assert caught.value.args == ("mine",)


async def test_cancelling_leaves_nothing() -> None:
    with anyio.move_on_after(0.1) as scope:
        async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
            await broker.listen()
            queue = await channel.declare_queue(exclusive=True)
            async with channel.consume(queue.name) as deliveries:
                async for _ in deliveries:
                    pass
    assert scope.cancelled_caught and not sessions(broker)
    await checkpoint()
    gc.collect()


async def test_wrong_orders_and_arguments() -> None:
    with pytest.raises(ValueError, match=r"3\.10, 4\.0, 4\.3"):
        Broker(compat="3.9")  # type: ignore[arg-type]
    for wrong in ({"history": -1}, {"max_connections": 0}, {"memory_limit": 0}, {"consumer_timeout": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Broker(**wrong)  # type: ignore[arg-type]
    for name in ("history", "max_connections", "memory_limit"):
        for value in (1.5, "1", True):
            with pytest.raises(TypeError, match=f"{name} must be an int"):
                Broker(**{name: value})  # type: ignore[arg-type]
    broker = Broker()
    with pytest.raises(rabbitry.LocalProtocolError, match="listen"):
        broker.url
    with pytest.raises(rabbitry.LocalProtocolError, match="within"):
        await broker.listen()
    with pytest.raises(rabbitry.LocalProtocolError, match="within"):
        await broker.dial("", 0)
    async with broker:
        with pytest.raises(ValueError, match="Unix socket"):
            await broker.listen(tls=ssl.create_default_context(), unix_path="/nowhere")
        await broker.listen()
        with pytest.raises(rabbitry.LocalProtocolError, match="already"):
            await broker.listen()
        with pytest.raises(ValueError, match="add them first"):
            broker.set_permissions("nobody")
    with pytest.raises(rabbitry.LocalProtocolError, match="once"):
        async with broker:
            pass


async def test_users_and_virtual_hosts() -> None:
    async with Broker() as broker:
        broker.add_vhost("other")
        broker.add_user("reader", "secret")
        broker.set_permissions("reader", "other", configure="^$", write="^$")
        async with broker.connect("amqp://guest:guest@x/other") as connection, connection.channel() as channel:
            await channel.declare_queue("q")
        async with broker.connect("amqp://reader:secret@x/other") as connection, connection.channel() as channel:
            assert await channel.get("q") is None
            with pytest.raises(rabbitry.AccessRefused):
                await channel.declare_queue("mine")
        for url in ("amqp://reader:secret@x", "amqp://reader:wrong@x/other", "amqp://guest:guest@x/none"):
            with pytest.raises((rabbitry.AuthenticationFailed, rabbitry.ConnectFailed)):
                async with broker.connect(url):
                    pass
        assert "secret" not in repr(broker)


async def test_users_and_permissions_that_are_none_are_told_at_once() -> None:
    async with Broker() as broker:
        with pytest.raises(ValueError, match="already"):
            broker.add_user("guest", "another")
        for wrong in ((b"name", "password"), ("name", None)):
            with pytest.raises(TypeError, match="must be str"):
                broker.add_user(*wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="must be a str"):
            broker.add_vhost(None)  # type: ignore[arg-type]
        for name in ("configure", "write", "read"):
            with pytest.raises(ValueError, match=f"{name} must be a regular expression"):
                broker.set_permissions("guest", **{name: "["})
            with pytest.raises(TypeError, match=f"{name} must be a str"):
                broker.set_permissions("guest", **{name: None})  # type: ignore[arg-type]
        async with broker.connect() as connection, connection.channel() as channel:
            await check_channel(channel)


@pytest.mark.parametrize("argument", ["x-delayed-retry-type", "x-delayed-retry-min"])
async def test_what_it_can_not_do_is_refused_aloud(argument: str) -> None:
    options: dict[str, Any] = {"x-queue-type": "quorum", argument: "all"}
    what = f"the queue argument {argument} is"
    async with Broker(compat="4.3") as broker, broker.connect() as connection:
        with pytest.raises(rabbitry.ConnectionClosed, match=f"{what} not implemented by the embedded broker") as caught:
            async with connection.channel() as channel:
                await channel.declare_queue("q", durable=True, arguments=options)
        assert caught.value.code == 540


async def test_priorities_of_quorum_queues_are_refused_where_rabbitmq_heeds_them() -> None:
    for compat, is_refused in (("3.10", False), ("4.0", True)):
        async with Broker(compat=compat) as broker, broker.connect() as connection:  # type: ignore[arg-type]
            async with connection.channel() as channel:
                await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
                publish = channel.publish(rabbitry.Message(b"m", priority=5), routing_key="q")
                if is_refused:
                    with pytest.raises(rabbitry.RabbitryError, match="priorities of quorum queues"):
                        await publish
                else:
                    await publish


async def test_time_passes_by_itself() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        arguments = {"x-message-ttl": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
        await channel.declare_queue("dead")
        await channel.declare_queue("q", arguments=arguments)
        await channel.publish(b"m", routing_key="q")
        async with channel.consume("dead") as deliveries:
            with anyio.fail_after(5):
                async for delivery in deliveries:
                    assert delivery.body == b"m"
                    break


async def test_a_client_that_does_not_read_is_given_no_more() -> None:
    async with Broker() as broker:
        stream = await broker.dial("", 0)
        async with broker.connect() as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            await consume_without_reading(stream)
            body = b"x" * 100_000
            for _ in range(200):
                await channel.publish(body, routing_key="q")
            left = (await channel.declare_queue("q", passive=True)).message_count
            assert left > 100, "what the client doesn't read must wait in the queue"
            held = max(session._connection.out_size for session in sessions(broker))
            assert held < ROOM + 2 * len(body)
        await stream.aclose()


async def consume_without_reading(stream: anyio.abc.ByteStream) -> None:
    """The handshake blindly, and a consumer without acknowledgements."""
    for data in HANDSHAKE:
        await stream.send(data)
    await stream.send(method_frame(1, methods.ChannelOpen()))
    await stream.send(method_frame(1, methods.BasicConsume(queue="q", no_ack=True)))
    await anyio.sleep(0.05)


@pytest.mark.parametrize("way", ["port", "memory"])
async def test_the_last_words_reach_a_client_that_reads_late(way: str) -> None:
    async with Broker() as broker:
        await broker.listen()
        async with broker.connect() as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            for _ in range(15):
                await channel.publish(b"x" * 200_000, routing_key="q")
        port = int(broker.url.rpartition(":")[2])
        stream = await (anyio.connect_tcp("127.0.0.1", port) if way == "port" else broker.dial("", 0))
        async with stream:
            await consume_without_reading(stream)
            await stream.send(method_frame(5, methods.QueuePurge(queue="q")))  # on no channel
            await anyio.sleep(0.3)
            data = bytearray()
            closed = b"CHANNEL_ERROR - expected 'channel.open'"
            with anyio.fail_after(10):
                while closed not in data[-200:]:
                    data += await stream.receive()
                await stream.send(method_frame(0, methods.ConnectionCloseOk()))
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
            assert data.count(b"x") >= 15 * 200_000
        await until(lambda: not sessions(broker))


async def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rabbitry.protocol.server.connection.HANDSHAKE_SECONDS", 0.1)
    async with Broker() as broker:
        await broker.listen()
        stream = await anyio.connect_tcp("127.0.0.1", int(broker.url.rpartition(":")[2]))
        async with stream:
            with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
                await stream.receive()
        assert not sessions(broker)


async def test_many_connections_at_once() -> None:
    async with Broker() as broker:
        await broker.listen()
        async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:
            for index in range(100):
                tg.start_soon(use, reactor, broker.url, f"q{index}")
        await until(lambda: not sessions(broker))


async def use(reactor: rabbitry.Reactor, url: str, name: str) -> None:
    async with reactor.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(name, exclusive=True)
        await channel.publish(name.encode(), routing_key=name)
        delivery = await channel.get(name)
        assert delivery is not None and delivery.body == name.encode()


# --- memory streams --------------------------------------------------------------------------------------------------


async def test_streams_keep_order_and_cut() -> None:
    one, two = memory_streams()
    await one.send(b"abcdef")
    await one.send(b"")
    await one.send(b"ghi")
    assert [await two.receive(4), await two.receive(4), await two.receive(4)] == [b"abcd", b"ef", b"ghi"]
    await two.send(b"back")
    assert await one.receive() == b"back"


async def test_a_stream_ends_once_it_is_read() -> None:
    one, two = memory_streams()
    await one.send(b"last")
    await one.aclose()
    assert await two.receive() == b"last"
    with pytest.raises(anyio.EndOfStream):
        await two.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await two.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await one.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await one.receive()


async def test_a_writer_waits_for_the_reader() -> None:
    one, two = memory_streams()
    chunk = b"x" * 65536
    sent = 0

    async def write() -> None:
        nonlocal sent
        for _ in range(20):
            await one.send(chunk)
            sent += len(chunk)

    async with anyio.create_task_group() as tg:
        tg.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        assert KEPT < sent <= KEPT + len(chunk)
        received = 0
        while received < 20 * len(chunk):
            received += len(await two.receive(10**6))
    assert sent == received


async def test_closing_wakes_who_waits() -> None:
    one, two = memory_streams()
    async with anyio.create_task_group() as tg:

        async def read() -> None:
            with pytest.raises(anyio.EndOfStream):
                await two.receive()

        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await one.aclose()


async def test_what_came_just_ahead_of_a_refusal_is_not_confirmed() -> None:
    """As in RabbitMQ, whose queues confirm a little later."""
    async with Broker() as broker, broker.connect() as connection:
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            async with connection.channel() as channel:
                await channel.declare_queue("q")
                async with channel.publisher() as publisher:
                    await publisher.submit(b"good", routing_key="q")
                    await publisher.submit(b"bad", exchange="missing")
        assert [type(each) for each in caught.value.failures] == [rabbitry.OutcomeUnknown, rabbitry.Refused]
        async with connection.channel() as channel:
            assert (await channel.declare_queue("q", passive=True)).message_count == 1
