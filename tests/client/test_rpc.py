"""RPC that spans reconnects, on both sides."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Delivery, Queue
from tests.support.clients import QUICK, noticed, refuse, some_queue, through_proxy
from tests.support.helpers import drain, has_counts, open_channel, unique, until


async def double(number: int) -> int:
    return 2 * number


async def serve(client: rabbitry.Client, tg: anyio.abc.TaskGroup, queue: Any, handler: Any, **options: Any) -> None:
    """Return once it serves."""
    await tg.start(lambda **status: client.serve(queue, handler, **options, **status))


async def test_calls_and_answers_go_on_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as caller:
        async with through_proxy(amqp_url) as (server, proxy), anyio.create_task_group() as tg:
            await serve(server, tg, queue, double)
            async with caller.rpc() as rpc:
                for number in range(5):
                    with anyio.fail_after(30):
                        assert await rpc.call(queue, number) == 2 * number
                    proxy.cut()
            server.stop_consuming()


async def test_a_caller_calls_in_the_next_life(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as server:
        async with through_proxy(amqp_url) as (caller, proxy), anyio.create_task_group() as tg:
            await serve(server, tg, queue, double)
            async with caller.rpc() as rpc:
                for number in range(5):
                    with anyio.fail_after(30):
                        assert await rpc.call(queue, number) == 2 * number
                    await noticed(caller, proxy.cut)
                refuse(proxy)
                await until(lambda: caller.state == "recovering")
                with anyio.move_on_after(0.05) as scope:
                    await rpc.call(queue, 1)
                assert scope.cancelled_caught
                async with caller.rpc(while_down="fail") as impatient:
                    with pytest.raises(rabbitry.NotConnected):
                        await impatient.call(queue, 1)
                proxy.accept()
                with anyio.fail_after(30):
                    assert await rpc.call(queue, 21) == 42
            with pytest.raises(rabbitry.LocalProtocolError, match="not open"):
                await rpc.call(queue, 1)
            server.stop_consuming()


async def test_a_call_in_flight_has_an_unknown_outcome(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (caller, proxy), caller.rpc() as rpc:

        async def call() -> None:
            with pytest.raises(rabbitry.OutcomeUnknown):
                await rpc.call(queue, 1)

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(call)
                async with open_channel(amqp_url) as channel:
                    assert await has_counts(channel, queue, 1)
                proxy.cut()


async def test_nobody_serves(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        with pytest.raises(rabbitry.Unroutable):
            await rpc.call(unique(), 1)


async def test_a_reply_crosses_the_loss_of_the_publishing_connection(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as caller:
        async with through_proxy(amqp_url) as (server, proxy), anyio.create_task_group() as tg:
            await server.publish(b"x", routing_key="nowhere")
            publishing = proxy.link

            async def handler(number: int) -> int:
                publishing.cut()
                await anyio.sleep(0.02)
                return 2 * number

            await serve(server, tg, queue, handler)
            async with caller.rpc() as rpc:
                with anyio.fail_after(30):
                    assert await rpc.call(queue, 21) == 42
            server.stop_consuming()


async def test_handlers_that_fail_and_requests_that_want_no_reply(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:

        async def handler(payload: Any) -> Any:
            if payload == "fail":
                raise ValueError("no")
            return payload

        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            await serve(client, tg, queue, handler)
            with pytest.raises(rabbitry.RemoteError, match="no"):
                await rpc.call(queue, "fail")
            await client.publish(rabbitry.Message.msgpack("one way"), routing_key=queue)
            assert await rpc.call(queue, "two ways") == "two ways"
            client.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_a_reply_that_can_not_be_delivered_is_counted(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rabbitry")
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        async with anyio.create_task_group() as tg:
            await serve(client, tg, queue, double)
            request = rabbitry.Message.msgpack(21).replace(reply_to=unique("gone"), correlation_id="1")
            await client.publish(request, routing_key=queue)
            await until(lambda: client.statistics()["undeliverable_replies"] == 1)
            client.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)
    assert any("could not be delivered" in record.message for record in caplog.records)


async def test_a_raw_handler_and_an_ordinary_reply_queue(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, some_queue(amqp_url) as replies:
        async with rabbitry.open_client(amqp_url) as client, anyio.create_task_group() as tg:

            async def handler(request: Delivery) -> bytes:
                return request.body.upper()

            await serve(client, tg, Queue(queue), handler, raw=True)
            await client.publish(rabbitry.Message(b"abc", reply_to=replies, correlation_id="7"), routing_key=queue)
            async with client.consume(replies) as deliveries:
                with anyio.fail_after(30):
                    reply = await anext(deliveries)
                assert (reply.body, reply.properties.correlation_id) == (b"ABC", "7")
                reply.ack()
            client.stop_consuming()


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_servers_drain(amqp_url: str, how: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as server:
        begun = anyio.Event()

        async def handler(number: int) -> int:
            begun.set()
            await anyio.sleep(0.1)
            return 2 * number

        async with rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc, anyio.create_task_group() as calls:
            replies: list[int] = []

            async def call() -> None:
                with anyio.fail_after(30):
                    replies.append(await rpc.call(queue, 21))

            async with anyio.create_task_group() as tg:
                await serve(server, tg, queue, handler, drain=5)
                calls.start_soon(call)
                await begun.wait()
                server.stop_consuming() if how == "stop" else tg.cancel_scope.cancel()
            await until(lambda: replies == [42])


async def test_a_server_without_its_queue_raises(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(rabbitry.NotFound):
            await client.serve(unique(), double)
        with pytest.raises(ValueError, match="no codec"):
            await client.serve("x", double, codec="pickle")
        with pytest.raises(ValueError, match="no codec"):
            async with client.rpc(codec="pickle"):
                pass


async def test_a_request_goes_with_its_caller_and_late_replies_are_counted(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy), client.rpc() as rpc:
        with anyio.move_on_after(0.1):
            await rpc.call(queue, 1)
        with pytest.raises(rabbitry.Unroutable):
            await rpc.call(unique(), 1)  # on the same channel: the broker has had the first
        async with open_channel(amqp_url) as channel, anyio.create_task_group() as tg:
            assert await has_counts(channel, queue, 0)
            tg.start_soon(rpc.call, queue, 1)
            async with channel.consume(queue) as requests:
                request = await anext(requests)
            tg.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await channel.publish(request.body, routing_key=request.properties.reply_to or "")
                reply = request.message.replace(expiration=None)
                await channel.publish(reply, routing_key=request.properties.reply_to or "")
                await until(lambda: rpc.late_replies == 2)
        await noticed(client, proxy.cut)
        with pytest.raises(rabbitry.Unroutable):
            await rpc.call(unique(), 1)
        assert rpc.late_replies == 2


async def test_a_reply_waits_for_the_connection_whatever_the_clients_policy(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as caller:
        async with through_proxy(amqp_url, while_down="fail") as (server, proxy), anyio.create_task_group() as tg:
            await server.publish(b"x", routing_key="nowhere")
            publishing = proxy.link

            async def handler(number: int) -> int:
                proxy.refuse()
                publishing.cut()
                await until(lambda: server._publishing.state == "recovering")
                tg.start_soon(accept_soon)
                return 2 * number

            async def accept_soon() -> None:
                await anyio.sleep(0.2)
                proxy.accept()

            await serve(server, tg, queue, handler)
            async with caller.rpc() as rpc:
                with anyio.fail_after(30):
                    assert await rpc.call(queue, 21) == 42
            server.stop_consuming()


async def test_an_address_that_the_broker_chokes_on_harms_one_request(amqp_url: str) -> None:
    """RabbitMQ 3.10 closes the connection (541) over such an address, whoever put it into a request."""
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            await serve(client, tg, queue, double)
            poison = rabbitry.Message.msgpack(21, reply_to="amq.rabbitmq.reply-to.a.b", correlation_id="1")
            with suppress(rabbitry.OutcomeUnknown):
                await client.publish(poison, routing_key=queue)
            for number in range(3):
                with anyio.fail_after(30):
                    while True:
                        with suppress(rabbitry.OutcomeUnknown):
                            assert await rpc.call(queue, number) == 2 * number
                            break
            assert client.statistics()["publishing_lives"] <= 3
            client.stop_consuming()
        async with open_channel(amqp_url) as channel:
            assert await has_counts(channel, queue, 0)


async def test_a_call_of_a_block_that_was_left_is_not_made(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, through_proxy(amqp_url) as (client, proxy):
        async with anyio.create_task_group() as tg:

            async def call() -> None:
                with pytest.raises(rabbitry.LocalProtocolError, match="not open"):
                    await rpc.call(queue, 1)

            async with client.rpc() as rpc:
                with pytest.raises(rabbitry.Unroutable):
                    await rpc.call(unique())
                refuse(proxy)
                await until(lambda: client.state == "recovering")
                tg.start_soon(call)
                await anyio.sleep(0.05)
        proxy.accept()
        async with client.channel() as channel:
            assert channel.number == 1
            assert await drain(channel, queue) == []


@pytest.mark.rabbitmq("its time passes while there is always something to do")
async def test_replies_outlive_a_message_that_the_broker_closes_their_channel_for(amqp_url: str) -> None:
    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as server:

        async def handler(number: int) -> int:
            await anyio.sleep(0.02)
            return 2 * number

        async def spoil() -> None:
            while True:
                with suppress(rabbitry.Refused):
                    await server.publish(rabbitry.Message(b"x", user_id="mallory"), routing_key="nowhere")

        async with rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
            async with anyio.create_task_group() as tg:
                await serve(server, tg, queue, handler)
                tg.start_soon(spoil)
                replies: list[int] = []

                async def call(number: int) -> None:
                    replies.append(await rpc.call(queue, number))

                with anyio.fail_after(30):
                    async with anyio.create_task_group() as calls:
                        for number in range(30):
                            calls.start_soon(call, number)
                tg.cancel_scope.cancel()
        assert sorted(replies) == [2 * number for number in range(30)]
        assert server.statistics()["undeliverable_replies"] == 0
