"""How many publishes each of the broker's confirms answered."""

from __future__ import annotations

import anyio
import anyio.lowlevel

import rabbitry


async def test_one_by_one_and_many_together(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        channel = connection.channel(confirm=True)
        assert channel.confirm_sizes() == {}
        async with channel:
            queue = await channel.declare_queue(exclusive=True)
            for _ in range(5):
                await channel.publish(b"alone", routing_key=queue.name)
            assert channel.confirm_sizes() == {1: 5}
            async with channel.publisher(window=200) as publisher:
                for _ in range(500):
                    await publisher.submit(b"together", routing_key=queue.name)
            sizes = channel.confirm_sizes()
            assert sum(size * number for size, number in sizes.items()) == 505
            assert min(sizes) >= 1
        assert channel.confirm_sizes() == sizes, "and it can be asked afterwards"


async def test_without_confirms_there_are_none(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel(confirm=False) as channel:
        await channel.publish(b"gone", routing_key="nowhere")
        await anyio.lowlevel.checkpoint()
        assert channel.confirm_sizes() == {}
