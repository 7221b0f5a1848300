"""What a real broker does to a connection: frames beyond frame_max, and an end for want of heartbeats."""

from __future__ import annotations

import time

import anyio
import pytest

import rabbitry
import rabbitry.blocking
from rabbitry import Message
from tests.support.helpers import unique

pytestmark = pytest.mark.anyio

HEADERS = {"large": "x" * 130_700}


async def test_a_dead_lettered_message_with_large_headers(amqp_url: str) -> None:
    """x-death makes them larger than what the publisher was allowed."""
    dead, queue = unique("dead"), unique("jobs")
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.declare_queue(dead)
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
        await channel.declare_queue(queue, arguments=arguments)
        try:
            await channel.publish(Message(b"1", headers=HEADERS), routing_key=queue)
            with anyio.fail_after(20):
                async with channel.consume(queue) as deliveries:
                    (await anext(deliveries)).reject()
                async with channel.consume(dead) as deliveries:
                    delivery = await anext(deliveries)
                    assert delivery.headers["large"] == HEADERS["large"]
                    assert delivery.headers["x-death"][0]["queue"] == queue
                    delivery.nack()
                while (found := await channel.get(dead)) is None:
                    await anyio.sleep(0.01)
                assert found.headers["large"] == HEADERS["large"]
                found.ack()
        finally:
            await channel.delete_queue(queue)
            await channel.delete_queue(dead)


@pytest.mark.parametrize("frame_max", [8192, 16384])
async def test_a_receiver_with_a_smaller_frame_max_than_the_publisher(frame_max: int, amqp_url: str) -> None:
    queue = unique("large")
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.declare_queue(queue)
        await channel.publish(Message(b"a" * 100_000, headers=HEADERS), routing_key=queue)
    async with rabbitry.connect(amqp_url, frame_max=frame_max) as connection, connection.channel() as channel:
        with anyio.fail_after(20):
            async with channel.consume(queue) as deliveries:
                delivery = await anext(deliveries)
                assert (len(delivery.body), delivery.headers["large"]) == (100_000, HEADERS["large"])
                delivery.ack()
        await channel.delete_queue(queue)


def test_in_a_thread(amqp_url: str) -> None:
    queue = unique("large")
    with rabbitry.blocking.open_client(amqp_url) as client:
        client.declare(rabbitry.Queue(queue))
        client.publish(Message(b"1", headers=HEADERS), routing_key=queue)
    url = f"{amqp_url}{'&' if '?' in amqp_url else '?'}frame_max=8192"
    with rabbitry.blocking.connect(url) as connection, connection.channel() as channel:
        found = channel.get(queue, timeout=20)
        assert found is not None and found.headers["large"] == HEADERS["large"]
        found.ack()
        channel.delete_queue(queue)


async def test_a_loop_that_was_blocked_is_told_so(amqp_url: str) -> None:
    """RabbitMQ hangs up after two silent intervals, without a word."""
    async with rabbitry.connect(amqp_url, heartbeat=1) as connection:
        time.sleep(4)  # noqa: ASYNC251 - this is what the test is about
        with (
            anyio.fail_after(20),
            pytest.raises(rabbitry.ConnectionClosed, match=r"event loop .* for at least [34]\.\d s"),
        ):
            await connection.wait_closed()
