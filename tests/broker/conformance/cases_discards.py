"""Dead-lettering at least once: what is kept, what it looks like where it arrives, and when it falls back."""

from __future__ import annotations

from typing import Any

from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def careful(c: Conversation, exchange: str = "dlx", **arguments: Any) -> Channel:
    """A channel with confirms; quorum queue "q", whose dead go to the exchange "dlx" at least once."""
    ch = c.channel()
    table = {name.replace("_", "-"): value for name, value in arguments.items()}
    ch.quorum(
        arguments={
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": exchange,
            **table,
        }
    )
    ch.confirm()
    return ch


def buried(ch: Channel, type: str = "fanout") -> None:
    """The exchange "dlx", and the queue "dead" there, which is consumed."""
    ch.exchange("dlx", type)
    ch.declare("dead")
    ch.bind("dead", "dlx")
    ch.consume("dead", "dead", no_ack=True)


def lose(ch: Channel, body: bytes, **properties: Any) -> None:
    """Publish a message, and reject it."""
    ch.publish(body, **properties)
    ch.reject(ch.get(), requeue=False)
    ch.conversation.pause()


def fill(ch: Channel, count: int) -> None:
    """Publish so many, with time in which the publisher may be told that the queue is full."""
    for index in range(count):
        ch.publish(b"%d" % index)
        ch.conversation.pause()


@case
def rejected_at_least_once(c: Conversation) -> None:
    ch = careful(c)
    buried(ch)
    lose(ch, b"m", headers={"h": 1, "CC": ["copy"]}, message_id="id", expiration="60000", delivery_mode=1)
    ch.take()
    ch.count()


@case
def rejected_at_least_once_with_another_key(c: Conversation) -> None:
    ch = careful(c, x_dead_letter_routing_key="other")
    buried(ch)
    lose(ch, b"m", headers={"CC": ["copy"]})
    ch.take()


@case
def expired_at_least_once(c: Conversation) -> None:
    ch = careful(c, x_message_ttl=60_000)
    buried(ch)
    ch.publish(b"m", expiration="0")
    ch.take()
    ch.publish(b"m", expiration="20")
    ch.take()


@case
def delivered_too_often_at_least_once(c: Conversation) -> None:
    ch = careful(c, x_delivery_limit=1)
    buried(ch)
    ch.publish(b"m")
    for _ in range(2):
        ch.reject(ch.get())
        c.pause()
    ch.take()


@case
def expired_at_least_once_to_each_of_three_kinds(c: Conversation) -> None:
    ch = careful(c, x_message_ttl=0)
    buried(ch)
    ch.quorum("second")
    ch.bind("second", "dlx")
    ch.stream("third")
    ch.bind("third", "dlx")
    ch.publish(b"m")
    ch.take()
    two = c.channel()
    two.consume("second", no_ack=True)
    two.take()
    three = c.channel()
    three.qos(10)
    three.consume("third", arguments={"x-stream-offset": "first"})
    three.take()


@case
def a_chain_at_least_once(c: Conversation) -> None:
    """As delays are made of: a queue without consumers, to an exchange that looks at headers."""
    ch = careful(c, x_message_ttl=30)
    ch.exchange("dlx", "headers")
    ch.declare("out")
    ch.bind("out", "dlx", arguments={"x-match": "all-with-x", "x-to": "out"})
    ch.exchange("in", "fanout")
    ch.bind("q", "in")
    ch.consume("out", no_ack=True)
    ch.publish(b"m", "key", "in", headers={"x-to": "out"}, mandatory=True)
    ch.take()


@case
def what_finds_no_queue_is_kept(c: Conversation) -> None:
    ch = careful(c, x_max_length=1)
    ch.exchange("dlx", "fanout")
    lose(ch, b"1")
    lose(ch, b"2")
    ch.count()
    fill(ch, 2)


@case
def what_finds_no_exchange_is_kept(c: Conversation) -> None:
    ch = careful(c, x_max_length=1)
    lose(ch, b"1")
    lose(ch, b"2")
    fill(ch, 2)
    ch.purge()
    fill(ch, 1)


@case
def what_finds_no_queue_counts_by_its_octets(c: Conversation) -> None:
    ch = careful(c, x_max_length_bytes=10)
    lose(ch, b"12345678")
    lose(ch, b"12345678")
    fill(ch, 2)


@case
def who_publishes_later_is_rejected_too(c: Conversation) -> None:
    ch = careful(c, x_max_length=1)
    lose(ch, b"1")
    lose(ch, b"2")
    other = c.channel()
    other.confirm()
    fill(other, 2)


@case
def a_circle_is_kept(c: Conversation) -> None:
    ch = careful(c, "", x_max_length=1, x_message_ttl=0)
    fill(ch, 4)
    ch.count()


@case
def a_circle_with_a_rejection_goes_round(c: Conversation) -> None:
    ch = careful(c, "")
    ch.publish(b"m")
    ch.consume()
    for tag in (1, 2):
        ch.take()
        ch.reject(tag, requeue=False)
    ch.take()


@case
def what_has_a_way_beside_one_that_is_circular_is_gone(c: Conversation) -> None:
    ch = careful(c, x_max_length=1, x_message_ttl=0)
    buried(ch)
    ch.bind("q", "dlx")
    for _ in range(3):
        ch.publish(b"m")
        ch.take()
        c.pause()
    ch.count()


@case
def dropping_the_head_is_at_most_once(c: Conversation) -> None:
    ch = careful(c, x_max_length=1, x_overflow="drop-head")
    buried(ch)
    fill(ch, 2)
    ch.take()
    ch.unbind("dead", "dlx")
    lose(ch, b"lost")
    fill(ch, 2)
    ch.count()


