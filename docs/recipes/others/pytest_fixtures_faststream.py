"""pytest_fixtures.py with FastStream: its TestRabbitBroker, which calls handlers without a broker."""

from collections.abc import AsyncIterator

import pytest
from faststream.rabbit import RabbitBroker, TestRabbitBroker

pytestmark = pytest.mark.anyio
broker = RabbitBroker()


@broker.subscriber("orders")
@broker.publisher("confirmations")
async def confirm(order: bytes) -> bytes:
    """The service."""
    return b"confirmed: " + order


@broker.subscriber("confirmations")
async def received(confirmation: bytes) -> None:
    """Stands for whoever gets them."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def test_broker() -> AsyncIterator[RabbitBroker]:
    async with TestRabbitBroker(broker) as test_broker:
        yield test_broker


async def test_an_order_is_confirmed(test_broker: RabbitBroker) -> None:
    await test_broker.publish(b"tea", "orders")
    received.mock.assert_called_once_with(b"confirmed: tea")
