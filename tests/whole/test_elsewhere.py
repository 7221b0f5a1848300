"""Used on another event loop, in another thread, left in another task: one error each, at once, which says the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry import Queue
from tests.support.helpers import unique

OTHER_LOOP = r"lives on another event loop .*start_client.*from_thread.*rabbitry\.blocking"
OTHER_THREAD = r"another thread .*from_thread\.run_sync.*rabbitry\.blocking"
OTHER_TASK = r"entered in one task and left in another.*start_client"

Use = Callable[[], Awaitable[object]]


def on_another_loop(use: Use, backend: str = "asyncio", **options: Any) -> None:
    """Call it in a thread with a loop of its own: it must raise at once."""

    async def main() -> None:
        with anyio.fail_after(5), pytest.raises(rabbitry.LocalProtocolError, match=OTHER_LOOP):
            with anyio.fail_after(0.4):  # a close that nobody answers would take longer
                await use()

    anyio.run(main, backend=backend, backend_options=options)


@pytest.mark.parametrize(
    ("backend", "options"),
    [("asyncio", {}), ("asyncio", {"debug": True}), ("trio", {})],
    ids=["asyncio", "debug", "trio"],
)
async def test_what_waits_is_refused_on_another_loop(amqp_url: str, backend: str, options: dict[str, Any]) -> None:
    """And goes on as ever on its own."""
    async with (
        rabbitry.open_client(amqp_url) as client,
        rabbitry.connect(amqp_url) as connection,
        connection.channel() as channel,
        rabbitry.open_reactor() as reactor,
    ):
        queue = Queue(unique("elsewhere"), expires=60)
        await client.declare(queue)
        async with (
            client.publisher() as publisher,
            client.rpc() as rpc,
            client.consume(queue) as deliveries,
            channel.consume(queue, priority=-1) as raw_deliveries,
            connection.rpc() as raw_rpc,
        ):
            await publisher.publish(b"x", routing_key=queue.name)
            (await anext(deliveries)).ack()

            async def consume() -> None:
                await client.consume(queue).__aenter__()

            uses: list[Use] = [
                partial(client.publish, b"x", routing_key=queue.name),
                partial(client.declare, queue),
                partial(client.delete, Queue(unique("none"))),
                partial(client.inspect, queue),
                partial(client.process, queue, print),
                client.wait_closed,
                lambda: client.channel().__aenter__(),
                lambda: client.publisher().__aenter__(),
                consume,
                lambda: anext(deliveries),
                partial(publisher.publish, b"x"),
                publisher.flush,
                partial(rpc.call, "nowhere"),
                partial(connection.update_secret, "x"),
                connection.wait_closed,
                lambda: connection.channel().__aenter__(),
                lambda: connection.__aexit__(None, None, None),
                partial(channel.publish, b"x"),
                partial(channel.get, queue),
                partial(channel.declare_queue, queue.name, passive=True),
                partial(channel.qos, 5),
                channel.publisher().__aenter__,
                channel.consume(queue).__aenter__,
                lambda: channel.__aexit__(None, None, None),
                lambda: reactor.connect(amqp_url).__aenter__(),
                partial(raw_rpc.call, "nowhere"),
                lambda: raw_rpc.__aexit__(None, None, None),
                lambda: raw_deliveries.__aexit__(None, None, None),
                lambda: deliveries.__aexit__(None, None, None),
            ]
            for use in uses:
                await anyio.to_thread.run_sync(partial(on_another_loop, use, backend, **options))
            with anyio.fail_after(10):
                await client.publish(b"y", routing_key=queue.name)
                await channel.publish(b"z", routing_key=queue.name)
                assert {(await anext(deliveries)).body, (await anext(deliveries)).body} == {b"y", b"z"}
                assert client.statistics()["publishing_lives"] == 1


@pytest.mark.parametrize("settle", ["ack", "nack", "reject"])
async def test_what_does_not_wait_is_refused_in_another_thread(amqp_url: str, settle: str) -> None:
    async with rabbitry.open_client(amqp_url) as client, client.channel() as channel:
        queue = Queue(unique("elsewhere"), expires=60)
        await client.declare(queue)
        await client.publish(b"x", routing_key=queue.name)
        async with client.consume(queue) as deliveries:
            delivery = await anext(deliveries)
            await anyio.sleep(0.1)  # no turn of the poller is under way: else it is not noticed

            def use(function: Callable[[], object]) -> None:
                with pytest.raises(rabbitry.LocalProtocolError, match=OTHER_THREAD):
                    function()

            for function in (
                getattr(delivery, settle),
                partial(channel.publish_nowait, b"late", routing_key=queue.name),
                client.stop_consuming,
            ):
                await anyio.to_thread.run_sync(use, function)
            assert not delivery.is_settled
            await anyio.to_thread.run_sync(anyio.from_thread.run_sync, delivery.ack)
            assert delivery.is_settled
        info = await client.inspect(queue)
        assert info is not None and info.message_count == 0


# --- asyncio: loops and tasks that come and go, as with pytest-asyncio ------------------------------------------------


async def in_a_fixture(block: Any) -> AsyncGenerator[Any, None]:
    async with block as entered:
        if isinstance(entered, rabbitry.Client):
            await entered.publish(b"x", routing_key="nowhere")
        yield entered


BLOCKS: list[Any] = [
    pytest.param(lambda url: rabbitry.open_client(url), id="open_client"),
    pytest.param(lambda url: rabbitry.connect(url), id="connect"),
    pytest.param(lambda url: rabbitry.open_reactor(), id="open_reactor"),
]


@pytest.mark.parametrize("make", BLOCKS)
def test_left_in_another_task(amqp_url: str, make: Callable[[str], Any]) -> None:
    """It is closed, and nothing of it goes on."""
    with asyncio.Runner() as runner:
        fixture = in_a_fixture(make(amqp_url))
        runner.run(asyncio.wait_for(anext(fixture), 10))
        with pytest.raises(rabbitry.LocalProtocolError, match=OTHER_TASK) as raised:
            runner.run(asyncio.wait_for(anext(fixture, None), 10))
        assert raised.value.__cause__ is None
        assert asyncio.all_tasks(runner.get_loop()) == set()


@pytest.mark.parametrize("make", BLOCKS)
def test_left_on_another_loop(amqp_url: str, make: Callable[[str], Any]) -> None:
    with asyncio.Runner() as runner, asyncio.Runner() as other:
        fixture = in_a_fixture(make(amqp_url))
        runner.run(asyncio.wait_for(anext(fixture), 10))
        with pytest.raises(rabbitry.LocalProtocolError, match=OTHER_LOOP):
            other.run(asyncio.wait_for(anext(fixture, None), 10))


def test_an_error_of_the_body_is_kept_as_the_cause(amqp_url: str) -> None:
    with asyncio.Runner() as runner:
        fixture = in_a_fixture(rabbitry.open_client(amqp_url))
        runner.run(asyncio.wait_for(anext(fixture), 10))
        with pytest.raises(rabbitry.LocalProtocolError, match=OTHER_TASK) as raised:
            runner.run(fixture.athrow(ZeroDivisionError()))
        cause: BaseException | None = raised.value
        while cause is not None and not isinstance(cause, ZeroDivisionError):
            cause = cause.__cause__
        assert cause is not None


def test_a_loop_for_the_session_and_one_for_the_test(amqp_url: str) -> None:
    """Both in the same thread: the client's loop does not run while it is used."""
    with asyncio.Runner() as session, asyncio.Runner() as function:
        client = session.run(rabbitry.start_client(amqp_url))
        session.run(client.publish(b"x", routing_key="nowhere"))
        for use in (partial(client.publish, b"x"), client.aclose, client.wait_closed):
            with pytest.raises(rabbitry.LocalProtocolError, match="loop_scope"):
                function.run(asyncio.wait_for(use(), 5))
        session.run(asyncio.wait_for(client.publish(b"x", routing_key="nowhere"), 5))
        session.run(client.aclose())


def test_one_asyncio_run_after_the_other(amqp_url: str) -> None:
    async def start() -> rabbitry.Client:
        client = await rabbitry.start_client(amqp_url)
        await client.publish(b"x", routing_key="nowhere")
        return client

    client = asyncio.run(start())
    with pytest.raises(rabbitry.LocalProtocolError, match=OTHER_LOOP):
        asyncio.run(client.publish(b"x", routing_key="nowhere"))
    asyncio.run(client.wait_closed())  # its loop's end has ended it
    asyncio.run(client.aclose())


def test_two_threads_with_a_loop_each(amqp_url: str) -> None:
    """Each has a client of its own, which is the way."""
    failures: list[BaseException] = []

    async def main() -> None:
        async with rabbitry.open_client(amqp_url) as client:
            await client.publish(b"x", routing_key="nowhere")

    def run(backend: str) -> None:
        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
