"""Publishing that spans reconnects: what is sent again, what is not, and that each message ends exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import repeat
from typing import Literal

import anyio
import pytest

import rabbitry
from rabbitry import Confirmation, Exchange, Message
from rabbitry.testing import PrivateNode
from tests.support.clients import QUICK, fill, have_left, refuse, some_queue, through_proxy
from tests.support.helpers import drain, has_counts, open_channel, unique, until


async def test_what_never_left_is_sent_in_the_next_life_in_order(amqp_url: str) -> None:
    """Queued while the broker does not read: the socket's buffers took a part of it, whose outcome is unknown."""
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        failures: dict[int, Confirmation] = {}
        body = bytes(20_000)

        def ended(confirmation: Confirmation) -> None:
            if confirmation.outcome != "confirmed":
                failures[confirmation.tag] = confirmation

        async with client.publisher(window=1000, on_outcome=ended) as publisher:
            await publisher.publish(b"0", routing_key=queue)
            proxy.link.to_broker.stall()
            await fill(publisher, queue, (b"%d " % number + body for number in range(1, 2000)))
            proxy.cut()
            last = await publisher.submit(b"last", routing_key=queue)
            await publisher.flush()
            assert last.outcome == "confirmed"
            assert publisher.pending == 0 and publisher.failed == len(failures)
            assert publisher.confirmed + publisher.failed == publisher.sent
        assert {confirmation.outcome for confirmation in failures.values()} == {"unknown"}
        async with open_channel(amqp_url) as channel:
            arrived = [body.split()[0] for body in await drain(channel, queue)]
        assert arrived[-1] == b"last"
        again = [int(number) for number in arrived[:-1]]
        assert again == sorted(set(again))
        assert len(set(again) | set(failures)) == publisher.sent - 1


