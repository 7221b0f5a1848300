"""The ways of replies: direct, by a queue of the caller's own, by an exchange; in one life and across lives."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Exchange, RequestCounts
from rabbitry._client.registry import FLEETING_TRIES
from tests.support.clients import some_queue, through_proxy
from tests.support.helpers import exclusive_queue, has_counts, open_channel, unique, until


async def double(number: int) -> int:
    return 2 * number


def exchange(kind: str) -> Exchange:
    """One that goes when the last reply queue does."""
    return Exchange(unique("replies"), kind, auto_delete=True)


@pytest.mark.parametrize("kind", ["exclusive", "direct", "topic", "fanout"])
async def test_replies_by_a_queue_or_an_exchange(amqp_url: str, kind: Any) -> None:
    reply_to = kind if kind == "exclusive" else exchange(kind)
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            exchanges = [reply_to] if isinstance(reply_to, Exchange) else []
            tg.start_soon(partial(connection.serve, queue, double, reply_exchanges=exchanges))
            async with connection.rpc(reply_to=reply_to) as one, connection.rpc(reply_to=reply_to) as other:
                replies = []

                async def call(rpc: rabbitry.RPC, number: int) -> None:
                    replies.append((number, await rpc.call(queue, number)))

                for number in range(3):
                    async with anyio.create_task_group() as calls:  # two in flight, the first of each
                        calls.start_soon(call, one, number)
                        calls.start_soon(call, other, -number - 1)
                assert sorted(replies) == [(number, 2 * number) for number in range(-3, 3)]
                addresses = [one._reply_address, other._reply_address]
                # everybody on a fanout exchange gets all replies, and must not take them for its own
                await until(lambda: [one.late_replies, other.late_replies] == ([3, 3] if kind == "fanout" else [0, 0]))
            tg.cancel_scope.cancel()
        assert connection.requests == RequestCounts(answered=6)
        for address in addresses:  # the reply queues went with their callers
            async with connection.channel() as another:
                with pytest.raises(rabbitry.NotFound):
                    await another.declare_queue(address, passive=True)


async def test_a_server_that_does_not_know_of_the_exchange_replies_to_the_queue(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc(reply_to=exchange("direct")) as rpc, channel.consume(queue) as requests:
            async with anyio.create_task_group() as tg:

                async def answer() -> None:
                    request = await anext(requests)
                    reply = rabbitry.Message.msgpack(42, correlation_id=request.properties.correlation_id)
                    await channel.publish(reply, routing_key=request.properties.reply_to or "")
                    request.ack()

                tg.start_soon(answer)
                with anyio.fail_after(5):
                    assert await rpc.call(queue, 21) == 42


async def test_a_request_passed_on_with_its_headers_is_answered_to_who_passed_it_on(amqp_url: str) -> None:
    seen: dict[str, Any] = {}

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        outer, inner = await exclusive_queue(channel), await exclusive_queue(channel)
        async with connection.rpc() as rpc, connection.rpc(reply_to=exchange("direct")) as by_exchange:

            async def pass_on(request: rabbitry.Delivery) -> Any:
                return await rpc.call(inner, request.body, raw=True, headers=request.headers)

            async def answer(request: rabbitry.Delivery) -> bytes:
                seen.update(request.headers)
                return request.body.upper()

            async with anyio.create_task_group() as tg:
                tg.start_soon(partial(connection.serve, outer, pass_on, raw=True))
                tg.start_soon(partial(connection.serve, inner, answer, raw=True))
                with anyio.fail_after(30):
                    assert await by_exchange.call(outer, b"abc", raw=True, headers={"mine": 1}) == b"ABC"
                tg.cancel_scope.cancel()
    assert seen["mine"] == 1
    assert "x-rabbitry-reply-exchange" not in seen


async def test_a_reply_queue_that_goes_while_a_call_waits_for_room_ends_it(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with connection.rpc(reply_to="exclusive") as rpc, anyio.create_task_group() as tg:
            connection._endpoint.blocked_reason = "as by an alarm, which would block what follows, too"

            async def call() -> None:
                with pytest.raises(rabbitry.ConsumerCancelled), anyio.fail_after(30):
                    await rpc.call(queue, 1)

            tg.start_soon(call)
            await until(lambda: connection._endpoint._changed is not None)
            await channel.delete_queue(rpc._reply_address)
            await until(lambda: not rpc.is_open)
            connection._endpoint.blocked_reason = None
            connection._endpoint.notify_changed()
        assert await has_counts(channel, queue, 0)  # it was not sent


async def test_any_other_way_is_refused(amqp_url: str) -> None:
    wrong: Any = "replies"
    async with rabbitry.connect(amqp_url) as connection, rabbitry.open_client(amqp_url) as client:
        with pytest.raises(ValueError, match='"exclusive" or an Exchange'):
            connection.rpc(reply_to=wrong)
        with pytest.raises(ValueError, match='"exclusive" or an Exchange'):
            async with client.rpc(reply_to=wrong):
                pass


@pytest.mark.parametrize("kind", ["exclusive", "direct"])
async def test_replies_come_across_the_lives_of_a_client(amqp_url: str, kind: Any) -> None:
    reply_to = kind if kind == "exclusive" else exchange(kind)
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as server:
        async with through_proxy(amqp_url) as (caller, proxy), anyio.create_task_group() as tg:
            await tg.start(partial(server.serve, queue, double))
            async with caller.rpc(reply_to=reply_to) as rpc:
                for number in range(3):
                    with anyio.fail_after(30):
                        assert await rpc.call(queue, number, idempotent=True) == 2 * number
                    proxy.cut()
            server.stop_consuming()


@pytest.mark.parametrize("times", [1, 100])
async def test_an_exchange_that_goes_with_the_former_queue_is_declared_once_more(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """It deletes itself when the broker notices that the former life's queue is gone: after it was declared, say. If it
    never stays, the call says so.
    """
    monkeypatch.setattr("rabbitry._client.rpc.FLEETING_PAUSE", 0.01)
    replies, binding = exchange("direct"), rabbitry.Channel.bind_queue
    assert replies.auto_delete
    gone: list[str] = []
    async with (
        some_queue(amqp_url) as queue,
        rabbitry.open_client(amqp_url) as client,
        open_channel(amqp_url) as channel,
    ):

        async def bind(own: rabbitry.Channel, *arguments: Any, **options: Any) -> None:
            if len(gone) < times:
                gone.append(replies.name)
                await channel.delete_exchange(replies.name)
            await binding(own, *arguments, **options)

        monkeypatch.setattr(rabbitry.Channel, "bind_queue", bind)
        async with anyio.create_task_group() as tg, client.rpc(reply_to=replies) as rpc:
            await tg.start(partial(client.serve, queue, double))
            with anyio.fail_after(30):
                if times == 1:
                    assert await rpc.call(queue, 21) == 42
                else:
                    with pytest.raises(rabbitry.NotFound, match="no exchange"):
                        await rpc.call(queue, 21)
            client.stop_consuming()
    assert len(gone) == min(times, FLEETING_TRIES + 1)


@pytest.mark.parametrize("where", ["connection", "client"])
async def test_replies_that_can_not_be_delivered_are_counted_and_harm_no_others(amqp_url: str, where: str) -> None:
    async with open_channel(amqp_url) as channel, rabbitry.connect(amqp_url) as connection:
        queue = (await channel.declare_queue(unique())).name
        async with rabbitry.open_client(amqp_url) as client, anyio.create_task_group() as tg:
            missing = unique("no-such-exchange")
            serve = client.serve if where == "client" else connection.serve
            tg.start_soon(partial(serve, queue, double, reply_exchanges=[missing]))

            def lost() -> int:
                counted = client.statistics()["undeliverable_replies"]
                return counted if where == "client" else connection.requests.undeliverable_replies

            nowhere = {"x-rabbitry-reply-exchange": missing}
            for number, headers in enumerate([None, nowhere, None, {"x-rabbitry-reply-exchange": 7}], 1):
                request = rabbitry.Message.msgpack(1, reply_to=unique("gone"), correlation_id="1", headers=headers)
                await channel.publish(request, routing_key=queue)
                await until(lambda number=number: lost() == number)  # type: ignore[misc]
            async with client.rpc(reply_to="exclusive") as rpc, client.rpc() as direct:
                assert (await rpc.call(queue, 1), await direct.call(queue, 2)) == (2, 4)
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
        await channel.delete_queue(queue)
