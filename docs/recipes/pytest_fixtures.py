"""Fixtures for the tests of a service that uses RabbitMQ, and what they are good for.

    pytest docs/recipes/pytest_fixtures.py

The service under test is `confirm`: for each order it publishes a confirmation.

Guaranteed: the tests face a real RabbitMQ, a private one that is started for the run and removed after it, so that what
passes here passes there: confirms, redelivery, lost connections. Each test has queues of its own.

Not guaranteed: speed on the first test, as a broker takes some seconds to start (RABBITMQ_URL names one that runs), and
RabbitMQ must be installed (`python -m rabbitry.testing.install`). A test waits for events, never for time to pass.
"""

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest

import rabbitry
from rabbitry import Queue
from rabbitry.testing import PrivateNode, Proxy, open_proxy

pytestmark = pytest.mark.anyio


async def confirm(client: rabbitry.Client, orders: Queue, confirmations: Queue) -> None:
    """The service."""

    async def handle(order: rabbitry.Delivery) -> None:
        await client.publish(b"confirmed: " + order.body, routing_key=confirmations.name, on_unknown="republish")

    await client.process(orders, handle)


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    if url := os.environ.get("RABBITMQ_URL"):
        yield url
    else:
        with PrivateNode() as node:
            yield node.url


@pytest.fixture
async def proxy(broker: str) -> AsyncIterator[Proxy]:
    """Stands between the service and the broker, and fails on command."""
    async with open_proxy(broker) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[rabbitry.Client]:
    async with rabbitry.open_client(proxy.url, reconnect=rabbitry.Backoff(initial=0.05)) as client:
        yield client


@pytest.fixture
async def queues(client: rabbitry.Client) -> tuple[Queue, Queue]:
    names = f"orders.{uuid.uuid4()}", f"confirmations.{uuid.uuid4()}"
    orders, confirmations = (Queue(name, expires=60) for name in names)
    await client.declare(orders, confirmations)
    return orders, confirmations


async def test_an_order_is_confirmed(client: rabbitry.Client, queues: tuple[Queue, Queue]) -> None:
    orders, confirmations = queues
    async with client.consume(confirmations) as received, anyio.create_task_group() as tg:
        tg.start_soon(confirm, client, *queues)
        await client.publish(b"tea", routing_key=orders.name, mandatory=True)
        with anyio.fail_after(10):
            assert (await anext(received)).body == b"confirmed: tea"
        tg.cancel_scope.cancel()


async def test_no_order_is_lost_with_a_connection(
    client: rabbitry.Client, queues: tuple[Queue, Queue], proxy: Proxy
) -> None:
    orders, confirmations = queues
    wanted = {b"confirmed: %d" % number for number in range(50)}
    async with client.consume(confirmations) as received, anyio.create_task_group() as tg:
        tg.start_soon(confirm, client, *queues)
        for number in range(50):
            await client.publish(b"%d" % number, routing_key=orders.name, on_unknown="republish")
            if number == 25:
                proxy.cut()
        with anyio.fail_after(30):
            async for confirmation in received:
                confirmation.ack()
                wanted.discard(confirmation.body)
                if not wanted:
                    break
        tg.cancel_scope.cancel()
