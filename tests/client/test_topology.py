"""What a client declares, and what of it is there again in the next life."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Binding, Exchange, ExchangeBinding, Queue
from rabbitry.testing import PrivateNode, Proxy
from tests.support.clients import QUICK, refuse, some_queue, through_proxy
from tests.support.helpers import counts, open_channel, unique, until


def declared(client: rabbitry.Client) -> int:
    return client.statistics()["declared"]


async def next_life(client: rabbitry.Client, proxy: Proxy) -> None:
    lives = client.statistics()["consuming_lives"]
    proxy.cut()
    await until(lambda: client.statistics()["consuming_lives"] > lives and client.is_ready)


async def test_a_temporary_queue_gets_its_new_name_everywhere(amqp_url: str) -> None:
    queue, exchange = Queue.temporary(), Exchange(unique(), "fanout", auto_delete=True)
    with pytest.raises(rabbitry.LocalProtocolError, match="no name before"):
        _ = queue.current_name
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(exchange, queue, Binding(queue, exchange))
        first = queue.current_name
        assert first.startswith("amq.gen-")
        await client.declare(Binding(first, exchange, "by its former name"))
        async with client.consume(queue) as deliveries, client.consume(first) as by_name:
            await next_life(client, proxy)
            assert queue.current_name not in ("", first)
            assert by_name.queue == queue.current_name
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tg:
                    for each in deliveries, by_name:  # they share what comes
                        tg.start_soon(anext, each)
                    while (await client.inspect(queue)).consumer_count < 2:  # type: ignore[union-attr]
                        await anyio.sleep(0.01)
                    for body in (b"x", b"y"):
                        await client.publish(body, exchange=exchange, mandatory=True)
        info = await client.inspect(first)
        assert info is not None and info.name == queue.current_name


def test_temporary_queues_are_told_apart() -> None:
    one, other = Queue.temporary(max_length=5), Queue.temporary(max_length=5)
    assert one != other and len({one, other}) == 2
    assert one.is_temporary and one.exclusive and not one.durable
    assert "amq" not in repr(one)
    with pytest.raises(ValueError, match="temporary"):
        Queue("")


async def test_channels_declare_temporary_queues_too(amqp_url: str) -> None:
    queue = Queue.temporary()
    async with open_channel(amqp_url) as channel:
        await channel.declare(queue, Binding(queue, "amq.fanout"))
        await channel.publish(b"x", exchange="amq.fanout")
        delivery = await channel.get(queue)
        assert delivery is not None


async def test_bindings_that_differ_in_arguments_only_are_both_there_again(amqp_url: str) -> None:
    queue, exchange = Queue(unique(), exclusive=True), Exchange(unique(), "headers", auto_delete=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(
            queue,
            exchange,
            Binding(queue, exchange, arguments={"x-match": "all", "kind": "a"}),
            Binding(queue, exchange, arguments={"x-match": "all", "kind": "b"}),
        )
        assert declared(client) == 4
        await next_life(client, proxy)
        for kind in "ab":
            await client.publish(rabbitry.Message(b"", headers={"kind": kind}), exchange=exchange, mandatory=True)


async def test_bindings_between_exchanges_are_there_again(amqp_url: str) -> None:
    source, destination = (Exchange(unique(), "topic", auto_delete=True) for _ in range(2))
    queue = Queue(unique(), exclusive=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(
            ExchangeBinding(destination, source, "a.#"),
            ExchangeBinding(destination, source, "b.#"),
            Binding(queue, destination, "#"),
            queue,
            source,
            destination,
        )
        await next_life(client, proxy)
        for key in ("a.x", "b.x"):
            await client.publish(b"", exchange=source, routing_key=key, mandatory=True)


async def test_deletions_cascade(amqp_url: str) -> None:
    exchange, passing = Exchange(unique()), Exchange(unique(), auto_delete=True)
    queue, other = Queue(unique()), Queue(unique(), exclusive=True)
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(exchange, passing, queue, other)
        await client.declare(
            Binding(queue, exchange, "a"), Binding(queue.name, passing, "b"), ExchangeBinding(passing, exchange, "c")
        )
        assert declared(client) == 7
        await client.delete(Queue(queue.name))
        assert declared(client) == 2  # gone with it: its bindings, the exchange that has none any more, and its own
        await client.delete(Exchange(exchange.name))
        assert declared(client) == 1
        await next_life(client, proxy)
        assert await client.inspect(queue) is None
        with pytest.raises(rabbitry.NotFound):
            await channel.declare_exchange(exchange.name, passive=True)
        assert await client.inspect(other) is not None


async def test_an_exchange_that_goes_as_it_is_declared_again_is_declared_once_more(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An auto-delete one does, where the broker notices only then that the former life's queue has ended."""
    exchange, queue = Exchange(unique(), auto_delete=True), Queue(unique(), exclusive=True)
    declare, gone = rabbitry.Channel.declare, list[str]()
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        key = queue.name
        between = ExchangeBinding(exchange, "amq.direct", key)
        await client.declare(exchange, queue, Binding(queue, exchange, key), between)

        async def declare_late(own: rabbitry.Channel, *entities: Any) -> Any:
            if not gone and isinstance(entities[0], Binding):
                gone.append(exchange.name)
                await channel.delete_exchange(exchange.name)
            return await declare(own, *entities)

        monkeypatch.setattr(rabbitry.Channel, "declare", declare_late)
        proxy.cut()
        with anyio.fail_after(30):
            async with client.consume(queue) as deliveries:
                while not gone:
                    await anyio.sleep(0.01)
                for source in (exchange, "amq.direct"):
                    await client.publish(b"x", exchange=source, routing_key=key, mandatory=True)
                    assert (await deliveries.__anext__()).body == b"x"


