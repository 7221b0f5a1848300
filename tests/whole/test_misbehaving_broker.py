"""What a broker that misbehaves, falls silent or answers late does to a client: an error in time, nobody forgotten."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

import rabbitry
from rabbitry import _endpoint
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from tests.support.helpers import stopwatch, until
from tests.support.peer import scripted
from tests.support.protocol_broker import content_frames, deliver, method_frame

NO_ROUTE = methods.BasicReturn(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="q")


def plainly(method: Method, number: int) -> bytes | None:
    return None


def never(*names: str) -> Any:
    """Leaves these methods unanswered."""
    return lambda method, number: b"" if method.name in names else None


async def test_replies_that_the_broker_stops_sending() -> None:
    """It cancels the reply consumer: the calls in flight end, and so do later ones."""

    def answer(method: Method, number: int) -> bytes | None:
        if isinstance(method, methods.BasicPublish):
            return method_frame(number, methods.BasicCancel(consumer_tag="rabbitry-replies", nowait=True))
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.connect(peer.url) as connection, connection.rpc() as rpc:
            with pytest.raises(rabbitry.OutcomeUnknown, match="cancelled the consumer"):
                await rpc.call("q", 1)
            with pytest.raises(rabbitry.ConsumerCancelled):
                await rpc.call("q", 1)
            assert connection.is_open


async def test_a_return_whose_properties_are_malformed() -> None:
    """It can't be matched to its call; what came with it in the same chunk reaches its owner all the same."""

    def answer(method: Method, number: int) -> bytes | None:
        if isinstance(method, methods.BasicPublish):
            declared = methods.QueueDeclareOk(queue="x", message_count=0, consumer_count=0)
            return b"".join(content_frames(number, NO_ROUTE, b"", b"\xff\xff")) + method_frame(2, declared)
        return b"" if isinstance(method, methods.QueueDeclare) else None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with (
            rabbitry.connect(peer.url) as connection,
            connection.rpc() as rpc,
            connection.channel() as channel,
            anyio.create_task_group() as tg,
        ):
            async with anyio.create_task_group() as declaring:
                declaring.start_soon(channel.declare_queue, "x")
                await until(lambda: "queue.declare" in peer.received)
                tg.start_soon(rpc.call, "q", 1)
            tg.cancel_scope.cancel()


