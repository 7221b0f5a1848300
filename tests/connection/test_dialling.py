"""Several addresses behind one name: whichever completes its handshake, soon, and what each of the others said."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Thread
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

import rabbitry
from rabbitry import Backoff
from rabbitry._connection import dialling, hub
from rabbitry._transport import StreamPoller
from rabbitry._transport.addresses import resolve
from rabbitry.protocol.wire import methods
from rabbitry.testing import PrivateNode, open_proxy
from tests.support.hostile import Replay, Script, Server, answers
from tests.support.protocol_broker import method_frame

pytestmark = pytest.mark.anyio

CLOSE_OK = method_frame(0, methods.ConnectionCloseOk())
OPENING = answers(CLOSE_OK)
REFUSED = method_frame(0, methods.ConnectionClose(reply_code=403, reply_text="ACCESS_REFUSED"))
NO_ROOM = method_frame(0, methods.ConnectionClose(reply_code=530, reply_text="connection limit (3) is reached"))


class Addresses:
    """What the name `several.example` stands for: addresses of this machine, each with a listener of its own, all on
    one port, which is the broker's where one is to be behind it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._stack = stack
        self._monkeypatch = monkeypatch
        self.hosts: list[str] = []
        self.servers: list[Server] = []
        self.port = 0
        self._real = anyio.getaddrinfo
        monkeypatch.setattr(anyio, "getaddrinfo", self._getaddrinfo)

    async def _getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        if host != "several.example":
            return await self._real(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.hosts]

    def url(self, rest: str = "/", scheme: str = "amqp") -> str:
        return f"{scheme}://several.example:{self.port}{rest}"

    def refusing(self) -> str:
        """Nobody listens there."""
        return self._next()

    def saying(self, script: Script, *, hang_up: bool = False) -> Server:
        """A server that says so much."""
        return self.serving(Replay(script, hang_up=hang_up).serve)

    def silent(self) -> Server:
        """Accepts, and says nothing."""
        return self.serving(listen)

    def swallowing(self) -> str:
        """Its backlog is full, so that the kernel drops what else comes."""
        host = self._next()
        listener = self._stack.enter_context(self._listener(host, backlog=0))
        for _ in range(3):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((host, listener.getsockname()[1]))
        return host

    def serving(self, serve: Callable[[socket.socket], None]) -> Server:
        listener = self._stack.enter_context(self._listener(self._next()))
        server = Server(listener, serve)
        self._stack.enter_context(accepting(server, listener))
        self.servers.append(server)
        return server

    def broker(self, node: PrivateNode) -> None:
        """A real one; it listens at 127.0.0.1, and what is passed on to it at an address of its own."""

        def pass_on(client: socket.socket) -> None:
            with socket.create_connection((node.host, node.port)) as broker:
                join(client, broker)

        self.serving(pass_on)

    def _listener(self, host: str, backlog: int = 128) -> socket.socket:
        listener = socket.create_server((host, self.port), backlog=backlog)
        self.port = listener.getsockname()[1]
        return listener

    def _next(self) -> str:
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.port = probe.getsockname()[1]
        self.hosts.append(f"127.0.0.{len(self.hosts) + 2}")
        return self.hosts[-1]


