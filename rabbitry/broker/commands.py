"""What a test does to a virtual host itself, with no client: publish, drain, cancel consumers. Time is an argument."""

from __future__ import annotations

from rabbitry.broker.inspection import StoredMessage, stored
from rabbitry.broker.messages import checked_expiration, message_facts, published_message
from rabbitry.broker.queues import Queue
from rabbitry.broker.streams import Stream
from rabbitry.broker.vhost import VirtualHost
from rabbitry.broker.world import World
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["cancel_consumers", "drain", "publish"]


def publish(
    world: World, vhost: VirtualHost, exchange: str, routing_key: str, properties: bytes, body: bytes, now: float
) -> tuple[str, ...]:
    """The queues that have taken the message. Raises `LookupError` for an exchange that is not there, `ValueError` for
    what a client would be refused."""
    if exchange not in vhost.exchanges:
        raise LookupError(f"there is no exchange {exchange!r} in virtual host {vhost.name!r}")
    facts = message_facts(properties)
    try:
        checked_expiration(facts.expiration)
        message = published_message(exchange, routing_key, properties, body, facts)
    except Refusal as refusal:
        raise ValueError(refusal.explanation) from None
    queues = vhost.route(vhost.exchanges[exchange], message)
    if world.history.most:
        world.history.add(message, "", vhost.name, queues)
    caller = None if exchange else vhost.replies.find(routing_key)
    if caller is not None:
        caller.deliver_reply(message)
    return tuple([queue.name for queue in queues if queue.publish(message, now)])


def _queue(vhost: VirtualHost, name: str) -> Queue:
    if name not in vhost.queues:
        raise LookupError(f"there is no queue {name!r} in virtual host {vhost.name!r}")
    return vhost.queues[name]


def drain(vhost: VirtualHost, name: str, now: float) -> list[StoredMessage]:
    """What was ready, which is gone then (but for a stream's)."""
    queue = _queue(vhost, name)
    if isinstance(queue, Stream):
        return [stored(entry) for entry in queue.ready()]
    drained = []
    while (entry := queue.get(now)) is not None:
        drained.append(stored(entry))
    return drained


def cancel_consumers(vhost: VirtualHost, name: str, now: float) -> int:
    """How many there were. What they have not settled stays theirs."""
    queue = _queue(vhost, name)
    consumers = list(queue.consumers)
    for consumer in consumers:
        consumer.channel.lose_consumer(consumer)
        queue.remove_consumer(consumer, now)
    queue.dispatch(now)
    return len(consumers)
