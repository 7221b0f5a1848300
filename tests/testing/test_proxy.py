"""The proxy that fails on command, and the schedule of its faults.

Where the broker's part matters it is a real one; else a server that echoes, so that each byte can be followed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest

import rabbitry
from rabbitry.testing import FAULTS, Fault, Proxy, Schedule, open_proxy
from rabbitry.testing.faults.proxy import IN_FLIGHT, RECEIVE_BUFFER
from tests.support.helpers import until

SOON = 3.0


async def echo(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            async for data in stream:
                await stream.send(data)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """To a server that sends everything back, and its end as well."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, echo)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with open_proxy(f"amqp://guest:guest@127.0.0.1:{port}") as proxy:
            yield proxy
        tg.cancel_scope.cancel()


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rsplit(":", 1)[1].partition("/")[0])


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[anyio.abc.SocketStream]:
    """A client whose link is there, so that faults meet it."""
    accepted = proxy.accepted
    async with await anyio.connect_tcp("127.0.0.1", port_of(proxy)) as stream:
        await until(lambda: proxy.accepted > accepted)
        yield stream


async def receive_at_least(stream: anyio.abc.SocketStream, size: int) -> bytes:
    data = b""
    with anyio.fail_after(20):
        while len(data) < size:
            data += await stream.receive()
    return data


async def answers(stream: anyio.abc.SocketStream, data: bytes = b"hello") -> bool:
    await stream.send(data)
    return await receive_at_least(stream, len(data)) == data


async def is_silent(stream: anyio.abc.SocketStream) -> bool:
    with anyio.move_on_after(0.1):
        await stream.receive()
        return False
    return True


# --- all links at once ------------------------------------------------------------------------------------------------


async def test_cut_ends_all_links_and_reset_resets_them(proxy: Proxy) -> None:
    for fault, error in ((proxy.cut, anyio.EndOfStream), (proxy.reset, anyio.BrokenResourceError)):
        async with connected(proxy) as first, connected(proxy) as second:
            assert await answers(first) and await answers(second)
            fault()
            for stream in first, second:
                with anyio.fail_after(SOON), pytest.raises(error):
                    await stream.receive()
            await until(lambda: not proxy.links)


async def test_a_stall_is_for_links_to_come_as_well(proxy: Proxy) -> None:
    async with connected(proxy) as first:
        assert await answers(first)
        proxy.stall()
        async with connected(proxy) as second:
            for stream in first, second:
                await stream.send(b"hello")
            assert await is_silent(first) and await is_silent(second)
            assert proxy.links[0].to_broker.passed == 5 and proxy.links[1].to_broker.passed == 0
            proxy.resume()
            for stream in first, second:
                assert await receive_at_least(stream, 5) == b"hello"
        async with connected(proxy) as third:
            assert await answers(third)


async def test_the_sender_feels_a_stall(proxy: Proxy) -> None:
    async with connected(proxy) as stream:
        proxy.stall()
        sent, before = 0, -1

        async def send() -> None:
            nonlocal sent
            while sent < 100 << 20:
                await stream.send(bytes(RECEIVE_BUFFER))
                sent += RECEIVE_BUFFER

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await until(lambda: sent)
            while before < sent:
                before = sent
                await anyio.sleep(0.1)
            tg.cancel_scope.cancel()
        assert 0 < sent < 100 << 20


async def test_half_close_leaves_the_other_direction(proxy: Proxy) -> None:
    async with connected(proxy) as stream:
        assert await answers(stream)
        proxy.half_close()
        with anyio.fail_after(SOON), pytest.raises(anyio.EndOfStream):
            await stream.receive()
        await stream.send(b"more")
        link = proxy.link
        await until(lambda: link.to_broker.passed == 9)
        proxy.resume()  # is no remedy
        assert proxy.links == [link] and link.to_client.passed == 5
    with anyio.fail_after(SOON):
        await link.ended.wait()  # the client has left, and the broker's own end is seen, though nothing passes to it


async def test_half_close_before_the_broker_is_reached(proxy: Proxy) -> None:
    proxy.on_link = lambda link: link.half_close()
    async with connected(proxy) as stream:
        with anyio.fail_after(SOON), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_refused_connections_are_reset_and_others_go_on(proxy: Proxy) -> None:
    async with connected(proxy) as stream:
        proxy.refuse()
        for _ in range(3):
            with anyio.fail_after(SOON), pytest.raises((anyio.BrokenResourceError, OSError)):
                async with await anyio.connect_tcp("127.0.0.1", port_of(proxy)) as refused:
                    await refused.receive()
        assert proxy.accepted == 1
        assert await answers(stream)
        proxy.accept()
        async with connected(proxy) as another:
            assert await answers(another)


