"""What there is in a broker, as values to assert on: queues with their messages and consumers, and what was published.

What must stay true: looking changes nothing, and what was looked at stays as it was then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rabbitry._errors import RemoteProtocolError
from rabbitry.broker.channel import Channel
from rabbitry.broker.entries import Entry
from rabbitry.broker.history import Record
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.vhost import VirtualHost
from rabbitry.protocol.wire.properties import Properties, decode_properties

__all__ = ["BindingState", "ConsumerState", "Published", "QueueState", "StoredMessage", "published", "queue_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message in a queue. `properties` are those of AMQP (expiration is a text of milliseconds); `delivery_count` is
    how often it came back."""

    body: bytes
    exchange: str
    routing_key: str
    properties: Properties = field(compare=False)
    redelivered: bool = False
    delivery_count: int = 0

    @property
    def headers(self) -> Mapping[str, Any]:
        """Its headers, with those that RabbitMQ adds; empty if there are none."""
        return self.properties.headers or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """A consumer. `prefetch` 0 is no limit; `unacknowledged` is how many deliveries it has not settled; `is_active`
    whether it gets messages: all do, but those that wait behind a single active one."""

    tag: str
    prefetch: int
    priority: int
    no_ack: bool
    exclusive: bool
    unacknowledged: int
    is_active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingState:
    """A binding of a queue."""

    exchange: str
    routing_key: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """A queue. `type` is "classic", "quorum" or "stream"; `ready` are the messages that wait, the next to be delivered
    first; `unacknowledged` those that somebody has and has not settled, the oldest delivery first."""

    name: str
    type: str
    durable: bool
    auto_delete: bool
    exclusive: bool
    arguments: Mapping[str, Any]
    ready: tuple[StoredMessage, ...]
    unacknowledged: tuple[StoredMessage, ...]
    consumers: tuple[ConsumerState, ...]
    bindings: tuple[BindingState, ...]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the messages that wait."""
        return [each.body for each in self.ready]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A message that was published: where, by which user, and the queues that it was routed to."""

    body: bytes
    exchange: str
    routing_key: str
    queues: tuple[str, ...]
    user: str
    virtual_host: str
    properties: Properties = field(compare=False)

    @property
    def headers(self) -> Mapping[str, Any]:
        """Its headers; empty if there are none."""
        return self.properties.headers or {}


def stored(entry: Entry) -> StoredMessage:
    """A message of a queue."""
    message = entry.message
    return StoredMessage(
        body=message.body,
        exchange=message.exchange,
        routing_key=message.routing_keys[0],
        properties=_properties(message),
        redelivered=entry.redelivered,
        delivery_count=entry.count,
    )


def _properties(message: Message) -> Properties:
    try:
        return decode_properties(message.properties)
    except RemoteProtocolError:  # what RabbitMQ passes on unread, too
        return Properties()


def queue_state(vhost: VirtualHost, queue: Queue, channels: Iterable[Channel]) -> QueueState:
    """A queue as it is; `channels` are all there are."""
    held = [each for channel in channels for each in channel.held if each.queue is queue]
    active = queue.consumers.active
    return QueueState(
        name=queue.name,
        type=queue.kind,
        durable=queue.durable,
        auto_delete=queue.auto_delete,
        exclusive=queue.owner is not None,
        arguments=dict(queue.arguments),
        ready=tuple(map(stored, queue.ready())),
        unacknowledged=tuple(stored(each.entry) for each in sorted(held, key=lambda each: each.since)),
        consumers=tuple(
            ConsumerState(
                tag=consumer.tag,
                prefetch=consumer.prefetch,
                priority=consumer.priority,
                no_ack=consumer.no_ack,
                exclusive=consumer.exclusive,
                unacknowledged=consumer.unacked,
                is_active=not queue.options.single_active or consumer is active,
            )
            for consumer in queue.consumers
        ),
        bindings=tuple(
            BindingState(exchange=each.source.name, routing_key=each.key, arguments=dict(each.arguments))
            for each in queue.incoming
        ),
    )


def published(record: Record) -> Published:
    """A publish of the history."""
    message = record.message
    return Published(
        body=message.body,
        exchange=message.exchange,
        routing_key=message.routing_keys[0],
        queues=record.queues,
        user=record.user,
        virtual_host=record.virtual_host,
        properties=_properties(message),
    )
