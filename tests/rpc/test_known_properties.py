"""RPC, where properties differ in nothing but the correlation id: they are encoded and decoded once, as any others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import rabbitry
from rabbitry import Message
from rabbitry._rpc.caller import ID_SIZE, IDS_AT_ONCE, KINDS_KEPT
from tests.support.helpers import exclusive_queue, until

Properties = Any
Answer = Callable[[Properties], Message]


async def answer(channel: rabbitry.Channel, queue: str, make: Answer, seen: list[Properties]) -> None:
    """Serve as a stranger may: each reply is what `make` makes of the request's properties."""
    async with channel.consume(queue, no_ack=True) as requests:
        async for request in requests:
            properties = request.properties
            seen.append(properties)
            await channel.publish(make(properties), routing_key=properties.reply_to or "")


async def test_requests_have_the_same_properties_however_they_were_encoded(amqp_url: str) -> None:
    seen: list[Properties] = []
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel, connection.rpc() as rpc:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(
                answer, channel, queue, lambda asked: Message.msgpack(1, correlation_id=asked.correlation_id), seen
            )
            for _ in range(IDS_AT_ONCE + 2):
                await rpc.call(queue, 1)
            for _ in range(2):
                await rpc.call(queue, 1, method="a method")
                await rpc.call(queue, b"", raw=True)
                with anyio.fail_after(60):
                    await rpc.call(queue, 1)
                await rpc.call(queue, 1, headers={"a": 1})
            tg.cancel_scope.cancel()
    ids = [each.correlation_id for each in seen]
    assert len(set(ids)) == len(ids) and {len(each) for each in ids} == {ID_SIZE}
    plain, named, raw, timed, headed = seen[0], *seen[-4:]
    assert (plain.content_type, plain.type, plain.delivery_mode, plain.headers) == (
        "application/msgpack",
        None,
        1,
        None,
    )
    assert (named.content_type, named.type, named.expiration) == ("application/msgpack", "a method", None)
    assert (raw.content_type, raw.type, raw.delivery_mode) == (None, None, 1)
    assert timed.content_type == "application/msgpack" and int(timed.expiration) <= 60_000 and timed.headers
    assert headed.headers == {"a": 1} and headed.expiration is None
    assert {each.reply_to.startswith("amq.rabbitmq.reply-to.") for each in seen} == {True}
    assert seen[-8].type == seen[-4].type == "a method"


async def test_a_method_that_is_no_name(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc:
        for wrong in ([], 3):
            with pytest.raises(TypeError, match="type"):
                await rpc.call("nowhere", 1, method=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="type"):
            await rpc.call("nowhere", 1, method="x" * 256)
        for number in range(2 * KINDS_KEPT):
            with pytest.raises(rabbitry.Unroutable) as raised:
                await rpc.call("nowhere", number, method=f"method {number}")
        assert len(rpc._heads) <= KINDS_KEPT
        message = raised.value.message
        assert isinstance(message, Message) and message.type == f"method {number}" and message.decode() == number
        assert "0 calls in flight" in repr(rpc)


async def test_replies_of_a_kind_that_came_before(amqp_url: str) -> None:
    """What stands before the correlation id says what the rest is; whatever stands behind it is looked at each time."""

    def make(asked: Properties) -> Message:
        number = len(seen)
        return Message(
            b"{}" if number % 3 == 0 else b"\x80",
            content_type="application/json" if number % 3 == 0 else None,
            headers={"x-rabbitry-error": "Odd"} if number % 5 == 0 else None,
            correlation_id=asked.correlation_id,
            message_id="one" if number % 7 == 0 else None,
            delivery_mode=1 + number % 2,
        )

    seen: list[Properties] = []
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel, connection.rpc() as rpc:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(answer, channel, queue, make, seen)
            for number in range(1, 71):
                if number % 5 == 0:
                    with pytest.raises(rabbitry.RemoteError):
                        await rpc.call(queue, 1)
                elif number % 2:
                    assert await rpc.call(queue, 1) == {}
                else:
                    reply = await rpc.request(Message(b""), queue)
                    last = seen[-1]
                    assert (
                        reply.correlation_id == last.correlation_id
                        and reply.decode("json" if number % 3 == 0 else "msgpack") == {}
                    )
                    assert reply.message_id == ("one" if number % 7 == 0 else None)
            assert 0 < len(rpc._kinds) == 4  # with and without a content type, persistent or not
            tg.cancel_scope.cancel()
        assert rpc.late_replies == 0


async def test_replies_that_are_late_or_strange(amqp_url: str) -> None:
    """A second reply to a call, and those to nobody's, count as late, whether or not their kind is known; and a server
    that sends ever new kinds has no more than a few kept.
    """
    seen: list[Properties] = []
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel, connection.rpc() as rpc:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(
                answer, channel, queue, lambda asked: Message.msgpack(1, correlation_id=asked.correlation_id), seen
            )
            await rpc.call(queue, 1)
            address = seen[0].reply_to
            for late, correlation_id in enumerate(
                [seen[0].correlation_id, "0" * ID_SIZE, "é" * (ID_SIZE // 2), "", "short"], 1
            ):
                await channel.publish(Message.msgpack(2, correlation_id=correlation_id), routing_key=address)
                await until(lambda late=late: rpc.late_replies == late)  # type: ignore[misc]
            assert await rpc.call(queue, 1) == 1
            tg.cancel_scope.cancel()
        async with anyio.create_task_group() as tg:
            tg.start_soon(
                answer,
                channel,
                queue,
                lambda asked: Message(b"\x01", content_encoding=f"{len(seen)}", correlation_id=asked.correlation_id),
                seen,
            )
            for _ in range(2 * KINDS_KEPT):
                assert await rpc.call(queue, b"", raw=True) == b"\x01"
            assert len(rpc._kinds) == KINDS_KEPT
            tg.cancel_scope.cancel()
        assert rpc.late_replies == 5
