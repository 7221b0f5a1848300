"""What the broker closes a whole connection over: the operation that asked for it is told, and all others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Backoff, Binding, Exchange, Queue
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from tests.support.clients import QUICK, some_queue, through_proxy
from tests.support.helpers import open_channel, unique, until
from tests.support.peer import scripted
from tests.support.protocol_broker import method_frame

CRASHING = {"x-queue-master-locator": "no-such-strategy"}
"""Over which the channel's process crashes in RabbitMQ 3.10: its 541 names no method."""

FEW = Backoff(initial=0.01, maximum=0.05, attempts=5)

Operation = Callable[[rabbitry.Client, str], Awaitable[object]]


async def declare_unknown_type(client: rabbitry.Client, stream: str) -> None:
    await client.declare(Exchange(unique(), "fanuot"))


async def declare_what_crashes(client: rabbitry.Client, stream: str) -> None:
    await client.declare(Queue(unique(), arguments=CRASHING))


async def consume_a_stream_without_acknowledging(client: rabbitry.Client, stream: str) -> None:
    async with client.consume(stream, no_ack=True):
        pass


async def process_a_stream_without_acknowledging(client: rabbitry.Client, stream: str) -> None:
    async def handle(delivery: rabbitry.Delivery) -> None: ...

    await client.process(stream, handle, no_ack=True)


async def call_with_replies_through_an_unknown_type(client: rabbitry.Client, stream: str) -> None:
    async with client.rpc(reply_to=Exchange(unique(), "nonsense")) as rpc:
        await rpc.call("nowhere")


REFUSED: list[Any] = [
    (declare_unknown_type, 503),
    pytest.param(declare_what_crashes, 541, marks=pytest.mark.rabbitmq("the embedded broker does not crash")),
    (consume_a_stream_without_acknowledging, 540),
    (process_a_stream_without_acknowledging, 540),
    (call_with_replies_through_an_unknown_type, 503),
]


@asynccontextmanager
async def some_stream(url: str) -> AsyncIterator[str]:
    async with open_channel(url) as channel:
        name = unique()
        await channel.declare(Queue(name, type="stream"))
        try:
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await channel.delete_queue(name)


