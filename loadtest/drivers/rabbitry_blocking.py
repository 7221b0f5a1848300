"""rabbitry.blocking's driver: a connection and a thread for each client, as with the other libraries that block.

Everything of it may be used from several threads, so that deliveries are answered where the ledger has seen them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import isfinite
from time import sleep
from typing import Any

import rabbitry
from loadtest.drivers.base import Answer, ConsumerCancelled, ConsumerOptions, Driver, Outcome, ProducerOptions, Settled
from loadtest.drivers.blocking import Handle, Told, properties_of
from loadtest.drivers.threads import ThreadsDriver
from rabbitry import blocking

_OUTCOMES = {
    "confirmed": Outcome.CONFIRMED,
    "nacked": Outcome.NACKED,
    "unroutable": Outcome.RETURNED,
    "refused": Outcome.NACKED,
    "unknown": Outcome.UNKNOWN,
    "unsent": Outcome.UNKNOWN,
}
LOOK = 0.01
"""Seconds between looks whether a call that took too long has been given up, as it is about to be."""


def connect(url: str, name: str) -> _Connection:
    """Opens a connection. OSError if the broker can't be reached."""
    return _Connection(blocking.connect(url, name=name))


DRIVER: Driver = ThreadsDriver(connect)


class _Connection:
    def __init__(self, connection: blocking.Connection) -> None:
        self._blocks = ExitStack()
        self._connection = self._blocks.enter_context(connection)

    @property
    def server_properties(self) -> Mapping[str, Any]:
        return self._connection.server_properties

    @property
    def is_blocked(self) -> bool | None:
        return self._connection.is_blocked

    def producer(self, queue: str, options: ProducerOptions, settled: Settled) -> _Producer:
        channel = self._blocks.enter_context(self._connection.channel(confirm=options.confirms))
        publisher = None
        if options.window > 1:

            def on_outcome(confirmation: blocking.Confirmation) -> None:
                settled(confirmation.tag, _OUTCOMES[confirmation.outcome])

            publisher = self._blocks.enter_context(channel.publisher(window=options.window, on_outcome=on_outcome))
        return _Producer(channel, queue, options, publisher)

    def consumer(self, queue: str, options: ConsumerOptions) -> _Consumer:
        return _Consumer(self._connection, queue, options)

    def caller(self) -> _Caller:
        return _Caller(self._blocks.enter_context(self._connection.rpc()))

    def administrator(self) -> _Administrator:
        return _Administrator(self._connection, self._blocks.enter_context(self._connection.channel()))

    def server(self, queue: str) -> _Server:
        return _Server(self._connection, queue)

    def rest(self) -> None:
        return  # its event loop sees to heartbeats

    def close(self) -> None:
        self._blocks.close()