@contextmanager
def accepting(server: Server, listener: socket.socket) -> Iterator[None]:
    thread = Thread(target=server.accept)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def listen(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def join(one: socket.socket, other: socket.socket) -> None:
    """Pass on what either says, until one has left."""
    with DefaultSelector() as selector:
        selector.register(one, EVENT_READ, other)
        selector.register(other, EVENT_READ, one)
        while True:
            for key, _ in selector.select(20):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return
                key.data.sendall(data)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    monkeypatch.setattr(dialling, "_failed", {})
    with ExitStack() as stack:
        yield Addresses(monkeypatch, stack)


@pytest.fixture(params=["epoll", "streams"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both pollers."""
    if request.param == "streams":
        monkeypatch.setattr(hub, "make_poller", StreamPoller)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


async def time_to_connect(url: str, **options: Any) -> float:
    began = anyio.current_time()
    async with rabbitry.connect(url, **options) as connection:
        took = anyio.current_time() - began
        async with connection.channel() as channel:
            await channel.declare_queue(exclusive=True)
    return took


# --- whichever answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["silent", "swallowing", "refusing", "http", "another", "hangs up", "full"])
async def test_the_second_of_two(first: str, addresses: Addresses, node: PrivateNode, poller: None) -> None:
    if first in ("silent", "swallowing", "refusing"):
        getattr(addresses, first)()
    else:
        addresses.saying(*NO_BROKERS[first], hang_up=True)
    addresses.broker(node)
    assert await time_to_connect(addresses.url()) < 1.0


NO_BROKERS: dict[str, tuple[Script]] = {
    "http": ([(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")],),
    "another": ([(1, b"220 mail.example ESMTP\r\n")],),
    "hangs up": ([(1, b"")],),
    "full": ([*OPENING[:2], (3, NO_ROOM)],),
}


@pytest.mark.parametrize("way", ["silent", "swallowing"])
async def test_the_fifth_of_five(way: str, addresses: Addresses, node: PrivateNode, poller: None) -> None:
    for _ in range(4):
        getattr(addresses, way)()
    addresses.broker(node)
    assert await time_to_connect(addresses.url()) < 3.0
    assert await time_to_connect(addresses.url()) < 0.5  # the next attempt begins elsewhere


async def test_one_that_stops_amid_its_handshake(addresses: Addresses, node: PrivateNode) -> None:
    addresses.saying(OPENING[:1])
    addresses.saying(OPENING[:2])
    addresses.broker(node)
    assert await time_to_connect(addresses.url()) < 2.0


async def test_a_short_time_is_shared(addresses: Addresses, node: PrivateNode) -> None:
    for _ in range(4):
        addresses.silent()
    addresses.broker(node)
    await time_to_connect(addresses.url(), connect_timeout=0.9)


async def test_a_slow_handshake_is_not_given_up(addresses: Addresses) -> None:
    """It goes on beside the one that was begun meanwhile, and the first to be done wins."""
    other_has_begun = Event()

    def slowly(connection: socket.socket) -> None:
        other_has_begun.wait(20)
        Replay(answers(CLOSE_OK)).serve(connection)

    def never(connection: socket.socket) -> None:
        other_has_begun.set()
        Replay([]).serve(connection)

    addresses.serving(slowly)
    addresses.serving(never)
    async with rabbitry.connect(addresses.url()) as connection:
        assert connection.is_open
        assert connection._endpoint.transport.describe().startswith("127.0.0.2:")


async def test_one_connection_where_the_first_answers(
    addresses: Addresses, node: PrivateNode, poller: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "ATTEMPT_DELAY", 30.0)  # no machine is so busy
    for _ in range(3):
        addresses.broker(node)
    async with rabbitry.open_reactor() as reactor:
        for _ in range(5):
            async with reactor.connect(addresses.url()):
                assert len(reactor._hub) == 1
    assert [server.accepted for server in addresses.servers] == [5, 0, 0]


async def test_an_address_that_was_found_twice_is_tried_once(addresses: Addresses) -> None:
    server = addresses.saying([(1, b"HTTP/1.1 400 Bad Request\r\n\r\n")], hang_up=True)
    addresses.hosts *= 3
    with pytest.raises(rabbitry.ConnectFailed, match="HTTP server"):
        await time_to_connect(addresses.url())
    assert server.accepted == 1


async def test_what_lost_is_closed(addresses: Addresses, node: PrivateNode, poller: None) -> None:
    ended = Event()

    def silently(connection: socket.socket) -> None:
        listen(connection)
        ended.set()

    addresses.serving(silently)
    addresses.broker(node)
    async with rabbitry.open_reactor() as reactor, reactor.connect(addresses.url()):
        assert await anyio.to_thread.run_sync(ended.wait, 10)
        assert len(reactor._hub) == 1


async def test_tls(addresses: Addresses, tmp_path: Path, poller: None) -> None:
    """Neither what does not speak it, nor what has another's certificate, keeps from the third."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def speaking(name: str) -> Callable[[socket.socket], None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                Replay(answers(CLOSE_OK), hang_up=False).serve(wrapped)

        return serve

    addresses.silent()
    addresses.serving(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    addresses.serving(speaking("other.example"))
    url = addresses.url(f"/?cacertfile={tmp_path}/ca.pem", "amqps")
    with pytest.raises(rabbitry.ConnectFailed) as raised:
        async with rabbitry.connect(url, connect_timeout=1.5):
            pass
    for told in (r"127.0.0.2", "127.0.0.3", "127.0.0.4", "several.example"):
        assert told in str(raised.value)
    addresses.serving(speaking("several.example"))
    async with rabbitry.connect(url) as connection:
        assert connection._endpoint.transport.describe().startswith("127.0.0.5:")


# --- the error names each --------------------------------------------------------------------------------------------


async def test_each_is_named_with_what_it_said(addresses: Addresses, poller: None) -> None:
    addresses.refusing()
    addresses.saying(*NO_BROKERS["http"], hang_up=True)
    addresses.saying(*NO_BROKERS["full"])
    with pytest.raises(rabbitry.ConnectFailed) as raised:
        await time_to_connect(addresses.url())
    port = addresses.port
    assert type(raised.value) is rabbitry.ConnectFailed
    for told in (
        f"no broker at several.example:{port}: ",
        f"127.0.0.2:{port}: connection refused",
        f"127.0.0.3:{port}: not an AMQP server: it began with b'HTTP/1.1 400",
        f"127.0.0.4:{port}: the broker refused the connection (530): connection limit (3) is reached",
    ):
        assert told in str(raised.value)
    assert str(raised.value).count("several.example") == 1


async def test_nobody_listens_at_any(addresses: Addresses, poller: None) -> None:
    addresses.refusing(), addresses.refusing()
    port = addresses.port
    with pytest.raises(rabbitry.ConnectFailed) as raised:
        await time_to_connect(addresses.url())
    assert str(raised.value) == (
        f"nothing listens at several.example:{port} (connection refused): 127.0.0.2:{port}, 127.0.0.3:{port}"
    )


async def test_those_that_are_silent_are_named(addresses: Addresses, poller: None) -> None:
    addresses.silent()
    addresses.saying(OPENING[:1])
    addresses.refusing()
    before = descriptors()
    with pytest.raises(rabbitry.ConnectFailed) as raised:
        await time_to_connect(addresses.url(), connect_timeout=0.6)
    port = addresses.port
    for told in (
        f"no connection to several.example:{port} within 0.6 s, waiting at 3 addresses",
        f"127.0.0.2:{port}: silent, waiting for connection.start",
        f"127.0.0.3:{port}: silent, waiting for connection.tune",
        f"127.0.0.4:{port}: connection refused",
    ):
        assert told in str(raised.value)
    await anyio.lowlevel.checkpoint()
    with anyio.fail_after(10):
        while descriptors() > before + 2:  # the servers' ends, closed by their own threads
            await anyio.sleep(0.01)


async def test_refused_credentials_are_an_answer(addresses: Addresses, poller: None) -> None:
    """The other nodes of a cluster know the same users: they are not asked."""
    addresses.refusing()
    addresses.saying([*OPENING[:1], (2, REFUSED)])
    last = addresses.saying(answers(CLOSE_OK))
    with pytest.raises(rabbitry.AuthenticationFailed, match=r"several\.example:\d+: 127\.0\.0\.3:\d+: .*\(403\)"):
        await time_to_connect(addresses.url())
    assert last.accepted == 0


async def test_a_file_that_is_missing_is_no_addresss_fault(addresses: Addresses) -> None:
    server = addresses.silent()
    addresses.silent()
    with pytest.raises(rabbitry.ConnectFailed, match=r"can't read /no/ca\.pem") as raised:
        await time_to_connect(addresses.url("/?cacertfile=/no/ca.pem", "amqps"))
    assert "127.0.0" not in str(raised.value) and not server.accepted


# --- and the next attempt --------------------------------------------------------------------------------------------


async def test_the_next_attempt_begins_elsewhere(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    first = addresses.saying(*NO_BROKERS["hangs up"], hang_up=True)
    second = addresses.saying(answers(CLOSE_OK))
    for _ in range(3):
        async with rabbitry.connect(addresses.url()):
            pass
    assert (first.accepted, second.accepted) == (1, 3)
    monkeypatch.setattr(dialling, "FORGIVEN_AFTER", 0.0)
    async with rabbitry.connect(addresses.url()):
        pass
    assert (first.accepted, second.accepted) == (2, 4)


async def test_a_client_finds_the_one_that_is_left(addresses: Addresses, node: PrivateNode) -> None:
    addresses.silent()
    async with open_proxy(node.url, (addresses._next(), addresses.port)) as proxy:
        async with rabbitry.open_client(addresses.url(), reconnect=Backoff(initial=0.01, maximum=0.02)) as client:
            began = anyio.current_time()
            await client.publish(b"", routing_key="nowhere")
            assert anyio.current_time() - began < 1.0
            proxy.link.cut()
            began = anyio.current_time()
            while client.statistics()["publishing_lives"] < 2:
                with suppress(rabbitry.PublishFailed):
                    await client.publish(b"", routing_key="nowhere")
            assert anyio.current_time() - began < 2.0


# --- cancelled -------------------------------------------------------------------------------------------------------


async def test_cancelled_it_leaves_no_socket(addresses: Addresses, poller: None) -> None:
    addresses.swallowing(), addresses.swallowing(), addresses.swallowing()
    async with rabbitry.open_reactor() as reactor:
        await anyio.sleep(0.01)
        before = descriptors()
        for seconds in (0.0, 0.1, 0.3, 0.6):
            with anyio.move_on_after(seconds) as scope:
                async with reactor.connect(addresses.url()):
                    pass
            assert scope.cancelled_caught
            assert descriptors() == before and not len(reactor._hub)


async def test_a_reactor_left_while_several_are_tried(addresses: Addresses, poller: None) -> None:
    addresses.silent(), addresses.silent()
    failures: list[BaseException] = []

    async def connect(reactor: rabbitry.Reactor) -> None:
        try:
            await reactor.connect(addresses.url()).__aenter__()
        except Exception as error:
            failures.append(error)

    async with anyio.create_task_group() as tg:
        with anyio.fail_after(10):
            async with rabbitry.open_reactor() as reactor:
                tg.start_soon(connect, reactor)
                while len(reactor._hub) < 2:
                    await anyio.sleep(0.01)
    assert isinstance(failures[0], rabbitry.ConnectFailed | rabbitry.NotConnected)


# --- as the interpreter shuts down -----------------------------------------------------------------------------------

LAST_WORDS = """
import atexit, sys
import anyio, rabbitry, rabbitry.blocking

opened = []

async def main():
    async with rabbitry.open_client(sys.argv[1]) as client:
        await client.publish(b"", routing_key="nowhere")

def say(backend):
    if opened:
        with rabbitry.blocking.connect(sys.argv[1]) as connection, connection.channel() as channel:
            channel.publish(b"", routing_key="nowhere", timeout=20)
        opened[0].publish(b"", routing_key="nowhere", timeout=20)
        opened[0].__exit__(None, None, None)
    elif backend == "threads":
        with rabbitry.blocking.open_client(sys.argv[1]) as client:
            client.publish(b"", routing_key="nowhere", timeout=20)
    else:
        anyio.run(main, backend=backend)
    print("said")

if sys.argv[2].startswith("opened"):
    opened.append(rabbitry.blocking.open_client(sys.argv[1]).__enter__())
    if sys.argv[2] == "opened and used":
        opened[0].publish(b"", routing_key="nowhere", timeout=20)
atexit.register(say, sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio", "threads", "opened", "opened and used"])
def test_at_exit_a_host_is_found_by_its_name(backend: str, node: PrivateNode) -> None:
    if backend == "threads" and sys.version_info[:2] == (3, 12):
        pytest.skip("Python 3.12 starts no thread in atexit")
    url = node.url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, url, backend], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("said\n", "")


async def test_at_exit_nobody_is_asked_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12's asyncio can't close its loop in atexit once it was asked for one."""

    async def in_a_thread(*_: Any, **__: Any) -> None:
        pytest.fail("asked for a thread")

    monkeypatch.setattr(anyio, "getaddrinfo", in_a_thread)
    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False)
    assert ("127.0.0.1", 5672) in await resolve("localhost", 5672)
