"""Limits, expiry and dead letters."""

from __future__ import annotations

from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def with_dead_letters(c: Conversation, **arguments: object) -> Channel:
    """Queue "q", whose dead go by the exchange "dlx" to the queue "dead"."""
    ch = c.channel()
    ch.exchange("dlx", "fanout")
    ch.declare("dead")
    ch.bind("dead", "dlx")
    table = {name.replace("_", "-"): value for name, value in arguments.items()}
    ch.declare("q", {"x-dead-letter-exchange": "dlx", **table})
    ch.confirm()
    return ch


@case
def no_time_at_all(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-message-ttl": 0})
    ch.confirm()
    ch.publish(b"nobody is there")
    ch.get()
    ch.consume()
    ch.publish(b"somebody is")
    ch.take()


@case
def an_expiration_of_zero(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.confirm()
    ch.publish(expiration="0")
    ch.get()
    ch.consume()
    ch.publish(expiration="0")
    ch.take()


@case
def what_has_expired_as_it_comes_back_takes_nobodys_turn(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.confirm()
    ch.consume(tag="a")
    ch.publish(b"1")
    ch.publish(b"gone by then", expiration="0")
    ch.take(2)
    ch.consume(tag="b")
    ch.recover()
    ch.take()
    ch.publish_all([b"2", b"3", b"4"])
    ch.take(3)


@case
def what_has_expired_in_a_quorum_queue_as_it_comes_back_takes_nobodys_turn(c: Conversation) -> None:
    ch = c.channel()
    ch.quorum()
    ch.confirm()
    ch.consume(tag="a")
    ch.publish(b"1")
    ch.publish(b"gone by then", expiration="100")
    ch.take(2)
    ch.consume(tag="b")
    c.pause(0.3)
    ch.recover()
    ch.take()
    ch.publish_all([b"2", b"3", b"4"])
    ch.take(3)


def by_priority(c: Conversation) -> Channel:
    """A channel, and its queue with a message of priority 1 that stays."""
    ch = c.channel()
    ch.declare(arguments={"x-max-priority": 3})
    ch.confirm()
    ch.publish(b"1", priority=1)
    return ch


@case
def what_is_behind_a_higher_priority_does_not_expire(c: Conversation) -> None:
    ch = by_priority(c)
    ch.publish(b"2", expiration="0")
    ch.publish(b"3", priority=9)
    ch.count()
    c.pause(0.1)
    ch.count()
    ch.get()
    ch.count()
    ch.get()
    ch.count()


@case
def what_goes_ahead_by_its_priority_is_not_seen_to_expire(c: Conversation) -> None:
    ch = by_priority(c)
    ch.publish(b"2", priority=2, expiration="0")
    ch.count()
    ch.publish(b"3", priority=1, expiration="50")
    c.pause(0.1)
    ch.count()
    ch.drain()


@case
def what_goes_ahead_by_its_priority_expires_when_something_else_is_taken(c: Conversation) -> None:
    ch = by_priority(c)
    ch.publish(b"2", priority=2, expiration="0")
    ch.publish(b"3", priority=3)
    ch.get()
    ch.count()
    ch.nack(1)
    ch.count()
    ch.drain()


@case
def what_goes_ahead_by_its_priority_is_delivered_though_expired(c: Conversation) -> None:
    ch = by_priority(c)
    ch.publish(b"2", priority=2, expiration="0")
    ch.publish(b"3")
    ch.consume()
    ch.take(3)


@case
def what_becomes_the_head_by_a_delivery_expires_first(c: Conversation) -> None:
    ch = by_priority(c)
    ch.publish(b"2", priority=1, expiration="0")
    ch.publish(b"3")
    ch.consume()
    ch.take(2)
    ch.silent()


@case
def priorities_and_expiry_where_the_length_is_limited(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-priority": 3, "x-max-length": 2})
    ch.confirm()
    ch.publish(b"1", priority=1)
    ch.publish(b"2", priority=2, expiration="0")
    ch.publish(b"3", priority=3, expiration="0")
    ch.count()
    ch.drain()


@case
def only_the_head_expires(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.confirm()
    ch.publish(b"1")
    ch.publish(b"2", expiration="0")
    ch.count()
    ch.drain()


@case
def the_shorter_time_counts(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-message-ttl": 100})
    ch.confirm()
    ch.publish(b"1", expiration="60000")
    c.pause(0.3)
    ch.count()


@case
def a_queue_expires(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-expires": 100})
    c.pause(0.4)
    ch.declare(passive=True)


@case
def a_queue_in_use_does_not_expire(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-expires": 100})
    ch.consume()
    c.pause(0.4)
    ch.declare(passive=True)


@case
def the_head_is_dropped(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 2})
    ch.confirm()
    ch.publish_all([b"1", b"2", b"3", b"4"])
    ch.drain()


@case
def no_length_at_all(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 0})
    ch.confirm()
    ch.publish(b"1")
    ch.count()
    ch.consume()
    ch.publish(b"2")
    ch.take()


@case
def a_limit_of_bytes(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length-bytes": 10})
    ch.confirm()
    ch.publish_all([b"x" * 4, b"y" * 4, b"z" * 4, b"w" * 20])
    ch.drain()


@case
def a_full_queue_rejects(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    ch.confirm()
    ch.publish_all([b"1", b"2"])
    ch.drain()
    ch.publish(b"3")
    ch.drain()


@case
def one_full_queue_of_two_rejects(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("full", {"x-max-length": 0, "x-overflow": "reject-publish"})
    ch.declare("q")
    ch.bind("full", "amq.fanout")
    ch.bind("q", "amq.fanout")
    ch.confirm()
    ch.publish(b"1", exchange="amq.fanout")
    ch.drain("full")
    ch.drain("q")


@case
def a_full_queue_rejects_and_dead_letters(c: Conversation) -> None:
    ch = with_dead_letters(c, x_max_length=1, x_overflow="reject-publish-dlx")
    ch.publish_all([b"1", b"2"])
    c.pause()
    ch.drain("q")
    ch.drain("dead")


@case
def what_is_out_does_not_count_until_it_comes_back(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 1})
    ch.confirm()
    ch.publish(b"1")
    ch.get()
    ch.publish(b"2")
    ch.count()
    ch.nack(1)
    ch.count()
    ch.drain()


@case
def the_limit_drops_the_lowest_priority(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(arguments={"x-max-length": 2, "x-max-priority": 5})
    ch.confirm()
    for body, priority in ((b"1", 5), (b"2", 1), (b"3", 3), (b"4", 0)):
        ch.publish(body, priority=priority)
    ch.drain()


@case
def rejected_messages_are_dead_lettered(c: Conversation) -> None:
    ch = with_dead_letters(c)
    ch.publish(b"1", headers={"h": 1}, message_id="id", expiration="60000")
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def expired_messages_are_dead_lettered(c: Conversation) -> None:
    ch = with_dead_letters(c)
    ch.publish(b"1", expiration="0")
    c.pause()
    ch.drain("dead")


@case
def messages_too_many_are_dead_lettered(c: Conversation) -> None:
    ch = with_dead_letters(c, x_max_length=1)
    ch.publish_all([b"1", b"2", b"3"])
    c.pause()
    ch.drain("dead")


@case
def purged_and_deleted_messages_are_not_dead_lettered(c: Conversation) -> None:
    ch = with_dead_letters(c)
    ch.publish(b"1")
    ch.purge()
    ch.publish(b"2")
    ch.delete()
    ch.count("dead")


@case
def dead_letters_with_another_key(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("dlx", "direct")
    ch.declare("dead")
    ch.bind("dead", "dlx", "other")
    ch.declare("q", {"x-dead-letter-exchange": "dlx", "x-dead-letter-routing-key": "other"})
    ch.confirm()
    ch.publish(b"1", headers={"CC": ["copy"]})
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def dead_letters_keep_their_copies(c: Conversation) -> None:
    ch = with_dead_letters(c)
    ch.publish(b"1", headers={"CC": ["copy"], "BCC": ["blind"]})
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def the_dead_letter_exchange_is_missing(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("q", {"x-dead-letter-exchange": "missing"})
    ch.confirm()
    ch.publish(b"1")
    ch.reject(ch.get(), requeue=False)
    ch.count()


@case
def dead_letters_by_the_default_exchange(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("dead")
    ch.declare("q", {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("dead")})
    ch.confirm()
    ch.publish(b"1")
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def died_twice_in_two_queues(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("dlx", "fanout")
    ch.exchange("second", "fanout")
    ch.declare("dead")
    ch.bind("dead", "second")
    ch.declare("middle", {"x-dead-letter-exchange": "second"})
    ch.bind("middle", "dlx")
    ch.declare("q", {"x-dead-letter-exchange": "dlx"})
    ch.confirm()
    ch.publish(b"1", expiration="0")
    c.pause()
    ch.reject(ch.get("middle"), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def died_twice_in_the_same_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("q", {"x-dead-letter-exchange": ""})
    ch.confirm()
    ch.publish(b"1")
    for _ in range(2):
        ch.reject(ch.get(), requeue=False)
        c.pause()
    ch.drain("q")


@case
def a_circle_without_a_rejection_ends(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("q", {"x-dead-letter-exchange": ""})
    ch.confirm()
    ch.publish(b"1", expiration="0")
    ch.count()


@case
def somebodys_own_x_death(c: Conversation) -> None:
    ch = with_dead_letters(c)
    death = {"count": 3, "reason": "rejected", "queue": c.name("q"), "exchange": "", "routing-keys": ["k"]}
    ch.publish(b"1", headers={"x-death": [death]})
    ch.reject(ch.get(), requeue=False)
    c.pause()
    ch.drain("dead")


@case
def somebodys_own_x_death_that_says_nothing(c: Conversation) -> None:
    """No death is the first one where there is an x-death, as clients send it that write it as text, say."""
    ch = with_dead_letters(c)
    for value in ([], "[{queue=q, count=1}]", 5, {"count": 1}):
        ch.publish(b"1", headers={"x-death": value})
        ch.reject(ch.get(), requeue=False)
        c.pause()
        ch.drain("dead")


@case
def a_delivery_limit_dead_letters(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("dlx", "fanout")
    ch.declare("dead")
    ch.bind("dead", "dlx")
    ch.quorum("q", {"x-dead-letter-exchange": "dlx", "x-delivery-limit": 1})
    ch.confirm()
    ch.publish(b"1")
    for _ in range(2):
        ch.reject(ch.get())
        c.pause()
    ch.drain("dead")


@case
def what_a_publish_drops_comes_behind_it(c: Conversation) -> None:
    """Of two queues that get a message one drops its head for it, which goes to the other."""
    ch = c.channel()
    ch.exchange("x", "fanout")
    ch.declare("drops", {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("all")})
    ch.declare("all")
    ch.bind("drops", "x")
    ch.bind("all", "x")
    ch.publish(b"1", "", exchange="x")
    c.pause(0.2)
    ch.publish(b"2", "", exchange="x")
    c.pause(0.2)
    ch.drain("all")


@case
def dead_letters_of_a_quorum_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("dlx", "fanout")
    ch.declare("dead")
    ch.bind("dead", "dlx")
    ch.quorum("q", {"x-dead-letter-exchange": "dlx"})
    ch.confirm()
    ch.publish(b"1", expiration="60000", headers={"h": 1})
    ch.reject(ch.get(), requeue=False)
    c.pause(0.2)
    ch.drain("dead")


@case
def a_quorum_queue_drops_its_head(c: Conversation) -> None:
    ch = c.channel()
    ch.quorum("q", {"x-max-length": 2})
    ch.confirm()
    ch.publish_all([b"1", b"2", b"3"])
    c.pause(0.2)
    ch.drain()
