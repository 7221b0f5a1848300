"""Consuming and getting: order, turns, prefetch, settlements, the redelivered flag."""

from __future__ import annotations

from rabbitry.protocol.wire import methods
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def filled(c: Conversation, count: int = 3, **arguments: object) -> Channel:
    """A channel, and its queue with messages that are confirmed."""
    ch = c.channel()
    ch.declare(arguments={name.replace("_", "-"): value for name, value in arguments.items()})
    ch.confirm()
    ch.publish_all(str(index).encode() for index in range(1, count + 1))
    return ch


def filled_quorum(c: Conversation, count: int = 3, **arguments: object) -> Channel:
    ch = c.channel()
    ch.quorum(arguments={name.replace("_", "-"): value for name, value in arguments.items()})
    ch.confirm()
    ch.publish_all(str(index).encode() for index in range(1, count + 1))
    return ch


@case
def get_counts_what_is_left(c: Conversation) -> None:
    ch = filled(c)
    ch.drain()


@case
def consume_what_is_there_and_what_comes(c: Conversation) -> None:
    ch = filled(c, 2)
    ch.consume()
    ch.take(2)
    ch.publish(b"later")
    ch.take()
    ch.count()


@case
def a_made_up_consumer_tag(c: Conversation) -> None:
    ch = filled(c, 1)
    ch.consume(tag="")
    ch.take()


@case
def consume_without_waiting_for_the_answer(c: Conversation) -> None:
    ch = filled(c, 1)
    ch.tell(methods.BasicConsume(queue=c.name("q"), consumer_tag="c", nowait=True))
    ch.take()


@case
def a_consumer_tag_is_used_again(c: Conversation) -> None:
    ch = filled(c, 0)
    ch.consume()
    ch.consume()


@case
def a_consumer_tag_of_another_channel(c: Conversation) -> None:
    connection = c.connect()
    ch = connection.channel()
    ch.declare()
    ch.consume()
    connection.channel().consume()


@case
def cancel_what_is_not_there(c: Conversation) -> None:
    ch = c.channel()
    ch.cancel("nobody")


@case
def cancel_leaves_the_unsettled(c: Conversation) -> None:
    ch = filled(c)
    ch.qos(2)
    ch.consume()
    ch.take(2)
    ch.cancel()
    ch.count()
    ch.ack(1)
    ch.nack(2)
    ch.drain()


