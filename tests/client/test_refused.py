"""Messages that the broker ends a channel over, beside others: the culprit alone is refused, whoever publishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import anyio
import pytest

import rabbitry
import rabbitry.blocking
from rabbitry import Confirmation, Message
from rabbitry._channel.channel import life_of
from rabbitry.testing import PrivateNode, open_proxy
from tests.support.clients import some_queue, through_proxy
from tests.support.helpers import drain, open_channel, unique, until

LIMIT = 10_000

BAD = {
    "user": lambda number: Message(b"%d" % number, user_id="mallory"),
    "size": lambda number: Message(b"%d " % number + bytes(LIMIT)),
    "CC": lambda number: Message(b"%d" % number, headers={"CC": "all"}),
}


@pytest.fixture(scope="module")
def strict_node() -> Iterator[PrivateNode]:
    with PrivateNode(settings={"max_message_size": LIMIT}) as node:
        yield node


async def arrived_at(url: str, queue: str) -> Counter[int]:
    async with open_channel(url) as channel:
        return Counter(int(body.split()[0]) for body in await drain(channel, queue))


# --- client.publish ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
async def test_one_that_is_refused_beside_49_tasks(strict_node: PrivateNode, bad: str) -> None:
    """Those behind it are sent again unasked; those before it were under way, and may have to be told so."""
    outcomes: dict[int, str] = {}
    async with some_queue(strict_node.url) as queue, rabbitry.open_client(strict_node.url) as client:
        await client.publish(b"1000", routing_key=queue)

        async def publish(number: int, message: Message) -> None:
            try:
                await client.publish(message, routing_key=queue)
            except rabbitry.PublishFailed as failure:
                outcomes[number] = type(failure).__name__
            else:
                outcomes[number] = "confirmed"

        for batch in range(4):
            async with anyio.create_task_group() as tg:
                for number in range(batch * 50, batch * 50 + 50):
                    message = BAD[bad](number) if number % 50 == 17 else Message(b"%d" % number)
                    tg.start_soon(publish, number, message)
        assert client.statistics()["republished"] == 0
        refused = {17, 67, 117, 167}
        assert {number for number, outcome in outcomes.items() if outcome == "Refused"} == refused
        assert set(outcomes.values()) <= {"confirmed", "Refused", "OutcomeUnknown"}
        arrived = await arrived_at(strict_node.url, queue)
    del arrived[1000]
    confirmed = {number for number, outcome in outcomes.items() if outcome == "confirmed"}
    assert confirmed <= arrived.keys() and max(arrived.values()) == 1
    assert arrived.keys() == set(range(200)) - refused  # RabbitMQ has those before it, too, confirmed or not


@pytest.mark.parametrize("bad", BAD)
async def test_first_of_50_tasks_it_costs_the_others_nothing(strict_node: PrivateNode, bad: str) -> None:
    outcomes: list[str] = []
    async with some_queue(strict_node.url) as queue, through_proxy(strict_node.url) as (client, proxy):
        await client.publish(b"0", routing_key=queue)

        async def publish(number: int) -> None:
            await client.publish(Message(b"%d" % number, user_id="guest"), routing_key=queue)
            outcomes.append("confirmed")

        async def publish_bad() -> None:
            with pytest.raises(rabbitry.Refused) as refused:
                await client.publish(BAD[bad](99), routing_key=queue)
            assert refused.value.code == 406 and refused.value.text in str(refused.value)
            assert isinstance(refused.value.__cause__, rabbitry.PreconditionFailed)
            outcomes.append("refused")

        channel = client._senders.ready("")
        assert channel is not None
        proxy.stall()
        async with anyio.create_task_group() as tg:
            tg.start_soon(publish_bad)
            await until(lambda: life_of(channel).unconfirmed == 1)
            for number in range(1, 50):
                tg.start_soon(publish, number)
            await until(lambda: life_of(channel).unconfirmed == 50)
            proxy.resume()
        assert Counter(outcomes) == {"confirmed": 49, "refused": 1}
        assert await arrived_at(strict_node.url, queue) == Counter(range(50))


async def test_many_that_are_refused_are_each_sent_twice_at_most(strict_node: PrivateNode) -> None:
    """Sent beside each other they would end a channel each, and all others would be sent again each time."""
    async with some_queue(strict_node.url) as queue, rabbitry.open_client(strict_node.url) as client:
        await client.publish(b"0", routing_key=queue)
        outcomes: Counter[str] = Counter()

        async def publish(message: Message, exchange: str = "") -> None:
            try:
                await client.publish(message, exchange=exchange, routing_key=queue)
            except rabbitry.Refused:
                outcomes["refused"] += 1
            else:
                outcomes["confirmed"] += 1

        missing = unique("missing")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tg:
                for number in range(100):
                    tg.start_soon(publish, Message(bytes(LIMIT + 1 + number)))
                    tg.start_soon(publish, Message(b"x", user_id=f"mallory {number}"))
                    tg.start_soon(publish, Message(b"x"), missing)
        assert outcomes == {"refused": 300}
        connection = client._publishing._connection
        assert connection is not None and len(connection._endpoint.protocol.channels) <= 3


@pytest.mark.parametrize("while_down", ["wait", "fail"])
async def test_with_republish_all_others_are_confirmed(amqp_url: str, while_down: Literal["wait", "fail"]) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, while_down=while_down) as client:
        outcomes: Counter[str] = Counter()

        async def publish(number: int) -> None:
            message = BAD["user"](number) if number % 25 == 20 else Message(b"%d" % number)
            try:
                await client.publish(message, routing_key=queue, on_unknown="republish")
            except rabbitry.Refused:
                outcomes["refused"] += 1
            else:
                outcomes["confirmed"] += 1

        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(publish, number)
        assert outcomes == {"refused": 4, "confirmed": 96}
        assert (await arrived_at(amqp_url, queue)).keys() == {n for n in range(100) if n % 25 != 20}


# --- one publisher ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("while_down", ["wait", "fail"])
@pytest.mark.parametrize("bad", BAD)
async def test_a_publisher_goes_on_in_order(
    strict_node: PrivateNode, bad: str, while_down: Literal["wait", "fail"]
) -> None:
    ended: dict[int, Confirmation] = {}

    def on_outcome(confirmation: Confirmation) -> None:
        assert confirmation.tag not in ended
        ended[confirmation.tag] = confirmation

    async with some_queue(strict_node.url) as queue, rabbitry.open_client(strict_node.url) as client:
        async with client.publisher(on_outcome=on_outcome, while_down=while_down) as publisher:
            for number in range(300):
                message = BAD[bad](number) if number % 100 == 0 else b"%d" % number
                await publisher.submit(message, routing_key=queue, tag=number, mandatory=number % 3 == 0)
        assert client.statistics()["republished"] == publisher.republished == 0
        assert publisher.pending == 0 and publisher.sent == len(ended) == 300
        refused = {number for number, confirmation in ended.items() if confirmation.outcome == "refused"}
        unknown = {number for number, confirmation in ended.items() if confirmation.outcome == "unknown"}
        assert refused == {0, 100, 200} and publisher.failed == 3 + len(unknown)
        failure = ended[100].failure()
        assert isinstance(failure, rabbitry.Refused) and failure.code == 406
        async with open_channel(strict_node.url) as channel:
            bodies = [int(body) for body in await drain(channel, queue)]
    assert bodies == [number for number in range(300) if number not in refused]  # in order, each once


async def test_leaving_a_publisher_tells_what_was_refused(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.PublishesFailed) as failed:
            async with client.publisher() as publisher:
                for number in range(20):
                    exchange = "missing" if number in (0, 1, 2) else ""
                    await publisher.submit(b"%d" % number, exchange=exchange, routing_key=queue)
                with pytest.raises(rabbitry.Refused):
                    await publisher.publish(Message(b"x", user_id="mallory"), routing_key=queue)
        refused = [failure for failure in failed.value.failures if isinstance(failure, rabbitry.Refused)]
        assert [failure.message for failure in refused] == [b"0", b"1", b"2"]
        assert all(type(failure) is rabbitry.OutcomeUnknown for failure in failed.value.failures[3:])


async def test_a_publisher_of_nothing_but_what_is_refused_ends_soon(amqp_url: str) -> None:
    outcomes: Counter[str] = Counter()
    async with rabbitry.open_client(amqp_url) as client:
        with anyio.fail_after(60):
            async with client.publisher(
                exchange="missing", on_outcome=lambda confirmation: outcomes.update([confirmation.outcome])
            ) as publisher:
                for number in range(500):
                    await publisher.submit(b"%d" % number)
    assert outcomes == {"refused": 500}


async def test_an_exchange_that_is_there_again_gets_what_was_behind(amqp_url: str) -> None:
    """What is like a refused message is not given up with it."""
    exchange = rabbitry.Exchange(unique(), type="fanout")
    ended: list[Confirmation] = []
    async with rabbitry.open_client(amqp_url) as client, client.publisher(on_outcome=ended.append) as publisher:
        confirmations = [await publisher.submit(b"%d" % number, exchange=exchange) for number in range(3)]
        await until(lambda: ended)
        await client.declare(exchange)
        for confirmation in confirmations[1:]:
            try:
                await confirmation.wait()
            except rabbitry.Refused:
                continue
        assert confirmations[0].outcome == "refused"
        assert {confirmation.outcome for confirmation in confirmations[1:]} <= {"refused", "confirmed"}
        await publisher.publish(b"3", exchange=exchange)
        await client.delete(exchange)


# --- other doors ------------------------------------------------------------------------------------------------------


def test_blocking(amqp_url: str) -> None:
    with rabbitry.blocking.connect(amqp_url) as connection, connection.channel() as channel:
        queue = channel.declare_queue(exclusive=True).name
        with pytest.raises(rabbitry.Refused, match="mallory"):
            channel.publish(Message(b"x", user_id="mallory"), routing_key=queue)
    with rabbitry.blocking.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.Refused, match="NOT_FOUND"):
            client.publish(b"x", exchange="missing")
        outcomes = []
        with client.publisher(on_outcome=lambda confirmation: outcomes.append(confirmation.outcome)) as publisher:
            confirmation = publisher.submit(Message(b"x", user_id="mallory"), routing_key="nowhere")
            for _ in range(5):
                publisher.submit(b"x", routing_key="nowhere")
            with pytest.raises(rabbitry.Refused, match="mallory"):
                confirmation.wait()
            assert confirmation.outcome == "refused"
        assert outcomes == ["refused"] + ["confirmed"] * 5


async def test_a_request_that_is_refused_beside_others(strict_node: PrivateNode) -> None:
    """Requests behind it are sent again, unasked; of those before it a server may have begun any."""
    outcomes: Counter[str] = Counter()
    async with (
        some_queue(strict_node.url) as queue,
        rabbitry.open_client(strict_node.url) as server,
        through_proxy(strict_node.url) as (client, proxy),
        client.rpc(codec="raw") as rpc,
        anyio.create_task_group() as tg,
    ):
        seen: Counter[bytes] = Counter()

        async def echo(payload: bytes) -> bytes:
            seen[payload] += 1
            return payload

        async def call(body: bytes) -> None:
            try:
                assert await rpc.call(queue, body) == body
                outcomes["answered"] += 1
            except rabbitry.PublishFailed as failure:
                outcomes[type(failure).__name__] += 1

        await tg.start(lambda *, task_status: server.serve(queue, echo, codec="raw", task_status=task_status))
        await rpc.call(queue, b"first")
        proxy.stall()
        async with anyio.create_task_group() as calls:
            calls.start_soon(call, bytes(LIMIT + 1))
            await until(lambda: " 1 calls in flight" in repr(rpc))
            for number in range(20):
                calls.start_soon(call, b"%d" % number)
            await until(lambda: " 21 calls in flight" in repr(rpc))
            proxy.resume()
        assert outcomes == {"Refused": 1, "answered": 20}
        assert max(seen.values()) == 1
        server.stop_consuming()


class Outcomes:
    """An instrumentation that notes how each operation ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def begin(self, operation: rabbitry.Operation) -> None: ...

    def count(self, event: rabbitry.Event, labels: object) -> None: ...

    def end(self, operation: rabbitry.Operation) -> None:
        self.ended.append((operation.name, operation.outcome))
        assert (operation.outcome == "refused") == isinstance(operation.error, rabbitry.Refused)


