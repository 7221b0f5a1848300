"""Exchanges, queues and bindings as values: what the broker makes of them, and what is refused before it is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import IntEnum
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Binding, Exchange, ExchangeBinding, Queue
from rabbitry.testing import PrivateNode
from tests.support.helpers import open_channel

PREFIX = "topology"


def test_each_field_is_its_argument() -> None:
    queue = Queue(
        "q",
        max_length=10,
        max_length_bytes=1000,
        overflow="reject-publish",
        message_ttl=1.5,
        expires=timedelta(minutes=1),
        dead_letter_exchange="",
        dead_letter_routing_key="graveyard",
        single_active_consumer=True,
        max_priority=5,
        arguments={"x-queue-mode": "lazy"},
    )
    assert queue.declaration().arguments == {
        "x-max-length": 10,
        "x-max-length-bytes": 1000,
        "x-overflow": "reject-publish",
        "x-message-ttl": 1500,
        "x-expires": 60_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "graveyard",
        "x-single-active-consumer": True,
        "x-max-priority": 5,
        "x-queue-mode": "lazy",
    }
    assert Queue("q").declaration().arguments == {}
    quorum = Queue("q", type="quorum", delivery_limit=3).declaration()
    assert quorum.durable and quorum.arguments == {"x-queue-type": "quorum", "x-delivery-limit": 3}
    stream = Queue("q", type="stream", max_age=timedelta(days=7), max_length_bytes=10**9).declaration()
    assert stream.arguments == {"x-queue-type": "stream", "x-max-age": "604800s", "x-max-length-bytes": 10**9}
    exchange = Exchange("e", "topic", alternate="rest").declaration()
    assert exchange.arguments == {"alternate-exchange": "rest"} and exchange.durable


def test_they_are_values() -> None:
    assert Queue("q", max_length=1) == Queue("q", max_length=1) != Queue("q", max_length=2)
    assert Binding("q", "e", "k", {"x": 1}) == Binding("q", "e", "k", {"x": 1}) != Binding("q", "e", "k", {"x": 2})
    assert len({Queue("q"), Queue("q"), Exchange("q"), Binding("q", "e"), ExchangeBinding("q", "e")}) == 4
    with pytest.raises(AttributeError):
        Queue("q").name = "r"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"type": "lazy"}, "classic, quorum, stream, not 'lazy'"),
        ({"type": "quorum", "exclusive": True}, "a quorum queue is durable"),
        ({"type": "stream", "durable": False}, "a stream queue is durable"),
        ({"durable": False}, "RabbitMQ 4 deprecates"),
        ({"type": "quorum", "max_priority": 5}, "max_priority does nothing for a quorum queue"),
        ({"type": "stream", "message_ttl": 5}, "message_ttl does nothing for a stream queue"),
        ({"type": "stream", "single_active_consumer": True}, "single_active_consumer does nothing"),
        ({"delivery_limit": 5}, "delivery_limit does nothing for a classic queue"),
        ({"max_priority": 256}, "max_priority must be 1 to 255, not 256"),
        ({"max_length": -1}, "max_length must be 0 to"),
        ({"expires": 0}, "expires is 1 to"),
        ({"message_ttl": timedelta(days=50)}, "message_ttl is 0 to 4,294,967,295 ms"),
        ({"message_ttl": float("nan")}, "finite"),
        ({"dead_letter_routing_key": "k"}, "needs a dead_letter_exchange"),
        ({"max_length": 5, "arguments": {"x-max-length": 6}}, "x-max-length in arguments is given by a field as well"),
        ({"type": "stream", "max_age": -5}, "max_age must be positive, not -5"),
        ({"type": "stream", "max_age": timedelta(0)}, "max_age must be positive"),
        ({"type": "stream", "arguments": {"x-max-age": "-5s"}}, "such as \"7D\", not '-5s'"),
        ({"type": "stream", "arguments": {"x-max-age": "0D"}}, "a positive number with one of Y, M, D, h, m, s"),
        ({"type": "quorum", "overflow": "reject-publish-dlx"}, 'give overflow="reject-publish"'),
        ({"overflow": "reject-publish-dlx", "arguments": {"x-queue-type": "quorum"}}, "does not know reject-publish"),
        ({"overflow": "reject"}, "overflow is drop-head, reject-publish, reject-publish-dlx, not 'reject'"),
        ({"arguments": {"x-message-ttl": -1}}, "x-message-ttl must be at least 0, not -1"),
    ],
)
def test_what_can_not_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as raised:
        Queue("q", **options)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Queue(5), "the name of a queue is text, not 5"),  # type: ignore[arg-type]
        (lambda: Queue("q", max_length="5"), "max_length must be an int, not '5'"),  # type: ignore[arg-type]
        (lambda: Queue("q", max_length=True), "max_length must be an int, not True"),
        (lambda: Queue("q", max_priority=1.5), "max_priority must be an int"),  # type: ignore[arg-type]
        (lambda: Queue("q", message_ttl="5000"), "message_ttl is a number of seconds"),  # type: ignore[arg-type]
        (lambda: Queue("q", expires=True), "expires is a number of seconds"),
        (lambda: Queue("q", type="stream", max_age="7D"), "max_age is a number of seconds"),  # type: ignore[arg-type]
        (lambda: Queue("q", arguments={"x-expires": 1.5}), "x-expires must be an int, not 1.5"),
        (lambda: Queue("q", arguments={"x-max-age": 5}), 'x-max-age is text such as "7D", not 5'),
        (lambda: Exchange(None), "the name of an exchange is text, not None"),  # type: ignore[arg-type]
        (lambda: Exchange("x", None), "an exchange's type is text, not None"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_type_is_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError) as raised:
        make()
    assert told in str(raised.value)


def test_what_only_a_broker_can_know_is_left_to_it() -> None:
    """Plugins have types, and queue arguments, of their own; and counts may be of any kind of int."""
    assert Exchange("x", "fanuot").declaration().type == "fanuot"
    assert Queue("q", arguments={"x-of-a-plugin": -1, "x-max-age": "7D"})
    few = IntEnum("Limit", {"FEW": 5})(5)
    assert Queue("q", max_length=few).declaration().arguments == {"x-max-length": 5}
    with pytest.raises(ValueError, match="an exchange needs a type"):
        Exchange("x", "")


@pytest.mark.parametrize(
    "options",
    [
        {"type": "quorum"},
        {"type": "stream"},
        {"type": "quorum", "durable": True, "exclusive": False},
        {"arguments": {"x-queue-type": "quorum"}},
    ],
)
def test_only_classic_queues_are_temporary(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"quorum|stream|classic"):
        Queue.temporary(**options)


async def test_channels_refuse_what_crashes_the_broker_too(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        stream = {"x-queue-type": "stream", "x-max-age": "-5s"}
        with pytest.raises(ValueError, match="x-max-age"):
            await channel.declare_queue(f"{PREFIX}.never", arguments=stream)
        with pytest.raises(ValueError, match="reject-publish"):
            dropping = {"x-queue-type": "quorum", "x-overflow": "reject-publish-dlx"}
            await channel.declare_queue(f"{PREFIX}.never", arguments=dropping)
        with pytest.raises(ValueError, match="an exchange needs a type"):
            await channel.declare_exchange(f"{PREFIX}.never", "")
        with pytest.raises(TypeError, match="an exchange's type is text"):
            await channel.declare_exchange(f"{PREFIX}.never", 5)  # type: ignore[arg-type]
        assert channel.is_open


async def test_all_is_declared_whatever_the_order(amqp_url: str) -> None:
    name = f"{PREFIX}.order"
    queue, first, last = Queue(name, exclusive=True), Exchange(f"{name}.1", "fanout"), Exchange(f"{name}.2", "topic")
    async with open_channel(amqp_url) as channel:
        entities = Binding(queue, last, "a.#"), ExchangeBinding(last, first), queue, last, first
        await channel.declare(*entities)
        await channel.declare(*entities)  # what is there already is fine
        await channel.publish(b"through both", exchange=first.name, routing_key="a.b", mandatory=True)
        delivery = await channel.get(queue)
        assert delivery is not None and delivery.body == b"through both"
        delivery.ack()
        await channel.unbind_exchange(last, first)
        await channel.unbind_queue(queue, last, "a.#")
        with pytest.raises(rabbitry.Unroutable):
            await channel.publish(b"nowhere", exchange=last.name, routing_key="a.b", mandatory=True)
        await channel.bind_exchange(last, first)
        await channel.bind_queue(queue, first)
        await channel.publish(b"x", exchange=first.name)
        async with channel.consume(queue) as deliveries:
            (await anext(deliveries)).ack()
        await channel.publish(b"y", exchange=first.name)
        assert await channel.purge_queue(queue) == 1
        await channel.delete_exchange(first)
        await channel.delete_exchange(last)
        assert await channel.delete_queue(queue) == 0


async def test_another_declaration_is_refused_by_the_broker(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        await channel.declare(Queue(f"{PREFIX}.same", exclusive=True, max_length=1))
        with pytest.raises(rabbitry.PreconditionFailed):
            await channel.declare(Queue(f"{PREFIX}.same", exclusive=True, max_length=2))


@pytest.mark.parametrize(
    ("kind", "bound", "hint"),
    [
        (Binding, (Exchange("e"), Exchange("f")), "by ExchangeBinding"),
        (Binding, (Exchange("e"), Queue("q")), "by ExchangeBinding"),
        (Binding, (Queue("q"), Queue("r")), "Binding\\(queue, exchange\\)"),
        (Binding, ("q", Queue("r")), "Binding\\(queue, exchange\\)"),
        (ExchangeBinding, (Queue("q"), Exchange("e")), "by Binding"),
        (ExchangeBinding, ("e", Queue.temporary()), "by Binding"),
    ],
)
def test_what_can_not_be_bound_so(kind: Any, bound: tuple[Any, Any], hint: str) -> None:
    with pytest.raises(TypeError, match=hint):
        kind(*bound)


async def test_what_is_no_entity_is_refused_before_anything_is_declared(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel:
        with pytest.raises(TypeError, match="declare takes Exchange, Queue, ExchangeBinding, Binding, not 'name'"):
            await channel.declare(Queue(f"{PREFIX}.never"), "name")  # type: ignore[arg-type]
        with pytest.raises(rabbitry.NotFound):
            await channel.declare_queue(f"{PREFIX}.never", passive=True)


async def test_what_rabbitmq_knows_of_them(node: PrivateNode) -> None:
    """Each kind with each argument it may have is taken, and shown as it was meant."""
    every = {"max_length_bytes": 10**6}
    placed = {"arguments": {"x-queue-leader-locator": "client-local"}}
    more = every | {"max_length": 9, "message_ttl": 60, "expires": 600, "dead_letter_exchange": "dead"}
    more |= {"dead_letter_routing_key": "k", "single_active_consumer": True, "overflow": "reject-publish"}
    queues = [
        Queue(f"{PREFIX}.classic", max_priority=3, **more),
        Queue(f"{PREFIX}.quorum", type="quorum", delivery_limit=2, **placed, **more),
        Queue(f"{PREFIX}.stream", type="stream", max_age=3600, **placed, **every),
    ]
    async with open_channel(node.url) as channel:
        await channel.declare(*queues)
        listed = await anyio.to_thread.run_sync(node.rabbitmqctl, "list_queues", "name", "type", "arguments")
        for queue in queues:
            (line,) = [line for line in listed.splitlines() if line.startswith(queue.name)]
            assert queue.type in line.replace("rabbit_", "").replace("_queue", "")
            for name, value in queue.declaration().arguments.items():
                assert name in line and (isinstance(value, bool) or str(value) in line), (name, value, line)
            await channel.delete_queue(queue)


# --- RabbitMQ 4.3 -----------------------------------------------------------------------------------------------------


def test_delayed_retry_and_consumer_timeout() -> None:
    queue = Queue(
        "q",
        type="quorum",
        delayed_retry="failed",
        delayed_retry_min=1.5,
        delayed_retry_max=timedelta(minutes=1),
        consumer_timeout=3600,
    )
    assert queue.declaration().arguments == {
        "x-queue-type": "quorum",
        "x-delayed-retry-type": "failed",
        "x-delayed-retry-min": 1500,
        "x-delayed-retry-max": 60_000,
        "x-consumer-timeout": 3_600_000,
    }
    assert Queue("q", type="quorum", delayed_retry="disabled").declaration().arguments == {
        "x-queue-type": "quorum",
        "x-delayed-retry-type": "disabled",
    }


@pytest.mark.parametrize(
    "options",
    [
        {"delayed_retry": "sometimes", "delayed_retry_min": 1},
        {"delayed_retry": "all"},
        {"delayed_retry": "disabled", "delayed_retry_min": 1},
        {"delayed_retry_min": 1},
        {"delayed_retry_max": 1},
        {"delayed_retry": "all", "delayed_retry_min": 0},
        {"delayed_retry": "all", "delayed_retry_min": -1},
        {"delayed_retry": "all", "delayed_retry_min": 2, "delayed_retry_max": 1},
        {"delayed_retry": "all", "delayed_retry_min": 2, "arguments": {"x-delayed-retry-min": 5}},
        {"consumer_timeout": 0},
        {"consumer_timeout": -1},
        {"type": "classic", "consumer_timeout": 60},
        {"type": "stream", "consumer_timeout": 60},
        {"type": "classic", "delayed_retry": "all", "delayed_retry_min": 1},
        {"max_priority": 5},
    ],
)
def test_what_a_quorum_queue_does_not_take(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Queue("q", **{"type": "quorum", **options})


@pytest.mark.parametrize("options", [{"delayed_retry": "all", "delayed_retry_min": "1"}, {"consumer_timeout": "1"}])
def test_durations_of_other_types(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Queue("q", type="quorum", **options)
