"""The cases of `test_cancellation` that concern the client and its handles. Importing it registers them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

import rabbitry
from tests.support.cancelling import Attempt, Operation, Stage, case, descriptors
from tests.support.helpers import drain, exclusive_queue, has_counts, unique


@case("open_client")
async def client_opened_used_and_closed(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    async def operation() -> str:
        async with rabbitry.open_client(stage.url) as client:
            await client.publish(b"x", routing_key="nowhere")
            await client.declare(rabbitry.Queue(unique(), exclusive=True))
        return "done"

    before = descriptors()
    attempt = yield operation()
    assert attempt.value == ("done" if attempt.has_returned else None)
    assert descriptors() == before


@case("Client.publish")
async def client_publish(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = (await stage.channel.declare_queue(unique())).name
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.publish(b"first", routing_key=queue)
        await client.publish(b"last", routing_key=queue)
    bodies = await drain(stage.channel, queue)
    assert bodies == [b"first", b"last"] or (not attempt.has_returned and bodies == [b"last"])
    await stage.channel.delete_queue(queue)


@case("Client.declare")
async def client_declare(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = rabbitry.Queue(unique(), max_length=5)
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.declare(queue)
        assert client.statistics()["declared"] == int(attempt.has_returned)
        await client.declare(queue)
        assert await client.inspect(queue) == rabbitry.QueueInfo(queue.name, 0, 0)
    await stage.channel.delete_queue(queue)


@case("Client.inspect")
async def client_inspect(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await stage.channel.declare_queue(unique())
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.inspect(queue.name)
        assert attempt.value == (queue if attempt.has_returned else None)
        assert await client.inspect(queue.name) == queue
        assert await client.inspect(unique()) is None
    await stage.channel.delete_queue(queue.name)


@case("Client.delete")
async def client_delete(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = rabbitry.Queue(unique())
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        await client.declare(queue)
        attempt = yield client.delete(queue)
        if attempt.has_returned:
            assert client.statistics()["declared"] == 0
            assert await client.inspect(queue) is None
        await client.delete(queue)
        assert client.statistics()["declared"] == 0


@case("Client.wait_closed", least=1)
async def client_wait_closed(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:

        async def operation() -> None:
            with anyio.move_on_after(0.01):
                await client.wait_closed()

        yield operation()
        await client.publish(b"x", routing_key="nowhere")
    await client.wait_closed()


# --- publishing ------------------------------------------------------------------------------------------------------


@case("ClientPublisher.__aenter__")
async def client_publisher_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        block = client.publisher()
        attempt = yield block.__aenter__()
        if attempt.has_returned:
            await attempt.value.publish(b"x", routing_key=queue)
            await block.__aexit__(None, None, None)
        assert client.statistics()["publishers"] == 0
    assert await drain(stage.channel, queue) == [b"x"] * attempt.has_returned


@case("ClientPublisher.submit", "ClientPublisher.publish")
async def client_publisher_publish(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    """With a window of one, so that the second waits."""
    queue = (await stage.channel.declare_queue(unique())).name
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        async with client.publisher(window=1) as publisher:

            async def operation() -> None:
                await publisher.submit(b"1", routing_key=queue)
                await publisher.submit(b"2", routing_key=queue)
                await publisher.publish(b"3", routing_key=queue)

            attempt = yield operation()
            await publisher.publish(b"last", routing_key=queue)
            assert publisher.pending == 0 and publisher.failed == 0
            sent = publisher.sent - 1
    bodies = await drain(stage.channel, queue)
    assert bodies == [*[b"1", b"2", b"3"][:sent], b"last"]
    assert sent == 3 or attempt.is_cancelled
    await stage.channel.delete_queue(queue)


@case("ClientPublisher.__aexit__", least=1)
async def client_publisher_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = (await stage.channel.declare_queue(unique())).name
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        block = client.publisher()
        publisher = await block.__aenter__()
        confirmations = [await publisher.submit(b"x", routing_key=queue) for _ in range(5)]
        yield block.__aexit__(None, None, None)
        assert client.statistics()["publishers"] == 0
        assert {confirmation.outcome for confirmation in confirmations} <= {"confirmed", "unknown"}
        await client.publish(b"x", routing_key=queue)
    assert len(await drain(stage.channel, queue)) == 6
    await stage.channel.delete_queue(queue)


# --- consuming -------------------------------------------------------------------------------------------------------


@case("Subscription.__aenter__")
async def subscription_enter(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await shared_queue(stage, [b"x"])
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        deliveries = client.consume(queue)
        attempt = yield deliveries.__aenter__()
        if attempt.has_returned:
            assert (await anext(deliveries)).body == b"x"
            await deliveries.__aexit__(None, None, None)
        assert client.statistics()["subscriptions"] == 0
        assert await has_counts(stage.channel, queue, 1)
    await stage.channel.delete_queue(queue)


@case("Subscription.__aexit__", shielded=True, least=2)
async def subscription_exit(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await shared_queue(stage, [b"1", b"2", b"3"])
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        deliveries = client.consume(queue)
        await deliveries.__aenter__()
        (await anext(deliveries)).ack()
        await anext(deliveries)
        yield deliveries.__aexit__(None, None, None)
        assert client.statistics()["subscriptions"] == 0
        assert await has_counts(stage.channel, queue, 2)
    await stage.channel.delete_queue(queue)


@case("Subscription.__anext__", least=2)
async def subscription_iterate(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await shared_queue(stage, [])
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        async with client.consume(queue) as deliveries:

            async def publish_soon() -> None:
                await anyio.sleep(0.01)
                await stage.channel.publish(b"1", routing_key=queue)

            async with anyio.create_task_group() as tg:
                tg.start_soon(publish_soon)
                attempt = yield deliveries.__anext__()
            if attempt.has_returned:
                assert attempt.value.body == b"1"
                attempt.value.ack()
            await stage.channel.publish(b"2", routing_key=queue)
            for body in (b"1", b"2")[attempt.has_returned :]:
                delivery = await anext(deliveries)
                assert delivery.body == body
                delivery.ack()
    assert await has_counts(stage.channel, queue, 0)
    await stage.channel.delete_queue(queue)


@case("SubscriptionBatches.__anext__", least=2)
async def subscription_batches(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await shared_queue(stage, [b"1", b"2"])
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        async with client.consume(queue) as deliveries:
            batches = deliveries.batches(3, within=0.05)
            attempt = yield batches.__anext__()
            got = [delivery.body for delivery in attempt.value] if attempt.has_returned else []
            if attempt.has_returned:
                attempt.value.ack()
            while len(got) < 2:
                batch = await anext(batches)
                got += [delivery.body for delivery in batch]
                batch.ack()
            assert got == [b"1", b"2"]
    assert await has_counts(stage.channel, queue, 0)
    await stage.channel.delete_queue(queue)


@case("Client.process", least=5)
async def client_process(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    """Each delivery is handled and acknowledged, or back in the queue."""
    queue = await shared_queue(stage, [b"%d" % number for number in range(3)])
    handled: list[bytes] = []
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:

        async def handler(delivery: rabbitry.Delivery) -> None:
            await anyio.sleep(0.001)
            handled.append(delivery.body)
            if delivery.body == b"2":
                client.stop_consuming()

        attempt = yield client.process(queue, handler, concurrency=2)
        assert attempt.value is None
        assert client.statistics()["subscriptions"] == 0
        assert await has_counts(stage.channel, queue, 3 - len(handled))
        assert len(set(handled)) == len(handled)
    await stage.channel.delete_queue(queue)


@case("Client.get")
async def client_get(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = (await stage.channel.declare_queue(unique())).name
    await stage.channel.publish(b"x", routing_key=queue)
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.get(queue)
        if attempt.has_returned:
            attempt.value.ack()
        assert await has_counts(stage.channel, queue, 0 if attempt.has_returned else 1)
    await stage.channel.delete_queue(queue)


@case("Client.purge")
async def client_purge(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = (await stage.channel.declare_queue(unique())).name
    await stage.channel.publish(b"x", routing_key=queue)
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.purge(queue)
        assert attempt.value == (1 if attempt.has_returned else None)
        assert await client.purge(queue) in ((0,) if attempt.has_returned else (0, 1))
    await stage.channel.delete_queue(queue)


@case("Client.wait_ready")
async def client_wait_ready(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
        attempt = yield client.wait_ready()
        assert client.is_ready or not attempt.has_returned
        await client.wait_ready()
        assert client.is_ready


# --- RPC -------------------------------------------------------------------------------------------------------------


async def double(number: int) -> int:
    return 2 * number


@case("ClientRPC.call")
async def client_rpc_call(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stage.connection.serve, queue, double)
        async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client, client.rpc() as rpc:
            attempt = yield rpc.call(queue, 21)
            assert attempt.value == (42 if attempt.has_returned else None)
            assert [await rpc.call(queue, number) for number in range(3)] == [0, 2, 4]
            assert rpc.late_replies in ((0,) if attempt.has_returned else (0, 1))
        tg.cancel_scope.cancel()
    assert await has_counts(stage.channel, queue, 0)


@case("ClientRPC.request")
async def client_rpc_request(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stage.connection.serve, queue, double)
        async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client, client.rpc() as rpc:
            attempt = yield rpc.request(rabbitry.Message.msgpack(21), queue)
            assert not attempt.has_returned or attempt.value.decode() == 42
            assert (await rpc.request(rabbitry.Message.msgpack(1), queue)).decode() == 2
        tg.cancel_scope.cancel()
    assert await has_counts(stage.channel, queue, 0)


@case("ClientRPC.call")
async def client_rpc_call_with_a_reply_queue(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    queue = await exclusive_queue(stage.channel)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stage.connection.serve, queue, double)
        async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:
            async with client.rpc(reply_to="exclusive") as rpc:
                attempt = yield rpc.call(queue, 21, idempotent=True)
                assert attempt.value == (42 if attempt.has_returned else None)
                assert [await rpc.call(queue, number) for number in range(3)] == [0, 2, 4]
                assert rpc.late_replies in ((0,) if attempt.has_returned else (0, 1))
                assert repr(rpc).startswith("<ClientRPC 0 calls in flight")
        tg.cancel_scope.cancel()
    assert await has_counts(stage.channel, queue, 0)


@case("Client.serve", least=5)
async def client_serve(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    """Each request is answered, or put back and not answered; or both, as a reply may be under way."""
    queue, replies = await shared_queue(stage, []), await exclusive_queue(stage.channel)
    for number in range(3):
        await stage.channel.publish(rabbitry.Message.msgpack(number, reply_to=replies), routing_key=queue)
    async with rabbitry.open_client(stage.url, reactor=stage.reactor) as client:

        async def handler(number: int) -> int:
            if number == 2:
                client.stop_consuming()
            return 2 * number

        attempt = yield client.serve(queue, handler, concurrency=1)
        assert client.statistics()["subscriptions"] == 0
    left = (await stage.channel.declare_queue(queue, passive=True)).message_count
    answered = len(await drain(stage.channel, replies))
    assert answered + left >= 3
    assert not attempt.has_returned or (answered, left) == (3, 0)
    await stage.channel.delete_queue(queue)


# --- without a block -------------------------------------------------------------------------------------------------


@case("start_client", "Client.aclose", least=0)
async def client_started_and_closed(stage: Stage) -> AsyncGenerator[Operation, Attempt]:
    async def operation() -> str:
        client = await rabbitry.start_client(stage.url)
        try:
            await client.publish(b"x", routing_key="nowhere")
        finally:
            await client.aclose()
        return "done"

    async def refused() -> str:
        with pytest.raises(rabbitry.LocalProtocolError, match="trio"):
            await rabbitry.start_client(stage.url)
        return "done"

    before = descriptors()
    attempt = yield operation() if stage.backend == "asyncio" else refused()
    if stage.backend == "asyncio":
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            while descriptors() != before:
                await anyio.sleep(0.001)
    assert attempt.value == ("done" if attempt.has_returned else None)


async def shared_queue(stage: Stage, bodies: list[bytes]) -> str:
    """A queue that other connections may use."""
    queue = (await stage.channel.declare_queue(unique())).name
    for body in bodies:
        await stage.channel.publish(body, routing_key=queue)
    return queue
