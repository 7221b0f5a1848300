"""Where there is no epoll: the same interface, the same promises."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from rabbitry._transport import Poller, StreamPoller, make_poller
from tests.transport.fakes import Listener, Recorder, turns, until


@asynccontextmanager
async def running_poller() -> AsyncIterator[Any]:
    poller = StreamPoller()
    async with anyio.create_task_group() as tg:
        await tg.start(poller.run)
        try:
            yield poller
        finally:
            poller.stop()
    poller.close()
    assert not len(poller)


async def test_the_system_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    poller = make_poller()
    assert isinstance(poller, Poller)
    poller.close()
    monkeypatch.delattr(select, "epoll")
    assert isinstance(make_poller(), StreamPoller)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_echo(kind: str, tmp_path: Path) -> None:
    with Listener(None if kind == "tcp" else str(tmp_path / "socket")) as listener:
        async with running_poller() as poller:
            endpoint, peer = await listener.connect(poller)
            assert len(poller) == 1 and not endpoint.chunks
            assert endpoint.transport.describe() in (f"127.0.0.1:{getattr(listener, 'port', 0)}", listener.path)
            endpoint.write(b"hello")
            assert await peer.read(5) == b"hello"
            peer.send(b"world")
            await until(lambda: endpoint.received == b"world")
            peer.close()
            await until(lambda: endpoint.lost)
            assert endpoint.lost == [None]
            await until(lambda: not len(poller))


async def test_the_endpoint_is_not_called_before_connecting_has_returned() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            endpoint, peer = Recorder(), None
            endpoint.on_data = lambda _: endpoint.transport.describe()  # fails while there is none
            async with anyio.create_task_group() as tg:

                async def greet() -> None:
                    nonlocal peer
                    peer = await listener.accept()
                    peer.send(b"early")

                tg.start_soon(greet)
                endpoint.transport = await poller.connect_tcp(("127.0.0.1", listener.port), endpoint)
                assert not endpoint.chunks
            await until(lambda: endpoint.received == b"early")
            assert not endpoint.lost


async def test_refused(tmp_path: Path) -> None:
    async with running_poller() as poller:
        with pytest.raises(ConnectionRefusedError, match=r"127\.0\.0\.1:1: Connection refused"):
            await poller.connect_tcp(("127.0.0.1", 1), Recorder())
        with pytest.raises(FileNotFoundError, match="missing"):
            await poller.connect_unix(str(tmp_path / "missing"), Recorder())


async def test_stopping_ends_what_is_left() -> None:
    with Listener() as listener:
        async with running_poller() as poller:
            old, _ = await listener.connect(poller)
            await turns(20)
            new = Recorder()
            await poller.connect_tcp(("127.0.0.1", listener.port), new)
        for endpoint in (old, new):
            assert isinstance(endpoint.lost[0], ConnectionAbortedError)
        with pytest.raises(ConnectionAbortedError):
            await poller.connect_tcp(("127.0.0.1", listener.port), Recorder())


async def test_a_cancelled_owner_can_still_say_goodbye() -> None:
    with Listener() as listener:
        poller = StreamPoller()
        async with anyio.create_task_group() as tg:
            await tg.start(poller.run)
            endpoint, peer = await listener.connect(poller)
            await turns()
            tg.cancel_scope.cancel()
            with anyio.move_on_after(5, shield=True):
                endpoint.write(b"close")
                assert await peer.read(5) == b"close"
                peer.send(b"close-ok")
                await until(lambda: endpoint.received == b"close-ok")
            endpoint.transport.abort()
            poller.stop()
        assert not endpoint.lost