async def test_what_an_instrumentation_is_told(amqp_url: str) -> None:
    outcomes = Outcomes()
    bad = Message(b"x", user_id="mallory")
    async with rabbitry.open_client(amqp_url, instrumentation=outcomes) as client:
        with pytest.raises(rabbitry.Refused):
            await client.publish(bad, routing_key="nowhere")
        async with client.publisher(on_outcome=lambda _: None) as publisher:
            for message in (bad, bad, b"x"):
                await publisher.submit(message, routing_key="nowhere")
            await publisher.flush()
            with pytest.raises(rabbitry.Refused):
                await publisher.publish(bad, routing_key="nowhere")
        async with client.rpc() as rpc:
            with pytest.raises(rabbitry.Refused):
                await rpc.call("x", exchange=unique("missing"))
    refused = [("publish", "refused")] * 3
    assert outcomes.ended == [*refused, ("publish", "confirmed"), ("publish", "refused"), ("call", "refused")]


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_connection_closed_over_a_publish(amqp_url: str, is_alone: bool) -> None:
    """It names no channel: the culprit is known where one channel alone was publishing."""
    async with open_proxy(amqp_url) as proxy, rabbitry.connect(proxy.url) as connection:
        async with connection.channel() as channel, connection.channel() as other:
            proxy.stall()
            confirmations = [channel.publish_nowait(bytes(size), routing_key="nowhere") for size in (1, 3, 3, 2)]
            if not is_alone:
                confirmations.append(other.publish_nowait(bytes(3), routing_key="nowhere"))
            endpoint = life_of(channel).endpoint
            await until(lambda: not endpoint.protocol.out_size)
            text = "PRECONDITION_FAILED - message size 3 is larger than max size 2"
            endpoint.protocol.end(rabbitry.ConnectionClosed(text, code=406, method="basic.publish"))
            endpoint.dispatch()
            outcomes = [confirmation and confirmation.outcome for confirmation in confirmations]
            assert outcomes == (["unknown", "refused", "unsent", "unsent"] if is_alone else ["unknown"] * 5)
