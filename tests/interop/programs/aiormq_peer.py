"""aiormq, which aio-pika is built on."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from tests.interop.programs.commands import Received, fibonacci, run

NAMES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip

ITS_NAMES = {"type": "message_type"}


class Aiormq:
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._runner.run(self._open(url))

    async def _open(self, url: str) -> None:
        self._connection = await aiormq.connect(url)
        self._channel = await self._connection.channel()

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        given = Basic.Properties(**{ITS_NAMES.get(name, name): value for name, value in properties.items()})
        self._runner.run(self._channel.basic_publish(body, routing_key=queue, properties=given, mandatory=True))

    def get(self, queue: str) -> Received | None:
        message = self._runner.run(self._channel.basic_get(queue, no_ack=True))
        return received(message) if isinstance(message.delivery, Basic.GetOk) else None

    def call(self, queue: str, body: bytes) -> Received:
        return self._runner.run(self._call(queue, body))

    async def _call(self, queue: str, body: bytes) -> Received:
        correlation_id = str(uuid.uuid4())
        answer: asyncio.Future[Received] = asyncio.get_running_loop().create_future()

        async def on_reply(message: DeliveredMessage) -> None:
            if message.header.properties.correlation_id == correlation_id:
                answer.set_result(received(message))

        replies = (await self._channel.queue_declare(exclusive=True)).queue
        tag = (await self._channel.basic_consume(replies, on_reply, no_ack=True)).consumer_tag
        request = Basic.Properties(correlation_id=correlation_id, reply_to=replies)
        await self._channel.basic_publish(body, routing_key=queue, properties=request)
        reply = await answer
        await self._channel.basic_cancel(tag)
        return reply

    def serve(self, queue: str, count: int) -> None:
        self._runner.run(self._serve(queue, count))

    async def _serve(self, queue: str, count: int) -> None:
        channel = await self._connection.channel()
        await channel.basic_qos(prefetch_count=1)
        done = asyncio.Event()
        left = count

        async def on_request(request: DeliveredMessage) -> None:
            nonlocal left
            properties = request.header.properties
            reply = Basic.Properties(correlation_id=properties.correlation_id)
            await channel.basic_publish(fibonacci(request.body), routing_key=properties.reply_to, properties=reply)
            await channel.basic_ack(request.delivery_tag)
            left -= 1
            if not left:
                done.set()

        await channel.basic_consume(queue, on_request)
        await done.wait()
        await channel.close()


def received(message: DeliveredMessage) -> Received:
    found = message.header.properties
    values = {name: getattr(found, ITS_NAMES.get(name, name)) for name in NAMES}
    return {"body": message.body, "properties": {name: value for name, value in values.items() if value is not None}}


if __name__ == "__main__":
    run(Aiormq)
