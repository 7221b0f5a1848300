"""A logging handler that publishes: with the client's own lines, and amid those of other threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import rabbitry
from rabbitry import blocking
from rabbitry.blocking import log_thread
from tests.blocking.test_ends import eventually
from tests.blocking.test_interrupts import run
from tests.support.helpers import unique

InThread = Callable[..., threading.Thread]


class Publishing(logging.Handler):
    """Publishes each line; what it does not keep to itself is a defect of it."""

    def __init__(self, publish: Callable[[bytes], object]) -> None:
        super().__init__()
        self.publish = publish
        self.failures: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.publish(record.getMessage().encode())
        except Exception as error:
            self.failures.append(error)


@pytest.fixture
def attach() -> Iterator[Callable[[logging.Handler], None]]:
    """Adds a handler to the root logger, for one test."""
    root, handlers = logging.getLogger(), []
    level = root.level

    def add(handler: logging.Handler) -> None:
        handlers.append(handler)
        root.addHandler(handler)
        root.setLevel(logging.INFO)

    yield add
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def bodies(client: blocking.Client, queue: str, count: int) -> list[str]:
    """So many messages, which must come."""
    with client.consume(queue, inactivity_timeout=20) as deliveries:
        found: list[str] = []
        for delivery in deliveries:
            delivery.ack()
            found.append(delivery.body.decode())
            if len(found) == count:
                break
        return found


@pytest.mark.parametrize("timeout", [None, 15])
def test_a_line_of_the_clients_own_amid_a_publish_of_the_handler(
    proxy: Any, queue: str, attach: Callable[[logging.Handler], None], in_thread: InThread, timeout: float | None
) -> None:
    """The handler's lock is held by who publishes in it, and the loop logs that the connection was lost."""
    with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.1)) as client:
        client.publish(b"first", routing_key=queue)

        def publish(line: bytes) -> None:
            if line == b"cut":
                proxy.cut()
            client.publish(line, routing_key=queue, on_unknown="republish", timeout=timeout)

        attach(handler := Publishing(publish))
        thread = in_thread(logging.getLogger("app").warning, "cut")
        thread.join(20)
        assert not thread.is_alive()
        found = bodies(client, queue, 4)
        assert found[0] == "first" and "cut" in found
        assert any("was lost" in line for line in found)  # the client's own line was published as any
        assert handler.failures == []


def test_many_threads_log_while_the_connection_is_cut_again_and_again(
    proxy: Any, queue: str, attach: Callable[[logging.Handler], None], in_thread: InThread
) -> None:
    with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.05)) as client:
        client.publish(b"first", routing_key=queue)
        publish = partial(client.publish, routing_key=queue, on_unknown="republish")
        attach(Publishing(lambda line: publish(line) if line.startswith(b"app") else None))

        def work(name: int) -> None:
            for number in range(30):
                logging.getLogger("app").warning("app %s.%s", name, number)

        threads = [in_thread(work, name) for name in range(4)]
        for _ in range(5):
            proxy.cut()
            client.publish(b"x", routing_key=queue, on_unknown="republish")
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def test_a_handler_that_opens_the_client_as_it_is_first_needed(
    amqp_url: str, attach: Callable[[logging.Handler], None], in_thread: InThread
) -> None:
    """asyncio has a line of its own for each event loop, at DEBUG."""
    published: list[bytes] = []

    def publish(line: bytes) -> None:
        with blocking.open_client(amqp_url) as client:
            client.publish(line, routing_key="nowhere")
            published.append(line)

    attach(Publishing(publish))
    logging.getLogger().setLevel(logging.DEBUG)
    thread = in_thread(logging.getLogger("app").warning, "line")
    thread.join(20)
    assert not thread.is_alive() and published[0] == b"line"


def test_a_handler_that_is_made_and_closed_with_the_logging_modules_locks_held(amqp_url: str) -> None:
    assert run("logging_configured.py", amqp_url) == ["configured", "logged", "closed"]


def test_a_handler_that_raises_harms_nothing(
    proxy: Any, attach: Callable[[logging.Handler], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most keep their errors to themselves."""

    class Raising(logging.Handler):
        calls = 0

        def emit(self, record: logging.LogRecord) -> None:
            self.calls += 1
            raise ZeroDivisionError

    told: list[object] = []
    monkeypatch.setattr(log_thread.traceback, "print_exc", lambda: told.append(None))
    attach(handler := Raising())
    with blocking.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.05)) as client:
        client.publish(b"x", routing_key="nowhere")
        proxy.cut()
        client.publish(b"x", routing_key="nowhere", on_unknown="republish", timeout=20)
    assert handler.calls == len(told) >= 1


def test_lines_that_nobody_writes_are_bounded(
    proxy: Any,
    attach: Callable[[logging.Handler], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(log_thread, "LINES_KEPT", 2)
    is_writing, go_on = threading.Event(), threading.Event()

    def publish(_: bytes) -> None:
        is_writing.set()
        go_on.wait(20)

    attach(Publishing(publish))
    lines = logging.getLogger("rabbitry")
    with blocking.open_client(proxy.url) as client:
        client._portal.submit(partial(lines.warning, "line 0"))
        assert is_writing.wait(20)
        for number in range(1, 5):
            client._portal.submit(partial(lines.warning, "line %s", number))
        client.publish(b"x", routing_key="nowhere", timeout=10)  # (by then they were logged)
        go_on.set()
        eventually(lambda: "log lines were dropped" in caplog.text)
    assert "line 0" in caplog.text and "line 4" not in caplog.text


# --- who waits where nothing can come ---------------------------------------------------------------------------------


def test_time_outs_bind_while_a_callback_holds_up_the_loop(
    queue: str, client: blocking.Client, channel: blocking.Channel
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold(_: blocking.Confirmation) -> None:
        held.set()
        go_on.wait(30)

    client.publish(b"x", routing_key=queue)
    with client.publisher(on_outcome=hold) as publisher:
        publisher.submit(b"x", routing_key=queue)
        assert held.wait(10)
        deliveries = client.consume(queue, timeout=0.1)
        for call in (
            partial(client.publish, b"late", routing_key=queue, timeout=0.1),
            partial(client.publish_many, [b"late"], routing_key=queue, timeout=0.1),
            partial(client.inspect, queue, timeout=0),
            deliveries.__enter__,
            partial(channel.get, queue, timeout=0.1),
        ):
            with pytest.raises(TimeoutError, match="held up"):
                call()
        go_on.set()
    assert channel.declare_queue(queue, passive=True).consumer_count == 0
    assert channel.purge_queue(queue) == 2  # nothing late was published, and nothing got that nobody took
    client.publish(b"x", routing_key=queue, timeout=5)


def test_a_call_in_the_loops_own_thread_is_refused_at_once(client: blocking.Client, queue: str) -> None:
    refusals: list[Exception] = []
    deliveries = client.consume(queue)

    def told(_: blocking.Confirmation) -> None:
        for call in (
            deliveries.receive,
            lambda: client.publish(b"x", timeout=1),
            lambda: client.inspect(queue),
            lambda: client.consume(queue).__enter__(),
        ):
            try:
                call()
            except rabbitry.LocalProtocolError as refusal:
                refusals.append(refusal)

    with deliveries, client.publisher(on_outcome=told) as publisher:
        publisher.submit(b"x", routing_key=unique("nowhere"))
    assert len(refusals) == 4
    assert all("another thread" in str(refusal) for refusal in refusals)
