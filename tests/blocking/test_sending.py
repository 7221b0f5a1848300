"""One publish at a time: without a task where only the confirm is waited for, and else just as it ends with one."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

import rabbitry
from rabbitry import Backoff, Message, Queue, blocking
from rabbitry.blocking.turns import Turns
from rabbitry.testing import PrivateNode
from tests.blocking.test_ends import eventually
from tests.support.helpers import unique

InThread = Callable[..., threading.Thread]

QUICK = Backoff(initial=0.01, maximum=0.05)


class Begun:
    """How many operations had a task to run them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        start = Turns.start

        def counted(turns: Turns, *arguments: Any) -> None:
            self.count += 1
            start(turns, *arguments)

        monkeypatch.setattr(Turns, "start", counted)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Begun:
    return Begun(monkeypatch)


@pytest.fixture(params=["client", "channel"])
def publish(request: pytest.FixtureRequest, client: blocking.Client, channel: blocking.Channel) -> Callable[..., None]:
    """Both ways to publish, each with all that it needs."""
    client.publish(b"first", routing_key="nowhere")
    return client.publish if request.param == "client" else channel.publish


@contextmanager
def bounded(amqp_url: str) -> Iterator[str]:
    """A queue that takes one message, and refuses more."""
    name = unique("full")
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        channel.declare(Queue(name, max_length=1, overflow="reject-publish"))
        channel.publish(b"x", routing_key=name)
        yield name
        channel.delete_queue(name)


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("mandatory", [False, True])
@pytest.mark.parametrize("message", [b"x", bytearray(b"x"), Message(b"x", headers={"a": 1})])
def test_a_confirmed_publish_needs_no_task(
    publish: Callable[..., None], channel: blocking.Channel, queue: str, tasks: Begun, timeout: Any, mandatory: bool,
    message: Any,
) -> None:  # fmt: skip
    for _ in range(10):
        publish(message, routing_key=queue, mandatory=mandatory, timeout=timeout)
    assert tasks.count == 0
    assert channel.declare_queue(queue, passive=True).message_count == 10
    delivery = channel.get(queue)
    assert delivery is not None and delivery.body == b"x"


def test_nor_does_one_without_confirms(amqp_url: str, channel: blocking.Channel, queue: str, tasks: Begun) -> None:
    with blocking.connect(amqp_url) as connection, connection.channel(confirm=False) as plain:
        tasks.count = 0
        for _ in range(1000):
            plain.publish(b"x", routing_key=queue)
        assert tasks.count < 100  # those that had to wait for room
        plain.declare_queue(queue, passive=True)
        eventually(lambda: channel.declare_queue(queue, passive=True).message_count == 1000)


def test_an_exchange_as_a_value(publish: Callable[..., None], tasks: Begun) -> None:
    publish(b"x", exchange=rabbitry.Exchange("amq.fanout", "fanout"), routing_key="nowhere")
    publish(b"x", exchange=rabbitry.Exchange("amq.fanout", "fanout"), routing_key="nowhere")
    assert tasks.count <= 1  # the client's channel for that exchange had to be opened


# --- how else it ends -------------------------------------------------------------------------------------------------


def test_unroutable(publish: Callable[..., None]) -> None:
    for _ in range(2):
        with pytest.raises(rabbitry.Unroutable, match="nowhere"):
            publish(b"x", routing_key="nowhere", mandatory=True)
        publish(b"x", routing_key="nowhere")


def test_nacked(publish: Callable[..., None], amqp_url: str) -> None:
    with bounded(amqp_url) as full:
        for _ in range(3):
            with pytest.raises(rabbitry.Nacked):
                publish(b"x", routing_key=full)
    publish(b"x", routing_key="nowhere")


def test_a_channel_that_nacked_is_replaced(client: blocking.Client, amqp_url: str) -> None:
    client.publish(b"first", routing_key="nowhere")
    with bounded(amqp_url) as full:
        before = client._async._senders.ready("")
        with pytest.raises(rabbitry.Nacked):
            client.publish(b"x", routing_key=full)
        assert client._async._senders.ready("") is not before


