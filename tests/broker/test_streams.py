"""Streams by themselves: offsets, times and retention, with time as an argument."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rabbitry.broker.arguments import QueueOptions
from rabbitry.broker.compat import COMPAT
from rabbitry.broker.messages import Message, message_facts
from rabbitry.broker.streams import OVERHEAD, Stream
from rabbitry.broker.timers import Timers
from rabbitry.protocol.wire.properties import Properties, decode_properties, encode_properties
from tests.broker.test_queues import Grave, Receiver, consumer, message

WALL = 1_700_000_000.0


def stream(**options: Any) -> Stream:
    timers = Timers()
    timers.wall_offset = WALL
    return Stream(
        "q",
        QueueOptions(kind="stream", **options),
        bury=Grave(),
        timers=timers,
        now=0.0,
        compat=COMPAT["4.0"],
    )


def read(it: Stream, offset: Any, now: float = 0.0) -> Receiver:
    receiver = Receiver()
    it.add_consumer(consumer(receiver, offset=offset), now)
    it.dispatch(now)
    return receiver


def offsets(receiver: Receiver) -> list[int]:
    return [entry.message.facts.headers["x-stream-offset"] for _, entry in receiver.held]


def test_headers_beyond_what_is_decoded_make_room_for_the_offset() -> None:
    """Without it a client would take the delivery for a queue's, and reject it, which ends its connection."""
    it, beyond = stream(), {"a": [None] * 5000}
    properties = encode_properties(Properties(content_type="text/plain", headers=beyond, message_id="m"))
    for _ in range(2):
        it.publish(Message("", ("q",), properties, b"", message_facts(properties)), 0.0)
    found = [decode_properties(entry.message.properties) for _, entry in read(it, "first").held]
    assert [each.headers for each in found] == [{"x-stream-offset": 0}, {"x-stream-offset": 1}]
    assert {(each.content_type, each.message_id) for each in found} == {("text/plain", "m")}


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("first", [0, 1, 2, 3, 4]),
        ("last", [4]),
        ("next", []),
        (3, [3, 4]),
        (9, []),
        (datetime.fromtimestamp(WALL + 20, UTC), [2, 3, 4]),
        (datetime.fromtimestamp(WALL + 21, UTC), [3, 4]),
        (datetime.fromtimestamp(WALL + 900, UTC), []),
        (timedelta(seconds=15), [4]),
        (timedelta(days=1), [0, 1, 2, 3, 4]),
    ],
)
def test_where_a_consumer_begins(offset: Any, expected: list[int]) -> None:
    it = stream()
    for index in range(5):
        it.publish(message(b"%d" % index), index * 10.0)
    assert offsets(read(it, offset, 50.0)) == expected


def test_what_an_offset_to_come_gets() -> None:
    it = stream()
    receiver = read(it, 2)
    for index in range(4):
        it.publish(message(b"%d" % index), 0.0)
    assert offsets(receiver) == [2, 3]


def test_segments_go_by_their_octets() -> None:
    """An offset is taken by the beginning of each, as in RabbitMQ."""
    size = OVERHEAD + 2 + 1000
    it = stream(segment_bytes=size, max_bytes=3 * size)
    for _ in range(10):
        it.publish(message(b"x" * 1000), 0.0)
    assert offsets(read(it, "first")) == [14, 16, 18] and it.count == 3 and it.octets == 3000
    assert offsets(read(it, 2)) == [14, 16, 18]


def test_segments_go_by_their_age_when_another_begins() -> None:
    it = stream(segment_bytes=1, max_age=10_000)
    for now in (0.0, 1.0, 2.0):
        it.publish(message(), now)
    assert offsets(read(it, "first", 1000.0)) == [0, 2, 4], "nothing goes before another segment begins"
    it.publish(message(), 11.5)
    assert offsets(read(it, "first", 11.5)) == [4, 6]


def test_the_last_segment_stays_whatever_the_limit() -> None:
    it = stream(max_bytes=1, max_age=1000)
    for now in (0.0, 100.0):
        it.publish(message(b"x" * 1000), now)
    assert it.count == 2


def test_a_reader_that_is_overtaken_by_retention_goes_on_with_what_is_there() -> None:
    it = stream(segment_bytes=1, max_bytes=2 * (OVERHEAD + 3))
    receiver = Receiver()
    it.add_consumer(consumer(receiver, offset="first"), 0.0)
    receiver.has_room = False
    for _ in range(6):
        it.publish(message(), 0.0)
    receiver.has_room = True
    it.dispatch(0.0)
    assert offsets(receiver) == [8, 10]


def test_nothing_is_taken_away() -> None:
    it = stream()
    it.publish(message(), 0.0)
    receiver = read(it, "first")
    here, entry = receiver.held.pop()
    it.requeue([entry], 0.0)
    it.reject([entry], 0.0)
    it.remove_consumer(here, 0.0)
    assert offsets(read(it, "first")) == [0] and it.count == 1


def test_a_consumer_that_is_gone_is_not_asked() -> None:
    it = stream()
    receiver = read(it, "first")
    gone = it.drop_consumers()
    it.publish(message(), 0.0)
    assert len(gone) == 1 and not receiver.held and not it.unblock(gone[0])
