"""Virtual time, on both backends: what waits takes none, in order; what is real holds it up, or is refused."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio.testing
from anyio import from_thread
from anyio.pytest_plugin import get_runner

import rabbitry
from rabbitry._concurrency.clock import SYSTEM, clock, loop_time, monotonic, utc_now, wall_time
from rabbitry._concurrency.virtual import check_virtual_time, is_virtual
from rabbitry._concurrency.virtual_asyncio import VirtualTimeLoop
from rabbitry.broker import Broker
from rabbitry.testing import open_proxy

HOUR = 3600.0

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def options(backend: str) -> dict[str, Any]:
    if backend == "trio":
        return {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return {"loop_factory": VirtualTimeLoop}


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def run(backend: str) -> Run:
    """Runs a coroutine function in virtual time."""
    return lambda function: anyio.run(function, backend=backend, backend_options=options(backend))


def test_waiting_takes_no_time(run: Run) -> None:
    async def main() -> None:
        assert is_virtual()
        began = loop_time(), monotonic(), wall_time(), utc_now()
        await anyio.sleep(HOUR)
        with anyio.move_on_after(HOUR):
            await anyio.sleep_forever()
        with pytest.raises(TimeoutError), anyio.fail_after(HOUR):
            await anyio.Event().wait()
        assert loop_time() - began[0] == pytest.approx(3 * HOUR)
        assert monotonic() - began[1] == pytest.approx(3 * HOUR)
        assert wall_time() - began[2] == pytest.approx(3 * HOUR)
        assert (utc_now() - began[3]).total_seconds() == pytest.approx(3 * HOUR)

    real = time.monotonic()
    run(main)
    assert time.monotonic() - real < 10 and clock() is SYSTEM


def test_what_waits_wakes_in_order(run: Run) -> None:
    woken: list[float] = []

    async def sleeper(seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append(loop_time())

    async def main() -> list[float]:
        began = loop_time()
        async with anyio.create_task_group() as tg:
            for seconds in (50, 3, 20, 86_400 * 3, 0.001, 7):
                tg.start_soon(sleeper, seconds)
        return [each - began for each in woken]

    assert run(main) == pytest.approx([0.001, 3, 7, 20, 50, 86_400 * 3])


def test_time_stands_still_while_something_is_ready(run: Run) -> None:
    async def main() -> None:
        began = loop_time()
        with anyio.move_on_after(1) as scope:
            for _ in range(1000):
                await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught and loop_time() == began

    run(main)


@pytest.mark.parametrize("limited", [False, True], ids=["default", "own limiter"])
def test_a_worker_thread_holds_up_time(run: Run, limited: bool) -> None:
    async def main() -> None:
        assert is_virtual()
        limiter = anyio.CapacityLimiter(1) if limited else None
        began = loop_time()
        with anyio.move_on_after(0.001) as scope:
            async with anyio.create_task_group() as tg:
                tg.start_soon(partial(anyio.to_thread.run_sync, time.sleep, 0.05, limiter=limiter))
                await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught and loop_time() == began
        await anyio.sleep(HOUR)  # it is idle now, and holds no longer
        assert loop_time() - began == pytest.approx(HOUR)

    run(main)


def test_asyncios_own_threads_hold_it_up() -> None:
    async def main() -> float:
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(time.sleep, 0.05)
        return loop_time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 0


def test_a_thread_that_waits_for_the_loop_holds_nothing_up(run: Run) -> None:
    def work() -> float:
        began = from_thread.run_sync(loop_time)
        from_thread.run(anyio.sleep, HOUR)
        time.sleep(0.02)
        return from_thread.run_sync(loop_time) - began

    async def main() -> float:
        assert is_virtual()
        took: float = await anyio.to_thread.run_sync(work)
        return took

    assert run(main) == pytest.approx(HOUR)


def test_a_real_socket_holds_up_time(run: Run) -> None:
    async def main() -> None:
        assert is_virtual()
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            threading.Timer(0.05, far.send, (b"x",)).start()
            began = loop_time()
            with anyio.move_on_after(0.001) as scope:
                await anyio.wait_readable(near)
            assert not scope.cancelled_caught and loop_time() == began and near.recv(1) == b"x"
        await anyio.sleep(HOUR)
        assert loop_time() - began == pytest.approx(HOUR)

    run(main)


def test_it_is_said_what_holds_up_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("rabbitry._concurrency.virtual_asyncio.TOLD_AFTER", 0.01)

    async def main() -> int:
        near, far = socket.socketpair()
        with near, far, anyio.move_on_after(HOUR):
            near.setblocking(False)
            threading.Timer(0.1, far.send, (b"x",)).start()
            await anyio.wait_readable(near)
            return near.fileno()
        raise AssertionError

    descriptor = anyio.run(main, backend_options=options("asyncio"))
    assert f"still open (descriptors {descriptor})" in caplog.text


def test_other_threads_keep_their_time(run: Run) -> None:
    async def main() -> None:
        assert clock().is_virtual
        assert await anyio.to_thread.run_sync(clock) is SYSTEM

    async def begin() -> None:
        assert is_virtual()
        await main()

    run(begin)


def test_between_the_steps_of_a_guest_run_time_is_real(backend: str) -> None:
    """AnyIO's plugin runs the async fixtures and tests of a module so, and sync tests between."""

    async def begin() -> None:
        assert is_virtual()

    async def go_on() -> bool:
        return clock().is_virtual

    with get_runner(backend, options(backend)) as runner:
        runner.run_fixture(begin, {})
        assert clock() is SYSTEM
        assert runner.run_fixture(go_on, {})
    assert clock() is SYSTEM