async def test_on_unknown_republish_arrives_at_least_once(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.publisher(window=100, on_unknown="republish") as publisher:
            for number in range(2000):
                await publisher.submit(b"%d" % number, routing_key=queue, mandatory=bool(number & 1))
                if number % 500 == 250:
                    proxy.cut()
        assert publisher.confirmed == publisher.sent == 2000 and not publisher.failed
        assert client.statistics()["republished"] == publisher.republished > 0
        async with open_channel(amqp_url) as channel:
            arrived = Counter(map(int, await drain(channel, queue)))
        assert arrived.keys() == set(range(2000))
        assert arrived.total() - 2000 <= publisher.republished


async def test_unknown_outcomes_raise_unless_asked_otherwise(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        with pytest.raises(rabbitry.PublishesFailed) as raised:
            async with client.publisher() as publisher:
                await publisher.publish(b"x", routing_key=queue)
                proxy.link.to_broker.stall()
                for number in range(5):
                    await publisher.submit(b"%d" % number, routing_key=queue)
                await have_left(publisher)
                proxy.cut()
        assert raised.value.count == 5
        assert all(isinstance(failure, rabbitry.OutcomeUnknown) for failure in raised.value.failures)


async def test_a_confirmation_waits_through_lives(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.publisher(on_unknown="republish") as publisher:
            await publisher.publish(b"0", routing_key=queue)
            proxy.link.to_broker.stall()
            confirmation = await publisher.submit(b"1", routing_key=queue)
            await have_left(publisher)
            refuse(proxy)
            with anyio.move_on_after(0.1) as scope:
                await confirmation.wait()
            assert scope.cancelled_caught and confirmation.outcome == "pending"
            proxy.accept()
            with anyio.fail_after(30):
                await confirmation.wait()


async def test_while_down_fail_says_so_at_once(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url, while_down="fail") as (client, proxy):
        async with client.publisher() as publisher:
            await publisher.publish(b"0", routing_key=queue)
            refuse(proxy)
            await until(lambda: client.state == "recovering")
            with pytest.raises(rabbitry.NotConnected, match="being recovered"):
                await publisher.submit(b"1", routing_key=queue)
            with pytest.raises(rabbitry.NotConnected):
                async with client.publisher():
                    pass
            proxy.accept()
            with anyio.fail_after(30):
                await publisher.publish(b"2", routing_key=queue, mandatory=True) if await is_back(client) else None
            assert publisher.sent == 2


async def is_back(client: rabbitry.Client) -> bool:
    await until(lambda: client.is_ready)
    return True


async def test_publishing_blocks_for_an_outage_and_no_longer_than_its_scope(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), client.publisher(window=2) as publisher:
        await publisher.publish(b"x", routing_key="nowhere")
        refuse(proxy)
        await until(lambda: client.state == "recovering")
        for operation in (publisher.submit, publisher.publish):
            with anyio.move_on_after(0.05) as scope:
                await operation(b"x", routing_key="nowhere")
            assert scope.cancelled_caught
        assert publisher.sent == 1 and publisher.pending == 0
        proxy.accept()


async def test_leaving_with_an_error_gives_up_what_waits(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        with pytest.raises(KeyError):
            async with client.publisher(on_unknown="republish") as publisher:
                await publisher.publish(b"x", routing_key=queue)
                proxy.link.to_broker.stall()
                confirmation = await publisher.submit(b"y", routing_key=queue)
                await have_left(publisher)
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                assert confirmation.outcome == "pending"
                raise KeyError
        assert confirmation.outcome == "unknown"  # it was under way when the connection was lost
        with pytest.raises(rabbitry.OutcomeUnknown, match="publisher was left"):
            await confirmation.wait()
        proxy.accept()
        await client.publish(b"z", routing_key=queue)  # the client goes on, and sends nothing of what was given up
        await anyio.sleep(0.1)
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) in ([b"x", b"z"], [b"x", b"y", b"z"])
        assert (publisher.sent, publisher.confirmed, publisher.failed) == (2, 1, 1)


async def test_the_end_of_the_client_ends_what_is_pending(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, anyio.create_task_group() as tg:
        confirmations: list[Confirmation] = []
        submitted = anyio.Event()
        outcomes: list[str] = []

        async def publish(client: rabbitry.Client) -> None:
            async with client.publisher(on_unknown="republish", on_outcome=lambda _: None) as publisher:
                confirmations.append(await publisher.submit(b"x", routing_key=queue))
                await confirmations[0].wait()
                proxy.link.to_broker.stall()
                confirmations.append(await publisher.submit(b"y", routing_key=queue))
                await have_left(publisher)
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                submitted.set()
                with pytest.raises(rabbitry.OutcomeUnknown):
                    await confirmations[1].wait()
            outcomes.append("left")

        with anyio.fail_after(30):
            async with through_proxy(amqp_url, drain=0.2) as (client, proxy):
                tg.start_soon(publish, client)
                await submitted.wait()
            await until(lambda: outcomes == ["left"])


async def test_leaving_the_client_flushes_publishers_of_other_tasks(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, anyio.create_task_group() as tg:
        confirmations: list[Confirmation] = []
        submitted = anyio.Event()

        async def publish() -> None:
            async with client.publisher() as publisher:
                for number in range(500):
                    confirmations.append(await publisher.submit(b"%d" % number, routing_key=queue))
                submitted.set()
                await anyio.sleep(0.5)

        async with rabbitry.open_client(amqp_url) as client:
            tg.start_soon(publish)
            await submitted.wait()
        assert {confirmation.outcome for confirmation in confirmations} == {"confirmed"}


@pytest.mark.usefixtures("nobody_is_named")
async def test_republishing_finds_the_one_that_the_broker_closes_the_channel_for(amqp_url: str) -> None:
    """The broker does not say which it was; the innocent, which were under way beside it, all arrive."""
    async with rabbitry.open_client(amqp_url) as client, some_queue(amqp_url) as queue:
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            async with client.publisher(on_unknown="republish") as publisher:
                for number in range(200):
                    culprit = number in (50, 150)
                    await publisher.submit(b"%d" % number, exchange="missing" if culprit else "", routing_key=queue)
        assert {failure.message for failure in caught.value.failures} == {b"50", b"150"}
        assert all(isinstance(failure.__cause__, rabbitry.NotFound) for failure in caught.value.failures)
        assert publisher.confirmed == 198 and publisher.pending == 0
        async with open_channel(amqp_url) as channel:
            arrived = {int(body) for body in await drain(channel, queue)}
        assert arrived == set(range(200)) - {50, 150}


async def test_a_missing_exchange_does_not_republish_for_ever(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        with anyio.fail_after(30), pytest.raises(rabbitry.PublishesFailed) as raised:
            async with client.publisher(exchange=Exchange("missing"), on_unknown="republish") as publisher:
                for number in range(50):
                    await publisher.submit(b"%d" % number)
        assert raised.value.count == 50
        assert all(isinstance(failure, rabbitry.Refused) for failure in raised.value.failures)
        with anyio.fail_after(30), pytest.raises(rabbitry.Refused) as refused:
            await client.publish(b"x", exchange=Exchange("missing"), on_unknown="republish")
        assert isinstance(refused.value.__cause__, rabbitry.NotFound)
        assert client.statistics()["republished"] == 0


async def test_publish_republishes_where_duplicates_are_fine(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"0", routing_key=queue)
        proxy.link.to_client.stall()  # it arrives, its confirm does not
        async with open_channel(amqp_url) as channel:
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: client.publish(b"1", routing_key=queue, on_unknown="republish"))
                assert await has_counts(channel, queue, 2)
                proxy.cut()
            assert await drain(channel, queue) == [b"0", b"1", b"1"]
        assert client.statistics()["republished"] == 1


async def test_unroutable_and_order_through_a_publisher(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        async with client.publisher() as publisher:
            with pytest.raises(rabbitry.Unroutable):
                await publisher.publish(b"x", routing_key=unique(), mandatory=True)
            for number in range(100):
                await publisher.submit(b"%d" % number, routing_key=queue)
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) == [b"%d" % number for number in range(100)]
        with pytest.raises(rabbitry.LocalProtocolError, match="not open"):
            await publisher.submit(b"late", routing_key=queue)


@pytest.mark.parametrize("options", [{"window": 0}, {"while_down": "drop"}, {"on_unknown": "drop"}])
async def test_a_publisher_that_makes_no_sense(amqp_url: str, options: dict[str, object]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(ValueError):
            async with client.publisher(**options):  # type: ignore[arg-type]
                pass


async def test_what_never_left_and_never_will_is_not_sent(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        with pytest.raises(KeyError):
            async with client.publisher(window=5000) as publisher:
                await publisher.publish(b"x", routing_key=queue)
                proxy.link.to_broker.stall()
                confirmations = await fill(publisher, queue, repeat(bytes(20_000), 5000))
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                raise KeyError
        assert {confirmation.outcome for confirmation in confirmations} == {"unknown", "unsent"}
        with pytest.raises(rabbitry.NotSent, match="publisher was left"):
            await confirmations[-1].wait()
        proxy.accept()


async def test_the_order_outlives_a_loss_amid_sending_again(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.publisher(window=1000, on_unknown="republish") as publisher:
            await publisher.publish(b"0", routing_key=queue)
            proxy.link.to_broker.stall()
            await fill(publisher, queue, (b"%d " % number + bytes(10_000) for number in range(1, 1000)))
            proxy.throttle = 3_000_000  # a life sends some of them, and does not end by itself
            for _ in range(3):
                proxy.cut()
                await anyio.sleep(0.2)
            proxy.throttle = 0
        assert (publisher.confirmed, publisher.failed) == (publisher.sent, 0)
        async with open_channel(amqp_url) as channel:
            arrived = [int(body.split()[0]) for body in await drain(channel, queue)]
        assert set(arrived) == set(range(publisher.sent)) and arrived[-1] == publisher.sent - 1 > 50
        falls = [number for number in range(1, len(arrived)) if arrived[number] < arrived[number - 1]]
        assert len(falls) <= 3  # a life each: within it they rise


async def test_a_message_that_the_broker_closes_the_connection_for_is_sent_again_once_at_most(amqp_url: str) -> None:
    """RabbitMQ 3.10 closes the connection (541) over an address of direct reply-to that is not one of its own."""
    async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        with anyio.fail_after(30):
            with pytest.raises((rabbitry.OutcomeUnknown, rabbitry.Unroutable)):
                await client.publish(
                    b"x", routing_key="amq.rabbitmq.reply-to.a.b", on_unknown="republish", mandatory=True
                )
            async with client.publisher(on_unknown="republish", on_outcome=lambda _: None) as publisher:
                await publisher.submit(b"x", routing_key="amq.rabbitmq.reply-to.a.b")
        assert client.statistics()["publishing_lives"] <= 5 and client.statistics()["republished"] <= 2


async def test_publish_that_was_under_way_once_is_never_said_not_to_be_sent(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url, while_down="fail") as (client, proxy):
        await client.publish(b"0", routing_key=queue)
        proxy.link.to_client.stall()  # it arrives, its confirm does not

        async def publish() -> None:
            with pytest.raises(rabbitry.OutcomeUnknown):
                await client.publish(b"1", routing_key=queue, on_unknown="republish")

        async with open_channel(amqp_url) as channel:
            async with anyio.create_task_group() as tg:
                tg.start_soon(publish)
                assert await has_counts(channel, queue, 2)
                refuse(proxy)
            assert await drain(channel, queue) == [b"0", b"1"]


async def test_who_would_rather_fail_does_not_wait_behind_who_waits(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), anyio.create_task_group() as tg:
        await client.publish(b"x", routing_key="nowhere")
        refuse(proxy)
        await until(lambda: client.state == "recovering")
        tg.start_soon(lambda: client.publish(b"x", routing_key="nowhere"))
        await anyio.sleep(0.05)
        with anyio.fail_after(20), pytest.raises(rabbitry.NotConnected):
            await client.publish(b"x", routing_key="nowhere", while_down="fail")
        proxy.accept()


async def test_the_first_connection_fails_who_would_rather_fail(amqp_url: str) -> None:
    async with through_proxy(amqp_url, while_down="fail") as (client, proxy):
        proxy.refuse()
        with anyio.fail_after(20), pytest.raises(rabbitry.NotConnected):
            await client.publish(b"x", routing_key="nowhere")
        proxy.accept()


async def test_no_channel_is_left_by_publishers_that_are_refused_or_left(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"x", routing_key="nowhere")
        for _ in range(20):
            with pytest.raises(ValueError):
                async with client.publisher(window=0):
                    pass
        waiting = anyio.Event()

        async def submit(publisher: rabbitry.ClientPublisher) -> None:
            waiting.set()
            with pytest.raises(rabbitry.LocalProtocolError, match="not open"):
                await publisher.submit(b"x", routing_key="nowhere")

        async with anyio.create_task_group() as tg:
            with pytest.raises(KeyError):
                async with client.publisher() as publisher:
                    await publisher.publish(b"x", routing_key="nowhere")
                    refuse(proxy)
                    await until(lambda: client.state == "recovering")
                    tg.start_soon(submit, publisher)
                    await waiting.wait()
                    await anyio.sleep(0.02)
                    raise KeyError
        proxy.accept()
        async with client.channel() as channel:
            assert channel.number <= 2


async def test_a_nack_takes_the_next_message_to_another_channel(amqp_url: str) -> None:
    """RabbitMQ may refuse a channel's publishes for good (a quorum queue without a leader); here it is full."""
    async with open_channel(amqp_url) as other, rabbitry.open_client(amqp_url) as client:
        queue = unique()
        await other.declare(rabbitry.Queue(queue, max_length=1, overflow="reject-publish"))
        try:
            numbers = set()
            await client.publish(b"1", routing_key=queue)
            began = anyio.current_time()
            async with client.publisher(on_outcome=lambda _: None) as publisher:
                for _ in range(4):
                    with pytest.raises(rabbitry.Nacked):
                        await client.publish(b"2", routing_key=queue)
                    with pytest.raises(rabbitry.Nacked):
                        await publisher.publish(b"3", routing_key=queue)
                    numbers.add(publisher._life.live.number)
                    await anyio.sleep(0.4)
                await other.purge_queue(queue)
                await publisher.publish(b"4", routing_key=queue)
                assert 1 < len(numbers) < 3 + anyio.current_time() - began  # not more often than once a second
            await other.purge_queue(queue)
            await client.publish(b"5", routing_key=queue)
            async with client.channel() as channel:
                assert channel.number <= 8  # those replaced are closed when the next one is
        finally:
            await other.delete_queue(queue)


async def test_the_innocent_get_through_where_the_broker_closed_the_channel_for_another(amqp_url: str) -> None:
    """RabbitMQ closes the channel over a user_id that is not the connection's; the messages beside it share it."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        ended: list[str] = []

        async def publish(message: Message) -> None:
            try:
                await client.publish(message, routing_key=queue, on_unknown="republish")
            except rabbitry.Refused as error:
                ended.append(type(error.__cause__).__name__)
            else:
                ended.append("confirmed")

        for _ in range(5):
            async with anyio.create_task_group() as tg:
                for number in range(5):
                    tg.start_soon(publish, Message(b"%d" % number))
                tg.start_soon(publish, Message(b"x", user_id="mallory"))
        assert sorted(ended) == ["PreconditionFailed"] * 5 + ["confirmed"] * 25
        connection = client._publishing._connection
        assert connection is not None and len(connection._endpoint.protocol.channels) <= 1


async def test_a_blocked_connection_fails_who_would_rather_fail(node: PrivateNode) -> None:
    async with rabbitry.open_client(node.url) as client, client.publisher(while_down="fail") as publisher:
        async with node.memory_alarm():
            with anyio.fail_after(30):
                while not publisher._life.endpoint.blocked_reason:
                    with anyio.move_on_after(0.05):
                        await client.publish(b"x", routing_key="nowhere")
            with pytest.raises(rabbitry.ConnectionBlocked):
                await client.publish(b"x", routing_key="nowhere", while_down="fail")
            with pytest.raises(rabbitry.ConnectionBlocked):
                await publisher.submit(b"x", routing_key="nowhere")
            with anyio.fail_after(5):  # nor is a channel waited for, which the broker would not read of
                with pytest.raises(rabbitry.ConnectionBlocked):
                    await client.publish(b"x", exchange="amq.fanout", while_down="fail")
                with pytest.raises(rabbitry.ConnectionBlocked):
                    await client.publish(b"x", routing_key="nowhere", delay=1, while_down="fail")
                with pytest.raises(rabbitry.ConnectionBlocked):
                    async with client.publisher(while_down="fail"):
                        pass
        with anyio.fail_after(30):
            await client.publish(b"x", routing_key="nowhere")


def test_under_plain_asyncio(amqp_url: str) -> None:
    """Without AnyIO's runner callbacks of the event loop run in no task, and outside all that AnyIO knows."""

    async def main() -> None:
        async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
            async with client.publisher(on_unknown="republish", on_outcome=lambda _: None) as publisher:
                for number in range(300):
                    await publisher.submit(b"%d" % number, routing_key=queue)
                    if number % 100 == 50:
                        proxy.cut()
            assert (publisher.confirmed, publisher.failed) == (300, 0)
            await client.declare(rabbitry.Queue.temporary())
            handled: set[bytes] = set()

            async def handle(delivery: rabbitry.Delivery) -> None:
                if not delivery.redelivered:
                    await anyio.sleep(0.02)
                handled.add(delivery.body)

            async def process() -> None:
                await client.process(queue, handle, concurrency=20, on_stale="cancel")

            processing = asyncio.create_task(process())
            await asyncio.sleep(0.1)
            proxy.cut()
            await until(lambda: len(handled) == 300)
            client.stop_consuming()
            await processing
            async with open_channel(amqp_url) as other:
                full = unique()
                await other.declare(rabbitry.Queue(full, max_length=0, overflow="reject-publish", exclusive=True))
                with pytest.raises(rabbitry.Unroutable):
                    await client.publish(b"x", routing_key=unique(), mandatory=True)

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(main(), 45))


@pytest.mark.usefixtures("nobody_is_named")
@pytest.mark.parametrize("while_down", ["wait", "fail"])
async def test_a_connection_lost_while_a_suspect_is_sent_alone_leaves_its_outcome_unknown(
    amqp_url: str, while_down: Literal["wait", "fail"]
) -> None:
    """It had been sent before: to say that it certainly was not would be wrong."""
    async with through_proxy(amqp_url) as (client, proxy):

        async def cut() -> None:
            await until(lambda: client.statistics()["republished"] == 1)
            proxy.cut()

        async with anyio.create_task_group() as tg:
            tg.start_soon(cut)
            with pytest.raises(rabbitry.OutcomeUnknown), anyio.fail_after(30):
                await client.publish(b"x", exchange="missing", on_unknown="republish", while_down=while_down)


@pytest.mark.usefixtures("nobody_is_named")
async def test_leaving_a_publisher_ends_what_it_sends_alone(amqp_url: str) -> None:
    async with through_proxy(amqp_url) as (client, proxy), anyio.create_task_group() as tg:
        with pytest.raises(ZeroDivisionError):
            async with client.publisher(on_unknown="republish") as publisher:
                confirmation = await publisher.submit(b"x", exchange="missing")
                await until(lambda: publisher.republished == 1)
                proxy.link.to_broker.stall()

                async def cut() -> None:
                    await anyio.sleep(0.05)
                    proxy.cut()

                tg.start_soon(cut)
                raise ZeroDivisionError
        with anyio.fail_after(30), pytest.raises(rabbitry.OutcomeUnknown):
            await confirmation.wait()
        assert publisher.pending == 0
