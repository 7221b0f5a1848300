"""The ways to reach a broker, each used end to end, what the broker is told of a connection, and how many end at once.

A private node listens on 127.0.0.1 alone, so IPv6 and Unix sockets lead to it through a proxy.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import rabbitry
from rabbitry.testing import Flow, PrivateNode, open_proxy
from tests.support.helpers import check_channel, exclusive_queue, unique

CLOSE_OK = bytes.fromhex("01 0000 00000004 000a 0033 ce")
"""The frame of connection.close-ok: the last that the broker sends to a connection which ends as it should."""


async def work(connection: rabbitry.Connection) -> None:
    """Declare, publish with confirms, get, consume, in frames small and large; then see that nothing is out of step."""
    bodies = [b"small", bytes(300_000), b""]
    async with connection.channel() as channel:
        queue = await exclusive_queue(channel, bodies)
        with anyio.fail_after(10):
            async with channel.consume(queue) as deliveries:
                for body in bodies:
                    delivery = await deliveries.__anext__()
                    assert delivery.body == body
                    delivery.ack()
            async with channel.publisher(window=100) as publisher:
                for number in range(500):
                    await publisher.submit(b"%d" % number, routing_key=queue)
            assert (publisher.confirmed, publisher.failed) == (500, 0)
            assert await channel.purge_queue(queue) == 500
            await check_channel(channel)


@pytest.fixture
def ipv6() -> str:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback address: {error}")
    return "::1"


@pytest.fixture
async def closed_well() -> AsyncIterator[list[Flow]]:
    """What the test puts in this list must have ended with the broker's close-ok."""
    flows: list[Flow] = []
    yield flows
    assert flows
    assert [flow.last[-len(CLOSE_OK) :] for flow in flows] == [CLOSE_OK] * len(flows)


async def test_a_name_with_several_addresses(node: PrivateNode) -> None:
    """`localhost` may be [::1] first, where nobody listens."""
    async with rabbitry.connect(node.url.replace("127.0.0.1", "localhost")) as connection:
        await work(connection)


@pytest.mark.parametrize("dial", [None, anyio.connect_tcp], ids=["socket", "stream"])
async def test_ipv6(amqp_url: str, ipv6: str, dial: Any, closed_well: list[Flow]) -> None:
    async with open_proxy(amqp_url, (ipv6, 0)) as proxy:
        assert "@[::1]:" in proxy.url
        async with rabbitry.connect(proxy.url, dial=dial) as connection:
            await work(connection)
        closed_well.append(proxy.link.to_client)


async def test_ipv6_with_nobody_listening(ipv6: str) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as taken:
        taken.bind((ipv6, 0))
        port = taken.getsockname()[1]
        with pytest.raises(rabbitry.ConnectFailed, match=rf"nothing listens at \[::1\]:{port}"):
            async with rabbitry.connect(f"amqp://[::1]:{port}"):
                pass


async def test_a_unix_socket(amqp_url: str, tmp_path: Path, closed_well: list[Flow]) -> None:
    async with open_proxy(amqp_url, str(tmp_path / "broker.sock")) as proxy:
        assert proxy.url.startswith("amqp+unix://")
        async with rabbitry.connect(proxy.url) as connection:
            await work(connection)
        closed_well.append(proxy.link.to_client)


async def test_a_unix_socket_is_lost_and_closed_as_any_other(amqp_url: str, tmp_path: Path) -> None:
    async with open_proxy(amqp_url, str(tmp_path / "broker.sock")) as proxy:
        async with rabbitry.connect(proxy.url) as connection:
            proxy.link.cut()
            with anyio.fail_after(20), pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                await connection.wait_closed()


async def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(rabbitry.ConnectFailed, match=f"there is no socket at {path}"):
        async with rabbitry.connect(f"amqp+unix://{path}"):
            pass


async def test_a_tunnel_that_the_program_dials(amqp_url: str, tmp_path: Path, closed_well: list[Flow]) -> None:
    """`dial=` is asked for the URL's host and port, and what stream it gives is its own affair."""
    path = str(tmp_path / "tunnel.sock")
    asked: list[tuple[str, int]] = []

    async def dial(host: str, port: int) -> anyio.abc.ByteStream:
        asked.append((host, port))
        return await anyio.connect_unix(path)

    async with open_proxy(amqp_url, path) as proxy:
        async with rabbitry.connect("amqp://broker.example:1234", dial=dial) as connection:
            await work(connection)
        with anyio.fail_after(20):
            await proxy.link.to_broker.ended.wait()
        closed_well.append(proxy.link.to_client)
    assert asked == [("broker.example", 1234)]