@case
def at_least_once_to_nowhere(c: Conversation) -> None:
    ch = c.channel()
    ch.quorum(arguments={"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish", "x-max-length": 1})
    ch.confirm()
    for body in (b"1", b"2", b"3"):
        lose(ch, body)
    ch.count()


@case
def the_strategy_is_declared_again_otherwise(c: Conversation) -> None:
    careful(c)
    careful(c, x_dead_letter_strategy="at-most-once")
    careful(c)


@case
def a_queue_goes_with_what_it_keeps(c: Conversation) -> None:
    ch = careful(c, x_max_length=1)
    lose(ch, b"1")
    lose(ch, b"2")
    ch.delete()
    ch = careful(c, x_max_length=1)
    fill(ch, 2)


def to_a_quorum_queue(ch: Channel) -> None:
    """What is rejected in "q" and comes to the queue "dead", of which one delivery fails, and then another."""
    ch.exchange("dlx", "fanout")
    ch.quorum("dead", {"x-delivery-limit": 2})
    ch.bind("dead", "dlx")
    lose(ch, b"m")
    ch.consume("dead")
    for _ in range(3):
        ch.take()
        ch.reject(ch.last_tag)


@case
def to_a_quorum_queue_at_least_once(c: Conversation) -> None:
    to_a_quorum_queue(careful(c))


@case
def to_a_quorum_queue_at_most_once(c: Conversation) -> None:
    to_a_quorum_queue(careful(c, x_dead_letter_strategy="at-most-once"))


@case
def from_a_classic_queue_to_a_quorum_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-dead-letter-exchange": "dlx"})
    ch.confirm()
    to_a_quorum_queue(ch)


@case
def returned_and_expired_at_least_once_to_a_quorum_queue(c: Conversation) -> None:
    ch = careful(c, x_message_ttl=100)
    ch.exchange("dlx", "fanout")
    ch.quorum("dead")
    ch.bind("dead", "dlx")
    ch.publish(b"m")
    ch.reject(ch.get())
    ch.consume("dead", no_ack=True)
    ch.take()


def on_to_a_quorum_queue(ch: Channel, *outcomes: bool, again: bool = False) -> None:
    """What comes to the queue "dead" of a message that came back, or was rejected (False); there it fails once."""
    ch.exchange("dlx", "fanout")
    ch.quorum("dead", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": ch.conversation.name("third")})
    ch.bind("dead", "dlx")
    ch.quorum("third")
    ch.publish(b"m")
    for requeue in outcomes:
        ch.reject(ch.get(), requeue=requeue)
        ch.conversation.pause()
    ch.consume("dead", "dead")
    ch.take()
    ch.reject(ch.last_tag)
    ch.take()
    ch.reject(ch.last_tag, requeue=False)
    ch.consume("third", "third")
    ch.take()


@case
def failed_twice_and_rejected(c: Conversation) -> None:
    on_to_a_quorum_queue(careful(c), True, True, False)


@case
def over_the_limit_to_a_quorum_queue(c: Conversation) -> None:
    on_to_a_quorum_queue(careful(c, x_delivery_limit=1), True, True)


@case
def failed_and_expired_to_a_quorum_queue(c: Conversation) -> None:
    on_to_a_quorum_queue(careful(c, x_message_ttl=150), True)


@case
def failed_twice_in_a_classic_queue_and_rejected(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-dead-letter-exchange": "dlx"})
    ch.confirm()
    on_to_a_quorum_queue(ch, True, True, False)


@case
def expired_from_a_classic_queue_to_a_quorum_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-dead-letter-exchange": "dlx", "x-message-ttl": 0})
    ch.confirm()
    on_to_a_quorum_queue(ch)


def die_without_a_queue(c: Conversation, **arguments: Any) -> None:
    """A message that somebody has comes back when its queue is gone."""
    ch = c.channel()
    ch.exchange("dlx", "fanout")
    ch.declare("dead")
    ch.bind("dead", "dlx")
    table = {name.replace("_", "-"): value for name, value in arguments.items()}
    ch.durable(arguments={"x-dead-letter-exchange": "dlx", **table})
    ch.confirm()
    ch.publish(b"m")
    other = c.channel()
    other.get()
    ch.delete()
    c.pause(0.1)
    other.close()
    ch.count("dead")


@case
def expired_after_its_queue(c: Conversation) -> None:
    die_without_a_queue(c, x_message_ttl=50)


@case
def over_the_limit_after_its_queue(c: Conversation) -> None:
    die_without_a_queue(c, x_queue_type="quorum", x_delivery_limit=0)


def crowded(ch: Channel, ahead: int) -> None:
    """So many dead messages that nothing is bound for, and behind them one with the key "known"."""
    ch.exchange("in", "fanout", durable=True)
    ch.bind("q", "in")
    for number in range(ahead):
        ch.publish(b"%d" % number, "nowhere", "in")
    ch.publish(b"m", "known", "in")
    ch.consume("q", "q")
    ch.take(ahead + 1)
    ch.nack(ahead + 1, multiple=True, requeue=False)


def die_behind(c: Conversation, ahead: int) -> None:
    ch = careful(c)
    ch.exchange("dlx", durable=True)
    ch.declare("dead")
    ch.bind("dead", "dlx", "known")
    ch.consume("dead", "dead", no_ack=True)
    crowded(ch, ahead)
    ch.silent(0.2)
    ch.count()


@case
def there_is_room_on_the_way_for_31_others(c: Conversation) -> None:
    die_behind(c, 31)


@case
def there_is_no_room_on_the_way_for_32_others(c: Conversation) -> None:
    die_behind(c, 32)
