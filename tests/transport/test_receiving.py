"""What the endpoint is told: data, pauses, the end; and that events never reach the wrong one."""

from __future__ import annotations

import contextvars
import logging
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from rabbitry._transport import poller as poller_module
from tests.transport.fakes import PATIENCE, Listener, Recorder, connected, running_poller, turns, until


async def test_a_clean_end() -> None:
    async with connected() as (poller, endpoint, peer):
        peer.send(b"bye")
        peer.close()
        await until(lambda: endpoint.lost)
        assert endpoint.received == b"bye" and endpoint.lost == [None] and not len(poller)


async def test_a_half_closed_peer_has_ended() -> None:
    async with connected() as (_, endpoint, peer):
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: endpoint.lost)
        assert endpoint.lost == [None]
        assert await peer.read(1) == b""


async def test_a_reset() -> None:
    async with connected() as (_, endpoint, peer):
        peer.reset()
        await until(lambda: endpoint.lost)
        assert isinstance(endpoint.lost[0], ConnectionResetError) and len(endpoint.lost) == 1


async def test_a_reset_after_data() -> None:
    async with connected() as (_, endpoint, peer):
        peer.send(b"data")
        peer.reset()
        await until(lambda: endpoint.lost)
        assert endpoint.received == b"data" and isinstance(endpoint.lost[0], ConnectionResetError)


async def test_chunks_are_bounded_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "BUFFER_SIZE", 1000)
    async with connected() as (_, endpoint, peer):
        data = os.urandom(50_000)
        peer.send(data)
        await until(lambda: len(endpoint.received) == len(data))
        assert endpoint.received == data and max(map(len, endpoint.chunks)) == 1000


async def test_a_chunk_stays_what_it_was() -> None:
    async with connected() as (_, endpoint, peer):
        for word in (b"first", b"again"):
            peer.send(word)
            await until(lambda word=word: endpoint.received.endswith(word))
        assert endpoint.chunks == [b"first", b"again"]


VARIABLE = contextvars.ContextVar("VARIABLE", default="the reader's")


async def test_one_that_waits_for_the_socket_itself() -> None:
    """What is received so is dealt with as what the poller receives: in the same context."""
    VARIABLE.set("the poller's")
    async with connected() as (_, endpoint, peer):
        seen: list[str] = []
        endpoint.on_data = lambda _: seen.append(VARIABLE.get())
        transport = endpoint.transport
        VARIABLE.set("the reader's")
        transport.read_now()
        assert not endpoint.chunks  # there was nothing
        peer.send(b"answer")
        assert select.select([transport.fd], [], [], PATIENCE)[0] == [transport.fd]
        transport.read_now()
        assert endpoint.chunks == [b"answer"]
        peer.send(b"more")
        await until(lambda: endpoint.received == b"answermore")
        assert seen == ["the poller's"] * 2
        peer.close()
        await until(lambda: endpoint.lost)
        assert transport.fd == -1


async def test_pausing_and_resuming() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.transport.pause_reading()
        endpoint.transport.pause_reading()
        assert endpoint.transport.is_reading_paused
        peer.send(b"one")
        await anyio.sleep(0.02)
        assert not endpoint.chunks
        endpoint.write(b"still writing")
        assert await peer.read(13) == b"still writing"
        endpoint.transport.resume_reading()
        endpoint.transport.resume_reading()
        assert not endpoint.transport.is_reading_paused
        await until(lambda: endpoint.received == b"one")


async def test_pausing_in_the_callback() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.on_data = lambda _: endpoint.transport.pause_reading()
        peer.send(b"one")
        await until(lambda: endpoint.chunks)
        peer.send(b"two")
        await anyio.sleep(0.01)
        assert endpoint.chunks == [b"one"]
        endpoint.transport.resume_reading()
        await until(lambda: endpoint.chunks == [b"one", b"two"])


async def test_pausing_another_whose_event_is_in_the_same_batch() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            first, one = await listener.connect(poller)
            second, two = await listener.connect(poller)
            first.on_data = lambda _: second.transport.pause_reading()
            second.on_data = lambda _: first.transport.pause_reading()
            one.send(b"x")
            two.send(b"x")
            await until(lambda: first.received or second.received)
            await turns(20)
            assert sorted([first.received, second.received]) == [b"", b"x"]


async def test_the_end_while_paused_is_told_on_resuming_and_costs_nothing_before() -> None:
    async with connected() as (poller, endpoint, peer):
        endpoint.transport.pause_reading()
        peer.send(b"bye")
        peer.reset()
        await anyio.sleep(0.01)
        assert not endpoint.lost and not poller.epoll.poll(0)
        endpoint.transport.resume_reading()
        await until(lambda: endpoint.lost)
        assert endpoint.received == b"bye"


async def test_the_end_while_paused_and_stalled() -> None:
    async with connected() as (_, endpoint, peer):
        endpoint.transport.pause_reading()
        endpoint.write(bytes(8 << 20))
        assert endpoint.transport.is_stalled
        peer.send(b"unheard")
        peer.reset()
        await until(lambda: endpoint.lost)
        await turns()
        assert not endpoint.chunks and len(endpoint.lost) == 1 and isinstance(endpoint.lost[0], ConnectionError)


