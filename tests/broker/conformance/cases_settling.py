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


def held_by_two_consumers(c: Conversation, *, is_quorum: bool, prefetch: int = 0) -> tuple[Channel, Channel]:
    """A channel whose consumers "b" and "a", in this order, hold two messages each, in turns, and another channel."""
    ch = c.channel()
    if is_quorum:
        ch.quorum()
    else:
        ch.durable()
    ch.confirm()
    if prefetch:
        ch.qos(prefetch)
    for tag in ("b", "a"):
        ch.consume(tag=tag)
    for number in range(1, 5):
        ch.publish(b"%d" % number)
        ch.take()
    return ch, c.channel()


def given_back_by_two_consumers(c: Conversation, *, is_quorum: bool) -> tuple[Channel, Channel]:
    """What `held_by_two_consumers` has, and another channel that takes all that comes back."""
    ch, other = held_by_two_consumers(c, is_quorum=is_quorum)
    other.consume(tag="high", arguments={"x-priority": 1})
    return ch, other


@case
def two_consumers_of_a_channel_recover(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=False)
    ch.recover()
    other.take(4)


@case
def two_consumers_of_a_channel_recover_what_a_quorum_queue_gave_them(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=True)
    ch.recover()
    other.take(4)


@case
def two_consumers_of_a_channel_nack_at_once(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=False)
    ch.nack(4, multiple=True)
    other.take(4)


@case
def two_consumers_of_a_channel_nack_at_once_what_a_quorum_queue_gave_them(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=True)
    ch.nack(4, multiple=True)
    other.take(4)


@case
def two_consumers_of_a_channel_that_closes(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=False)
    ch.close()
    other.take(4)


@case
def two_consumers_of_a_channel_that_closes_had_messages_of_a_quorum_queue(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=True)
    ch.close()
    other.take(4)


@case
def two_consumers_of_a_channel_that_fails_had_messages_of_a_quorum_queue(c: Conversation) -> None:
    ch, other = given_back_by_two_consumers(c, is_quorum=True)
    ch.ack(99)
    other.take(4)


def given_back_after_gets(c: Conversation, *, is_quorum: bool) -> tuple[Channel, Channel]:
    """A channel that has got a message, was delivered two and got ten more; another takes what comes back."""
    ch, other = c.channel(), c.channel()
    if is_quorum:
        ch.quorum()
    else:
        ch.durable()
    ch.confirm()
    ch.publish(b"1")
    ch.get()
    ch.consume(tag="a")
    ch.publish_all([b"2", b"3"])
    ch.take(2)
    ch.cancel("a")
    ch.publish_all(b"%d" % number for number in range(4, 14))
    c.pause()
    for _ in range(10):
        ch.get()
    other.consume(tag="high")
    return ch, other


@case
def what_was_got_and_delivered_is_recovered(c: Conversation) -> None:
    ch, other = given_back_after_gets(c, is_quorum=False)
    ch.recover()
    other.take(13)


@case
def what_was_got_and_delivered_of_a_quorum_queue_is_recovered(c: Conversation) -> None:
    ch, other = given_back_after_gets(c, is_quorum=True)
    ch.recover()
    other.take(13)


@case
def what_was_got_and_delivered_of_a_quorum_queue_when_its_channel_closes(c: Conversation) -> None:
    ch, other = given_back_after_gets(c, is_quorum=True)
    ch.close()
    other.take(13)


@case
def two_consumers_of_a_channel_acknowledge_at_once(c: Conversation) -> None:
    ch, _ = held_by_two_consumers(c, is_quorum=False, prefetch=2)
    ch.publish_all(b"%d" % number for number in range(5, 9))
    ch.silent(0.1)
    ch.ack(4, multiple=True)
    ch.take(4)


@case
def two_consumers_of_a_channel_acknowledge_at_once_what_a_quorum_queue_gave_them(c: Conversation) -> None:
    ch, _ = held_by_two_consumers(c, is_quorum=True, prefetch=2)
    ch.publish_all(b"%d" % number for number in range(5, 9))
    ch.silent(0.1)
    ch.ack(4, multiple=True)
    ch.take(4)


@case
def two_queues_are_recovered_to_their_consumers(c: Conversation) -> None:
    """Each to a channel of its own: which queue is faster is up to chance."""
    ch, others = c.channel(), [c.channel(), c.channel()]
    ch.confirm()
    for queue, other in zip(("y", "x"), others, strict=True):
        ch.durable(queue)
        ch.consume(queue, queue)
        ch.publish(queue.encode(), queue)
        ch.take()
        other.consume(queue, f"high {queue}", {"x-priority": 1})
    ch.recover()
    for other in others:
        other.take()


