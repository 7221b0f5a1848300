"""aio-pika's RPC patterns, whose messages say more than AMQP asks for: what of them goes together with rabbitry.

A call has keyword arguments as its body, and the method is the queue. A reply tells by its property `type` whether it
is a "result" or an "error". So:

    JsonRPC calls rabbitry     codec="json", and the handler returns a Message with type="result" (or "error")
    rabbitry calls JsonRPC     codec="json"; an error is a result to rabbitry: {"error": {"type": ..., ...}}
    calls with an expiration   the queue must dead-letter to "rpc.dlx", or aio-pika's caller waits for ever
    RPC (pickle), both ways    not by a codec, as unpickling runs what a stranger sent: aio-pika's caller gets an error,
                               rabbitry's a DecodeError. A program that wants to pickles by itself, with raw=True
"""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Message
from tests.interop.peers import PeerError, PeerProcess
from tests.support.helpers import unique

pytestmark = pytest.mark.parametrize("peer", ["aio_pika"], indirect=True)


Handler = Callable[[Any], Awaitable[Any]]


@asynccontextmanager
async def served(url: str, handler: Handler, **options: Any) -> AsyncIterator[str]:
    """A queue that rabbitry serves, declared as aio-pika's server does."""
    async with rabbitry.connect(url) as connection, connection.channel() as channel, anyio.create_task_group() as tg:
        queue = unique("interop")
        arguments = {"x-dead-letter-exchange": "rpc.dlx", "x-expires": 60_000}
        await channel.declare_queue(queue, arguments=arguments)
        tg.start_soon(lambda: connection.serve(queue, handler, **options))
        yield queue
        tg.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    peer: PeerProcess, url: str, pattern: str, count: int
) -> AsyncIterator[tuple[str, rabbitry.Connection]]:
    """A queue that aio-pika serves, and a connection. It would declare the same queue: here it is there at once."""
    async with rabbitry.connect(url) as connection, connection.channel() as channel:
        queue = unique("interop")
        arguments = {"x-dead-letter-exchange": "rpc.dlx"}
        await channel.declare_queue(queue, durable=False, auto_delete=True, arguments=arguments)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(lambda: peer.do("serve_by_pattern", pattern=pattern, method=queue, count=count))
                yield queue, connection


async def test_json_calls_rabbitry(peer: PeerProcess, amqp_url: str) -> None:
    async def multiply(arguments: dict[str, int]) -> Message:
        return Message.json(arguments["x"] * arguments["y"], type="result")

    async with served(amqp_url, multiply, codec="json") as queue:
        assert await peer.do("call_by_pattern", pattern="json", method=queue, arguments={"x": 6, "y": 7}) == 42


async def test_json_calls_rabbitry_raw(peer: PeerProcess, amqp_url: str) -> None:
    """What a call looks like, as a whole."""

    async def multiply(request: rabbitry.Delivery) -> Message:
        properties = request.properties
        assert (properties.type, properties.content_type, properties.priority) == ("call", "application/json", 5)
        assert request.headers == {"From": properties.reply_to}
        arguments = request.decode()
        return Message.json(arguments["x"] * arguments["y"], type="result")

    async with served(amqp_url, multiply, raw=True) as queue:
        assert await peer.do("call_by_pattern", pattern="json", method=queue, arguments={"x": 6, "y": 7}) == 42


async def test_json_learns_of_an_error(peer: PeerProcess, amqp_url: str) -> None:
    """As of its own server's, if the handler says so; else by a reply that it can't make sense of."""

    async def refuse(arguments: dict[str, bool]) -> Message:
        if arguments["politely"]:
            return Message.json({"error": {"type": "Refusal", "message": "no", "args": []}}, type="error")
        raise ValueError("no")

    async with served(amqp_url, refuse, codec="json") as queue:
        with pytest.raises(PeerError, match=r"^JsonRPCError: .*'type': 'Refusal'"):
            await peer.do("call_by_pattern", pattern="json", method=queue, arguments={"politely": True})
        with pytest.raises(PeerError, match=r"^JSONDecodeError: "):
            await peer.do("call_by_pattern", pattern="json", method=queue, arguments={"politely": False})


async def test_json_wants_the_type(peer: PeerProcess, amqp_url: str) -> None:
    async def answer(arguments: dict[str, int]) -> int:
        return 42

    async with served(amqp_url, answer, codec="json") as queue:
        with pytest.raises(PeerError, match=r"^RuntimeError: Unknown message type None"):
            await peer.do("call_by_pattern", pattern="json", method=queue, arguments={})


async def test_a_call_that_expires(peer: PeerProcess, amqp_url: str) -> None:
    """rabbitry's server is busy with another: the call goes back by the dead letter exchange."""
    started = anyio.Event()

    async def hang(arguments: dict[str, int]) -> None:
        started.set()
        await anyio.sleep_forever()

    async with served(amqp_url, hang, codec="json", concurrency=1, prefetch=1) as queue:
        async with rabbitry.connect(amqp_url) as other, other.rpc(codec="json") as rpc, anyio.create_task_group() as tg:
            tg.start_soon(rpc.call, queue, {})
            await started.wait()
            with pytest.raises(PeerError, match=r"^TimeoutError: "):
                await peer.do("call_by_pattern", pattern="json", method=queue, arguments={}, expiration=0.1)
            tg.cancel_scope.cancel()


async def test_rabbitry_calls_json(peer: PeerProcess, amqp_url: str) -> None:
    async with serving(peer, amqp_url, "json", 3) as (queue, connection), connection.rpc(codec="json") as rpc:
        assert await rpc.call(queue, {"x": 6, "y": 7}) == 42
        assert await rpc.call(queue, b'{"x": 6, "y": 7}', raw=True) == b"42"
        error = {"type": "ZeroDivisionError", "message": "ZeroDivisionError('by zero')", "args": ["by zero"]}
        assert await rpc.call(queue, {"x": 6, "y": 0}) == {"error": error}


async def test_pickle_calls_rabbitry(peer: PeerProcess, amqp_url: str) -> None:
    """It gets an answer, which it can't read: unpickling text fails."""
    handled = []

    async def handle(arguments: object) -> None:
        handled.append(arguments)

    async with served(amqp_url, handle) as queue:
        with pytest.raises(PeerError, match=r"^UnpicklingError: "):
            await peer.do("call_by_pattern", pattern="pickle", method=queue, arguments={"x": 6, "y": 7})
    assert handled == []


async def test_rabbitry_calls_pickle(peer: PeerProcess, amqp_url: str) -> None:
    """It does work for a program that pickles by itself, because it trusts the server."""
    async with serving(peer, amqp_url, "pickle", 1) as (queue, connection), connection.rpc() as rpc:
        with pytest.raises(rabbitry.DecodeError, match="application/python-pickle"):
            await rpc.call(queue, {"x": 6, "y": 7})
        reply = await rpc.call(queue, pickle.dumps({"x": 6, "y": 7}), raw=True)
        assert pickle.loads(reply) == 42
