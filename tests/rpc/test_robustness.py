"""RPC when things go wrong: callers that give up, servers that go away, requests that come twice, broken exchanges."""

from __future__ import annotations

import gc
import itertools
import random
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import rabbitry
from rabbitry import Exchange, RequestCounts
from rabbitry._channel.repeats import Repeats
from tests.support.clients import QUICK, refuse, some_queue, through_proxy
from tests.support.helpers import drain, exclusive_queue, has_counts, open_channel, unique, until


async def double(number: int) -> int:
    return 2 * number


@pytest.mark.rabbitmq("it takes seconds of work, and wants the chances of a network")
async def test_ten_thousand_calls_cancelled_at_random_moments_leave_nothing(amqp_url: str) -> None:
    chance = random.Random(7)
    replies = cancelled = 0
    async with rabbitry.connect(amqp_url) as connection, rabbitry.connect(amqp_url) as other:
        async with connection.channel() as channel:
            queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, other.rpc() as rpc:
            tg.start_soon(partial(connection.serve, queue, double, concurrency=100, prefetch=500))

            at_work: set[anyio.CancelScope] = set()

            async def call(turns: int) -> None:
                nonlocal replies, cancelled
                for number in range(turns):
                    with anyio.CancelScope() as scope:
                        at_work.add(scope)
                        assert await rpc.call(queue, number) == 2 * number
                        replies += 1
                    at_work.discard(scope)
                    cancelled += scope.cancelled_caught

            async def cancel_some() -> None:
                while True:
                    await anyio.lowlevel.checkpoint()
                    for scope in list(at_work):
                        if chance.random() < 0.03:
                            scope.cancel()

            tg.start_soon(cancel_some)

            async def calls(callers: int, turns: int) -> int:
                async with anyio.create_task_group() as callers_group:
                    for _ in range(callers):
                        callers_group.start_soon(call, turns)
                assert not rpc._waiters
                gc.collect()
                return sys.getallocatedblocks()

            blocks = [await calls(100, 25) for _ in range(4)]
            assert await rpc.call(queue, 21) == 42
            # each request was answered; each answer was taken, or came late
            await until(lambda: connection.requests.answered == replies + 1 + rpc.late_replies)
            tg.cancel_scope.cancel()
    assert replies + cancelled == 10_000
    assert min(replies, cancelled) > 100  # how many a busy machine answers before the dice fall is its own affair
    assert min(later - earlier for earlier, later in pairwise(blocks)) < 1_000  # what leaks grows each time


async def test_several_servers_share_the_load(amqp_url: str) -> None:
    handled: Counter[int] = Counter()

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:

        async def serve(server: int) -> None:
            async def handler(number: int) -> int:
                handled[server] += 1
                await anyio.sleep(0.002)
                return 2 * number

            await client.serve(queue, handler, concurrency=2)

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            for server in range(3):
                tg.start_soon(serve, server)
            async with open_channel(amqp_url) as channel:
                assert await has_counts(channel, queue, 0, 3)
            async with anyio.create_task_group() as calls:
                for number in range(60):
                    calls.start_soon(rpc.call, queue, number)
            client.stop_consuming()
    assert sum(handled.values()) == 60
    assert min(handled[server] for server in range(3)) >= 5


async def test_another_server_answers_when_one_is_killed_mid_call(amqp_url: str) -> None:
    entered = anyio.Event()

    async def stuck(number: int) -> int:
        entered.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        async with through_proxy(amqp_url) as (doomed, proxy), anyio.create_task_group() as tg:
            await tg.start(partial(doomed.serve, queue, stuck))

            async def kill() -> None:
                await entered.wait()
                refuse(proxy)
                tg.start_soon(client.serve, queue, double)

            tg.start_soon(kill)
            with anyio.fail_after(5):
                assert await rpc.call(queue, 21) == 42
            tg.cancel_scope.cancel()


