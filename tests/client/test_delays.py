"""`publish(delay=…)`: when it arrives, what becomes of all that a message has, and what no delay is for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import (
    AccessRefused,
    Binding,
    Channel,
    ConnectionBlocked,
    Delivery,
    Event,
    Exchange,
    Message,
    Nacked,
    NotConnected,
    Operation,
    OutcomeUnknown,
    Queue,
    Refused,
    Unroutable,
)
from rabbitry._client import delays
from rabbitry._client.delays import name_of_level
from rabbitry.testing import PrivateNode, Proxy
from tests.support.clients import noticed, refuse, some_queue, through_proxy
from tests.support.helpers import drain, open_channel, unique

SLACK = 1.0
"""Seconds: the broker writes to a disk that others use, too; `tests.measuring.retries` tells of an idle one."""


@asynccontextmanager
async def an_exchange(url: str, type: str = "topic") -> AsyncIterator[str]:
    exchange = Exchange(unique("exchange"), type)
    async with open_channel(url) as channel:
        await channel.declare(exchange)
        try:
            yield exchange.name
        finally:
            with anyio.CancelScope(shield=True):
                await channel.delete_exchange(exchange.name)


async def arrival(client: rabbitry.Client, queue: str, seconds: float = 15) -> tuple[Delivery, float]:
    """The next message, which is acknowledged, and when it came."""
    with anyio.fail_after(seconds):
        async with client.consume(queue) as deliveries:
            delivery = await anext(aiter(deliveries))
            at = anyio.current_time()
            delivery.ack()
            return delivery, at


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.2, 0.73, timedelta(seconds=1.5)])
async def test_it_arrives_when_its_delay_is_over(amqp_url: str, delay: Any) -> None:
    asked = delay.total_seconds() if isinstance(delay, timedelta) else delay
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"to declare", routing_key=queue, delay=delay)
        await arrival(client, queue)
        began = anyio.current_time()
        await client.publish(b"x", routing_key=queue, delay=delay)
        delivery, at = await arrival(client, queue)
        assert delivery.body == b"x"
        assert asked - 0.01 <= at - began <= asked * 1.1 + SLACK


async def test_no_delay_is_none(amqp_url: str) -> None:
    """Then the rest is as ever, too."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        message = Message(b"x", expiration=60)
        await client.publish(message, routing_key=queue, delay=0, mandatory=True)
        await client.publish(message, routing_key=queue, delay=None, mandatory=True)
        with pytest.raises(Unroutable):
            await client.publish(message, routing_key=unique(), delay=0, mandatory=True)
        assert (await arrival(client, queue))[0].exchange == ""


