"""What the tests of the client share: one behind a proxy that fails on command, and queues that outlive connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

import rabbitry
from rabbitry import Backoff
from rabbitry.testing import Proxy, open_proxy
from tests.helpers import open_channel, unique

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
    with anyio.fail_after(5):
        while not client.is_ready:
            await anyio.sleep(0.005)


def refuse(proxy: Proxy) -> None:
    """An outage: no connection stays, and none can be made until `proxy.accept()`."""
    proxy.refuse()
    proxy.cut()