async def test_the_caller_learns_in_time_when_the_only_server_is_killed_mid_call(amqp_url: str) -> None:
    entered = anyio.Event()

    async def stuck(number: int) -> None:
        entered.set()
        await anyio.sleep_forever()

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:
            doomed = reactor.connect(amqp_url)
            await doomed.__aenter__()
            tg.start_soon(doomed.serve, queue, stuck)

            async def kill() -> None:
                await entered.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(kill)
            with anyio.CancelScope(shield=True):
                while not entered.is_set():  # the broker drops what comes to it late
                    with pytest.raises(TimeoutError), anyio.fail_after(0.3):
                        await rpc.call(queue, 21)


# --- calls of a client ------------------------------------------------------------------------------------------------


async def test_an_idempotent_call_in_flight_is_sent_again_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as server:
        async with through_proxy(amqp_url) as (caller, proxy), caller.rpc() as rpc, anyio.create_task_group() as tg:
            handled = 0

            async def handler(number: int) -> int:
                nonlocal handled
                handled += 1
                if handled <= 2:
                    proxy.cut()
                    await anyio.sleep(0.02)
                return 2 * number

            await tg.start(partial(server.serve, queue, handler))
            with anyio.fail_after(5):
                assert await rpc.call(queue, 21, idempotent=True) == 42
            assert handled == 3
            handled = 0
            with pytest.raises(rabbitry.OutcomeUnknown), anyio.fail_after(5):
                await rpc.call(queue, 21)
            server.stop_consuming()


async def test_an_idempotent_call_that_is_not_to_wait_has_an_unknown_outcome(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (caller, proxy):
        async with caller.rpc(while_down="fail") as rpc, anyio.create_task_group() as tg:

            async def call() -> None:
                with pytest.raises(rabbitry.OutcomeUnknown) as caught:
                    await rpc.call(queue, 1, idempotent=True)
                assert isinstance(caught.value.__cause__, rabbitry.NotConnected)

            with anyio.fail_after(5):
                tg.start_soon(call)
                async with open_channel(amqp_url) as channel:
                    assert await has_counts(channel, queue, 1)
                refuse(proxy)


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_call_to_a_missing_exchange_ends_no_others(amqp_url: str, idempotent: bool) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        async with client.rpc() as rpc, anyio.create_task_group() as tg:
            release = anyio.Event()

            async def handler(number: int) -> int:
                await release.wait()
                return 2 * number

            await tg.start(partial(client.serve, queue, handler))
            replies = []

            async def call(number: int) -> None:
                replies.append(await rpc.call(queue, number))

            async with anyio.create_task_group() as calls:
                for number in range(5):
                    calls.start_soon(call, number)
                await until(lambda: "5 calls in flight" in repr(rpc))
                with pytest.raises(rabbitry.Refused, match="NOT_FOUND"), anyio.fail_after(5):
                    await rpc.call("x", 1, exchange=Exchange(unique("missing")), idempotent=idempotent)
                release.set()
            assert sorted(replies) == [0, 2, 4, 6, 8]
            assert client.statistics()["publishing_lives"] == 1
            client.stop_consuming()


async def test_exchanges_that_are_missing_take_no_others_channel(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rabbitry._client.rpc.OWN_CHANNELS", 3)
    async with rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        for _ in range(3):
            with pytest.raises(rabbitry.Refused, match="NOT_FOUND"):
                await rpc.call("x", exchange=unique("missing"))
        with pytest.raises(rabbitry.Unroutable):
            await rpc.call(unique(), exchange="amq.direct")
        assert list(rpc._rpcs) == ["amq.direct"]


# --- requests that come twice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_request_that_comes_again_after_it_was_answered_is_not_executed_again(
    amqp_url: str, concurrency: int
) -> None:
    """The consuming connection was lost with its acknowledgement: it comes again while it is worked on, or later."""
    handled: list[int] = []
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
        async with through_proxy(amqp_url) as (server, proxy), anyio.create_task_group() as tg:

            async def handler(number: int) -> int:
                handled.append(number)
                if number == 1:
                    proxy.cut()
                    await until(lambda: server.statistics()["consuming_lives"] == 2)
                    if concurrency > 1:  # it is here again, and waits
                        await until(lambda: any(each.waiting for each in repeats))
                return 2 * number

            await tg.start(partial(server.serve, queue, handler, concurrency=concurrency))
            repeats = [each for each in gc.get_objects() if type(each) is Repeats]
            with anyio.fail_after(5):
                assert await rpc.call(queue, 1) == 2
                await until(lambda: server.statistics()["duplicate_requests"] == 1)
                assert await rpc.call(queue, 2) == 4
            assert handled == [1, 2]
            assert rpc.late_replies == 0
            server.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) == []


