"""Programs that `asyncio.run` or uvloop run, as web servers do: there AnyIO is told by nobody which loop runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import rabbitry
from rabbitry.testing import PrivateNode

Run = Callable[[Coroutine[Any, Any, None]], object]


def run_by_uvloop(main: Coroutine[Any, Any, None]) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


RUNS = [asyncio.run] if sys.platform == "win32" else [asyncio.run, run_by_uvloop]


@pytest.mark.parametrize("run", RUNS)
def test_a_consumer_that_the_broker_ends_does_not_cost_the_connection(amqp_url: str, run: Run) -> None:
    """What subscribes again is a task that is started while reading."""

    async def main() -> None:
        queue = rabbitry.Queue("plain.ended", expires=60)
        async with rabbitry.open_client(amqp_url) as client, rabbitry.open_client(amqp_url) as other:
            await client.declare(queue)
            async with client.consume(queue) as deliveries:
                await other.delete(queue)
                with pytest.raises(rabbitry.ConsumerCancelled):
                    await asyncio.wait_for(anext(deliveries), 30)
            assert client.last_error is None and client.statistics()["consuming_lives"] == 1

    run(main())


@pytest.mark.parametrize("run", RUNS)
def test_an_alarm_does_not_cost_the_connection(amqp_url: str, node: PrivateNode, run: Run) -> None:
    if node.url != amqp_url:
        pytest.skip("the alarm is the private node's")

    async def main() -> None:
        queue = rabbitry.Queue("plain.alarm", expires=60)
        async with rabbitry.open_client(amqp_url) as client:
            await client.declare(queue)
            await client.publish(b"before", routing_key=queue.name)
            with client.changes() as changes:
                async with node.memory_alarm():
                    publishing = asyncio.create_task(client.publish(b"meanwhile", routing_key=queue.name))
                    blocked = await asyncio.wait_for(changes.receive(), 30)
                    assert blocked.is_alarm and client.blocked_reason is not None
                await asyncio.wait_for(publishing, 30)
            assert client.last_error is None and client.statistics()["publishing_lives"] == 1
            await client.delete(queue)

    run(main())
