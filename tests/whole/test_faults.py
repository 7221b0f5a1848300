"""What a broken network does to a connection: cut, reset, half closed, silent, or no longer read.

Every test runs over both transports, the poller's own socket and a stream of `dial=`, behind a proxy that fails on
command. Whatever was under way ends in bounded time with the error that docs/guides/errors.md names for it.
"""

from __future__ import annotations

import errno
import math
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import _endpoint
from rabbitry._channel import consumer
from rabbitry.testing import Flow, Link, Proxy, open_proxy
from tests.support.helpers import check_channel, drain, exclusive_queue, has_counts, open_channel, unique, until

Connect = Callable[..., rabbitry.Connection]
Fault = Callable[[Link], None]

SOON = 20.0
"""Seconds within which an end must be known everywhere: less than those after which a close gives up by itself."""


@pytest.fixture(autouse=True)
def _a_close_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND", 40.0)


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with open_proxy(amqp_url) as proxy:
        yield proxy


@pytest.fixture(params=[None, anyio.connect_tcp], ids=["socket", "stream"])
def dial(request: pytest.FixtureRequest) -> Any:
    """Which transport."""
    return request.param


@pytest.fixture(params=[Link.cut, Link.reset], ids=["cut", "reset"])
def fault(request: pytest.FixtureRequest) -> Fault:
    """Which end."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def connect(proxy: Proxy, dial: Any) -> Connect:
    """A connection through the proxy."""

    def connect(**options: Any) -> rabbitry.Connection:
        return rabbitry.connect(proxy.url, dial=dial, **options)

    return connect


@asynccontextmanager
async def a_queue(url: str) -> AsyncIterator[tuple[rabbitry.Channel, str]]:
    """A queue that outlives the connection under test, and a channel straight to the broker to look at it."""
    async with open_channel(url) as channel:
        queue = unique("faults")
        await channel.declare_queue(queue)
        try:
            yield channel, queue
        finally:
            await channel.delete_queue(queue)


async def passes(flow: Flow, operation: Callable[[], object]) -> None:
    """Return once what `operation` sends has passed through the proxy."""
    before = flow.passed
    operation()
    await until(lambda: flow.passed > before)


async def tells_its_cause(connection: rabbitry.Connection) -> None:
    with anyio.fail_after(SOON), pytest.raises(rabbitry.ConnectionClosed, match="connection lost") as caught:
        await connection.wait_closed()
    assert not connection.is_open
    cause = caught.value.__cause__
    assert cause is None or (isinstance(cause, OSError) and cause.errno in (errno.ECONNRESET, errno.EPIPE))


# --- cut and reset -------------------------------------------------------------------------------------------------


async def test_while_idle(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    with anyio.fail_after(SOON):
        async with connect() as connection, connection.channel() as channel:
            fault(proxy.link)
            await tells_its_cause(connection)
            assert not channel.is_open
            with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                await channel.declare_queue(exclusive=True)
            with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                await channel.publish(b"", routing_key="nowhere")
            with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                channel.publish_nowait(b"", routing_key="nowhere")
            with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                async with connection.channel():
                    pass


async def test_the_cause_tells_an_end_from_a_reset(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    async with connect() as connection:
        fault(proxy.link)
        with anyio.fail_after(SOON), pytest.raises(rabbitry.ConnectionClosed) as caught:
            await connection.wait_closed()
    if fault is Link.cut:
        assert caught.value.text == "connection lost: the peer closed the connection"
        assert caught.value.__cause__ is None
    else:
        assert "reset by peer" in caught.value.text
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize("reads_it", [True, False], ids=["at the broker", "in the kernel"])
async def test_with_a_confirm_outstanding(
    amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault, reads_it: bool
) -> None:
    """Whether the message arrived makes no difference to what can be known of it."""
    message = rabbitry.Message(b"where am I?")
    failures: list[rabbitry.OutcomeUnknown] = []

    async def publish() -> None:
        with pytest.raises(rabbitry.OutcomeUnknown, match="connection lost") as caught:
            await channel.publish(message, routing_key=queue)
        failures.append(caught.value)

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        link = proxy.link
        link.to_client.stall()
        if not reads_it:
            link.to_broker.stall()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                tg.start_soon(publish)
                if reads_it:
                    assert await has_counts(direct, queue, 1)
                else:
                    await until(lambda: connection._endpoint.awaiting and not connection._endpoint.protocol.out)
                fault(link)
        [failure] = failures
        assert failure.message is message and failure.routing_key == queue
        assert isinstance(failure.__cause__, rabbitry.ConnectionClosed)
        await tells_its_cause(connection)
        assert await drain(direct, queue) == [b"where am I?"] * reads_it


async def test_with_a_full_window(amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault) -> None:
    confirmations: list[rabbitry.Confirmation] = []

    async def one_too_many() -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):  # certainly not sent
            await publisher.submit(b"61", routing_key=queue, tag=61)

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        with anyio.fail_after(SOON), pytest.raises(rabbitry.PublishesFailed, match="50 publishes failed") as caught:
            async with channel.publisher(window=50) as publisher:
                for number in range(10):
                    await publisher.submit(b"%d" % number, routing_key=queue, tag=number)
                await publisher.flush()
                proxy.link.to_client.stall()
                for number in range(10, 60):
                    confirmations.append(await publisher.submit(b"%d" % number, routing_key=queue, tag=number))
                assert await has_counts(direct, queue, 60)
                async with anyio.create_task_group() as tg:
                    tg.start_soon(one_too_many)
                    await anyio.wait_all_tasks_blocked()
                    fault(proxy.link)
        assert [failure.message for failure in caught.value.failures] == [b"%d" % number for number in range(10, 60)]
        assert all(isinstance(failure, rabbitry.OutcomeUnknown) for failure in caught.value.failures)
        assert (publisher.sent, publisher.confirmed, publisher.failed, publisher.pending) == (60, 10, 50, 0)
        assert [confirmation.outcome for confirmation in confirmations] == ["unknown"] * 50


async def test_with_publishes_still_queued(amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault) -> None:
    """What the kernel took is unknown; what had not left this process is said to be unsent, and comes behind it."""
    ended: list[rabbitry.Confirmation] = []
    submitted: list[int] = []

    async def submit_on_and_on() -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):  # once there is no room
            for number in range(100_000):
                await publisher.submit(bytes(10_000), routing_key="nowhere", tag=number)
                submitted.append(number)

    async with connect() as connection, connection.channel() as channel:
        proxy.link.to_broker.stall()
        async with channel.publisher(window=100_000, on_outcome=ended.append) as publisher:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(submit_on_and_on)
                    await until(lambda: connection._endpoint.protocol.out_size >= _endpoint.HIGH_WATER)
                    await anyio.wait_all_tasks_blocked()
                    fault(proxy.link)
        outcomes = [confirmation.outcome for confirmation in ended]
        unknown, unsent = outcomes.count("unknown"), outcomes.count("unsent")
        assert [confirmation.tag for confirmation in ended] == submitted, "each once, in order"
        assert outcomes == ["unknown"] * unknown + ["unsent"] * unsent
        assert unsent > 5 and unknown > 5
        assert publisher.failed == publisher.sent == len(submitted)
        with pytest.raises(rabbitry.NotSent, match="connection lost"):
            await ended[-1].wait()


async def test_while_iterating(amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault) -> None:
    async def iterate() -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
            await deliveries.__anext__()

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        await direct.publish(b"taken", routing_key=queue)
        with anyio.fail_after(SOON):
            async with channel.consume(queue) as deliveries:
                taken = await deliveries.__anext__()
                async with anyio.create_task_group() as tg:
                    tg.start_soon(iterate)
                    await anyio.wait_all_tasks_blocked()
                    fault(proxy.link)
                with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                    await deliveries.__anext__()
                assert taken.is_stale
                with pytest.raises(rabbitry.StaleDelivery):
                    taken.ack()
            await tells_its_cause(connection)
        assert await has_counts(direct, queue, 1), "the broker has it back"
        again = await direct.get(queue, no_ack=True)
        assert again is not None and again.body == b"taken" and again.redelivered


async def test_what_was_prefetched_is_not_handed_out_afterwards(
    amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault
) -> None:
    """The broker has put it back: iterating it here would be to have it twice."""
    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        for number in range(10):
            await direct.publish(b"%d" % number, routing_key=queue)
        with anyio.fail_after(SOON):
            async with channel.consume(queue) as deliveries:
                await until(lambda: len(deliveries._buffer) == 10)
                fault(proxy.link)
                await tells_its_cause(connection)
                with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                    await deliveries.__anext__()
        assert await has_counts(direct, queue, 10)


async def declare(_: rabbitry.Connection, channel: rabbitry.Channel, queue: str) -> None:
    await channel.declare_queue(queue)


async def get(_: rabbitry.Connection, channel: rabbitry.Channel, queue: str) -> None:
    await channel.get(queue)


async def start_to_consume(_: rabbitry.Connection, channel: rabbitry.Channel, queue: str) -> None:
    async with channel.consume(queue):
        pass


async def open_another(connection: rabbitry.Connection, _: rabbitry.Channel, queue: str) -> None:
    async with connection.channel():
        pass


async def update_secret(connection: rabbitry.Connection, _: rabbitry.Channel, queue: str) -> None:
    await connection.update_secret("new")


async def commit(_: rabbitry.Connection, channel: rabbitry.Channel, queue: str) -> None:
    await channel.publish(b"perhaps", routing_key=queue)
    await channel.commit_tx()


OPERATIONS = [declare, get, start_to_consume, open_another, update_secret, commit]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_while_a_reply_is_awaited(
    amqp_url: str,
    proxy: Proxy,
    connect: Connect,
    fault: Fault,
    operation: Callable[[rabbitry.Connection, rabbitry.Channel, str], Awaitable[None]],
) -> None:
    async def run() -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
            await operation(connection, channel, queue)

    async with a_queue(amqp_url) as (_, queue), connect() as connection, connection.channel(confirm=False) as channel:
        if operation is commit:
            await channel.select_tx()
        proxy.link.to_client.stall()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                await passes(proxy.link.to_broker, lambda: tg.start_soon(run))
                fault(proxy.link)
            await tells_its_cause(connection)
        assert connection._endpoint.awaiting == 0


async def test_while_a_publish_waits_for_a_commit(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    """It was held back here, so it was certainly not sent."""

    async def fails(operation: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
            await operation(*arguments)

    async with connect() as connection, connection.channel(confirm=False) as channel:
        await channel.select_tx()
        proxy.link.to_client.stall()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                await passes(proxy.link.to_broker, lambda: tg.start_soon(fails, channel.commit_tx))
                tg.start_soon(fails, channel.publish, b"")
                await anyio.wait_all_tasks_blocked()
                fault(proxy.link)
            await tells_its_cause(connection)


async def test_while_a_call_awaits_its_reply(amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault) -> None:
    async def call(rpc: rabbitry.RPC) -> None:
        with pytest.raises(rabbitry.OutcomeUnknown, match="connection lost") as caught:
            await rpc.call(queue, 21)
        assert isinstance(caught.value.__cause__, rabbitry.ConnectionClosed)

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.rpc() as rpc:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                for _ in range(3):
                    tg.start_soon(call, rpc)
                assert await has_counts(direct, queue, 3)
                fault(proxy.link)
            with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                await rpc.call(queue, 21)
            await tells_its_cause(connection)


@pytest.mark.parametrize("requests", [0, 1, 2])
async def test_while_serving(amqp_url: str, proxy: Proxy, connect: Connect, fault: Fault, requests: int) -> None:
    """With no request at hand, with one, and with as many as are handled at once: no reply can be sent any more, so
    the handlers are cancelled."""
    handling, cancelled = 0, 0

    async def handler(payload: Any) -> None:
        nonlocal handling, cancelled
        handling += 1
        try:
            await anyio.sleep_forever()
        finally:
            cancelled += 1

    async def serve() -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
            await connection.serve(queue, handler, concurrency=2)
        served.set()

    served = anyio.Event()
    async with a_queue(amqp_url) as (direct, queue), connect() as connection:
        for number in range(requests):
            await direct.publish(rabbitry.Message.msgpack(number), routing_key=queue)
        async with anyio.create_task_group() as tg:
            tg.start_soon(serve)
            assert await has_counts(direct, queue, 0, 1)
            await until(lambda: handling == requests)
            fault(proxy.link)
            with anyio.fail_after(SOON):
                await served.wait()
        await tells_its_cause(connection)
        assert cancelled == requests
        assert await has_counts(direct, queue, requests), "the broker has the requests back"


async def test_while_connecting(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    async def enter() -> None:
        with pytest.raises(rabbitry.ConnectFailed, match="the handshake was cut off"):
            async with connect():
                pass

    proxy.on_link = lambda link: link.to_client.stall()
    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tg:
            tg.start_soon(enter)
            await until(lambda: proxy.links and proxy.link.to_broker.passed)
            fault(proxy.link)


async def test_during_the_close_handshake(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    """Nobody misses anything then: leaving is quiet, and it was this program that closed the connection."""
    opened, leave = anyio.Event(), anyio.Event()

    async def live() -> None:
        async with connect() as connection:
            tg.start_soon(connection.wait_closed)
            opened.set()
            await leave.wait()
        await connection.wait_closed()

    with anyio.fail_after(SOON):
        async with anyio.create_task_group() as tg:
            tg.start_soon(live)
            await opened.wait()
            proxy.link.to_client.stall()
            await passes(proxy.link.to_broker, leave.set)
            fault(proxy.link)


@pytest.mark.parametrize("what", ["channel", "consumer"])
async def test_while_a_block_is_left(proxy: Proxy, connect: Connect, fault: Fault, what: str) -> None:
    """Leaving a channel or a consumer awaits the broker's word, but needs none."""
    leave = anyio.Event()

    async def live() -> None:
        async with channel if what == "channel" else channel.consume(queue):
            opened.set()
            await leave.wait()

    async with connect() as connection, connection.channel() as working:
        queue = await exclusive_queue(working)
        channel, opened = (connection.channel(), anyio.Event()) if what == "channel" else (working, anyio.Event())
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                tg.start_soon(live)
                await opened.wait()
                proxy.link.to_client.stall()
                await passes(proxy.link.to_broker, leave.set)
                fault(proxy.link)
            await tells_its_cause(connection)


