"""rabbitry's RPC on the benchmark's work: its servers, and its callers, who have one of these in another process.

What must stay true: as in ours.py. Payloads go through the default codec, as they do in peers_rpc.py, and as many
requests are prefetched and served at a time as there are callers at most, there and here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

import rabbitry
from tests.measuring.bench.measure import BODY, QUEUE, TASKS, WARM_UP, Clocks, Figures, usage
from tests.measuring.bench.rpc import Call, Server, answer_for_usage, call_one_by_one, call_some

CallingJob = Callable[[str, int, Server], Coroutine[Any, Any, Figures]]


# --- servers ----------------------------------------------------------------------------------------------------------


async def echo(payload: bytes) -> bytes:
    return payload


async def serve(url: str, concurrency: int) -> Figures:
    async with rabbitry.connect(url) as connection, open_queue(connection), anyio.create_task_group() as tg:
        tg.start_soon(lambda: connection.serve(QUEUE, echo, concurrency=concurrency, prefetch=concurrency))
        await anyio.to_thread.run_sync(answer_for_usage, abandon_on_cancel=True)
        tg.cancel_scope.cancel()
    return usage()


async def client_serve(url: str, concurrency: int) -> Figures:
    async with (
        rabbitry.connect(url) as connection,
        open_queue(connection),
        rabbitry.open_client(url) as client,
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(lambda: client.serve(QUEUE, echo, concurrency=concurrency, prefetch=concurrency))
        await anyio.to_thread.run_sync(answer_for_usage, abandon_on_cancel=True)
        tg.cancel_scope.cancel()
    return usage()


@asynccontextmanager
async def open_queue(connection: rabbitry.Connection) -> AsyncIterator[None]:
    """The queue of requests, empty. Calls may be made before its consumer is there: they wait in it."""
    async with connection.channel() as channel:
        await channel.delete_queue(QUEUE)
        await channel.declare_queue(QUEUE)
        yield
        await channel.delete_queue(QUEUE)


# --- callers ----------------------------------------------------------------------------------------------------------


async def rpc_one(url: str, count: int, server: Server) -> Figures:
    """One call at a time."""
    async with rabbitry.connect(url) as connection, connection.rpc() as rpc:
        return await call_one_by_one(partial(rpc.call, QUEUE, BODY), count, server)


async def client_rpc_one(url: str, count: int, server: Server) -> Figures:
    async with rabbitry.open_client(url) as client, client.rpc() as rpc:
        return await call_one_by_one(partial(rpc.call, QUEUE, BODY), count, server)


async def rpc_tasks(url: str, count: int, server: Server) -> Figures:
    """100 tasks share the RPC, each awaiting its calls."""
    async with rabbitry.connect(url) as connection, connection.rpc() as rpc:
        return await call_in_tasks(partial(rpc.call, QUEUE, BODY), count, server)


async def client_rpc_tasks(url: str, count: int, server: Server) -> Figures:
    async with rabbitry.open_client(url) as client, client.rpc() as rpc:
        return await call_in_tasks(partial(rpc.call, QUEUE, BODY), count, server)


async def call_in_tasks(call: Call, count: int, server: Server) -> Figures:
    await call_some(call, WARM_UP)
    each = count // TASKS
    clocks = Clocks(server)
    async with anyio.create_task_group() as tg:
        for _ in range(TASKS):
            tg.start_soon(call_some, call, each)
    return clocks.figures(each * TASKS)


SERVERS = (serve, client_serve)
CALLERS: dict[str, tuple[CallingJob, str]] = {
    job.__name__: (job, server.__name__)
    for job, server in (
        *((rpc_one, serve), (client_rpc_one, client_serve)),
        *((rpc_tasks, serve), (client_rpc_tasks, client_serve)),
    )
}
"""Each with the server that it calls."""
