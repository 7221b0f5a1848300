"""`client.get` and `client.purge`: single messages through all lives, each settleable for as long as its own lasts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, NotFound, Queue
from rabbitry._client import getting
from tests.support.clients import noticed, refuse, some_queue, through_proxy
from tests.support.helpers import has_counts, open_channel, unique, until


async def got(client: rabbitry.Client, queue: str | Queue, **options: Any) -> Delivery:
    delivery = await client.get(queue, **options)
    assert delivery is not None
    return delivery


def channels_of(client: rabbitry.Client) -> int:
    """Channels open on the consuming connection."""
    connection = client._consuming._connection
    assert connection is not None
    return len(connection._endpoint.protocol.channels)


async def test_a_message_or_none(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        assert await client.get(queue) is None
        for body in (b"1", b"2", b"3"):
            await client.publish(body, routing_key=queue)
        first, second = await got(client, queue), await got(client, Queue(queue))
        assert (first.body, second.body) == (b"1", b"2") and not first.is_settled
        third = await got(client, queue, no_ack=True)
        assert third.body == b"3" and third.is_settled
        second.ack()
        first.nack()
        assert await has_counts(other, queue, 1)
        (await got(client, queue)).reject()
        assert await has_counts(other, queue, 0)


async def test_many_gets_take_one_channel(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        found: list[Delivery | None] = []

        async def get() -> None:
            found.append(await client.get(queue))

        for _ in range(50):
            await client.publish(b"x", routing_key=queue)
        async with anyio.create_task_group() as tg:
            for _ in range(60):
                tg.start_soon(get)
        assert sum(each is not None for each in found) == 50 and channels_of(client) == 1


async def test_a_missing_queue_harms_no_other_delivery(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        await client.publish(b"x", routing_key=queue)
        delivery = await got(client, queue)
        for _ in range(2):
            with pytest.raises(rabbitry.NotFound):
                await client.get("no such queue")
        assert not delivery.is_stale
        delivery.ack()
        assert await has_counts(other, queue, 0)
        assert client.statistics()["consuming_lives"] == 1


async def test_an_exclusive_queue_of_the_client(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        queue = Queue.temporary()
        await client.declare(queue)
        await client.publish(b"x", routing_key=queue.current_name)
        (await got(client, queue)).ack()
        assert await client.get(queue.current_name) is None


async def test_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"x", routing_key=queue)
        former = await got(client, queue)
        await noticed(client, proxy.cut)
        with anyio.fail_after(20):
            while (delivery := await client.get(queue)) is None:  # until the broker has noticed, too
                await anyio.sleep(0.01)
        assert delivery.body == b"x" and delivery.redelivered and former.is_stale
        with pytest.raises(rabbitry.StaleDelivery):
            former.ack()
        delivery.ack()


async def test_a_connection_lost_under_way(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"x", routing_key=queue)
        assert await client.purge(queue) == 1
        await client.publish(b"y", routing_key=queue)
        found: list[Delivery | None] = []

        async def get() -> None:
            found.append(await client.get(queue))

        async with anyio.create_task_group() as tg:
            for link in proxy.links:
                link.to_broker.stall()
            tg.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            proxy.cut()
        assert [each and each.body for each in found] == [b"y"]


async def test_cancelled_the_message_goes_back(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        through_proxy(amqp_url) as (client, proxy),
        open_channel(amqp_url) as other,
    ):
        assert await client.get(queue) is None
        await other.publish(b"x", routing_key=queue)
        proxy.link.to_client.stall()
        with anyio.move_on_after(0.1) as scope:
            await client.get(queue)
        assert scope.cancelled_caught
        proxy.link.to_client.resume()
        assert await has_counts(other, queue, 1)


async def test_no_ack_cancelled_the_next_one_has_it(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        through_proxy(amqp_url) as (client, proxy),
        open_channel(amqp_url) as other,
    ):
        assert await client.get(queue) is None
        await other.publish(b"x", routing_key=queue)
        proxy.link.to_client.stall()
        with anyio.move_on_after(0.1):
            await client.get(queue, no_ack=True)
        proxy.link.to_client.resume()
        assert (await got(client, queue, no_ack=True)).body == b"x"


async def test_a_stream_refuses_and_only_that_get_fails(amqp_url: str) -> None:
    stream = Queue(unique(), type="stream")
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.declare(stream)
        with anyio.fail_after(30), pytest.raises(rabbitry.ConnectionClosed, match="540"):
            await client.get(stream)
        with anyio.fail_after(30), pytest.raises(rabbitry.ConnectionClosed, match="540"):
            await client.purge(stream)
        assert await client.get(queue) is None
        await client.delete(stream)


async def test_what_is_no_queue(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        for wrong in (None, 5, b"q", rabbitry.Exchange("x")):
            with pytest.raises(TypeError):
                await client.get(wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await client.purge(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no_ack"):
            await client.get("q", no_ack="no")  # type: ignore[arg-type]
        assert client.state == "idle"


async def test_more_queues_than_channels(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unsettled keeps its channel; one at rest makes room for another; where none is, the rest share one."""
    monkeypatch.setattr(getting, "MOST_CHANNELS", 3)
    queues = [Queue(unique(), exclusive=True) for _ in range(6)]
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(*queues)
        for _ in range(2):
            for queue in queues:
                assert await client.get(queue) is None
            assert channels_of(client) == 3
        connection = client._consuming._connection
        assert connection is not None
        async with connection.channel() as channel:
            for queue in queues:
                await channel.publish(queue.name.encode(), routing_key=queue.name)
        deliveries = [await got(client, queue) for queue in queues]
        assert channels_of(client) == 4
        with pytest.raises(NotFound):
            await client.get(unique("missing"))  # without harm to those that share a channel
        for delivery in deliveries:
            delivery.ack()
        for queue in queues:
            assert await client.get(queue) is None
        assert channels_of(client) <= 4