async def test_a_defect_in_one_handler_reaches_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails while events are handed out: the others of the same chunk are told, and the connection ends."""

    def fail(self: Any, acked: bool) -> None:
        raise RuntimeError("a defect")

    def answer(method: Method, number: int) -> bytes | None:
        match method:
            case methods.BasicPublish():
                declared = methods.QueueDeclareOk(queue="x", message_count=0, consumer_count=0)
                return method_frame(number, methods.BasicAck(delivery_tag=1)) + method_frame(number, declared)
            case methods.QueueDeclare():
                return b""
            case _:
                return None

    monkeypatch.setattr(rabbitry.Confirmation, "settle", fail)
    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.connect(peer.url) as connection, connection.channel() as channel:
            async with anyio.create_task_group() as tg:
                tg.start_soon(channel.declare_queue, "x")
                await until(lambda: "queue.declare" in peer.received)
                channel.publish_nowait(b"", routing_key="q")
            with pytest.raises(rabbitry.ConnectionClosed, match="internal error"):
                await connection.wait_closed()


async def test_a_publish_that_waits_for_room_learns_of_its_channels_end() -> None:
    def answer(method: Method, number: int) -> bytes | None:
        if peer.received.count("basic.publish") == 1:
            peer.reading.clear()
        return None

    with scripted(answer) as peer, anyio.fail_after(30):
        async with rabbitry.connect(peer.url) as connection, connection.channel() as channel:

            async def close_when_stuck() -> None:
                await until(lambda: connection._endpoint.transport.is_stalled)
                peer.send(method_frame(1, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND")))

            async with anyio.create_task_group() as tg:
                tg.start_soon(close_when_stuck)
                with pytest.raises(rabbitry.NotFound):
                    async with channel.publisher(window=100_000) as publisher:
                        while True:
                            await publisher.submit(bytes(60_000), routing_key="q")
            peer.reading.set()  # so that it sees our close


async def test_recovered_deliveries_are_not_handed_out_after_a_cancelled_recover() -> None:
    """What the broker sent before it saw the recover is stale when it arrives, whoever still waits for recover-ok."""

    def answer(method: Method, number: int) -> bytes | None:
        if isinstance(method, methods.BasicConsume):
            nonlocal tag
            tag = method.consumer_tag
        return b"" if isinstance(method, methods.BasicRecover) else None

    tag = ""
    with scripted(answer) as peer, anyio.fail_after(20):
        async with (
            rabbitry.connect(peer.url) as connection,
            connection.channel() as channel,
            channel.consume("q") as deliveries,
        ):
            async with anyio.create_task_group() as tg:
                tg.start_soon(channel.recover)
                await until(lambda: "basic.recover" in peer.received)
                tg.cancel_scope.cancel()
            peer.send(deliver(1, 1, consumer_tag=tag) + method_frame(1, methods.BasicRecoverOk()))
            peer.send(deliver(1, 2, consumer_tag=tag, redelivered=True))
            delivery = await anext(deliveries)
            assert (delivery.delivery_tag, delivery.is_stale) == (2, False)
            delivery.ack()


# --- the end -------------------------------------------------------------------------------------------------------


async def test_leaving_a_silent_connection_takes_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND", 0.6)
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND_SILENT", 0.05)
    with scripted(never("basic.cancel", "channel.close", "connection.close")) as peer:
        async with stopwatch() as elapsed:
            async with rabbitry.connect(peer.url) as connection, connection.channel() as channel, channel.consume("q"):
                began, began_here = time.monotonic(), elapsed()
            assert time.monotonic() - began >= 0.6
            assert elapsed() - began_here < 1.1


async def test_leaving_a_reactor_of_silent_connections_takes_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_endpoint, "CLOSE_BOUND", 0.6)
    with scripted(never("connection.close")) as peer:
        async with stopwatch() as elapsed:
            async with rabbitry.open_reactor() as reactor:
                for _ in range(5):
                    await reactor.connect(peer.url).__aenter__()
                began, began_here = time.monotonic(), elapsed()
            assert time.monotonic() - began >= 0.6
            assert elapsed() - began_here < 1.1


@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")  # trio has no cancellation but by scopes
@pytest.mark.parametrize("dial", [None, anyio.connect_tcp], ids=["socket", "stream"])
async def test_native_cancellation_amid_the_close_drops_the_connection(dial: Any) -> None:
    with scripted(never("connection.close")) as peer:
        entered = anyio.Event()

        async def hold() -> None:
            async with rabbitry.connect(peer.url, dial=dial) as connection:
                held.append(connection)
                entered.set()

        held: list[rabbitry.Connection] = []
        task = asyncio.ensure_future(hold())
        await entered.wait()
        await until(lambda: "connection.close" in peer.received)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=20)
        assert done
        assert held[0]._endpoint.protocol.error is not None


# --- connecting ----------------------------------------------------------------------------------------------------


async def test_the_error_of_a_connect_time_out_has_an_end() -> None:
    with scripted(never("connection.start-ok")) as peer:
        with pytest.raises(rabbitry.ConnectFailed, match=r"within 0\.1 s") as raised:
            async with rabbitry.connect(peer.url, connect_timeout=0.1):
                pass
    cause = raised.value.__cause__
    seen: list[BaseException] = [raised.value]
    while cause is not None:
        assert cause not in seen
        seen.append(cause)
        cause = cause.__cause__


async def test_entering_again_after_a_failure() -> None:
    def refuse(method: Method, number: int) -> bytes | None:
        if isinstance(method, methods.ConnectionStartOk):
            return method_frame(0, methods.ConnectionClose(reply_code=530, reply_text="NOT_ALLOWED"))
        return None

    answer: Any = refuse
    with scripted(lambda method, number: answer(method, number)) as peer, anyio.fail_after(20):
        connection = rabbitry.connect(peer.url)
        with pytest.raises(rabbitry.ConnectFailed):
            await connection.__aenter__()
        answer = plainly
        async with connection:
            with pytest.raises(rabbitry.LocalProtocolError, match="entered before"):
                await connection.__aenter__()


@pytest.mark.parametrize(
    "failure",
    [
        anyio.EndOfStream(),
        anyio.BrokenResourceError(),
        EOFError(),
        FileNotFoundError(2, "No such file", "ca.pem"),
        TimeoutError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_dial_raises_is_its_own(failure: Exception) -> None:
    async def dial(host: str, port: int) -> ByteStream:
        raise failure

    with pytest.raises(rabbitry.ConnectFailed, match=r"dial failed: .+") as raised:
        async with rabbitry.connect("amqp://localhost", dial=dial):
            pass
    assert raised.value.__cause__ is failure
    assert "socket" not in str(raised.value)


async def test_dial_that_gives_no_stream() -> None:
    async def dial(host: str, port: int) -> Any:
        return None

    with pytest.raises(TypeError, match="ByteStream, not None"):
        async with rabbitry.connect("amqp://localhost", dial=dial):
            pass


async def test_amqps_over_a_stream_without_tls() -> None:
    with scripted(plainly) as peer, pytest.raises(ValueError, match="needs a TLS stream"):
        async with rabbitry.connect(peer.url.replace("amqp:", "amqps:"), dial=anyio.connect_tcp):
            pass
    assert peer.received == []


async def test_a_reactor_left_while_dialling() -> None:
    """The stream that comes too late is closed."""
    streams: list[ByteStream] = []
    left = anyio.Event()

    async def dial(host: str, port: int) -> ByteStream:
        await left.wait()
        streams.append(await anyio.connect_tcp(host, port))
        return streams[0]

    async def connect() -> None:
        with pytest.raises((rabbitry.NotConnected, rabbitry.ConnectFailed)):
            await reactor.connect(peer.url, dial=dial).__aenter__()

    with scripted(plainly) as peer, anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            async with rabbitry.open_reactor() as reactor:
                tg.start_soon(connect)
                await anyio.wait_all_tasks_blocked()
            left.set()
        with pytest.raises(anyio.ClosedResourceError):
            await streams[0].send(b"x")