@pytest.mark.parametrize("shared", [False, True], ids=["own reactor", "shared reactor"])
async def test_the_loss_leaves_as_itself(proxy: Proxy, dial: Any, fault: Fault, shared: bool) -> None:
    """Not in a group, through the blocks of a consumer, a publisher, a channel, a connection and a reactor."""

    async def lose(connecting: AbstractAsyncContextManager[rabbitry.Connection]) -> None:
        async with connecting as connection, connection.channel() as channel:
            queue = await exclusive_queue(channel)
            async with channel.publisher() as publisher, channel.consume(queue) as deliveries:
                await publisher.submit(b"", routing_key=queue)
                await deliveries.__anext__()
                fault(proxy.link)
                async for _ in deliveries:
                    pass

    with anyio.fail_after(SOON), pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
        if shared:
            async with rabbitry.open_reactor() as reactor:
                await lose(reactor.connect(proxy.url, dial=dial))
        else:
            await lose(rabbitry.connect(proxy.url, dial=dial))


@pytest.mark.parametrize("error", [KeyError("mine"), ExceptionGroup("mine", [ValueError()])], ids=["error", "group"])
async def test_what_the_body_raises_is_not_masked(
    proxy: Proxy, connect: Connect, fault: Fault, error: Exception
) -> None:
    with anyio.fail_after(SOON), pytest.raises(type(error)) as caught:
        async with connect() as connection, connection.channel() as channel:
            async with channel.consume(await exclusive_queue(channel)):
                proxy.link.to_client.stall()
                channel.publish_nowait(b"", routing_key="nowhere")
                fault(proxy.link)
                raise error
    assert caught.value is error


