"""aio-pika, and its patterns for RPC."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.patterns import RPC, JsonRPC

from tests.interop.programs.commands import Received, fibonacci, run

NAMES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip

PATTERNS: dict[str, type[RPC]] = {"pickle": RPC, "json": JsonRPC}


class AioPika:
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._open(url))

    async def _open(self, url: str) -> None:
        self._connection = await aio_pika.connect(url)
        self._channel = await self._connection.channel()

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        if "expiration" in properties:
            properties["expiration"] = int(properties["expiration"]) / 1000
        message = aio_pika.Message(body, **properties)
        self._runner.run(self._channel.default_exchange.publish(message, queue))

    def get(self, queue: str) -> Received | None:
        async def get() -> AbstractIncomingMessage | None:
            found = await self._channel.get_queue(queue, ensure=False)
            return await found.get(no_ack=True, fail=False)

        message = self._runner.run(get())
        return received(message) if message else None

    def call(self, queue: str, body: bytes) -> Received:
        return self._runner.run(self._call(queue, body))

    async def _call(self, queue: str, body: bytes) -> Received:
        correlation_id = str(uuid.uuid4())
        answer: asyncio.Future[Received] = asyncio.get_running_loop().create_future()

        async def on_reply(message: AbstractIncomingMessage) -> None:
            if message.correlation_id == correlation_id:
                answer.set_result(received(message))

        replies = await self._channel.declare_queue(exclusive=True)
        tag = await replies.consume(on_reply, no_ack=True)
        request = aio_pika.Message(
            body, content_type="text/plain", correlation_id=correlation_id, reply_to=replies.name
        )
        await self._channel.default_exchange.publish(request, queue)
        reply = await answer
        await replies.cancel(tag)
        return reply

    def serve(self, queue: str, count: int) -> None:
        self._runner.run(self._serve(queue, count))

    async def _serve(self, queue: str, count: int) -> None:
        async with self._connection.channel() as channel:
            await channel.set_qos(prefetch_count=1)
            found = await channel.get_queue(queue, ensure=False)
            async with found.iterator() as requests:
                async for request in requests:
                    async with request.process(requeue=False):
                        assert request.reply_to is not None
                        reply = aio_pika.Message(fibonacci(request.body), correlation_id=request.correlation_id)
                        await channel.default_exchange.publish(reply, request.reply_to)
                    count -= 1
                    if not count:
                        break

    # --- aio_pika.patterns -------------------------------------------------------------------------------------------

    def call_by_pattern(
        self, pattern: str, method: str, arguments: dict[str, Any], expiration: float | None = None
    ) -> Any:
        """The result of `method`, a server's queue, as the pattern gives it."""

        async def call() -> Any:
            async with self._connection.channel() as channel:
                rpc = await PATTERNS[pattern].create(channel)
                try:
                    return await rpc.call(method, arguments, expiration=expiration)
                finally:
                    await rpc.close()

        return self._runner.run(call())

    def serve_by_pattern(self, pattern: str, method: str, count: int) -> None:
        """Multiply x and y so many times; by zero it raises."""

        async def serve() -> None:
            done = asyncio.Event()
            left = count

            async def multiply(*, x: int, y: int) -> int:
                nonlocal left
                left -= 1
                if not left:
                    done.set()
                if not x * y:
                    raise ZeroDivisionError("by zero")
                return x * y

            async with self._connection.channel() as channel:
                rpc = await PATTERNS[pattern].create(channel)
                await rpc.register(method, multiply, auto_delete=True)
                await done.wait()
                await rpc.unregister(multiply)
                await rpc.close()

        self._runner.run(serve())


def received(message: AbstractIncomingMessage) -> Received:
    values = {name: value for name in NAMES if (value := getattr(message, name)) is not None}
    if "expiration" in values:
        values["expiration"] = str(round(values["expiration"] * 1000))
    return {"body": message.body, "properties": values}


if __name__ == "__main__":
    run(AioPika)
