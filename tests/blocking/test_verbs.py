"""Every verb of the blocking facade does what its async one does, and takes what that one takes."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import pytest

import rabbitry
from rabbitry import Binding, Exchange, ExchangeBinding, Message, Queue, blocking
from rabbitry._channel.consumer import waiting_at
from tests.blocking.test_ends import eventually
from tests.support.helpers import unique

InThread = Callable[..., threading.Thread]


def parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    found = inspect.signature(function).parameters
    return {name: (each.kind, each.default) for name, each in found.items() if name != "self"}


TIMEOUT = {"timeout": (inspect.Parameter.KEYWORD_ONLY, None)}


def verbs(cls: type) -> set[str]:
    return {name for name, member in inspect.getmembers(cls, inspect.iscoroutinefunction) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(verbs(rabbitry.Channel)))
def test_a_channel_has_each_verb_with_a_timeout(name: str) -> None:
    theirs = parameters(getattr(rabbitry.Channel, name))
    assert parameters(getattr(blocking.Channel, name)) == theirs | TIMEOUT


@pytest.mark.parametrize("name", sorted(verbs(rabbitry.Connection) - {"serve"}))
def test_a_connection_has_each_verb_with_a_timeout(name: str) -> None:
    assert parameters(getattr(blocking.Connection, name)) == parameters(getattr(rabbitry.Connection, name)) | TIMEOUT


@pytest.mark.parametrize("name", sorted(verbs(rabbitry.Client) - {"serve", "process", "aclose"}))
def test_a_client_has_each_verb_with_a_timeout(name: str) -> None:
    assert parameters(getattr(blocking.Client, name)) == parameters(getattr(rabbitry.Client, name)) | TIMEOUT


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (blocking.Client.publisher, rabbitry.Client.publisher),
        (blocking.Client.rpc, rabbitry.Client.rpc),
        (blocking.Channel.publisher, rabbitry.Channel.publisher),
        (blocking.Connection.rpc, rabbitry.Connection.rpc),
        (blocking.Connection.serve, rabbitry.Connection.serve),
        (blocking.Publisher.submit, rabbitry.ClientPublisher.submit),
        (blocking.Publisher.publish, rabbitry.ClientPublisher.publish),
        (blocking.Publisher.flush, rabbitry.ClientPublisher.flush),
        (blocking.Confirmation.wait, rabbitry.Confirmation.wait),
        (blocking.RPC.call, rabbitry.ClientRPC.call),
        (blocking.RPC.bind, rabbitry.ClientRPC.bind),
    ],
)
def test_the_others_take_what_the_async_ones_take(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    assert parameters(ours) == parameters(theirs) | TIMEOUT


def test_serve_takes_what_the_async_one_takes() -> None:
    theirs = parameters(rabbitry.Client.serve)
    del theirs["task_status"]
    ours = parameters(blocking.Client.serve)
    assert ours.keys() == (theirs | TIMEOUT).keys()
    assert {name for name in theirs if theirs[name] != ours[name]} == {"drain"}  # as nothing can cancel a thread


def test_connect_and_open_client_take_what_the_async_ones_take() -> None:
    assert parameters(rabbitry.connect).keys() - parameters(blocking.connect).keys() == {"dial"}
    assert parameters(rabbitry.open_client).keys() - parameters(blocking.open_client).keys() == {"dial", "reactor"}


NOT_WAITING = ("stop_consuming", "stop_on", "statistics", "changes", "forget", "close")


def test_every_waiting_call_takes_a_timeout() -> None:
    for cls in (blocking.Channel, blocking.Client, blocking.Connection, blocking.Publisher, blocking.RPC):
        for name, member in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_") and name not in NOT_WAITING:
                assert "timeout" in inspect.signature(member).parameters, f"{cls.__name__}.{name}"
    assert "timeout" in inspect.signature(blocking.Consumer.receive).parameters


def test_public_names_belong_to_the_package_and_have_docstrings() -> None:
    for name in blocking.__all__:
        public = getattr(blocking, name)
        assert public.__module__ == "rabbitry.blocking"
        assert public.__doc__


# --- a channel --------------------------------------------------------------------------------------------------------


def test_topology(channel: blocking.Channel) -> None:
    source, target, queue = unique("source"), unique("target"), unique("queue")
    channel.declare_exchange(source, "topic")
    channel.declare_exchange(target, "fanout")
    info = channel.declare_queue(queue, exclusive=True)
    assert (info.name, info.message_count, info.consumer_count) == (queue, 0, 0)
    channel.bind_exchange(target, source, "a.#")
    channel.bind_queue(queue, target)
    channel.publish(b"routed", exchange=source, routing_key="a.b", mandatory=True)
    assert channel.purge_queue(queue) == 1
    channel.unbind_exchange(target, source, "a.#")
    with pytest.raises(rabbitry.Unroutable):
        channel.publish(b"not", exchange=source, routing_key="a.b", mandatory=True)
    channel.unbind_queue(queue, target)
    channel.declare(Exchange(target, "fanout"), Queue(queue, exclusive=True), Binding(queue, target))
    channel.publish(b"routed", exchange=target)
    assert channel.delete_queue(queue) == 1
    channel.delete_exchange(target)
    channel.delete_exchange(source)


def test_get_and_settle(channel: blocking.Channel) -> None:
    queue = channel.declare_queue(exclusive=True).name
    assert channel.get(queue) is None
    channel.publish(Message.json({"n": 1}, headers={"kind": "test"}), routing_key=queue)
    delivery = channel.get(queue)
    assert delivery is not None and not delivery.is_settled
    assert delivery.decode() == {"n": 1} and delivery.headers == {"kind": "test"} and delivery.routing_key == queue
    delivery.nack()
    assert delivery.is_settled
    with pytest.raises(rabbitry.AlreadySettled):
        delivery.ack()
    again = channel.get(queue)
    assert again is not None and again.redelivered
    again.reject(requeue=True)
    third = channel.get(queue)
    assert third is not None
    with third.process():
        pass
    assert third.is_settled and channel.get(queue) is None
    channel.publish(b"no ack", routing_key=queue)
    last = channel.get(queue, no_ack=True)
    assert last is not None and last.is_settled


def test_a_delivery_is_settled_at_once_and_stays_so(
    channel: blocking.Channel, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    channel.publish(b"x", routing_key=queue)
    delivery = channel.get(queue)
    assert delivery is not None
    ack = rabbitry.Delivery.ack

    def look(self: rabbitry.Delivery) -> None:
        seen.append(self.is_settled)
        ack(self)

    monkeypatch.setattr(rabbitry.Delivery, "ack", look)
    delivery.ack()
    seen.append(delivery.is_settled)
    assert channel.get(queue) is None
    assert seen == [True, True]


def test_settlements_keep_their_order_with_other_operations(channel: blocking.Channel) -> None:
    queue = channel.declare_queue(exclusive=True).name
    channel.publish_many([b"%d" % number for number in range(50)], routing_key=queue)
    with channel.consume(queue) as deliveries:
        for number in range(50):
            delivery = deliveries.receive(timeout=5)
            assert delivery is not None and delivery.body == b"%d" % number
            delivery.ack()
    assert channel.declare_queue(queue, passive=True).message_count == 0
    channel.recover()  # would bring back what was not acknowledged
    assert channel.get(queue) is None


def test_a_stale_delivery_is_refused(amqp_url: str, queue: str) -> None:
    with blocking.connect(amqp_url) as connection:
        with connection.channel() as channel:
            channel.publish(b"x", routing_key=queue)
            delivery = channel.get(queue)
        assert delivery is not None and delivery.is_stale
        with pytest.raises(rabbitry.StaleDelivery):
            delivery.ack()


def test_transactions(amqp_url: str, queue: str) -> None:
    with blocking.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
        channel.select_tx()
        channel.publish(b"x", routing_key=queue)
        channel.rollback_tx()
        assert channel.get(queue) is None
        channel.publish(b"y", routing_key=queue)
        channel.commit_tx()
        delivery = channel.get(queue)
        assert delivery is not None and delivery.body == b"y"
        delivery.ack()
        assert delivery.is_settled
        channel.rollback_tx()
        assert not delivery.is_settled  # undone
        delivery.ack()
        channel.commit_tx()
        assert channel.get(queue) is None


def test_flow_and_qos(channel: blocking.Channel) -> None:
    channel.flow(True)
    channel.qos(5)
    with pytest.raises(ValueError):
        channel.flow(False)


# --- publishing many --------------------------------------------------------------------------------------------------


def bodies(channel: blocking.Channel, queue: str) -> list[bytes]:
    return [each.body for each in iter(lambda: channel.get(queue, no_ack=True), None)]


@pytest.fixture(params=["client", "channel", "unconfirmed"])
def publishes(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[Any]:
    """Whatever has `publish_many`."""
    if request.param == "client":
        with blocking.open_client(amqp_url) as client:
            yield client
    else:
        with (
            blocking.connect(amqp_url) as connection,
            connection.channel(confirm=request.param == "channel") as channel,
        ):
            yield channel


def test_publish_many_takes_messages_and_mappings(publishes: Any, channel: blocking.Channel) -> None:
    one, two = channel.declare_queue().name, channel.declare_queue().name
    try:
        assert publishes.publish_many([b"1", Message(b"2")], routing_key=one) == 2
        assert publishes.publish_many((b"%d" % number for number in (3, 4)), routing_key=one) == 2
        assert publishes.publish_many({one: b"5", two: [b"6", Message(b"7")]}, timeout=5) == 3
        assert publishes.publish_many([], routing_key=one) == 0
        assert publishes.publish_many([b"x"] * 2500, exchange="amq.fanout", window=10) == 2500
        assert publishes.publish_many([b"8"], routing_key=one) == 1
        while channel.declare_queue(one, passive=True).message_count < 6:  # unconfirmed ones may be on their way
            pass
        assert bodies(channel, one) == [b"1", b"2", b"3", b"4", b"5", b"8"]
        assert bodies(channel, two) == [b"6", b"7"]
    finally:
        channel.delete_queue(one)
        channel.delete_queue(two)


def test_publish_many_refuses_what_is_not_many(publishes: Any) -> None:
    for wrong in (b"one", Message(b"one"), "text"):
        with pytest.raises(TypeError, match="several"):
            publishes.publish_many(wrong, routing_key="x")
    with pytest.raises(ValueError, match="its own routing keys"):
        publishes.publish_many({"x": b"y"}, routing_key="x")
    with pytest.raises(TypeError, match="bytes"):
        publishes.publish_many({"x": "text"})


def test_publish_many_says_what_failed(client: blocking.Client, channel: blocking.Channel, queue: str) -> None:
    for publishes in (client, channel):
        with pytest.raises(rabbitry.PublishesFailed) as caught:
            publishes.publish_many({queue: b"fine", "nowhere": [b"lost", b"too"]}, mandatory=True)
        assert caught.value.count == 2
        assert [(type(each), each.message) for each in caught.value.failures] == [
            (rabbitry.Unroutable, b"lost"),
            (rabbitry.Unroutable, b"too"),
        ]
        assert publishes.publish_many([b"and", b"on"], routing_key=queue) == 2
    assert channel.purge_queue(queue) == 6


def test_publish_many_leaves_nothing_when_the_messages_fail(client: blocking.Client, queue: str) -> None:
    def messages() -> Iterator[bytes]:
        for number in range(2500):
            yield b"%d" % number
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.publish_many(messages(), routing_key=queue)
    while client.statistics()["publishers"]:  # closed in the background
        pass
    assert client.publish_many([b"x"], routing_key=queue) == 1
    assert client.statistics()["publishers"] == 1  # kept for the next one


def test_publish_many_has_one_channel_for_windows_of_all_sizes(client: blocking.Client, queue: str) -> None:
    for window in range(1, 6):
        assert client.publish_many([b"x"] * 7, routing_key=queue, window=window) == 7
    with pytest.raises(ValueError, match="window"):
        client.publish_many([b"x"], routing_key=queue, window=0)
    assert client.statistics()["publishers"] == 1


def test_publish_many_to_no_exchange_fails_and_harms_no_other(client: blocking.Client, queue: str) -> None:
    with pytest.raises(rabbitry.PublishesFailed):
        client.publish_many([b"x"] * 3, exchange="no such exchange")
    assert client.publish_many([b"x"] * 3, routing_key=queue) == 3


# --- a publisher ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["client", "channel"])
def has_publisher(request: pytest.FixtureRequest, client: blocking.Client, channel: blocking.Channel) -> Any:
    return client if request.param == "client" else channel


def test_a_publisher_confirms_what_it_is_given(has_publisher: Any, channel: blocking.Channel, queue: str) -> None:
    told: list[blocking.Confirmation] = []
    with has_publisher.publisher(window=2, on_outcome=told.append, timeout=5) as publisher:
        confirmations = [
            publisher.submit(b"%d" % number, routing_key=queue, tag=number, timeout=5) for number in range(5)
        ]
        publisher.publish(Message(b"last"), routing_key=queue, timeout=5)
        publisher.flush(timeout=5)
        assert (publisher.sent, publisher.confirmed, publisher.failed, publisher.pending) == (6, 6, 0, 0)
        assert publisher.republished == 0
        lost = publisher.submit(b"lost", exchange="amq.direct", routing_key="nowhere", mandatory=True)
        with pytest.raises(rabbitry.Unroutable):
            lost.wait(timeout=5)
        assert lost.outcome == "unroutable" and isinstance(lost.failure(), rabbitry.Unroutable)
        assert (lost.message, lost.exchange, lost.routing_key, lost.tag) == (b"lost", "amq.direct", "nowhere", None)
    for number, confirmation in enumerate(confirmations):
        confirmation.wait()
        assert (confirmation.outcome, confirmation.tag, confirmation.failure()) == ("confirmed", number, None)
    assert [each.tag for each in told] == [*range(5), None, None] and told[-1].outcome == "unroutable"
    assert bodies(channel, queue) == [b"0", b"1", b"2", b"3", b"4", b"last"]


def test_leaving_a_publisher_says_what_failed(has_publisher: Any, channel: blocking.Channel, queue: str) -> None:
    with pytest.raises(rabbitry.PublishesFailed) as caught:
        with has_publisher.publisher() as publisher:
            publisher.submit(b"fine", routing_key=queue)
            publisher.submit(b"lost", routing_key="nowhere", mandatory=True)
    assert [each.message for each in caught.value.failures] == [b"lost"]
    with pytest.raises(ZeroDivisionError):
        with has_publisher.publisher() as publisher:
            publisher.submit(b"fine, too", routing_key=queue)
            publisher.submit(b"lost", routing_key="nowhere", mandatory=True)
            raise ZeroDivisionError
    with pytest.raises(rabbitry.LocalProtocolError, match="not open"):
        publisher.submit(b"late")
    with pytest.raises(ValueError, match="window"):
        has_publisher.publisher(window=0).__enter__()
    assert channel.purge_queue(queue) == 2


def test_threads_share_a_publisher(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    with client.publisher(window=3) as publisher:

        def work() -> None:
            for _ in range(50):
                publisher.submit(b"x", routing_key=queue, timeout=10)

        for thread in [in_thread(work) for _ in range(5)]:
            thread.join(20)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 250


def test_on_outcome_harms_nothing(client: blocking.Client, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    def on_outcome(_: blocking.Confirmation) -> None:
        raise SystemExit

    with client.publisher(on_outcome=on_outcome) as publisher:
        publisher.submit(b"x", routing_key=queue)
    assert publisher.confirmed == 1
    eventually(lambda: "on_outcome failed" in caplog.text)


# --- consuming --------------------------------------------------------------------------------------------------------


def test_consume_iterates_and_puts_back_what_was_not_taken(channel: blocking.Channel, queue: str) -> None:
    channel.publish_many([b"%d" % number for number in range(100)], routing_key=queue)
    taken = []
    with channel.consume(queue, prefetch=50) as deliveries:
        for delivery in deliveries:
            taken.append(delivery.body)
            delivery.ack()
            if len(taken) == 30:
                break
        assert deliveries.queue == queue and "fetched" in repr(deliveries)
    assert repr(channel.consume(queue)) == "<blocking Consumer, not entered>"
    assert taken == [b"%d" % number for number in range(30)]
    assert [each.body for each in iter(lambda: channel.get(queue, no_ack=True), None)] == [
        b"%d" % number for number in range(30, 100)
    ]


def test_iteration_ends_for_inactivity_and_may_go_on(client: blocking.Client, queue: str) -> None:
    with client.consume(queue, inactivity_timeout=0.1) as deliveries:
        assert list(deliveries) == []
        client.publish_many([b"1", b"2"], routing_key=queue)
        found = []
        while len(found) < 2:  # on a busy machine they may come later than that
            for delivery in deliveries:
                delivery.ack()
                found.append(delivery.body)
        assert found == [b"1", b"2"]
        with pytest.raises(TimeoutError):
            deliveries.receive(timeout=0.01)
        client.publish(b"3", routing_key=queue)
        third = deliveries.receive(timeout=5)
        assert third is not None and third.body == b"3"
        third.ack()


def test_stop_ends_the_iteration_of_all_threads(client: blocking.Client, queue: str, in_thread: InThread) -> None:
    with client.consume(queue) as deliveries:
        threads = [in_thread(list, deliveries) for _ in range(3)]
        deliveries.stop()
        for thread in threads:
            thread.join(5)
        assert deliveries.receive() is None


def test_what_was_fetched_goes_back_behind_what_is_acknowledged_as_it_stops(
    channel: blocking.Channel, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rabbitry._channel.consumer.PUT_BACK_AFTER", 60.0)

    def ready() -> int:
        return channel.declare_queue(queue, passive=True).message_count

    for number in range(20):
        channel.publish(b"%d" % number, routing_key=queue)
    with channel.consume(queue) as deliveries:
        eventually(lambda: waiting_at(deliveries._async) == 20)  # type: ignore[arg-type]
        first = deliveries.receive(timeout=5)
        assert first is not None and len(deliveries._fetched) == 19
        deliveries.stop()
        first.ack()
        assert ready() == 0 and len(deliveries._async._rest) == 19  # type: ignore[union-attr]
    eventually(lambda: ready() == 19)


def test_batches(client: blocking.Client, queue: str) -> None:
    client.publish_many([b"%d" % number for number in range(25)], routing_key=queue)
    with client.consume(queue) as deliveries:
        first = deliveries.receive(timeout=5)  # fetches others with it, which the batches then have
        assert first is not None
        first.ack()
        sizes = []
        for batch in deliveries.batches(10, within=1):
            batch.ack()
            sizes.append(len(batch))
            if sum(sizes) == 24:
                break
        assert sizes == [10, 10, 4]
        with pytest.raises(TimeoutError):
            next(deliveries.batches(10, within=1, timeout=0.05))
    info = client.inspect(queue)
    assert info is not None and info.message_count == 0


def test_a_deleted_queue_ends_its_consumer(channel: blocking.Channel, amqp_url: str) -> None:
    queue = channel.declare_queue().name
    with channel.consume(queue) as deliveries:
        channel.delete_queue(queue)
        for _ in range(2):
            with pytest.raises(rabbitry.ConsumerCancelled):
                deliveries.receive(timeout=5)


# --- a client ---------------------------------------------------------------------------------------------------------


def test_a_client_declares_inspects_and_deletes(client: blocking.Client) -> None:
    assert client.state == "idle"
    events, queue = Exchange(unique("events"), "topic"), Queue(unique("queue"))
    others = Exchange(unique("others"), "fanout")
    client.declare(events, others, queue, Binding(queue, others), ExchangeBinding(others, events, "a.*"))
    client.publish(b"x", exchange=events, routing_key="a.b", mandatory=True)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 1
    with client.channel() as channel:
        delivery = channel.get(queue)
        assert delivery is not None
        delivery.ack()
    assert client.is_ready and client.state == "connected" and client.last_error is None
    client.forget(Binding(queue, others), others)
    assert client.statistics()["declared"] == 2
    client.publish(b"x", exchange=events, routing_key="a.b", mandatory=True)  # it is all there
    with pytest.raises(TypeError, match="forget takes"):
        client.forget("queue")  # type: ignore[arg-type]
    client.delete(queue, events, others)
    assert client.inspect(queue) is None
    assert client.statistics()["declared"] == 0


def test_a_client_raises_what_the_broker_refuses_and_goes_on(client: blocking.Client, queue: str) -> None:
    for _ in range(3):
        with pytest.raises(rabbitry.Closed, match="unknown exchange type"):
            client.declare(Exchange(unique(), "fanuot"), timeout=10)
    with pytest.raises(rabbitry.Closed, match="unknown exchange type"):
        with client.rpc(reply_to=Exchange(unique(), "nonsense"), timeout=10) as rpc:
            rpc.call("nowhere", timeout=10)
    with pytest.raises(ValueError, match="offset"):
        client.consume(queue, offset="frist").__enter__()  # type: ignore[arg-type]
    client.publish(b"x", routing_key=queue)


def test_process_runs_handlers_in_threads(client: blocking.Client, queue: str) -> None:
    client.publish_many([b"%d" % number for number in range(20)], routing_key=queue)
    meeting, done = threading.Barrier(4), []

    def handle(delivery: blocking.Delivery) -> None:
        if int(delivery.body) < 4:
            meeting.wait(5)  # they are at work at once
        if delivery.body == b"7":
            delivery.ack()  # settles by itself
        done.append(delivery.body)
        if delivery.body == b"9" and not delivery.redelivered:
            done.remove(b"9")
            raise ValueError("to be requeued")
        if len(done) == 20:
            client.stop_consuming()

    client.process(queue, handle, concurrency=4)
    assert sorted(done, key=int) == [b"%d" % number for number in range(20)]
    info = client.inspect(queue)
    assert info is not None and (info.message_count, info.consumer_count) == (0, 0)


def generator(delivery: blocking.Delivery) -> Any:
    yield delivery


@pytest.mark.parametrize("handler", [None, "handle", generator, lambda: None, lambda delivery, more: None])
def test_what_can_not_be_a_handler_is_refused_at_once(client: blocking.Client, queue: str, handler: Any) -> None:
    with pytest.raises(TypeError, match="handler"):
        client.process(queue, handler, timeout=5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, ValueError),
        ({"concurrency": 1.0}, TypeError),
        ({"concurrency": True}, TypeError),
        ({"prefetch": -1}, ValueError),
        ({"prefetch": 65_536}, ValueError),
        ({"prefetch": True}, TypeError),
    ],
)
def test_numbers_that_make_no_sense(
    amqp_url: str, client: blocking.Client, queue: str, options: dict[str, Any], error: type[Exception]
) -> None:
    [name] = options
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        calls: list[Callable[..., object]] = [
            partial(client.process, queue, print, timeout=5),
            partial(client.serve, queue, print, timeout=5),
            partial(connection.serve, queue, print, timeout=5),
        ]
        if name == "prefetch":
            calls += [
                client.channel,
                connection.channel,
                partial(channel.consume, queue),
                partial(client.consume, queue),
            ]
        for call in calls:
            with pytest.raises(error, match=name):
                call(**options)


def test_poison_is_run_ever_more_seldom(client: blocking.Client, queue: str) -> None:
    client.publish_many([b"bad", *[b"good"] * 100], routing_key=queue)
    runs: Counter[bytes] = Counter()

    def handle(delivery: blocking.Delivery) -> None:
        runs[delivery.body] += 1
        if delivery.body == b"bad":
            raise ValueError("boom")

    with pytest.raises(TimeoutError):
        client.process(queue, handle, timeout=2)
    assert runs[b"good"] == 100 and 2 <= runs[b"bad"] <= 7
    info = client.inspect(queue)
    assert info is not None and info.message_count == 1


def test_a_handlers_error_and_its_exit_leave_process(client: blocking.Client, queue: str) -> None:
    client.publish_many([b"error", b"exit"], routing_key=queue)

    def handle(delivery: blocking.Delivery) -> None:
        if delivery.body == b"error":
            delivery.ack()
            raise ZeroDivisionError
        raise SystemExit(3)

    with pytest.raises(ZeroDivisionError):
        client.process(queue, handle, on_error="raise")
    with pytest.raises(SystemExit):
        client.process(queue, handle)
    client.publish_many([b"error"], routing_key=queue)

    def fail(_: blocking.Delivery) -> None:
        raise ZeroDivisionError

    def on_error(_: rabbitry.Delivery, error: Exception) -> Any:
        assert isinstance(error, ZeroDivisionError)
        raise SystemExit

    with pytest.raises(SystemExit):
        client.process(queue, fail, on_error=on_error)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 2  # put back
    with client.channel() as channel:
        channel.get(queue, no_ack=True)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 1  # put back


def test_rpc_and_serve(client: blocking.Client, amqp_url: str, queue: str, in_thread: InThread) -> None:
    def double(number: int) -> int:
        if number < 0:
            raise ValueError("too small")
        return 2 * number

    in_thread(client.serve, queue, double)
    with client.rpc() as rpc:
        assert rpc.call(queue, 21, timeout=5) == 42
        with pytest.raises(rabbitry.RemoteError, match="too small"):
            rpc.call(queue, -1)
        with pytest.raises(rabbitry.Unroutable):
            rpc.call(unique("nobody"), 1, timeout=5)
        assert rpc.late_replies == 0
    with blocking.connect(amqp_url) as connection, connection.rpc(codec="json") as rpc:
        with pytest.raises(rabbitry.RemoteError, match="requests are taken as application/msgpack here"):
            rpc.call(queue, 4, headers={"a": "b"})
    client.stop_consuming()


class Calculator(Protocol):
    def add(self, one: int, other: int = 1) -> int:
        """The sum."""
        ...

    def stick(self) -> None: ...


def test_bind_calls_a_service(
    client: blocking.Client, channel: blocking.Channel, amqp_url: str, queue: str, in_thread: InThread
) -> None:
    released = threading.Event()

    class Server:
        def add(self, one: int, other: int = 1) -> int:
            return one + other

        def stick(self) -> None:
            released.wait(10)

    def serve() -> None:
        client.serve(queue, rabbitry.Service(Server(), interface=Calculator), drain=0.05)

    in_thread(serve)
    with client.rpc() as rpc, blocking.connect(amqp_url) as connection, connection.rpc() as other:
        calculator = rpc.bind(Calculator, queue, idempotent=True, timeout=5)
        assert calculator.add(1, other=2) == 3 and other.bind(Calculator, queue).add(3) == 4
        assert calculator.add.__doc__ == "The sum." and repr(calculator) == f"<Calculator served at '{queue}'>"
        with pytest.raises(rabbitry.RemoteError, match="missing a required argument"):
            calculator.add()  # type: ignore[call-arg]
        with pytest.raises(TimeoutError):
            rpc.bind(Calculator, queue, timeout=0.2).stick()
        with pytest.raises(rabbitry.Unroutable):
            rpc.bind(Calculator, unique("nobody"), timeout=5).add(1)
        for use in (lambda: other.call(queue, idempotent=True), lambda: other.bind(Calculator, queue, idempotent=True)):
            with pytest.raises(ValueError, match=r"client\.rpc"):
                use()

        class Asynchronous(Protocol):
            async def add(self, one: int) -> int: ...

        with pytest.raises(TypeError, match="not 'async def'"):
            rpc.bind(Asynchronous, queue)
        for wrong in (Calculator.add, type("Empty", (), {})):
            with pytest.raises(TypeError, match="public methods"):
                rpc.bind(wrong, queue)
    client.stop_consuming()
    released.set()


@pytest.mark.parametrize("is_list", [False, True])
def test_a_services_functions_run_in_threads_that_hold_up_nothing(
    client: blocking.Client, queue: str, in_thread: InThread, is_list: bool
) -> None:
    stuck, at_work, names = threading.Event(), threading.Event(), []

    def add(one: int, other: int = 1) -> int:
        names.append(threading.current_thread().name)
        return one + other

    def stick() -> None:
        at_work.set()
        stuck.wait(10)

    def serve() -> None:
        functions = [add, stick]
        client.serve(queue, functions if is_list else rabbitry.Service(*functions), drain=0.05)

    thread = in_thread(serve)
    with client.rpc() as rpc:
        assert rpc.call(queue, {"args": [1], "kwargs": {"other": 2}}, method="add", timeout=5) == 3
        with pytest.raises(rabbitry.RemoteError, match="unexpected keyword"):
            rpc.call(queue, {"args": [1], "kwargs": {"third": 2}}, method="add", timeout=5)
        with pytest.raises(TimeoutError):
            rpc.call(queue, {"args": [], "kwargs": {}}, method="stick", timeout=0.3)
        assert at_work.is_set()
        client.stop_consuming()
        thread.join(2)  # the function that nobody waits for any more is left to itself
        assert not thread.is_alive()
    stuck.set()
    assert names and "rabbitry.blocking" not in names


@pytest.mark.parametrize("is_service", [False, True])
def test_a_function_that_exits_leaves_serve_and_nothing_else(
    client: blocking.Client, queue: str, in_thread: InThread, is_service: bool
) -> None:
    def leave(_: object = None) -> None:
        raise SystemExit(3)

    def call() -> None:
        with client.rpc() as rpc, pytest.raises(rabbitry.RemoteError, match="ended the program"):
            payload = {"args": [], "kwargs": {}} if is_service else None
            rpc.call(queue, payload, method="leave" if is_service else None, timeout=5)

    thread = in_thread(call)
    with pytest.raises(SystemExit):
        client.serve(queue, rabbitry.Service(leave) if is_service else leave, timeout=5)
    client.publish(b"x", routing_key="nowhere", timeout=5)
    thread.join(5)


def test_a_handler_that_was_cancelled_by_something_of_its_own_has_failed(client: blocking.Client, queue: str) -> None:
    def handle(_: blocking.Delivery) -> None:
        asyncio.run(awaits_something_cancelled())

    async def awaits_something_cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    client.publish(b"x", routing_key=queue)
    with pytest.raises(rabbitry.RabbitryError, match="awaited something that was cancelled"):
        client.process(queue, handle, on_error="raise", timeout=5)
    info = client.inspect(queue)
    assert info is not None and info.message_count == 1  # put back


def test_an_object_that_is_called_like_a_coroutine_function_is_awaited(client: blocking.Client, queue: str) -> None:
    seen = []

    class Handler:
        async def __call__(self, delivery: rabbitry.Delivery) -> None:
            await asyncio.sleep(0)
            seen.append(delivery.body)
            client.stop_consuming()

    client.publish(b"x", routing_key=queue)
    client.process(queue, Handler(), timeout=5)
    assert seen == [b"x"]


def test_serving_on_a_connection_ends_with_its_timeout(amqp_url: str, queue: str, in_thread: InThread) -> None:
    with blocking.connect(amqp_url) as connection, blocking.connect(amqp_url) as calling:

        def serve() -> None:
            with pytest.raises(TimeoutError):
                connection.serve(queue, bytes.upper, raw=False, codec="raw", timeout=3)

        thread = in_thread(serve)
        with calling.rpc(codec="raw") as rpc:
            assert rpc.call(queue, b"abc", timeout=5) == b"ABC"
        thread.join(5)
        assert connection.is_open and connection.name and connection.server_properties["product"] == "RabbitMQ"
        assert not connection.is_blocked and connection.unmatched_returns == 0
