"""Publishing that spans reconnects: what is sent again, what is not, and that each message ends exactly once."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

import rabbitry
from rabbitry import Confirmation, Exchange
from tests.clients import QUICK, refuse, some_queue, through_proxy
from tests.helpers import drain, open_channel, unique, until


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
            sent = 0
            with anyio.move_on_after(0.5):
                for sent in range(1, 2000):
                    await publisher.submit(b"%d " % sent + body, routing_key=queue, tag=sent)
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
                await anyio.sleep(0.05)  # they leave
                proxy.cut()
        assert raised.value.count == 5
        assert all(isinstance(failure, rabbitry.OutcomeUnknown) for failure in raised.value.failures)


async def test_a_confirmation_waits_through_lives(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with client.publisher(on_unknown="republish") as publisher:
            await publisher.publish(b"0", routing_key=queue)
            proxy.link.to_broker.stall()
            confirmation = await publisher.submit(b"1", routing_key=queue)
            await anyio.sleep(0.02)
            refuse(proxy)
            with anyio.move_on_after(0.1) as scope:
                await confirmation.wait()
            assert scope.cancelled_caught and confirmation.outcome == "pending"
            proxy.accept()
            with anyio.fail_after(5):
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
            with anyio.fail_after(5):
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
                await anyio.sleep(0.02)
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                assert confirmation.outcome == "pending"
                raise KeyError
        assert confirmation.outcome == "unsent"
        with pytest.raises(rabbitry.NotSent, match="publisher was left"):
            await confirmation.wait()


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
                await anyio.sleep(0.02)
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                submitted.set()
                with pytest.raises(rabbitry.NotSent):
                    await confirmations[1].wait()
            outcomes.append("left")

        with anyio.fail_after(5):
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


async def test_a_missing_exchange_does_not_republish_for_ever(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        with anyio.fail_after(5), pytest.raises(rabbitry.PublishesFailed) as raised:
            async with client.publisher(exchange=Exchange("missing"), on_unknown="republish") as publisher:
                for number in range(50):
                    await publisher.submit(b"%d" % number)
        assert raised.value.count == 50
        with anyio.fail_after(5), pytest.raises(rabbitry.OutcomeUnknown) as unknown:
            await client.publish(b"x", exchange=Exchange("missing"), on_unknown="republish")
        assert isinstance(unknown.value.__cause__, rabbitry.NotFound)


async def test_publish_republishes_where_duplicates_are_fine(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"0", routing_key=queue)
        proxy.link.to_client.stall()  # it arrives, its confirm does not
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.publish(b"1", routing_key=queue, on_unknown="republish"))
            await anyio.sleep(0.1)
            proxy.cut()
        async with open_channel(amqp_url) as channel:
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
        with pytest.raises(rabbitry.LocalProtocolError):
            async with client.publisher(**options):  # type: ignore[arg-type]
                pass
