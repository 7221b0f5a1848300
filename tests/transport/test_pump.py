"""The pumps: which one runs, that any of them drives the poller, how long they spin, and who gets Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from rabbitry._concurrency.waiting import Signal, new_signal
from rabbitry._transport import Poller
from rabbitry._transport.contracts import Pump, Turn
from rabbitry._transport.pump import SPINS, AsyncioPump, TaskPump
from rabbitry._transport.pumps import pump_for_backend
from tests.transport.fakes import Listener, Peer, Recorder, Spy, connected, running_poller, turns, until


async def test_the_backend_decides(anyio_backend_name: str) -> None:
    async with running_poller() as poller:
        if anyio_backend_name == "trio":
            from rabbitry._transport.pump_trio import TrioPump

            assert type(poller._pump) is TrioPump
        else:
            assert type(poller._pump) is AsyncioPump


@pytest.mark.parametrize("pump", [None, TaskPump])
async def test_any_pump_drives_the_poller(pump: Any) -> None:
    async with connected(pump) as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        for _ in range(3):
            endpoint.write(b"one")
            endpoint.write(b"two")
            assert await peer.read(6) == b"onetwo"
            peer.send(b"reply")
            await until(lambda: endpoint.received == b"reply")
            endpoint.chunks.clear()
            await until(lambda: not endpoint.transport.scheduled)
        assert spy.sent == [b"one", b"two"] * 3
        endpoint.transport.start_timer(0.0)
        await until(lambda: endpoint.fired)
        endpoint.following = [0.0]
        endpoint.transport.start_timer(0.0)
        await until(lambda: len(endpoint.fired) == 3)
        peer.reset()
        await until(lambda: endpoint.lost)


class FakeTurn:
    """All that a pump needs of a poller; remembers what it was asked for."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.next_deadline: float | None = None
        self.has_work = False
        self.calls: list[str] = []
        self.on_poll: Callable[[], object] = lambda: None

    def poll(self) -> bool:
        self.calls.append("poll")
        self.on_poll()
        return False

    def is_awaiting(self) -> bool:
        return False

    def awaits_one(self) -> bool:
        return False

    def flush(self) -> None:
        self.calls.append("flush")
        self.has_work = False

    def run_timers(self) -> None:
        self.calls.append("timers")
        self.next_deadline = None


