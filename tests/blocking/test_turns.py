"""Who runs the event loop: the thread that waits, one at a time, and a spare one where nobody does."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import rabbitry
from rabbitry import blocking
from rabbitry.blocking import signals
from rabbitry.blocking.signals import Guard, Note
from rabbitry.blocking.spare import UNATTENDED
from rabbitry.blocking.turns import Turns
from rabbitry.blocking.waiter import Waiter
from tests.blocking.test_ends import eventually
from tests.blocking.test_interrupts import run

InThread = Callable[..., threading.Thread]


class Leaders:
    """The threads that ran the loop, as often as they did."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self) -> None:
        self.names.append(threading.current_thread().name)


@pytest.fixture
def leaders(monkeypatch: pytest.MonkeyPatch) -> Leaders:
    leaders = Leaders()
    run_loop, lead_once = Turns._run, Turns._lead_once

    def noted_run(self: Turns, waiter: Waiter, end: float | None) -> None:
        leaders.note()
        run_loop(self, waiter, end)

    def noted_once(self: Turns, run: Callable[[], None]) -> bool:
        leaders.note()
        return lead_once(self, run)

    monkeypatch.setattr(Turns, "_run", noted_run)
    monkeypatch.setattr(Turns, "_lead_once", noted_once)
    return leaders


def test_a_lone_thread_hands_nothing_over(client: blocking.Client, queue: str, leaders: Leaders) -> None:
    client.publish(b"first", routing_key=queue)
    leaders.names.clear()
    began = time.monotonic()
    for _ in range(50):
        client.publish(b"x", routing_key=queue, timeout=10)
    if time.monotonic() - began < UNATTENDED:  # else the spare thread may have come, on a busy machine
        assert set(leaders.names) == {"MainThread"}
    assert leaders.names.count("MainThread") >= 50


def test_the_spare_thread_comes_where_nobody_waits(client: blocking.Client, queue: str, leaders: Leaders) -> None:
    client.publish(b"x", routing_key=queue)
    leaders.names.clear()
    eventually(lambda: "rabbitry.blocking" in leaders.names)

    def makes_way() -> bool:  # unless the confirm has come before it could
        client.publish(b"x", routing_key=queue)
        return "MainThread" in leaders.names

    eventually(makes_way)