async def test_a_binding_can_be_removed(amqp_url: str) -> None:
    queue, exchange = Queue(unique(), exclusive=True), Exchange(unique(), auto_delete=True)
    kept, removed = Binding(queue, exchange, "kept"), Binding(queue, exchange, "removed")
    between = ExchangeBinding(exchange, "amq.direct", "x")
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue, exchange, kept, removed, between)
        await client.delete(removed, between)
        await next_life(client, proxy)
        await client.publish(b"", exchange=exchange, routing_key="kept", mandatory=True)
        with pytest.raises(rabbitry.Unroutable):
            await client.publish(b"", exchange=exchange, routing_key="removed", mandatory=True)
        await client.delete(kept)  # with which the exchange goes
        assert declared(client) == 1
        await next_life(client, proxy)


async def test_an_auto_delete_queue_that_went_with_its_consumer_does_not_come_back(amqp_url: str) -> None:
    """Its bindings would keep the topology from ever being put back."""
    queue = Queue(unique(), auto_delete=True)
    exchange = Exchange(unique(), auto_delete=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue, exchange, Binding(queue, exchange))
        async with client.consume(queue) as one:
            async with client.consume(queue.name):
                pass
            assert declared(client) == 3
            await next_life(client, proxy)
            await client.publish(b"x", exchange=exchange, mandatory=True)
            (await anext(one)).ack()
        assert declared(client) == 0
        await next_life(client, proxy)
        assert await client.inspect(queue) is None


