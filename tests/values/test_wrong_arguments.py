"""Values as people write them, of another type or out of range: none is taken silently, none answered by a riddle."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, cast

import pytest

import rabbitry
from rabbitry import Binding, Exchange, ExchangeBinding, Queue, blocking
from rabbitry._values.arguments import whole
from rabbitry._values.durations import seconds
from tests.support.helpers import exclusive_queue, open_channel, unique


class Name(Enum):
    JOBS = "jobs"


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 5


async def handle(delivery: rabbitry.Delivery) -> None: ...


@pytest.mark.parametrize("wrong", ["5", b"5", True, False, 5.0, Decimal(5), None, [5]])
def test_what_is_no_whole_number(wrong: Any) -> None:
    with pytest.raises(TypeError, match="window must be an int"):
        whole(wrong, "window")
    assert (whole(5, "window"), whole(Index(), "window")) == (5, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["5", b"5", True, None, [5], "PT5S"])
def test_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a number of seconds, or a timedelta"):
        seconds(wrong)
    assert seconds(Decimal("0.5")) == seconds(timedelta(milliseconds=500)) == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, b"jobs", Name.JOBS, Path("jobs"), 5, ("jobs",), {}, True])
async def test_what_is_no_name(amqp_url: str, wrong: Any) -> None:
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        for use in (
            lambda: client.consume(wrong).__aenter__(),
            lambda: client.process(wrong, handle),
            lambda: client.inspect(wrong),
            lambda: client.publish(b"x", exchange=wrong),
            lambda: client.publish(b"x", routing_key=wrong),
            lambda: channel.get(wrong),
        ):
            with pytest.raises(TypeError):
                await use()


@pytest.mark.parametrize("wrong", ["é" * 128, "\ud800"])
async def test_names_that_no_frame_carries(amqp_url: str, wrong: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        for use in (
            lambda: client.consume(wrong).__aenter__(),
            lambda: client.inspect(wrong),
            lambda: client.publish(b"x", routing_key=wrong),
            lambda: client.publish(b"x", exchange=wrong),
        ):
            with pytest.raises(ValueError, match=r"256 bytes|UTF-8"):
                await use()


@pytest.mark.parametrize("wrong", ["100", 100.0, True, None, Decimal(5)])
async def test_what_is_no_count(amqp_url: str, wrong: Any) -> None:
    name = unique("counted")
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        for use in (
            lambda: client.consume(name, prefetch=wrong).__aenter__(),
            lambda: client.consume(name, prefetch=0).batches(wrong, within=1),
            lambda: client.process(name, handle, concurrency=wrong),
            lambda: client.serve(name, handle, concurrency=wrong),
            lambda: client.publisher(window=wrong).__aenter__(),
            lambda: channel.qos(wrong),
            lambda: channel.publisher(window=wrong),
        ):
            with pytest.raises(TypeError, match="must be an int"):
                await use()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"heartbeat": "5"}, TypeError),
        ({"heartbeat": True}, TypeError),
        ({"heartbeat": timedelta(seconds=-2)}, ValueError),
        ({"connect_timeout": "5"}, TypeError),
        ({"connect_timeout": timedelta(0)}, ValueError),
        ({"frame_max": "8192"}, TypeError),
        ({"channel_max": 1.5}, TypeError),
        ({"max_message_size": True}, TypeError),
        ({"name": 5}, TypeError),
        ({"name": "\ud800"}, ValueError),
        ({"client_properties": ["a"]}, TypeError),
        ({"dial": 5}, TypeError),
    ],
)
def test_what_a_connection_can_not_be_made_of(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        rabbitry.connect(**options)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"urls": None}, TypeError),
        ({"urls": b"amqp://localhost"}, TypeError),
        ({"urls": Path("/tmp")}, TypeError),
        ({"urls": ()}, ValueError),
        ({"reconnect": 5}, TypeError),
        ({"credentials": ("guest", "guest")}, TypeError),
        ({"drain": -1}, ValueError),
        ({"drain": "5"}, TypeError),
    ],
)
async def test_what_a_client_can_not_be_made_of(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        async with rabbitry.open_client(**options):
            pass


# --- topology ---------------------------------------------------------------------------------------------------------

FULL = "é" * 128  # 256 bytes in UTF-8

WRONG_TOPOLOGY: list[tuple[Callable[[], object], type[Exception]]] = [
    (lambda: Exchange(cast(Any, None)), TypeError),
    (lambda: Exchange(cast(Any, 5)), TypeError),
    (lambda: Exchange(cast(Any, b"x")), TypeError),
    (lambda: Exchange(""), ValueError),
    (lambda: Exchange("\ud800"), ValueError),
    (lambda: Exchange("\udcff"), ValueError),
    (lambda: Exchange(FULL), ValueError),
    (lambda: Exchange("x", cast(Any, None)), TypeError),
    (lambda: Exchange("x", FULL), ValueError),
    (lambda: Exchange("x", durable=cast(Any, "no")), TypeError),
    (lambda: Exchange("x", internal=cast(Any, None)), TypeError),
    (lambda: Exchange("x", alternate=cast(Any, 5)), TypeError),
    (lambda: Exchange("x", alternate=cast(Any, Exchange("y"))), TypeError),
    (lambda: Exchange("x", alternate="y", arguments={"alternate-exchange": "z"}), ValueError),
    (lambda: Exchange("x", arguments=cast(Any, [])), TypeError),
    (lambda: Exchange("x", arguments=cast(Any, None)), TypeError),
    (lambda: Exchange("x", arguments={"a": object()}), TypeError),
    (lambda: Queue("\ud800"), ValueError),
    (lambda: Queue(FULL), ValueError),
    (lambda: Queue("q", type=cast(Any, [])), ValueError),
    (lambda: Queue("q", overflow=cast(Any, "x")), ValueError),
    (lambda: Queue("q", overflow=cast(Any, ["drop-head"])), ValueError),
    (lambda: Queue("q", exclusive=cast(Any, "yes")), TypeError),
    (lambda: Queue("q", auto_delete=cast(Any, "false")), TypeError),
    (lambda: Queue("q", single_active_consumer=cast(Any, 1)), TypeError),
    (lambda: Queue("q", dead_letter_exchange=cast(Any, 5)), TypeError),
    (lambda: Queue("q", dead_letter_exchange=cast(Any, Exchange("x"))), TypeError),
    (lambda: Queue("q", dead_letter_exchange=FULL), ValueError),
    (lambda: Queue("q", dead_letter_exchange="x", dead_letter_routing_key=cast(Any, 5)), TypeError),
    (lambda: Queue("q", dead_letter_exchange="x", dead_letter_routing_key=FULL), ValueError),
    (lambda: Queue("q", arguments=cast(Any, [])), TypeError),
    (lambda: Queue("q", arguments=cast(Any, "x")), TypeError),
    (lambda: Queue("q", arguments=cast(Any, {1: 2})), TypeError),
    (lambda: Queue("q", arguments={"a": "\ud800"}), ValueError),
    (lambda: Queue("q", arguments={"x-dead-letter-exchange": 5}), TypeError),
    (lambda: Queue("q", arguments={"x-dead-letter-routing-key": FULL}), ValueError),
    (lambda: Queue("q", arguments={"x-delivery-limit": "5"}), TypeError),
    (lambda: Queue.temporary(arguments=[]), TypeError),
    (lambda: Binding(cast(Any, None), "x"), TypeError),
    (lambda: Binding("q", cast(Any, None)), TypeError),
    (lambda: Binding(cast(Any, Exchange("x")), "q"), TypeError),
    (lambda: Binding("q", cast(Any, Queue("q"))), TypeError),
    (lambda: Binding("", "x"), ValueError),
    (lambda: Binding("q", ""), ValueError),
    (lambda: Binding("\ud800", "x"), ValueError),
    (lambda: Binding("q", "x", cast(Any, None)), TypeError),
    (lambda: Binding("q", "x", cast(Any, {"a": 1})), TypeError),
    (lambda: Binding("q", "x", FULL), ValueError),
    (lambda: Binding("q", "x", arguments=cast(Any, [])), TypeError),
    (lambda: Binding("q", "x", arguments={"a": object()}), TypeError),
    (lambda: Binding(Queue.temporary(), "x", arguments=cast(Any, None)), TypeError),
    (lambda: ExchangeBinding(cast(Any, None), "x"), TypeError),
    (lambda: ExchangeBinding(cast(Any, Queue("q")), "x"), TypeError),
    (lambda: ExchangeBinding("", "x"), ValueError),
    (lambda: ExchangeBinding("x", ""), ValueError),
    (lambda: ExchangeBinding("x", "y", cast(Any, 5)), TypeError),
]


@pytest.mark.parametrize(("make", "kind"), WRONG_TOPOLOGY)
def test_topology_that_no_broker_takes(make: Callable[[], object], kind: type[Exception]) -> None:
    """Where it is made, and not where it is declared, or for the first time with its name in a later life."""
    with pytest.raises(kind) as raised:
        make()
    assert "object has no attribute" not in str(raised.value) and "unhashable" not in str(raised.value)


@pytest.mark.parametrize("wrong", [[], [1], "x", 5])
async def test_what_is_no_table_of_arguments(amqp_url: str, wrong: Any) -> None:
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        name = await exclusive_queue(channel)
        for use in (
            lambda: channel.declare_queue(unique(), arguments=wrong),
            lambda: channel.declare_exchange(unique(), arguments=wrong),
            lambda: channel.bind_queue(name, "amq.headers", arguments=wrong),
            lambda: channel.unbind_queue(name, "amq.headers", arguments=wrong),
            lambda: channel.bind_exchange("amq.direct", "amq.headers", arguments=wrong),
            lambda: channel.unbind_exchange("amq.direct", "amq.headers", arguments=wrong),
            lambda: channel.consume(name, arguments=wrong).__aenter__(),
            lambda: client.consume(name, arguments=wrong).__aenter__(),
        ):
            with pytest.raises(TypeError, match="arguments are a mapping"):
                await use()
        assert channel.is_open


async def test_an_exchange_is_not_taken_for_the_queue_of_its_name(amqp_url: str) -> None:
    """Nor a queue for the exchange."""
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        name = await exclusive_queue(channel)
        exchange, queue = cast(Any, Exchange(name)), cast(Any, Queue(name, exclusive=True))
        for use in (
            lambda: channel.delete_queue(exchange),
            lambda: channel.purge_queue(exchange),
            lambda: channel.get(exchange),
            lambda: channel.consume(exchange).__aenter__(),
            lambda: channel.bind_queue(exchange, queue),
            lambda: channel.unbind_queue(exchange, queue),
            lambda: channel.bind_exchange(queue, "amq.direct"),
            lambda: channel.delete_exchange(queue),
            lambda: channel.publish(b"", exchange=queue),
            lambda: client.publish(b"", exchange=queue),
            lambda: client.publisher(exchange=queue).__aenter__(),
            lambda: client.consume(exchange).__aenter__(),
            lambda: client.inspect(exchange),
        ):
            with pytest.raises(TypeError, match=r"a name is text, or the (Queue|Exchange) itself"):
                await use()
        assert (await channel.declare_queue(name, passive=True)).name == name


@pytest.mark.parametrize("wrong", [None, 5, {"key": None}, {"key": 5}])
def test_what_are_no_messages(amqp_url: str, wrong: Any) -> None:
    with blocking.open_client(amqp_url) as client, pytest.raises(TypeError, match="an iterable of messages"):
        client.publish_many(wrong)


@pytest.mark.parametrize("wrong", ["no", 1, None])
async def test_what_is_neither_true_nor_false(amqp_url: str, wrong: Any) -> None:
    """A "no" is true to Python."""
    name = unique()
    async with open_channel(amqp_url) as channel:
        for use in (
            lambda: channel.declare_queue(name, durable=wrong),
            lambda: channel.declare_exchange(name, internal=wrong),
            lambda: channel.delete_queue(name, if_unused=wrong),
            lambda: channel.consume(name, exclusive=wrong).__aenter__(),
            lambda: channel.consume(name, no_ack=wrong).__aenter__(),
            lambda: channel.get(name, no_ack=wrong),
        ):
            with pytest.raises(TypeError, match="must be True or False"):
                await use()
        assert channel.is_open


@pytest.mark.parametrize("wrong", [True, 2.0, "2", [2]])
def test_what_is_no_delivery_mode(wrong: Any) -> None:
    """True, who means persistent by it, would be 1, transient."""
    with pytest.raises(TypeError, match=r"delivery_mode"):
        rabbitry.Message(b"", delivery_mode=wrong).encoded_properties()


@pytest.mark.parametrize("wrong", ["5", 5.5, True, 0])
def test_what_is_no_number_of_attempts(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="attempts"):
        rabbitry.Backoff(attempts=wrong)


async def awaited(confirmation: rabbitry.Confirmation) -> None: ...


class Awaited:
    async def __call__(self, confirmation: rabbitry.Confirmation) -> None: ...


@pytest.mark.parametrize("wrong", [5, "x", awaited, Awaited()])
async def test_what_can_not_be_told_outcomes(amqp_url: str, wrong: Any) -> None:
    async with rabbitry.open_client(amqp_url) as client, open_channel(amqp_url) as channel:
        with pytest.raises(TypeError, match="on_outcome"):
            await client.publisher(on_outcome=wrong).__aenter__()
        with pytest.raises(TypeError, match="on_outcome"):
            channel.publisher(on_outcome=wrong)


@pytest.mark.parametrize("wrong", [5, awaited])
def test_what_can_not_be_told_outcomes_in_threads(amqp_url: str, wrong: Any) -> None:
    with blocking.open_client(amqp_url) as client, pytest.raises(TypeError, match="on_outcome"):
        client.publisher(on_outcome=wrong)
    with blocking.connect(amqp_url) as connection, connection.channel() as channel:
        with pytest.raises(TypeError, match="on_outcome"):
            channel.publisher(on_outcome=wrong)
