"""What a caller may make of a server by what it writes into its requests: nothing that it costs others, or that it
could not do itself.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Exchange, Message
from rabbitry._rpc.addresses import Addresses, node_of
from rabbitry._rpc.apart import Apart
from rabbitry.protocol.wire.properties import decode_properties
from rabbitry.testing import PrivateNode
from tests.measuring.hostile import KINDS, Hostile, Turns, address_at, hostile_user, in_turn, measure, scene
from tests.support.clients import QUICK, some_queue
from tests.support.helpers import drain, exclusive_queue, has_counts, open_channel, unique, until

LAYERS = ["client", "connection"]
Serve = Callable[..., Any]


@asynccontextmanager
async def server(url: str, layer: str) -> AsyncIterator[tuple[Serve, Callable[[], dict[str, int]]]]:
    """`serve` of that layer, and its counts."""
    if layer == "client":
        async with rabbitry.open_client(url, reconnect=QUICK) as client:
            yield client.serve, lambda: dict(client.statistics())
    else:
        async with rabbitry.connect(url) as connection:

            def told() -> dict[str, int]:
                counts = connection.requests
                return {"undeliverable_replies": counts.undeliverable_replies, "refused_requests": counts.refused}

            yield connection.serve, told


async def double(number: int) -> int:
    return 2 * number


# --- addresses --------------------------------------------------------------------------------------------------------

GENUINE = (
    "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxNDUyMTMxNgAAArYAAAAAawx6jg==.5RQpjagPsVL2/Xt8mxNqbg==",  # of 3.10.8
    "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMzE5OTg3NDIAABMmAAAAAGabm8s=.fXN/5FjyyHDrbBb2pYrKFw==",
)


FORGER = Hostile(GENUINE[0], "")


@pytest.mark.parametrize("address", GENUINE)
def test_genuine_addresses_have_a_node(address: str) -> None:
    assert (node_of(address) or b"").startswith(b"reply@")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "amq.rabbitmq.reply-to",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.abcd.efgh",
        GENUINE[0] + "=",
        GENUINE[0] + ".",
        GENUINE[0] + "\r",
        GENUINE[0][:-1],
        GENUINE[0].replace(".g1h2", ".g1d2"),  # an identifier of before Erlang/OTP 23
        GENUINE[0].replace("AAArY", "AAAr\xe9"),
        GENUINE[0].replace("jg==", "jh=="),  # the same octets
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxNDUyMTMxNgAAArYAAAAAawx6jg==.AAAA",
        *(FORGER.address(number=number) for number in (1 << 28, (1 << 28) - 1, (1 << 32) - 1)),
        FORGER.address(serial=1 << 13),
        *(FORGER.address(node=node) for node in (b"rabbit@host", b"nonode", b"", b"@1", b"reply@", b"r@1\n")),
    ],
)
def test_what_only_looks_like_an_address_has_none(address: str) -> None:
    assert node_of(address) is None


def test_an_address_is_known_with_its_node() -> None:
    hostile, addresses = Hostile(GENUINE[0], ""), Addresses()
    assert not addresses.are_known(GENUINE[0])
    addresses.prove(GENUINE[0])
    assert all(addresses.are_known(hostile.address(number=number)) for number in range(3000))
    assert len(addresses.known) <= 1000
    assert not addresses.are_known(GENUINE[1])
    assert not addresses.are_known(hostile.address(number=1 << 28))
    addresses.forget()
    assert not addresses.are_known(GENUINE[0])


@pytest.mark.parametrize("layer", LAYERS)
async def test_forged_addresses_cost_a_server_nothing(
    amqp_url: str, layer: str, broker_version: tuple[int, ...]
) -> None:
    """RabbitMQ 3.10 closes the connection over most of these; 4 takes some, and drops them."""
    kinds = [name for name in KINDS if name.startswith("addresses")]
    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, counts), open_channel(amqp_url) as own:
        async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(serve, queue, double)
            with anyio.fail_after(60):
                assert await rpc.call(queue, 1) == 2
                forger = Hostile(await address_at(connection), queue)
                for kind in kinds:
                    for _ in range(9):
                        address = await forged(forger, kind)
                        forger.count += 1
                        if address != "amq.rabbitmq.reply-to":  # over which the forger's own channel is closed
                            await own.publish(Message.msgpack(1, reply_to=address), routing_key=queue)
                            assert await rpc.call(queue, 21) == 42
                assert await has_counts(own, queue, 0, 1)
            if layer == "client":
                assert (counts()["publishing_lives"], counts()["consuming_lives"]) == (1, 1)
            await until(lambda: counts()["undeliverable_replies"] >= (30 if broker_version < (4,) else 1))
            tg.cancel_scope.cancel()


async def forged(forger: Hostile, kind: str) -> str:
    return decode_properties(KINDS[kind](forger)[0]).reply_to or ""


@pytest.mark.parametrize("layer", LAYERS)
async def test_an_address_of_another_node_gets_its_reply_by_a_connection_of_its_own(
    amqp_url: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has the server not know its own node makes every caller one of another node."""

    async def unknown(channel: rabbitry.Channel) -> None:
        return None

    monkeypatch.setattr("rabbitry._rpc.addresses.own_address", unknown)
    opened: list[str] = []
    entering = rabbitry.Connection.__aenter__

    async def entered(connection: rabbitry.Connection) -> rabbitry.Connection:
        opened.append(connection.name)
        return await entering(connection)

    monkeypatch.setattr(rabbitry.Connection, "__aenter__", entered)
    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, _):
        async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc, anyio.create_task_group() as tg:
            tg.start_soon(serve, queue, double)
            with anyio.fail_after(30):
                for number in range(5):
                    assert await rpc.call(queue, number) == 2 * number
                async with connection.rpc() as another:
                    assert await another.call(queue, 21) == 42
            # the second call may overtake the confirm of the first one's reply
            assert 1 <= len([name for name in opened if name.endswith("-apart")]) <= 2
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("layer", LAYERS)
async def test_replies_that_go_apart_are_sent_before_a_server_ends(
    amqp_url: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(channel: rabbitry.Channel) -> None:
        return None

    monkeypatch.setattr("rabbitry._rpc.addresses.own_address", unknown)
    taken, send = anyio.Event(), Apart._send

    def noted(apart: Apart, reply: Message, address: str) -> None:
        send(apart, reply, address)
        taken.set()

    monkeypatch.setattr(Apart, "_send", noted)
    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, _):
        async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc, anyio.create_task_group() as tg:
            async with anyio.create_task_group() as serving:
                serving.start_soon(serve, queue, double)

                async def call() -> None:
                    with anyio.fail_after(10):
                        assert await rpc.call(queue, 21) == 42
                    tg.cancel_scope.cancel()

                tg.start_soon(call)
                await taken.wait()
                serving.cancel_scope.cancel()
            await anyio.sleep_forever()