async def test_the_other_connections_of_the_reactor_live_on(proxy: Proxy, dial: Any, fault: Fault) -> None:
    async with rabbitry.open_reactor() as reactor:
        async with reactor.connect(proxy.url, dial=dial) as first, reactor.connect(proxy.url, dial=dial) as second:
            async with second.channel() as channel:
                fault(proxy.links[0])
                await tells_its_cause(first)
                await check_channel(channel)
                assert second.is_open
            async with reactor.connect(proxy.url, dial=dial) as third, third.channel() as channel:
                await check_channel(channel)


# --- half closed ---------------------------------------------------------------------------------------------------


async def test_a_broker_that_sends_no_more_is_lost(proxy: Proxy, connect: Connect) -> None:
    """The connection can't be used, so this side's end follows."""
    async with connect() as connection, connection.channel() as channel:
        proxy.link.to_client.half_close()
        await tells_its_cause(connection)
        with anyio.fail_after(SOON):
            await proxy.link.to_broker.ended.wait()
        with pytest.raises(rabbitry.ConnectionClosed, match="the peer closed the connection"):
            await channel.publish(b"", routing_key="nowhere")


async def test_what_came_before_the_end_counts(amqp_url: str, proxy: Proxy, connect: Connect) -> None:
    async def publish() -> None:
        await channel.publish(b"confirmed", routing_key=queue)

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        flow = proxy.link.to_client
        flow.stall()
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tg:
                tg.start_soon(publish)
                assert await has_counts(direct, queue, 1)
                await passes(flow, flow.resume)
                flow.half_close()
        await tells_its_cause(connection)