@case
def a_publisher_ends_while_nobody_is_the_single_active_consumer(c: Conversation) -> None:
    ch, publisher, other = c.channel(), c.channel(), c.channel()
    ch.quorum(arguments={"x-single-active-consumer": True})
    publisher.confirm()
    publisher.publish(b"1")
    ch.consume(tag="low")
    ch.take()
    other.consume(tag="high", arguments={"x-priority": 1})
    ch.recover()
    ch.silent(0.2)
    other.silent(0.2)
    publisher.close()
    ch.silent(0.2)
    other.silent(0.2)


def a_connection_ends_over_a_command(c: Conversation, holder: int, consumer: int) -> None:
    """Of its second channel: the quorum queue's consumer on the other one gets what this one had, or the other way
    round; the count of deliveries tells.
    """
    watcher = c.channel()
    watcher.quorum()
    watcher.publish(b"1")
    c.pause(0.2)
    connection = c.connect()
    channels = {number: connection.channel(number) for number in (1, 2)}
    channels[holder].get()
    channels[consumer].consume()
    channels[2].publish(b"2", immediate=True)
    c.pause(0.3)
    watcher.get()


@case
def a_connection_ends_over_a_command_of_who_holds_a_delivery(c: Conversation) -> None:
    a_connection_ends_over_a_command(c, 2, 1)


@case
def a_connection_ends_over_a_command_of_who_consumes(c: Conversation) -> None:
    a_connection_ends_over_a_command(c, 1, 2)


def commit_to_a_queue_that_is_gone(c: Conversation, kind: str) -> None:
    ch, other = c.channel(), c.channel()
    ch.durable(arguments={"x-queue-type": kind})
    ch.request(methods.TxSelect())
    ch.publish(b"1")
    other.delete()
    ch.request(methods.TxCommit())


@case
def a_classic_queue_is_gone_before_the_commit(c: Conversation) -> None:
    commit_to_a_queue_that_is_gone(c, "classic")


@case
def a_quorum_queue_is_gone_before_the_commit(c: Conversation) -> None:
    commit_to_a_queue_that_is_gone(c, "quorum")


@case
def a_stream_is_gone_before_the_commit(c: Conversation) -> None:
    commit_to_a_queue_that_is_gone(c, "stream")


@case
def a_queue_is_there_before_the_commit(c: Conversation) -> None:
    """But not when what is for it was published."""
    ch, other = c.channel(), c.channel()
    ch.request(methods.TxSelect())
    ch.publish(b"1", "late", mandatory=True)
    other.declare("late")
    ch.publish(b"2", "late", mandatory=True)
    ch.request(methods.TxCommit())
    ch.silent(0.2)
    other.drain("late")


def settled_and_published_in_a_transaction(c: Conversation, kind: str, outcome: str) -> None:
    """A consumer that may hold one message settles it and publishes two, for which another consumer waits, too."""
    ch, other = c.channel(), c.channel()
    ch.durable(arguments={"x-queue-type": kind})
    ch.publish(b"1")
    ch.qos(1)
    ch.consume(tag="limited")
    ch.take()
    other.consume(tag="free")
    ch.request(methods.TxSelect())
    if outcome == "ack":
        ch.tell(methods.BasicAck(delivery_tag=1))
    else:
        ch.tell(methods.BasicReject(delivery_tag=1, requeue=outcome == "requeue"))
    ch.publish(b"2")
    ch.publish(b"3")
    ch.request(methods.TxCommit())
    c.pause(0.2)
    ch.silent()
    other.silent()


@case
def given_back_and_published_in_a_transaction(c: Conversation) -> None:
    """No case of a classic queue's acknowledgement, nor of a quorum queue: whether RabbitMQ heeds the settlement or the
    first message first there depends on how busy it is; see `test_a_commit_to_a_quorum_queue`.
    """
    settled_and_published_in_a_transaction(c, "classic", "requeue")


@case
def recovered_to_a_channel_with_a_limit(c: Conversation) -> None:
    """What comes back counts twice for a moment."""
    ch = filled(c, 2)
    ch.qos(3, for_all=True)
    ch.consume()
    ch.take(2)
    ch.recover()
    ch.take(2)