async def test_a_broker_with_addresses_of_its_own_form_is_taken_at_its_word(
    amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def another(channel: rabbitry.Channel) -> str:
        return "amq.rabbitmq.reply-to.1"

    monkeypatch.setattr("rabbitry._rpc.addresses.own_address", another)
    addresses = Addresses()
    await addresses.learn(1, lambda: None)  # type: ignore[arg-type, return-value]
    assert addresses.are_known("amq.rabbitmq.reply-to.2")
    assert not addresses.are_malformed("amq.rabbitmq.reply-to.2")


# --- the confused deputy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
async def test_an_exchange_that_a_request_names_needs_the_servers_consent(amqp_url: str, layer: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel, server(amqp_url, layer) as (serve, _):
        replies, bound = await exclusive_queue(channel), await exclusive_queue(channel)
        orders, listed = Exchange(unique("orders"), "fanout"), Exchange(unique("listed"), "direct")
        await channel.declare(orders, listed)
        await channel.bind_queue(bound, orders)
        await channel.bind_queue(bound, listed, replies)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(serve, queue, double, reply_exchanges={listed, "another"}))
            for number, exchange in enumerate((orders.name, "amq.topic", "amq.fanout", "", 7, listed.name)):
                headers = {"x-rabbitry-reply-exchange": exchange}
                request = Message.msgpack(number, reply_to=replies, correlation_id="1", headers=headers)
                await channel.publish(request, routing_key=queue)
            assert await has_counts(channel, replies, 5)
            assert await has_counts(channel, bound, 1)
            assert await drain(channel, bound) == [b"\x0a"]
            tg.cancel_scope.cancel()
        await channel.delete_exchange(orders)
        await channel.delete_exchange(listed)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("allowed", ["generated", "predicate", "broken"])
async def test_the_queues_that_are_replied_to_can_be_restricted(
    amqp_url: str, layer: str, allowed: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "rabbitry")

    def predicate(name: str) -> bool:
        if allowed == "broken":
            raise ValueError
        return name.startswith("mine-")

    rule: Any = allowed if allowed == "generated" else predicate
    handled: list[int] = []

    async def handler(number: int) -> int:
        handled.append(number)
        return number

    async with (
        some_queue(amqp_url) as queue,
        open_channel(amqp_url) as channel,
        server(amqp_url, layer) as (serve, counts),
    ):
        generated = await exclusive_queue(channel)
        other, mine = unique("other\n"), unique("mine")
        for name in (other, mine):
            await channel.declare_queue(name, exclusive=True)
        async with anyio.create_task_group() as tg, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
            tg.start_soon(partial(serve, queue, handler, reply_to_allowed=rule))
            for number, name in enumerate((other, mine, generated)):
                await channel.publish(Message.msgpack(number, reply_to=name), routing_key=queue)
            assert await rpc.call(queue, 9) == 9  # by a direct address, which is always allowed
            await channel.publish(Message.msgpack(8), routing_key=queue)  # no reply
            await until(lambda: 8 in handled)
            expected = {"generated": [generated], "predicate": [mine], "broken": []}[allowed]
            for name in (other, mine, generated):
                assert await has_counts(channel, name, name in expected), name
            assert await has_counts(channel, queue, 0, 1)
            assert counts()["refused_requests"] == 3 - len(expected)
            assert len(handled) == 2 + len(expected)
            tg.cancel_scope.cancel()
    assert "may not go to" in caplog.text
    assert "other\\n" in caplog.text and "other\n-" not in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"reply_exchanges": "orders"}, TypeError, "collection of exchanges"),
        ({"reply_exchanges": Exchange("orders")}, TypeError, "collection of exchanges"),
        ({"reply_exchanges": [""]}, ValueError, "default exchange"),
        ({"reply_to_allowed": "none"}, ValueError, '"any", "generated" or a function'),
        ({"reply_to_allowed": None}, ValueError, '"any", "generated" or a function'),
        ({"expected_errors": ValueError}, TypeError, "tuple of exception classes"),
        ({"expected_errors": (ValueError, "KeyError")}, TypeError, "tuple of exception classes"),
        ({"expected_errors": (KeyboardInterrupt,)}, TypeError, "tuple of exception classes"),
    ],
)
@pytest.mark.parametrize("layer", LAYERS)
async def test_wrong_options_are_refused(
    amqp_url: str, layer: str, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    async with server(amqp_url, layer) as (serve, _):
        with pytest.raises(error, match=told):
            await serve("queue", double, **options)


# --- what is told and logged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
async def test_expected_errors_are_answers_and_no_faults(
    amqp_url: str, layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rabbitry")

    class Missing(LookupError):
        pass

    async def handler(number: int) -> int:
        raise {1: Missing("no such order"), 2: ValueError("not that"), 3: RuntimeError("a bug")}[number]

    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, _):
        async with anyio.create_task_group() as tg, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
            tg.start_soon(partial(serve, queue, handler, expected_errors=(LookupError, ValueError)))
            for number, name in ((1, "Missing"), (2, "ValueError"), (3, "RuntimeError")):
                with pytest.raises(rabbitry.RemoteError) as caught:
                    await rpc.call(queue, number)
                assert caught.value.type_name == name
            tg.cancel_scope.cancel()
    failures = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(each.getMessage(), each.exc_info is not None) for each in failures] == [
        (f"the RPC handler of queue {queue!r} failed with RuntimeError: a bug", True)
    ]
    assert "answered with Missing" in caplog.text


