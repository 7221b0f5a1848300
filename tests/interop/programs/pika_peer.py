"""pika, by its BlockingConnection."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pika

from tests.interop.programs.commands import Received, fibonacci, run

NAMES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip


class Pika:
    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def close(self) -> None:
        self._connection.close()

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        if "timestamp" in properties:
            properties["timestamp"] = int(properties["timestamp"].timestamp())
        self._channel.basic_publish("", queue, body, pika.BasicProperties(**properties), mandatory=True)

    def get(self, queue: str) -> Received | None:
        method, properties, body = self._channel.basic_get(queue, auto_ack=True)
        return received(body, properties) if method else None

    def call(self, queue: str, body: bytes) -> Received:
        replies = self._channel.queue_declare("", exclusive=True).method.queue
        correlation_id = str(uuid.uuid4())
        answers: list[Received] = []

        def on_reply(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            if properties.correlation_id == correlation_id:
                answers.append(received(body, properties))

        tag = self._channel.basic_consume(replies, on_reply, auto_ack=True)
        request = pika.BasicProperties(reply_to=replies, correlation_id=correlation_id)
        self._channel.basic_publish("", queue, body, request)
        while not answers:
            self._connection.process_data_events(time_limit=None)
        self._channel.basic_cancel(tag)
        return answers[0]

    def serve(self, queue: str, count: int) -> None:
        channel = self._connection.channel()
        channel.basic_qos(prefetch_count=1)
        left = count

        def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal left
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            channel.basic_publish("", properties.reply_to, fibonacci(body), reply)
            channel.basic_ack(method.delivery_tag)
            left -= 1
            if not left:
                channel.stop_consuming()

        channel.basic_consume(queue, on_request)
        channel.start_consuming()
        channel.close()


def received(body: bytes, properties: pika.BasicProperties) -> Received:
    values = {name: value for name in NAMES if (value := getattr(properties, name)) is not None}
    if "timestamp" in values:
        values["timestamp"] = datetime.fromtimestamp(values["timestamp"], UTC)
    return {"body": body, "properties": values}


if __name__ == "__main__":
    run(Pika)
