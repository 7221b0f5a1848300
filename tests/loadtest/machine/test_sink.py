"""The null sink, through rabbitry itself: everything that a run needs of a broker."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import anyio
import pytest

import rabbitry
from loadtest.commands.calibrating import open_sink
from loadtest.machine.sink import Message, Queue


@pytest.fixture
def url() -> Iterator[str]:
    with open_sink() as url:
        yield url


async def test_what_is_published_is_confirmed_and_delivered_in_order(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True, prefetch=7) as channel:
        await channel.declare_queue("order")
        async with channel.publisher(window=50) as publisher:
            for number in range(200):
                await publisher.submit(str(number).encode(), routing_key="order")
        assert (await channel.declare_queue("order", passive=True)).message_count == 200
        got: list[int] = []
        async with channel.consume("order") as deliveries:
            async for delivery in deliveries:
                got.append(int(delivery.body))
                delivery.ack()
                if len(got) == 200:
                    break
        assert got == list(range(200))


async def test_large_bodies_and_properties_arrive_as_they_were_sent(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        queue = await channel.declare_queue("")
        body = bytes(range(256)) * 2000
        await channel.publish(rabbitry.Message(body, headers={"a": 1}, priority=3), routing_key=queue.name)
        async with channel.consume(queue.name) as deliveries:
            async for delivery in deliveries:
                assert (delivery.body, delivery.headers, delivery.message.priority) == (body, {"a": 1}, 3)
                delivery.ack()
                break


async def test_prefetch_bounds_what_is_unanswered_and_what_is_put_back_comes_again(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        await channel.declare_queue("bounded")
        for number in range(10):
            await channel.publish(str(number).encode(), routing_key="bounded")
        async with connection.channel(prefetch=3) as taking, taking.consume("bounded") as deliveries:
            held = [await anext(deliveries) for _ in range(3)]
            assert (await channel.declare_queue("bounded", passive=True)).message_count == 7
            held[1].ack()
            held.append(await anext(deliveries))
            held[0].nack(requeue=True)
            again = await anext(deliveries)
            assert (again.body, again.redelivered) == (b"0", True)
            held[2].reject(requeue=False)
        # what was held goes back when its channel closes
        await until_async(lambda: count(channel, "bounded"), 8)


async def test_consumers_of_one_queue_take_turns_and_one_that_is_cancelled_hands_its_turn_on(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        await channel.declare_queue("shared")
        got: dict[str, list[bytes]] = {"leaving": [], "staying": []}
        async with connection.channel(prefetch=1) as staying, staying.consume("shared") as later:
            async with connection.channel(prefetch=1) as leaving, leaving.consume("shared") as first:
                for number in range(2):
                    await channel.publish(str(number).encode(), routing_key="shared")
                for name, deliveries in (("staying", later), ("leaving", first)):
                    delivery = await anext(deliveries)
                    got[name].append(delivery.body)
                    delivery.ack()
            for number in range(2, 6):
                await channel.publish(str(number).encode(), routing_key="shared")
            for _ in range(4):
                delivery = await anext(later)
                got["staying"].append(delivery.body)
                delivery.ack()
        assert got == {"leaving": [b"1"], "staying": [b"0", b"2", b"3", b"4", b"5"]}


def test_consumers_without_room_are_looked_at_once() -> None:
    class Full:
        """A consumer that never has room, and counts how often it is asked."""

        def __init__(self) -> None:
            self.asked = 0
            self.is_ready = False

        @property
        def has_room(self) -> bool:
            self.asked += 1
            return False

    queue, consumers = Queue("crowded", is_stream=False), [Full() for _ in range(200)]
    queue.consumers.extend(consumers)  # type: ignore[arg-type]
    for consumer in consumers:
        queue.welcome(consumer)  # type: ignore[arg-type]
    for _ in range(100):
        queue.put(Message("", "crowded", b"", b""))
    assert [consumer.asked for consumer in consumers] == [1] * 200


async def count(channel: rabbitry.Channel, queue: str) -> int:
    return (await channel.declare_queue(queue, passive=True)).message_count


async def until_async(ask: Callable[[], Awaitable[int]], wanted: int) -> None:
    with anyio.fail_after(10):
        while await ask() != wanted:
            await anyio.sleep(0.01)


async def test_calls_are_answered(url: str) -> None:
    async with rabbitry.connect(url) as caller, rabbitry.connect(url) as server:
        async with caller.channel() as channel:
            await channel.declare_queue("requests")

        async def echo(payload: bytes) -> bytes:
            return payload

        async with anyio.create_task_group() as tg:
            tg.start_soon(server.serve, "requests", echo)
            async with caller.rpc() as rpc:
                with anyio.fail_after(4):  # a server that doubts the address of its caller would take five seconds
                    assert [await rpc.call("requests", str(number).encode()) for number in range(20)]
            tg.cancel_scope.cancel()


async def test_exchanges_and_their_bindings(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        await channel.declare_exchange("spread", "fanout")
        await channel.declare_exchange("pick", "direct")
        for name in ("one", "two"):
            await channel.declare_queue(name)
            await channel.bind_queue(name, "spread", "")
            await channel.bind_queue(name, "pick", name)
        await channel.publish(b"all", exchange="spread", routing_key="any")
        await channel.publish(b"one", exchange="pick", routing_key="one")
        assert (await count(channel, "one"), await count(channel, "two")) == (2, 1)
        await channel.delete_queue("one")
        with pytest.raises(rabbitry.NotFound):
            await count(channel, "one")


async def test_what_nobody_takes_comes_back_to_who_wants_to_know(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        await channel.publish(b"gone", routing_key="nowhere")
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(b"back", routing_key="nowhere", mandatory=True)


async def test_what_it_can_not_do_is_refused(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue("kept")
        with pytest.raises(rabbitry.RabbitryError, match="the null sink can't do that"):
            await channel.purge_queue("kept")


async def test_a_lost_client_takes_nothing_with_it(url: str) -> None:
    async with rabbitry.connect(url) as connection, connection.channel(confirm=True) as channel:
        await channel.declare_queue("lasting")
        await channel.publish(b"stays", routing_key="lasting")
        async with rabbitry.connect(url) as other, other.channel(prefetch=1) as taking:
            async with taking.consume("lasting") as deliveries:
                await anext(deliveries)
        await until_async(lambda: count(channel, "lasting"), 1)


def test_it_ends_with_its_block() -> None:

    with open_sink() as url:
        port = urlsplit(url).port
        assert port is not None
        socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port))
