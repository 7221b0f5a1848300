"""Full quorum queues: which messages are dropped, dead-lettered or rejected, and when there is room again."""

from __future__ import annotations

from typing import Any

from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def limited(c: Conversation, count: int, **arguments: Any) -> Channel:
    """A channel with confirms, a quorum queue, and so many messages to it."""
    ch = c.channel()
    ch.quorum(arguments={name.replace("_", "-"): value for name, value in arguments.items()})
    ch.confirm()
    for index in range(1, count + 1):
        c.pause()  # RabbitMQ tells publishers a little later that a queue is full
        ch.publish(str(index).encode())
    c.pause()
    return ch


@case
def a_quorum_queue_rejects_one_too_late(c: Conversation) -> None:
    ch = limited(c, 5, x_max_length=2, x_overflow="reject-publish")
    ch.count()
    ch.drain()


@case
def a_quorum_queue_of_no_length_rejects(c: Conversation) -> None:
    ch = limited(c, 3, x_max_length=0, x_overflow="reject-publish")
    ch.count()


@case
def a_quorum_queue_takes_messages_again_when_there_is_some_room(c: Conversation) -> None:
    ch = limited(c, 12, x_max_length=10, x_overflow="reject-publish")
    for _ in range(2):
        ch.get(no_ack=True)
    c.pause()
    ch.publish(b"still full")
    ch.get(no_ack=True)
    c.pause()
    ch.publish(b"room again")
    ch.count()


@case
def a_publisher_that_a_quorum_queue_does_not_know(c: Conversation) -> None:
    ch = limited(c, 12, x_max_length=10, x_overflow="reject-publish")
    other = c.channel()
    other.confirm()
    other.publish(b"over the limit")
    ch.get(no_ack=True)
    c.pause()
    third = c.channel()
    third.confirm()
    third.publish(b"at the limit")
    c.pause()
    third.publish(b"over the limit again")


@case
def a_quorum_queue_rejects_by_octets(c: Conversation) -> None:
    ch = limited(c, 0, x_max_length_bytes=100, x_overflow="reject-publish")
    for size in (60, 60, 1):
        ch.publish(b"x" * size)
        c.pause()
    ch.count()


@case
def a_quorum_queue_rejects_without_confirms(c: Conversation) -> None:
    limited(c, 3, x_max_length=2, x_overflow="reject-publish")
    ch = c.channel()
    ch.publish(b"unconfirmed")
    ch.count()


@case
def a_full_quorum_queue_of_two(c: Conversation) -> None:
    ch = limited(c, 3, x_max_length=2, x_overflow="reject-publish")
    ch.exchange("x", "fanout")
    ch.quorum("other")
    ch.bind("q")
    ch.bind("other")
    ch.publish(b"m", "", "x")
    ch.count()
    ch.count("other")


@case
def a_full_quorum_queue_rejects_and_knows_no_dead_letters(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("dead")
    ch.quorum(
        "q",
        {
            "x-max-length": 1,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": c.name("dead"),
        },
    )
    ch.confirm()
    for body in (b"1", b"2", b"3"):
        ch.publish(body)
        c.pause()
    ch.drain("dead")


@case
def a_quorum_queue_overflows_as_if_it_dropped_its_head(c: Conversation) -> None:
    ch = limited(c, 4, x_max_length=2, x_overflow="reject-publish-dlx")
    ch.drain()


@case
def a_quorum_queue_drops_its_head_by_octets(c: Conversation) -> None:
    ch = limited(c, 0, x_max_length_bytes=100)
    for letter in (b"a", b"b", b"c"):
        ch.publish(letter * 60)
    c.pause()
    ch.drain()


@case
def a_quorum_queue_of_no_length_drops(c: Conversation) -> None:
    ch = limited(c, 2, x_max_length=0)
    ch.count()


@case
def what_is_out_of_a_quorum_queue_does_not_count(c: Conversation) -> None:
    ch = limited(c, 3, x_max_length=2, x_overflow="reject-publish")
    consuming = c.channel()
    consuming.qos(10)
    consuming.consume()
    consuming.take(3)
    c.pause()
    ch.publish(b"taken")
    consuming.take()
    consuming.nack(0, multiple=True)
    consuming.take(4)


@case
def a_quorum_queue_that_is_purged_takes_messages_again(c: Conversation) -> None:
    ch = limited(c, 4, x_max_length=2, x_overflow="reject-publish")
    ch.purge()
    c.pause()
    ch.publish(b"again")


@case
def the_strategy_of_dead_letters(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-dead-letter-strategy": "at-most-once"})
    c.channel().quorum("other", {"x-dead-letter-strategy": "sometimes"})
    c.channel().declare("third", {"x-dead-letter-strategy": "at-most-once"})


@case
def arguments_of_quorum_queues_elsewhere(c: Conversation) -> None:
    c.channel().declare(arguments={"x-max-in-memory-length": 5})
    c.channel().declare(arguments={"x-quorum-initial-group-size": 1})
    c.channel().quorum("other", {"x-queue-version": 2})


@case
def sizes_of_groups_that_are_none(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-quorum-initial-group-size": 0})
    c.channel().quorum(arguments={"x-queue-leader-locator": "nowhere"})
    c.channel().quorum(arguments={"x-max-in-memory-bytes": -1})


@case
def invalid_queue_modes(c: Conversation) -> None:
    c.channel().declare(arguments={"x-queue-mode": "quick"})
    c.channel().declare(arguments={"x-queue-mode": 1})


@case
def a_single_active_consumer_of_a_quorum_queue(c: Conversation) -> None:
    ch = limited(c, 2, x_single_active_consumer=True)
    one, two = c.channel(), c.channel()
    for each in (one, two):
        each.qos(1)
        each.consume()
    one.take()
    two.silent()
    one.cancel()
    two.silent()
    one.ack(1)
    two.silent()
    ch.count()


@case
def priorities_of_single_active_consumers(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-single-active-consumer": True})
    ch.consume(tag="low")
    ch.consume(tag="high", arguments={"x-priority": 5})
    ch.publish(b"1")
    ch.take()
    ch.cancel("low")
    ch.publish(b"2")
    ch.take()


@case
def a_higher_consumer_of_a_quorum_queue(c: Conversation) -> None:
    ch = limited(c, 0)
    ch.qos(1)
    ch.consume(tag="low")
    ch.consume(tag="high", arguments={"x-priority": 5})
    c.pause()
    for body in (b"1", b"2"):
        ch.publish(body)
        ch.take()


@case
def a_delivery_limit_is_redeclared(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-delivery-limit": 3})
    c.channel().quorum(arguments={"x-delivery-limit": 4})
    c.channel().quorum()
    c.channel().quorum(arguments={"x-max-in-memory-length": 4})


@case
def consumer_timeouts_are_redeclared(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-consumer-timeout": 1_000_000})
    c.channel().quorum(arguments={"x-consumer-timeout": 2_000_000})
