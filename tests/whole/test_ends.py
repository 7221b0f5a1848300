"""How connections begin and end: refusals that say why, bodies that raise, losses, and nothing left behind."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry.testing import PrivateNode
from tests.support.helpers import exclusive_queue, open_channel, unique


@contextmanager
def peer(answer: bytes, *, close: bool = True) -> Iterator[str]:
    """Something that listens, sends `answer` and closes, or then says nothing. Gives its URL."""
    done = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connected, _ = listener.accept()
        except OSError:
            return
        with connected:
            connected.recv(8)
            connected.sendall(answer)
            if not close:
                done.wait(20)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"amqp://guest:hunter2@127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        done.set()
        listener.close()
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "cut off before a byte came"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not an AMQP server.*HTTP/1.1 400.*HTTP server"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "not an AMQP server.*TLS server"),
        (b"AMQP\x00\x01\x00\x00", "refused protocol version 0-9-1, it speaks AMQP 1.0.0"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an AMQP server.*SSH-2.0"),
        (b"\x01\x00\x00\x00", "cut off after"),
    ],
)
async def test_what_else_answers_is_said(answer: bytes, said: str) -> None:
    with peer(answer) as url, pytest.raises(rabbitry.ConnectFailed, match=said) as caught:
        async with rabbitry.connect(url):
            pass
    assert "hunter2" not in str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)


async def test_a_handshake_that_never_ends_is_bounded() -> None:
    with peer(b"", close=False) as url, pytest.raises(rabbitry.ConnectFailed, match=r"within 0.2 s, waiting for"):
        async with rabbitry.connect(url, connect_timeout=0.2):
            pass


async def test_nothing_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(rabbitry.ConnectFailed, match=f"nothing listens at 127.0.0.1:{port}"):
        async with rabbitry.connect(f"amqp://127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize(
    ("old", "new", "said"), [("guest:guest", "guest:wrong", "credentials"), ("%2F", "nosuch", "nosuch")]
)
async def test_credentials_and_virtual_host_refused(node: PrivateNode, old: str, new: str, said: str) -> None:
    assert old in node.url
    with pytest.raises(rabbitry.AuthenticationFailed, match=said) as caught:
        async with rabbitry.connect(node.url.replace(old, new)):
            pass
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("mechanism", ["plain", "amqplain"])
async def test_mechanisms(node: PrivateNode, mechanism: str) -> None:
    async with rabbitry.connect(f"{node.url}?auth_mechanism={mechanism}") as connection:
        assert connection.is_open


async def test_a_mechanism_the_broker_lacks(node: PrivateNode) -> None:
    with pytest.raises(rabbitry.AuthenticationFailed, match=r"the server offers .*this client would use EXTERNAL"):
        async with rabbitry.connect(f"{node.url}?auth_mechanism=external"):
            pass


async def test_awaiting_connect_says_how_it_is_meant() -> None:
    with pytest.raises(TypeError, match=r"async with rabbitry\.connect"):
        await rabbitry.connect("amqp://localhost")


async def test_a_stream_of_ones_own(node: PrivateNode) -> None:
    async with rabbitry.connect(node.url, dial=anyio.connect_tcp) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel, [b"x" * 200_000])
        async with channel.consume(queue) as deliveries:
            delivery = await deliveries.__anext__()
            assert len(delivery.body) == 200_000
            delivery.ack()


@pytest.mark.parametrize("error", [KeyError("mine"), ExceptionGroup("mine", [ValueError()]), KeyboardInterrupt()])
async def test_what_the_body_raises_leaves_unchanged(amqp_url: str, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with rabbitry.open_reactor() as reactor, reactor.connect(amqp_url) as connection, connection.channel():
            raise error
    assert caught.value is error


async def test_a_cancelled_body_still_closes_with_a_handshake(node: PrivateNode) -> None:
    name = unique("cancelled")
    with anyio.fail_after(30), anyio.CancelScope() as scope:
        async with rabbitry.connect(node.url, name=name) as connection, connection.channel() as channel:
            await channel.declare_queue(exclusive=True)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert connection._endpoint.protocol.end_error().text == "the connection was closed by this program"
    log = await anyio.to_thread.run_sync(node.log_tail)
    assert name not in log, "the broker warns of clients that go without closing"


async def test_a_lost_connection_is_raised_by_whoever_waits_and_by_what_follows(node: PrivateNode) -> None:
    name = unique("lost")
    ends: list[str] = []

    async def expect(what: str, operation: object) -> None:
        with pytest.raises(rabbitry.ConnectionClosed, match="enough"):
            await operation  # type: ignore[misc]
        ends.append(what)

    async def close_it() -> None:
        listing = await anyio.to_thread.run_sync(node.rabbitmqctl, "list_connections", "pid", "client_properties")
        pid = next(line.split()[0] for line in listing.splitlines() if name in line)
        await anyio.to_thread.run_sync(node.rabbitmqctl, "close_connection", pid, "enough")

    with anyio.fail_after(150):  # two rabbitmqctl
        async with rabbitry.connect(node.url, name=name) as connection, connection.channel() as channel:
            queue = await exclusive_queue(channel)
            async with channel.consume(queue) as deliveries:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(expect, "iterating", deliveries.__anext__())
                    tg.start_soon(expect, "wait_closed", connection.wait_closed())
                    await close_it()
                await expect("declare", channel.declare_queue(queue))
                await expect("publish", channel.publish(b"x", routing_key=queue))
            assert not connection.is_open and not channel.is_open
    assert sorted(ends) == ["declare", "iterating", "publish", "wait_closed"]


async def test_a_thousand_cycles_leave_nothing_behind(amqp_url: str, anyio_backend_name: str) -> None:
    """Open, publish, consume, close: no task, no descriptor, no growing memory."""

    def census() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), len(os.listdir("/proc/self/fd"))

    async def cycle() -> None:
        async with reactor.connect(amqp_url) as connection, connection.channel() as channel:
            queue = await exclusive_queue(channel, [b"x"])
            async with channel.consume(queue) as deliveries:
                (await deliveries.__anext__()).ack()

    async with rabbitry.open_reactor() as reactor:
        for _ in range(100):
            await cycle()
        before = census()
        for _ in range(900):
            await cycle()
        after = census()
    assert after[1] == before[1], "descriptors"
    assert after[0] - before[0] < 500, "objects: less than one a cycle"


async def test_private_reactors_leave_nothing_behind(amqp_url: str) -> None:
    descriptors: list[int] = []
    for _ in range(50):
        async with open_channel(amqp_url) as channel:
            await exclusive_queue(channel)
        descriptors.append(len(os.listdir("/proc/self/fd")))
    assert max(descriptors[10:]) == min(descriptors[10:])
