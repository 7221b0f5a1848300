"""Settling deliveries, in a transaction or not: what that makes room for, and in which order messages come back."""

from __future__ import annotations

from rabbitry.protocol.wire import methods
from tests.broker.conformance.cases_consuming import filled, filled_quorum
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


@case
def who_gives_a_message_back_too_often_may_hold_one_more(c: Conversation) -> None:
    ch = filled_quorum(c, 1, x_delivery_limit=1)
    ch.qos(1)
    ch.consume()
    for tag in (1, 2):
        ch.take()
        ch.reject(tag)
    c.pause()
    ch.publish_all([b"2", b"3", b"4"])
    ch.silent(0.1)
    ch.ack(3)
    ch.silent(0.1)


@case
def who_gives_two_messages_back_too_often_and_consumes_again(c: Conversation) -> None:
    ch = filled_quorum(c, 2, x_delivery_limit=0)
    ch.qos(2)
    ch.consume()
    ch.take(2)
    ch.nack(2, multiple=True)
    c.pause()
    ch.publish_all([b"%d" % number for number in range(3, 9)])
    ch.silent(0.1)
    ch.cancel()
    c.pause()
    ch.consume(tag="other")
    ch.silent(0.1)


@case
def whose_turn_it_is_after_a_message_came_back_too_often(c: Conversation) -> None:
    ch, two = filled_quorum(c, 1, x_delivery_limit=0), c.channel()
    ch.qos(2)
    ch.consume()
    ch.take()
    ch.nack(1)
    c.pause()
    two.qos(2)
    ch.publish_all([b"2", b"3"])
    ch.take(2)
    two.consume(tag="other")
    ch.publish(b"4")
    ch.silent(0.1)
    two.silent(0.1)


def acked_in_a_transaction(c: Conversation, limit: int) -> tuple[Channel, Channel]:
    """A channel in a transaction with five deliveries: three are acknowledged, and then it is given a prefetch."""
    other, ch = filled(c, 5), c.channel()
    other.exchange("in", "fanout", durable=True)
    ch.durable("mine")
    ch.bind("mine", "in")
    ch.request(methods.TxSelect())
    ch.consume("mine")
    for number in range(5):
        other.publish(b"%d" % number, "k", "in")
    ch.take(5)
    for tag in (1, 2, 3):
        ch.ack(tag)
    ch.qos(limit, for_all=True)
    return other, ch


def offered(other: Channel, ch: Channel) -> None:
    """Twelve further messages, and those that are taken of them."""
    for number in range(12):
        other.publish(b"new %d" % number, "k", "in")
    ch.silent(0.1)


@case
def the_prefetch_of_a_channel_counts_below_zero(c: Conversation) -> None:
    """What is acknowledged with the commit was not counted when the prefetch was set."""
    other, ch = acked_in_a_transaction(c, 3)
    ch.request(methods.TxCommit())
    offered(other, ch)


@case
def the_prefetch_of_a_channel_counts_further_below_zero(c: Conversation) -> None:
    other, ch = acked_in_a_transaction(c, 3)
    ch.request(methods.TxCommit())
    ch.ack(4)
    ch.request(methods.TxCommit())
    ch.nack(5, requeue=False)
    ch.request(methods.TxCommit())
    offered(other, ch)


@case
def acknowledgements_of_a_transaction_count_as_one(c: Conversation) -> None:
    other, ch = acked_in_a_transaction(c, 3)
    ch.ack(4)
    ch.ack(5)
    ch.request(methods.TxCommit())
    offered(other, ch)


@case
def acknowledgements_and_rejections_of_a_transaction_count_apart(c: Conversation) -> None:
    other, ch = acked_in_a_transaction(c, 3)
    ch.nack(4, requeue=False)
    ch.ack(5)
    ch.request(methods.TxCommit())
    offered(other, ch)


@case
def what_a_transaction_gives_back_one_by_one_comes_back_in_order(c: Conversation) -> None:
    ch = filled_quorum(c, 3, x_delivery_limit=5)
    other = c.channel()
    other.request(methods.TxSelect())
    other.qos(3)
    other.consume()
    other.take(3)
    for tag in (3, 1, 2):
        other.reject(tag)
    other.request(methods.TxCommit())
    other.take(3)
    other.cancel()
    ch.count()


@case
def what_a_transaction_gives_back_between_others_comes_back_by_itself(c: Conversation) -> None:
    ch = filled_quorum(c, 4, x_delivery_limit=5)
    other = c.channel()
    other.request(methods.TxSelect())
    other.qos(4)
    other.consume()
    other.take(4)
    other.reject(4)
    other.ack(3)
    other.reject(1)
    other.reject(2)
    other.request(methods.TxCommit())
    other.take(3)
    ch.count()


@case
def what_comes_back_to_a_full_quorum_queue_is_delivered_first(c: Conversation) -> None:
    limits: tuple[dict[str, int], ...] = ({}, {"x_delivery_limit": 5})
    for limit in limits:
        ch = filled_quorum(c, 0, x_max_length=2, **limit)
        ch.consume()
        for number in range(4):
            ch.publish(b"%d" % number)
            ch.take()
        ch.recover()
        ch.take(4)
        ch.cancel()
        ch.recover()
        ch.count()
        ch.delete()


@case
def who_is_to_yield_gives_back_what_it_has(c: Conversation) -> None:
    ch = filled_quorum(c, 0, x_single_active_consumer=True)
    ch.consume(tag="low")
    ch.publish_all([b"1", b"2"])
    ch.take(2)
    two = c.channel()
    two.consume(tag="high", arguments={"x-priority": 1})
    ch.reject(1)
    two.silent()
    ch.reject(2)
    two.silent(0.1)
    ch.silent()
    ch.count()
    two.consume(tag="other", arguments={"x-priority": -1})
    two.silent(0.1)


@case
def who_is_to_yield_gives_back_some_and_settles_the_rest(c: Conversation) -> None:
    ch = filled_quorum(c, 0, x_single_active_consumer=True)
    ch.consume(tag="low")
    ch.publish_all([b"1", b"2"])
    ch.take(2)
    two = c.channel()
    two.consume(tag="high", arguments={"x-priority": 1})
    ch.reject(1)
    ch.ack(2)
    two.silent(0.1)


@case
def who_is_to_yield_when_the_other_has_gone_again(c: Conversation) -> None:
    ch = filled_quorum(c, 0, x_single_active_consumer=True)
    ch.consume(tag="low")
    ch.publish(b"1")
    ch.take()
    two = c.channel()
    two.consume(tag="high", arguments={"x-priority": 1})
    two.cancel("high")
    ch.publish(b"2")
    ch.silent(0.1)
    ch.ack(1)
    ch.silent(0.1)


@case
def of_those_that_wait_the_one_with_most_prefetch_is_next(c: Conversation) -> None:
    ch = filled_quorum(c, 0, x_single_active_consumer=True)
    ch.consume(tag="first")
    for tag, prefetch in (("one", 1), ("three", 3), ("none", 0)):
        ch.qos(prefetch)
        ch.consume(tag=tag)
    ch.publish(b"m")
    ch.take()
    ch.ack(1)
    for tag in ("first", "none", "three"):
        c.pause()
        ch.cancel(tag)
        c.pause()
        ch.publish(b"m")
        ch.silent(0.1)
        ch.ack(ch.last_tag)
