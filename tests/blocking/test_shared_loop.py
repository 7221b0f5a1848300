"""The event loop that threads run in turn: what who only waits for an answer sees to, and what is left to the loop."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rabbitry import blocking
from rabbitry.blocking import shared_loop, spare
from rabbitry.blocking.shared_loop import SharedLoop
from rabbitry.blocking.waiter import Waiter

InThread = Callable[..., threading.Thread]

EPOLL = hasattr(selectors, "EpollSelector")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the loop has no readers there")


@pytest.fixture
def loop() -> Iterator[SharedLoop]:
    loop = SharedLoop(lambda run: run(), lambda: None)
    yield loop
    loop.close()


def step(loop: SharedLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run()


def soon() -> float:
    return time.monotonic() + 0.05


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]

needs_epoll = pytest.mark.skipif(not EPOLL, reason="without epoll the loop is run")


class Asking(Waiter):
    """Waits for what a socket receives."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._socket = sock
        self.source = self
        self.is_reading_paused = False
        self.received: list[bytes] = []
        self.begun_on: list[object] = []

    def begin(self) -> None:
        self.begun_on.append(asyncio.get_running_loop())

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def read_now(self) -> None:
        assert asyncio.get_running_loop() is self.begun_on[-1]
        self.received.append(self._socket.recv(10))


@pytest.fixture
def asking(loop: SharedLoop, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(shared_loop, "DUE", 3600)  # however busy the machine is
    step(loop)
    return Asking(pair[0])


@needs_epoll
def test_who_sends_something_waits_for_the_answer(loop: SharedLoop, pair: Pair, asking: Asking) -> None:
    pair[1].send(b"x")
    loop.exchange(asking, None)
    assert asking.received == [b"x"] and asking.begun_on == [loop]
    assert not loop.has_work()
    loop.exchange(asking, soon())  # nothing came
    assert asking.received == [b"x"]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@needs_epoll
def test_the_answer_comes_before_what_else_is_to_be_read(loop: SharedLoop, pair: Pair, asking: Asking) -> None:
    calls: list[None] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, calls.append, None)
        theirs.send(b"else")
        began = time.monotonic()
        loop.exchange(asking, None)  # it ends, for what the loop has to read
        assert time.monotonic() - began < 5 and not asking.received
        pair[1].send(b"x")
        loop.exchange(asking, None)
        assert asking.received == [b"x"] and not calls
        while not calls:  # a step may go without a look
            step(loop)
        loop.remove_reader(ours)


@needs_epoll
def test_another_socket_of_another_waiter(loop: SharedLoop, pair: Pair, asking: Asking) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(2):
            for sender, waiter in ((pair[1], asking), (theirs, Asking(ours))):
                sender.send(b"x")
                loop.exchange(waiter, None)
                assert waiter.received[-1] == b"x"