class _Producer:
    def __init__(
        self, channel: blocking.Channel, queue: str, options: ProducerOptions, publisher: blocking.Publisher | None
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._exchange = options.exchange
        self._mandatory = options.mandatory
        self._settled = Outcome.CONFIRMED if options.confirms else Outcome.SENT
        self._properties = properties_of(options)
        self._priority = options.priority
        self._is_plain = options.persistent and not options.headers and options.priority is None
        self._publisher = publisher

    def publish(self, body: bytes, key: str | None) -> Outcome:
        try:
            self._channel.publish(
                self._message(body),
                exchange=self._exchange,
                routing_key=self._queue if key is None else key,
                mandatory=self._mandatory,
            )
        except (rabbitry.Nacked, rabbitry.Refused):
            return Outcome.NACKED
        except rabbitry.Unroutable:
            return Outcome.RETURNED
        except rabbitry.OutcomeUnknown:
            return Outcome.UNKNOWN
        return self._settled

    def submit(self, body: bytes, token: object, key: str | None) -> None:
        assert self._publisher is not None
        self._publisher.submit(
            self._message(body),
            exchange=self._exchange,
            routing_key=self._queue if key is None else key,
            mandatory=self._mandatory,
            tag=token,
        )

    def flush(self) -> None:
        if self._publisher is not None:
            self._publisher.flush()

    def _message(self, body: bytes) -> rabbitry.Message | bytes:
        if self._is_plain:
            return body
        priority = None if self._priority is None else self._priority()
        return rabbitry.Message(body, priority=priority, **self._properties)


class _Consumer:
    def __init__(self, connection: blocking.Connection, queue: str, options: ConsumerOptions) -> None:
        self._blocks = ExitStack()
        self._held: dict[int, blocking.Delivery] = {}
        self._auto_ack = options.auto_ack
        channel = self._blocks.enter_context(connection.channel(prefetch=options.prefetch))
        self._deliveries = self._blocks.enter_context(
            channel.consume(queue, no_ack=options.auto_ack, arguments=options.arguments or None)
        )

    def run(self, handle: Handle) -> None:
        try:
            for delivery in self._deliveries:
                assert isinstance(delivery, blocking.Delivery)
                if not self._auto_ack:
                    self._held[delivery.delivery_tag] = delivery
                handle(delivery.body, delivery.redelivered, delivery.delivery_tag)
        except rabbitry.ConsumerCancelled as error:
            raise ConsumerCancelled(str(error)) from error

    def answer(self, answers: list[Told]) -> None:
        for tag, answer, is_multiple in answers:
            tags = [each for each in list(self._held) if each <= tag] if is_multiple else [tag]
            for each in tags:
                self._settle(self._held.pop(each), answer)

    def ack(self, tag: int) -> None:
        self._held.pop(tag).ack()

    def stop(self) -> None:
        self._deliveries.stop()

    def close(self) -> None:
        self._blocks.close()

    def _settle(self, delivery: blocking.Delivery, answer: Answer) -> None:
        try:
            if answer is Answer.ACK:
                delivery.ack()
            elif answer is Answer.REQUEUE:
                delivery.nack(requeue=True)
            else:
                delivery.reject(requeue=False)
        except (rabbitry.StaleDelivery, rabbitry.AlreadySettled):
            pass  # the channel has ended, and the broker delivers it again


class _Server:
    def __init__(self, connection: blocking.Connection, queue: str) -> None:
        self._connection = connection
        self._queue = queue
        self._stop = rabbitry.Stop()

    def run(self, handle: Handle) -> None:
        self._connection.serve(self._queue, _echo, stop=self._stop)

    def answer(self, answers: list[Told]) -> None:
        return

    def ack(self, tag: int) -> None:
        return

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        return


class _Caller:
    def __init__(self, rpc: blocking.RPC) -> None:
        self._rpc = rpc

    def call(self, queue: str, body: bytes, is_given_up: Callable[[], bool], seconds: float) -> bytes:
        try:
            reply: bytes = self._rpc.call(queue, body, timeout=max(0.0, seconds) if isfinite(seconds) else None)
        except TimeoutError:
            while not is_given_up():  # whoever waits says so himself
                sleep(LOOK)
            return b""
        return reply


class _Administrator:
    def __init__(self, connection: blocking.Connection, channel: blocking.Channel) -> None:
        self._connection = connection
        self._channel = channel

    def declare_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._channel.declare_queue(name, arguments=dict(arguments))

    def declare_exchange(self, name: str, kind: str) -> None:
        self._channel.declare_exchange(name, kind, auto_delete=True)

    def delete_exchange(self, name: str) -> None:
        self._channel.delete_exchange(name)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._channel.bind_queue(queue, exchange, key)

    def count_messages(self, name: str) -> int | None:
        try:
            with self._connection.channel() as channel:  # its own, as the question may close it
                return channel.declare_queue(name, passive=True).message_count
        except rabbitry.NotFound:
            return None

    def delete_queue(self, name: str) -> None:
        self._channel.delete_queue(name)


def _echo(payload: Any) -> Any:
    return payload
