"""What the drivers promise and whole runs don't show."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import cycle
from time import monotonic
from types import SimpleNamespace

import anyio
import pytest

import rabbitry
from loadtest.drivers import BACKENDS, EVERYTHING, LIBRARIES, DriverMissing, load_driver
from loadtest.drivers.base import Answer, Connection, ConsumerOptions, Outcome, ProducerOptions
from rabbitry.testing import PrivateNode


@pytest.fixture(params=LIBRARIES)
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    name: str = request.param
    if anyio_backend_name not in LIBRARIES[name].backends:
        pytest.skip(f"{name} doesn't run on {anyio_backend_name}")
    return name


async def test_a_queue_that_is_not_there_is_counted_as_such(driver: str, amqp_url: str) -> None:
    async with (
        load_driver(driver).open() as session,
        session.connect(amqp_url, "test") as connection,
        connection.administrator() as administrator,
    ):
        name = f"test.drivers.{driver}"
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None
        await administrator.declare_queue(name, {"x-expires": 10_000})
        assert await administrator.count_messages(name) == 0
        await administrator.delete_queue(name)
        assert await administrator.count_messages(name) is None


async def test_a_message_that_the_broker_refuses_is_neither_lost_nor_unknown() -> None:
    settled: dict[object, Outcome] = {}
    async with (
        PrivateNode(settings={"max_message_size": 1000}) as node,
        load_driver("rabbitry").open() as session,
        session.connect(node.url, "test") as connection,
    ):
        options = ProducerOptions(window=1, persistent=True, mandatory=False)
        async with connection.producer("nowhere", options, settled.__setitem__) as producer:
            assert await producer.publish(bytes(1000)) is Outcome.CONFIRMED
            assert await producer.publish(bytes(1001)) is Outcome.NACKED
        options = ProducerOptions(window=10, persistent=True, mandatory=False)
        async with connection.producer("nowhere", options, settled.__setitem__) as producer:
            await producer.submit(bytes(1000), 1)
            await producer.flush()
            await producer.submit(bytes(1001), 2)
            await producer.flush()
    assert settled == {1: Outcome.CONFIRMED, 2: Outcome.NACKED}


def test_the_table_says_what_each_can() -> None:
    assert BACKENDS == ("asyncio", "uvloop", "trio")
    assert {name for name, library in LIBRARIES.items() if "trio" in library.backends} == {"rabbitry"}
    assert all(library.has_tls for library in LIBRARIES.values())
    assert {name for name, library in LIBRARIES.items() if "window" not in library.can} == {"pika", "amqpstorm"}
    for name, library in LIBRARIES.items():
        assert name.removesuffix("-blocking") in library.packages
        assert library.client_bytes > 0
        assert library.can <= EVERYTHING


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiormq", None)
    monkeypatch.delitem(sys.modules, "loadtest.drivers.aiormq", raising=False)
    with pytest.raises(
        DriverMissing, match=r"--driver aiormq needs the package 'aiormq': in a clone of rabbitry, pip install"
    ):
        load_driver("aiormq")


# --- what traffic may ask of a driver -------------------------------------------------------------------------------

PLAIN = ProducerOptions(window=1, persistent=True, mandatory=False)


@asynccontextmanager
async def connected(driver: str, url: str, queue: str) -> AsyncIterator[Connection]:
    """A connection, and a queue with that name for as long as the block lasts."""
    async with (
        load_driver(driver).open() as session,
        session.connect(url, "test") as connection,
        connection.administrator() as administrator,
    ):
        await administrator.declare_queue(queue, {"x-expires": 60_000, "x-max-priority": 5})
        try:
            yield connection
        finally:
            await administrator.delete_queue(queue)


def ignore(token: object, outcome: Outcome) -> None: ...


async def send(connection: Connection, queue: str, *bodies: bytes, options: ProducerOptions = PLAIN) -> None:
    expected = Outcome.CONFIRMED if options.confirms else Outcome.SENT
    async with connection.producer(queue, options, ignore) as producer:
        for body in bodies:
            assert await producer.publish(body) is expected


async def take(
    connection: Connection, queue: str, number: int, options: ConsumerOptions, answer: Callable[[bytes], Answer]
) -> list[tuple[bytes, bool]]:
    """The next so many deliveries, answered so; none comes after them for a moment."""
    taken: list[tuple[bytes, bool]] = []
    enough = anyio.Event()

    def receive(body: bytes, redelivered: bool) -> Answer:
        taken.append((body, redelivered))
        if len(taken) == number:
            enough.set()
        return answer(body)

    with anyio.fail_after(20):
        async with connection.consumer(queue, options) as consumer, anyio.create_task_group() as tg:
            tg.start_soon(consumer.run, receive)
            await enough.wait()
            await anyio.sleep(0.1)
            consumer.stop()
    return taken


async def count(connection: Connection, queue: str) -> int | None:
    async with connection.administrator() as administrator:
        return await administrator.count_messages(queue)


@pytest.mark.parametrize("ack_every", [1, 3])
async def test_each_delivery_is_answered_as_it_was_told_to_be(driver: str, amqp_url: str, ack_every: int) -> None:
    queue, bodies = f"test.answers.{driver}.{ack_every}", [b"%d" % number for number in range(9)]
    first = cycle([Answer.ACK, Answer.REQUEUE, Answer.REJECT])
    answers: dict[bytes, Answer] = {}

    def answer(body: bytes) -> Answer:
        return Answer.ACK if body in answers else answers.setdefault(body, next(first))

    async with connected(driver, amqp_url, queue) as connection:
        await send(connection, queue, *bodies)
        options = ConsumerOptions(prefetch=9, ack_every=ack_every)
        taken = await take(connection, queue, 12, options, answer)
        assert await count(connection, queue) == 0
    assert sorted(body for body, _ in taken) == sorted([*bodies, *bodies[1::3]])
    assert {body for body, redelivered in taken if redelivered} == set(bodies[1::3])


@pytest.mark.parametrize("ack_every", [1, 2])
async def test_a_consumer_works_on_one_delivery_after_the_other_before_it_answers(
    driver: str, amqp_url: str, ack_every: int
) -> None:
    queue, asked = f"test.work.{driver}.{ack_every}", [0]

    def work() -> float:
        asked[0] += 1
        return 0.05

    async with connected(driver, amqp_url, queue) as connection:
        await send(connection, queue, b"a", b"b", b"c", b"d")
        options = ConsumerOptions(prefetch=4, ack_every=ack_every, work=work)
        began = monotonic()
        taken = await take(connection, queue, 4, options, lambda _: Answer.ACK)
        assert monotonic() - began > 0.15 + 0.1 - 0.01
        assert await count(connection, queue) == 0
    assert [body for body, _ in taken] == [b"a", b"b", b"c", b"d"]
    assert asked == [4]


async def test_who_stops_finishes_its_work_and_leaves_the_rest(driver: str, amqp_url: str) -> None:
    queue = f"test.stop.{driver}"
    async with connected(driver, amqp_url, queue) as connection:
        await send(connection, queue, b"a", b"b", b"c")
        taken: list[bytes] = []
        begun = anyio.Event()

        def receive(body: bytes, redelivered: bool) -> Answer:
            taken.append(body)
            begun.set()
            return Answer.ACK

        options = ConsumerOptions(prefetch=3, ack_every=1, work=lambda: 0.2)
        async with connection.consumer(queue, options) as consumer, anyio.create_task_group() as tg:
            tg.start_soon(consumer.run, receive)
            await begun.wait()
            consumer.stop()
        assert taken == [b"a"]
        await anyio.sleep(0.05)
        assert await count(connection, queue) == 2


async def test_automatic_acknowledgements_need_no_answer(driver: str, amqp_url: str) -> None:
    queue = f"test.auto.{driver}"
    async with connected(driver, amqp_url, queue) as connection:
        await send(connection, queue, b"a", b"b", b"c")
        options = ConsumerOptions(prefetch=1, ack_every=1, auto_ack=True)
        taken = await take(connection, queue, 3, options, lambda _: Answer.REQUEUE)
        assert await count(connection, queue) == 0
    assert taken == [(b"a", False), (b"b", False), (b"c", False)]


async def test_publishing_without_confirms(driver: str, amqp_url: str) -> None:
    queue = f"test.plain.{driver}"
    async with connected(driver, amqp_url, queue) as connection:
        options = ProducerOptions(window=1, persistent=True, mandatory=False, confirms=False)
        await send(connection, queue, *[b"a"] * 100, options=options)
        taken = await take(connection, queue, 100, ConsumerOptions(prefetch=100, ack_every=1), lambda _: Answer.ACK)
        assert len(taken) == 100


@pytest.mark.parametrize("window", [1, 10])
async def test_a_message_goes_to_the_exchange_and_the_key_it_is_given(driver: str, amqp_url: str, window: int) -> None:
    if window > 1 and "window" not in LIBRARIES[driver].can:
        pytest.skip(f"{driver} has no window")
    queue, exchange = f"test.keys.{driver}.{window}", f"test.exchange.{driver}.{window}"
    async with connected(driver, amqp_url, queue) as connection, connection.administrator() as administrator:
        await administrator.declare_exchange(exchange, "topic")
        await administrator.bind(queue, exchange, "a.*")
        options = ProducerOptions(window=window, persistent=True, mandatory=True, exchange=exchange)
        settled: dict[object, Outcome] = {}
        keys = {"1": "a.b", "2": "b.a", "3": None}
        async with connection.producer("a.own", options, settled.__setitem__) as producer:
            for body, key in keys.items():
                if window == 1:
                    settled[body] = await producer.publish(body.encode(), key)
                else:
                    await producer.submit(body.encode(), body, key)
            await producer.flush()
        assert settled == {"1": Outcome.CONFIRMED, "2": Outcome.RETURNED, "3": Outcome.CONFIRMED}
        taken = await take(connection, queue, 2, ConsumerOptions(prefetch=9, ack_every=1), lambda _: Answer.ACK)
        assert [body for body, _ in taken] == [b"1", b"3"]
        await administrator.delete_exchange(exchange)
        await administrator.delete_exchange(exchange)  # it is gone already


async def test_priorities_and_headers_arrive(driver: str, amqp_url: str) -> None:
    queue, priorities = f"test.priorities.{driver}", iter([1, 5, 3])
    async with connected(driver, amqp_url, queue) as connection:
        options = ProducerOptions(
            window=1,
            persistent=False,
            mandatory=False,
            priority=lambda: next(priorities),
            headers={"tenant": "a", "n": 1},
        )
        await send(connection, queue, b"low", b"high", b"middle", options=options)
        async with rabbitry.connect(amqp_url) as other, other.channel() as channel:
            taken = [await channel.get(queue, no_ack=True) for _ in range(3)]
    assert [each.body for each in taken if each] == [b"high", b"middle", b"low"]
    assert [each.properties.priority for each in taken if each] == [5, 3, 1]
    assert [each.headers for each in taken if each] == [{"tenant": "a", "n": 1}] * 3
    assert [each.properties.delivery_mode for each in taken if each] == [1] * 3


async def test_a_later_acknowledgement_never_overtakes_an_earlier_one(anyio_backend_name: str) -> None:
    """Of several together, the earlier one's tag would be unknown to the broker, which would close the channel."""
    if anyio_backend_name != "asyncio":
        pytest.skip("aiormq doesn't run on trio")
    from loadtest.drivers.aiormq import _Consumer

    asked: list[int] = []
    sent: list[int] = []
    room = asyncio.Event()

    class Channel:
        async def basic_ack(self, tag: int, *, multiple: bool, wait: bool) -> None:
            asked.append(tag)
            if tag == asked[0]:  # which finds aiormq's queue full
                await room.wait()
            sent.append(tag)

    consumer = _Consumer(Channel(), ConsumerOptions(prefetch=9, ack_every=2))  # type: ignore[arg-type]
    consumer._receive = lambda body, redelivered: Answer.ACK
    async with asyncio.TaskGroup() as tg:
        for tag in range(1, 7):
            message = SimpleNamespace(body=b"", redelivered=False, delivery_tag=tag)
            tg.create_task(consumer.callback(message))  # type: ignore[arg-type]
        for _ in range(5):
            await asyncio.sleep(0)
        room.set()
    assert sent == [2, 4, 6]


async def test_neither_does_one_of_aio_pikas(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("aio-pika doesn't run on trio")
    from loadtest.drivers.aio_pika import _Consumer

    sent: list[int] = []
    room = asyncio.Event()

    def message(tag: int) -> SimpleNamespace:
        async def ack(multiple: bool = False) -> None:
            assert multiple
            if tag == 2:
                await room.wait()
            sent.append(tag)

        return SimpleNamespace(body=b"", redelivered=False, delivery_tag=tag, ack=ack)

    consumer = _Consumer(SimpleNamespace(), ConsumerOptions(prefetch=9, ack_every=2))  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as tg:
        for tag in range(1, 7):
            tg.create_task(consumer._answer(message(tag), lambda body, redelivered: Answer.ACK))  # type: ignore[arg-type]
        for _ in range(5):
            await asyncio.sleep(0)
        room.set()
    assert sent == [2, 4, 6]
