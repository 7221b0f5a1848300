"""Each peer on the embedded broker as newer versions of RabbitMQ: whatever it has to agree on with one, in one round.

What the other files hold it to doesn't depend on the version, so they try the oldest alone.
"""

from __future__ import annotations

import anyio
import pytest

import rabbitry
from tests.interop.peers import PeerError, PeerProcess
from tests.interop.programs.commands import fibonacci
from tests.interop.queues import meeting

pytestmark = [
    pytest.mark.parametrize("amqp_url", ["embedded 4.0", "embedded 4.3"], indirect=True, scope="session"),
    pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module"),
]


async def answer(request: rabbitry.Delivery) -> bytes:
    return fibonacci(request.body)


async def test_messages_and_errors(peer: PeerProcess, amqp_url: str, broker_version: tuple[int, ...]) -> None:
    """In several frames, with a header; and a queue that isn't there ends its channel, not its process."""
    body = bytes(range(256)) * 1000
    async with meeting(amqp_url) as (_, channel, queue):
        assert broker_version[:2] in ((4, 0), (4, 3))
        await peer.do("publish", queue=queue, body=body, properties={"headers": {"a": "b"}, "delivery_mode": 2})
        delivery = await channel.get(queue, no_ack=True)
        assert delivery is not None and (delivery.body, delivery.headers["a"]) == (body, "b")
        await channel.publish(delivery.message, routing_key=queue)
        got = await peer.do("get", queue=queue)
        assert (got["body"], got["properties"]["headers"]["a"]) == (body, "b")
        with pytest.raises(PeerError):
            await peer.do("get", queue=f"no {queue}")
        assert await peer.do("get", queue=queue) is None


async def test_calls_both_ways(peer: PeerProcess, amqp_url: str) -> None:
    """With its prefetch, its acknowledgements and a queue that is exclusive; by direct reply-to from here."""
    async with meeting(amqp_url) as (connection, _, queue), connection.rpc() as rpc:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: peer.do("serve", queue=queue, count=2))
                assert [await rpc.call(queue, body, raw=True) for body in (b"10", b"30")] == [b"55", b"832040"]

            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: connection.serve(queue, answer, raw=True))
                assert (await peer.do("call", queue=queue, body=b"10"))["body"] == b"55"
                tg.cancel_scope.cancel()
