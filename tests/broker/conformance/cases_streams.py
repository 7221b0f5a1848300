"""Streams: declaring, appending, where consumers begin, what is refused, retention, filters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rabbitry.protocol.wire import methods
from tests.broker.conformance.catalogue import case
from tests.broker.conformance.conversation import Channel, Conversation


def filled_stream(c: Conversation, count: int = 3, **arguments: Any) -> Channel:
    """A channel, and a stream with messages that are confirmed, each by itself."""
    ch = c.channel()
    ch.stream(arguments={name.replace("_", "-"): value for name, value in arguments.items()})
    ch.confirm()
    ch.publish_all(str(index).encode() for index in range(1, count + 1))
    return ch


def read(c: Conversation, count: int, offset: Any = None, prefetch: int = 10, **arguments: Any) -> Channel:
    """A consumer of the stream on a channel of its own, and what it gets first."""
    ch = c.channel()
    ch.qos(prefetch)
    given = {name.replace("_", "-"): value for name, value in arguments.items()}
    ch.consume(arguments={**given, **({} if offset is None else {"x-stream-offset": offset})})
    ch.take(count)
    return ch


def wait_for_retention(c: Conversation, first: int) -> None:
    """Until the stream begins at this offset: RabbitMQ deletes segments when it has time to."""
    written = len(c.transcript)
    c.pause(0.5)  # who reads what is being deleted may get nothing
    for _ in range(8):
        ch = read(c, 1, "first")
        offsets = [entry[2]["headers"]["x-stream-offset"] for entry in c.transcript[written:] if len(entry) > 2]
        ch.line.clear()
        ch.close()
        ch.line.clear()
        del c.transcript[written:]
        if offsets and offsets[0] >= first:
            return
        c.pause(0.25)


@case
def a_stream_is_declared(c: Conversation) -> None:
    ch = c.channel()
    ch.stream()
    ch.stream()
    ch.stream(arguments={"x-max-age": "1h"})


@case
def a_stream_is_declared_again_otherwise(c: Conversation) -> None:
    c.channel().stream(arguments={"x-max-age": "1h", "x-max-length-bytes": 1000})
    c.channel().stream(arguments={"x-max-age": "2h", "x-max-length-bytes": 1000})
    c.channel().stream(arguments={"x-max-age": "1h"})
    c.channel().quorum()


@case
def what_a_stream_may_not_be(c: Conversation) -> None:
    c.channel().declare(arguments={"x-queue-type": "stream"})
    c.channel().declare(arguments={"x-queue-type": "stream"}, durable=False)
    c.channel().declare(arguments={"x-queue-type": "stream"}, durable=True, auto_delete=True)


@case
def a_server_named_stream(c: Conversation) -> None:
    c.channel().request(methods.QueueDeclare(queue="", durable=True, arguments={"x-queue-type": "stream"}))


def foreign(name: str, value: Any) -> Any:
    def run(c: Conversation) -> None:
        c.channel().stream(arguments={name: value})

    run.__name__ = f"a_stream_knows_no_{name.removeprefix('x-').replace('-', '_')}"
    return run


for _name, _value in (
    ("x-message-ttl", 1000),
    ("x-expires", 1000),
    ("x-max-length", 10),
    ("x-overflow", "drop-head"),
    ("x-max-priority", 5),
    ("x-dead-letter-exchange", "dlx"),
    ("x-single-active-consumer", True),
    ("x-delivery-limit", 5),
):
    case(foreign(_name, _value))


@case
def arguments_of_streams_elsewhere(c: Conversation) -> None:
    c.channel().durable(arguments={"x-max-age": "1h"})
    c.channel().quorum(arguments={"x-max-age": "1h"})
    c.channel().durable(arguments={"x-stream-max-segment-size-bytes": 1000})


@case
def ages_that_are_none(c: Conversation) -> None:
    c.channel().stream(arguments={"x-max-age": "1x"})
    c.channel().stream(arguments={"x-max-age": "0s"})
    c.channel().stream(arguments={"x-max-age": "1"})
    c.channel().stream(arguments={"x-max-age": 1000})


@case
def an_age_without_a_number(c: Conversation) -> None:
    c.channel().stream(arguments={"x-max-age": "soon"})


@case
def segments_too_large(c: Conversation) -> None:
    c.channel().stream(arguments={"x-stream-max-segment-size-bytes": 3_000_000_001})
    c.channel().stream(arguments={"x-stream-max-segment-size-bytes": -1})


@case
def filters_of_a_size_that_is_none(c: Conversation) -> None:
    c.channel().stream(arguments={"x-stream-filter-size-bytes": 15})
    c.channel().stream("other", {"x-stream-filter-size-bytes": "16"})


@case
def a_stream_from_its_first(c: Conversation) -> None:
    filled_stream(c)
    read(c, 3, "first").ack(0, multiple=True)
    read(c, 3, "first")


@case
def a_stream_from_its_last(c: Conversation) -> None:
    ch = filled_stream(c)
    reader = read(c, 1, "last")
    ch.publish(b"later")
    reader.take()


@case
def a_stream_from_its_next(c: Conversation) -> None:
    ch = filled_stream(c)
    reader = read(c, 0, "next")
    ch.publish(b"later")
    reader.take()
    reader.silent()


@case
def a_stream_from_its_next_by_default(c: Conversation) -> None:
    ch = filled_stream(c)
    reader = read(c, 0)
    ch.publish(b"later")
    reader.take()


@case
def an_empty_stream_from_first_and_last(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    first, last = read(c, 0, "first"), read(c, 0, "last")
    ch.publish(b"1")
    first.take()
    last.take()


@case
def a_stream_from_an_offset(c: Conversation) -> None:
    filled_stream(c)
    read(c, 2, 1)
    read(c, 1, 2)


@case
def a_stream_from_an_offset_to_come(c: Conversation) -> None:
    ch = filled_stream(c)
    reader = read(c, 0, 4)
    ch.publish(b"offset 3")
    ch.publish(b"offset 4")
    reader.take()
    reader.silent()


@case
def a_stream_from_a_time(c: Conversation) -> None:
    filled_stream(c)
    read(c, 3, datetime.now(UTC) - timedelta(hours=1))
    read(c, 0, datetime.now(UTC) + timedelta(hours=1)).silent()


@case
def a_stream_from_some_time_ago(c: Conversation) -> None:
    filled_stream(c)
    read(c, 3, "1h")


@case
def offsets_that_are_none(c: Conversation) -> None:
    filled_stream(c, 1)
    read(c, 0, "1x")
    read(c, 0, "0s")


@case
def an_offset_without_a_number(c: Conversation) -> None:
    filled_stream(c, 1)
    read(c, 0, "soon")


@case
def streams_want_a_prefetch(c: Conversation) -> None:
    ch = filled_stream(c, 1)
    ch.consume(arguments={"x-stream-offset": "first"})


@case
def streams_want_acknowledgements(c: Conversation) -> None:
    ch = filled_stream(c, 1)
    ch.qos(10)
    ch.consume(no_ack=True)


@case
def streams_want_a_prefetch_ahead_of_acknowledgements(c: Conversation) -> None:
    filled_stream(c, 1).consume(no_ack=True)


@case
def prefetch_of_the_channel_and_a_stream(c: Conversation) -> None:
    ch = filled_stream(c, 1)
    ch.qos(10)
    ch.qos(10, for_all=True)
    ch.consume()


@case
def a_stream_knows_no_consumer_priority(c: Conversation) -> None:
    ch = filled_stream(c, 1)
    ch.qos(10)
    ch.consume(arguments={"x-priority": 1})


@case
def an_offset_of_what_is_no_stream(c: Conversation) -> None:
    ch = c.channel()
    ch.declare()
    ch.consume(arguments={"x-stream-offset": "first"})
    ch = c.channel()
    ch.quorum("other")
    ch.consume("other", arguments={"x-stream-offset": "first"})


@case
def an_exclusive_consumer_of_a_stream(c: Conversation) -> None:
    filled_stream(c, 1)
    for _ in range(2):
        ch = c.channel()
        ch.qos(10)
        ch.consume(exclusive=True, arguments={"x-stream-offset": "first"})
        ch.take()


@case
def a_stream_within_the_prefetch(c: Conversation) -> None:
    filled_stream(c, 5)
    reader = read(c, 2, "first", prefetch=2)
    reader.silent()
    reader.ack(1)
    reader.take()
    reader.ack(3, multiple=True)
    reader.take(2)


@case
def a_stream_is_not_got_from(c: Conversation) -> None:
    filled_stream(c, 1).get()


@case
def a_stream_is_not_purged(c: Conversation) -> None:
    filled_stream(c, 1).purge()


@case
def a_stream_is_deleted(c: Conversation) -> None:
    ch = filled_stream(c, 2)
    reader = read(c, 2, "first")
    ch.delete()
    reader.take()


@case
def a_stream_is_deleted_conditionally(c: Conversation) -> None:
    ch = filled_stream(c, 2)
    read(c, 2, "first")
    ch.delete(if_unused=True, if_empty=True)


@case
def a_streams_message_is_nacked(c: Conversation) -> None:
    filled_stream(c, 2)
    reader = read(c, 1, "first", prefetch=1)
    reader.nack(1, requeue=True)
    reader.take()


@case
def a_streams_message_is_rejected(c: Conversation) -> None:
    filled_stream(c, 2)
    reader = read(c, 1, "first", prefetch=1)
    reader.reject(1, requeue=False)
    reader.take()


@case
def a_streams_messages_are_recovered(c: Conversation) -> None:
    filled_stream(c, 2)
    reader = read(c, 1, "first", prefetch=1)
    reader.recover()
    reader.take()


@case
def a_streams_reader_closes_and_comes_back(c: Conversation) -> None:
    filled_stream(c, 2)
    reader = read(c, 2, "first")
    reader.close()
    read(c, 2, "first")


@case
def a_streams_consumer_is_cancelled(c: Conversation) -> None:
    ch = filled_stream(c, 3)
    reader = read(c, 1, "first", prefetch=1)
    reader.cancel()
    reader.ack(1)
    ch.publish(b"later")
    reader.silent()


@case
def two_readers_of_a_stream(c: Conversation) -> None:
    filled_stream(c, 3)
    one, two = read(c, 3, "first"), read(c, 1, "last")
    one.ack(0, multiple=True)
    two.ack(1)


@case
def a_streams_message_keeps_its_headers(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.publish(b"m", headers={"a": 1, "b": "text", "x-own": "mine"}, content_type="text/plain", message_id="1")
    read(c, 1, "first")


@case
def a_streams_message_by_an_exchange(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.exchange("x", "topic")
    ch.bind("q", "x", "a.#")
    ch.publish(b"m", "a.b", "x", delivery_mode=2, priority=3, correlation_id="id", reply_to="r", type="t", app_id="app")
    read(c, 1, "first")


@case
def a_streams_message_does_not_expire(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.publish(b"m", expiration="0")
    read(c, 1, "first")


@case
def dead_letters_to_a_stream(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.declare("source", {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": c.name("q")})
    ch.publish(b"m", "source")
    read(c, 0, "first").silent(0.3)


@case
def a_stream_keeps_so_many_octets(c: Conversation) -> None:
    ch = filled_stream(c, 0, x_max_length_bytes=6000, x_stream_max_segment_size_bytes=1000)
    ch.publish_all(b"%d" % index * 1500 for index in range(8))
    wait_for_retention(c, 10)
    read(c, 3, "first").silent()


@case
def a_stream_of_one_segment_keeps_all(c: Conversation) -> None:
    filled_stream(c, 4, x_max_length_bytes=1)
    read(c, 4, "first")


@case
def a_filtered_stream(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    for value in ("red", "blue", None):
        ch.publish(b"m", headers={} if value is None else {"x-stream-filter-value": value, "color": value})
    c.say("filters are for clients to repeat: chunks, not messages, are left out")
    reader = read(c, 1, "first", x_stream_filter="red")
    reader.silent()
    reader = read(c, 2, "first", x_stream_filter=["red", "blue"])
    reader.silent()
    reader = read(c, 2, "first", x_stream_filter=["blue"], x_stream_match_unfiltered=True)
    reader.silent()


@case
def a_streams_message_with_nested_headers(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.publish(b"m", headers={"array": [1, "two"], "table": {"a": 1}})
    read(c, 1, "first")


@case
def a_mandatory_message_to_a_stream(c: Conversation) -> None:
    ch = filled_stream(c, 0)
    ch.publish(b"m", mandatory=True)
    ch.publish(b"m", "nowhere", mandatory=True)


@case
def a_transaction_with_a_stream(c: Conversation) -> None:
    filled_stream(c, 1)
    ch = c.channel()
    ch.request(methods.TxSelect())
    ch.publish(b"2")
    ch.request(methods.TxCommit())
    read(c, 2, "first")
