"""What a client declares, and what of it is there again in the next life."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Binding, Exchange, ExchangeBinding, Queue
from rabbitry._values.topology import name_of
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from rabbitry.protocol.wire.tables import SIZED_INTS
from rabbitry.testing import PrivateNode, Proxy
from tests.support.clients import QUICK, refuse, some_queue, through_proxy
from tests.support.helpers import counts, open_channel, unique, until
from tests.support.peer import scripted
from tests.support.protocol_broker import method_frame


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


@pytest.mark.rabbitmq("the embedded broker takes integers for equal whatever their size")
@pytest.mark.parametrize("kind", ["b", "s", "u", "i", "l"])
async def test_a_binding_of_another_client_goes_whatever_the_size_of_its_integers(amqp_url: str, kind: str) -> None:
    sized = SIZED_INTS[kind]
    number = {"b": 5, "s": 500, "u": 40_000, "i": 3_000_000_000, "l": 5}[kind]
    arguments = {"x-match": "all", "number": number, "x-more": [{"n": number}]}
    foreign = {**arguments, "number": sized(number), "x-more": [{"n": sized(number)}]}
    first, second = Exchange(unique(), "headers", auto_delete=True), Exchange(unique(), "headers", auto_delete=True)
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        await client.declare(first, second, queue := Queue(unique()))
        message = rabbitry.Message(b"", headers={"number": number})
        between = ExchangeBinding(second, first, arguments=arguments)
        kept = Binding(queue, second, arguments={"x-match": "all", "number": 7})
        await client.declare(kept, ExchangeBinding(second, first, "kept", arguments={"x-match": "all", "number": 7}))
        try:
            for unbind in (
                lambda: client.delete(Binding(queue, second, arguments=arguments)),
                lambda: channel.unbind_queue(queue, second, arguments=arguments),
            ):
                await channel.bind_queue(queue, second, arguments=foreign)
                await channel.bind_exchange(second, first, arguments=foreign)
                await client.publish(message, exchange=first, mandatory=True)
                await unbind()
                with pytest.raises(rabbitry.Unroutable):
                    await client.publish(message, exchange=second, mandatory=True)
            await channel.bind_queue(queue, second, arguments=foreign)
            await client.delete(between)
            with pytest.raises(rabbitry.Unroutable):
                await client.publish(message, exchange=first, mandatory=True)
            await client.publish(rabbitry.Message(b"", headers={"number": 7}), exchange=first, mandatory=True)
        finally:
            await client.delete(queue)


# --- what is remembered -----------------------------------------------------------------------------------------------


async def test_a_temporary_queue_that_is_declared_again_stays_the_one_it_is(amqp_url: str) -> None:
    queue = Queue.temporary()
    first, second = (Exchange(unique(), "fanout", auto_delete=True) for _ in range(2))
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue, first, Binding(queue, first))
        name = queue.current_name
        await client.declare(queue, second, Binding(queue, second))
        assert queue.current_name == name and declared(client) == 5
        for _ in range(2):
            async with client.consume(queue) as deliveries:
                for exchange in (first, second):
                    await client.publish(b"x", exchange=exchange, mandatory=True)
                    with anyio.fail_after(5):
                        (await anext(deliveries)).ack()
            await next_life(client, proxy)
            assert queue.current_name != name


async def test_a_temporary_queue_that_has_gone_is_made_anew_with_its_bindings(amqp_url: str) -> None:
    """And with an exchange that went along."""
    queue, exchange, passing = Queue.temporary(), Exchange(unique(), "fanout"), Exchange(unique(), auto_delete=True)
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        between = ExchangeBinding(passing, exchange)
        await client.declare(queue, exchange, passing, between, Binding(queue, passing))
        name = queue.current_name
        async with client._consuming._connection.channel() as own:  # type: ignore[union-attr]  # which alone may
            await own.delete_queue(name)
        await client.declare(queue)
        assert queue.current_name != name and declared(client) == 5
        await client.publish(b"x", exchange=exchange, mandatory=True)
        await channel.delete_exchange(exchange.name)


async def test_channels_declare_a_temporary_queue_once(amqp_url: str) -> None:
    queue = Queue.temporary()
    async with rabbitry.connect(amqp_url) as connection:
        async with connection.channel() as channel, connection.channel() as other:
            await channel.declare(queue)
            name = queue.current_name
            await other.declare(queue)
            assert queue.current_name == name
            await channel.delete_queue(queue)
            await channel.declare(queue)
            assert queue.current_name != name and channel.is_open
    async with open_channel(amqp_url) as channel:
        name = queue.current_name
        await channel.declare(queue)
        assert queue.current_name != name


async def test_tasks_that_declare_a_temporary_queue_at_once_have_one(amqp_url: str) -> None:
    """By a client and by channels of one connection: others would take messages that nobody reads."""
    queue, exchange = Queue.temporary(), Exchange(unique(), "fanout", auto_delete=True)
    names: set[str] = set()

    async def declare(declaring: rabbitry.Client | rabbitry.Channel) -> None:
        await declaring.declare(queue, exchange, Binding(queue, exchange))
        names.add(queue.current_name)

    async with rabbitry.open_client(amqp_url) as client:
        for _ in range(2):
            async with anyio.create_task_group() as tg:
                for _ in range(5):
                    tg.start_soon(declare, client)
        assert len(names) == 1 and declared(client) == 3
    names.clear()
    async with rabbitry.connect(amqp_url) as connection:
        async with connection.channel() as channel, connection.channel() as other:
            async with anyio.create_task_group() as tg:
                for declaring in (channel, other) * 3:
                    tg.start_soon(declare, declaring)
            assert len(names) == 1


async def test_cancelling_who_has_a_temporary_queue_named_leaves_it_to_the_next(amqp_url: str) -> None:
    queue = Queue.temporary()
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        async with anyio.create_task_group() as tg:
            tg.start_soon(channel.declare, queue)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        with anyio.fail_after(10):
            await channel.declare(queue)
        assert (await channel.declare_queue(queue.current_name, passive=True)).name == queue.current_name


@pytest.mark.parametrize("lost", ["deleted elsewhere", "expired"])
async def test_the_latest_declaration_of_a_name_counts(amqp_url: str, lost: str) -> None:
    """The next life would end the client, if it declared the former one again."""
    name, kind = unique(), unique()
    short = 0.05 if lost == "expired" else None
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(
            Queue(name, expires=short, max_length=5), Exchange(kind, "topic"), Binding(name, kind, "#")
        )
        if lost == "expired":
            with anyio.fail_after(10):
                while await client.inspect(name) is not None:
                    await anyio.sleep(0.05)
        else:
            await channel.delete_queue(name)
        await channel.delete_exchange(kind)
        await client.declare(Queue(name), Exchange(kind, "fanout"))
        assert declared(client) == 2  # with what was bound to what went
        await next_life(client, proxy)
        await client.publish(b"x", routing_key=name, mandatory=True)
        with pytest.raises(rabbitry.Unroutable):
            await client.publish(b"x", exchange=kind, mandatory=True)
        await client.delete(Queue(name), Exchange(kind))


async def test_a_declaration_that_is_the_same_to_the_broker_keeps_what_is_bound(amqp_url: str) -> None:
    name, exchange = unique(), Exchange(unique(), auto_delete=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(Queue(name, exclusive=True, max_length=5), exchange, Binding(name, exchange, "k"))
        same = Queue(name, exclusive=True, arguments={"x-max-length": 5, "x-note": "compared by no broker"})
        await client.declare(same)
        assert declared(client) == 3
        await next_life(client, proxy)
        await client.publish(b"x", exchange=exchange, routing_key="k", mandatory=True)


async def test_a_declaration_that_is_refused_leaves_the_former_one_remembered(amqp_url: str) -> None:
    queue = Queue(unique(), exclusive=True)
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue)
        with pytest.raises(rabbitry.PreconditionFailed):
            await client.declare(Queue(queue.name, exclusive=True, max_length=5))
        assert declared(client) == 1
        await next_life(client, proxy)
        await client.declare(queue)


async def test_what_the_broker_took_counts_though_the_rest_was_refused(amqp_url: str) -> None:
    name = unique()
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(Queue(name, max_length=5))
        await channel.delete_queue(name)
        with pytest.raises(rabbitry.NotFound):
            await client.declare(Queue(name), Binding(name, unique()))
        assert declared(client) == 1
        await next_life(client, proxy)
        await client.delete(Queue(name))


async def test_forgetting_deletes_nothing(amqp_url: str) -> None:
    queue, exchange, passing = Queue(unique()), Exchange(unique(), "topic"), Exchange(unique(), auto_delete=True)
    binding = Binding(queue, exchange, "#")
    between = ExchangeBinding(passing, exchange, "b")
    async with through_proxy(amqp_url) as (client, proxy), open_channel(amqp_url) as channel:
        await client.declare(queue, exchange, passing, binding, between, Binding(queue, passing, "a"))
        client.forget(Binding(queue.name, exchange.name, "#"))
        assert declared(client) == 5
        client.forget(Queue(queue.name, max_length=5))  # by its name, as it is deleted
        assert declared(client) == 3  # (with its bindings; the auto-delete exchange has others at the broker)
        client.forget(exchange, passing)
        assert declared(client) == 0
        client.forget(queue, exchange, binding)  # harmless
        await client.publish(b"x", exchange=exchange, routing_key="any", mandatory=True)
        await channel.delete_queue(queue.name)
        await channel.declare(Queue(queue.name, max_length=5))
        await next_life(client, proxy)
        await client.delete(queue, exchange, passing)


async def test_a_forgotten_temporary_queue_can_be_declared_again(amqp_url: str) -> None:
    queue = Queue.temporary()
    async with through_proxy(amqp_url) as (client, proxy):
        await client.declare(queue)
        name = queue.current_name
        client.forget(queue)
        await next_life(client, proxy)
        assert queue.current_name == name and await client.inspect(name) is None
        await client.declare(queue)
        assert queue.current_name != name


@pytest.mark.parametrize("verb", ["declare", "delete", "forget"])
async def test_what_is_no_entity_is_refused_by_the_verb_that_was_asked(amqp_url: str, verb: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        for wrong in ("jobs", None, Queue):
            with pytest.raises(TypeError, match=f"{verb} takes Exchange, Queue, ExchangeBinding, Binding, not"):
                result = getattr(client, verb)(wrong)
                await result
        with pytest.raises(TypeError, match=r"Queue\('jobs'\) or Exchange\('jobs'\)"):
            await client.delete("jobs")  # type: ignore[arg-type]
        assert client.state == "idle"


async def test_a_queue_that_another_connection_holds_is_refused_at_once(amqp_url: str) -> None:
    queue = Queue(unique(), exclusive=True)
    async with rabbitry.open_client(amqp_url) as holder, through_proxy(amqp_url) as (client, proxy):
        await holder.declare(queue)
        await client.inspect("nothing")
        await next_life(client, proxy)
        with anyio.fail_after(5), pytest.raises(rabbitry.ResourceLocked):
            await client.declare(queue)
        assert declared(client) == 0


async def test_a_queue_that_our_former_life_may_hold_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its declaration was on its way as the connection was lost, of which the broker has not learnt."""
    monkeypatch.setattr("rabbitry._client.registry.LOCKED_PAUSE", 0.01)
    answers = [
        lambda method, number: method_frame(0, methods.ConnectionClose(reply_code=320, reply_text="lost")),
        *[lambda method, number: method_frame(number, methods.ChannelClose(reply_code=405, reply_text="locked"))] * 3,
    ]

    def answer(method: Method, number: int) -> bytes | None:
        return answers.pop(0)(method, number) if answers and isinstance(method, methods.QueueDeclare) else None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
            await client.declare(Queue("q", exclusive=True))
            assert declared(client) == 1 and not answers


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


@pytest.mark.parametrize("what", ["queue", "consumer"])
async def test_what_the_broker_holds_for_a_former_life_is_waited_for(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A connection that only the client knows to be lost: the broker sees so by three heartbeats, which is longer here
    than what is waited for at least.
    """
    monkeypatch.setattr("rabbitry._client.registry.LOCKED_BOUND", 0.0)
    handled = anyio.Event()

    async def handle(delivery: rabbitry.Delivery) -> None:
        handled.set()

    async with some_queue(amqp_url) as shared, through_proxy(f"{amqp_url}?heartbeat=1") as (client, proxy):
        queue: str | Queue = shared
        if what == "queue":
            queue = Queue(unique("held"), exclusive=True)
            await client.declare(queue)
        async with anyio.create_task_group() as tg:
            await tg.start(partial(client.process, queue, handle, exclusive=what == "consumer"))
            proxy.link.to_broker.stall()  # the broker is not told
            proxy.link.to_client.half_close()
            await until(lambda: client.statistics()["consuming_lives"] == 2)
            await client.publish(b"x", routing_key=name_of(queue), mandatory=True)
            with anyio.fail_after(30):
                await handled.wait()
            tg.cancel_scope.cancel()
