"""RPC between rabbitry and each peer, both ways: the Fibonacci server and client of RabbitMQ's tutorial.

Its conventions are AMQP's alone: bodies of digits, a correlation id, the name of the reply queue. rabbitry's side is
`raw=True`, or where the peer lets it, the codec "text".
"""

from __future__ import annotations

import anyio
import pytest

import rabbitry
from tests.interop.peers import PeerProcess
from tests.interop.programs.commands import fibonacci
from tests.interop.queues import meeting
from tests.support.helpers import unique

SAYS_DATA = ("kombu",)
"""Those that call any bytes application/data, which names no codec: their requests and replies are for `raw=True`."""


async def answer(request: rabbitry.Delivery) -> bytes:
    """A request is a message like any other: with a reply queue that is the peer's own."""
    assert request.properties.reply_to and request.properties.correlation_id
    return fibonacci(request.body)


async def answer_text(number: str) -> str:
    return fibonacci(number.encode()).decode()


async def test_rabbitry_calls_the_peers_server(peer: PeerProcess, amqp_url: str) -> None:
    async with meeting(amqp_url) as (connection, _, queue), connection.rpc() as rpc:
        results: dict[int, bytes] = {}

        async def call(number: int) -> None:
            results[number] = await rpc.call(queue, b"%d" % number, raw=True)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: peer.do("serve", queue=queue, count=5))
                for number in range(30, 35):
                    tg.start_soon(call, number)
        assert results == {30: b"832040", 31: b"1346269", 32: b"2178309", 33: b"3524578", 34: b"5702887"}
        assert rpc.late_replies == 0


async def test_the_peers_server_replies_to_any_queue(peer: PeerProcess, amqp_url: str) -> None:
    """It knows nothing of an exchange for replies, and needs not."""
    exchange = rabbitry.Exchange(unique("interop"), auto_delete=True)
    async with meeting(amqp_url) as (connection, _, queue):
        async with connection.rpc(reply_to="exclusive") as first, connection.rpc(reply_to=exchange) as second:
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(lambda: peer.do("serve", queue=queue, count=2))
                    assert await first.call(queue, b"30", raw=True) == b"832040"
                    assert await second.call(queue, b"10", raw=True) == b"55"
            assert first.late_replies == second.late_replies == 0


async def test_a_client_calls_the_peers_server(peer: PeerProcess, amqp_url: str) -> None:
    """The one that reconnects."""
    async with meeting(amqp_url) as (_, _, queue), rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: peer.do("serve", queue=queue, count=1))
                assert await rpc.call(queue, b"10", raw=True) == b"55"


async def test_the_peer_calls_rabbitrys_server(peer: PeerProcess, amqp_url: str) -> None:
    async with meeting(amqp_url) as (connection, _, queue), anyio.create_task_group() as tg:
        tg.start_soon(lambda: connection.serve(queue, answer, raw=True))
        for number, result in ((30, b"832040"), (0, b"0")):
            assert (await peer.do("call", queue=queue, body=b"%d" % number))["body"] == result
        tg.cancel_scope.cancel()


async def test_the_peer_calls_a_clients_server(peer: PeerProcess, amqp_url: str) -> None:
    """The one that reconnects: its replies are mandatory, and go by another connection."""
    async with meeting(amqp_url) as (_, _, queue), rabbitry.open_client(amqp_url) as client:
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: client.serve(queue, answer, raw=True))
            assert (await peer.do("call", queue=queue, body=b"10"))["body"] == b"55"
            tg.cancel_scope.cancel()
        assert client.statistics()["undeliverable_replies"] == 0


async def test_the_peer_learns_that_rabbitrys_server_failed(peer: PeerProcess, amqp_url: str) -> None:
    """By a header: no peer knows it, but none waits for ever."""
    async with meeting(amqp_url) as (connection, _, queue), anyio.create_task_group() as tg:
        tg.start_soon(lambda: connection.serve(queue, answer, raw=True))
        reply = await peer.do("call", queue=queue, body=b"many")
        assert reply["properties"]["headers"]["x-rabbitry-error"] == "ValueError"
        assert reply["properties"]["content_type"] == "text/plain"
        assert b"invalid literal for int()" in reply["body"]
        tg.cancel_scope.cancel()


async def test_text_instead_of_raw_bytes(peer: PeerProcess, amqp_url: str) -> None:
    """The codec "text" is for bodies without a content type, as the tutorial's are, and for text/plain."""
    async with meeting(amqp_url) as (connection, _, queue), connection.rpc(codec="text") as rpc:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: peer.do("serve", queue=queue, count=1))
                if peer.name in SAYS_DATA:
                    with pytest.raises(rabbitry.DecodeError, match="application/data"):
                        await rpc.call(queue, "10")
                else:
                    assert await rpc.call(queue, "10") == "55"
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: connection.serve(queue, answer_text, codec="text"))
            reply = await peer.do("call", queue=queue, body=b"10")
            if peer.name in SAYS_DATA:
                assert reply["properties"]["headers"]["x-rabbitry-error"] == "DecodeError"
            else:
                assert reply["body"] == b"55"
                assert reply["properties"]["content_type"] == "text/plain"
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("peer", ["rabbitmq_client"], indirect=True)
async def test_the_peers_own_rpc_client(peer: PeerProcess, amqp_url: str) -> None:
    """It uses direct reply-to, as rabbitry does."""
    async with meeting(amqp_url) as (connection, _, queue), anyio.create_task_group() as tg:
        tg.start_soon(lambda: connection.serve(queue, answer, raw=True))
        assert (await peer.do("call_direct", queue=queue, body=b"30"))["body"] == b"832040"
        tg.cancel_scope.cancel()