@pytest.mark.parametrize("layer", LAYERS)
async def test_a_bad_request_is_no_failure_of_the_handlers(
    amqp_url: str, layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever sends many would have as many tracebacks written; and what it sends can't write lines of its own."""
    caplog.set_level(logging.DEBUG, "rabbitry")
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel, server(amqp_url, layer) as (serve, _):
        replies = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(serve, queue, [double])
            for request in (
                Message(b"\xc1"),
                Message(b"\x81\x01\x01"),
                Message(b"1", content_type="application/json\x1b[2J\n"),
                Message.msgpack({"args": [], "kwargs": {}}, type="nothing\x1b[2J\n"),
                Message.msgpack({"args": [], "kwargs": {"\x1b[2J\n": 1}}, type="double"),
            ):
                await channel.publish(request.replace(reply_to=replies), routing_key=queue)
            assert await has_counts(channel, replies, 5)
            tg.cancel_scope.cancel()
    records = [record for record in caplog.records if "can't be answered" in record.getMessage()]
    assert len(records) == 3  # the first of each kind of error
    assert all(each.levelno == logging.WARNING and each.exc_info is None for each in records)
    assert all(each.getMessage().isprintable() for each in records)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (Message(b"\xc1"), {}),
        (Message.msgpack(1, headers={"x-rabbitry-remaining": 0}), {}),
        (Message.msgpack(1), {"reply_to_allowed": "generated"}),
        (Message.msgpack(1), {"reply_to_allowed": lambda name: 1 / 0}),
        (Message.msgpack(1, reply_to="no-such-queue"), {}),
        (Message.msgpack(None), {}),
        (Message.msgpack(1, headers={"x-rabbitry-reply-exchange": "no-such"}), {"reply_exchanges": {"no-such"}}),
    ],
    ids=["bad", "expired", "refused", "refused by a failure", "undeliverable", "failing", "to no exchange"],
)
async def test_a_caller_does_not_fill_the_log(
    amqp_url: str, layer: str, request_: Message, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One line a second of each kind, whatever comes."""

    async def handler(number: int) -> int:
        return 2 + number

    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel, server(amqp_url, layer) as (serve, _):
        replies = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(serve, queue, handler, **options))
            request = request_.replace(reply_to=request_.reply_to or ("shared" if options else replies))
            begun = anyio.current_time()
            for _ in range(100):
                await channel.publish(request, routing_key=queue)
            assert await has_counts(channel, queue, 0, 1)
            tg.cancel_scope.cancel()
        seconds = anyio.current_time() - begun
    lines = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert lines
    kinds = 2 if options else 1
    assert len(lines) <= kinds * (seconds + 1), [each.getMessage() for each in lines]
    assert sum(each.exc_info is not None for each in lines) <= 1


@pytest.mark.parametrize("layer", LAYERS)
async def test_what_a_handler_raises_begins_no_line_of_the_log(
    amqp_url: str, layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text, and its notes, may be what the caller sent."""
    forged = "\x1b]0;title\x07\nINFO forged: all is well\r\x9b31m\u202e" + 100_000 * "x"

    async def handler(text: str) -> None:
        error = ValueError(text)
        error.add_note(text)
        raise error

    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, _):
        async with anyio.create_task_group() as tg, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
            tg.start_soon(serve, queue, handler)
            with pytest.raises(rabbitry.RemoteError):
                await rpc.call(queue, forged)
            tg.cancel_scope.cancel()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    text = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert text.replace("\n", "").isprintable()
    assert len(text) < 50_000
    head, *rest = text.split("\n")
    assert head.startswith("ERROR the RPC handler") and all(line.startswith("  ") for line in rest if line)
    assert record.exc_info is not None and str(record.exc_info[1]) == forged  # for those who report errors


