"""Time-outs, errors that leave blocks, misuse, and a broker that goes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import rabbitry
from rabbitry import Backoff, blocking
from rabbitry.blocking.operation import Operation

InThread = Callable[..., threading.Thread]

QUICK = Backoff(initial=0.01, maximum=0.05)


def eventually(condition: Callable[[], bool]) -> None:
    """Return when it is true, which takes no longer than five seconds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# --- time-outs --------------------------------------------------------------------------------------------------------


def test_every_wait_ends_in_time_and_leaves_all_in_order(proxy: Any, channel: blocking.Channel, queue: str) -> None:
    channel.publish(b"x", routing_key=queue)
    with (
        blocking.open_client(proxy.url) as client,
        client.rpc() as rpc,
        blocking.connect(proxy.url) as connection,
        connection.channel() as stalled,
    ):
        client.publish_many([b"y"], routing_key="nowhere")
        proxy.stall()
        for wait in (
            lambda: client.publish(b"x", routing_key="nowhere", timeout=0.02),
            lambda: client.publish_many([b"x"] * 3000, routing_key="nowhere", timeout=0.02),
            lambda: client.publish_many([b"x"], routing_key="nowhere", timeout=timedelta(milliseconds=20)),
            lambda: client.inspect(queue, timeout=0.02),
            lambda: client.wait_closed(timeout=0.02),
            lambda: client.channel(timeout=0.02).__enter__(),
            lambda: rpc.call(queue, 1, timeout=0.02),
            lambda: stalled.get(queue, timeout=0.02),
            lambda: stalled.publish(b"x", routing_key="nowhere", timeout=0.02),
            lambda: stalled.purge_queue(queue + "?", timeout=0.02),
        ):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                wait()
            assert time.monotonic() - began < 10
        for undo in (  # which waits for a channel to be closed
            lambda: client.consume(queue, timeout=0.02).__enter__(),
            lambda: client.process(queue, print, timeout=0.02),
            lambda: connection.rpc(timeout=0.02).__enter__(),
        ):
            resume = threading.Timer(0.1, proxy.resume)
            resume.start()
            with pytest.raises(TimeoutError):
                undo()
            resume.join()
            proxy.stall()
        proxy.resume()
        assert client.publish_many([b"x", b"y"], routing_key="nowhere", timeout=5) == 2
        client.publish(b"x", routing_key="nowhere", timeout=5)
    while (delivery := channel.get(queue, no_ack=True)) is None:  # the one that was got too late was put back
        pass
    assert delivery.body == b"x"


