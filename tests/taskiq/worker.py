"""Brokers with names of their own, which are deleted afterwards, and Taskiq's own receiver in the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.receiver import Receiver

import rabbitry
from rabbitry.taskiq import RabbitryBroker
from tests.support.clients import QUICK
from tests.support.helpers import unique


class Names:
    """Those of one test."""

    def __init__(self) -> None:
        self.queue = self.exchange = unique("taskiq")
        self.dead = f"{self.queue}.dead_letter"

    def broker(self, url: str, **options: Any) -> RabbitryBroker:
        given = {
            "queues": self.queue,
            "exchange": self.exchange,
            "dead_letter_queue": self.dead,
            "reconnect": QUICK,
            **options,
        }
        return RabbitryBroker(url, **given)


class Results(AsyncResultBackend[Any]):
    """Keeps results, once it may: `opened` is set."""

    def __init__(self) -> None:
        self.kept: dict[str, TaskiqResult[Any]] = {}
        self.asked = asyncio.Event()
        self.opened = asyncio.Event()
        self.opened.set()

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        self.asked.set()
        await self.opened.wait()
        self.kept[task_id] = result

    async def is_result_ready(self, task_id: str) -> bool:
        return task_id in self.kept

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[Any]:
        return self.kept[task_id]


@asynccontextmanager
async def started(url: str, names: Names | None = None, **options: Any) -> AsyncIterator[tuple[RabbitryBroker, Names]]:
    """A broker that has started, with its topology of its own; `through` is a URL to reach RabbitMQ by, instead."""
    names = names or Names()
    through = options.pop("through", url)
    broker = names.broker(through, **options)
    broker.with_result_backend(Results())
    try:
        await broker.startup()
        yield broker, names
    finally:
        try:
            await broker.shutdown()
        finally:
            async with rabbitry.open_client(url) as client:
                entities = [rabbitry.Queue(name) for name in {*broker._queues, names.dead}]
                await client.delete(*entities, rabbitry.Exchange(names.exchange))


@asynccontextmanager
async def working(broker: RabbitryBroker, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Taskiq's worker, as its command runs it but for processes and signals; it ends in order as the block ends."""
    finish = asyncio.Event()
    broker.is_worker_process = True
    with ThreadPoolExecutor(2) as pool:
        receiver = Receiver(broker, pool, run_startup=False, **{"max_async_tasks": 100, **options})
        task = asyncio.create_task(receiver.listen(finish))
        try:
            yield task
        finally:
            finish.set()
            await asyncio.wait({task})


async def ready(url: str, queue: str) -> int:
    """Messages that wait in a queue, once no consumer has any in its hands."""
    async with rabbitry.open_client(url) as client:
        info = await client.inspect(queue)
        assert info is not None
        return info.message_count
