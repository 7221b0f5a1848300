"""aio-pika's RPC pattern (`aio_pika.patterns.RPC`) on the benchmark's work: its server, and its callers.

It is used the way its documentation shows, where channels confirm what is published; the jobs `…_unconfirmed` turn that
off on both sides. Server and caller are two processes, and calls are measured as in ours_rpc.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.measuring.bench.measure import BODY, QUEUE, TASKS, WARM_UP, Clocks, Figures, usage
from tests.measuring.bench.rpc import Server, answer_for_usage, call_one_by_one, call_some

if TYPE_CHECKING:
    from aio_pika.patterns import RPC

CallingJob = Callable[[str, int, Server, bool], Coroutine[Any, Any, Figures]]


async def echo(*, body: bytes) -> bytes:
    return body


async def serve(url: str, concurrency: int, confirm: bool) -> Figures:
    async with open_rpc(url, confirm) as rpc:
        channel = rpc.channel
        await channel.set_qos(prefetch_count=concurrency)
        await channel.queue_delete(QUEUE)
        await rpc.register(QUEUE, echo, durable=True)
        await asyncio.to_thread(answer_for_usage)
        await rpc.unregister(echo)
        await channel.queue_delete(QUEUE)
    return usage()


async def rpc_one(url: str, count: int, server: Server, confirm: bool) -> Figures:
    """One call at a time."""
    async with open_rpc(url, confirm) as rpc:
        return await call_one_by_one(partial(rpc.call, QUEUE, {"body": BODY}), count, server)


async def rpc_tasks(url: str, count: int, server: Server, confirm: bool) -> Figures:
    """100 tasks share the RPC, each awaiting its calls."""
    async with open_rpc(url, confirm) as rpc:
        call = partial(rpc.call, QUEUE, {"body": BODY})
        await call_some(call, WARM_UP)
        each = count // TASKS
        clocks = Clocks(server)
        await asyncio.gather(*[call_some(call, each) for _ in range(TASKS)])
        return clocks.figures(each * TASKS)


@asynccontextmanager
async def open_channel(url: str, confirm: bool) -> AsyncIterator[Any]:
    import aio_pika

    async with await aio_pika.connect(url) as connection, connection.channel(publisher_confirms=confirm) as channel:
        yield channel


@asynccontextmanager
async def open_rpc(url: str, confirm: bool) -> AsyncIterator[RPC]:
    from aio_pika.patterns import RPC

    async with open_channel(url, confirm) as channel:
        rpc = await RPC.create(channel)
        yield rpc
        await rpc.close()


SERVERS = {"aio_pika.serve": True, "aio_pika.serve_unconfirmed": False}
"""Whether what is published is confirmed."""
CALLERS: dict[str, tuple[CallingJob, str]] = {
    "aio_pika.rpc_one": (rpc_one, "aio_pika.serve"),
    "aio_pika.rpc_one_unconfirmed": (rpc_one, "aio_pika.serve_unconfirmed"),
    "aio_pika.rpc_tasks": (rpc_tasks, "aio_pika.serve"),
    "aio_pika.rpc_tasks_unconfirmed": (rpc_tasks, "aio_pika.serve_unconfirmed"),
}
"""Each with the server it calls; it confirms as that does."""