def test_refused(client: blocking.Client, channel: blocking.Channel) -> None:
    exchange = unique("gone")
    channel.declare_exchange(exchange, "fanout")
    client.publish(b"x", exchange=exchange)
    channel.publish(b"x", exchange=exchange)
    channel.delete_exchange(exchange)
    for publish in client.publish, channel.publish:
        with pytest.raises(rabbitry.Refused, match="no exchange"):
            publish(b"x", exchange=exchange)
    client.publish(b"x", routing_key="nowhere")
    with pytest.raises(rabbitry.ChannelClosed):
        channel.publish(b"x", routing_key="nowhere")


WRONG: list[tuple[type[Exception], dict[str, Any]]] = [
    (TypeError, {"message": "text"}),
    (TypeError, {"message": None}),
    (TypeError, {"exchange": 7}),
    (ValueError, {"routing_key": "x" * 256}),
    (TypeError, {"timeout": "soon"}),
]


@pytest.mark.parametrize(("error", "arguments"), WRONG)
def test_wrong_arguments(
    publish: Callable[..., None], channel: blocking.Channel, queue: str, error: type[Exception], arguments: Any
) -> None:
    with pytest.raises(error):
        publish(**{"message": b"x", "routing_key": queue} | arguments)
    publish(b"x", routing_key=queue)
    assert channel.declare_queue(queue, passive=True).message_count == 1


@pytest.mark.parametrize("arguments", [{"while_down": "sleep"}, {"on_unknown": "guess"}, {"delay": -1}])
def test_wrong_policies(client: blocking.Client, queue: str, arguments: Any) -> None:
    client.publish(b"x", routing_key=queue)
    with pytest.raises(ValueError):
        client.publish(b"x", routing_key=queue, **arguments)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 1


def test_before_and_after_the_block(amqp_url: str) -> None:
    connection = blocking.connect(amqp_url)
    with connection:
        channel = connection.channel()
        with pytest.raises(rabbitry.NotConnected, match="not open"):
            channel.publish(b"x", routing_key="nowhere")
        with channel:
            channel.publish(b"x", routing_key="nowhere")
        with pytest.raises(rabbitry.Closed):
            channel.publish(b"x", routing_key="nowhere")
    with blocking.open_client(amqp_url) as client:
        client.publish(b"x", routing_key="nowhere")
    with pytest.raises(rabbitry.NotConnected, match="closed"):
        client.publish(b"x", routing_key="nowhere")


# --- a connection that stalls, and ends -------------------------------------------------------------------------------


def test_a_timeout_says_so_and_what_follows_is_in_order(proxy: Any, channel: blocking.Channel, queue: str) -> None:
    with blocking.open_client(proxy.url) as client, blocking.connect(proxy.url) as other, other.channel() as stalled:
        client.publish(b"first", routing_key="nowhere")
        proxy.stall()
        for publish in client.publish, stalled.publish:
            with pytest.raises(TimeoutError, match=r"not done within 0\.05 s, and cancelled"):
                publish(b"x", routing_key=queue, timeout=0.05)
        proxy.resume()
        for publish in client.publish, stalled.publish:
            for _ in range(5):
                publish(b"x", routing_key=queue, timeout=5)
    assert channel.declare_queue(queue, passive=True).message_count == 12  # those that came too late were sent


def test_no_time_at_all_sends_nothing(publish: Callable[..., None], channel: blocking.Channel, queue: str) -> None:
    with pytest.raises(TimeoutError):
        publish(b"x", routing_key=queue, timeout=0)
    publish(b"y", routing_key=queue, timeout=5)
    assert channel.declare_queue(queue, passive=True).message_count == 1


class Body(bytearray):
    """Bytes that can be watched."""


def test_who_gave_up_is_forgotten_once_the_outcome_has_come(proxy: Any) -> None:
    with blocking.open_client(proxy.url) as client:
        client.publish(b"first", routing_key="nowhere")
        proxy.stall()
        body = Body(b"x")
        watched = weakref.ref(body)
        with pytest.raises(TimeoutError):
            client.publish(body, routing_key="nowhere", timeout=0.05)
        del body
        proxy.resume()
        client.publish(b"x", routing_key="nowhere", timeout=5)
        gc.collect()
        assert watched() is None


def cut_amid(proxy: Any, in_thread: InThread, publish: Callable[[], None]) -> list[BaseException | None]:
    """How a publish ends, that is under way when the connection is cut."""
    ends: list[BaseException | None] = []

    def note() -> None:
        try:
            publish()
            ends.append(None)
        except rabbitry.RabbitryError as error:
            ends.append(error)

    proxy.stall()
    thread = in_thread(note)
    thread.join(0.1)
    assert thread.is_alive()
    proxy.cut()
    proxy.resume()
    thread.join(10)
    return ends


