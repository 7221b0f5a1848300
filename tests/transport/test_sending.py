"""When bytes leave: at once, when the turn ends, when the kernel has room again; and when they can't leave any more."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from rabbitry._transport import poller as poller_module
from tests.transport.fakes import Listener, Peer, Recorder, Spy, connected, running_poller, turns, until

BIG = 8 << 20  # more than any socket buffers take


async def idle(endpoint: Recorder) -> None:
    await until(lambda: not endpoint.transport.scheduled)


async def test_the_first_write_leaves_at_once_and_the_others_when_the_turn_ends() -> None:
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        endpoint.write(b"first")
        assert spy.sent == [b"first"]
        endpoint.write(b"second")
        assert endpoint.transport.scheduled
        endpoint.write(b"third")
        assert spy.sent == [b"first"]
        assert await peer.read(16) == b"firstsecondthird"
        assert spy.sent == [b"first", b"secondthird"]
        await idle(endpoint)
        endpoint.write(b"again")
        assert spy.sent[2:] == [b"again"]


async def test_what_is_written_once_the_last_was_answered_leaves_at_once() -> None:
    """And costs nothing at the end of a turn."""
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        for number in range(1, 11):
            endpoint.write(b"ask")
            assert len(spy.sent) == number
            assert not endpoint.transport.scheduled
            await peer.read(3)
            peer.sock.send(b"answer")
            await until(lambda number=number: len(b"".join(endpoint.chunks)) == 6 * number)


async def test_what_was_not_answered_waits_for_the_end_of_the_turn_and_is_not_stuck() -> None:
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        endpoint.write(b"ask")
        await turns()
        endpoint.write(b"more")
        assert spy.sent == [b"ask"] and endpoint.transport.scheduled
        assert await peer.read(7) == b"askmore"


async def test_writes_of_all_tasks_of_a_turn_leave_together() -> None:
    async with connected() as (_, endpoint, _):
        spy = Spy(endpoint.transport)
        start = anyio.Event()

        async def write(number: int) -> None:
            await start.wait()
            endpoint.write(b"%03d" % number)

        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(write, number)
            await turns()
            start.set()
        await idle(endpoint)
        assert len(b"".join(spy.sent)) == 300
        assert len(spy.sent) == 2 and len(spy.sent[0]) == 3


async def test_a_busy_connection_sends_once_a_turn() -> None:
    async with connected() as (_, endpoint, _):
        spy = Spy(endpoint.transport)
        for _ in range(50):
            for _ in range(10):
                endpoint.write(b"x")
            await turns(1)
        await idle(endpoint)
        assert sum(map(len, spy.sent)) == 500
        assert len(spy.sent) <= 52


async def test_what_can_wait_leaves_when_the_turn_ends() -> None:
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        endpoint.queue.append(b"ack")
        endpoint.transport.send_later()
        assert endpoint.transport.scheduled and not spy.sent
        endpoint.write(b"ack")
        assert not spy.sent
        assert await peer.read(6) == b"ackack"
        assert len(spy.sent) == 1


async def test_flush_sends_now() -> None:
    async with connected() as (_, endpoint, _):
        spy = Spy(endpoint.transport)
        endpoint.transport.flush()
        assert not spy.sent
        endpoint.queue.append(b"one")
        endpoint.transport.flush()
        endpoint.queue.append(b"two")
        endpoint.transport.flush()
        assert spy.sent == [b"one", b"two"]
        endpoint.write(b"three")  # a flush alone arranges nothing
        assert spy.sent[2:] == [b"three"]


async def stall(endpoint: Recorder) -> bytes:
    data = bytes(range(256)) * (BIG // 256)
    endpoint.write(data)
    assert endpoint.transport.is_stalled and endpoint.transport.scheduled
    return data


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_partial_send_goes_on_when_there_is_room(kind: str, tmp_path: Path) -> None:
    with Listener(None if kind == "tcp" else str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            endpoint, peer = await listener.connect(poller)
            data = await stall(endpoint)
            endpoint.queue.append(b"later")
            endpoint.transport.flush()
            await turns()
            assert endpoint.queue == [b"later"], "the endpoint's queue is the measure of back-pressure"
            assert await peer.read(BIG) == data
            assert await peer.read(5) == b"later"
            await idle(endpoint)
            assert not endpoint.transport.is_stalled
            endpoint.write(b"at once")
            assert await peer.read(7) == b"at once"


async def test_no_room_at_all() -> None:
    async with connected() as (_, endpoint, peer):
        sock: socket.socket = endpoint.transport._socket
        filled = 0
        with pytest.raises(BlockingIOError):
            while True:
                filled += sock.send(bytes(65536))
        endpoint.write(b"after")
        assert endpoint.transport.is_stalled
        assert await peer.read(filled) == bytes(filled)
        assert await peer.read(5) == b"after"


async def test_many_wait_for_room_and_any_may_be_cancelled() -> None:
    async with connected() as (_, endpoint, peer):
        await endpoint.transport.wait_unstalled()
        await stall(endpoint)
        done: list[int] = []

        async def wait(number: int) -> None:
            await endpoint.transport.wait_unstalled()
            done.append(number)

        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(wait, number)
            with anyio.move_on_after(0.01) as scope:
                await endpoint.transport.wait_unstalled()
            assert scope.cancelled_caught and not done
            await peer.read(BIG)
        assert sorted(done) == [0, 1, 2]


async def test_waiting_for_room_ends_with_the_connection() -> None:
    async with connected() as (_, endpoint, peer):
        await stall(endpoint)
        async with anyio.create_task_group() as tg:
            tg.start_soon(endpoint.transport.wait_unstalled)
            await turns()
            peer.reset()
        assert isinstance(endpoint.lost[0], ConnectionError)
        assert not endpoint.transport.is_stalled and endpoint.transport.scheduled


async def test_waiting_for_room_ends_with_abort() -> None:
    async with connected() as (_, endpoint, _):
        await stall(endpoint)
        async with anyio.create_task_group() as tg:
            tg.start_soon(endpoint.transport.wait_unstalled)
            await turns()
            endpoint.transport.abort()
        assert not endpoint.transport.is_stalled and endpoint.transport.scheduled and not endpoint.lost


async def test_back_pressure_of_many_tasks_keeps_the_order() -> None:
    async with connected() as (_, endpoint, peer):
        size = 4 << 20

        async def publish() -> None:
            for number in range(size // 4):
                endpoint.write(number.to_bytes(4, "big"))
                if len(endpoint.queue) > 10_000:
                    endpoint.transport.flush()
                    while len(endpoint.queue) > 10_000:
                        await endpoint.transport.wait_unstalled()

        async with anyio.create_task_group() as tg:
            tg.start_soon(publish)
            data = await peer.read(size)
        assert data == b"".join(number.to_bytes(4, "big") for number in range(size // 4))


async def settle_after_reset(endpoint: Recorder, peer: Peer, *last_words: bytes) -> None:
    """Let the peer go before the poller can notice, then write."""
    for word in last_words:
        peer.send(word)
    peer.reset()
    endpoint.queue.append(b"x")
    endpoint.transport.flush()  # ECONNRESET
    assert endpoint.transport.scheduled and not endpoint.lost, "never told from inside a method of the transport"
    endpoint.write(b"y")
    endpoint.transport.flush()
    await until(lambda: endpoint.lost)
    await turns()


async def test_a_failed_send_ends_the_connection_once_and_in_the_pollers_turn() -> None:
    async with connected() as (poller, endpoint, peer):
        await settle_after_reset(endpoint, peer)
        assert len(endpoint.lost) == 1 and isinstance(endpoint.lost[0], ConnectionError)
        assert not len(poller)
        endpoint.write(b"nowhere")
        endpoint.transport.flush()
        endpoint.transport.send_now()
        endpoint.transport.pause_reading()
        endpoint.transport.resume_reading()
        endpoint.transport.start_timer(0)
        endpoint.transport.abort()
        await turns()
        assert len(endpoint.lost) == 1 and not endpoint.fired


async def test_the_peers_last_words_are_heard_although_sending_fails() -> None:
    async with connected() as (_, endpoint, peer):
        await settle_after_reset(endpoint, peer, b"because", b" of you")
        assert endpoint.received == b"because of you"
        assert isinstance(endpoint.lost[0], ConnectionError)


async def test_the_last_words_may_be_longer_than_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "BUFFER_SIZE", 1000)
    async with connected() as (_, endpoint, peer):
        await settle_after_reset(endpoint, peer, bytes(20_000))
        assert len(endpoint.received) == 20_000


async def test_what_the_endpoint_does_with_the_last_words_is_harmless() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.on_data = lambda _: endpoint.write(b"answer")
        await settle_after_reset(endpoint, peer, b"question")
        assert len(endpoint.lost) == 1
    async with connected() as (_, endpoint, peer):
        endpoint.on_data = lambda _: endpoint.transport.abort()
        peer.send(b"go away")
        peer.reset()
        endpoint.write(b"x")
        await until(lambda: endpoint.received)
        await turns()
        assert not endpoint.lost


async def test_while_paused_a_failed_send_ends_the_connection_without_further_data() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.transport.pause_reading()
        await settle_after_reset(endpoint, peer, b"unheard")
        assert not endpoint.chunks and isinstance(endpoint.lost[0], ConnectionError)


async def test_a_failing_send_buffer_ends_only_that_connection() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            bad, _ = await listener.connect(poller)
            good, peer = await listener.connect(poller)
            bad.errors["data_to_send"] = error = ValueError("a bug")
            bad.write(b"x")
            assert not bad.lost and bad.transport.scheduled
            good.write(b"hello")
            assert await peer.read(5) == b"hello"
            await until(lambda: bad.lost)
            assert bad.lost == [error] and not good.lost and len(poller) == 1


async def test_abort_drops_what_was_not_sent_and_calls_nothing() -> None:
    async with connected() as (poller, endpoint, peer):
        endpoint.queue.append(b"acks")
        endpoint.transport.send_later()
        endpoint.transport.abort()
        endpoint.transport.abort()
        await turns()
        assert endpoint.queue == [b"acks"] and not endpoint.lost and not len(poller)
        assert endpoint.transport.scheduled and not endpoint.transport.is_stalled
        assert await peer.read(1) == b""
        await endpoint.transport.wait_unstalled()


async def test_what_was_flushed_before_abort_arrives() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.queue.append(b"goodbye")
        endpoint.transport.flush()
        endpoint.transport.abort()
        assert await peer.read(8) == b"goodbye"
