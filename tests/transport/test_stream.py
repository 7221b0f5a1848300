"""The transport over byte streams: same contract, on a stream whose every move the test decides, and on a real one."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from rabbitry._transport import StreamTransport, Transport
from rabbitry._transport import stream as stream_module
from tests.transport.fakes import Listener, Peer, Recorder, turns, until


class FakeStream(ByteStream):
    """`feed` gives data or an exception to `receive`; `send` takes while `room` is set, or raises `send_error`."""

    def __init__(self) -> None:
        self.incoming: list[bytes | BaseException] = []
        self.sent: list[bytes] = []
        self.room = anyio.Event()
        self.room.set()
        self.send_error: Exception | None = None
        self.close_error: Exception | None = None
        self.is_closed = False
        self._arrived = anyio.Event()

    def feed(self, item: bytes | BaseException) -> None:
        self.incoming.append(item)
        self._arrived.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while not self.incoming:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        item = self.incoming.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        if self.send_error is not None:
            raise self.send_error
        await self.room.wait()
        self.sent.append(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.is_closed = True
        if self.close_error is not None:
            raise self.close_error


@asynccontextmanager
async def running(stream: Any = None) -> AsyncIterator[tuple[Recorder, Any]]:
    stream = stream or FakeStream()
    endpoint = Recorder()
    endpoint.transport = StreamTransport(stream, endpoint)
    async with anyio.create_task_group() as tg:
        await tg.start(endpoint.transport.run)
        try:
            yield endpoint, stream
        finally:
            endpoint.transport.abort()


async def test_on_a_real_stream() -> None:
    with Listener() as listener:
        stream = await anyio.connect_tcp("127.0.0.1", listener.port)
        peer: Peer = await listener.accept()
        async with running(stream) as (endpoint, _):
            assert endpoint.transport.describe() == f"127.0.0.1:{listener.port}"
            endpoint.write(b"hello")
            assert await peer.read(5) == b"hello"
            peer.send(b"world")
            await until(lambda: endpoint.received == b"world")
            endpoint.queue.append(b"goodbye")
            endpoint.transport.flush()
        assert await peer.read(8) == b"goodbye"
        assert not endpoint.lost


@pytest.mark.parametrize("how", ["close", "reset", "reset with last words"])
async def test_the_end_of_a_real_stream(how: str) -> None:
    with Listener() as listener:
        stream = await anyio.connect_tcp("127.0.0.1", listener.port)
        peer = await listener.accept()
        async with running(stream) as (endpoint, _):
            if how == "close":
                peer.close()
            elif how == "reset":
                peer.reset()
            else:
                peer.send(b"because")
                await until(lambda: endpoint.chunks)
                peer.reset()
                endpoint.write(b"x")
            await until(lambda: endpoint.lost)
            await turns()
        assert len(endpoint.lost) == 1
        if how == "close":
            assert endpoint.lost == [None]
        elif how == "reset":
            assert isinstance(endpoint.lost[0], ConnectionResetError)
        else:  # the kernel reports a reset once: if the sender is about to hear of it, the reader sees a plain end
            assert isinstance(endpoint.lost[0], ConnectionResetError | BrokenPipeError | None)


def satisfies(transport: Transport) -> Transport:
    return transport


async def test_writes_of_a_turn_leave_together() -> None:
    async with running() as (endpoint, stream):
        assert satisfies(endpoint.transport) is endpoint.transport
        await turns()
        for number in range(3):
            endpoint.write(b"%d" % number)
            assert endpoint.transport.scheduled
        endpoint.queue.append(b"ack")
        endpoint.transport.send_later()
        await until(lambda: stream.sent)
        await until(lambda: not endpoint.transport.scheduled)
        assert stream.sent == [b"012ack"]
        endpoint.write(b"again")
        await until(lambda: stream.sent == [b"012ack", b"again"])


async def test_back_pressure() -> None:
    async with running() as (endpoint, stream):
        await endpoint.transport.wait_unstalled()
        stream.room = anyio.Event()
        endpoint.write(b"one")
        await turns()
        assert endpoint.transport.is_stalled and not endpoint.queue
        endpoint.write(b"two")
        endpoint.transport.flush()
        await turns()
        assert endpoint.queue == [b"two"]
        with anyio.move_on_after(0.01) as scope:
            await endpoint.transport.wait_unstalled()
        assert scope.cancelled_caught
        done: list[int] = []

        async def wait(number: int) -> None:
            await endpoint.transport.wait_unstalled()
            done.append(number)

        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(wait, number)
            await turns()
            assert not done
            stream.room.set()
        await until(lambda: not endpoint.transport.is_stalled and not endpoint.queue)
        assert stream.sent == [b"one", b"two"]


async def test_flush_hands_over_at_once() -> None:
    async with running() as (endpoint, stream):
        await turns()
        endpoint.queue.append(b"one")
        endpoint.transport.flush()
        assert not endpoint.queue and endpoint.transport.is_stalled
        endpoint.queue.append(b"two")
        endpoint.transport.flush()
        assert endpoint.queue
        await until(lambda: stream.sent == [b"one", b"two"])


async def test_pausing() -> None:
    async with running() as (endpoint, stream):
        endpoint.transport.pause_reading()
        endpoint.transport.pause_reading()
        stream.feed(b"one")
        stream.feed(b"two")
        await turns(20)
        assert not endpoint.chunks and endpoint.transport.is_reading_paused
        endpoint.transport.resume_reading()
        endpoint.transport.resume_reading()
        await until(lambda: endpoint.chunks == [b"one", b"two"])
        endpoint.on_data = lambda _: endpoint.transport.pause_reading()
        stream.feed(b"three")
        stream.feed(b"four")
        await turns(20)
        assert endpoint.chunks == [b"one", b"two", b"three"]
        endpoint.transport.resume_reading()
        await until(lambda: endpoint.chunks[3:] == [b"four"])


async def test_deadlines() -> None:
    async with running() as (endpoint, _):
        start = monotonic()
        endpoint.transport.start_timer(start + 60)
        endpoint.transport.start_timer(start + 0.01)
        endpoint.transport.start_timer(start + 30)
        endpoint.following = [start + 0.02, 0.0]
        await until(lambda: len(endpoint.fired) == 3)
        assert endpoint.fired[0] >= start + 0.01 and endpoint.fired[1] >= start + 0.02
        await anyio.sleep(0.01)
        assert len(endpoint.fired) == 3


async def test_a_deadline_before_running() -> None:
    endpoint, stream = Recorder(), FakeStream()
    endpoint.transport = StreamTransport(stream, endpoint)
    endpoint.transport.start_timer(0.0)
    endpoint.write(b"early")
    async with anyio.create_task_group() as tg:
        await tg.start(endpoint.transport.run)
        await until(lambda: endpoint.fired and stream.sent == [b"early"])
        endpoint.transport.abort()


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


CAUSE = TimeoutError(errno.ETIMEDOUT, "timed out")
OTHER = ValueError("a stream of somebody else's")


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (anyio.EndOfStream(), None),
        (anyio.BrokenResourceError(), ConnectionResetError),
        (anyio.ClosedResourceError(), ConnectionAbortedError),
        (caused(anyio.BrokenResourceError(), CAUSE), CAUSE),
        (CAUSE, CAUSE),
        (OTHER, OTHER),
    ],
)
async def test_what_a_stream_raises_is_translated(raised: Exception, told: Any) -> None:
    for where in ("receive", "send"):
        async with running() as (endpoint, stream):
            if where == "receive":
                stream.feed(b"data")
                stream.feed(raised)
            else:
                stream.send_error = raised
                endpoint.write(b"x")
                await turns(10)
                assert not endpoint.lost, "the peer's last words may still come"
                stream.feed(b"data")
                stream.feed(anyio.EndOfStream())
            await until(lambda: endpoint.lost)
        assert endpoint.received == b"data" and stream.is_closed
        if told is None and where == "send":
            assert isinstance(endpoint.lost[0], ConnectionResetError)
        elif isinstance(told, type):
            assert type(endpoint.lost[0]) is told and endpoint.lost[0].__cause__ is raised
        else:
            assert endpoint.lost == [told]


async def test_last_words_are_waited_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "DRAIN_SECONDS", 0.01)
    async with running() as (endpoint, stream):
        stream.send_error = error = OSError(errno.EPIPE, "broken")
        endpoint.write(b"x")
        await until(lambda: endpoint.lost)
        assert endpoint.lost == [error]
        await endpoint.transport.wait_unstalled()


async def test_waiting_for_room_ends_with_the_connection() -> None:
    async with running() as (endpoint, stream):
        stream.room = anyio.Event()
        endpoint.write(b"x")
        await until(lambda: endpoint.transport.is_stalled)
        async with anyio.create_task_group() as tg:
            tg.start_soon(endpoint.transport.wait_unstalled)
            await turns()
            stream.feed(anyio.EndOfStream())
        assert endpoint.lost == [None] and not endpoint.transport.is_stalled and endpoint.transport.scheduled


@pytest.mark.parametrize("method", ["receive_data", "data_to_send", "handle_timer"])
async def test_a_bug_in_the_endpoint_ends_the_connection(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "DRAIN_SECONDS", 0.01)
    async with running() as (endpoint, stream):
        endpoint.errors[method] = error = ValueError("a bug")
        if method == "receive_data":
            stream.feed(b"x")
        elif method == "data_to_send":
            endpoint.write(b"x")
        else:
            endpoint.transport.start_timer(0.0)
        await until(lambda: endpoint.lost)
    assert endpoint.lost == [error] and stream.is_closed


async def test_bugs_at_the_end_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rabbitry")
    async with running() as (endpoint, stream):
        endpoint.errors["connection_lost"] = ValueError("a bug")
        stream.close_error = anyio.BrokenResourceError()
        stream.feed(anyio.EndOfStream())
        await until(lambda: stream.is_closed)
    records = [record.levelno for record in caplog.records if record.name == "rabbitry"]
    assert records == [logging.ERROR, logging.DEBUG]


async def test_abort_calls_nothing_and_closes_the_stream() -> None:
    async with running() as (endpoint, stream):
        endpoint.transport.start_timer(monotonic() + 0.01)
        endpoint.transport.abort()
        endpoint.transport.abort()
        endpoint.transport.send_now()
        endpoint.transport.flush()
        stream.feed(b"late")
        await until(lambda: stream.is_closed)
        await anyio.sleep(0.02)
        assert not endpoint.lost and not endpoint.chunks and not endpoint.fired and endpoint.transport.scheduled


async def test_abort_before_running() -> None:
    endpoint, stream = Recorder(), FakeStream()
    transport = StreamTransport(stream, endpoint)
    transport.abort()
    async with anyio.create_task_group() as tg:
        await tg.start(transport.run)
    assert stream.is_closed and not endpoint.lost


async def test_what_was_flushed_before_abort_leaves() -> None:
    async with running() as (endpoint, stream):
        await turns()
        endpoint.queue.append(b"goodbye")
        endpoint.transport.flush()
        endpoint.queue.append(b"not flushed")
        endpoint.transport.abort()
        await until(lambda: stream.is_closed)
        assert stream.sent == [b"goodbye"]


async def test_a_stuck_peer_does_not_hold_up_abort_for_long() -> None:
    async with running() as (endpoint, stream):
        stream.room = anyio.Event()
        endpoint.write(b"x")
        await until(lambda: endpoint.transport.is_stalled)
        start = monotonic()
        endpoint.transport.abort()
        await until(lambda: stream.is_closed)
        assert monotonic() - start < 20


async def test_a_cancelled_owner_can_still_say_goodbye() -> None:
    endpoint, stream = Recorder(), FakeStream()
    endpoint.transport = StreamTransport(stream, endpoint)
    async with anyio.create_task_group() as tg:
        await tg.start(endpoint.transport.run)
        tg.cancel_scope.cancel()
        with anyio.move_on_after(5, shield=True):
            endpoint.write(b"close")
            await until(lambda: stream.sent)
            stream.feed(b"close-ok")
            await until(lambda: endpoint.chunks)
        endpoint.transport.abort()
    assert stream.is_closed and not endpoint.lost


async def test_a_task_killed_from_outside_tells_its_endpoint(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio can do that")
    import asyncio

    endpoint, stream = Recorder(), FakeStream()
    endpoint.transport = StreamTransport(stream, endpoint)
    task = asyncio.ensure_future(endpoint.transport.run())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(endpoint.lost[0], ConnectionAbortedError) and stream.is_closed


def test_names_of_peers() -> None:
    class Addressed(FakeStream):
        address: Any = None

        def __init__(self, address: Any) -> None:
            self.address = address

        @property
        def extra_attributes(self) -> Any:
            def get() -> Any:
                if isinstance(self.address, OSError):
                    raise self.address
                return self.address

            return {anyio.abc.SocketAttribute.remote_address: get}

    def name(address: Any) -> str:
        return StreamTransport(Addressed(address), Recorder()).describe()

    assert name(("10.0.0.1", 5672)) == "10.0.0.1:5672"
    assert name(("::1", 5672)) == "[::1]:5672"
    assert name("/run/rabbit") == "/run/rabbit"
    assert name(OSError(errno.ENOTCONN, "gone")) == "Addressed"