async def test_a_tunnel_that_does_not_open() -> None:
    async def refuse(host: str, port: int) -> anyio.abc.ByteStream:
        raise OSError("no way")

    async def hang(host: str, port: int) -> anyio.abc.ByteStream:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(rabbitry.ConnectFailed, match="no way"):
        async with rabbitry.connect("amqp://broker.example", dial=refuse):
            pass
    with anyio.fail_after(20), pytest.raises(rabbitry.ConnectFailed, match=r"within 0.1 s"):
        async with rabbitry.connect("amqp://broker.example", dial=hang, connect_timeout=0.1):
            pass


@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")])
@pytest.mark.parametrize("dial", [None, anyio.connect_tcp], ids=["socket", "stream"])
async def test_uvloop(amqp_url: str, anyio_backend: Any, dial: Any, closed_well: list[Flow]) -> None:
    import asyncio

    pytest.importorskip("uvloop")
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
    async with open_proxy(amqp_url) as proxy:
        async with rabbitry.connect(proxy.url, dial=dial) as connection:
            await work(connection)
        closed_well.append(proxy.link.to_client)
        async with rabbitry.connect(proxy.url, dial=dial) as connection:
            proxy.link.reset()
            with anyio.fail_after(20), pytest.raises(rabbitry.ConnectionClosed, match="connection lost"):
                await connection.wait_closed()


async def test_the_broker_knows_the_name(node: PrivateNode) -> None:
    name, url_name, own_name, purpose = unique("name"), unique("url"), unique("own"), unique("purpose")
    async with (
        rabbitry.connect(node.url, name=name) as named,
        rabbitry.connect(f"{node.url}?name={url_name}") as named_by_url,
        rabbitry.connect(node.url, client_properties={"connection_name": own_name, "purpose": purpose}),
    ):
        assert (named.name, named_by_url.name) == (name, url_name)
        listing = await anyio.to_thread.run_sync(node.rabbitmqctl, "list_connections", "client_properties")
    lines = [line for line in listing.splitlines() if any(known in line for known in (name, url_name, own_name))]
    assert len(lines) == 3 and all(f'{{"product","{rabbitry.__name__}"}}' in line for line in lines), listing
    for known in name, url_name, own_name:
        assert f'{{"connection_name","{known}"}}' in listing
    assert f'{{"purpose","{purpose}"}}' in listing


async def test_two_hundred_connections_end_within_one_deadline(amqp_url: str) -> None:
    """The 20 that the broker does not answer wait together for the same 5 s, and keep none of the others waiting."""
    ended: dict[rabbitry.Connection, float] = {}

    async def watch(connection: rabbitry.Connection) -> None:
        await connection.wait_closed()
        ended[connection] = anyio.current_time()

    async with open_proxy(amqp_url) as proxy, AsyncExitStack() as stack, anyio.create_task_group() as watching:
        async with rabbitry.open_reactor() as reactor:
            connections = [reactor.connect(proxy.url) for _ in range(200)]
            with anyio.fail_after(20):
                async with anyio.create_task_group() as opening:
                    for connection in connections:
                        opening.start_soon(stack.enter_async_context, connection)  # they outlive their reactor
            for connection in connections:
                watching.start_soon(watch, connection)
            stalled, answered = proxy.links[::10], [link for index, link in enumerate(proxy.links) if index % 10]
            for link in stalled:
                link.to_client.stall()
            await anyio.wait_all_tasks_blocked()
            started = anyio.current_time()
        took = anyio.current_time() - started
    times = sorted(when - started for when in ended.values())
    assert len(times) == 200 and not any(connection.is_open for connection in connections)
    assert times[90] < 4.5 < times[180], "the others were answered, and most of them at once"
    assert times[199] <= took < 20, "one after the other they would take 100"
    assert all(link.to_client.last.endswith(CLOSE_OK) for link in answered)
    assert not any(link.to_client.last.endswith(CLOSE_OK) for link in stalled)