def test_a_call_carries_its_deadline(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    with client.rpc() as rpc:
        with pytest.raises(TimeoutError):
            rpc.call(queue, 1, timeout=0.05)
        while channel.declare_queue(queue, passive=True).message_count:  # it expires
            pass


def test_no_time_means_not_done(channel: blocking.Channel, queue: str) -> None:
    with pytest.raises(TimeoutError):
        channel.publish(b"x", routing_key=queue, timeout=0)
    with pytest.raises(TimeoutError):
        channel.publish_many([b"x"], routing_key=queue, timeout=-1)
    with pytest.raises(ValueError):
        channel.publish(b"x", routing_key=queue, timeout=float("nan"))
    assert channel.get(queue) is None


def test_a_publisher_waits_as_long_as_it_is_told(proxy: Any, strike: Callable[[str], None]) -> None:
    with blocking.open_client(proxy.url) as client, client.publisher(window=2) as publisher:
        publisher.publish(b"x", routing_key="nowhere", timeout=5)
        proxy.stall()
        first, _ = (publisher.submit(b"x", routing_key="nowhere", timeout=5) for _ in range(2))
        for wait in (
            lambda: publisher.submit(b"x", routing_key="nowhere", timeout=0.02),
            lambda: publisher.publish(b"x", routing_key="nowhere", timeout=0.02),
            lambda: publisher.flush(timeout=0.02),
            lambda: first.wait(timeout=0.02),
        ):
            with pytest.raises(TimeoutError):
                wait()
        assert (publisher.sent, publisher.pending, first.outcome) == (3, 2, "pending")
        strike("wait")
        threading.Timer(0.1, proxy.resume).start()
        with pytest.raises(KeyboardInterrupt):  # while it waits for the confirms
            publisher.__exit__(None, None, None)
        assert first.outcome in ("confirmed", "unknown") and not publisher.pending


# --- errors that leave blocks -----------------------------------------------------------------------------------------


def test_an_error_leaves_all_blocks_as_it_is(amqp_url: str, queue: str) -> None:
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        with (
            blocking.open_client(amqp_url) as client,
            blocking.connect(amqp_url) as connection,
            connection.channel() as channel,
            client.rpc(),
            client.consume(queue) as deliveries,
        ):
            channel.publish(b"x", routing_key=queue)
            delivery = deliveries.receive(timeout=5)
            assert delivery is not None
            with delivery.process(on_error="raise"):
                raise error
    assert caught.value is error
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        again = channel.get(queue)
        assert again is not None and again.redelivered
        again.ack()


def test_what_ends_a_client_leaves_its_block(amqp_url: str) -> None:
    wrong = "amqp://nobody:nothing@" + amqp_url.partition("@")[2]
    with pytest.raises(rabbitry.AuthenticationFailed):
        with blocking.open_client(wrong) as client:
            client.publish(b"x", timeout=10)
    with pytest.raises(rabbitry.AuthenticationFailed):
        with blocking.open_client(wrong) as client, pytest.raises(rabbitry.NotConnected):
            client.publish(b"x", timeout=10)
    with pytest.raises(ZeroDivisionError):
        with blocking.open_client(wrong) as client:
            with pytest.raises(rabbitry.NotConnected):
                client.publish_many([b"x"], timeout=10)
            with pytest.raises(rabbitry.AuthenticationFailed):
                client.wait_closed(timeout=10)
            raise ZeroDivisionError


def test_what_keeps_a_connection_from_being_entered_is_raised(amqp_url: str) -> None:
    with pytest.raises(rabbitry.ConnectFailed):
        blocking.connect("amqp://localhost:1").__enter__()
    with pytest.raises(ValueError):
        blocking.open_client([]).__enter__()
    with blocking.open_client("amqp://localhost:1") as client:
        channel = client.channel(timeout=0.01)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                channel.__enter__()
    with pytest.raises(rabbitry.NotFound), blocking.connect(amqp_url) as connection, connection.channel() as channel:
        channel.declare_queue("no such queue", passive=True)


def test_credentials_are_asked_for_in_a_thread_of_their_own(amqp_url: str) -> None:
    asked = []

    def credentials() -> tuple[str, str, None]:
        asked.append(threading.current_thread().name)
        return "guest", "guest", None

    with blocking.open_client(amqp_url, credentials=credentials) as client:
        client.publish(b"x", routing_key="nowhere", timeout=10)
    assert len(asked) == 1 and asked[0] not in ("rabbitry.blocking", "MainThread")


def test_credentials_that_end_the_program_only_fail(amqp_url: str) -> None:
    asked = []

    def credentials() -> tuple[str, str, None]:
        asked.append(None)
        if len(asked) == 1:
            raise SystemExit
        return "guest", "guest", None

    with blocking.open_client(amqp_url, credentials=credentials, reconnect=QUICK) as client:
        client.publish(b"x", routing_key="nowhere", timeout=10)


@pytest.mark.parametrize("open_one", [blocking.connect, blocking.open_client])
def test_what_is_dropped_is_closed_in_the_background(amqp_url: str, open_one: Any) -> None:
    dropped = open_one(amqp_url)
    dropped.__enter__()
    if open_one is blocking.open_client:
        dropped.publish_many([b"x"], routing_key="nowhere")
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "rabbitry.blocking")
    held = [dropped]
    del dropped
    with pytest.warns(ResourceWarning, match="was dropped inside its 'with' block"):
        held.clear()
    thread.join(5)  # the last one was given back
    assert not thread.is_alive()


