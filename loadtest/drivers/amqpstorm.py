"""AMQPStorm's driver: a connection and a thread for each client; AMQPStorm adds one that reads and one for heartbeats.

Its connections are thread-safe, its channels are not meant to be shared (https://www.amqpstorm.io/). A publish on a
channel with `confirm_deliveries` returns when it is confirmed
(https://www.amqpstorm.io/examples/publish_message_with_confirm.html), which it looks for every 10 ms; so does a
consumer for deliveries (https://www.amqpstorm.io/examples/simple_consumer.html). Sockets are watched by `poll`, as it
says for more than a thousand descriptors.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import amqpstorm

from loadtest.drivers.base import (
    Answer,
    ConnectionLost,
    ConsumerCancelled,
    ConsumerOptions,
    Driver,
    Outcome,
    ProducerOptions,
    Settled,
)
from loadtest.drivers.blocking import (
    DIRECT_REPLY_TO,
    Handle,
    OneByOne,
    Parts,
    PlainConnection,
    Told,
    properties_of,
)
from loadtest.drivers.threads import ThreadsDriver
from loadtest.drivers.tls import read_target

_library: Any = amqpstorm  # its annotations export none of its names
logging.getLogger("amqpstorm").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises besides


def connect(url: str, name: str) -> _Connection:
    """Opens a connection."""
    target = read_target(url)
    options = {"context": target.context, "server_hostname": target.server_name} if target.context else None
    separator = "&" if urlsplit(target.url).query else "?"
    connection = _library.UriConnection(
        f"{target.url}{separator}poller=poll", ssl_options=options, client_properties={"connection_name": name}
    )
    # What ends its reading thread is noted in a list that `open` has replaced by then, so that nobody hears of a lost
    # connection but by its heartbeats, after a minute or two.
    connection._io._exceptions = connection.exceptions
    return _Connection(connection)


DRIVER: Driver = ThreadsDriver(connect)


class _Producer(OneByOne):
    def __init__(self, channel: Any, queue: str, options: ProducerOptions, settled: Settled) -> None:
        super().__init__(settled)
        self._channel = channel
        self._queue = queue
        self._exchange = options.exchange
        self._mandatory = options.mandatory
        self._confirms = options.confirms
        self._properties = properties_of(options)
        self._priority = options.priority
        if options.confirms:
            channel.confirm_deliveries()

    def publish(self, body: bytes, key: str | None) -> Outcome:
        try:
            self._channel.check_for_errors()
        except _library.AMQPError as error:
            raise ConnectionLost(str(error)) from error
        properties = dict(self._properties)  # it writes into them
        if self._priority is not None:
            properties["priority"] = self._priority()
        try:
            is_taken = self._channel.basic.publish(
                body, self._queue if key is None else key, self._exchange, properties, self._mandatory
            )
        except _library.AMQPMessageError:
            return Outcome.RETURNED
        except Exception:  # it doesn't tell whether the message had left
            return Outcome.UNKNOWN
        if not self._confirms:
            return Outcome.SENT
        return Outcome.CONFIRMED if is_taken else Outcome.NACKED


class _Consumer:
    def __init__(self, connection: Any, queue: str, options: ConsumerOptions) -> None:
        self._is_stopped = False
        self._answers: deque[Told] = deque()
        self._handle: Handle | None = None
        self._channel = connection.channel()
        self._channel.basic.qos(options.prefetch)
        self._tag: str = self._channel.basic.consume(
            self._deliver, queue, no_ack=options.auto_ack, arguments=dict(options.arguments)
        )

    def run(self, handle: Handle) -> None:
        self._handle = handle
        while not self._is_stopped:
            if not self._channel.consumer_tags:
                self._channel.check_for_errors()
                raise ConsumerCancelled("the broker cancelled the consumer")
            self._channel.process_data_events(auto_decode=False)
            if self._channel.is_closed:  # which it takes for the end of all deliveries
                raise ConnectionLost("the channel was closed")
            self._answer()
        self._answer()

    def answer(self, answers: list[Told]) -> None:
        self._answers.extend(answers)

    def ack(self, tag: int) -> None:
        self._channel.basic.ack(tag)

    def stop(self) -> None:
        self._is_stopped = True

    def close(self) -> None:
        self._channel.close()

    def _deliver(self, message: Any) -> None:
        assert self._handle is not None
        self._handle(_bytes(message), bool(message.redelivered), message.delivery_tag)
        self._answer()

    def _answer(self) -> None:
        while self._answers:
            tag, answer, is_multiple = self._answers.popleft()
            if answer is Answer.ACK:
                self._channel.basic.ack(tag, is_multiple)
            elif answer is Answer.REQUEUE:
                self._channel.basic.nack(tag, requeue=True)
            else:
                self._channel.basic.reject(tag, requeue=False)


class _Server(_Consumer):
    def __init__(self, connection: Any, queue: str) -> None:
        super().__init__(connection, queue, ConsumerOptions(prefetch=100, ack_every=1))

    def _deliver(self, message: Any) -> None:
        reply = {"correlation_id": message.correlation_id}
        self._channel.basic.publish(_bytes(message), message.reply_to, properties=reply)
        self._channel.basic.ack(message.delivery_tag)


class _Caller:
    def __init__(self, connection: Any) -> None:
        self._channel = connection.channel()
        self._awaited = ""
        self._reply: bytes | None = None
        self._channel.basic.consume(self._on_reply, DIRECT_REPLY_TO, no_ack=True)

    def call(self, queue: str, body: bytes, is_given_up: Callable[[], bool], seconds: float) -> bytes:
        self._awaited, self._reply = uuid4().hex, None
        request = {"delivery_mode": 1, "reply_to": DIRECT_REPLY_TO, "correlation_id": self._awaited}
        self._channel.basic.publish(body, queue, properties=request)
        while self._reply is None:
            if is_given_up():
                return b""
            if self._channel.is_closed:
                raise ConnectionLost("the channel was closed")
            self._channel.process_data_events(auto_decode=False)
        return self._reply

    def _on_reply(self, message: Any) -> None:
        if message.correlation_id in (self._awaited, self._awaited.encode()):
            self._reply = _bytes(message)


class _Administrator:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.channel()

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._channel.queue.declare(name, durable=True, arguments=dict(arguments))

    def declare_exchange(self, name: str, kind: str) -> None:
        self._channel.exchange.declare(name, kind, durable=True, auto_delete=True)

    def delete_exchange(self, name: str) -> None:
        self._channel.exchange.delete(name)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._channel.queue.bind(queue, exchange, key)

    def count_messages(self, name: str) -> int | None:
        channel = self._connection.channel()  # its own, as the question may close it
        try:
            declared = channel.queue.declare(name, passive=True)
        except _library.AMQPChannelError as error:
            if error.error_code == 404:
                return None
            raise
        channel.close()
        count: int = declared["message_count"]
        return count

    def delete_queue(self, name: str) -> None:
        self._channel.queue.delete(name)


class _Connection(PlainConnection):
    parts = Parts(producer=_Producer, consumer=_Consumer, caller=_Caller, administrator=_Administrator, server=_Server)

    @property
    def server_properties(self) -> Mapping[str, Any]:
        properties: Mapping[str, Any] = self._connection.server_properties
        return properties

    @property
    def is_blocked(self) -> bool | None:
        blocked: bool = self._connection.is_blocked
        return blocked

    def rest(self) -> None:
        self._connection.check_for_errors()


def _bytes(message: Any) -> bytes:
    body = message.body
    return body if isinstance(body, bytes) else body.encode()