def test_what_nobody_waits_for_is_done_soon(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    client.publish_many([b"1", b"2"], routing_key=queue)
    delivery = channel.get(queue)
    assert delivery is not None
    delivery.ack()
    eventually(lambda: not channel._portal._settlements)
    called = threading.Event()
    client._portal.submit(called.set)
    assert called.wait(5)


@pytest.mark.parametrize("waits", [False, True])
def test_idle_for_three_heartbeats(amqp_url: str, queue: str, waits: bool) -> None:
    """While nobody waits the spare thread sees to them, and else who waits."""
    with blocking.open_client(amqp_url, heartbeat=1) as client, client.consume(queue) as deliveries:
        client.publish(b"x", routing_key="nowhere")
        if waits:
            with pytest.raises(TimeoutError):
                deliveries.receive(timeout=3.5)
        else:
            time.sleep(3.5)
        client.publish(b"x", routing_key=queue, timeout=5)
        delivery = deliveries.receive(timeout=5)
        assert delivery is not None
        delivery.ack()
        statistics = client.statistics()
        assert (statistics["publishing_lives"], statistics["consuming_lives"]) == (1, 1)


def test_threads_that_end_right_after_they_led(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    for number in range(100):
        thread = in_thread(partial(client.publish, b"%d" % number, routing_key=queue, timeout=10))
        if number % 3:
            client.publish(b"main", routing_key=queue, timeout=10)
        thread.join(10)
    time.sleep(2 * UNATTENDED)
    info = client.inspect(queue, timeout=10)
    assert info is not None and info.message_count == 166


def test_who_follows_is_told_to_lead(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    """The one that leads waits for what takes longest, and is interrupted, or done, before the others."""
    received: list[bytes] = []
    with client.consume(queue) as deliveries, client.consume(queue) as others:

        def receive(consumer: blocking.Consumer) -> None:
            delivery = consumer.receive(timeout=20)
            assert delivery is not None
            delivery.ack()
            received.append(delivery.body)

        for _ in range(50):
            threads = [in_thread(receive, deliveries), in_thread(receive, others)]
            with pytest.raises(TimeoutError):
                client.wait_closed(timeout=0.002)
            client.publish_many([b"x"] * 2, routing_key=queue, timeout=10)
            for thread in threads:
                thread.join(0.01)
            while any(thread.is_alive() for thread in threads):  # one consumer may have got both
                client.publish(b"x", routing_key=queue, timeout=10)
                for thread in threads:
                    thread.join(0.05)
    assert len(received) == 100


def test_a_stack_that_is_nearly_full(client: blocking.Client, amqp_url: str, leaders: Leaders) -> None:
    """Who recurses too far gets the error, and nobody else."""
    client.publish(b"", routing_key="nowhere")
    leaders.names.clear()

    def recurse() -> None:
        client.publish(b"", routing_key="nowhere")
        recurse()

    with blocking.connect(amqp_url) as other:
        for _ in range(3):
            with pytest.raises(RecursionError):
                recurse()
        client.publish(b"", routing_key="nowhere", timeout=5)
        assert other.is_open and client.statistics()["publishing_lives"] == 1
    assert "rabbitry.blocking" in leaders.names  # ran it where the stack was too deep for the caller to do so


def test_who_comes_to_follow_as_the_loop_ends_is_told(amqp_url: str, in_thread: InThread) -> None:
    """It had asked before whether all is over, and did not go on until it was."""
    with blocking.open_client(amqp_url) as client:
        turns = client._portal.turns
    eventually(lambda: turns.has_ended)
    waiter = Waiter()
    in_thread(turns._follow, waiter, None).join(5)
    assert waiter.is_done


def test_the_loop_ends_where_another_thread_runs_it(amqp_url: str, in_thread: InThread) -> None:
    with blocking.open_client(amqp_url) as client:
        turns, waiter = client._portal.turns, Waiter()
        in_thread(turns.wait, waiter)
        eventually(lambda: turns.leading is waiter)
        began = time.monotonic()
    assert time.monotonic() - began < 5 and turns.has_ended and waiter.is_done


def test_inside_a_running_event_loop(amqp_url: str, leaders: Leaders) -> None:
    """As in Jupyter: its loop waits meanwhile, and the spare thread runs ours."""

    async def cell() -> None:
        with blocking.open_client(amqp_url) as client:
            for _ in range(20):
                client.publish(b"x", routing_key="nowhere", timeout=5)
            assert client.publish_many([b"x"] * 3, routing_key="nowhere", timeout=5) == 3
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError), blocking.connect(amqp_url) as connection:
            connection.wait_closed(timeout=0.01)

    asyncio.run(cell())
    assert "MainThread" not in leaders.names


def test_a_time_out_binds_while_another_leader_is_held_up(
    client: blocking.Client, queue: str, in_thread: InThread
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold(_: blocking.Confirmation) -> None:
        held.set()
        go_on.wait(30)

    def publish() -> None:
        with client.publisher(on_outcome=hold) as publisher:
            publisher.publish(b"x", routing_key=queue)

    client.publish(b"x", routing_key=queue)
    in_thread(publish)
    assert held.wait(10)
    with pytest.raises(TimeoutError, match="held up"):
        client.publish(b"late", routing_key=queue, timeout=0.1)
    go_on.set()
    client.publish(b"x", routing_key=queue, timeout=10)


def test_a_leaders_lines_are_written_in_another_thread(proxy: Any, leaders: Leaders) -> None:
    writers: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            writers.append(threading.current_thread().name)

    handler = Handler()
    logging.getLogger("rabbitry").addHandler(handler)
    try:
        with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.01)) as client:
            for _ in range(5):
                client.publish(b"x", routing_key="nowhere", timeout=10)
                proxy.cut()
                client.publish(b"x", routing_key="nowhere", timeout=10, on_unknown="republish")
    finally:
        logging.getLogger("rabbitry").removeHandler(handler)
    assert writers and set(writers) == {"rabbitry.blocking.log"}
    logging.getLogger("rabbitry").debug("here")  # nothing stays behind in this thread


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_thousand_ctrl_c_in_the_leader(amqp_url: str) -> None:
    assert run("struck.py", amqp_url) == [
        "1000 interruptions, and it works",
        "SystemExit of SIGTERM",
        "a handler that publishes",
        "handlers are as they were",
        "left",
    ]


@pytest.fixture
def on_usr1() -> Iterator[Callable[[Callable[..., Any]], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler) and None
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_noted_and_its_handler_called_at_the_end(on_usr1: Callable[..., None]) -> None:
    interruptions: list[None] = []
    guard = Guard(lambda: interruptions.append(None))

    def handler(number: int, frame: object) -> None:
        assert frame is not None
        raise ZeroDivisionError(number)

    on_usr1(handler)
    guard.begin()
    assert isinstance(signal.getsignal(signal.SIGUSR1), Note)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert len(interruptions) == 3
    with pytest.raises(ZeroDivisionError):
        guard.end()
    assert signal.getsignal(signal.SIGUSR1) is handler
    guard.begin()
    guard.end()  # nothing is due any more
    with pytest.raises(ZeroDivisionError):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_note_that_stays_behind_does_what_the_handler_does(on_usr1: Callable[..., None]) -> None:
    guard, calls = Guard(lambda: None), []
    on_usr1(lambda *_: calls.append(None))
    handler = signal.getsignal(signal.SIGUSR1)
    guard.begin()
    guard.is_on = False  # as where something was raised before the handlers were put back
    os.kill(os.getpid(), signal.SIGUSR1)
    assert len(calls) == 1
    guard.begin()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert len(calls) == 1
    guard.end()
    assert len(calls) == 2 and signal.getsignal(signal.SIGUSR1) is handler


def test_a_handler_that_was_exchanged_meanwhile_stays(on_usr1: Callable[..., None]) -> None:
    guard = Guard(lambda: None)
    on_usr1(lambda *_: None)
    guard.begin()

    def newer(*_: object) -> None: ...

    on_usr1(newer)
    guard.end()
    assert signal.getsignal(signal.SIGUSR1) is newer


def test_all_handlers_are_called_whatever_one_raises(on_usr1: Callable[..., None]) -> None:
    guard, calls = Guard(lambda: None), []

    def handler(number: int, _: object) -> None:
        calls.append(number)
        raise ZeroDivisionError

    on_usr1(handler)
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        guard.begin()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(ZeroDivisionError):
            guard.end()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert sorted(calls) == sorted([signal.SIGUSR1, signal.SIGUSR2])


def test_what_a_handler_raises_as_they_are_put_back_keeps_none_from_that(
    on_usr1: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, set_handler, strikes = Guard(lambda: None), signals._set_handler, [0, 1]
    on_usr1(lambda *_: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    guard.begin()

    def struck(number: int, handler: object) -> None:
        if strikes:
            raise ZeroDivisionError(strikes.pop())
        set_handler(number, handler)

    monkeypatch.setattr(signals, "_set_handler", struck)
    with pytest.raises(ZeroDivisionError):
        guard.end()
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_handler_that_runs_the_loop_as_the_handlers_are_exchanged(
    on_usr1: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, set_handler, strikes = Guard(lambda: None), signals._set_handler, [None]
    on_usr1(lambda *_: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}

    def struck(number: int, handler: object) -> None:
        set_handler(number, handler)
        if strikes:
            strikes.pop()
            guard.begin()
            guard.end()

    monkeypatch.setattr(signals, "_set_handler", struck)
    guard.begin()
    assert guard.is_on and all(isinstance(signal.getsignal(number), Note) for number in before)
    guard.end()
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_is_no_leader(amqp_url: str) -> None:
    assert run("forked.py", amqp_url) == ["the child's handler is its own", "the child is interrupted", "left"]


def test_the_main_thread_looks_for_signals_as_it_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes as it is about to fall asleep wakes nobody. Other threads have no handlers to run."""
    monkeypatch.setattr("rabbitry.blocking.waiter.LONGEST_OF_MAIN", 0.01)
    waiter = Waiter()
    waiter.sleep(None)
    waiter.sleep(60)
    other = threading.Thread(target=waiter.sleep, args=(None,), daemon=True)
    other.start()
    other.join(0.2)
    assert other.is_alive()
    waiter.wake()
    other.join(5)
    assert not other.is_alive()
