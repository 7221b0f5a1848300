"""The event loop that threads run in turn: what who only watches its sockets sees to, and what is left to the loop."""

from __future__ import annotations

import asyncio
import contextvars
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

needs_epoll = pytest.mark.skipif(not EPOLL, reason="without epoll nothing is watched")


@needs_epoll
def test_who_watches_has_sockets_read(loop: SharedLoop, pair: Pair) -> None:
    """As the loop would: in the context of who asked for it, and on the loop."""
    ours, theirs = pair
    variable = contextvars.ContextVar[str]("variable")
    seen: list[Any] = []

    def read(size: int) -> None:
        seen.append((ours.recv(size), variable.get(), asyncio.get_running_loop()))

    def watch() -> None:
        variable.set("as it was")
        loop.add_reader(ours, read, 10)

    contextvars.copy_context().run(watch)
    theirs.send(b"x")
    loop.watch(None)
    assert seen == [(b"x", "as it was", loop)]
    assert not loop.has_work()
    loop.watch(soon())  # nothing came
    theirs.send(b"y")
    while len(seen) < 2:  # a step may go without a look
        step(loop)
    assert seen[1][0] == b"y"


@needs_epoll
def test_a_reader_that_was_removed_is_not_called(loop: SharedLoop, pair: Pair) -> None:
    ours, theirs = pair
    calls: list[None] = []
    loop.add_reader(ours, calls.append, None)
    assert loop.remove_reader(ours)
    assert not loop.remove_reader(ours.fileno())
    theirs.send(b"x")
    loop.watch(soon())
    assert not calls


@needs_epoll
def test_what_a_reader_raises_is_told_and_ends_nothing(loop: SharedLoop, pair: Pair) -> None:
    ours, theirs = pair
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))

    def read() -> None:
        ours.recv(10)
        raise ZeroDivisionError

    loop.add_reader(ours.fileno(), read)
    theirs.send(b"x")
    loop.watch(None)
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError]
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_it_ends_in_time(loop: SharedLoop) -> None:
    began = time.monotonic()
    loop.watch(began + 0.03)
    assert 0.03 <= time.monotonic() - began < 5 or not EPOLL
    loop.watch(began)


def test_it_ends_before_the_next_timer(loop: SharedLoop) -> None:
    fired: list[None] = []
    loop.call_later(0.02, fired.append, None)
    loop.watch(None)
    loop.watch(time.monotonic() + 30)
    loop.watch(time.monotonic() + 1e300)
    assert not fired
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert fired


@pytest.mark.parametrize("has_timer", [False, True])
def test_where_the_loop_is_to_be_run_nothing_is_watched(loop: SharedLoop, has_timer: bool) -> None:
    if has_timer:
        loop.call_later(0, lambda: None)
    else:
        loop.call_soon(lambda: None)
    loop.watch(None)  # would not return


def test_it_is_due_a_while_after_it_ran(loop: SharedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop.is_due()
    monkeypatch.setattr(shared_loop, "DUE", 3600)
    step(loop)
    assert not loop.is_due()


@needs_epoll
def test_a_call_ends_it_and_is_left_to_the_loop(loop: SharedLoop, in_thread: InThread) -> None:
    calls: list[None] = []
    thread = in_thread(loop.call_soon_threadsafe, calls.append, None)
    loop.watch(None)
    thread.join()
    assert loop.has_work() and not calls
    step(loop)
    assert calls


def test_an_asyncio_that_hides_what_is_due_is_run(loop: SharedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(loop, "_scheduled")
    loop.watch(None)
    monkeypatch.undo()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists the descriptors")
def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        loop = SharedLoop(lambda run: run(), lambda: None)
        loop.watch(soon())
        loop.close()
        loop.close()
        loop.watch(soon())
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