def test_where_the_wall_clock_begins_can_be_said() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)

    async def main() -> datetime:
        await anyio.sleep(60)
        return utc_now()

    factory = partial(VirtualTimeLoop, start=start)
    assert anyio.run(main, backend_options={"loop_factory": factory}) == datetime(2030, 1, 1, 0, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        VirtualTimeLoop(start=datetime(2030, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("way", ["connect", "client", "listen", "proxy"])
def test_real_sockets_are_refused_with_the_reason(run: Run, way: str) -> None:
    async def main() -> None:
        if way == "connect":
            async with rabbitry.connect("amqp://127.0.0.1:1"):
                pass
        elif way == "client":
            async with rabbitry.open_client("amqp://127.0.0.1:1") as client:
                await client.wait_ready()
        elif way == "listen":
            async with Broker() as broker:
                await broker.listen()
        else:
            async with open_proxy("amqp://127.0.0.1:1"):
                pass

    with pytest.raises(rabbitry.LocalProtocolError, match=r"needs a real socket, and time is virtual.*dial="):
        run(main)


async def ask() -> None:
    check_virtual_time()


def test_virtual_time_can_be_required(run: Run) -> None:
    run(ask)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_real_time_is_told_with_the_way_out_of_it(backend: str) -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match=r"time is not virtual.*VirtualTimeLoop.*MockClock"):
        anyio.run(ask, backend=backend)


def test_where_no_loop_runs_there_is_no_virtual_time() -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match="no event loop runs here"):
        check_virtual_time()


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_uvloop_is_refused_with_the_reason() -> None:
    with pytest.raises(rabbitry.LocalProtocolError, match=r"uvloop.*can't be exchanged"):
        anyio.run(ask, backend_options={"use_uvloop": True})


def test_a_clock_that_somebody_moves_is_followed() -> None:
    """Without autojump: the test itself says when time passes."""
    mock = trio.testing.MockClock()

    async def main() -> None:
        assert is_virtual()
        began = monotonic()
        mock.jump(10)
        await anyio.lowlevel.checkpoint()
        assert monotonic() - began == 10

    trio.run(main, clock=mock)
