"""kombu, over py-amqp."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import kombu

from tests.interop.programs.commands import Received, fibonacci, run


class Kombu:
    def __init__(self, url: str) -> None:
        self._connection = kombu.Connection(url, transport_options={"confirm_publish": True})
        self._connection.ensure_connection(max_retries=1)
        self._channel = self._connection.channel()
        self._producer = kombu.Producer(self._channel)

    def close(self) -> None:
        self._connection.release()

    def publish(self, queue: str, body: bytes, properties: dict[str, Any]) -> None:
        if "expiration" in properties:
            properties["expiration"] = int(properties["expiration"]) / 1000
        if "timestamp" in properties:
            properties["timestamp"] = int(properties["timestamp"].timestamp())
        self._producer.publish(body, routing_key=queue, exchange="", **properties)

    def get(self, queue: str) -> Received | None:
        message = kombu.Queue(queue, channel=self._channel).get(no_ack=True)
        return received(message) if message else None

    def call(self, queue: str, body: bytes) -> Received:
        replies = kombu.Queue("", exclusive=True, auto_delete=True, durable=False, channel=self._channel)
        replies.declare()
        correlation_id = str(uuid.uuid4())
        answers: list[Received] = []

        def on_reply(message: kombu.Message) -> None:
            if message.properties.get("correlation_id") == correlation_id:
                answers.append(received(message))

        with kombu.Consumer(self._channel, [replies], on_message=on_reply, no_ack=True, auto_declare=False):
            self._producer.publish(
                body, routing_key=queue, exchange="", reply_to=replies.name, correlation_id=correlation_id
            )
            while not answers:
                self._connection.drain_events()
        return answers[0]

    def serve(self, queue: str, count: int) -> None:
        left = count
        with self._connection.channel() as channel:
            producer = kombu.Producer(channel)

            def on_request(message: kombu.Message) -> None:
                nonlocal left
                to, correlation_id = message.properties["reply_to"], message.properties["correlation_id"]
                producer.publish(
                    fibonacci(bytes(message.body)), routing_key=to, exchange="", correlation_id=correlation_id
                )
                message.ack()
                left -= 1

            source = kombu.Queue(queue, channel=channel, no_declare=True)
            with kombu.Consumer(channel, [source], on_message=on_request, prefetch_count=1):
                while left:
                    self._connection.drain_events()

    # --- bodies by their content type --------------------------------------------------------------------------------

    def publish_object(self, queue: str, value: Any, serializer: str | None = None) -> None:
        """Publish it in this format, or as the library does unasked: as JSON."""
        self._producer.publish(value, routing_key=queue, exchange="", serializer=serializer)

    def get_object(self, queue: str) -> Any:
        """What the library makes of the next message's body by its content type."""
        message = kombu.Queue(queue, channel=self._channel).get(no_ack=True, accept=["json", "msgpack", "text/plain"])
        return message.payload


def received(message: kombu.Message) -> Received:
    values = {name: value for name, value in message.properties.items() if name != "application_headers"}
    own = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    values |= {name: value for name, value in own.items() if value is not None}
    if message.headers:
        values["headers"] = message.headers
    if "timestamp" in values:
        values["timestamp"] = datetime.fromtimestamp(values["timestamp"], UTC)
    body = message.body
    return {"body": body.encode() if isinstance(body, str) else body, "properties": values}


if __name__ == "__main__":
    run(Kombu)