async def test_a_broker_that_hears_no_more_hangs_up(proxy: Proxy, connect: Connect) -> None:
    async with connect() as connection, connection.channel():
        proxy.link.to_broker.half_close()
        await tells_its_cause(connection)


# --- heartbeats ----------------------------------------------------------------------------------------------------

HEARTBEAT = 8  # bytes of a frame


async def test_a_silent_broker_is_noticed_by_its_missing_heartbeats(amqp_url: str) -> None:
    """Silence in one direction or both, on either transport: within two to three intervals, here of a second."""

    async def lose(dial: Any, stall: Callable[[Link], None]) -> None:
        async with (
            open_proxy(amqp_url) as proxy,
            rabbitry.connect(proxy.url, heartbeat=1, dial=dial) as connection,
            connection.channel() as channel,
        ):
            started = anyio.current_time()
            stall(proxy.link)
            with pytest.raises(rabbitry.OutcomeUnknown, match="no heartbeat"):
                await channel.publish(b"", routing_key="nowhere")
            with pytest.raises(rabbitry.ConnectionClosed, match="no heartbeat: nothing came") as caught:
                await connection.wait_closed()
            assert caught.value.code == 320
            assert not connection.is_open
            took.append(anyio.current_time() - started)

    def stall_both(link: Link) -> None:
        link.to_client.stall()
        link.to_broker.stall()

    took: list[float] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            for dial in None, anyio.connect_tcp:
                for stall in stall_both, lambda link: link.to_client.stall():
                    tg.start_soon(lose, dial, stall)
    assert len(took) == 4
    assert min(took) > 1.4, "one interval of silence, and the half that was under way, are nothing yet"
    assert max(took) < 10, "they take 2 to 3 seconds, and those in which this machine was busy"


