"""How connections begin: addresses, refusals, cancellation, and what must not be left behind."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest

from rabbitry._transport import Poller, addresses
from tests.transport.fakes import Listener, Recorder, connected, open_descriptors, running_poller, turns, until


async def test_echo() -> None:
    async with connected() as (poller, endpoint, peer):
        endpoint.write(b"hello")
        assert await peer.read(5) == b"hello"
        peer.send(b"world")
        await until(lambda: endpoint.received == b"world")
        assert endpoint.transport.describe() == f"127.0.0.1:{peer.sock.getsockname()[1]}"
        assert len(poller) == 1
        option = endpoint.transport._socket.getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) and option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_unix_echo(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            endpoint, peer = await listener.connect(poller)
            endpoint.write(b"hello")
            assert await peer.read(5) == b"hello"
            peer.send(b"world")
            await until(lambda: endpoint.received == b"world")
            assert endpoint.transport.describe() == listener.path


async def test_ipv6_literal() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        async with running_poller() as poller:
            port = server.getsockname()[1]
            transport = await poller.connect_tcp(("::1", port), Recorder())
            assert transport.describe() == f"[::1]:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_literal_addresses_are_asked_of_nobody(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(anyio, "getaddrinfo")
    assert await addresses.resolve(host, 5672) == [(host, 5672)]


async def test_host_name() -> None:
    assert ("127.0.0.1", 5672) in await addresses.resolve("localhost", 5672)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [entry(each, port) for each in hosts]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)


def entry(host: str, port: int) -> Any:
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))


@pytest.mark.parametrize(
    ("found", "order"),
    [
        (["10.0.0.1"], ["10.0.0.1"]),
        (["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"]),
        (["::1", "::2", "::3", "10.0.0.1", "10.0.0.2"], ["::1", "10.0.0.1", "::2", "10.0.0.2", "::3"]),
        (["10.0.0.1", "10.0.0.2", "::1"], ["10.0.0.1", "::1", "10.0.0.2"]),
    ],
)
async def test_each_address_once_and_the_families_in_turn(
    found: list[str], order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, *found)
    assert [address[0] for address in await addresses.resolve("several.example", 5672)] == order


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch)
    with pytest.raises(socket.gaierror, match=r"none\.example: no address"):
        await addresses.resolve("none.example", 5672)


async def test_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    assert ("127.0.0.1", 5672) in await addresses.resolve("localhost", 5672)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def test_refused() -> None:
    port, before = unused_port(), open_descriptors()
    async with running_poller() as poller:
        endpoint = Recorder()
        with pytest.raises(ConnectionRefusedError, match=rf"127\.0\.0\.1:{port}: Connection refused") as caught:
            await poller.connect_tcp(("127.0.0.1", port), endpoint)
        assert caught.value.errno == errno.ECONNREFUSED
        assert not endpoint.lost and not len(poller)
    await turns()
    assert open_descriptors() <= before


def silent_listener() -> tuple[Listener, list[socket.socket]]:
    """One whose backlog is full: the kernel drops what else comes, so connecting to it takes for ever."""
    listener = Listener(backlog=0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", listener.port))
        fillers.append(filler)
    return listener, fillers


async def test_cancelled_connect_leaves_nothing() -> None:
    silent, fillers = silent_listener()
    with silent:
        async with running_poller() as poller:
            await anyio.sleep(0.001)
            before = open_descriptors()
            endpoint = Recorder()
            with anyio.move_on_after(0.02) as scope:
                await poller.connect_tcp(("127.0.0.1", silent.port), endpoint)
            assert scope.cancelled_caught
            assert open_descriptors() == before
            assert not poller._connecting and not len(poller) and not endpoint.lost
    for filler in fillers:
        filler.close()


async def test_an_event_meant_for_a_former_descriptor_does_not_count_as_connected() -> None:
    silent, fillers = silent_listener()
    with silent:
        async with running_poller() as poller, anyio.create_task_group() as tg:
            tg.start_soon(poller.connect_tcp, ("127.0.0.1", silent.port), Recorder())
            for _ in range(3):
                await until(lambda: poller._connecting)
                next(iter(poller._connecting.values())).set()
                await turns()
            await until(lambda: poller._connecting)
            assert not len(poller)
            tg.cancel_scope.cancel()
    for filler in fillers:
        filler.close()


async def test_closing_ends_a_connect_in_progress() -> None:
    silent, fillers = silent_listener()
    with silent:
        async with anyio.create_task_group() as tg:
            poller = Poller()

            async def connect() -> None:
                with pytest.raises(ConnectionAbortedError):
                    await poller.connect_tcp(("127.0.0.1", silent.port), Recorder())

            async def run() -> None:
                await poller.run()
                poller.close()

            tg.start_soon(run)
            tg.start_soon(connect)
            await until(lambda: poller._connecting)
            poller.stop()
        with pytest.raises(ConnectionAbortedError):
            await poller.connect_tcp(("127.0.0.1", silent.port), Recorder())
    for filler in fillers:
        filler.close()


async def test_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror, match=r"rabbit\.example: Name or service not known"):
        await addresses.resolve("rabbit.example", 5672)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "nul\0.example"])
async def test_impossible_host_is_an_oserror(host: str) -> None:
    with pytest.raises(OSError, match=r"not a host name|not known|resolution"):
        await addresses.resolve(host, 5672)


async def test_a_connection_to_itself_counts_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bound(socket.socket):
        __slots__ = ("is_bound",)

        def connect_ex(self, address: Any) -> int:
            if not hasattr(self, "is_bound"):
                self.is_bound = True
                self.bind(address)
            return super().connect_ex(address)

    port = unused_port()
    monkeypatch.setattr(socket, "socket", Bound)
    async with running_poller() as poller:
        with pytest.raises(ConnectionRefusedError):
            await poller.connect_tcp(("127.0.0.1", port), Recorder())


async def test_missing_unix_socket(tmp_path: Path) -> None:
    async with running_poller() as poller:
        with pytest.raises(FileNotFoundError, match="missing"):
            await poller.connect_unix(str(tmp_path / "missing"), Recorder())


async def test_a_unix_socket_with_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket"), backlog=0) as listener:
        async with running_poller() as poller, anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(poller.connect_unix, listener.path, Recorder())
            await turns()
            assert len(poller) < 3
            for _ in range(3):
                await listener.accept()
            await until(lambda: len(poller) == 3)


async def test_the_endpoint_is_not_called_before_connecting_has_returned() -> None:
    with Listener() as listener:
        async with running_poller() as poller, anyio.create_task_group() as tg:
            returned: list[Recorder] = []

            async def connect(endpoint: Recorder) -> None:
                endpoint.on_data = lambda _: returned[-1]
                endpoint.transport = await poller.connect_tcp(("127.0.0.1", listener.port), endpoint)
                assert not endpoint.chunks and not endpoint.lost
                returned.append(endpoint)

            endpoint = Recorder()
            tg.start_soon(connect, endpoint)
            peer = await listener.accept()
            peer.send(b"early")
            peer.close()
            await until(lambda: endpoint.lost)
            assert endpoint.received == b"early" and endpoint.lost == [None]


async def test_ten_thousand_cycles_leak_nothing(tmp_path: Path) -> None:
    with Listener(str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            await anyio.sleep(0.001)
            before = open_descriptors()
            for number in range(10_000):
                endpoint = Recorder()
                transport = await poller.connect_unix(str(listener.path), endpoint)
                listener.accept_now().close()
                if number % 2:
                    transport.start_timer(1e12)
                transport.abort()
                listener.peers.clear()
                if not number % 100:
                    await turns(1)
            assert open_descriptors() == before
            assert not len(poller) and len(poller._timers) < 200
            for _ in range(200):
                with pytest.raises(ConnectionRefusedError):
                    await poller.connect_tcp(("127.0.0.1", 1), Recorder())
            assert open_descriptors() == before and not poller._connecting
