"""pika's driver: a `BlockingConnection` and a thread for each client.

pika's connections are not thread-safe, but for `add_callback_threadsafe`, and so each has a thread of its own
(https://pika.readthedocs.io/en/stable/faq.html). With `confirm_delivery` each `basic_publish` returns when it is
confirmed; there is no other way to wait for confirms, and so no window
(https://pika.readthedocs.io/en/stable/examples/blocking_delivery_confirmations.html). Consumers are callbacks
(https://pika.readthedocs.io/en/stable/examples/blocking_consume.html), with the prefetch set by `basic_qos`; what is
answered elsewhere comes back by `add_callback_threadsafe`
(https://github.com/pika/pika/blob/main/examples/basic_consumer_threaded.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import pika
import pika.exceptions

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

LOOK = 0.25
"""Seconds between looks whether anybody still waits for a reply."""

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises besides


def connect(url: str, name: str) -> _Connection:
    """Opens a connection. OSError if the broker can't be reached."""
    target = read_target(url)
    parameters = pika.URLParameters(target.url)
    parameters.client_properties = {"connection_name": name}
    if target.context is not None:
        parameters.ssl_options = pika.SSLOptions(target.context, target.server_name)
    return _Connection(pika.BlockingConnection(parameters))


DRIVER: Driver = ThreadsDriver(connect)


class _Producer(OneByOne):
    def __init__(self, channel: Any, queue: str, options: ProducerOptions, settled: Settled) -> None:
        super().__init__(settled)
        self._channel = channel
        self._queue = queue
        self._exchange = options.exchange
        self._mandatory = options.mandatory
        self._done = Outcome.CONFIRMED if options.confirms else Outcome.SENT
        self._fixed = properties_of(options)
        self._properties = pika.BasicProperties(**self._fixed)
        self._priority = options.priority
        if options.confirms:
            channel.confirm_delivery()

    def publish(self, body: bytes, key: str | None) -> Outcome:
        if not self._channel.is_open:
            raise ConnectionLost("the channel is closed")
        properties = self._properties
        if self._priority is not None:
            properties = pika.BasicProperties(priority=self._priority(), **self._fixed)
        try:
            self._channel.basic_publish(
                self._exchange, self._queue if key is None else key, body, properties, self._mandatory
            )
        except pika.exceptions.UnroutableError:
            return Outcome.RETURNED
        except pika.exceptions.NackError:
            return Outcome.NACKED
        except Exception:  # pika doesn't tell whether the message had left
            return Outcome.UNKNOWN
        return self._done


class _Consumer:
    def __init__(self, connection: Any, queue: str, options: ConsumerOptions) -> None:
        self._connection = connection
        self._is_stopped = False
        self._is_cancelled = False
        self._handle: Handle | None = None
        self._early: list[tuple[bytes, bool, int]] = []
        self._channel = connection.channel()
        self._channel.basic_qos(prefetch_count=options.prefetch)
        self._channel.add_on_cancel_callback(self._on_cancel)
        self._channel.basic_consume(queue, self._deliver, auto_ack=options.auto_ack, arguments=dict(options.arguments))

    def run(self, handle: Handle) -> None:
        self._handle = handle
        for body, redelivered, tag in self._early:
            handle(body, redelivered, tag)
        while not (self._is_stopped or self._is_cancelled):
            if not self._channel.is_open:
                raise ConnectionLost("the channel was closed")
            self._connection.process_data_events(None)
        if self._is_cancelled and not self._is_stopped:
            raise ConsumerCancelled("the broker cancelled the consumer")

    def answer(self, answers: list[Told]) -> None:
        self._in_its_thread(partial(self._answer, answers))

    def ack(self, tag: int) -> None:
        self._channel.basic_ack(tag)

    def stop(self) -> None:
        self._in_its_thread(self._stop)

    def close(self) -> None:
        if self._channel.is_open:
            self._channel.close()

    def _in_its_thread(self, function: Callable[[], None]) -> None:
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self._connection.add_callback_threadsafe(function)

    def _stop(self) -> None:
        self._is_stopped = True

    def _deliver(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if self._handle is None:
            self._early.append((body, method.redelivered, method.delivery_tag))
        else:
            self._handle(body, method.redelivered, method.delivery_tag)

    def _answer(self, answers: list[Told]) -> None:
        for tag, answer, is_multiple in answers:
            if answer is Answer.ACK:
                self._channel.basic_ack(tag, is_multiple)
            elif answer is Answer.REQUEUE:
                self._channel.basic_nack(tag, requeue=True)
            else:
                self._channel.basic_reject(tag, requeue=False)

    def _on_cancel(self, frame: Any) -> None:
        self._is_cancelled = True


class _Server(_Consumer):
    def __init__(self, connection: Any, queue: str) -> None:
        super().__init__(connection, queue, ConsumerOptions(prefetch=100, ack_every=1))

    def _deliver(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, reply)
        channel.basic_ack(method.delivery_tag)


class _Caller:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._awaited: str | None = None
        self._reply: bytes | None = None
        self._channel.basic_consume(DIRECT_REPLY_TO, self._on_reply, auto_ack=True)

    def call(self, queue: str, body: bytes, is_given_up: Callable[[], bool], seconds: float) -> bytes:
        self._awaited, self._reply = uuid4().hex, None
        request = pika.BasicProperties(delivery_mode=1, reply_to=DIRECT_REPLY_TO, correlation_id=self._awaited)
        self._channel.basic_publish("", queue, body, request)
        while self._reply is None:
            if is_given_up():
                return b""
            if not self._channel.is_open:
                raise ConnectionLost("the channel was closed")
            self._connection.process_data_events(LOOK)
        return self._reply

    def _on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if properties.correlation_id == self._awaited:
            self._reply = body


class _Administrator:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channel = connection.channel()

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._channel.queue_declare(name, durable=True, arguments=dict(arguments))

    def declare_exchange(self, name: str, kind: str) -> None:
        self._channel.exchange_declare(name, kind, durable=True, auto_delete=True)

    def delete_exchange(self, name: str) -> None:
        self._channel.exchange_delete(name)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._channel.queue_bind(queue, exchange, key)

    def count_messages(self, name: str) -> int | None:
        channel = self._connection.channel()  # its own, as the question may close it
        try:
            count: int = channel.queue_declare(name, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == 404:
                return None
            raise
        channel.close()
        return count

    def delete_queue(self, name: str) -> None:
        self._channel.queue_delete(name)


class _Connection(PlainConnection):
    parts = Parts(producer=_Producer, consumer=_Consumer, caller=_Caller, administrator=_Administrator, server=_Server)

    @property
    def server_properties(self) -> Mapping[str, Any]:
        properties: Mapping[str, Any] = self._connection._impl.server_properties  # nothing public tells them
        return properties

    @property
    def is_blocked(self) -> bool | None:
        return None  # it hears of it only between publishes, and one that is blocked doesn't return

    def rest(self) -> None:
        self._connection.process_data_events(0)