@asynccontextmanager
async def consuming(client: rabbitry.Client, queue: str) -> AsyncIterator[list[bytes]]:
    """What a subscription beside gets."""
    bodies: list[bytes] = []

    async def consume(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        async with client.consume(queue) as deliveries:
            task_status.started()
            async for delivery in deliveries:
                bodies.append(delivery.body)
                delivery.ack()

    async with anyio.create_task_group() as tg:
        await tg.start(consume)
        yield bodies
        tg.cancel_scope.cancel()


@pytest.fixture
def closes_connections(broker_version: tuple[int, ...]) -> None:
    """Of a broker that closes the connection over these declarations."""
    if broker_version >= (4,):
        pytest.skip("RabbitMQ 4 closes the channel alone over an unknown exchange type (406), and crashes over neither")


@pytest.mark.parametrize(("operation", "code"), REFUSED)
async def test_a_refusal_is_raised_at_once_and_the_others_go_on(
    amqp_url: str, operation: Operation, code: int, broker_version: tuple[int, ...]
) -> None:
    if code != 540 and broker_version >= (4,):
        if code == 541:
            pytest.skip("RabbitMQ 4 does not know the argument over which RabbitMQ 3 crashes")
        code = 406  # of the channel alone
    async with (
        some_stream(amqp_url) as stream,
        some_queue(amqp_url) as name,
        rabbitry.open_client(amqp_url, reconnect=FEW) as client,
        consuming(client, name) as bodies,
    ):
        for _ in range(FEW.attempts + 1 if FEW.attempts else 0):  # which must not be counted as vain attempts
            with anyio.fail_after(10), pytest.raises(rabbitry.Closed) as raised:
                await operation(client, stream)
            assert raised.value.code == code
        await client.publish(b"x", routing_key=name)
        await until(lambda: bodies == [b"x"])
        assert sum(client.statistics()[f"{role}_lives"] for role in ("consuming", "publishing")) <= 2 + 6


@pytest.mark.rabbitmq("the embedded broker does not crash")
@pytest.mark.usefixtures("closes_connections")
async def test_suspects_are_tried_one_by_one(amqp_url: str) -> None:
    """Several declarations are under way at once, and the broker does not say which one it means."""
    outcomes: dict[str, int | None] = {}
    async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
        await client.inspect("nothing")  # connected

        async def declare(name: str, entity: Exchange | Queue) -> None:
            try:
                await client.declare(entity)
                outcomes[name] = None
            except rabbitry.ConnectionClosed as error:
                outcomes[name] = error.code

        innocents = [Exchange(unique(), auto_delete=True), Queue(unique(), exclusive=True), Queue.temporary()]
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(declare, "unknown type", Exchange(unique(), "fanuot"))
                tg.start_soon(declare, "crashing", Queue(unique(), arguments=CRASHING))
                for entity in innocents:
                    tg.start_soon(declare, entity.name or "temporary", entity)
        assert outcomes.pop("unknown type") == 503
        assert outcomes.pop("crashing") == 541
        assert set(outcomes.values()) == {None} and len(outcomes) == 3
        for entity in innocents:
            if isinstance(entity, Queue):
                assert await client.inspect(entity) is not None
        assert client.statistics()["declared"] == 3


async def test_consumers_that_are_suspect_lose_nothing(amqp_url: str, broker_version: tuple[int, ...]) -> None:
    async with some_stream(amqp_url) as stream, some_queue(amqp_url) as name:
        async with open_channel(amqp_url) as channel:
            for number in range(20):
                await channel.publish(b"%d" % number, routing_key=name)
        async with rabbitry.open_client(amqp_url, reconnect=QUICK) as client:
            await client.inspect(name)
            bodies: list[bytes] = []
            refusals: list[str] = []

            async def refused() -> None:
                with pytest.raises(rabbitry.ConnectionClosed) as raised:
                    await consume_a_stream_without_acknowledging(client, stream)
                refusals.append(str(raised.value))

            async def innocent() -> None:
                # RabbitMQ 4 may have sent some to the connection that it then closes, which no_ack alone would lose
                no_ack = broker_version < (4,)
                async with client.consume(name, no_ack=no_ack) as deliveries:
                    async for delivery in deliveries:
                        if not no_ack:
                            delivery.ack()
                        if delivery.body not in bodies:
                            bodies.append(delivery.body)
                        if len(bodies) == 20:
                            return

            with anyio.fail_after(20):
                async with anyio.create_task_group() as tg:
                    for task in (refused, innocent, refused):
                        tg.start_soon(task)
            assert sorted(bodies, key=int) == [b"%d" % number for number in range(20)]
            assert len(refusals) == 2 and all("not supported by stream queues" in each for each in refusals)


async def test_a_type_that_has_gone_ends_the_block_as_it_is_restored() -> None:
    """As after a restart without the plugin."""
    lives = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal lives
        lives += isinstance(method, methods.ConnectionOpen)
        if isinstance(method, methods.ExchangeDeclare) and lives > 1:
            return close(503, "COMMAND_INVALID - unknown exchange type 'x-gone'", method)
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        with pytest.raises(rabbitry.ConnectionClosed, match="x-gone"):
            async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
                await client.declare(Exchange("x", "x-gone"))
                peer.send(close(320, "CONNECTION_FORCED - shutdown"))
                await anyio.sleep_forever()
        assert lives == 2


@pytest.mark.parametrize(("method_named", "crashes", "ends"), [(False, 9, True), (False, 4, False), (True, 9, False)])
async def test_what_crashes_as_it_is_restored_ends_the_block_the_fifth_time(
    method_named: bool, crashes: int, ends: bool
) -> None:
    """But where the broker says that it has failed in what it took before, it is asked again until it can."""
    lives = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal lives
        lives += isinstance(method, methods.ConnectionOpen)
        if isinstance(method, methods.QueueDeclare) and 1 < lives < 2 + crashes:
            return close(541, "INTERNAL_ERROR", method if method_named else None)
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        with pytest.raises(rabbitry.ConnectionClosed, match="INTERNAL_ERROR") if ends else nothing_raised():
            async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
                await client.declare(Queue("q"))
                peer.send(close(320, "CONNECTION_FORCED - shutdown"))
                await until(lambda: lives == 2 + crashes and client.is_ready)
        assert lives == (6 if ends else 2 + crashes)


async def test_a_broker_that_goes_refuses_nothing() -> None:
    """CONNECTION_FORCED, also where it names what was under way: that is done in the next life."""
    declared = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal declared
        declared += isinstance(method, methods.QueueDeclare)
        if isinstance(method, methods.QueueDeclare) and declared == 1:
            return close(320, "CONNECTION_FORCED - shutdown", method)
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
            await client.declare(Queue("q"))
            assert declared == 2 and client.statistics()["consuming_lives"] == 2


async def test_a_consumer_that_is_refused_as_it_goes_on_raises_that_again_and_again() -> None:
    lives = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal lives
        lives += isinstance(method, methods.ConnectionOpen)
        if isinstance(method, methods.BasicConsume) and lives > 1:
            return close(540, "NOT_IMPLEMENTED - not any more", method)
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client, client.consume("q") as deliveries:
            peer.send(close(320, "CONNECTION_FORCED - shutdown"))
            for _ in range(3):
                with pytest.raises(rabbitry.ConnectionClosed, match="not any more"):
                    await anext(deliveries)
            assert lives == 2


@pytest.mark.parametrize("method_named", [True, False])
async def test_what_passes_is_waited_for_where_it_cuts_nobody_else(method_named: bool) -> None:
    """The broker fails in a consumer that it took before: a quorum queue's without its quorum, and without a word of
    what it failed in, just after it was started again.
    """
    lives = tries = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal lives, tries
        lives += isinstance(method, methods.ConnectionOpen)
        if isinstance(method, methods.BasicConsume) and method.queue == "failing" and lives > 1:
            tries += 1
            if tries < 5:
                return close(541, "INTERNAL_ERROR - timeout", method if method_named else None)
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with (
            rabbitry.open_client(peer.url, reconnect=QUICK) as client,
            client.consume("failing") as deliveries,
            anyio.create_task_group() as tg,
        ):
            peer.send(close(320, "CONNECTION_FORCED - shutdown"))
            tg.start_soon(deliveries.__anext__)
            await until(lambda: deliveries.lives == 2)
            assert tries == 6  # it struck the others once, failed apart three times, and came back when that went well
            assert client.statistics()["consuming_lives"] == 3
            tg.cancel_scope.cancel()


async def test_a_consumer_that_crashes_the_broker_ever_more_is_told_so() -> None:
    lives = tries = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal lives, tries
        lives += isinstance(method, methods.ConnectionOpen)
        if isinstance(method, methods.BasicConsume) and lives > 1:
            tries += 1
            return close(541, "INTERNAL_ERROR")
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client, client.consume("q") as deliveries:
            peer.send(close(320, "CONNECTION_FORCED - shutdown"))
            with pytest.raises(rabbitry.ConnectionClosed, match="INTERNAL_ERROR"):
                await anext(deliveries)
            assert tries == 5
            assert client.statistics()["consuming_lives"] == 3


async def test_where_no_other_connection_can_be_had_a_suspect_is_tried_where_it_was() -> None:
    """A broker that takes one connection only, and crashes over this declaration."""
    opened = declared = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal opened, declared
        if isinstance(method, methods.ConnectionOpen):
            opened += 1
            if opened == 3:
                return close(530, "NOT_ALLOWED - connection limit is reached", method)
        if isinstance(method, methods.QueueDeclare):
            declared += 1
            return close(541, "INTERNAL_ERROR")
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
            with pytest.raises(rabbitry.ConnectionClosed, match="INTERNAL_ERROR"):
                await client.declare(Queue("q"))
            assert (opened, declared) == (3, 2)


async def test_what_a_trial_does_not_show_is_raised_in_the_end() -> None:
    """The broker crashes over what is bound to a temporary queue, which no other connection may use."""
    bound = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal bound
        if isinstance(method, methods.QueueBind):
            bound += 1
            if bound % 2:
                return close(541, "INTERNAL_ERROR")
            return method_frame(number, methods.ChannelClose(reply_code=405, reply_text="RESOURCE_LOCKED"))
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:
            queue = Queue.temporary()
            with pytest.raises(rabbitry.ConnectionClosed, match="INTERNAL_ERROR"):
                await client.declare(queue, Binding(queue, "x"))
            assert bound == 9 and client.statistics()["declared"] == 0


async def test_cancelling_a_trial_ends_its_connection() -> None:
    """And gives way to the next."""
    waiting = anyio.Event()
    declared = 0

    def answer(method: Method, number: int) -> bytes | None:
        nonlocal declared
        if isinstance(method, methods.QueueDeclare):
            declared += 1
            if declared == 1:
                return close(541, "INTERNAL_ERROR")
            if declared == 2:
                return b""  # the trial waits
        return None

    with scripted(answer) as peer, anyio.fail_after(20):
        async with rabbitry.open_client(peer.url, reconnect=QUICK) as client:

            async def declare(scope: anyio.CancelScope) -> None:
                with scope:
                    await client.declare(Queue("q"))
                waiting.set()

            async with anyio.create_task_group() as tg:
                scope = anyio.CancelScope()
                tg.start_soon(declare, scope)
                await until(lambda: declared == 2)
                scope.cancel()
                await waiting.wait()
            assert peer.received.count("connection.close") == 1
            await client.declare(Queue("q"))
            assert client.statistics()["declared"] == 1


@pytest.mark.usefixtures("closes_connections")
async def test_connections_tell_their_own_operation_from_others(amqp_url: str) -> None:
    """The raw layer: each has its end, and what that has to do with it."""
    blames: dict[str, str] = {}
    async with rabbitry.connect(amqp_url) as connection:

        async def told(name: str, operation: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(rabbitry.ConnectionClosed, match="unknown exchange type") as raised:
                await operation()
            assert (raised.value.code, raised.value.method) == (503, "exchange.declare")
            blames[name] = raised.value.blame

        async with connection.channel() as one, connection.channel() as other:
            queue = (await other.declare_queue(exclusive=True)).name
            async with other.consume(queue) as deliveries, anyio.create_task_group() as tg:
                tg.start_soon(told, "iterating", deliveries.__anext__)
                await anyio.wait_all_tasks_blocked()
                tg.start_soon(told, "declaring", lambda: one.declare_exchange(unique(), "fanuot"))
            await told("later", lambda: one.declare_exchange(unique()))
    assert blames == {"iterating": "another", "declaring": "this", "later": "another"}


@pytest.mark.usefixtures("closes_connections")
async def test_binding_to_what_is_refused_leaves_nothing_remembered(amqp_url: str) -> None:
    queue, exchange = Queue(unique(), exclusive=True), Exchange(unique(), "fanuot")
    async with through_proxy(amqp_url) as (client, proxy):
        with pytest.raises(rabbitry.ConnectionClosed):
            await client.declare(queue, exchange, Binding(queue, exchange))
        assert client.statistics()["declared"] == 0
        proxy.cut()
        assert await client.inspect(queue) is None


# --- what is seen before the broker crashes over it -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "error"),
    [
        ("frist", ValueError),
        ("-5s", ValueError),
        ("", ValueError),
        (-1, ValueError),
        (2**63, ValueError),
        (timedelta(seconds=-1), ValueError),
        (timedelta.max, ValueError),
        (3.5, TypeError),
        (True, TypeError),
        (b"first", TypeError),
        ([1], TypeError),
    ],
)
async def test_what_is_no_place_in_a_stream(amqp_url: str, offset: Any, error: type[Exception]) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        with pytest.raises(error, match="offset"):
            client.consume("stream", offset=offset)
    async with open_channel(amqp_url) as channel:
        with pytest.raises(error, match="offset"):
            channel.consume("stream", arguments={"x-stream-offset": offset})
        assert channel.is_open


async def test_places_in_a_stream_that_the_broker_takes(amqp_url: str) -> None:
    async with some_stream(amqp_url) as stream, rabbitry.open_client(amqp_url) as client:
        for offset in ("first", "last", "next", "1h", 0, 7):
            async with client.consume(stream, offset=offset):  # type: ignore[arg-type]
                pass
        assert client.statistics()["consuming_lives"] == 1


async def test_offsets_are_for_streams_alone(amqp_url: str) -> None:
    async with rabbitry.open_client(amqp_url) as client:
        queue = Queue(unique(), exclusive=True)
        await client.declare(queue)
        for known in (queue, queue.name, Queue("q", type="quorum")):
            with pytest.raises(ValueError, match="offset= is for streams"):
                client.consume(known, offset="first")
        by_argument = Queue("s", arguments={"x-queue-type": "stream"})
        assert client.consume(by_argument, offset="first").is_stream and client.consume(by_argument).is_stream


def close(code: int, text: str, method: Method | None = None) -> bytes:
    blamed = (method.class_id, method.method_id) if method is not None else (0, 0)
    return method_frame(
        0,
        methods.ConnectionClose(
            reply_code=code, reply_text=text, failing_class_id=blamed[0], failing_method_id=blamed[1]
        ),
    )


def nothing_raised() -> Any:
    return nullcontext()
