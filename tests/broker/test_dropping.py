"""Connections that are dropped by command, and a client without a block."""

from __future__ import annotations

import anyio
import pytest

import rabbitry
from rabbitry.broker import Broker


@pytest.mark.parametrize("way", ["memory", "port"])
async def test_connections_end_without_a_word_and_others_may_come(way: str) -> None:
    async with Broker() as broker:
        broker.drop_connections()  # there are none, which is no error
        await broker.listen()

        def connect() -> rabbitry.Connection:
            return broker.connect() if way == "memory" else rabbitry.connect(broker.url)

        with anyio.fail_after(20), pytest.raises(rabbitry.ConnectionClosed) as caught:
            async with connect() as connection, connection.channel() as channel:
                await channel.declare_queue("mine", exclusive=True)
                await channel.declare_queue("kept")
                await channel.publish(b"m", routing_key="kept")
                broker.drop_connections()
                assert not broker._sessions
                await connection.wait_closed()
        assert caught.value.code == 0
        async with connect() as connection, connection.channel() as channel:
            assert (await channel.declare_queue("kept", passive=True)).message_count == 1
            with pytest.raises(rabbitry.NotFound):
                await channel.declare_queue("mine", passive=True)


async def test_what_a_dropped_client_had_is_there_for_the_next() -> None:
    async with Broker() as broker:
        with anyio.fail_after(20), pytest.raises(rabbitry.ConnectionClosed):
            async with broker.connect() as connection, connection.channel() as channel:
                await channel.declare_queue("q")
                await channel.publish(b"m", routing_key="q")
                assert await channel.get("q") is not None
                broker.drop_connections()
                await connection.wait_closed()
        async with broker.connect() as connection, connection.channel() as channel:
            delivery = await channel.get("q")
            assert delivery is not None and delivery.redelivered


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_client_without_a_block() -> None:
    async with Broker() as broker:
        client = await broker.start_client(name="mine")
        await client.declare(rabbitry.Queue("q"))
        await client.publish(b"m", routing_key="q", mandatory=True)
        broker.drop_connections()
        await client.publish(b"m", routing_key="q", mandatory=True, on_unknown="republish")
        await client.aclose()
        assert not broker._sessions
