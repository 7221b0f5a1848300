"""RPC: each call gets its own reply, or learns why there is none; nothing of a call outlives it."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry._channel.channel import life_of
from rabbitry.testing import open_proxy
from tests.support.helpers import check_channel, drain, exclusive_queue, has_counts, open_channel, unique, until


async def double(number: int) -> int:
    return 2 * number


async def test_calls(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, double)
            async with connection.rpc() as rpc:
                assert await rpc.call(queue, 21) == 42
                assert [await rpc.call(queue, number) for number in range(50)] == [2 * number for number in range(50)]
                assert "0 calls in flight, 0 late replies" in repr(rpc)
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)


async def test_many_callers_at_once(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        running = most = 0

        async def handler(number: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.001 * (number % 3))  # replies overtake each other
            running -= 1
            return number

        async with anyio.create_task_group() as servers:
            for _ in range(2):
                servers.start_soon(lambda: connection.serve(queue, handler, concurrency=10))
            async with connection.rpc() as rpc, rabbitry.connect(amqp_url) as other, other.rpc() as remote:

                async def call(rpc: rabbitry.RPC, number: int) -> None:
                    for turn in range(5):
                        assert await rpc.call(queue, number + turn) == number + turn

                async with anyio.create_task_group() as tg:
                    for number in range(50):
                        tg.start_soon(call, rpc if number % 2 else remote, 100 * number)
                assert rpc.late_replies == remote.late_replies == 0
            servers.cancel_scope.cancel()
        assert 2 < most <= 20


@pytest.mark.parametrize("codec", ["msgpack", "json"])
@pytest.mark.parametrize("payload", [None, True, 0, -1.5, "ž", [1, [2]], {"a": {"b": None}}])
async def test_payloads(amqp_url: str, codec: str, payload: Any) -> None:
    async def echo(payload: Any) -> Any:
        return payload

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: connection.serve(queue, echo, codec=codec))
            async with connection.rpc(codec=codec) as rpc:
                assert await rpc.call(queue, payload) == payload
            tg.cancel_scope.cancel()


async def test_raw(amqp_url: str) -> None:
    async def handler(delivery: rabbitry.Delivery) -> bytes | rabbitry.Message | None:
        assert isinstance(delivery, rabbitry.Delivery)
        match delivery.body:
            case b"bytes":
                return delivery.body + delivery.headers["suffix"].encode()
            case b"message":
                return rabbitry.Message.json({"as": "json"}, headers={"more": 1})
        return None

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: connection.serve(queue, handler, raw=True))
            async with connection.rpc() as rpc:
                assert await rpc.call(queue, b"bytes", raw=True, headers={"suffix": "!"}) == b"bytes!"
                assert await rpc.call(queue, b"message", raw=True) == b'{"as":"json"}'
                assert await rpc.call(queue, b"", raw=True) == b""
            tg.cancel_scope.cancel()


async def test_by_exchange(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        await channel.bind_queue(queue, "amq.topic", f"{queue}.double")
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, double)
            async with connection.rpc() as rpc:
                assert await rpc.call(f"{queue}.double", 4, exchange="amq.topic") == 8
            tg.cancel_scope.cancel()


# --- when there is no reply ------------------------------------------------------------------------------------------


async def test_the_handler_raises(amqp_url: str) -> None:
    async def double(number: Any) -> Any:
        return 2 * number

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, double)
            async with connection.rpc() as rpc:
                with pytest.raises(rabbitry.RemoteError, match="TypeError: unsupported operand") as caught:
                    await rpc.call(queue, None)
                assert caught.value.type_name == "TypeError"
                with pytest.raises(rabbitry.RemoteError, match="DecodeError"):
                    await rpc.call(queue, b"\xc1", raw=True)  # never used in MessagePack
                assert await rpc.call(queue, 1) == 2  # the server goes on
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)


async def test_a_reply_that_can_not_be_encoded(amqp_url: str) -> None:
    async def handler(payload: Any) -> object:
        return object()

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            async with connection.rpc() as rpc:
                with pytest.raises(rabbitry.RemoteError, match="TypeError"):
                    await rpc.call(queue)
            tg.cancel_scope.cancel()


async def test_nobody_serves(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc:
        nobody = unique()
        with pytest.raises(rabbitry.Unroutable) as caught:
            await rpc.call(nobody, 1)
        assert caught.value.routing_key == nobody
        assert caught.value.reply == (312, "NO_ROUTE")
        with anyio.move_on_after(0.05) as scope:
            await rpc.call(nobody, 1, mandatory=False)
        assert scope.cancelled_caught
        assert "0 calls in flight" in repr(rpc)


async def test_late_replies_are_dropped_and_counted(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        release = anyio.Event()
        entered = 0

        async def handler(number: int) -> int:
            nonlocal entered
            entered += 1
            if number:
                await release.wait()
            return number

        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            async with connection.rpc() as rpc:
                async with anyio.create_task_group() as calls:  # a deadline would travel, and stop the handlers
                    for number in range(1, 4):
                        calls.start_soon(rpc.call, queue, number)
                    await until(lambda: entered == 3)
                    calls.cancel_scope.cancel()
                assert "0 calls in flight" in repr(rpc)
                release.set()
                await until(lambda: rpc.late_replies == 3)
                assert await rpc.call(queue, 0) == 0
                assert rpc.late_replies == 3
            tg.cancel_scope.cancel()


async def test_a_request_expires_with_its_callers_deadline(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel, connection.rpc() as rpc:
        queue = await exclusive_queue(channel)
        with anyio.move_on_after(0.05):
            await rpc.call(queue)
        assert await has_counts(channel, queue, 0)  # nobody will handle it in vain

        async def expiration(limit: float) -> str | None:
            async def call() -> None:
                with anyio.move_on_after(limit):
                    await rpc.call(queue)

            async with anyio.create_task_group() as tg:
                tg.start_soon(call)
                assert await has_counts(channel, queue, 1)
                request = await channel.get(queue, no_ack=True)
                tg.cancel_scope.cancel()
            assert request is not None
            return request.properties.expiration

        assert await expiration(math.inf) is None
        assert 6000 < int(await expiration(7) or 0) <= 7000
        assert await expiration(1e9) == "4294967295"  # more than that RabbitMQ refuses


async def test_the_connection_ends(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with rabbitry.open_reactor() as reactor:
            other = reactor.connect(amqp_url)
            await other.__aenter__()
            rpc = other.rpc()
            await rpc.__aenter__()
            await connection.channel().__aenter__()
            async with other.channel() as mine:
                theirs = await exclusive_queue(mine)
            lost = []

            async def call() -> None:
                with pytest.raises(rabbitry.OutcomeUnknown) as caught:
                    await rpc.call(theirs, 1)
                lost.append(caught.value)

            async with anyio.create_task_group() as tg:
                for _ in range(3):
                    tg.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                await other.__aexit__(None, None, None)
            assert len(lost) == 3
            with pytest.raises(rabbitry.Closed):
                await rpc.call(queue, 1)
        await check_channel(channel)


async def test_outside_of_its_block(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        rpc = connection.rpc()
        with pytest.raises(rabbitry.NotConnected):
            await rpc.call("x")
        async with rpc:
            pass
        with pytest.raises(rabbitry.ChannelClosed):
            await rpc.call("x")


# --- serving ---------------------------------------------------------------------------------------------------------


async def test_serving_a_queue_that_does_not_exist(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        with pytest.raises(rabbitry.NotFound):
            await connection.serve(unique(), double)


async def test_serving_ends_with_its_queue(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        with pytest.raises(rabbitry.ConsumerCancelled):
            async with anyio.create_task_group() as tg:
                tg.start_soon(delete_soon, channel, queue)
                try:
                    await connection.serve(queue, double)
                except rabbitry.ConsumerCancelled as exc:
                    ended = exc
                    tg.cancel_scope.cancel()
            raise ended


async def delete_soon(channel: rabbitry.Channel, queue: str) -> None:
    assert await has_counts(channel, queue, 0, 1)
    await channel.delete_queue(queue)


async def test_cancelled_serving_puts_requests_back(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [b"\x01"] * 5)
        started = 0

        async def handler(payload: Any) -> None:
            nonlocal started
            started += 1
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: connection.serve(queue, handler, concurrency=2))
            await until(lambda: started == 2)
            assert await has_counts(channel, queue, 1, 1)  # prefetch is twice the concurrency
            tg.cancel_scope.cancel()
        assert started == 2
        assert await has_counts(channel, queue, 5)


async def test_requests_without_reply_address_are_dead_lettered_where_their_handler_fails(amqp_url: str) -> None:
    handled = []

    async def handler(payload: Any) -> None:
        handled.append(payload)
        if payload == 2:
            raise ValueError("nobody to tell")

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        dead = await exclusive_queue(channel)
        queue = await exclusive_queue(channel, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            for number in (1, 2, 3):
                await channel.publish(rabbitry.Message.msgpack(number), routing_key=queue)
            await until(lambda: len(handled) == 3)
            assert await has_counts(channel, queue, 0, 1)
            assert await has_counts(channel, dead, 1)
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
        assert sorted(handled) == [1, 2, 3]
        assert (await drain(channel, dead)) == [rabbitry.Message.msgpack(2).body]


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_a_stream_takes_no_request_back(amqp_url: str, how: str) -> None:
    """RabbitMQ closes the connection (540) of who nacks or rejects there: each is acknowledged, or left."""
    at_work = anyio.Event()

    async def handler(payload: Any) -> Any:
        if payload == "stay":
            at_work.set()
            await anyio.sleep_forever()
        if payload == "fail":
            raise ValueError("nobody to tell")
        return payload

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        stream = (await channel.declare_queue(unique(), arguments={"x-queue-type": "stream"})).name
        try:
            async with connection.rpc() as rpc, anyio.create_task_group() as tg:
                tg.start_soon(partial(connection.serve, stream, handler, prefetch=1))
                with anyio.fail_after(5):
                    serves = False
                    while not serves:  # it begins with what comes once it consumes
                        with anyio.move_on_after(0.2):
                            serves = await rpc.call(stream, True)
                    payload = {"fails": "fail", "is cancelled": "stay"}[how]
                    await channel.publish(rabbitry.Message.msgpack(payload), routing_key=stream)
                    if how == "is cancelled":
                        await at_work.wait()
                    else:  # one at a time: the next comes once it is acknowledged
                        assert await rpc.call(stream, "next") == "next"
                tg.cancel_scope.cancel()
            await check_channel(channel)
        finally:
            await channel.delete_queue(stream)


async def test_a_caller_that_is_gone(amqp_url: str) -> None:
    """Its reply address is, too: a reply to it must not end the server's channel."""
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        entered, release = anyio.Event(), anyio.Event()

        async def handler(number: int) -> int:
            if number:
                entered.set()
                await release.wait()
            return number

        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            async with rabbitry.connect(amqp_url) as other, other.rpc() as rpc, anyio.create_task_group() as calls:
                calls.start_soon(rpc.call, queue, 1)
                await entered.wait()
                calls.cancel_scope.cancel()
            release.set()
            async with connection.rpc() as rpc:
                assert await rpc.call(queue, 0) == 0
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)