@pytest.mark.parametrize("layer", LAYERS)
async def test_an_error_without_a_text_is_answered(amqp_url: str, layer: str) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise KeyError

    async def handler(number: int) -> None:
        raise Unprintable

    async with some_queue(amqp_url) as queue, server(amqp_url, layer) as (serve, _):
        async with anyio.create_task_group() as tg, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
            tg.start_soon(serve, queue, handler)
            for _ in range(2):
                with pytest.raises(rabbitry.RemoteError, match="its text can't be had: KeyError"):
                    await rpc.call(queue, 1)
            tg.cancel_scope.cancel()


# --- size -------------------------------------------------------------------------------------------------------------

LIMIT = 1000


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
async def test_a_request_that_is_too_large_does_not_end_the_server(amqp_url: str, layer: str, kind: Any) -> None:
    """It is rejected, and counted, and the server goes on; the other requests lose nothing."""
    dead = unique("dead")
    letters: dict[str, Any] = {} if kind == "stream" else {"dead_letter_exchange": "", "dead_letter_routing_key": dead}
    async with open_channel(amqp_url) as channel, rabbitry.open_client(amqp_url) as caller, caller.rpc() as rpc:
        queue = rabbitry.Queue(unique("served"), type=kind, **letters)
        await channel.declare(queue, rabbitry.Queue(dead))
        try:
            if layer == "client":
                opened: Any = rabbitry.open_client(amqp_url, max_message_size=LIMIT, reconnect=QUICK)
            else:
                opened = rabbitry.connect(amqp_url, max_message_size=LIMIT)
            async with opened as own, anyio.create_task_group() as tg:

                def refused() -> int:
                    return int(own.statistics()["refused_requests"] if layer == "client" else own.requests.refused)

                tg.start_soon(own.serve, queue.name, double)
                with anyio.fail_after(20):
                    while True:  # a stream's consumer gets what comes once it is there
                        with anyio.move_on_after(0.5):
                            assert await rpc.call(queue.name, 0) == 0
                            break
                    for number in range(1, 4):
                        await channel.publish(Message(bytes(200_000)), routing_key=queue.name)
                        await channel.publish(
                            Message(bytes(LIMIT + 1), reply_to="amq.gen-x", headers={"a": [None] * 10_000}),
                            routing_key=queue.name,
                        )
                        assert await rpc.call(queue.name, number) == 2 * number
                    assert refused() == 6
                    if kind != "stream":
                        assert await has_counts(channel, queue.name, 0, 1)
                        assert await has_counts(channel, dead, 6)
                    if layer == "client":
                        assert own.statistics()["consuming_lives"] == 1
                tg.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await channel.delete_queue(queue.name)
                await channel.delete_queue(dead)