def test_a_cut_leaves_the_outcome_unknown(proxy: Any, in_thread: InThread) -> None:
    with blocking.open_client(proxy.url, reconnect=QUICK) as client:
        client.publish(b"first", routing_key="nowhere")
        (error,) = cut_amid(proxy, in_thread, partial(client.publish, b"x", routing_key="nowhere"))
        assert isinstance(error, rabbitry.OutcomeUnknown)
        client.publish(b"x", routing_key="nowhere", timeout=10)
    with blocking.connect(proxy.url) as connection, connection.channel() as channel:
        (error,) = cut_amid(proxy, in_thread, partial(channel.publish, b"x", routing_key="nowhere"))
        assert isinstance(error, rabbitry.OutcomeUnknown)
        with pytest.raises(rabbitry.ConnectionClosed):
            channel.publish(b"x", routing_key="nowhere")


@pytest.mark.parametrize("timeout", [None, 10])
def test_republished_after_a_cut(proxy: Any, in_thread: InThread, queue: str, timeout: Any) -> None:
    with blocking.open_client(proxy.url, reconnect=QUICK) as client:
        client.publish(b"first", routing_key="nowhere")
        publish = partial(client.publish, b"x", routing_key=queue, on_unknown="republish", timeout=timeout)
        assert cut_amid(proxy, in_thread, publish) == [None]
        assert client.statistics()["republished"] == 1
        info = client.inspect(queue, timeout=10)
        assert info is not None and info.message_count >= 1


def test_blocked_by_an_alarm() -> None:
    with (
        PrivateNode() as node,
        blocking.open_client(node.url) as client,
        client.changes() as changes,
        blocking.connect(node.url) as connection,
        connection.channel() as channel,
    ):
        client.publish(b"x", routing_key="nowhere", timeout=30)
        with node.memory_alarm():
            for publish in client.publish, channel.publish:
                with pytest.raises(TimeoutError):
                    publish(b"y", routing_key="nowhere", timeout=1)
            while not changes.receive(timeout=30).is_alarm:  # type: ignore[union-attr]
                pass
            with pytest.raises(rabbitry.ConnectionBlocked):
                client.publish(b"y", routing_key="nowhere", while_down="fail", timeout=5)
            for publish in client.publish, channel.publish:
                with pytest.raises(TimeoutError):
                    publish(b"y", routing_key="nowhere", timeout=0.1)
        for publish in client.publish, channel.publish:
            publish(b"z", routing_key="nowhere", timeout=30)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_where_another_event_loop_runs(publish: Callable[..., None], channel: blocking.Channel, queue: str) -> None:
    """The calling thread can't run the loop: another one queues the message."""

    async def main() -> None:
        for _ in range(5):
            publish(b"x", routing_key=queue, timeout=10)

    asyncio.run(main())
    assert channel.declare_queue(queue, passive=True).message_count == 5


def test_many_threads_need_no_tasks_either(
    publish: Callable[..., None], channel: blocking.Channel, queue: str, in_thread: InThread, tasks: Begun
) -> None:
    def several() -> None:
        for _ in range(20):
            publish(b"x", routing_key=queue, timeout=30)

    threads = [in_thread(several) for _ in range(10)]
    for thread in threads:
        thread.join(30)
    assert tasks.count == 0
    assert channel.declare_queue(queue, passive=True).message_count == 200


class Watcher:
    """An instrumentation that counts the operations."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def begin(self, operation: object) -> None:
        self.begun += 1

    def end(self, operation: object) -> None:
        self.ended += 1

    def count(self, event: object, labels: object) -> None: ...


def test_an_operation_that_is_watched_is_one(amqp_url: str) -> None:
    watcher = Watcher()
    with (
        blocking.open_client(amqp_url, instrumentation=watcher) as client,
        blocking.connect(amqp_url, instrumentation=watcher) as connection,
        connection.channel() as channel,
    ):
        for number in range(1, 4):
            client.publish(b"x", routing_key="nowhere")
            channel.publish(b"x", routing_key="nowhere")
            assert watcher.begun == watcher.ended == 2 * number