async def test_paused_while_stalled_still_sends() -> None:
    async with connected() as (_, endpoint, peer):
        size = 8 << 20
        endpoint.write(bytes(size))
        endpoint.transport.pause_reading()
        peer.send(b"x")
        assert len(await peer.read(size)) == size
        await until(lambda: not endpoint.transport.is_stalled)
        assert not endpoint.chunks
        endpoint.transport.resume_reading()
        await until(lambda: endpoint.chunks)


@pytest.mark.parametrize("method", ["receive_data", "handle_timer", "awaiting"])
async def test_a_bug_in_an_endpoint_ends_only_its_connection(method: str) -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            bad, bad_peer = await listener.connect(poller)
            good, good_peer = await listener.connect(poller)
            bad.errors[method] = error = ValueError("a bug")
            bad.transport.start_timer(0)
            bad_peer.send(b"x")
            await until(lambda: bad.lost)
            assert bad.lost == [error]
            good_peer.send(b"x")
            await until(lambda: good.chunks)
            assert not good.lost and len(poller) == 1


async def test_a_bug_in_connection_lost_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            bad, bad_peer = await listener.connect(poller)
            good, good_peer = await listener.connect(poller)
            bad.errors["connection_lost"] = ValueError("a bug")
            bad_peer.close()
            await until(lambda: len(poller) == 1)
            good_peer.send(b"x")
            await until(lambda: good.chunks)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_aborting_in_the_callback() -> None:
    async with connected() as (poller, endpoint, peer):
        endpoint.on_data = lambda _: endpoint.transport.abort()
        peer.send(b"x")
        await until(lambda: endpoint.chunks)
        await turns()
        assert not endpoint.lost and not len(poller)


async def test_aborting_and_writing_when_told_of_the_end_is_harmless() -> None:
    async with connected() as (_, endpoint, peer):

        def on_lost() -> None:
            endpoint.transport.abort()
            endpoint.transport.flush()
            endpoint.transport.send_now()

        endpoint.on_lost = on_lost
        peer.close()
        await until(lambda: endpoint.lost)
        await turns()
        assert endpoint.lost == [None]


async def two_events_in_one_batch(
    tmp_path: Path, act: Callable[[Recorder, Listener], None]
) -> tuple[list[Recorder], list[Recorder]]:
    """Two connections with events in one pass; the first to be served acts on the other. Returns (served, others)."""
    with Listener(str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            pair = [await listener.connect(poller) for _ in range(2)]
            served: list[Recorder] = []
            for (endpoint, _), (other, _) in (pair, reversed(pair)):

                def on_data(_: bytes, endpoint: Recorder = endpoint, other: Recorder = other) -> None:
                    served.append(endpoint)
                    act(other, listener)

                endpoint.on_data = on_data
            for _, peer in pair:
                peer.send(b"x")
                peer.close()
            assert len(poller.epoll.poll(0)) == 2
            await until(lambda: served and served[0].lost)
            assert served[0].lost == [None], "what the callback asserts is an endpoint's failure"
            return served, [endpoint for endpoint, _ in pair if endpoint not in served]


async def test_aborting_another_whose_event_is_in_the_same_batch(tmp_path: Path) -> None:
    served, others = await two_events_in_one_batch(tmp_path, lambda other, _: other.transport.abort())
    assert len(served) == 1
    assert not others[0].chunks and not others[0].lost


async def test_a_descriptor_reused_within_one_batch(tmp_path: Path) -> None:
    """The event of a closed descriptor must neither end nor feed the connection that has its number now."""
    newcomers: list[Recorder] = []

    def replace(other: Recorder, listener: Listener) -> None:
        descriptor = other.transport.fd
        poller = other.transport._poller
        other.transport.abort()
        newcomer = Recorder()
        descriptors = []
        while descriptor not in descriptors:  # lower numbers may be free
            connecting = poller.connect_unix(str(listener.path), newcomer)
            with pytest.raises(StopIteration) as result:  # a Unix socket connects without waiting
                connecting.send(None)
            newcomer.transport = result.value.value
            descriptors.append(newcomer.transport.fd)
        newcomers.append(newcomer)
        newcomer.write(b"it works")

    served, others = await two_events_in_one_batch(tmp_path, replace)
    assert len(served) == len(others) == len(newcomers) == 1
    assert not others[0].chunks and not others[0].lost
    assert not newcomers[0].chunks
    assert [type(error) for error in newcomers[0].lost] == [ConnectionAbortedError], "by the poller's close, not before"


async def test_a_descriptor_reused_by_somebody_else(tmp_path: Path) -> None:
    files: list[int] = []

    def replace(other: Recorder, _: Listener) -> None:
        descriptor = other.transport.fd
        other.transport.abort()
        while descriptor not in files:
            files.append(os.open("/dev/null", os.O_RDONLY))

    served, others = await two_events_in_one_batch(tmp_path, replace)
    for file in files:
        os.close(file)
    assert len(served) == 1 and not others[0].chunks and not others[0].lost
