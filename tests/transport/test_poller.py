"""Deadlines, fairness, numbers, and the order of the end."""

from __future__ import annotations

import errno
import resource
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

import anyio
import pytest

from rabbitry._transport import Poller
from rabbitry._transport import poller as poller_module
from tests.transport.fakes import Listener, Recorder, connected, open_descriptors, running_poller, turns, until


async def test_a_deadline_fires_once_and_not_early() -> None:
    async with connected() as (_, endpoint, _):
        when = monotonic() + 0.02
        endpoint.transport.start_timer(when)
        await until(lambda: endpoint.fired)
        assert endpoint.fired[0] >= when
        await anyio.sleep(0.02)
        assert len(endpoint.fired) == 1


async def test_a_passed_deadline_fires_soon() -> None:
    async with connected() as (_, endpoint, _):
        endpoint.transport.start_timer(0.0)
        assert not endpoint.fired
        await until(lambda: endpoint.fired)


async def test_an_earlier_deadline_replaces_a_later_one() -> None:
    async with connected() as (_, endpoint, _):
        start = monotonic()
        endpoint.transport.start_timer(start + 60)
        endpoint.transport.start_timer(start + 0.01)
        endpoint.transport.start_timer(start + 30)
        await until(lambda: endpoint.fired)
        assert endpoint.fired[0] < start + 5
        assert endpoint.transport.deadline == float("inf")


async def test_the_endpoint_names_the_next_deadline() -> None:
    async with connected() as (_, endpoint, _):
        start = monotonic()
        endpoint.following = [start + 0.01, start + 0.02, 0.0, 0.0]
        endpoint.transport.start_timer(start)
        await until(lambda: len(endpoint.fired) == 5)
        assert endpoint.fired[1] >= start + 0.01 and endpoint.fired[2] >= start + 0.02
        await anyio.sleep(0.01)
        assert len(endpoint.fired) == 5


async def test_deadlines_of_many_fire_in_order() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            endpoints = [(await listener.connect(poller))[0] for _ in range(20)]
            start = monotonic()
            for number, endpoint in enumerate(endpoints):
                endpoint.transport.start_timer(start + 0.001 * (20 - number))
            await until(lambda: all(endpoint.fired for endpoint in endpoints))
            times = [endpoint.fired[0] for endpoint in endpoints]
            assert times == sorted(times, reverse=True)


async def test_a_deadline_dies_with_its_connection() -> None:
    async with connected() as (_, endpoint, _):
        endpoint.transport.start_timer(monotonic() + 0.01)
        endpoint.transport.abort()
        endpoint.transport.start_timer(0.0)
        await anyio.sleep(0.03)
        assert not endpoint.fired


async def test_a_bounded_number_of_deadlines_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "TIMERS_PER_PASS", 3)
    with Listener() as listener:
        async with running_poller() as poller:
            endpoints = [(await listener.connect(poller))[0] for _ in range(10)]
            for endpoint in endpoints:
                endpoint.transport.start_timer(0.0)
            poller.run_timers()
            assert sum(len(endpoint.fired) for endpoint in endpoints) == 3
            await until(lambda: all(endpoint.fired for endpoint in endpoints))


