"""AMQPStorm."""

from __future__ import annotations

import uuid
from typing import Any

import amqpstorm

from tests.interop.programs.commands import Received, fibonacci, run

NAMES = {"type": "message_type"}
"""Its own names for properties, where they are not AMQP's."""


class AMQPStorm:
    def __init__(self, url: str) -> None:
        self._connection = amqpstorm.UriConnection(url)
        self._channel = self._connection.channel()
        self._channel.confirm_deliveries()

    def close(self) -> None:
        self._connection.close()

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        own = {NAMES.get(name, name): value for name, value in properties.items()}
        self._channel.basic.publish(body, queue, properties=own, mandatory=True)

    def get(self, queue: str) -> Received | None:
        message = self._channel.basic.get(queue, no_ack=True, auto_decode=False)
        return received(message) if message else None

    def call(self, queue: str, body: bytes) -> Received:
        replies = self._channel.queue.declare(exclusive=True)["queue"]
        correlation_id = str(uuid.uuid4())
        answers: list[Received] = []

        def on_reply(message: amqpstorm.Message) -> None:
            if message.correlation_id == correlation_id:
                answers.append(received(message))

        tag = self._channel.basic.consume(on_reply, replies, no_ack=True)
        request = {"reply_to": replies, "correlation_id": correlation_id}
        self._channel.basic.publish(body, queue, properties=request)
        while not answers:
            self._channel.process_data_events()
        self._channel.basic.cancel(tag)
        return answers[0]

    def serve(self, queue: str, count: int) -> None:
        left = count
        with self._connection.channel() as channel:

            def on_request(message: amqpstorm.Message) -> None:
                nonlocal left
                reply = {"correlation_id": message.correlation_id}
                channel.basic.publish(fibonacci(message.body), message.reply_to, properties=reply)
                message.ack()
                left -= 1
                if not left:
                    channel.stop_consuming()

            channel.basic.qos(1)
            channel.basic.consume(on_request, queue)
            channel.start_consuming()


def received(message: amqpstorm.Message) -> Received:
    amqp = {own: name for name, own in NAMES.items()}
    values = {amqp.get(own, own): value for own, value in message._properties.items() if value is not None}
    return {"body": message._body, "properties": values}


if __name__ == "__main__":
    run(AMQPStorm)