async def test_a_request_whose_acknowledgement_was_lost_is_not_executed_again(amqp_url: str) -> None:
    """Its reply came, and then the connection went."""
    handled: list[int] = []

    async def handler(number: int) -> int:
        handled.append(number)
        return 2 * number

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
        async with through_proxy(amqp_url) as (server, proxy), anyio.create_task_group() as tg:
            await tg.start(partial(server.serve, queue, handler))
            repeats = [each for each in gc.get_objects() if type(each) is Repeats]
            for number in range(8):
                with anyio.fail_after(5):
                    assert await rpc.call(queue, number) == 2 * number
                proxy.cut()
            await until(lambda: server.is_ready)
            assert await rpc.call(queue, 8) == 16
            await until(lambda: not any(each.former or each.waiting for each in repeats))  # what waits would go back
            server.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await drain(channel, queue) == []
    assert handled == list(range(9))


async def test_a_request_that_failed_as_its_connection_was_lost_fails_again_into_the_dead_letters(
    amqp_url: str,
) -> None:
    """Nobody is told of it, so it must not be taken for one that was answered."""
    handled: list[int] = []
    async with through_proxy(amqp_url) as (server, proxy), open_channel(amqp_url) as channel:
        dead = await exclusive_queue(channel)
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        queue = (await channel.declare_queue(unique(), arguments=arguments)).name

        async def handler(number: int) -> None:
            handled.append(number)
            if handled == [1]:
                proxy.cut()
                await until(lambda: server.statistics()["consuming_lives"] == 2)
            raise ValueError("nobody to tell")

        await channel.publish(rabbitry.Message.msgpack(1, correlation_id="7"), routing_key=queue)
        async with anyio.create_task_group() as tg:
            await tg.start(partial(server.serve, queue, handler, concurrency=1))
            assert await has_counts(channel, dead, 1)
            server.stop_consuming()
        assert handled == [1, 1]
        await channel.delete_queue(queue)


async def test_another_request_with_the_same_correlation_id_is_not_taken_for_one_that_comes_again(
    amqp_url: str,
) -> None:
    """Some callers use one id for all their calls: two of them come again, and one of these was answered."""
    handled: list[int] = []
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (server, proxy), open_channel(amqp_url) as ch:

        async def handler(number: int) -> None:
            handled.append(number)
            if handled == [1]:
                proxy.cut()
                await until(lambda: server.statistics()["consuming_lives"] == 2)

        for number in (1, 2):
            await ch.publish(rabbitry.Message.msgpack(number, correlation_id="same"), routing_key=queue)
        async with anyio.create_task_group() as tg:
            await tg.start(partial(server.serve, queue, handler, concurrency=1, prefetch=2))
            await until(lambda: server.statistics()["duplicate_requests"] == 1 and len(handled) == 2)
            server.stop_consuming()
        assert handled == [1, 2]
        assert await drain(ch, queue) == []


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_an_address_that_the_broker_chokes_on_ends_no_server_after_the_second(
    amqp_url: str, queue_type: str
) -> None:
    """RabbitMQ 3.10 closes the connection (541) over such an address, whoever put it into a request."""
    async with open_channel(amqp_url) as channel:
        queue = (await channel.declare_queue(unique(), arguments={"x-queue-type": queue_type})).name
        poison = rabbitry.Message.msgpack(1, reply_to="amq.rabbitmq.reply-to.a.b", correlation_id="1")
        with suppress(rabbitry.OutcomeUnknown):
            await channel.publish(poison, routing_key=queue)
        for _ in range(2):
            with suppress(rabbitry.ConnectionClosed), anyio.move_on_after(0.5):
                async with rabbitry.connect(amqp_url) as server:
                    await server.serve(queue, double)
        async with rabbitry.connect(amqp_url) as server, server.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(server.serve, queue, double)
            with anyio.fail_after(5):
                for number in range(3):
                    assert await rpc.call(queue, number) == 2 * number
            tg.cancel_scope.cancel()
    async with open_channel(amqp_url) as channel:
        assert await has_counts(channel, queue, 0)
        await channel.delete_queue(queue)