# --- interrupted at the worst moment ----------------------------------------------------------------------------------


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the next `wait` for an operation, or the next taking of its `result`, be interrupted."""

    def strike(name: str) -> None:
        method = getattr(Operation, name)

        def interrupted(operation: Operation[Any], *_: object) -> None:
            monkeypatch.setattr(Operation, name, method)
            if name == "result":
                method(operation)
            raise KeyboardInterrupt

        monkeypatch.setattr(Operation, name, interrupted)

    return strike


def test_what_was_entered_when_it_was_interrupted_is_left_again(
    amqp_url: str, queue: str, channel: blocking.Channel, strike: Callable[[str], None]
) -> None:
    for open_one in (blocking.connect, blocking.open_client):
        strike("result")
        with pytest.raises(KeyboardInterrupt):
            open_one(amqp_url).__enter__()
    with blocking.open_client(amqp_url) as client, blocking.connect(amqp_url) as connection:
        for block in (
            client.consume(queue),
            channel.consume(queue),
            connection.channel(),
            connection.rpc(),
        ):
            strike("result")
            with pytest.raises(KeyboardInterrupt):
                block.__enter__()
            eventually(lambda block=block: block._manager is None)  # left in the background
        eventually(lambda: channel.declare_queue(queue, passive=True).consumer_count == 0)


def test_leaving_that_is_interrupted_goes_on(
    amqp_url: str, proxy: Any, queue: str, channel: blocking.Channel, strike: Callable[[str], None]
) -> None:
    with blocking.connect(amqp_url) as connection, connection.channel() as other:
        consumer = other.consume(queue)
        for block in (consumer, other):
            if block is consumer:
                consumer.__enter__()
                assert channel.declare_queue(queue, passive=True).consumer_count == 1
            strike("wait")
            with pytest.raises(KeyboardInterrupt):
                block.__exit__(None, None, None)
        eventually(lambda: channel.declare_queue(queue, passive=True).consumer_count == 0 and not other.is_open)
        with pytest.raises(KeyboardInterrupt):
            with blocking.connect(proxy.url) as stalled:
                proxy.stall()
                strike("wait")
                began = time.monotonic()
        assert time.monotonic() - began < 4, "not the bound of 5 s"
        proxy.resume()
        eventually(lambda: not stalled.is_open)


# --- misuse -----------------------------------------------------------------------------------------------------------


def test_use_outside_the_block_is_refused(amqp_url: str, queue: str) -> None:
    client, connection = blocking.open_client(amqp_url), blocking.connect(amqp_url)
    for use in (
        lambda: client.publish(b"x"),
        lambda: client.publish_many([b"x"]),
        lambda: client.rpc(),
        lambda: client.state,
    ):
        with pytest.raises(rabbitry.NotConnected, match=r"with rabbitry\.blocking\.open_client"):
            use()
    with pytest.raises(rabbitry.NotConnected, match=r"with rabbitry\.blocking\.connect"):
        connection.channel()
    with client, connection, connection.channel() as channel, client.consume(queue) as deliveries:
        for again in (client, connection, channel, deliveries):
            with pytest.raises(rabbitry.LocalProtocolError, match="entered before"):
                again.__enter__()
        with pytest.raises(rabbitry.NotConnected, match="enter it first"):
            connection.channel().publish(b"x")
        with pytest.raises(rabbitry.LocalProtocolError, match="enter it first"):
            next(client.consume(queue))
        with pytest.raises(rabbitry.LocalProtocolError, match="enter it first"):
            client.consume(queue).stop()
        with pytest.raises(rabbitry.LocalProtocolError, match=r"client\.rpc"):
            client.rpc().call("x")
    for use in (
        lambda: client.publish(b"x"),
        lambda: client.publish_many([b"x"]),
        lambda: client.inspect(queue),
        lambda: channel.publish(b"x"),
        lambda: channel.publish_many([b"x"]),
        lambda: next(deliveries),
        lambda: client.stop_consuming(),
        lambda: client.state,
    ):
        with pytest.raises((rabbitry.NotConnected, rabbitry.Closed, StopIteration)):
            use()
    assert not connection.is_open and not channel.is_open
    client.wait_closed()
    connection.wait_closed()
    client.__exit__(None, None, None)  # harmless
    with pytest.raises(rabbitry.LocalProtocolError, match="entered before"):
        client.__enter__()


# --- the broker goes and comes back -----------------------------------------------------------------------------------


def test_a_client_goes_on_after_a_cut(proxy: Any, queue: str) -> None:
    with blocking.open_client(proxy.url, reconnect=QUICK) as client, client.consume(queue) as deliveries:
        client.publish_many([b"1", b"2", b"3"], routing_key=queue, timeout=5)
        first = deliveries.receive(timeout=5)
        assert first is not None and first.body == b"1"
        proxy.cut()
        while not first.is_stale or client.statistics()["publishing_lives"] < 2:  # both losses were noticed
            time.sleep(0.001)
        with pytest.raises(rabbitry.StaleDelivery):
            first.ack()
        client.publish_many([b"4"], routing_key=queue, timeout=5)
        bodies = []
        while len(bodies) < 4:  # what was at hand is the broker's again, and comes again
            delivery = deliveries.receive(timeout=5)
            assert delivery is not None
            delivery.ack()
            bodies.append(delivery.body)
        assert sorted(bodies) == [b"1", b"2", b"3", b"4"]
        assert client.statistics()["consuming_lives"] == 2


def test_publish_many_goes_on_through_cuts(proxy: Any, channel: blocking.Channel, queue: str) -> None:
    with blocking.open_client(proxy.url, reconnect=QUICK) as client:

        def messages() -> Any:
            for number in range(6000):
                if number in (2500, 4500):
                    proxy.cut()
                yield b"%d" % number

        assert client.publish_many(messages(), routing_key=queue, on_unknown="republish", timeout=20) == 6000
        assert client.statistics()["publishing_lives"] == 3
    missing = set(range(6000))
    with channel.consume(queue, no_ack=True, inactivity_timeout=20) as deliveries:
        for delivery in deliveries:
            missing.discard(int(delivery.body))
            if not missing:
                break
    assert not missing


def test_a_connection_that_is_lost_says_so(proxy: Any, queue: str, in_thread: InThread) -> None:
    with (
        blocking.connect(proxy.url) as connection,
        connection.channel() as channel,
        channel.consume(queue) as deliveries,
    ):
        in_thread(proxy.cut)
        with pytest.raises(rabbitry.ConnectionClosed):
            deliveries.receive(timeout=5)
        with pytest.raises(rabbitry.ConnectionClosed):
            channel.publish(b"x", timeout=5)
        with pytest.raises(rabbitry.ConnectionClosed):
            channel.publish_many([b"x"], timeout=5)
        with pytest.raises(rabbitry.ConnectionClosed):
            connection.wait_closed(timeout=5)