@pytest.mark.parametrize("layer", LAYERS)
async def test_replies_do_not_tell_how_many_there_were(amqp_url: str, layer: str) -> None:
    async with some_queue(amqp_url) as queue, open_channel(amqp_url) as channel, server(amqp_url, layer) as (serve, _):
        replies = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(serve, queue, double)
            for number in range(20):
                await channel.publish(Message.msgpack(number, reply_to=replies), routing_key=queue)
            assert await has_counts(channel, replies, 20)
            tg.cancel_scope.cancel()
        numbers: list[int] = []
        while (reply := await channel.get(replies, no_ack=True)) is not None:
            numbers += [value for value in reply.headers.values() if isinstance(value, int)]
    assert all(number > 1_000_000 for number in numbers)
    steps = {second - first for first, second in pairwise(numbers)}
    assert len(steps) == max(0, len(numbers) - 1)


# --- all of it --------------------------------------------------------------------------------------------------------

GROUPS = {
    "addresses": in_turn(*(KINDS[name] for name in KINDS if name.startswith("addresses"))),
    "payloads": in_turn(*(KINDS[name] for name in KINDS if name.startswith(("payloads", "content types")))),
    "the rest": in_turn(*(KINDS[name] for name in KINDS if not name.startswith(("addresses", "payloads")))),
}


@pytest.fixture(scope="module")
def hostile_url(node: PrivateNode) -> Any:
    with hostile_user(node) as url:
        yield url


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("group", GROUPS)
async def test_a_hostile_caller_costs_the_others_next_to_nothing(
    amqp_url: str, hostile_url: str, layer: Any, group: str
) -> None:
    """At most 5 % of their answers, in as many turns as it takes to see that: other tests may run beside this one."""
    async with scene(amqp_url, hostile_url, layer) as this:
        turns = Turns()
        for _ in range(12):
            await measure(this, GROUPS[group], turns, pairs=4, seconds=0.25)
            assert (turns.failures, turns.connections_lost) == (0, 0)
            if turns.ratio >= 0.95:
                return
    pytest.fail(f"without and with a hostile caller: {turns}")