@case
def an_exclusive_consumer_is_alone(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.consume(exclusive=True)
    c.channel().consume()
    c.channel().consume(exclusive=True)
    ch.cancel()
    c.channel().consume()
    c.channel().consume(exclusive=True)


@case
def the_consumers_take_turns(c: Conversation) -> None:
    ch = filled(c, 0)
    ch.consume(tag="a")
    ch.consume(tag="b")
    ch.consume(tag="c")
    ch.publish_all([b"1", b"2", b"3", b"4", b"5"])
    ch.take(5)


@case
def the_turn_goes_on_after_a_cancel(c: Conversation) -> None:
    ch = filled(c, 0)
    for tag in "abc":
        ch.consume(tag=tag)
    ch.publish(b"1")
    ch.cancel("b")
    ch.publish_all([b"2", b"3", b"4"])
    ch.take(4)


@case
def consumer_priorities(c: Conversation) -> None:
    ch = filled(c, 0)
    ch.qos(2)
    ch.consume(tag="low")
    ch.consume(tag="high", arguments={"x-priority": 10})
    ch.consume(tag="lower", arguments={"x-priority": -1})
    ch.publish_all([b"1", b"2", b"3", b"4", b"5", b"6"])
    ch.take(6)
    ch.publish(b"7")
    ch.ack(5)
    ch.take(1)


@case
def a_consumer_priority_that_is_none(c: Conversation) -> None:
    ch = filled(c, 0)
    ch.consume(arguments={"x-priority": "high"})


@case
def prefetch_of_each_consumer(c: Conversation) -> None:
    ch = filled(c, 7)
    ch.qos(2)
    ch.consume(tag="a")
    ch.take(2)
    ch.qos(1)
    ch.consume(tag="b")
    ch.take(1)
    ch.silent()
    ch.ack(1)
    ch.take(1)
    ch.ack(3)
    ch.take(1)
    ch.silent()


@case
def prefetch_does_not_count_what_needs_no_ack(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.qos(1)
    ch.consume(no_ack=True)
    ch.take(3)


@case
def prefetch_does_not_count_gets(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.qos(1)
    ch.get()
    ch.get()
    ch.consume()
    ch.take(1)


@case
def prefetch_in_bytes(c: Conversation) -> None:
    c.channel().qos(0, size=10)


@case
def acks_in_any_order(c: Conversation) -> None:
    ch = filled(c, 4)
    ch.consume()
    ch.take(4)
    ch.ack(3)
    ch.ack(1)
    ch.ack(4, multiple=True)
    ch.ack(2)


@case
def ack_all(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.consume()
    ch.take(3)
    ch.ack(0, multiple=True)
    ch.ack(0, multiple=True)
    ch.count()


@case
def ack_of_nothing(c: Conversation) -> None:
    c.channel().ack(0)
    c.channel().ack(7)
    c.channel().ack(7, multiple=True)
    c.channel().nack(7)
    c.channel().reject(7)


@case
def ack_multiple_of_a_settled_tag(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.consume()
    ch.take(3)
    ch.ack(2)
    ch.ack(2, multiple=True)


@case
def ack_of_what_needed_none(c: Conversation) -> None:
    ch = filled(c, 1)
    ch.get(no_ack=True)
    ch.ack(1)


@case
def gets_and_deliveries_share_their_tags(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.get()
    ch.qos(1)
    ch.consume()
    ch.take(1)
    ch.get()
    ch.ack(3, multiple=True)
    ch.silent()


@case
def nacked_messages_go_back_to_their_places(c: Conversation) -> None:
    ch = filled(c, 5)
    for _ in range(4):
        ch.get()
    ch.nack(3)
    ch.nack(1)
    ch.nack(4)
    ch.drain()
    ch.nack(2)
    ch.drain()


@case
def nacked_all_at_once(c: Conversation) -> None:
    ch = filled(c, 4)
    for _ in range(3):
        ch.get()
    ch.nack(3, multiple=True)
    ch.drain()


@case
def a_nacked_message_comes_again(c: Conversation) -> None:
    ch = filled(c, 2)
    ch.qos(1)
    ch.consume()
    ch.take(1)
    ch.nack(1)
    ch.take(1)
    ch.reject(2)
    ch.take(1)
    ch.ack(3)
    ch.take(1)


@case
def rejected_for_good(c: Conversation) -> None:
    ch = filled(c, 3)
    for _ in range(3):
        ch.get()
    ch.reject(1, requeue=False)
    ch.nack(3, multiple=True, requeue=False)
    ch.drain()


@case
def a_closed_channel_gives_back(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.publish_all([b"1", b"2", b"3"])
    other = c.channel()
    other.get()
    other.get()
    other.close()
    c.pause()
    ch.drain()


@case
def a_lost_connection_gives_back(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.publish_all([b"1", b"2", b"3"])
    other = c.channel()
    other.consume()
    other.take(3)
    other.connection.cut()
    c.pause(0.2)
    ch.drain()


@case
def a_refused_channel_gives_back(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.publish_all([b"1", b"2"])
    other = c.channel()
    other.get()
    other.ack(99)
    c.pause()
    ch.drain()


@case
def recovered(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.get()
    ch.get()
    ch.recover()
    c.pause()
    ch.drain()
    ch.ack(1)


@case
def recovered_to_a_consumer(c: Conversation) -> None:
    ch = filled(c, 2)
    ch.consume()
    ch.take(2)
    ch.recover()
    ch.take(2)


@case
def recovered_without_requeue(c: Conversation) -> None:
    c.channel().recover(False)


@case
def flow(c: Conversation) -> None:
    c.channel().request(methods.ChannelFlow(active=True))
    c.channel().request(methods.ChannelFlow(active=False))


@case
def messages_by_priority(c: Conversation) -> None:
    ch = filled(c, 0, x_max_priority=5)
    for body, priority in ((b"1", None), (b"2", 3), (b"3", 9), (b"4", 5), (b"5", 0), (b"6", 3)):
        ch.publish(body, priority=priority)
    ch.drain()


@case
def priorities_and_requeue(c: Conversation) -> None:
    ch = filled(c, 0, x_max_priority=5)
    for body, priority in ((b"1", 1), (b"2", 3), (b"3", 3)):
        ch.publish(body, priority=priority)
    ch.get()
    ch.nack(1)
    ch.drain()


@case
def a_single_active_consumer(c: Conversation) -> None:
    ch = filled(c, 0, x_single_active_consumer=True)
    for tag in "abc":
        ch.consume(tag=tag)
    ch.publish_all([b"1", b"2"])
    ch.take(2)
    ch.cancel("b")
    ch.cancel("a")
    ch.publish(b"3")
    ch.take(1)


@case
def a_single_active_consumer_at_its_prefetch(c: Conversation) -> None:
    ch = filled(c, 0, x_single_active_consumer=True)
    ch.qos(1)
    ch.consume(tag="a")
    ch.consume(tag="b")
    ch.publish_all([b"1", b"2"])
    ch.take(1)
    ch.silent()
    ch.ack(1)
    ch.take(1)


@case
def an_exclusive_consumer_where_one_is_active(c: Conversation) -> None:
    ch = filled(c, 0, x_single_active_consumer=True)
    ch.consume(exclusive=True)


@case
def a_quorum_queue_requeues_in_front(c: Conversation) -> None:
    ch = filled_quorum(c, 5)
    for _ in range(4):
        ch.get()
    ch.nack(3)
    c.pause()
    ch.nack(1)
    c.pause()
    ch.drain()


@case
def a_quorum_queue_counts_deliveries(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    for _ in range(3):
        ch.reject(ch.get())
        c.pause()
    ch.drain()


@case
def a_delivery_limit(c: Conversation) -> None:
    ch = filled_quorum(c, 1, x_delivery_limit=1)
    ch.reject(ch.get())
    c.pause()
    ch.reject(ch.get())
    c.pause()
    ch.drain()


@case
def a_quorum_queue_with_a_single_active_consumer_is_not_got_from(c: Conversation) -> None:
    ch = filled_quorum(c, 1, x_single_active_consumer=True)
    ch.get()


@case
def a_quorum_queue_delivers(c: Conversation) -> None:
    ch = filled_quorum(c, 2)
    ch.qos(1)
    ch.consume()
    ch.take(1)
    ch.ack(1)
    ch.take(1)


@case
def a_quorum_queue_is_deleted_conditionally(c: Conversation) -> None:
    c.channel().quorum()
    c.channel().delete(if_unused=True)
    c.channel().delete(if_empty=True)


@case
def direct_reply_to(c: Conversation) -> None:
    caller, server = c.channel(), c.channel()
    server.declare()
    caller.consume("amq.rabbitmq.reply-to", "replies", no_ack=True)
    caller.publish(b"request", reply_to="amq.rabbitmq.reply-to", correlation_id="1")
    c.pause()
    server.get()
    server.confirm()
    server.publish(b"reply", server.reply_to, correlation_id="1")
    server.publish(b"mandatory", server.reply_to, mandatory=True)
    caller.take(2)
    caller.ack(1)


@case
def direct_reply_to_is_wrongly_used(c: Conversation) -> None:
    c.channel().consume("amq.rabbitmq.reply-to", "replies")
    ch = c.channel()
    ch.publish(reply_to="amq.rabbitmq.reply-to")
    ch.sync()
    ch = c.channel()
    ch.consume("amq.rabbitmq.reply-to", "a", no_ack=True)
    ch.consume("amq.rabbitmq.reply-to", "b", no_ack=True)


@case
def direct_reply_to_is_declared(c: Conversation) -> None:
    c.channel().declare("amq.rabbitmq.reply-to", passive=True)
    c.channel().declare("amq.rabbitmq.reply-to.nobody", passive=True)


@case
def a_quorum_queue_and_a_closed_channel(c: Conversation) -> None:
    ch = filled_quorum(c, 2)
    other = c.channel()
    other.get()
    other.close()
    c.pause(0.2)
    ch.drain()


@case
def a_quorum_queue_is_recovered(c: Conversation) -> None:
    ch = filled_quorum(c, 3)
    ch.get()
    ch.get()
    ch.recover()
    c.pause(0.1)
    ch.drain()


@case
def a_quorum_queue_nacked_all_at_once(c: Conversation) -> None:
    ch = filled_quorum(c, 4)
    for _ in range(3):
        ch.get()
    ch.nack(3, multiple=True)
    c.pause(0.1)
    ch.drain()


@case
def the_default_delivery_limit(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    for index in range(1, 22):
        ch.request(methods.BasicGet(queue=c.name("q")), quiet=True)
        ch.reject(index)
        c.pause(0.03)
    ch.get()


@case
def a_delivery_limit_and_nacks(c: Conversation) -> None:
    ch = filled_quorum(c, 1, x_delivery_limit=1)
    for _ in range(4):
        ch.nack(ch.get())
        c.pause()


@case
def prefetch_of_the_channel(c: Conversation) -> None:
    ch = filled(c, 6)
    ch.qos(3, for_all=True)
    ch.consume(tag="a")
    ch.take(3)
    ch.consume(tag="b")
    ch.silent()
    ch.ack(2, multiple=True)
    ch.take(2)
    ch.silent()


@case
def prefetch_of_channel_and_consumer(c: Conversation) -> None:
    ch = filled(c, 6)
    ch.qos(3, for_all=True)
    ch.qos(2)
    ch.consume(tag="a")
    ch.take(2)
    ch.consume(tag="b")
    ch.take(1)
    ch.silent()


@case
def prefetch_of_the_channel_and_a_quorum_queue(c: Conversation) -> None:
    ch = filled_quorum(c, 2)
    ch.qos(1, for_all=True)
    ch.consume()
    ch.silent(0.1)


@case
def the_prefetch_of_the_channel_is_raised(c: Conversation) -> None:
    ch = filled(c, 4)
    ch.qos(1, for_all=True)
    ch.consume()
    ch.take(1)
    ch.qos(3, for_all=True)
    ch.silent()


@case
def consumer_counts(c: Conversation) -> None:
    ch = filled(c, 2)
    ch.consume(tag="a", no_ack=True)
    ch.consume(tag="b")
    ch.take(2)
    ch.count()
    ch.close()


@case
def a_quorum_queue_requeues_beside_a_consumer(c: Conversation) -> None:
    ch = filled_quorum(c, 4)
    ch.qos(2)
    ch.consume()
    ch.take(2)
    ch.nack(1)
    ch.take(1)
    ch.nack(2)
    ch.take(1)


@case
def a_quorum_queue_with_a_limit_requeues_in_front(c: Conversation) -> None:
    ch = filled_quorum(c, 4, x_delivery_limit=5)
    ch.get()
    ch.get()
    ch.nack(2)
    c.pause()
    ch.nack(1)
    c.pause()
    ch.drain()


@case
def consumers_of_two_queues_share_the_prefetch_of_the_channel(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("a")
    ch.declare("b")
    ch.confirm()
    ch.publish_all([b"a1", b"a2"], "a")
    ch.publish_all([b"b1", b"b2"], "b")
    ch.qos(2, for_all=True)
    ch.consume("a", "a")
    ch.take(2)
    ch.consume("b", "b")
    ch.silent()
    ch.ack(2, multiple=True)
    ch.take(2)


@case
def a_reply_to_a_caller_who_has_gone(c: Conversation) -> None:
    caller, server = c.channel(), c.channel()
    server.declare()
    caller.consume("amq.rabbitmq.reply-to", "replies", no_ack=True)
    caller.publish(b"request", reply_to="amq.rabbitmq.reply-to")
    c.pause()
    server.get()
    caller.close()
    server.confirm()
    server.publish(b"reply", server.reply_to)
    server.publish(b"mandatory", server.reply_to, mandatory=True)
    server.silent()


@case
def a_reply_by_another_exchange(c: Conversation) -> None:
    caller, server = c.channel(), c.channel()
    server.declare()
    caller.consume("amq.rabbitmq.reply-to", "replies", no_ack=True)
    caller.publish(b"request", reply_to="amq.rabbitmq.reply-to")
    c.pause()
    server.get()
    server.publish(b"reply", server.reply_to, "amq.direct", mandatory=True)
    server.silent()
    caller.silent()


@case
def a_reply_consumer_is_cancelled(c: Conversation) -> None:
    ch = c.channel()
    ch.consume("amq.rabbitmq.reply-to", "replies", no_ack=True)
    ch.cancel("replies")
    ch.consume("amq.rabbitmq.reply-to", "again", no_ack=True)
    ch.cancel("again")
    ch.publish(b"request", reply_to="amq.rabbitmq.reply-to")
    ch.sync()


@case
def addresses_of_replies_that_are_none(c: Conversation) -> None:
    for name in ("", ".", ".1", ".a.b.c"):
        ch = c.channel()
        ch.confirm()
        ch.publish(b"reply", "amq.rabbitmq.reply-to" + name, mandatory=True)
        ch.silent()


@case
def the_pseudo_queue_of_replies_is_no_queue(c: Conversation) -> None:
    c.channel().get("amq.rabbitmq.reply-to")
    c.channel().purge("amq.rabbitmq.reply-to")
    c.channel().bind("amq.rabbitmq.reply-to", "amq.direct", "k")
    c.channel().delete("amq.rabbitmq.reply-to")


@case
def addresses_of_replies_that_nobody_made(c: Conversation) -> None:
    for name in (".a.b", ".abcd.efgh", ".g1h2AA5yZXBseUAxNDUyMTMxNgAAArYAAAAAawx6jg==.AAAA"):
        ch = c.channel()
        ch.confirm()
        ch.publish(b"reply", "amq.rabbitmq.reply-to" + name, mandatory=True)
        ch.silent()


@case
def a_delivery_limit_below_zero_is_none(c: Conversation) -> None:
    ch = filled_quorum(c, 1, x_delivery_limit=-1)
    for index in range(1, 24):
        ch.request(methods.BasicGet(queue=c.name("q")), quiet=True)
        ch.reject(index)
        c.pause(0.03)
    ch.get()


@case
def a_delivery_limit_of_zero(c: Conversation) -> None:
    ch = filled_quorum(c, 2, x_delivery_limit=0)
    ch.reject(ch.get())
    c.pause()
    ch.drain()


# --- what random sequences have shown --------------------------------------------------------------------------------


@case
def an_exclusive_consumer_of_a_quorum_queue(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    ch.consume(tag="1", exclusive=True)
    ch.take()
    c.channel().consume(tag="2")
    c.channel().consume(tag="3", exclusive=True)


@case
def an_exclusive_consumer_of_a_quorum_queue_with_a_single_active_consumer(c: Conversation) -> None:
    ch = filled_quorum(c, 0, x_single_active_consumer=True)
    ch.consume(tag="1")
    ch.consume(tag="2", exclusive=True)
    ch.count()


@case
def a_quorum_queue_counts_who_has_something_to_settle(c: Conversation) -> None:
    ch = filled_quorum(c, 4)
    ch.get()
    ch.count()
    ch.qos(2)
    ch.consume()
    ch.take(2)
    ch.count()
    ch.cancel()
    ch.count()
    ch.ack(1)
    ch.count()
    ch.nack(3, multiple=True)
    c.pause(0.1)
    ch.count()


@case
def a_quorum_queue_knows_a_consumer_again_that_has_something_to_settle(c: Conversation) -> None:
    ch = filled_quorum(c, 4)
    ch.qos(1)
    ch.consume()
    ch.take()
    ch.cancel()
    ch.qos(2)
    ch.consume()
    ch.take()
    ch.silent()
    ch.count()
    ch.ack(1)
    ch.take()


def a_quorum_queue_counts_a_get_and_a_consumer(c: Conversation, tag: str) -> None:
    ch = filled_quorum(c, 1)
    ch.get()
    ch.consume(tag=tag)
    ch.count()


@case
def a_quorum_queue_counts_a_consumer_that_is_called_as_a_get_is_numbered(c: Conversation) -> None:
    a_quorum_queue_counts_a_get_and_a_consumer(c, "1")


@case
def a_quorum_queue_counts_a_consumer_and_a_get(c: Conversation) -> None:
    a_quorum_queue_counts_a_get_and_a_consumer(c, "one")


@case
def a_quorum_queue_counts_what_expires_next(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    ch.publish(b"2", expiration="0")
    ch.publish(b"3")
    ch.get()
    ch.count()


@case
def a_quorum_queue_does_not_count_what_expires_next(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    ch.publish(b"2", expiration="0")
    ch.publish(b"3")
    ch.get(no_ack=True)
    ch.count()


@case
def one_prefetch_takes_away_the_other(c: Conversation) -> None:
    ch = filled(c, 6)
    ch.get()
    ch.qos(2, for_all=True)
    ch.consume(tag="1")
    ch.take()
    ch.silent()
    ch.qos(4)
    ch.take()
    ch.consume(tag="2")
    ch.silent()


@case
def what_needs_no_ack_waits_for_the_prefetch_of_the_channel(c: Conversation) -> None:
    ch = filled(c, 3)
    ch.qos(1, for_all=True)
    ch.consume(tag="1")
    ch.take()
    ch.consume(tag="2", no_ack=True)
    ch.silent()
    ch.ack(1)
    ch.silent(0.1)


@case
def a_quorum_queues_consumer_leaves_the_turn_at_its_prefetch(c: Conversation) -> None:
    ch = filled_quorum(c, 1)
    ch.qos(1)
    ch.consume(tag="1")
    ch.take()
    ch.consume(tag="2")
    ch.nack(1)
    ch.take()


@case
def a_transaction_gives_back_in_order(c: Conversation) -> None:
    for declare in (Channel.durable, Channel.quorum):
        ch = c.channel()
        declare(ch, declare.__name__)
        ch.confirm()
        ch.publish_all([b"1", b"2", b"3"], declare.__name__)
        other = c.channel()
        other.request(methods.TxSelect())
        other.get(declare.__name__)
        other.get(declare.__name__)
        other.ack(1)
        other.close()
        c.pause(0.1)
        ch.drain(declare.__name__)


@case
def a_quorum_queue_comes_back_as_a_classic_one(c: Conversation) -> None:
    ch, other = filled_quorum(c, 1), c.channel()
    ch.get(no_ack=True)
    other.delete()
    c.pause(0.1)
    other.durable()
    ch.get()


@case
def a_classic_queue_comes_back_as_a_quorum_one(c: Conversation) -> None:
    ch, other = c.channel(), c.channel()
    ch.durable()
    ch.get(no_ack=True)
    other.delete()
    c.pause(0.1)
    other.quorum()
    ch.get()
    other.delete()
    c.pause(0.1)
    other.durable()
    ch.get()


@case
def a_quorum_queue_comes_back_as_a_classic_one_in_a_transaction(c: Conversation) -> None:
    ch, other = c.channel(), c.channel()
    ch.quorum()
    ch.get(no_ack=True)
    ch.request(methods.TxSelect())
    other.delete()
    c.pause(0.1)
    other.durable()
    ch.publish(b"1")
    ch.request(methods.TxCommit())


@case
def the_next_single_active_consumer(c: Conversation) -> None:
    for declare in (Channel.durable, Channel.quorum):
        name = declare.__name__
        ch = c.channel()
        declare(ch, name, {"x-single-active-consumer": True})
        ch.confirm()
        for tag, priority in (("first", 0), ("low", -1), ("high", 1), ("high too", 1)):
            ch.consume(name, tag, {"x-priority": priority})
        ch.publish(b"1", name)
        ch.take()
        ch.ack(1)
        c.pause(0.1)
        ch.cancel("first")
        c.pause(0.1)
        ch.publish(b"2", name)
        ch.take()


@case
def a_single_active_consumer_and_one_of_higher_priority(c: Conversation) -> None:
    for declare in (Channel.durable, Channel.quorum):
        name = declare.__name__
        ch = c.channel()
        declare(ch, name, {"x-single-active-consumer": True})
        ch.confirm()
        ch.consume(name, "low", {"x-priority": -1})
        ch.publish(b"1", name)
        ch.take()
        ch.consume(name, "high")
        ch.publish(b"2", name)
        ch.silent()
        ch.ack(1)
        c.pause(0.1)
        ch.publish(b"3", name)
        ch.silent(0.1)


@case
def what_was_got_comes_back_ahead_of_what_was_delivered(c: Conversation) -> None:
    ch = filled(c, 1, x_max_length=1)
    ch.get()
    ch.publish(b"2")
    ch.consume()
    ch.take()
    ch.recover()
    ch.silent(0.2)
