"""What the tests of the client share: one behind a proxy that fails on command, and queues that outlive connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

import rabbitry
from rabbitry import Backoff
from rabbitry._endpoint import HIGH_WATER
from rabbitry.testing import Proxy, open_proxy
from tests.support.helpers import open_channel, unique, until

QUICK = Backoff(initial=0.01, maximum=0.05)


@asynccontextmanager
async def through_proxy(url: str, **options: Any) -> AsyncIterator[tuple[rabbitry.Client, Proxy]]:
    options.setdefault("reconnect", QUICK)
    async with open_proxy(url) as proxy, rabbitry.open_client(proxy.url, **options) as client:
        yield client, proxy


@asynccontextmanager
async def some_queue(url: str) -> AsyncIterator[str]:
    """A durable queue, so that it outlives connections."""
    async with open_channel(url) as channel:
        name = (await channel.declare_queue(unique())).name
        try:
            yield name
        finally:
            with anyio.CancelScope(shield=True):
                await channel.delete_queue(name)


async def ready_again(client: rabbitry.Client) -> None:
    with anyio.fail_after(30):
        while not client.is_ready:
            await anyio.sleep(0.005)


async def noticed(client: rabbitry.Client, cut_it: Callable[[], object]) -> None:
    """Cut a connection and wait until the client knows: what it publishes then has certainly not been sent."""
    with client.changes() as changes, anyio.fail_after(30):
        cut_it()
        async for change in changes:
            if change.state == "recovering":
                return


async def have_left(publisher: rabbitry.ClientPublisher) -> None:
    """Return once the kernel has all that was submitted."""
    protocol = publisher._life.endpoint.protocol
    await until(lambda: not protocol.out_size)


async def fill(publisher: rabbitry.ClientPublisher, queue: str, bodies: Iterable[bytes]) -> list[rabbitry.Confirmation]:
    """Submit until there is no room for more, in the kernel or here; who calls this has stalled what would take it."""
    confirmations: list[rabbitry.Confirmation] = []

    async def submit() -> None:
        for number, body in enumerate(bodies, 1):
            confirmations.append(await publisher.submit(body, routing_key=queue, tag=number))

    protocol = publisher._life.endpoint.protocol
    async with anyio.create_task_group() as tg:
        tg.start_soon(submit)
        await until(lambda: protocol.out_size >= HIGH_WATER)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    return confirmations


def refuse(proxy: Proxy) -> None:
    """An outage: no connection stays, and none can be made until `proxy.accept()`."""
    proxy.refuse()
    proxy.cut()