async def test_a_timer_may_write() -> None:
    async with connected() as (_, endpoint, peer):

        def handle_timer(now: float) -> None:
            endpoint.write(b"heartbeat")

        endpoint.handle_timer = handle_timer  # type: ignore[method-assign]
        endpoint.transport.start_timer(0.0)
        assert await peer.read(9) == b"heartbeat"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 5000:
        pytest.skip("the hard limit of descriptors is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("many_descriptors")
async def test_thousands_of_sockets_each_under_a_kilobyte(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            endpoints = [Recorder() for _ in range(2000)]
            tracemalloc.start()
            for endpoint in endpoints:
                endpoint.transport = await poller.connect_unix(str(listener.path), endpoint)
                endpoint.transport.start_timer(monotonic() + 60)
                listener.accept_now()
            snapshot = tracemalloc.take_snapshot()
            tracemalloc.stop()
            ours = tracemalloc.Filter(True, "*/rabbitry/_transport/*")
            library = tracemalloc.Filter(True, "*/socket.py", all_frames=False)
            size = sum(trace.size for trace in snapshot.filter_traces([ours, library]).traces)
            assert size / len(endpoints) < 1000

            for peer in listener.peers:
                peer.send(b"ping")
            await until(lambda: all(endpoint.received == b"ping" for endpoint in endpoints))
            for endpoint in endpoints:
                endpoint.write(b"po")
                endpoint.write(b"ng")
            for peer in listener.peers:
                assert await peer.read(4) == b"pong"
            for peer in listener.peers:
                peer.close()
            await until(lambda: all(endpoint.lost for endpoint in endpoints))
            assert not len(poller)


async def test_a_firehose_starves_nobody() -> None:
    """A peer that never stops sending leaves room for other connections, tasks and timers."""
    stop = threading.Event()
    with Listener() as listener:
        async with running_poller() as poller:
            flooded, hose = await listener.connect(poller)
            flooded.on_data = lambda _: flooded.chunks.clear()
            hose.sock.settimeout(0.1)

            def flood() -> None:
                data = bytes(1 << 20)
                while not stop.is_set():
                    try:
                        hose.sock.send(data)
                    except OSError:
                        pass

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                endpoint, peer = await listener.connect(poller)
                for _ in range(50):
                    endpoint.chunks.clear()
                    endpoint.write(b"ping")
                    assert await peer.read(4) == b"ping"
                    peer.send(b"pong")
                    await until(lambda: endpoint.received == b"pong")
                endpoint.transport.start_timer(monotonic() + 0.001)
                await until(lambda: endpoint.fired)
            finally:
                stop.set()
                thread.join()


async def test_an_endpoint_that_always_answers_starves_nobody() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            first, peer = await listener.connect(poller)
            second, other = await listener.connect(poller)
            # each echoes what it gets, and the peers are joined: two balls that never come to rest
            for endpoint in (first, second):
                endpoint.outstanding = 1

                def echo(data: bytes, endpoint: Recorder = endpoint) -> None:
                    endpoint.chunks.clear()
                    endpoint.write(data)

                endpoint.on_data = echo

            async def bounce() -> None:
                while True:
                    await anyio.wait_readable(peer.sock)
                    peer.sock.send(peer.sock.recv(100))

            async with anyio.create_task_group() as tg:
                tg.start_soon(bounce)
                peer.send(b"ball")
                for _ in range(20):
                    await anyio.sleep(0.001)
                    other.send(b"ping")
                    assert await other.read(4) == b"ping"
                tg.cancel_scope.cancel()


async def test_a_cancelled_owner_can_still_say_goodbye() -> None:
    with Listener() as listener:
        poller = Poller()
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            endpoint, peer = await listener.connect(poller)
            tg.cancel_scope.cancel()
            with anyio.move_on_after(5, shield=True):
                endpoint.write(b"close")
                assert await peer.read(5) == b"close"
                peer.send(b"close-ok")
                await until(lambda: endpoint.received == b"close-ok")
            poller.stop()
        assert not poller.epoll.closed
        poller.close()
        assert poller.epoll.closed


async def test_closing_ends_what_is_left_and_the_selector_last() -> None:
    before = open_descriptors()
    with Listener() as listener:
        poller = Poller()
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            endpoint, _ = await listener.connect(poller)
            paused, _ = await listener.connect(poller)
            paused.transport.pause_reading()
            was_closed: list[bool] = []
            endpoint.on_lost = lambda: was_closed.append(poller.epoll.closed)
            endpoint.transport.start_timer(monotonic() + 0.01)
            endpoint.queue.append(b"later")
            endpoint.transport.send_later()
            poller.stop()
        assert not endpoint.queue, "what was scheduled is flushed"
        poller.close()
        poller.close()
        for one in (endpoint, paused):
            assert isinstance(one.lost[0], ConnectionAbortedError) and one.lost[0].errno == errno.ECONNABORTED
        assert was_closed == [False]
        endpoint.transport.abort()
        await anyio.sleep(0.02)
        assert not endpoint.fired
    assert open_descriptors() <= before


async def test_the_pollers_of_a_loop_receive_into_one_buffer(anyio_backend_name: str) -> None:
    async with running_poller() as first, running_poller() as second:
        assert second.view.obj is first.view.obj

    async def other_loop() -> object:
        async with running_poller() as poller:
            return poller.view.obj

    run = partial(anyio.run, other_loop, backend=anyio_backend_name)
    assert await anyio.to_thread.run_sync(run) is not first.view.obj


async def test_stopping_before_running() -> None:
    poller = Poller()
    poller.stop()
    async with anyio.create_task_group() as tg:
        tg.start_soon(poller.run)
    poller.close()


async def test_stopping_in_a_callback() -> None:
    with Listener() as listener:
        poller = Poller()
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            endpoint, peer = await listener.connect(poller)
            endpoint.on_data = lambda _: poller.stop()
            peer.send(b"x")
        poller.close()
        assert endpoint.chunks and len(endpoint.lost) == 1


async def test_what_was_asked_for_before_running_is_done_then(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket")) as listener:
        poller = Poller()
        endpoint, peer = await listener.connect(poller)
        endpoint.queue.append(b"early")
        endpoint.transport.send_later()
        endpoint.transport.start_timer(0.0)
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            assert await peer.read(5) == b"early"
            await until(lambda: endpoint.fired)
            poller.stop()
        poller.close()


async def test_a_poller_on_each_side() -> None:
    """Two pollers in one loop do not disturb each other."""
    with Listener() as listener:
        async with running_poller() as one, running_poller() as two:
            first, first_peer = await listener.connect(one)
            second, second_peer = await listener.connect(two)
            for endpoint, peer in ((first, first_peer), (second, second_peer)):
                endpoint.write(b"x")
                assert await peer.read(1) == b"x"
                peer.send(b"y")
            await until(lambda: first.chunks and second.chunks)
            await turns()