async def test_each_delay_keeps_its_order_and_shorter_ones_overtake(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        for body in range(20):
            await client.publish(b"later %02d" % body, routing_key=queue, delay=1.4)
        for body in range(20):
            await client.publish(b"soon %02d" % body, routing_key=queue, delay=0.1)
        found: list[bytes] = []
        with anyio.fail_after(15):
            async with client.consume(queue) as deliveries:
                async for delivery in deliveries:
                    found.append(delivery.body)
                    delivery.ack()
                    if len(found) == 40:
                        break
        assert found == sorted(found, key=lambda body: (body.startswith(b"later"), body))


# --- what becomes of what --------------------------------------------------------------------------------------------


async def test_exchange_and_routing_key_are_what_was_asked_for(amqp_url: str) -> None:
    """It is routed when its delay is over: also to who has bound a queue meanwhile."""
    async with (
        an_exchange(amqp_url) as exchange,
        some_queue(amqp_url) as queue,
        some_queue(amqp_url) as another,
        rabbitry.open_client(amqp_url) as client,
    ):
        await client.publish(b"x", exchange=exchange, routing_key="a.b", delay=0.3)
        await client.publish(b"y", exchange=Exchange(exchange, "topic"), routing_key="c.d", delay=0.3)
        async with open_channel(amqp_url) as channel:
            await channel.declare(Binding(queue, exchange, "a.*"), Binding(another, exchange, "#"))
        delivery, _ = await arrival(client, queue)
        assert (delivery.body, delivery.routing_key, delivery.exchange) == (b"x", "a.b", "rabbitry.delayed")
        assert delivery.headers["x-rabbitry-exchange"] == exchange
        assert {(await arrival(client, another))[0].body for _ in range(2)} == {b"x", b"y"}
        assert (await client.inspect(queue)).message_count == 0  # type: ignore[union-attr]


async def test_properties_are_kept(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        message = Message.json(
            {"a": 1}, headers={"mine": [1, "x"]}, priority=7, correlation_id="c", message_id="m", user_id="guest"
        )
        await client.publish(message, routing_key=queue, delay=0.1)
        found = (await arrival(client, queue))[0]
        assert found.routing_key == queue and found.headers["x-rabbitry-exchange"] == ""
        properties = found.properties
        assert (properties.priority, properties.correlation_id, properties.message_id) == (7, "c", "m")
        assert (properties.user_id, properties.delivery_mode, found.decode()) == ("guest", 2, {"a": 1})
        assert found.headers["mine"] == [1, "x"]


@pytest.mark.parametrize("to_exchange", [False, True])
async def test_copies_go_where_they_would(amqp_url: str, to_exchange: bool) -> None:
    async with (
        an_exchange(amqp_url, "direct") as exchange,
        some_queue(amqp_url) as one,
        some_queue(amqp_url) as two,
        some_queue(amqp_url) as three,
        rabbitry.open_client(amqp_url) as client,
    ):
        async with open_channel(amqp_url) as channel:
            await channel.declare(*(Binding(queue, exchange, queue) for queue in (one, two, three)))
        message = Message(b"x", headers={"CC": [two], "BCC": [three]})
        await client.publish(message, exchange=exchange if to_exchange else "", routing_key=one, delay=0.1)
        for queue in (one, two, three):
            delivery, _ = await arrival(client, queue)
            assert delivery.routing_key == one and delivery.headers["CC"] == [two] and "BCC" not in delivery.headers
        async with open_channel(amqp_url) as channel:
            assert not [body for queue in (one, two, three) for body in await drain(channel, queue)]


async def test_what_came_late_can_be_sent_late_again(amqp_url: str) -> None:
    """By the same delay, to where it has expired before: to RabbitMQ 3 that would be a cycle."""
    async with rabbitry.open_client(amqp_url) as client:
        target = Queue(unique(), message_ttl=0.05, dead_letter_exchange="", dead_letter_routing_key=unique("dead"))
        dead = Queue(str(target.dead_letter_routing_key))
        await client.declare(target, dead)
        try:
            message = Message(b"x")
            for _ in range(3):
                await client.publish(message, routing_key=target.name, delay=0.1)
                delivery, _ = await arrival(client, dead.name)
                message = delivery.message
                assert len(delivery.deaths) == 2 and {death.count for death in delivery.deaths} == {1}
        finally:
            with anyio.CancelScope(shield=True):
                await client.delete(target, dead)


@pytest.mark.parametrize(
    ("message", "options", "error"),
    [
        (b"x", {"mandatory": True}, ValueError),
        (Message(b"x", expiration=5), {}, ValueError),
        (b"x", {"delay": -1}, ValueError),
        (b"x", {"delay": 1e9}, ValueError),
        (b"x", {"delay": "5"}, TypeError),
        (b"x", {"delay": True}, TypeError),
        ("x", {}, TypeError),
        (b"x", {"exchange": Queue("q")}, TypeError),
        (b"x", {"routing_key": 5}, TypeError),
        (b"x", {"routing_key": ""}, ValueError),
        (Message(b"x", headers={"CC": [""]}), {"routing_key": ""}, ValueError),
        (b"x", {"routing_key": "x" * 256}, ValueError),
        (b"x", {"while_down": "never"}, ValueError),
        (b"x", {"on_unknown": "what"}, ValueError),
    ],
)
async def test_what_no_delay_can_mean_is_refused_at_once(
    amqp_url: str, message: Any, options: Any, error: type[Exception]
) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error):
            await client.publish(message, **{"routing_key": "q", "delay": 1, **options})
        assert client.state == "idle"  # nothing was asked of the broker


# --- where it can't go -----------------------------------------------------------------------------------------------


async def test_who_is_not_there_now_is_told_now(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        missing = unique("missing")
        with pytest.raises(Unroutable, match=missing) as unroutable:
            await client.publish(b"x", routing_key=missing, delay=0.1)
        assert (unroutable.value.exchange, unroutable.value.routing_key) == ("", missing)
        with pytest.raises(Refused, match="no exchange") as refused:
            await client.publish(b"x", exchange=missing, routing_key="k", delay=0.1)
        assert refused.value.code == 404
        await client.publish(b"x", routing_key=queue, delay=0.1)
        assert (await arrival(client, queue))[0].body == b"x"


@pytest.mark.rabbitmq("the embedded broker keeps any number under way")
async def test_who_is_gone_holds_up_nobody(amqp_url: str) -> None:
    """RabbitMQ keeps 32 messages that can't be routed under way, and nothing comes behind them."""
    async with (
        an_exchange(amqp_url) as exchange,
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        gone = (await channel.declare_queue(unique("gone"))).name
        before = await client.inspect(delays.UNDELIVERED)
        for _ in range(40):
            await client.publish(b"nobody is bound", exchange=exchange, routing_key="k", delay=3)
            await client.publish(b"gone", routing_key=gone, delay=3)
        await channel.delete_queue(gone)
        await client.publish(b"x", routing_key=queue, delay=3)
        assert (await arrival(client, queue))[0].body == b"x"
        undelivered = await client.inspect(delays.UNDELIVERED)
        assert undelivered is not None
        assert undelivered.message_count - (before.message_count if before else 0) == 40
        discarded = await client.inspect(delays.DISCARDED)
        assert discarded is not None and discarded.message_count == 0
        assert (await drain(channel, delays.UNDELIVERED))[-40:] == [b"gone"] * 40


@pytest.mark.parametrize("to_exchange", [False, True])
async def test_what_is_deleted_and_declared_again_is_bound_again(amqp_url: str, to_exchange: bool) -> None:
    """The broker has dropped the binding to it, in a life in which this client has made that already."""
    queue, exchange = Queue(unique()), Exchange(unique(), "fanout")
    target = {"exchange": exchange} if to_exchange else {"routing_key": queue.name}
    entities = (queue, exchange, Binding(queue.name, exchange.name))
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        for who in ("nobody", "this client", "somebody else"):
            if who == "this client":
                await client.delete(queue, exchange)
            elif who == "somebody else":
                await channel.delete_queue(queue.name)
                await channel.delete_exchange(exchange.name)
            await client.declare(*entities)
            await client.publish(who.encode(), delay=0.1, **target)
            assert (await arrival(client, queue.name))[0].body == who.encode()
        await client.delete(queue, exchange)
        with pytest.raises(Refused if to_exchange else Unroutable):
            await client.publish(b"gone", delay=0.1, **target)


async def test_a_key_of_a_copy_alone_will_do(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(Message(b"x", headers={"CC": [queue, ""]}), delay=0.1)
        assert (await arrival(client, queue))[0].body == b"x"


async def test_a_level_that_somebody_deleted_is_made_again(amqp_url: str) -> None:
    async with (
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):
        name = name_of_level(160)
        for kind in ("queue", "exchange", "both"):
            await client.publish(b"first", routing_key=queue, delay=0.16)
            await arrival(client, queue)
            if kind != "exchange":
                await channel.delete_queue(name)
            if kind != "queue":
                await channel.delete_exchange(name)
            await client.publish(b"again", routing_key=queue, delay=0.16)
            assert (await arrival(client, queue))[0].body == b"again"


async def test_a_level_that_is_full_refuses(amqp_url: str, node: PrivateNode) -> None:
    """As an operator's policy may make it."""
    name = name_of_level(1700)
    node.rabbitmqctl("set_policy", "full", f"^{name}$", '{"max-length": 1}', "--apply-to", "queues")
    try:
        async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
            count = 0
            with pytest.raises(Nacked) as nacked:
                for count in range(20):  # a quorum queue tells its publishers a little late
                    await client.publish(b"%d" % count, routing_key=queue, delay=1.7)
            assert (nacked.value.exchange, nacked.value.routing_key) == ("", queue)
            assert {(await arrival(client, queue))[0].body for _ in range(count)} == {b"%d" % n for n in range(count)}
    finally:
        node.rabbitmqctl("clear_policy", "full")


async def test_who_may_not_declare_is_told_what_it_takes(node: PrivateNode) -> None:
    user = unique("user")
    node.rabbitmqctl("add_user", user, "secret")
    node.rabbitmqctl("set_permissions", user, "^mine", ".*", ".*")
    try:
        url = node.url.replace("guest:guest", f"{user}:secret")
        async with some_queue(node.url) as queue, rabbitry.open_client(url) as client:
            for _ in range(2):
                with pytest.raises(AccessRefused, match=r"refused for user.*configure, write and read"):
                    await client.publish(b"x", routing_key=queue, delay=0.1)
            await client.publish(b"y", routing_key=queue)
            node.rabbitmqctl("set_permissions", user, "^rabbitry[.]", ".*", ".*")
            await client.publish(b"x", routing_key=queue, delay=0.1)
            assert {(await arrival(client, queue))[0].body for _ in range(2)} == {b"x", b"y"}
    finally:
        node.rabbitmqctl("delete_user", user)


# --- connections -----------------------------------------------------------------------------------------------------


async def test_it_outlives_its_publisher_and_what_ended_between(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"1", routing_key=queue, delay=0.5)
        await noticed(client, proxy.cut)
        await client.publish(b"2", routing_key=queue, delay=0.5)  # waits for the next life
        async with rabbitry.open_client(amqp_url) as another:
            assert {(await arrival(another, queue))[0].body for _ in range(2)} == {b"1", b"2"}


async def test_in_a_new_life_all_is_declared_again(amqp_url: str) -> None:
    """It may be another broker's, which had nothing of it."""
    async with (
        some_queue(amqp_url) as queue,
        through_proxy(amqp_url) as (client, proxy),
        open_channel(amqp_url) as channel,
    ):
        await client.publish(b"1", routing_key=queue, delay=0.13)
        await arrival(client, queue)
        await channel.unbind_queue(
            queue, "rabbitry.delayed.queues", routing_key=queue
        )  # what the next life is to bring back
        await noticed(client, proxy.cut)
        await client.publish(b"2", routing_key=queue, delay=0.13)
        assert (await arrival(client, queue))[0].body == b"2"


async def failure_across_a_cut(url: str, meanwhile: Callable[[Channel, Proxy, str], Awaitable[object]]) -> str | None:
    """Of a publish that is not answered, until `meanwhile` has happened at the broker and the connection is lost: what
    kind of error it ends with. Without one, its message has arrived once this returns.
    """
    async with (
        some_queue(url) as queue,
        through_proxy(url) as (client, proxy),
        open_channel(url) as channel,
    ):
        await client.publish(b"1", routing_key=queue, delay=0.05)
        await arrival(client, queue)
        for link in proxy.links:
            link.stall()

        async def cut() -> None:
            await anyio.wait_all_tasks_blocked()
            await meanwhile(channel, proxy, queue)
            proxy.cut()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(cut)
                try:
                    await client.publish(b"2", routing_key=queue, delay=0.05, on_unknown="republish")
                except OutcomeUnknown as error:
                    return f"unknown, for {type(error.__cause__).__name__}"
        assert (await arrival(client, queue))[0].body == b"2"
        return None


@pytest.mark.rabbitmq("the proxy needs a real socket")
async def test_what_is_sent_again_finds_all_of_it_there(amqp_url: str) -> None:
    """Its delay is over before anything could be declared behind it."""

    async def unbind(channel: Channel, proxy: Proxy, queue: str) -> None:
        await channel.unbind_queue(queue, "rabbitry.delayed.queues", routing_key=queue)
        proxy.delay = 0.1  # each way, so that a confirm comes when the message has gone on

    assert await failure_across_a_cut(amqp_url, unbind) is None


@pytest.mark.rabbitmq("the proxy needs a real socket")
async def test_what_may_have_arrived_is_not_called_unroutable(amqp_url: str) -> None:
    """The queue that it was for is gone as it is to be sent again."""

    async def delete(channel: Channel, proxy: Proxy, queue: str) -> None:
        await channel.delete_queue(queue)

    assert await failure_across_a_cut(amqp_url, delete) == "unknown, for NotFound"


async def test_who_would_rather_fail_does(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        await client.publish(b"1", routing_key=queue, delay=0.1)
        await noticed(client, lambda: refuse(proxy))
        with pytest.raises(NotConnected):
            await client.publish(b"2", routing_key=queue, delay=0.1, while_down="fail")
        proxy.accept()
        await client.publish(b"3", routing_key=queue, delay=0.1)
        assert {(await arrival(client, queue))[0].body for _ in range(2)} == {b"1", b"3"}


async def test_who_would_rather_fail_does_not_wait_for_those_who_wait(amqp_url: str) -> None:
    """An alarm blocks the connection while another is just declaring what its delay takes."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        await client.publish(b"1", routing_key=queue, delay=0.1)
        connection = client._publishing._connection
        assert connection is not None and client._delays is not None
        async with client._delays._lock:
            connection._endpoint.blocked_reason = "low on memory"
            with anyio.fail_after(10), pytest.raises(ConnectionBlocked):
                await client.publish(b"2", routing_key=queue, delay=0.2, while_down="fail")
        connection._endpoint.blocked_reason = None
        await client.publish(b"3", routing_key=queue, delay=0.2, while_down="fail")
        assert {(await arrival(client, queue))[0].body for _ in range(2)} == {b"1", b"3"}


async def test_cancelled_anywhere_it_leaves_nothing_behind(amqp_url: str) -> None:
    """Each time a little later, from the first declaration to the confirm."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        bound = 0.0
        while True:
            with anyio.move_on_after(bound) as scope:
                await client.publish(b"x", routing_key=queue, delay=0.05)
            bound += 0.003
            if not scope.cancelled_caught:
                break
        assert not client._have_delays()._lock.locked()
        await client.publish(b"last", routing_key=queue, delay=0.3)
        while (await arrival(client, queue))[0].body != b"last":
            pass


async def test_many_at_once_declare_once(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = 0
    declare = rabbitry.Channel.declare

    async def counting(self: rabbitry.Channel, *entities: Any) -> None:
        nonlocal declared
        declared += 1
        await declare(self, *entities)

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        monkeypatch.setattr(rabbitry.Channel, "declare", counting)
        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(lambda body: client.publish(body, routing_key=queue, delay=0.1), b"%d" % number)
        found = {(await arrival(client, queue))[0].body for _ in range(100)}
        assert len(found) == 100 and declared == 1


async def test_an_instrumented_client_is_told_where_it_was_published(amqp_url: str) -> None:
    class Noting:
        def __init__(self) -> None:
            self.published: list[tuple[str, str, str]] = []

        def begin(self, operation: Operation) -> None: ...

        def end(self, operation: Operation) -> None:
            if isinstance(operation, rabbitry.PublishOperation):
                self.published.append((operation.exchange, operation.routing_key, operation.outcome))

        def count(self, event: Event, labels: Mapping[str, str]) -> None: ...

    noting = Noting()
    async with some_queue(amqp_url) as queue:
        async with rabbitry.open_client(amqp_url, instrumentation=noting) as client:
            await client.publish(b"x", routing_key=queue, delay=0.1)
            assert (await arrival(client, queue))[0].body == b"x"
    assert noting.published == [("rabbitry.delay.100ms", queue, "confirmed")]