async def test_a_broker_that_is_not_there_resets_the_client() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with open_proxy(f"amqp://127.0.0.1:{nobody.getsockname()[1]}") as proxy:
            for _ in range(3):
                with anyio.fail_after(SOON), pytest.raises((anyio.BrokenResourceError, OSError)):
                    async with await anyio.connect_tcp("127.0.0.1", port_of(proxy)) as stream:
                        await stream.receive()
            await until(lambda: not proxy.links)


# --- conditions -------------------------------------------------------------------------------------------------------


async def test_a_delay_is_latency_and_does_not_lower_throughput(proxy: Proxy) -> None:
    """A hundred messages sent over two delays arrive over two delays; in turn, they would take a hundred."""
    proxy.delay = 0.2
    async with connected(proxy) as stream:
        started = anyio.current_time()
        for _ in range(100):
            await stream.send(b"x")
            await anyio.sleep(0.004)
        came = await receive_at_least(stream, 1)  # or several at once
        first = anyio.current_time() - started
        await receive_at_least(stream, 100 - len(came))
        assert first >= 0.4, "there and back"
        assert anyio.current_time() - started - first < 10
        proxy.delay = 60.0
        proxy.delay = 0.0
        assert await answers(stream), "a third of that"


async def test_a_delayed_flow_passes_all_and_its_end_and_holds_little(proxy: Proxy) -> None:
    data = os.urandom(3 * IN_FLIGHT)
    proxy.delay = 0.05

    async def send() -> None:
        await stream.send(data)
        await stream.send_eof()

    async with connected(proxy) as stream, anyio.create_task_group() as tg:
        tg.start_soon(send)
        assert await receive_at_least(stream, len(data)) == data
        with anyio.fail_after(SOON), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_split_passes_all_byte_by_byte(proxy: Proxy) -> None:
    proxy.split = 1
    data = os.urandom(2_000)
    async with connected(proxy) as stream:
        await stream.send(data)
        pieces = [await stream.receive()]
        while sum(map(len, pieces)) < len(data):
            pieces.append(await stream.receive())
        assert b"".join(pieces) == data
        assert len(pieces) > 20


async def test_throttle_bounds_the_rate(proxy: Proxy) -> None:
    proxy.throttle = 100_000
    async with connected(proxy) as stream:
        started = anyio.current_time()
        await stream.send(bytes(50_000))
        await receive_at_least(stream, 50_000)
        assert anyio.current_time() - started > 0.45
        proxy.throttle = 500
        proxy.throttle = 0
        assert await answers(stream, bytes(50_000)), "in a fifth of 100 seconds"


