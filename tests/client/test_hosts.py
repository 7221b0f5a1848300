"""Several URLs of one client: whichever broker answers first is used, and no silent one holds up the others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import pytest

import rabbitry
from rabbitry import Backoff
from rabbitry._client.hosts import HOST_DELAY, first_to_open
from rabbitry._connection.connection import Connection
from rabbitry._errors import ConnectFailed
from tests.support.clients import QUICK
from tests.support.helpers import until


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """URLs of four servers that accept and say nothing."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        yield [f"amqp://127.0.0.1:{listener.getsockname()[1]}/" for listener in listeners]


@pytest.mark.parametrize(("count", "within"), [(1, 1.0), (4, 3.0)])
async def test_silent_hosts_hold_nobody_up(
    amqp_url: str, silent: list[str], count: int, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rabbitry._client.link._RANDOM", InOrder())
    began = anyio.current_time()
    async with rabbitry.open_client([*silent[:count], amqp_url]) as client:
        await client.publish(b"x", routing_key="nowhere")
        assert anyio.current_time() - began < within
        assert await client.inspect("no such queue") is None  # by the consuming connection
        assert anyio.current_time() - began < 2 * within


async def test_a_host_that_answers_is_the_only_one_asked(
    amqp_url: str, silent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rabbitry._client.link._RANDOM", InOrder())
    monkeypatch.setattr("rabbitry._client.hosts.HOST_DELAY", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        async with rabbitry.open_client([amqp_url, f"amqp://127.0.0.1:{other.getsockname()[1]}/"]) as client:
            await client.publish(b"x", routing_key="nowhere")
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()


async def test_hosts_that_all_refuse_are_told_of_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [listener.getsockname()[1] for listener in (one, two)]
    urls = [f"amqp://127.0.0.1:{port}/" for port in ports]
    with pytest.raises(ConnectFailed, match="given up after 2 attempts"):
        async with rabbitry.open_client(urls, reconnect=Backoff(initial=0.01, maximum=0.01, attempts=2)) as client:
            await client.publish(b"x", routing_key="nowhere")
    for port in ports:
        assert sum(str(port) in record.getMessage() for record in caplog.records) == 2


async def test_credentials_that_all_hosts_refuse_end_the_client(amqp_url: str) -> None:
    wrong = amqp_url.replace("guest:guest", "guest:wrong")
    with anyio.fail_after(10), pytest.raises(rabbitry.AuthenticationFailed):
        async with rabbitry.open_client([wrong, wrong], reconnect=QUICK) as client:
            await client.publish(b"x", routing_key="nowhere")


async def test_credentials_that_one_host_refuses_leave_the_other(amqp_url: str) -> None:
    wrong = amqp_url.replace("guest:guest", "guest:wrong")
    for _ in range(4):  # in random order
        async with rabbitry.open_client([wrong, amqp_url], reconnect=QUICK) as client:
            await client.publish(b"x", routing_key="nowhere")


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.1, HOST_DELAY + 0.1])
async def test_cancelled_it_leaves_no_connection(amqp_url: str, silent: list[str], delay: float) -> None:
    async with rabbitry.open_reactor() as reactor:
        with anyio.move_on_after(delay):
            async with reactor.open_client([silent[0], amqp_url, silent[1]]) as client:
                await client.publish(b"x", routing_key="nowhere")
                await anyio.sleep(1)
        await until(lambda: not reactor._hub._endpoints)


async def test_who_comes_too_late_is_closed() -> None:
    """All of them become open in one turn."""
    left: list[int] = []
    gate = anyio.Event()

    class Entered:
        def __init__(self, number: int) -> None:
            self.number = number

        async def __aexit__(self, *_: object) -> None:
            left.append(self.number)

    async def enter(host: int) -> Entered:
        await gate.wait()
        return Entered(host)

    async def opened() -> None:
        found = await first_to_open([0, 1, 2], enter, lambda host, error: False)  # type: ignore[arg-type, list-item]
        assert found is not None
        entered: Connection = found[1]
        assert sorted([*left, entered.number]) == [0, 1, 2]  # type: ignore[attr-defined]

    async with anyio.create_task_group() as tg:
        tg.start_soon(opened)
        await anyio.sleep(2.2 * HOST_DELAY)
        gate.set()


class InOrder:
    """In place of `random`: hosts are tried in the order given, without pauses."""

    def uniform(self, low: float, high: float) -> float:
        return low

    def sample(self, population: list[object], count: int) -> list[object]:
        return list(population)