async def test_serving_that_is_cancelled_as_a_channel_for_replies_opens_leaves_none(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = rabbitry.Channel.__aenter__

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        request = rabbitry.Message.msgpack(1, reply_to=queue, correlation_id="1")
        await channel.publish(request, routing_key=queue)
        async with anyio.create_task_group() as tg:

            async def handler(number: int) -> int:
                async def entered(self: rabbitry.Channel) -> rabbitry.Channel:
                    opened = await enter(self)
                    tg.cancel_scope.cancel()
                    return opened

                monkeypatch.setattr(rabbitry.Channel, "__aenter__", entered)
                return number

            tg.start_soon(connection.serve, queue, handler)
        assert list(connection._endpoint.protocol.channels) == [channel.number]
        assert await has_counts(channel, queue, 1)


async def test_two_requests_with_one_correlation_id_are_both_answered(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue, replies = await exclusive_queue(channel), await exclusive_queue(channel)
        for number in (1, 2):
            request = rabbitry.Message.msgpack(number, reply_to=replies, correlation_id="1")
            await channel.publish(request, routing_key=queue)
        async with anyio.create_task_group() as tg, channel.consume(replies) as received:
            tg.start_soon(connection.serve, queue, double)
            with anyio.fail_after(5):
                assert sorted([(await anext(received)).decode(), (await anext(received)).decode()]) == [2, 4]
            tg.cancel_scope.cancel()
        assert connection.requests == RequestCounts(answered=2)


async def test_a_server_can_not_answer_for_another(amqp_url: str) -> None:
    """It knows where the replies go; of the calls to others it must know nothing."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue, others = await exclusive_queue(channel), await exclusive_queue(channel)
        async with connection.rpc() as rpc, channel.consume(queue) as requests, channel.consume(others) as waiting:
            async with anyio.create_task_group() as tg:
                for _ in range(2):
                    tg.start_soon(rpc.call, queue)
                tg.start_soon(rpc.call, others)
                ids = [(await anext(requests)).properties.correlation_id or "" for _ in range(2)]
                other = (await anext(waiting)).properties.correlation_id or ""
                tg.cancel_scope.cancel()
    numbers = [int(each, 16) for each in [*ids, other]]
    assert all(abs(a - b) > 2**32 for a, b in itertools.combinations(numbers, 2))


async def test_second_and_unknown_replies_are_counted_and_harm_nothing(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc() as rpc, channel.consume(queue) as requests, anyio.create_task_group() as tg:

            async def answer() -> None:
                request = await anext(requests)
                to = request.properties.reply_to or ""
                own: Any = request.properties.correlation_id
                for correlation_id in ("unknown", None, own, own):
                    reply = rabbitry.Message.msgpack(42, correlation_id=correlation_id)
                    await channel.publish(reply, routing_key=to)

            tg.start_soon(answer)
            with anyio.fail_after(5):
                assert await rpc.call(queue) == 42
                await until(lambda: rpc.late_replies == 3)