async def test_wrong_concurrency(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        with pytest.raises(ValueError, match="concurrency"):
            await connection.serve("x", double, concurrency=0)


async def test_quick_handlers_are_not_bound_by_the_round_trip(amqp_url: str) -> None:
    """The prefetch of two for each worker is where it begins."""
    async with open_proxy(amqp_url) as proxy, open_channel(amqp_url) as channel:
        queue = (await channel.declare_queue(exclusive=False, durable=True, arguments={"x-expires": 60_000})).name
        for _ in range(2000):
            channel.publish_nowait(rabbitry.Message(b"\x15", content_type="application/msgpack"), routing_key=queue)
        proxy.delay = 0.01
        async with rabbitry.connect(proxy.url) as connection, anyio.create_task_group() as tg:
            done = 0

            async def handle(number: int) -> int:
                nonlocal done
                done += 1
                return number

            tg.start_soon(lambda: connection.serve(queue, handle, concurrency=1))
            with anyio.fail_after(15):  # two for each round trip of 20 ms take 20 s
                while done < 2000:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()
        await channel.delete_queue(queue)


async def test_a_handler_is_a_function(amqp_url: str) -> None:
    wrong: Any = object()
    async with rabbitry.connect(amqp_url) as connection, rabbitry.open_client(amqp_url) as client:
        for server in (connection, client):
            with pytest.raises(TypeError, match="a handler is a function, a Service"):
                await server.serve("x", wrong)


async def test_a_reply_whose_properties_can_not_be_encoded(amqp_url: str) -> None:
    """The caller is told, the request is settled, and the server has its place for the next."""

    async def handler(request: rabbitry.Delivery) -> rabbitry.Message:
        return rabbitry.Message(b"", headers={"bad": object()} if request.body == b"bad" else {"good": 1})

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, concurrency=1, raw=True))
            async with connection.rpc() as rpc:
                for _ in range(5):  # more than the prefetch of 2
                    with pytest.raises(rabbitry.RemoteError, match="TypeError"):
                        await rpc.call(queue, b"bad", raw=True)
                with anyio.fail_after(5):
                    assert await rpc.call(queue, raw=True) == b""
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)


