"""Queues, exchanges and bindings: declaring, declaring again, deleting, and what is refused."""

from __future__ import annotations

from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.tables import SIZED_INTS
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Conversation

# --- queues ----------------------------------------------------------------------------------------------------------


@case
def a_queue_is_declared_twice_and_deleted_twice(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.durable()
    ch.delete()
    ch.delete()


@case
def a_server_named_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("")
    ch.declare("", passive=True)
    ch.bind("", "amq.fanout")
    ch.purge("")
    ch.delete("")


@case
def no_queue_was_declared_before_purge(c: Conversation) -> None:
    c.channel().purge("")


@case
def no_queue_was_declared_before_bind(c: Conversation) -> None:
    c.channel().bind("", "amq.fanout")


@case
def no_queue_was_declared_before_consume(c: Conversation) -> None:
    c.channel().consume("")


@case
def no_queue_was_declared_before_get(c: Conversation) -> None:
    c.channel().get("")


@case
def no_queue_was_declared_before_delete(c: Conversation) -> None:
    c.channel().delete("")


@case
def no_queue_was_declared_before_passive(c: Conversation) -> None:
    c.channel().declare("", passive=True)


@case
def passive_declare_of_a_missing_queue(c: Conversation) -> None:
    c.channel().declare("missing", passive=True)


@case
def get_purge_consume_of_a_missing_queue(c: Conversation) -> None:
    c.channel().get("missing")
    c.channel().purge("missing")
    c.channel().consume("missing")


@case
def redeclared_durable(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.declare(durable=False)


@case
def redeclared_auto_delete(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.declare(durable=True, auto_delete=True)


@case
def redeclared_exclusive(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.declare(durable=True, exclusive=True)


@case
def redeclared_not_exclusive(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.declare(durable=False)


@case
def an_exclusive_queue_that_was_declared_durable(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(durable=True, exclusive=True)
    ch.declare(durable=True, exclusive=True)


@case
def an_exclusive_queue_is_as_durable_as_its_connection(c: Conversation) -> None:
    """Which of the two it was declared as makes no difference."""
    ch = c.channel()
    ch.declare("a", durable=True, exclusive=True)
    ch.declare("a", exclusive=True)
    ch.declare("b", exclusive=True)
    ch.declare("b", durable=True, exclusive=True)
    ch.declare("b", durable=True, exclusive=True, auto_delete=True)


@case
def redeclared_with_an_argument_more(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.durable(arguments={"x-max-length": 5})


@case
def redeclared_with_an_argument_less(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-message-ttl": 60000})
    ch.durable()


@case
def redeclared_with_another_value(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-dead-letter-exchange": "a"})
    ch.durable(arguments={"x-dead-letter-exchange": "b"})


@case
def redeclared_with_a_large_number(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-max-length-bytes": 5})
    ch.durable(arguments={"x-max-length-bytes": 5_000_000_000})


@case
def redeclared_with_an_unknown_argument(c: Conversation) -> None:
    ch = c.channel()
    ch.durable(arguments={"x-unknown": 1})
    ch.durable(arguments={"x-unknown": 2})


@case
def redeclared_with_the_type_it_has(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.durable(arguments={"x-queue-type": "classic"})


@case
def redeclared_with_another_type(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.durable(arguments={"x-queue-type": "quorum"})


@case
def a_name_of_the_brokers_own(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("amq.mine")
    c.channel().exchange("amq.mine")


@case
def line_breaks_in_names(c: Conversation) -> None:
    ch = c.channel()
    ch.declare("two\r\nlines")
    ch.declare("twolines", passive=True)


def invalid(c: Conversation, **arguments: object) -> None:
    c.channel().declare(arguments={name.replace("_", "-"): value for name, value in arguments.items()})


@case
def invalid_max_length(c: Conversation) -> None:
    invalid(c, x_max_length=-5)
    invalid(c, x_max_length="5")
    invalid(c, x_max_length=True)
    invalid(c, x_max_length_bytes=-1)


@case
def invalid_times(c: Conversation) -> None:
    invalid(c, x_message_ttl=-1)
    invalid(c, x_message_ttl="abc")
    invalid(c, x_expires=0)
    invalid(c, x_expires=-1)
    invalid(c, x_expires="1000")


@case
def times_that_are_too_long(c: Conversation) -> None:
    invalid(c, x_message_ttl=315_360_000_001)
    invalid(c, x_expires=315_360_000_001)


@case
def invalid_dead_letters(c: Conversation) -> None:
    invalid(c, x_dead_letter_exchange=5)
    invalid(c, x_dead_letter_routing_key="k")
    invalid(c, x_dead_letter_exchange="", x_dead_letter_routing_key=5)


@case
def invalid_priorities(c: Conversation) -> None:
    invalid(c, x_max_priority=256)
    invalid(c, x_max_priority=-1)
    invalid(c, x_max_priority="5")


@case
def invalid_overflow(c: Conversation) -> None:
    invalid(c, x_overflow="drop-tail")
    invalid(c, x_overflow=1)


@case
def invalid_single_active_consumer(c: Conversation) -> None:
    invalid(c, x_single_active_consumer=1)


@case
def invalid_queue_type(c: Conversation) -> None:
    invalid(c, x_queue_type="fifo")
    invalid(c, x_queue_type=5)


@case
def a_quorum_queue_is_declared(c: Conversation) -> None:
    ch = c.channel()
    ch.quorum()
    ch.quorum()
    ch.confirm()
    ch.publish()
    ch.get()
    ch.delete()


@case
def what_a_quorum_queue_may_not_be(c: Conversation) -> None:
    c.channel().declare(arguments={"x-queue-type": "quorum"})
    c.channel().declare(arguments={"x-queue-type": "quorum"}, durable=False)
    c.channel().declare(arguments={"x-queue-type": "quorum"}, durable=True, auto_delete=True)


@case
def arguments_that_a_quorum_queue_does_not_know(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-max-priority": 5})


@case
def a_classic_queue_knows_no_delivery_limit(c: Conversation) -> None:
    c.channel().declare(arguments={"x-delivery-limit": 5})


@case
def an_exclusive_queue_is_locked(c: Conversation) -> None:
    c.channel().declare()
    c.channel().declare(passive=True)
    c.channel().declare()
    c.channel().get()
    c.channel().consume()
    c.channel().purge()
    c.channel().delete()
    c.channel().bind("q", "amq.direct", "k")


@case
def an_exclusive_queue_goes_with_its_connection(c: Conversation) -> None:
    connection = c.connect()
    connection.channel().declare()
    connection.send_method(0, methods.ConnectionClose(reply_code=200))
    connection.wait(lambda: len(connection.zero) > 3)
    connection.cut()
    c.channel().declare(passive=True)


@case
def an_exclusive_queue_stays_with_a_closed_channel(c: Conversation) -> None:
    connection = c.connect()
    ch = connection.channel()
    ch.declare()
    ch.close()
    connection.channel().declare(passive=True)


@case
def an_auto_delete_queue_goes_with_its_last_consumer(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(auto_delete=True, durable=True)
    ch.consume(tag="a")
    ch.consume(tag="b")
    ch.cancel("a")
    ch.count()
    ch.cancel("b")
    ch.count()


@case
def an_auto_delete_queue_never_consumed_stays(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(auto_delete=True, durable=True)
    ch.close()
    c.channel().declare(passive=True)


@case
def an_auto_delete_queue_goes_with_its_consumers_channel(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(auto_delete=True, durable=True)
    ch.consume()
    ch.close()
    c.channel().count()


@case
def delete_only_if_unused(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.consume()
    c.channel().delete(if_unused=True)
    ch.cancel()
    ch.delete(if_unused=True)


@case
def delete_only_if_empty(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.confirm()
    ch.publish()
    c.channel().delete(if_empty=True)
    ch.purge()
    ch.delete(if_empty=True)


@case
def purge_leaves_what_is_not_settled(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.publish_all([b"1", b"2", b"3"])
    ch.get()
    ch.purge()
    ch.nack(1)
    ch.drain()


@case
def deleting_a_queue_tells_its_consumers(c: Conversation) -> None:
    ch = c.channel()
    ch.durable()
    ch.consume(tag="a")
    c.channel().delete()
    ch.take()
    ch.cancel("a")


@case
def deleting_a_queue_tells_nobody_who_could_not_understand(c: Conversation) -> None:
    ch = c.connect(capabilities={}).channel()
    ch.durable()
    ch.consume(tag="a")
    c.channel().delete()
    ch.silent()


# --- exchanges -------------------------------------------------------------------------------------------------------


@case
def an_exchange_is_declared_twice_and_deleted_twice(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange()
    ch.exchange()
    ch.exchange(passive=True)
    ch.delete_exchange()
    ch.delete_exchange()
    ch.exchange(passive=True)


@case
def an_exchange_is_redeclared_otherwise(c: Conversation) -> None:
    c.channel().exchange("x", "direct")
    c.channel().exchange("x", "fanout")
    c.channel().exchange("x", "direct", durable=True)
    c.channel().exchange("x", "direct", auto_delete=True)
    c.channel().exchange("x", "direct", internal=True)
    c.channel().exchange("x", "direct", {"alternate-exchange": "y"})


@case
def the_first_difference_of_an_exchange_is_told(c: Conversation) -> None:
    c.channel().exchange("x", "direct")
    c.channel().exchange("x", "topic", durable=True, auto_delete=True, internal=True)


@case
def an_exchange_of_an_unknown_type(c: Conversation) -> None:
    c.channel().exchange("x", "nonsense")


@case
def an_exchange_whose_alternate_is_no_name(c: Conversation) -> None:
    c.channel().exchange("x", "direct", {"alternate-exchange": 5})


@case
def the_default_exchange_is_nobodys(c: Conversation) -> None:
    c.channel().exchange("", "direct")
    c.channel().exchange("", "direct", passive=True)
    c.channel().delete_exchange("")
    ch = c.channel()
    ch.declare()
    ch.bind("q", "", "k")
    ch = c.channel()
    ch.declare()
    ch.unbind("q", "", "k")
    c.channel().bind_exchange("", "amq.direct")
    c.channel().bind_exchange("amq.direct", "")


@case
def a_predeclared_exchange_stays(c: Conversation) -> None:
    for name in ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"):
        c.channel().exchange(name, passive=True)
        c.channel().delete_exchange(name)
    c.channel().exchange("amq.direct", "direct", durable=True)
    c.channel().exchange("amq.direct", "fanout", durable=True)


@case
def an_exchange_in_use_is_not_deleted(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange()
    ch.declare()
    ch.bind(key="k")
    c.channel().delete_exchange(if_unused=True)
    ch.unbind(key="k")
    ch.delete_exchange(if_unused=True)


@case
def an_auto_delete_exchange_goes_with_its_last_binding(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange(auto_delete=True)
    ch.declare()
    ch.bind(key="a")
    ch.bind(key="b")
    ch.unbind(key="a")
    ch.exchange(passive=True)
    ch.unbind(key="b")
    ch.exchange(passive=True)


@case
def an_auto_delete_exchange_goes_with_its_last_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange(auto_delete=True)
    ch.durable()
    ch.bind(key="a")
    ch.delete()
    ch.exchange(passive=True)


@case
def auto_delete_exchanges_go_one_after_the_other(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange("first", auto_delete=True)
    ch.exchange("second", auto_delete=True)
    ch.bind_exchange("second", "first", "k")
    ch.declare()
    ch.bind("q", "second", "k")
    ch.unbind("q", "second", "k")
    c.channel().exchange("second", passive=True)
    c.channel().exchange("first", passive=True)


# --- bindings --------------------------------------------------------------------------------------------------------


@case
def bindings_of_what_is_missing(c: Conversation) -> None:
    c.channel().bind("missing", "amq.direct")
    ch = c.channel()
    ch.declare()
    ch.bind("q", "missing")
    c.channel().bind("missing", "missing too")
    c.channel().bind_exchange("missing", "amq.direct")
    c.channel().bind_exchange("amq.direct", "missing")
    c.channel().unbind("missing", "amq.direct")
    c.channel().unbind("missing", "missing too")
    c.channel().unbind_exchange("missing", "missing too")


@case
def a_binding_that_is_not_there_is_removed(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.unbind("q", "amq.direct", "k")


@case
def an_invalid_headers_binding(c: Conversation) -> None:
    for arguments in ({"x-match": "some"}, {"x-match": 5}):
        ch = c.channel()
        ch.declare()
        ch.bind("q", "amq.headers", "", arguments)


@case
def an_empty_binding_key_of_the_last_queue_is_its_name(c: Conversation) -> None:
    ch = c.channel()
    ch.exchange()
    name = ch.declare()
    ch.bind("", "x", "")
    ch.publish(b"by name", name, "x")
    ch.publish(b"by nothing", "", "x")
    ch.drain()


# --- permissions -----------------------------------------------------------------------------------------------------


@case
def a_user_may_not_configure(c: Conversation) -> None:
    c.channel("limited").declare("q")
    c.channel("limited").exchange("x")
    c.channel("limited").delete("q")
    c.channel("limited").delete_exchange("x")


@case
def a_user_may_not_write(c: Conversation) -> None:
    c.channel().exchange("x")
    ch = c.channel("limited")
    ch.publish(exchange="x")
    ch.sync()
    ch = c.channel("limited")
    ch.publish(exchange="missing")
    ch.sync()
    ch = c.channel("limited")
    ch.publish()
    ch.sync()


@case
def a_user_may_not_read(c: Conversation) -> None:
    c.channel().durable()
    c.channel("limited").get()
    c.channel("limited").consume()
    c.channel("limited").purge()
    c.channel("limited").get("missing")
    c.channel("limited").declare(passive=True)


@case
def a_user_may_not_bind(c: Conversation) -> None:
    c.channel().durable()
    c.channel().exchange("x")
    c.channel("limited").bind("q", "x", "k")
    c.channel("limited").bind_exchange("x", "amq.direct", "k")


@case
def a_transient_queue_that_is_not_exclusive(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(durable=False)
    ch = c.channel()
    ch.declare("other", durable=False, auto_delete=True)
    ch = c.channel()
    ch.declare("third", {"x-expires": 60000}, durable=False)


@case
def a_binding_key_of_many_wildcards(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.bind("q", "amq.topic", "#.a.#")
    ch.bind("q", "amq.topic", "#.a.#.b.#")


@case
def arguments_that_are_passed_over(c: Conversation) -> None:
    ch = c.channel()
    ch.declare(
        arguments={"x-queue-master-locator": "min-masters", "x-queue-version": 1, "x-anything": [1, {"a": None}]}
    )
    ch.publish()
    ch.get()


@case
def the_delivery_limit_of_a_quorum_queue_is_none(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-delivery-limit": -1})
    c.channel().quorum(arguments={"x-delivery-limit": "5"})


@case
def a_server_named_quorum_queue(c: Conversation) -> None:
    c.channel().request(methods.QueueDeclare(queue="", durable=True, arguments={"x-queue-type": "quorum"}))


@case
def what_a_quorum_queue_may_overflow_into(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-overflow": "reject-publish-dlx"})


# --- what random sequences have shown --------------------------------------------------------------------------------


@case
def a_wrong_binding_of_a_locked_queue(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.exchange("x", "headers")
    c.channel().bind(arguments={"x-match": "other"})
    c.channel().bind()


@case
def a_locked_queue_is_unbound(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.exchange("x")
    ch.bind(key="there")
    c.channel().unbind(key="missing")
    c.channel().unbind(key="there")


@case
def the_first_argument_that_differs(c: Conversation) -> None:
    c.channel().quorum(arguments={"x-message-ttl": 1000, "x-delivery-limit": 2})
    c.channel().quorum(arguments={"x-single-active-consumer": True, "x-message-ttl": 2000, "x-expires": 60000})
    c.channel().quorum(arguments={"x-message-ttl": 2000, "x-delivery-limit": 3})
    c.channel().durable(arguments={"x-message-ttl": 2000})
    c.channel().durable("other", {"x-max-priority": 2, "x-overflow": "drop-head", "x-single-active-consumer": True})
    c.channel().durable("other", {"x-max-priority": 3, "x-overflow": "reject-publish"})
    c.channel().durable("other", {"x-max-priority": 2, "x-overflow": "reject-publish", "x-queue-version": 1})
    c.channel().quorum("other", {"x-max-length": 1})


@case
def bindings_differ_in_the_size_of_a_number(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.exchange("x", "headers")
    ch.bind(arguments={"h": 1})
    ch.unbind(arguments={"h": SIZED_INTS["l"](1)})
    ch.confirm()
    ch.publish(b"m", "", "x", headers={"h": 1})
    ch.count()