@needs_epoll
def test_what_reading_raises_is_told_and_ends_nothing(
    loop: SharedLoop, pair: Pair, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr(Asking, "begin", lambda _: None)  # which reading expects
    pair[1].send(b"x")
    loop.exchange(asking, None)
    assert [type(context["exception"]) for context in told] == [IndexError]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_it_ends_in_time(loop: SharedLoop, asking: Asking) -> None:
    began = time.monotonic()
    loop.exchange(asking, began + 0.03)
    assert 0.03 <= time.monotonic() - began < 5 or not EPOLL
    loop.exchange(asking, began)


def test_it_ends_before_the_next_timer(loop: SharedLoop, asking: Asking) -> None:
    fired: list[None] = []
    loop.call_later(0.02, fired.append, None)
    loop.exchange(asking, None)
    loop.exchange(asking, time.monotonic() + 30)
    loop.exchange(asking, time.monotonic() + 1e300)
    assert not fired
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert fired


@pytest.mark.parametrize("why", ["a call", "a timer", "done", "no source", "ended", "paused", "due"])
def test_where_the_loop_is_to_be_run_nobody_waits(
    loop: SharedLoop, pair: Pair, asking: Asking, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    match why:
        case "a call":
            loop.call_soon(lambda: None)
        case "a timer":
            loop.call_later(0, lambda: None)
        case "done":
            asking.is_done = True
        case "no source":
            asking.source = None
        case "ended":
            pair[0].close()
        case "paused":
            asking.is_reading_paused = True
        case _:
            monkeypatch.setattr(shared_loop, "DUE", -1)
    loop.exchange(asking, None)  # would not return
    assert len(asking.begun_on) == 1
    assert loop.is_due == (why == "due")


def test_it_is_due_a_while_after_it_ran(loop: SharedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.exchange(Waiter(), None)
    assert loop.is_due
    monkeypatch.setattr(shared_loop, "DUE", 3600)
    step(loop)
    assert not loop.is_due
    loop.exchange(Waiter(), None)
    assert not loop.is_due


@needs_epoll
def test_a_call_ends_it_and_is_left_to_the_loop(loop: SharedLoop, asking: Asking, in_thread: InThread) -> None:
    calls: list[None] = []
    thread = in_thread(loop.call_soon_threadsafe, calls.append, None)
    loop.exchange(asking, None)
    thread.join()
    assert loop.has_work() and not calls
    step(loop)
    assert calls


def test_an_asyncio_that_hides_what_is_due_is_run(
    loop: SharedLoop, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(loop, "_scheduled")
    loop.exchange(asking, None)
    monkeypatch.undo()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists the descriptors")
def test_nothing_is_left_open(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        loop = SharedLoop(lambda run: run(), lambda: None)
        step(loop)
        loop.exchange(Asking(pair[0]), soon())
        loop.close()
        loop.close()
        loop.exchange(Asking(pair[0]), soon())
    assert len(os.listdir("/proc/self/fd")) == before


# --- one publish at a time --------------------------------------------------------------------------------------------


class Runs:
    """How often the calling thread ran the loop as asyncio does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        thread, run = threading.get_ident(), SharedLoop.run

        def counted(loop: SharedLoop) -> None:
            self.count += threading.get_ident() == thread
            run(loop)

        monkeypatch.setattr(SharedLoop, "run", counted)


@needs_epoll
def test_a_confirmed_publish_needs_no_turn_of_the_loop(
    client: blocking.Client, channel: blocking.Channel, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_loop, "DUE", 3600)  # however busy the machine is
    runs = Runs(monkeypatch)
    for publish in client.publish, channel.publish:
        publish(b"first", routing_key=queue)
        runs.count = 0
        for _ in range(20):
            publish(b"x", routing_key=queue)
        assert runs.count <= 2  # the spare thread may have come, and where it leads a waiting thread follows
    assert channel.declare_queue(queue, passive=True).message_count == 42


def test_a_timer_is_not_late_because_of_it(client: blocking.Client, queue: str) -> None:
    """Who publishes on and on never lets the spare thread run the loop."""
    loop, fired = client._portal.turns.loop, threading.Event()
    client.publish(b"first", routing_key=queue)
    client._portal.submit(lambda: loop.call_later(0.02, fired.set))
    began = time.monotonic()
    while not fired.is_set() and time.monotonic() - began < 5:
        client.publish(b"x", routing_key=queue)
    assert fired.is_set()


def test_nor_of_waits_that_end_as_they_begin(client: blocking.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "UNATTENDED", 3600)  # the spare thread does not find nobody leading, between two
    turns, fired = client._portal.turns, threading.Event()

    class Short(Waiter):
        def begin(self) -> None:
            turns.end(self)

    client._portal.submit(lambda: turns.loop.call_later(0.02, fired.set))
    began = time.monotonic()
    while not fired.is_set() and time.monotonic() - began < 5:
        turns.wait(Short())
    assert fired.is_set()


@needs_epoll
def test_what_else_arrives_meanwhile_is_not_left(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    """A delivery for another thread that waits, while this one publishes."""
    received: list[bytes] = []
    with client.consume(queue) as deliveries:

        def receive() -> None:
            for _ in range(100):
                delivery = deliveries.receive(timeout=20)
                assert delivery is not None
                delivery.ack()
                received.append(delivery.body)

        thread = in_thread(receive)
        for number in range(100):
            client.publish(b"%d" % number, routing_key=queue, timeout=20)
        thread.join(20)
    assert received == [b"%d" % number for number in range(100)]