async def test_a_connection_bears_split_delay_and_throttle(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        proxy.split, proxy.delay, proxy.throttle = 7, 0.01, 200_000
        async with rabbitry.connect(proxy.url) as connection, connection.channel(confirm=True) as channel:
            queue = (await channel.declare_queue(exclusive=True)).name
            body = os.urandom(5_000)
            await channel.publish(body, routing_key=queue)
            delivery = await channel.get(queue)
            assert delivery is not None and delivery.body == body


# --- a long life ------------------------------------------------------------------------------------------------------


async def test_links_that_are_over_are_forgotten(proxy: Proxy) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    for number in range(1_000):
        async with connected(proxy) as stream:
            if number % 10 == 0:
                proxy.link.reset() if number % 20 else proxy.link.cut()
            else:
                assert await answers(stream)
        assert len(proxy.links) < 50
    await until(lambda: not proxy.links)
    assert proxy.accepted == 1_000
    assert proxy.link.ended.is_set()
    proxy.link.reset()  # too late, and harmless
    assert len(os.listdir("/dev/fd")) <= descriptors + 5


async def test_what_the_body_raises_leaves_as_itself(amqp_url: str) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_proxy(amqp_url):
            raise KeyError("mine")


async def test_no_link_yet(amqp_url: str) -> None:
    async with open_proxy(amqp_url) as proxy:
        with pytest.raises(RuntimeError, match="nobody has connected"):
            proxy.link


# --- a schedule -------------------------------------------------------------------------------------------------------


async def applied(proxy: Proxy, seed: int, **options: object) -> list[Fault]:
    schedule = Schedule(proxy, seed=seed, every=0.02, duration=0.8, **options)  # type: ignore[arg-type]
    with anyio.fail_after(30):
        await schedule.run()
    return list(schedule.applied)


async def test_a_seed_repeats_the_faults(proxy: Proxy) -> None:
    first, again, other = [await applied(proxy, seed) for seed in (7, 7, 8)]
    assert len(first) > 25
    assert [(fault.name, fault.lasting) for fault in first] == [(fault.name, fault.lasting) for fault in again]
    assert [fault.name for fault in first] != [fault.name for fault in other]
    early = [min(one.at, two.at) for one, two in zip(first, again, strict=True)]
    planned = [at for at, *_ in Schedule(proxy, seed=7, every=0.02, duration=0.8)._plan()]
    assert all(at >= due for at, due in zip(early, planned, strict=True)), "when they are due, or when there was time"
    assert {fault.name for fault in first} == set(FAULTS)
    assert all(
        (fault.lasting > 0) == (fault.name in ("stall", "refuse", "delay", "split", "throttle")) for fault in first
    )


async def test_a_schedule_of_ones_own(proxy: Proxy) -> None:
    calls = []

    async def restart() -> None:
        calls.append(anyio.current_time())

    async with connected(proxy) as stream:
        found = await applied(proxy, 1, faults=("split", restart))
        assert {fault.name for fault in found} == {"split", "restart"}
        assert len(calls) == sum(fault.name == "restart" for fault in found)
        assert await answers(stream), "none of the faults cuts"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
async def test_a_share_of_the_links(proxy: Proxy, share: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(connected(proxy))
        schedule = Schedule(proxy, seed=3, every=0.02, faults=("cut",), share=share, duration=0.03)
        await schedule.run()
        assert len(schedule.applied) == 1
        await until(lambda: {0.0: len(proxy.links) == 20, 1.0: not proxy.links}.get(share, len(proxy.links) < 20))
        assert (len(proxy.links) == 0) == (share == 1)


@pytest.mark.parametrize("fault", ["stall", "refuse", "delay", "split", "throttle"])
async def test_a_lasting_fault_is_undone(proxy: Proxy, fault: str) -> None:
    """Also where the schedule is cancelled in the middle of it; and what was set before is set again."""
    proxy.split = 100
    schedule = Schedule(proxy, seed=5, every=20, faults=(fault,))
    schedule._plan = lambda: iter([(0.0, fault, 10.0, Random(1))])  # type: ignore[method-assign]
    async with anyio.create_task_group() as tg:
        tg.start_soon(schedule.run)
        await until(lambda: schedule.applied)
        assert (proxy._stalled, proxy._refusing, proxy.delay > 0, proxy.split != 100, proxy.throttle > 0) == tuple(
            fault == name for name in ("stall", "refuse", "delay", "split", "throttle")
        )
        tg.cancel_scope.cancel()
    assert (proxy.delay, proxy.split, proxy.throttle) == (0, 100, 0)
    async with connected(proxy) as stream:
        assert await answers(stream)


async def test_a_schedule_of_nothing_and_of_the_unknown(proxy: Proxy) -> None:
    for options in ({"faults": ("flood",)}, {"faults": ()}, {"every": 0}, {"share": 2}):
        with pytest.raises(ValueError):
            Schedule(proxy, seed=1, **options)  # type: ignore[arg-type]


async def test_a_client_works_through_a_schedule(amqp_url: str) -> None:
    """Every message that was confirmed is there in the end, whatever the network does."""
    async with open_proxy(amqp_url) as proxy, rabbitry.connect(amqp_url) as direct, direct.channel() as channel:
        queue = (await channel.declare_queue(exclusive=False, auto_delete=False)).name
        schedule = Schedule(proxy, seed=11, every=0.15, faults=("cut", "reset", "stall", "split", "delay"))
        confirmed: set[bytes] = set()
        try:
            reconnect = rabbitry.Backoff(initial=0.01, maximum=0.05)
            async with rabbitry.open_client(proxy.url, reconnect=reconnect) as client, anyio.create_task_group() as tg:
                tg.start_soon(schedule.run)
                deadline = anyio.current_time() + 3
                while anyio.current_time() < deadline or len(confirmed) < 6 or len(schedule.applied) < 6:
                    body = b"%d" % len(confirmed)
                    with contextlib.suppress(rabbitry.PublishFailed), anyio.fail_after(30):
                        await client.publish(body, routing_key=queue)
                        confirmed.add(body)
                tg.cancel_scope.cancel()
            found = set()
            while delivery := await channel.get(queue, no_ack=True):
                found.add(delivery.body)
            assert len(confirmed) > 5 and confirmed <= found
            assert len(schedule.applied) > 5 and proxy.accepted > 2
        finally:
            await channel.delete_queue(queue)
