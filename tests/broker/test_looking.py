"""What a test sees of a broker, and how it helps itself; on both backends."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest

import rabbitry
from rabbitry.broker import BindingState, Broker
from rabbitry.broker.history import MOST_OCTETS, History
from tests.broker.test_queues import message
from tests.support.helpers import until


async def test_what_is_in_a_queue_and_who_consumes() -> None:
    async with Broker(compat="4.0") as broker, broker.connect() as connection:
        async with connection.channel(prefetch=1) as channel:
            await channel.declare_exchange("x", "topic")
            await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
            await channel.bind_queue("q", "x", "a.#")
            for body in (b"1", b"2", b"3"):
                await channel.publish(rabbitry.Message(body, headers={"n": 1}), exchange="x", routing_key="a.b")
            async with channel.consume("q", consumer_tag="mine") as deliveries:
                delivery = await deliveries.__anext__()
                state = broker.queue("q")
                assert (state.name, state.type, state.durable, state.exclusive) == ("q", "quorum", True, False)
                assert state.bodies == [b"2", b"3"]
                [held] = state.unacknowledged
                assert (held.body, held.exchange, held.routing_key, held.headers) == (b"1", "x", "a.b", {"n": 1})
                [consumer] = state.consumers
                assert (consumer.tag, consumer.prefetch, consumer.unacknowledged) == ("mine", 1, 1)
                assert consumer.is_active and not consumer.no_ack
                assert state.bindings == (BindingState(exchange="x", routing_key="a.#"),)
                delivery.nack(requeue=True)
                await until(lambda: broker.queue("q") != state)
                assert [each.body for each in state.unacknowledged] == [b"1"], "a value stays as it was"
        assert [each.redelivered for each in broker.queue("q").ready] == [True, False, False]
        assert broker.queue("q").ready[0].delivery_count >= 1


async def test_who_waits_behind_a_single_active_consumer() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q", arguments={"x-single-active-consumer": True})
        async with channel.consume("q", consumer_tag="one"), channel.consume("q", consumer_tag="two"):
            assert {each.tag: each.is_active for each in broker.queue("q").consumers} == {"one": True, "two": False}


async def test_what_was_published_where() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("a")
        await channel.declare_queue("b")
        await channel.bind_queue("a", "amq.fanout")
        await channel.bind_queue("b", "amq.fanout")
        await channel.publish(rabbitry.Message(b"1", message_id="id"), exchange="amq.fanout", routing_key="k")
        await channel.publish(b"2", routing_key="nowhere")
        await channel.get("a", no_ack=True)
        both = broker.published()
        assert [(each.body, each.exchange, each.queues, each.user) for each in both] == [
            (b"1", "amq.fanout", ("a", "b"), "guest"),
            (b"2", "", (), "guest"),
        ]
        assert both[0].properties.message_id == "id" and both[0].virtual_host == "/"
        assert [each.body for each in broker.published("amq.fanout")] == [b"1"]
        assert [each.body for each in broker.published(routing_key="nowhere")] == [b"2"]
        assert broker.published("amq.fanout", "other") == []


async def test_publish_and_drain_without_a_client() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        await channel.declare_queue("other")
        await channel.bind_queue("other", "amq.direct", "k")
        stamp = datetime(2026, 1, 2, tzinfo=UTC)
        sent = rabbitry.Message(b"1", headers={"a": [1]}, timestamp=stamp, expiration=60)
        assert broker.publish(sent, "q") == ("q",)
        assert broker.publish(b"2", "k", exchange="amq.direct") == ("other",)
        assert broker.publish(b"3", "nowhere") == ()
        delivery = await channel.get("q")
        assert delivery is not None and (delivery.body, delivery.message.headers) == (b"1", {"a": [1]})
        delivery.reject(requeue=True)
        await until(lambda: len(broker.queue("q").ready) == 1)
        [stored] = broker.drain("q")
        assert (stored.body, stored.redelivered, stored.properties.timestamp) == (b"1", True, stamp)
        assert stored.properties.expiration == "60000"
        assert broker.drain("q") == [] and [each.user for each in broker.published()] == ["", "", ""]


async def test_what_is_published_reaches_who_waits() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        async with channel.consume("q") as deliveries:
            broker.publish(b"m", "q")
            delivery = await deliveries.__anext__()
            assert delivery.body == b"m"
            delivery.ack()


async def test_a_stream_is_drained_and_keeps_its_messages() -> None:
    async with Broker() as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "stream"})
        for body in (b"1", b"2"):
            await channel.publish(body, routing_key="q")
        for _ in range(2):
            assert [each.headers["x-stream-offset"] for each in broker.drain("q")] == [0, 1]
        assert broker.queue("q").type == "stream"


async def test_virtual_hosts_are_looked_at_by_name() -> None:
    async with Broker() as broker:
        broker.add_vhost("other")
        async with broker.connect("amqp://guest:guest@x/other") as connection, connection.channel() as channel:
            await channel.declare_queue("q")
            assert broker.queues() == {} and set(broker.queues("other")) == {"q"}
            assert broker.publish(b"m", "q", virtual_host="other") == ("q",)
            assert [each.body for each in broker.drain("q", "other")] == [b"m"]


async def test_what_is_not_there_is_told() -> None:
    async with Broker() as broker:
        for look in (
            lambda: broker.queue("none"),
            lambda: broker.drain("none"),
            lambda: broker.queues("none"),
            lambda: broker.publish(b"m", "q", exchange="none"),
            lambda: broker.publish(b"m", "q", virtual_host="none"),
        ):
            with pytest.raises(LookupError, match=r"there is no .* 'none'"):
                look()
        with pytest.raises(ValueError, match="expiration"):
            broker.publish(rabbitry.Message(b"m", expiration=-1), "q")
        with pytest.raises(TypeError):
            broker.publish("text", "q")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="CC"):
            broker.publish(rabbitry.Message(b"m", headers={"CC": "q"}), "q")


def test_the_history_is_bounded() -> None:
    history = History(3)
    for index in range(10):
        history.add(message(b"%d" % index), "", "/", ())
    assert [each.message.body for each in history.records()] == [b"7", b"8", b"9"]
    large = b"x" * (MOST_OCTETS // 2 + 1)
    history.add(message(large), "", "/", ())
    history.add(message(large), "", "/", ())
    assert [each.message.body for each in history.records()] == [large]
    history.clear()
    history.add(message(b"m"), "", "/", ())
    assert len(history.records()) == 1
    history.add(message(b"x" * (MOST_OCTETS + 1)), "", "/", ())
    assert history.records() == []


async def test_no_history_is_kept_where_none_is_wanted() -> None:
    async with Broker(history=0) as broker, broker.connect() as connection, connection.channel() as channel:
        await channel.declare_queue("q")
        await channel.publish(b"m", routing_key="q")
        assert broker.published() == []


async def test_a_test_answers_a_call() -> None:
    async with Broker() as broker, broker.open_client() as client, client.rpc() as rpc:
        await client.declare(rabbitry.Queue("prices"))

        async def answer() -> None:
            await until(lambda: bool(broker.queue("prices").ready))
            [request] = broker.drain("prices")
            reply = rabbitry.Message.json(3, correlation_id=request.properties.correlation_id)
            assert broker.publish(reply, request.properties.reply_to or "") == ()

        async with anyio.create_task_group() as tg:
            tg.start_soon(answer)
            with anyio.fail_after(5):
                assert await rpc.call("prices", "tea") == 3


async def test_what_can_not_be_sent_is_not_published() -> None:
    async with Broker() as broker:
        for value, error in (("k" * 256, ValueError), (b"k", TypeError), (None, TypeError)):
            with pytest.raises(error, match="routing_key must"):
                broker.publish(b"m", value)  # type: ignore[arg-type]
