"""What every driver owes the ledger, whatever its library does: outcomes, ends that are told, and bounds."""

from __future__ import annotations

import gc
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import anyio
import pytest
import trustme

from loadtest.drivers import LIBRARIES, load_driver
from loadtest.drivers.base import Answer, ConsumerCancelled, ConsumerOptions, Outcome, ProducerOptions
from rabbitry.testing import PrivateNode, open_proxy
from rabbitry.testing.rabbitmq.setup import free_ports
from tests.support.helpers import unique, until

PLAIN = ProducerOptions(window=1, persistent=True, mandatory=False)
TAKING = ConsumerOptions(prefetch=10, ack_every=1)
BOUND = 12.0
"""Seconds: a driver's own bound on closing is 5 for each thing it has opened, on a busy machine."""


@pytest.fixture(params=LIBRARIES)
def driver(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    name: str = request.param
    if anyio_backend_name not in LIBRARIES[name].backends:
        pytest.skip(f"{name} doesn't run on {anyio_backend_name}")
    return name


@pytest.fixture
async def session(driver: str) -> Any:
    async with load_driver(driver).open() as session:
        yield session


@pytest.fixture
async def queue(amqp_url: str, session: Any) -> Any:
    """A queue that refuses what is more than three messages."""
    name = unique()
    async with session.connect(amqp_url, "test") as connection, connection.administrator() as administrator:
        arguments = {"x-max-length": 3, "x-overflow": "reject-publish", "x-expires": 60_000}
        await administrator.declare_queue(name, arguments)
        yield name
        await administrator.delete_queue(name)


@pytest.fixture
def _sockets_left_open() -> Iterator[None]:
    """AMQPStorm leaves its socket to the garbage collector when it can't connect: here, and not in some later test."""
    yield
    for thread in threading.enumerate():
        if thread.name == "loadtest client":
            thread.join(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def count(session: Any, url: str, queue: str) -> int | None:
    async with session.connect(url, "test") as connection, connection.administrator() as administrator:
        number: int | None = await administrator.count_messages(queue)
        return number


def ignore(token: object, outcome: Outcome) -> None: ...


async def test_a_publish_is_confirmed_returned_or_nacked(session: Any, amqp_url: str, queue: str) -> None:
    options = ProducerOptions(window=1, persistent=True, mandatory=True)
    async with (
        session.connect(amqp_url, "test") as connection,
        connection.producer(queue, options, ignore) as producer,
    ):
        outcomes = [await producer.publish(b"one", key) for key in (None, unique(), None, None, None)]
        assert outcomes[:4] == [Outcome.CONFIRMED, Outcome.RETURNED, Outcome.CONFIRMED, Outcome.CONFIRMED]
        assert outcomes[4] is Outcome.NACKED
        assert await producer.publish(b"one", unique()) is Outcome.RETURNED


async def test_no_more_are_in_flight_than_the_window_takes(
    driver: str, session: Any, amqp_url: str, queue: str
) -> None:
    if "window" not in LIBRARIES[driver].can:
        pytest.skip(f"{driver} has no window")
    settled: dict[object, Outcome] = {}
    most = 0
    options = ProducerOptions(window=10, persistent=True, mandatory=False)
    async with (
        session.connect(amqp_url, "test") as connection,
        connection.producer(queue, options, settled.__setitem__) as producer,
    ):
        for number in range(100):
            await producer.submit(b"%d" % number, number)
            most = max(most, number + 1 - len(settled))
        await producer.flush()
        assert sorted(settled, key=str) == sorted(range(100), key=str)
        assert sum(outcome is Outcome.CONFIRMED for outcome in settled.values()) == 3
        assert set(settled.values()) == {Outcome.CONFIRMED, Outcome.NACKED}
    assert 2 <= most <= 11  # what the 11th finds settled may be told a moment later


async def test_who_stops_acknowledges_what_it_held_for_later(session: Any, amqp_url: str, queue: str) -> None:
    taken: list[bytes] = []

    def receive(body: bytes, redelivered: bool) -> Answer:
        taken.append(body)
        return Answer.ACK

    async with session.connect(amqp_url, "test") as sender, session.connect(amqp_url, "test") as receiver:
        async with sender.producer(queue, PLAIN, ignore) as producer:
            for body in (b"one", b"two", b"three"):
                assert await producer.publish(body) is Outcome.CONFIRMED
        options = ConsumerOptions(prefetch=10, ack_every=2)
        with anyio.fail_after(BOUND):
            async with receiver.consumer(queue, options) as consumer, anyio.create_task_group() as tg:
                tg.start_soon(consumer.run, receive)
                await until(lambda: len(taken) == 3)
                consumer.stop()
                consumer.stop()
        assert taken == [b"one", b"two", b"three"]
    assert await count(session, amqp_url, queue) == 0


async def test_a_cancelled_consumer_gives_back_what_it_did_not_take(session: Any, amqp_url: str, queue: str) -> None:
    taken: list[bytes] = []
    async with session.connect(amqp_url, "test") as sender, session.connect(amqp_url, "test") as receiver:
        async with sender.producer(queue, PLAIN, ignore) as producer:
            assert await producer.publish(b"one") is Outcome.CONFIRMED
        async with receiver.consumer(queue, TAKING) as consumer:
            await anyio.sleep(0.1)  # it is there: a cancelled consumer may have taken it, or not
            with anyio.CancelScope() as scope:
                scope.cancel()
                await consumer.run(lambda body, redelivered: taken.append(body) or Answer.REQUEUE)
    with anyio.fail_after(BOUND):
        while await count(session, amqp_url, queue) != 1:
            await anyio.sleep(0.05)
    assert len(taken) <= 1


async def test_a_consumer_that_the_broker_cancels_says_so_and_nothing_else_ends(session: Any, amqp_url: str) -> None:
    name = unique()
    async with session.connect(amqp_url, "test") as connection, session.connect(amqp_url, "other") as other:
        async with other.administrator() as administrator:
            await administrator.declare_queue(name, {"x-expires": 60_000})
            with anyio.fail_after(BOUND):
                async with connection.consumer(name, TAKING) as consumer, anyio.create_task_group() as tg:

                    async def consume() -> None:
                        with pytest.raises(ConsumerCancelled):
                            await consumer.run(lambda body, redelivered: Answer.ACK)

                    tg.start_soon(consume)
                    await anyio.sleep(0.05)
                    await administrator.delete_queue(name)
            await administrator.declare_queue(name, {"x-expires": 60_000})
            async with connection.producer(name, PLAIN, ignore) as producer:
                assert await producer.publish(b"still here") is Outcome.CONFIRMED
            await administrator.delete_queue(name)


async def test_a_lost_connection_ends_a_consumer(session: Any, amqp_url: str, queue: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        began = 0.0
        async with session.connect(proxy.url, "test") as connection, connection.consumer(queue, TAKING) as consumer:

            async def consume() -> None:
                with pytest.raises(Exception, match=r".*") as caught:
                    await consumer.run(lambda body, redelivered: Answer.ACK)
                assert not isinstance(caught.value, ConsumerCancelled)

            with anyio.fail_after(BOUND):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(consume)
                    await anyio.sleep(0.05)
                    proxy.cut()
            began = monotonic()
        assert monotonic() - began < BOUND


async def test_a_lost_connection_leaves_no_publish_without_an_end(session: Any, amqp_url: str, queue: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        async with session.connect(proxy.url, "test") as connection:
            async with connection.producer(queue, PLAIN, ignore) as producer:
                assert await producer.publish(b"one") is Outcome.CONFIRMED
                proxy.stall()
                ended: list[Outcome | Exception] = []

                async def publish() -> None:
                    try:
                        ended.append(await producer.publish(b"two"))
                    except Exception as error:
                        ended.append(error)

                with anyio.fail_after(BOUND):
                    async with anyio.create_task_group() as tg:
                        tg.start_soon(publish)
                        await anyio.sleep(0.1)
                        assert not ended
                        proxy.cut()
                assert ended == [Outcome.UNKNOWN] or isinstance(ended[0], Exception)
                with anyio.fail_after(BOUND):
                    with pytest.raises(Exception, match=r".*"):
                        await producer.publish(b"three")
            began = monotonic()
        assert monotonic() - began < BOUND
    assert await count(session, amqp_url, queue) in (1, 2)


async def test_who_cancels_a_publish_and_leaves_is_not_held_up(session: Any, amqp_url: str, queue: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        began = 0.0
        with pytest.raises(TimeoutError):  # else it had not waited
            async with session.connect(proxy.url, "test") as connection:
                async with connection.producer(queue, PLAIN, ignore) as producer:
                    proxy.stall()
                    began = monotonic()
                    with anyio.fail_after(0.2):
                        await producer.publish(b"one")
        assert monotonic() - began < BOUND


async def test_a_call_is_answered_and_one_given_up_harms_none_after_it(
    driver: str, session: Any, amqp_url: str, queue: str
) -> None:
    async with (
        session.connect(amqp_url, "server") as serving,
        session.connect(amqp_url, "caller") as calling,
        calling.caller() as caller,
    ):
        with anyio.move_on_after(0.1):
            await caller.call(queue, b"nobody answers yet")
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tg:
                tg.start_soon(serving.serve, queue)
                assert [await caller.call(queue, body) for body in (b"one", b"two")] == [b"one", b"two"]
                tg.cancel_scope.cancel()


@pytest.mark.usefixtures("_sockets_left_open")
async def test_a_broker_that_is_not_there_is_an_os_error(session: Any) -> None:
    (port,) = free_ports(1)
    with anyio.fail_after(BOUND):
        with pytest.raises(OSError):
            async with session.connect(f"amqp://guest:guest@127.0.0.1:{port}", "test"):
                pytest.fail("nobody listens there")


async def test_a_wrong_password_is_an_error(session: Any, amqp_url: str) -> None:
    with anyio.fail_after(BOUND):
        with pytest.raises(Exception, match=r"(?i)refused|login|access|auth|closed") as caught:
            async with session.connect(amqp_url.replace("guest:guest", "guest:wrongly"), "test"):
                pytest.fail("the password is wrong")
    assert "wrongly" not in repr(caught.value)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that speaks TLS only with who trusts its authority."""
    directory: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    (directory / "server.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(directory / "server.key")
    (port,) = free_ports(1)
    settings: dict[str, str | int] = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(directory / "ca.pem"),
        "ssl_options.certfile": str(directory / "server.pem"),
        "ssl_options.keyfile": str(directory / "server.key"),
    }
    with PrivateNode(settings=settings):
        give_up_at = monotonic() + 30
        while True:  # RabbitMQ 4 opens this listener after that for TCP, for which the node waits
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            except ConnectionRefusedError:
                assert monotonic() < give_up_at
                sleep(0.05)
        yield f"amqps://guest:guest@localhost:{port}/?cacertfile={directory / 'ca.pem'}"


async def test_tls_with_the_options_of_the_url(session: Any, tls_url: str) -> None:
    name = unique()
    async with session.connect(tls_url, "test") as connection, connection.administrator() as administrator:
        await administrator.declare_queue(name, {"x-expires": 10_000})
        async with connection.producer(name, PLAIN, ignore) as producer:
            assert await producer.publish(b"through") is Outcome.CONFIRMED
        await administrator.delete_queue(name)


@pytest.mark.usefixtures("_sockets_left_open")
async def test_an_authority_that_is_not_trusted_is_an_error(session: Any, tls_url: str) -> None:
    with anyio.fail_after(BOUND):
        with pytest.raises(Exception, match=r".*"):
            async with session.connect(tls_url.partition("?")[0], "test"):
                pytest.fail("nobody vouched for it")