async def test_what_is_deleted_while_away_is_forgotten_at_once(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, through_proxy(amqp_url) as (client, proxy):
        await client.declare(Queue(name))
        proxy.cut()
        await client.delete(Queue(name))
        assert declared(client) == 0
        async with open_channel(amqp_url) as channel:
            with pytest.raises(rabbitry.NotFound):
                await counts(channel, name)


@pytest.fixture(scope="module")
def own_node() -> Iterator[PrivateNode]:
    """For the test that closes all connections there are."""
    with PrivateNode() as node:
        yield node


async def test_publishing_waits_for_queues_that_went_with_the_former_life(own_node: PrivateNode) -> None:
    """After a restart both connections come back, in any order: what is published must find its queue."""
    async with rabbitry.open_client(own_node.url, reconnect=QUICK) as client:
        for _ in range(3):
            queue = Queue.temporary()
            await client.declare(queue)
            await client.publish(b"x", routing_key=queue.current_name, mandatory=True)
            lives = client.statistics()["publishing_lives"]
            own_node.rabbitmqctl("close_all_connections", "test")
            await until(lambda lives=lives: client.statistics()["publishing_lives"] > lives)  # type: ignore[misc]
            await client.publish(b"x", routing_key=queue.current_name, mandatory=True)


async def test_a_deletion_that_was_cancelled_while_away_is_not_undone(amqp_url: str) -> None:
    async with some_queue(amqp_url) as name, through_proxy(amqp_url) as (client, proxy):
        await client.declare(Queue(name))
        refuse(proxy)
        with anyio.move_on_after(0.1) as scope:
            await client.delete(Queue(name))
        assert scope.cancelled_caught and declared(client) == 0
        proxy.accept()


async def test_a_binding_is_the_same_by_name_and_by_value(amqp_url: str) -> None:
    queue, exchange = Queue(unique(), exclusive=True), Exchange(unique(), auto_delete=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue, exchange, Binding(queue, exchange, "a"), Binding(queue, exchange, "b"))
        await client.declare(Binding(queue.name, exchange.name, "a"))
        assert declared(client) == 4
        await client.delete(Binding(queue.name, exchange.name, "a"))
        await next_life(client, proxy)
        with pytest.raises(rabbitry.Unroutable):
            await client.publish(b"", exchange=exchange, routing_key="a", mandatory=True)


async def test_names_of_former_lives_do_not_pile_up(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rabbitry._client.registry.NAMES_KEPT", 3)
    queue = Queue.temporary()
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue)
        for _ in range(5):
            await next_life(client, proxy)
        assert len(client._registry._given) == 3
        info = await client.inspect(queue)
        assert info is not None


async def test_a_channel_that_reaches_the_clients_own_exclusive_queues(amqp_url: str) -> None:
    named, temporary = Queue(unique("mine"), exclusive=True), Queue.temporary()
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(named, temporary)
        await client.publish(b"x", routing_key=named.name)
        async with client.channel(consuming=True) as channel:
            delivery = await channel.get(named.name)
            assert delivery is not None and delivery.body == b"x"
            delivery.ack()
            assert await channel.purge_queue(temporary.current_name) == 0
        async with client.channel() as channel:
            with pytest.raises(rabbitry.ResourceLocked):
                await channel.get(named.name)


async def test_a_transient_queue_is_joined_and_declared_again(amqp_url: str, broker_version: tuple[int, ...]) -> None:
    """What RabbitMQ 3 has, and other programs declare: neither durable nor exclusive."""
    if broker_version >= (4, 3):
        pytest.skip("this broker denies transient queues that are not exclusive")
    name = unique("transient")
    with pytest.raises(ValueError, match="transient=True"):
        Queue(name, durable=False)
    with pytest.raises(ValueError, match="neither exclusive nor quorum nor a stream"):
        Queue(name, transient=True, exclusive=True)
    async with open_channel(amqp_url) as channel, through_proxy(amqp_url) as (client, proxy):
        await channel.declare_queue(name, durable=False)  # as another program does
        await client.declare(Queue(name, transient=True))
        async with client.consume(name) as deliveries:
            await channel.publish(b"1", routing_key=name)
            (await anext(deliveries)).ack()
            await channel.delete_queue(name)  # as a broker's restart does
            with pytest.raises(rabbitry.NotFound):
                async with open_channel(amqp_url) as another:
                    await another.declare_queue(name, passive=True)
            proxy.cut()
            await client.publish(b"2", routing_key=name, on_unknown="republish")
            with anyio.fail_after(20):
                assert (await anext(deliveries)).body == b"2"
        await channel.delete_queue(name)