async def test_a_reply_that_no_frame_can_carry(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The request is rejected, and the server has its place for the next."""

    async def handler(request: rabbitry.Delivery) -> rabbitry.Message:
        return rabbitry.Message(b"", headers={"large": "x" * 9000 if request.body == b"bad" else ""})

    async with rabbitry.connect(amqp_url, frame_max=8192) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, concurrency=1, raw=True))
            async with connection.rpc() as rpc:
                for _ in range(3):  # more than the prefetch of 2
                    with anyio.move_on_after(0.2):
                        await rpc.call(queue, b"bad", raw=True)
                with anyio.fail_after(5):
                    assert await rpc.call(queue, raw=True) == b""
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
    assert "exceeds frame_max" in caplog.text


async def test_requests_whose_properties_can_not_be_decoded(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """RabbitMQ passes on tables nested deeper than is decoded here. They are rejected, and serving goes on."""
    table = b"\0\0\0\0"
    for _ in range(70):
        table = b"\x01aF" + table
        table = len(table).to_bytes(4, "big") + table
    properties = (1 << 13).to_bytes(2, "big") + table

    async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, double, concurrency=1))
            for _ in range(5):
                life_of(channel).live.publish(properties, b"", "", queue, False)
            async with connection.rpc() as rpc:
                with anyio.fail_after(5):
                    assert await rpc.call(queue, 1) == 2
            tg.cancel_scope.cancel()
        assert await has_counts(channel, queue, 0)
    told = [record for record in caplog.records if record.name == "rabbitry"]
    assert ["can't be read" in record.message and record.exc_info is None for record in told] == [True]  # each second


class Stop(BaseException):
    """Ends the program, as SystemExit would; pytest does not mind it."""


async def test_what_ends_the_program_leaves_serving_as_itself(amqp_url: str) -> None:
    async def handler(number: int) -> int:
        raise Stop

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [rabbitry.Message.msgpack(1)])
        with pytest.raises(Stop), anyio.fail_after(5):
            await connection.serve(queue, handler)
        assert await has_counts(channel, queue, 1)  # put back


async def test_a_handler_that_awaits_something_cancelled(amqp_url: str, anyio_backend_name: str) -> None:
    """On asyncio that raises CancelledError, though nobody cancelled the handler."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio raises Cancelled only in what is cancelled")

    async def handler(number: int) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.cancel()
        return await future

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(connection.serve, queue, handler)
            async with connection.rpc() as rpc:
                for _ in range(2):
                    with pytest.raises(rabbitry.RemoteError, match="CancelledError"), anyio.fail_after(5):
                        await rpc.call(queue, 1)
            tg.cancel_scope.cancel()


async def test_a_raw_handler_may_settle_its_request(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: rabbitry.Delivery) -> bytes:
        request.ack()
        return b"done"

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, handler, raw=True))
            async with connection.rpc() as rpc:
                assert await rpc.call(queue, raw=True) == b"done"
            tg.cancel_scope.cancel()
    assert not caplog.records