@pytest.mark.parametrize("make_pump", [pump_for_backend, TaskPump])
async def test_a_pump_runs_whatever_is_a_turn(make_pump: Callable[[Turn], Pump]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        turn = FakeTurn(ours.fileno())
        turn.on_poll = lambda: ours.recv(10)
        pump = make_pump(turn)
        async with anyio.create_task_group() as tg:
            started = anyio.Event()
            tg.start_soon(pump.run, started.set)
            await started.wait()
            await anyio.wait_all_tasks_blocked()
            turn.calls.clear()

            theirs.send(b"x")
            await until(lambda: "poll" in turn.calls)
            turn.has_work = True
            pump.wake()
            await until(lambda: "flush" in turn.calls)
            turn.next_deadline = time.monotonic()
            pump.set_timer(turn.next_deadline)
            await until(lambda: "timers" in turn.calls)
            tg.cancel_scope.cancel()


class Counter:
    """Counts the passes of a poller; optionally does something in each."""

    def __init__(self, poller: Poller) -> None:
        self.poll = poller.poll
        self.passes: list[bool] = []
        poller.poll = self  # type: ignore[method-assign]

    def __call__(self) -> bool:
        self.passes.append(self.poll())
        return self.passes[-1]


async def ping(endpoint: Recorder, peer: Peer) -> None:
    endpoint.chunks.clear()
    peer.send(b"ping")
    await until(lambda: endpoint.chunks)
    await turns(20)  # a busy machine may take all the time between two of them
    await anyio.sleep(0.005)


@pytest.mark.parametrize("pump", [None, TaskPump])
async def test_spinning_while_a_reply_is_outstanding(pump: Any) -> None:
    async with connected(pump) as (poller, endpoint, peer):
        endpoint.outstanding = 1
        counter = Counter(poller)
        await ping(endpoint, peer)
        assert counter.passes == [True] + [False] * SPINS


@pytest.mark.parametrize("pump", [None, TaskPump])
async def test_no_spinning_without_a_reply_to_wait_for(pump: Any) -> None:
    async with connected(pump) as (poller, endpoint, peer):
        counter = Counter(poller)
        await ping(endpoint, peer)
        assert counter.passes[0] and len(counter.passes) <= 2


async def test_spinning_starts_again_with_each_reply() -> None:
    async with connected() as (poller, endpoint, peer):
        endpoint.outstanding = 2
        counter = Counter(poller)
        endpoint.on_data = lambda data: len(endpoint.chunks) < 3 and peer.send(b"more")
        await ping(endpoint, peer)
        assert counter.passes.count(True) == 3
        assert counter.passes[-SPINS:] == [False] * SPINS
        assert len(counter.passes) <= 3 + SPINS + 3  # the event loop may call once more for each


@pytest.mark.parametrize("pump", [None, TaskPump])
@pytest.mark.parametrize("outstanding", [1, 2])
async def test_looking_on_for_one_reply_where_the_last_came_soon(
    pump: Any, outstanding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it may take to come as soon again; never for several, nor where the last took long."""
    monkeypatch.setattr("rabbitry._transport.pump.PATIENCE", 0.2)
    async with connected(pump) as (poller, endpoint, peer):
        endpoint.outstanding = outstanding
        counter = Counter(poller)
        await ping(endpoint, peer)
        assert counter.passes == [True] + [False] * SPINS
        await anyio.sleep(0.3)
        endpoint.on_data = lambda data: len(endpoint.chunks) == 1 and peer.send(b"more")
        counter.passes.clear()
        await ping(endpoint, peer)
        await until(lambda: len(endpoint.chunks) == 2)
        await anyio.sleep(0.4)
        looks = counter.passes[::-1].index(True)
        assert looks <= SPINS + 3 if outstanding == 2 else looks > SPINS + 10  # the loop may call once more for each
        counter.passes.clear()
        await anyio.sleep(0.1)
        assert counter.passes == []
        endpoint.on_data = None
        await ping(endpoint, peer)
        assert counter.passes == [True] + [False] * SPINS


async def test_no_spinning_after_a_pass_that_touched_many() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            pairs = [await listener.connect(poller) for _ in range(20)]
            counter = Counter(poller)
            for endpoint, peer in pairs:
                endpoint.outstanding = 1
                peer.send(b"x")
            await until(lambda: all(endpoint.chunks for endpoint, _ in pairs))
            await turns(20)
            await anyio.sleep(0.005)
            assert counter.passes == [False]


async def test_a_bug_in_awaiting_does_not_stop_the_pump() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            bad, bad_peer = await listener.connect(poller)
            good, peer = await listener.connect(poller)
            bad.errors["awaiting"] = ValueError("a bug")
            bad_peer.send(b"x")
            await until(lambda: bad.lost)
            await ping(good, peer)


async def test_tasks_woken_by_data_write_together() -> None:
    """A reply that wakes many tasks costs a few sends, not one for each task: the first at once, then one a turn.

    trio shuffles the tasks of a turn, so its flush may fall amid them, and the rest leaves with the next turn.
    """
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        replied = anyio.Event()
        endpoint.on_data = lambda _: replied.set()

        async def publish() -> None:
            await replied.wait()
            endpoint.write(b"x")

        async with anyio.create_task_group() as tg:
            for _ in range(100):
                tg.start_soon(publish)
            await turns()
            peer.send(b"confirm")
        await until(lambda: not endpoint.transport.scheduled)
        assert len(b"".join(spy.sent)) == 100 and len(spy.sent) <= 3


async def test_who_is_woken_by_data_writes_in_the_same_turn(anyio_backend_name: str) -> None:
    """On asyncio a task that a reply wakes takes its step, and what it writes leaves, before the loop calls anything
    else: the first write at once, the rest as soon as all have run.
    """
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has each task run in a turn of its own")
    loop = asyncio.get_running_loop()
    async with connected() as (_, endpoint, peer):
        spy = Spy(endpoint.transport)
        signals = [new_signal() for _ in range(3)]
        written: list[list[bytes]] = []

        def wake(_: bytes) -> None:
            loop.call_soon(lambda: written.append(list(spy.sent)))
            for told in signals:
                told.set()

        async def publish(told: Signal) -> None:
            await told.wait()
            endpoint.write(b"x")

        endpoint.on_data = wake
        async with anyio.create_task_group() as tg:
            for told in signals:
                tg.start_soon(publish, told)
            await turns()
            peer.send(b"confirm")
        await until(lambda: not endpoint.transport.scheduled)
        assert spy.sent == [b"x", b"xx"] and written[0] == spy.sent


async def test_ctrl_c_goes_to_the_main_task(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("asyncio's runner cancels the main task by itself")
    async with connected() as (_, endpoint, peer):
        endpoint.on_data = lambda _: signal.raise_signal(signal.SIGINT)
        interrupted = False
        try:
            peer.send(b"x")
            await anyio.sleep(30)
        except KeyboardInterrupt:
            interrupted = True
        assert interrupted and endpoint.chunks and not endpoint.lost
        endpoint.on_data = None
        await ping(endpoint, peer)