async def test_heartbeats_keep_an_idle_connection_alive(amqp_url: str) -> None:
    async def idle(dial: Any) -> None:
        async with open_proxy(amqp_url) as proxy, rabbitry.connect(proxy.url, heartbeat=2, dial=dial) as connection:
            flows = proxy.link.to_broker, proxy.link.to_client
            before = [flow.passed for flow in flows]
            # three intervals and the half after which RabbitMQ has noticed, of two seconds: a busy machine may take one
            await anyio.sleep(7)
            beats = [(flow.passed - passed) / HEARTBEAT for flow, passed in zip(flows, before, strict=True)]
            assert all(2 <= beat <= 8 and beat == math.floor(beat) for beat in beats), f"only heartbeats, not {beats}"
            async with connection.channel() as channel:
                await check_channel(channel)

    async with anyio.create_task_group() as tg:
        for dial in None, anyio.connect_tcp:
            tg.start_soon(idle, dial)


async def test_an_end_is_noticed_while_reading_is_paused(amqp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read that could tell of it, but soon no heartbeat can be sent. What had come can still be iterated."""
    monkeypatch.setattr(consumer, "SOFT_MARK", 100_000)

    async def lose(dial: Any, fault: Fault) -> None:
        async with (
            open_proxy(amqp_url) as proxy,
            a_queue(amqp_url) as (direct, queue),
            rabbitry.connect(proxy.url, heartbeat=1, dial=dial) as connection,
            connection.channel() as channel,
        ):
            for _ in range(30):
                await direct.publish(bytes(10_000), routing_key=queue)
            async with channel.consume(queue, no_ack=True) as deliveries:
                await until(lambda: connection._endpoint.transport.is_reading_paused)
                fault(proxy.link)
                with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                    await connection.wait_closed()
                taken = 0
                with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                    async for delivery in deliveries:
                        assert len(delivery.body) == 10_000
                        taken += 1
                assert 10 <= taken <= 30
                done.append(taken)

    done: list[int] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tg:
            for dial in None, anyio.connect_tcp:
                for fault in Link.cut, Link.reset:
                    tg.start_soon(lose, dial, fault)
    assert len(done) == 4


# --- a broker that does not read -----------------------------------------------------------------------------------

SIZE = 10_000


def body(number: int) -> bytes:
    return number.to_bytes(4, "big").ljust(SIZE, b".")


async def fill(channel: rabbitry.Channel, queue: str) -> list[rabbitry.Confirmation | None]:
    """Publish numbered messages until none fits any more, in this process or in the kernel."""
    published: list[rabbitry.Confirmation | None] = []
    patience = 5
    while patience:
        try:
            published.append(channel.publish_nowait(body(len(published)), routing_key=queue))
            patience = 5
        except anyio.WouldBlock:  # until the kernel, or the task that writes a stream, takes more
            patience -= 1
            await anyio.sleep(0.01)
    return published


@pytest.mark.parametrize("confirm", [False, True], ids=["plain", "confirm"])
async def test_publishing_waits_for_a_broker_that_does_not_read(
    amqp_url: str, proxy: Proxy, connect: Connect, confirm: bool
) -> None:
    """Memory is bounded, waiting can be cancelled, and in the end everything sent has arrived once, in order."""

    async def publish() -> None:
        await channel.publish(body(len(published)), routing_key=queue)
        done.append("publish")

    async def redeclare() -> None:
        await channel.declare_queue(queue)
        done.append("declare")

    done: list[str] = []
    async with (
        a_queue(amqp_url) as (direct, queue),
        connect() as connection,
        connection.channel(confirm=confirm) as channel,
    ):
        proxy.link.to_broker.stall()
        tracemalloc.start()
        try:
            published = await fill(channel, queue)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 50 < len(published) < 2_000, "20 MB: far more than the kernel's buffers and ours"
        assert connection._endpoint.protocol.out_size < _endpoint.HIGH_WATER + 2 * SIZE
        # What waits for its confirm holds its message: that goes on as long as the kernel takes more.
        assert held < 2_000_000 + (len(published) * SIZE if confirm else 0)

        with anyio.move_on_after(0.05) as scope:
            await channel.publish(b"cancelled", routing_key=queue)
        assert scope.cancelled_caught
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(publish)
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(redeclare)
                await anyio.wait_all_tasks_blocked()
                assert not done
                proxy.link.to_broker.resume()
            assert sorted(done) == ["declare", "publish"]
            for confirmation in published:
                if confirmation is not None:
                    await confirmation.wait()
            assert await has_counts(direct, queue, len(published) + 1)
            async with direct.consume(queue, prefetch=0, no_ack=True) as deliveries:
                for number in range(len(published) + 1):
                    assert (await deliveries.__anext__()).body == body(number)
        assert connection.is_open
        await channel.publish(b"", routing_key="nowhere")


async def test_a_publisher_waits_for_a_broker_that_does_not_read(amqp_url: str, proxy: Proxy, connect: Connect) -> None:
    """The window is not full, the connection is."""
    submitted = 0

    async def submit() -> None:
        nonlocal submitted
        async with channel.publisher(window=100_000) as publisher:
            for number in range(1_000):
                await publisher.submit(body(number), routing_key=queue)
                submitted += 1
        assert (publisher.confirmed, publisher.failed) == (1_000, 0)

    async with a_queue(amqp_url) as (direct, queue), connect() as connection, connection.channel() as channel:
        proxy.link.to_broker.stall()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(submit)
                await until(lambda: connection._endpoint.protocol.out_size >= _endpoint.HIGH_WATER)
                await anyio.wait_all_tasks_blocked()
                assert 20 < submitted < 1_000
                proxy.link.to_broker.resume()
            async with direct.consume(queue, prefetch=0, no_ack=True) as deliveries:
                for number in range(1_000):
                    assert (await deliveries.__anext__()).body == body(number)


async def test_deliveries_go_on_from_a_broker_that_does_not_read(amqp_url: str, proxy: Proxy, connect: Connect) -> None:
    async with a_queue(amqp_url) as (direct, queue), connect() as connection:
        async with connection.channel(prefetch=5) as channel, channel.consume(queue) as deliveries:
            proxy.link.to_broker.stall()
            await fill(channel, "nowhere")
            with anyio.fail_after(30):
                for number in range(10):
                    await direct.publish(b"%d" % number, routing_key=queue)
                for number in range(5):
                    delivery = await deliveries.__anext__()
                    assert delivery.body == b"%d" % number
                    delivery.ack()
                with anyio.move_on_after(0.05) as scope:
                    await deliveries.__anext__()
                assert scope.cancelled_caught, "the acknowledgements have not arrived, so there are no more"
                proxy.link.to_broker.resume()
                for number in range(5, 10):
                    delivery = await deliveries.__anext__()
                    assert delivery.body == b"%d" % number
                    delivery.ack()


async def test_who_waits_for_room_learns_of_the_end(proxy: Proxy, connect: Connect, fault: Fault) -> None:
    """Nothing of theirs was queued, so the error says: certainly not sent."""
    ended: list[str] = []

    async def waits(what: str, operation: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
            await operation(*arguments, **options)
        ended.append(what)

    async with connect() as connection, connection.channel() as confirms, connection.channel(confirm=False) as plain:
        async with connection.rpc() as rpc, confirms.publisher() as publisher:
            proxy.link.to_broker.stall()
            await fill(plain, "nowhere")
            with anyio.fail_after(SOON):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(waits, "plain", plain.publish, b"")
                    tg.start_soon(waits, "confirms", confirms.publish, b"")
                    tg.start_soon(waits, "submit", publisher.submit, b"")
                    tg.start_soon(waits, "publish", publisher.publish, b"")
                    tg.start_soon(waits, "call", rpc.call, "nowhere")
                    await anyio.wait_all_tasks_blocked()
                    assert not ended
                    fault(proxy.link)
            assert publisher.sent == 0
    assert sorted(ended) == ["call", "confirms", "plain", "publish", "submit"]