async def test_a_channel_that_ended_over_another_delivery_is_replaced(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"x", routing_key=queue)
        former = await got(client, queue)
        former._channel.connection.token.protocol.channels[former._channel.number].ack(former.delivery_tag)
        former._channel.tags.outstanding.add(former.delivery_tag)  # as the broker sees it, it is settled
        former.ack()
        assert await client.get(queue) is None


async def test_nothing_is_got_after_stop_consuming(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"x", routing_key=queue)
        delivery = await got(client, queue)
        client.stop_consuming()
        with pytest.raises(rabbitry.ConsumingStopped):
            await client.get(queue)
        delivery.ack()
        assert await client.purge(queue) == 0


async def test_waiting_for_a_connection_ends_with_stop_consuming(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        assert await client.get(queue) is None
        refuse(proxy)
        await until(lambda: not client.is_ready)
        ended: list[str] = []

        async def ends(operation: Any) -> None:
            with pytest.raises(rabbitry.ConsumingStopped):
                await operation(queue)
            ended.append(operation.__name__)

        async with anyio.create_task_group() as tg:
            tg.start_soon(ends, client.get)
            tg.start_soon(ends, client.purge)
            await anyio.wait_all_tasks_blocked()
            client.stop_consuming()
        assert sorted(ended) == ["get", "purge"]


async def test_a_delivery_that_outlives_its_client(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url) as client:
            await client.publish(b"x", routing_key=queue)
            delivery = await got(client, queue)
        with pytest.raises(rabbitry.StaleDelivery):
            delivery.ack()
        with pytest.raises(rabbitry.NotConnected):
            await client.get(queue)
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 1)


async def test_purge(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as other:
        for _ in range(3):
            await client.publish(b"x", routing_key=queue)
        held = await got(client, queue)
        assert await client.purge(queue) == 2
        assert await client.purge(Queue(queue)) == 0
        held.nack()
        assert await has_counts(other, queue, 1)
        with pytest.raises(rabbitry.NotFound):
            await client.purge("no such queue")


async def test_instrumented(amqp_url: str) -> None:
    class Told:
        def __init__(self) -> None:
            self.ended: list[tuple[str, str]] = []

        def begin(self, operation: rabbitry.Operation) -> None: ...
        def end(self, operation: rabbitry.Operation) -> None:
            self.ended.append((operation.name, operation.outcome))

        def count(self, event: rabbitry.Event, labels: Any) -> None: ...

    told = Told()
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, instrumentation=told) as client:
        assert await client.get(queue) is None
        await client.publish(b"x", routing_key=queue)
        (await got(client, queue)).ack()
    assert told.ended == [("get", "empty"), ("publish", "confirmed"), ("get", "received")]


async def test_the_shared_channel_stays_for_who_is_about_to_use_it(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be at rest while somebody sees first whether the queue exists."""
    monkeypatch.setattr(getting, "MOST_CHANNELS", 2)
    queues = [Queue(unique(), exclusive=True) for _ in range(8)]
    async with rabbitry.open_client(amqp_url) as client:
        await client.declare(*queues)
        connection = client._consuming._connection
        assert connection is not None
        async with connection.channel() as channel:
            for queue in queues[:2]:
                await channel.publish(b"x", routing_key=queue.name)
        held = [await got(client, queue) for queue in queues[:2]]
        assert await client.get(queues[2]) is None
        assert client._getting is not None
        shared = client._getting._channels[None]

        async def get(queue: Queue) -> None:
            for _ in range(5):
                assert await client.get(queue) is None

        async with anyio.create_task_group() as tg:
            for queue in queues[2:]:
                tg.start_soon(get, queue)
        assert client._getting._channels[None] is shared and shared.is_open
        assert channels_of(client) == 3
        for delivery in held:
            delivery.ack()
