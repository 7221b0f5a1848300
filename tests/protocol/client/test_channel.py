"""One channel: replies by position, abandoned requests, content, confirms, returns, acknowledgements, transactions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rabbitry._errors import (
    AccessRefused,
    AlreadySettled,
    ChannelClosed,
    LocalProtocolError,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    StaleDelivery,
)
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel
from rabbitry.protocol.client.channel_methods import receive_channel_method
from rabbitry.protocol.client.content import PUBLISH_TAG_HEADER
from rabbitry.protocol.client.publish_tags import PublishTags
from rabbitry.protocol.client.states import ChannelState, ConnectionState, Mode
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method
from rabbitry.protocol.wire.properties import Properties, decode_properties, encode_properties
from tests.support.protocol_broker import (
    HEARTBEAT,
    NO_PROPERTIES,
    Dialogue,
    ack,
    body_frame,
    content_frames,
    deliver,
    get_ok,
    header_frame,
    method_frame,
    nack,
    raw_frame,
    reply_to,
    returned,
)

CLOSED_BY_US = "ChannelClosed: channel closed: the channel was closed by this program"

DECLARE_OK = methods.QueueDeclareOk(queue="amq.gen-1", message_count=0, consumer_count=0)

REQUESTS: list[Method] = [
    methods.AccessRequest(),
    methods.ExchangeDeclare(exchange="e"),
    methods.ExchangeDelete(exchange="e"),
    methods.ExchangeBind(destination="e", source="f"),
    methods.ExchangeUnbind(destination="e", source="f"),
    methods.QueueDeclare(queue="q"),
    methods.QueueBind(queue="q", exchange="e"),
    methods.QueuePurge(queue="q"),
    methods.QueueDelete(queue="q"),
    methods.QueueUnbind(queue="q", exchange="e"),
    methods.BasicQos(prefetch_count=10),
    methods.BasicGet(queue="q"),
    methods.ChannelFlow(active=True),
    methods.ConfirmSelect(),
    methods.TxSelect(),
    methods.TxCommit(),
    methods.TxRollback(),
]
"""Every request that has no method of its own in `ProtocolChannel`."""


def content(token: Any, tag: int, body: bytes = b"body", *, key: str = "q") -> tuple[Any, ...]:
    return ("content", token, tag, False, "", key, body)


def with_channel(split: str = "whole", *setup: Method, **tune: int) -> tuple[Dialogue, ProtocolChannel]:
    dialogue = Dialogue(split).open(**tune)
    return dialogue, dialogue.open_channel(*setup)


def publish(channel: ProtocolChannel, body: bytes, token: Any = None) -> None:
    channel.publish(NO_PROPERTIES, body, "", "q", False, token)


# --- replies by position -------------------------------------------------------------------------------------------


def test_opening(split: str) -> None:
    dialogue = Dialogue(split).open()
    channel, _ = dialogue.connection.open_channel("open")
    assert dialogue.sent() == [(1, methods.ChannelOpen())]
    assert channel.state is ChannelState.OPENING
    assert dialogue.feed(method_frame(1, methods.ChannelOpenOk())) == [("replied", "open", methods.ChannelOpenOk())]
    assert channel.state is ChannelState.OPEN


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_each_request_and_its_reply(split: str, request_: Method) -> None:
    dialogue, channel = with_channel(split)
    channel.request(request_, "token")
    assert dialogue.sent() == [(1, request_)]
    assert dialogue.connection.awaiting == 1
    reply = reply_to(request_)
    assert dialogue.feed(method_frame(1, reply)) == [("replied", "token", reply)]
    assert dialogue.connection.awaiting == 0


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_an_abandoned_request_swallows_its_own_reply(split: str, request_: Method) -> None:
    dialogue, channel = with_channel(split)
    channel.request(methods.QueueDeclare(queue="before"), "before")
    slot = channel.request(request_, "abandoned")
    channel.request(methods.QueueDeclare(queue="after"), "after")
    dialogue.sent()
    slot.abandon()
    slot.abandon()
    if isinstance(request_, methods.TxCommit):  # its outcome is unknown for good: see below
        assert channel.state is ChannelState.CLOSING
        return
    assert dialogue.connection.awaiting == 3
    first, last = methods.QueueDeclareOk(queue="before", message_count=1, consumer_count=0), DECLARE_OK
    assert dialogue.feed(method_frame(1, first), method_frame(1, reply_to(request_)), method_frame(1, last)) == [
        ("replied", "before", first),
        ("replied", "after", last),
    ]
    assert dialogue.sent() == []
    assert dialogue.connection.awaiting == 0


def test_many_requests_on_their_way(split: str) -> None:
    dialogue, channel = with_channel(split)
    slots = {}
    for number in range(20):
        slots[number] = channel.request(methods.QueueDeclare(queue=f"q{number}"), number)
    for number in range(0, 20, 3):
        slots[number].abandon()
    replies = [methods.QueueDeclareOk(queue=f"q{number}", message_count=0, consumer_count=0) for number in range(20)]
    events = dialogue.feed(*[method_frame(1, reply) for reply in replies])
    assert events == [("replied", number, replies[number]) for number in range(20) if number % 3]


def test_input_that_can_not_be_encoded_changes_nothing() -> None:
    dialogue, channel = with_channel()
    for method in (methods.QueueDeclare(queue="q" * 256), methods.QueueDeclare(queue="q", arguments={"a": object()})):
        with pytest.raises((TypeError, ValueError), match=r"queue\.declare"):
            channel.request(method, "token")
    with pytest.raises(ValueError, match=r"basic\.consume"):
        channel.consume(methods.BasicConsume(queue="q" * 256, consumer_tag="c"), "c", "waiter")
    with pytest.raises(ValueError, match=r"basic\.publish"):
        channel.publish(NO_PROPERTIES, b"body", "e" * 256, "q", False, "message")
    assert channel.consumers == {}
    assert (dialogue.connection.awaiting, channel.confirms.following) == (0, 1)
    assert dialogue.sent() == []


def test_replies_that_others_may_overtake(split: str) -> None:
    """RabbitMQ's queues answer consume and cancel, its channel the others."""
    dialogue, channel = with_channel(split)
    consumer = dialogue.consume(channel, "c")
    channel.consume(methods.BasicConsume(queue="q", consumer_tag="late"), "late", "consume")
    channel.consume(methods.BasicConsume(queue="r", consumer_tag="early"), "early", "other")
    channel.cancel(consumer, "cancel")
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    channel.get(methods.BasicGet(queue="q"), "get")
    late, early = methods.BasicConsumeOk(consumer_tag="late"), methods.BasicConsumeOk(consumer_tag="early")
    cancel_ok = methods.BasicCancelOk(consumer_tag="c")
    assert dialogue.feed(
        method_frame(1, DECLARE_OK),
        method_frame(1, early),
        method_frame(1, cancel_ok),
        get_ok(1, 1),
        method_frame(1, late),
    ) == [
        ("replied", "declare", DECLARE_OK),
        ("replied", "other", early),
        ("replied", "cancel", cancel_ok),
        ("replied", "get", content(None, 1)),
        ("replied", "consume", late),
    ]
    assert dialogue.connection.awaiting == 0


def test_other_replies_keep_their_order(split: str) -> None:
    dialogue, channel = with_channel(split)
    channel.request(methods.BasicQos(), "qos")
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    [ended, _] = dialogue.feed(method_frame(1, DECLARE_OK))
    assert ended[3] == ["qos", "declare"]


# --- abandoned requests whose effect is undone ---------------------------------------------------------------------


def test_an_abandoned_open_closes(split: str) -> None:
    dialogue = Dialogue(split).open(channel_max=1)
    channel, slot = dialogue.connection.open_channel("open")
    slot.abandon()
    assert [frame[1].name for frame in dialogue.sent()] == ["channel.open", "channel.close"]
    assert dialogue.events() == [("channel ended", 1, CLOSED_BY_US, [], [], [], [])]
    with pytest.raises(LocalProtocolError, match="channel_max"):
        dialogue.connection.open_channel("next")
    assert dialogue.feed(method_frame(1, methods.ChannelOpenOk())) == []
    assert channel.state is ChannelState.CLOSING
    assert dialogue.feed(method_frame(1, methods.ChannelCloseOk())) == []
    assert dialogue.connection.awaiting == 0
    assert dialogue.connection.open_channel("next")[0].number == 1


def test_an_open_abandoned_the_moment_it_was_answered() -> None:
    dialogue = Dialogue().open()
    channel, slot = dialogue.connection.open_channel("open")
    [(_, _, reply)] = dialogue.feed(method_frame(1, methods.ChannelOpenOk()))
    slot.abandon(reply)
    assert channel.state is ChannelState.CLOSING


@pytest.mark.parametrize("no_ack", [False, True])
def test_an_abandoned_consume_is_cancelled(split: str, no_ack: bool) -> None:
    dialogue, channel = with_channel(split)
    _, slot = channel.consume(methods.BasicConsume(queue="q", consumer_tag="c", no_ack=no_ack), "c", "waiter")
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    dialogue.sent()
    slot.abandon()
    assert dialogue.sent() == []  # RabbitMQ does not bear a cancel before consume-ok
    nacks = [(1, methods.BasicNack(delivery_tag=tag)) for tag in (1, 2)]
    assert dialogue.feed(deliver(1, 1), method_frame(1, methods.BasicConsumeOk(consumer_tag="c"))) == []
    assert dialogue.sent() == ([] if no_ack else nacks[:1]) + [(1, methods.BasicCancel(consumer_tag="c"))]
    assert dialogue.feed(method_frame(1, DECLARE_OK), deliver(1, 2)) == [("replied", "declare", DECLARE_OK)]
    assert dialogue.sent() == ([] if no_ack else nacks[1:])
    assert dialogue.feed(method_frame(1, methods.BasicCancelOk(consumer_tag="c"))) == []
    assert (channel.consumers, dialogue.connection.awaiting) == ({}, 0)
    dialogue.consume(channel, "c")  # the tag is free again


def test_a_consume_abandoned_the_moment_it_was_answered() -> None:
    dialogue, channel = with_channel()
    _, slot = channel.consume(methods.BasicConsume(queue="q", consumer_tag="c"), "c", "waiter")
    [(_, _, reply)] = dialogue.feed(method_frame(1, methods.BasicConsumeOk(consumer_tag="c")))
    dialogue.sent()
    slot.abandon(reply)
    assert dialogue.sent() == [(1, methods.BasicCancel(consumer_tag="c"))]


def test_a_late_get_goes_back(split: str) -> None:
    dialogue, channel = with_channel(split)
    slots = [channel.get(methods.BasicGet(queue="q"), number) for number in range(4)]
    dialogue.sent()
    slots[0].abandon()
    slots[2].abandon()
    empty = method_frame(1, methods.BasicGetEmpty())
    assert dialogue.feed(get_ok(1, 1), get_ok(1, 2), empty, get_ok(1, 3)) == [
        ("replied", 1, content(None, 2)),
        ("replied", 3, content(None, 3)),
    ]
    assert dialogue.sent() == [(1, methods.BasicNack(delivery_tag=1))]
    assert channel.tags.outstanding == {2, 3}


def test_a_get_abandoned_the_moment_it_was_answered() -> None:
    dialogue, channel = with_channel()
    slot = channel.get(methods.BasicGet(queue="q"), "get")
    dialogue.sent()
    dialogue.connection.receive_data(get_ok(1, 1))
    [event] = dialogue.connection.events
    slot.abandon(event.reply)
    assert dialogue.sent() == [(1, methods.BasicNack(delivery_tag=1))]


def test_a_get_abandoned_when_it_is_stale_already() -> None:
    dialogue, channel = with_channel()
    slot = channel.get(methods.BasicGet(queue="q"), "get")
    dialogue.connection.receive_data(get_ok(1, 1))
    [event] = dialogue.connection.events
    channel.recover("recover")
    dialogue.sent()
    slot.abandon(event.reply)
    assert dialogue.sent() == []


def test_a_late_get_without_ack_is_kept_for_the_next(split: str) -> None:
    dialogue, channel = with_channel(split)
    for queue in ("q", "r", "q"):
        channel.get(methods.BasicGet(queue=queue, no_ack=True), queue).abandon()
    dialogue.sent()
    assert dialogue.feed(get_ok(1, 1, b"1"), get_ok(1, 2, b"2", routing_key="r"), get_ok(1, 3, b"3")) == []
    assert dialogue.sent() == []
    kept = [channel.take_kept(queue) for queue in ("q", "q", "q", "r", "other")]
    assert [None if message is None else message.body for message in kept] == [b"1", b"3", None, b"2", None]


@pytest.mark.parametrize(
    ("request_", "undone"),
    [
        (methods.QueueDeclare(), True),
        (methods.QueueDeclare(exclusive=True), True),
        (methods.QueueDeclare(queue="q"), False),
        (methods.QueueDeclare(passive=True), False),
    ],
)
@pytest.mark.parametrize("answered", [False, True])
def test_a_late_queue_without_a_known_name_is_deleted(request_: Method, undone: bool, answered: bool) -> None:
    dialogue, channel = with_channel()
    slot = channel.request(request_, "declare")
    dialogue.sent()
    if answered:
        [(_, _, reply)] = dialogue.feed(method_frame(1, DECLARE_OK))
        slot.abandon(reply)
    else:
        slot.abandon()
        assert dialogue.sent() == []
        assert dialogue.feed(method_frame(1, DECLARE_OK)) == []
    delete = methods.QueueDelete(queue="amq.gen-1", if_unused=True, if_empty=True, nowait=True)
    assert dialogue.sent() == ([(1, delete)] if undone else [])


def test_an_abandoned_commit_closes_the_channel(split: str) -> None:
    dialogue, channel = with_channel(split, methods.TxSelect())
    slot = channel.request(methods.TxCommit(), "commit")
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    slot.abandon()
    assert [frame[1].name for frame in dialogue.sent()] == ["tx.commit", "channel.close"]
    assert dialogue.events() == [("channel ended", 1, CLOSED_BY_US, ["declare"], [], [], [])]
    commit_ok, declare_ok = method_frame(1, methods.TxCommitOk()), method_frame(1, DECLARE_OK)
    assert dialogue.feed(commit_ok, declare_ok, method_frame(1, methods.ChannelCloseOk())) == []
    assert channel.state is ChannelState.CLOSED


def test_what_follows_a_commit_waits_for_its_answer(split: str) -> None:
    dialogue, channel = with_channel(split, methods.TxSelect())
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1), deliver(1, 2))
    channel.request(methods.TxCommit(), "first")
    assert channel.is_committing
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    channel.ack(1)
    channel.publish(b"\0\0", b"", "", "q", False)
    channel.request(methods.TxCommit(), "second")
    channel.ack(2)
    assert [frame[1].name for frame in dialogue.sent()] == ["tx.commit"]
    commit_ok, declare_ok = method_frame(1, methods.TxCommitOk()), method_frame(1, DECLARE_OK)
    dialogue.feed(commit_ok)
    sent = [frame[1].name for frame in dialogue.sent() if isinstance(frame[1], Method)]
    assert sent == ["queue.declare", "basic.ack", "basic.publish", "tx.commit"]
    assert channel.is_committing
    dialogue.feed(declare_ok, commit_ok)
    assert [frame[1].name for frame in dialogue.sent()] == ["basic.ack"]
    assert not channel.is_committing
    assert dialogue.connection.awaiting == 0


def test_confirms_need_a_token_each() -> None:
    _, channel = with_channel("whole", methods.ConfirmSelect())
    with pytest.raises(LocalProtocolError, match="needs a token"):
        channel.publish(b"\0\0", b"", "", "q", False)


@pytest.mark.parametrize("state", ["closing", "closed"])
def test_nothing_is_undone_on_a_channel_that_ended(state: str) -> None:
    dialogue, channel = with_channel()
    _, consume = channel.consume(methods.BasicConsume(queue="q", consumer_tag="c"), "c", "waiter")
    get = channel.get(methods.BasicGet(queue="q"), "get")
    if state == "closing":
        channel.close("close")
    else:
        dialogue.feed(method_frame(1, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND")))
    dialogue.sent()
    consume.abandon()
    get.abandon()
    assert dialogue.sent() == []


# --- content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 10000])
def test_delivery(split: str, size: int) -> None:
    dialogue, channel = with_channel(split, frame_max=4096)
    dialogue.consume(channel)
    body = bytes(number % 251 for number in range(size))
    properties = Properties(content_type="text/plain", headers={"a": 1}, delivery_mode=2)
    dialogue.connection.events.clear()
    for chunk in dialogue.cut(
        deliver(1, 7, body, redelivered=True, exchange="e", routing_key="k", properties=encode_properties(properties))
    ):
        dialogue.connection.receive_data(chunk)
    [message] = dialogue.connection.events
    assert (message.consumer, message.delivery_tag, message.redelivered) == ("c", 7, True)
    assert (message.exchange, message.routing_key, message.body) == ("e", "k", body)
    assert message.properties == properties
    assert message.headers == {"a": 1}
    assert channel.tags.outstanding == {7}


@pytest.mark.parametrize("pieces", [[1] * 10, [3, 3, 4], [9, 1], [10], [0, 5, 0, 5], [5, 0, 0, 5]])
def test_bodies_in_any_pieces(split: str, pieces: list[int]) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    method, header, _ = content_frames(
        1, methods.BasicDeliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="q"), b"0123456789"
    )
    frames, start = [], 0
    for size in pieces:
        frames.append(body_frame(1, b"0123456789"[start : start + size]))
        start += size
    assert dialogue.feed(method, header, *frames) == [content("c", 1, b"0123456789")]


LARGE = bytes(number % 251 for number in range(300_000))
FIRST = methods.BasicDeliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="q")


def large_delivery(tag: int) -> bytes:
    return deliver(1, tag, LARGE, piece=131_064)


@pytest.mark.parametrize("chunk", [20_000, 65_536, 131_071, 131_072, 131_073, 262_144, 1_000_000])
def test_large_bodies_are_taken_as_they_come(chunk: int) -> None:
    """Wherever the frames are cut, and whatever stands between and behind them."""
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    other = deliver(1, 3, b"between")
    data = large_delivery(1) + HEARTBEAT + large_delivery(2) + other + large_delivery(4)
    events = dialogue.feed(*(data[start : start + chunk] for start in range(0, len(data), chunk)))
    expected = [content("c", tag, LARGE) for tag in (1, 2)] + [content("c", 3, b"between"), content("c", 4, LARGE)]
    assert events == expected
    assert channel.assembly is None and channel.tags.outstanding == {1, 2, 3, 4}


@pytest.mark.parametrize("before", [1, 2, 3, 100, 131_063])
@pytest.mark.parametrize("frame", [2, 3])
def test_a_large_frame_may_be_cut_at_each_of_its_last_octets(frame: int, before: int) -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    frames = content_frames(1, FIRST, LARGE, piece=131_064)
    cut = sum(map(len, frames[: frame + 1])) - before
    data = b"".join(frames)
    assert dialogue.feed(data[:cut]) == []
    assert dialogue.feed(data[cut:]) == [content("c", 1, LARGE)]


def test_no_message_is_whole_before_its_last_frame_has_ended_well() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    data = deliver(1, 1, LARGE[:131_064], piece=131_064)
    assert dialogue.feed(data[:-2], data[-2:-1]) == []  # all of the body
    events = dialogue.feed(b"a")
    assert "frame-end" in str(events) and not any(event[0] == "content" for event in events)


def test_a_large_frame_longer_than_its_message_is_refused_as_a_whole() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    method, header, _ = content_frames(1, FIRST, LARGE[:50_000], piece=50_000)
    for piece in (method, header, body_frame(1, LARGE[:60_000])[:30_000]):
        assert dialogue.feed(piece) == []
    events = dialogue.feed(body_frame(1, LARGE[:60_000])[30_000:])
    assert "longer than its header says" in str(events) and not any(event[0] == "content" for event in events)


def test_a_body_keeps_no_more_of_what_came_with_it_than_four_times_its_size() -> None:
    """Small frames of a large chunk, each of another message that is never whole, keep none of the chunk."""
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    method, header, _ = content_frames(1, FIRST, LARGE[:40_000], piece=50_000)
    dialogue.feed(b"".join((HEARTBEAT * 30_000, method, header, body_frame(1, LARGE[:20_000]))))
    assert channel.assembly is not None
    [part] = channel.assembly._parts
    assert type(part) is bytes and len(part) == 20_000


def test_channels_and_heartbeats_between_the_frames_of_a_message(split: str) -> None:
    dialogue = Dialogue(split).open()
    channels = [dialogue.open_channel() for _ in range(3)]
    for channel in channels:
        dialogue.consume(channel, f"c{channel.number}")
    rows = [
        content_frames(
            channel.number,
            methods.BasicDeliver(consumer_tag=f"c{channel.number}", delivery_tag=tag, exchange="", routing_key="q"),
            b"%d-%d" % (channel.number, tag) * 3,
            piece=4,
        )
        for channel in channels
        for tag in (1,)
    ]
    blocked = method_frame(0, methods.ConnectionBlocked(reason="r"))
    mixed = b"".join(b"".join(frames) + HEARTBEAT for frames in zip(*rows, strict=True))
    assert dialogue.feed(blocked, mixed) == [
        ("blocked", "r"),
        *[content(f"c{number}", 1, b"%d-1" % number * 3) for number in (1, 2, 3)],
    ]


def test_bodies_that_change_places(split: str) -> None:
    dialogue = Dialogue(split).open()
    frames = []
    for _ in range(2):
        channel = dialogue.open_channel()
        dialogue.consume(channel, f"c{channel.number}")
        deliver = methods.BasicDeliver(consumer_tag=f"c{channel.number}", delivery_tag=1, exchange="", routing_key="q")
        frames.append(content_frames(channel.number, deliver, b"%d" % channel.number))
    (first, first_header, first_body), (second, second_header, second_body) = frames
    assert dialogue.feed(second, second_header, first, first_header, second_body, first_body) == [
        content("c2", 1, b"2"),
        content("c1", 1, b"1"),
    ]


def test_replies_and_confirms_between_messages(split: str) -> None:
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    dialogue.consume(channel)
    channel.get(methods.BasicGet(queue="q"), "get")
    channel.request(methods.BasicQos(), "qos")
    publish(channel, b"1", "first")
    assert dialogue.feed(
        deliver(1, 1), get_ok(1, 2), deliver(1, 3), ack(1, 1), method_frame(1, methods.BasicQosOk()), deliver(1, 4)
    ) == [
        content("c", 1),
        ("replied", "get", content(None, 2)),
        content("c", 3),
        ("confirmed", ["first"], True),
        ("replied", "qos", methods.BasicQosOk()),
        content("c", 4),
    ]


def test_routes_that_are_no_text(split: str) -> None:
    """RabbitMQ passes on whatever octets a publisher used."""
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    [message] = dialogue.feed(deliver(1, 1, exchange="\udcff", routing_key="\udc80é"))
    assert message[4:6] == ("\udcff", "\udc80é")
    assert "\udc80é".encode("utf-8", "surrogateescape") == b"\x80\xc3\xa9"


# --- consumers -----------------------------------------------------------------------------------------------------


def test_consumers_are_told_apart(split: str) -> None:
    dialogue, channel = with_channel(split)
    for tag in ("a", "b"):
        dialogue.consume(channel, tag)
    assert dialogue.feed(deliver(1, 1, consumer_tag="b"), deliver(1, 2, consumer_tag="a")) == [
        content("b", 1),
        content("a", 2),
    ]
    with pytest.raises(LocalProtocolError, match="'a' is already in use"):
        channel.consume(methods.BasicConsume(queue="q", consumer_tag="a"), "token", "waiter")
    with pytest.raises(LocalProtocolError):
        channel.consume(methods.BasicConsume(queue="q", consumer_tag=""), "token", "waiter")


def test_deliveries_before_consume_ok(split: str) -> None:
    """RabbitMQ sends consume-ok first; nothing depends on it."""
    dialogue, channel = with_channel(split)
    channel.consume(methods.BasicConsume(queue="q", consumer_tag="c"), "c", "waiter")
    ok = methods.BasicConsumeOk(consumer_tag="c")
    assert dialogue.feed(deliver(1, 1), method_frame(1, ok)) == [content("c", 1), ("replied", "waiter", ok)]


def test_cancel(split: str) -> None:
    dialogue, channel = with_channel(split)
    consumer = dialogue.consume(channel)
    dialogue.feed(deliver(1, 1))
    channel.cancel(consumer, "cancel")
    assert channel.cancel(consumer, "again") is None
    assert dialogue.sent() == [(1, methods.BasicCancel(consumer_tag="c"))]
    ok = methods.BasicCancelOk(consumer_tag="c")
    assert dialogue.feed(deliver(1, 2), method_frame(1, ok)) == [("replied", "cancel", ok)]
    assert dialogue.sent() == [(1, methods.BasicNack(delivery_tag=2))]
    assert channel.tags.outstanding == {1}
    assert channel.cancel(consumer, "too late") is None


def test_cancelled_by_the_broker(split: str) -> None:
    dialogue, channel = with_channel(split)
    consumer = dialogue.consume(channel)
    dialogue.consume(channel, "other")
    assert dialogue.feed(deliver(1, 1), method_frame(1, methods.BasicCancel(consumer_tag="c", nowait=True))) == [
        content("c", 1),
        ("cancelled", "c"),
    ]
    assert channel.cancel(consumer, "cancel") is None
    channel.ack(1)
    assert dialogue.sent() == [(1, methods.BasicAck(delivery_tag=1))]
    assert dialogue.feed(raw_frame(1, 1, methods.BasicCancel.key + b"\x02\xff\xff\x01")) == []  # no text, nobody's
    assert dialogue.feed(deliver(1, 2, consumer_tag="other")) == [content("other", 2)]


def test_both_cancel_at_once(split: str) -> None:
    """The tag is free only when cancel-ok came, or that would end the consumer that took it next."""
    dialogue, channel = with_channel(split)
    consumer = dialogue.consume(channel)
    channel.cancel(consumer, "cancel")
    assert dialogue.feed(method_frame(1, methods.BasicCancel(consumer_tag="c", nowait=True))) == []
    with pytest.raises(LocalProtocolError, match="already in use"):
        channel.consume(methods.BasicConsume(queue="q", consumer_tag="c"), "token", "waiter")
    ok = methods.BasicCancelOk(consumer_tag="c")
    assert dialogue.feed(method_frame(1, ok)) == [("replied", "cancel", ok)]
    dialogue.consume(channel, "c")
    assert dialogue.feed(deliver(1, 1)) == [content("c", 1)]


def test_direct_reply_to_numbers_everything_one(split: str) -> None:
    """amq.rabbitmq.reply-to: no_ack, and each delivery tag is 1."""
    dialogue, channel = with_channel(split)
    dialogue.consume(channel, "replies", no_ack=True)
    dialogue.consume(channel, "c")
    assert dialogue.feed(
        deliver(1, 1, consumer_tag="replies"), deliver(1, 1), deliver(1, 1, consumer_tag="replies"), deliver(1, 2)
    ) == [content("replies", 1), content("c", 1), content("replies", 1), content("c", 2)]
    assert channel.tags.outstanding == {1, 2}


def test_flow(split: str) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1))
    channel.ack(1)
    assert dialogue.feed(method_frame(1, methods.ChannelFlow(active=False))) == []
    assert dialogue.sent() == [(1, methods.BasicAck(delivery_tag=1)), (1, methods.ChannelFlowOk(active=False))]


# --- confirms and returns ------------------------------------------------------------------------------------------


def test_confirms(split: str) -> None:
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    assert channel.mode is Mode.CONFIRM
    for number in range(1, 11):
        publish(channel, b"%d" % number, number)
    assert dialogue.connection.awaiting == 10
    assert dialogue.feed(
        ack(1, 2),
        ack(1, 4, multiple=True),
        ack(1, 4, multiple=True),
        nack(1, 6),
        ack(1, 1),
        ack(1, 99),
        nack(1, 7, multiple=True),
        ack(1, 9),
    ) == [
        ("confirmed", [2, 1, 3, 4], True),
        ("confirmed", [6, 5, 7], False),
        ("confirmed", [9], True),
    ]
    assert channel.confirms.sizes() == {1: 3, 3: 1, 2: 1}
    assert dialogue.connection.awaiting == 2
    everything = ack(1, 0, multiple=True)
    assert dialogue.feed(ack(1, 0), everything, everything) == [("confirmed", [8, 10], True)]
    publish(channel, b"11", 11)
    publish(channel, b"12", 12)
    assert dialogue.feed(nack(1, 0, multiple=True)) == [("confirmed", [11, 12], False)]
    publish(channel, b"13", 13)
    assert dialogue.feed(ack(1, 99, multiple=True)) == [("confirmed", [13], True)]
    assert dialogue.connection.awaiting == 0


def test_confirms_in_a_row_are_of_their_own_channels(split: str) -> None:
    dialogue, one = with_channel(split, methods.ConfirmSelect())
    two = dialogue.open_channel(methods.ConfirmSelect())
    for number in range(1, 5):
        publish(one, b"1", f"one {number}")
        publish(two, b"2", f"two {number}")
    other = two.number
    assert dialogue.feed(ack(1, 1), ack(1, 2), ack(other, 1), ack(1, 4), nack(other, 2), ack(other, 3)) == [
        ("confirmed", ["one 1", "one 2", "two 1", "one 4"], True),
        ("confirmed", ["two 2"], False),
        ("confirmed", ["two 3"], True),
    ]
    assert dialogue.connection.awaiting == 2


def test_a_malformed_frame_behind_a_confirm(split: str) -> None:
    """What came before it counts."""
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    publish(channel, b"1", 1)
    publish(channel, b"2", 2)
    dialogue.sent()
    told = dialogue.feed(ack(1, 1), ack(1, 2)[:-1] + b"\x00")
    assert told[0] == ("confirmed", [1], True)
    assert [each[0] for each in told[1:]] == ["channel ended", "ended"] and told[1][5] == [2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just(("publish", 0, False, True)),
            st.tuples(st.just("confirm"), st.integers(0, 12), st.booleans(), st.booleans()),
        ),
        max_size=60,
    )
)
def test_confirms_against_a_model(steps: list[tuple[str, int, bool, bool]]) -> None:
    dialogue, channel = with_channel("whole", methods.ConfirmSelect())
    published = 0
    waiting: list[int] = []
    for kind, number, multiple, acked in steps:
        if kind == "publish":
            published += 1
            publish(channel, b"body", published)
            waiting.append(published)
            continue
        tag = max(published - number, 0)
        if multiple:
            settled = [each for each in waiting if each <= (tag or published)]
        else:
            settled = [each for each in waiting if each == tag]
        waiting = [each for each in waiting if each not in settled]
        frame = ack(1, tag, multiple) if acked else nack(1, tag, multiple)
        assert dialogue.feed(frame) == ([("confirmed", settled, acked)] if settled else [])
    assert dialogue.connection.awaiting == len(waiting)


def test_a_return_belongs_to_its_own_publish(split: str) -> None:
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    source = Properties(content_type="text/plain", headers={"mine": 1})
    publish(channel, b"0", "zero")
    channel.publish_mandatory(source, b"1", "", "nowhere", "first")
    channel.publish_mandatory(Properties(), b"2", "", "nowhere", "second")
    assert source.headers == {"mine": 1}
    sent = dialogue.sent()
    headers = [frame[2][12:] for frame in sent if frame[1] == "header"]
    marks = [(decode_properties(header).headers or {}).pop(PUBLISH_TAG_HEADER) for header in headers[1:]]
    assert decode_properties(headers[1]).headers == {"mine": 1, PUBLISH_TAG_HEADER: marks[0]}
    assert len({*marks, 1, 2, 3}) == 5  # receivers see them: they tell of no count
    assert decode_properties(headers[1]).content_type == "text/plain"
    assert [frame[1].mandatory for frame in sent if isinstance(frame[1], methods.BasicPublish)] == [False, True, True]
    assert dialogue.feed(returned(1, b"2", headers[2]), ack(1, 3), returned(1, b"1", headers[1]), ack(1, 2, True)) == [
        ("returned", "second", 312, "NO_ROUTE", content(None, 0, b"2", key="nowhere")),
        ("confirmed", ["second"], True),
        ("returned", "first", 312, "NO_ROUTE", content(None, 0, b"1", key="nowhere")),
        ("confirmed", ["zero", "first"], True),
    ]


@pytest.mark.parametrize(
    "properties",
    [
        NO_PROPERTIES,
        encode_properties(Properties(headers={PUBLISH_TAG_HEADER: 99})),
        encode_properties(Properties(headers={PUBLISH_TAG_HEADER: "1"})),
        encode_properties(Properties(headers={PUBLISH_TAG_HEADER: True})),
        b"\xff\xff",
    ],
)
def test_a_return_of_nothing_we_know(split: str, properties: bytes) -> None:
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    publish(channel, b"1", "first")
    [event] = dialogue.feed(returned(1, b"", properties))
    assert event[:2] == ("returned", None)


def test_marks_of_what_is_settled_are_not_kept() -> None:
    tags = PublishTags()
    marks = []
    for number in range(1, 10_001):
        marks.append(tags.mark())
        tags.add(number)
        if number > 3:
            tags.settle(number, False)
    assert [tags.marked(mark) for mark in marks[:5]] == [1, 2, 3, None, None]
    assert tags._marked is not None
    assert len(tags._marked) < 100


def test_a_return_is_its_channels_also_where_that_ends_right_behind_it() -> None:
    dialogue, channel = with_channel()
    taken: list[Any] = []
    channel.on_return = lambda *what: taken.append(what)
    close = method_frame(1, methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND"))
    dialogue.connection.receive_data(returned(1, b"body") + close)
    event, ended = dialogue.connection.events
    assert isinstance(event, events.Returned) and isinstance(ended, events.ChannelEnded)
    assert event.on_return is not None and channel.on_return is None and ended.number == 1
    event.on_return(event.code, event.text, event.content)
    assert taken == [(312, "NO_ROUTE", event.content)]


# --- acknowledging -------------------------------------------------------------------------------------------------


def settled_by(dialogue: Dialogue, channel: ProtocolChannel, *tags: int) -> list[tuple[int, bool]]:
    for tag in tags:
        channel.ack(tag)
    return [(method.delivery_tag, method.multiple) for _, method in dialogue.sent()]


def test_neighbours_coalesce() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    dialogue.feed(*[deliver(1, tag) for tag in range(1, 21)])
    assert settled_by(dialogue, channel, 1) == [(1, False)]
    assert settled_by(dialogue, channel, 2, 3, 4) == [(4, True)]
    assert settled_by(dialogue, channel, 7, 6, 5) == [(7, True)]
    assert settled_by(dialogue, channel, 9, 10) == [(9, False), (10, False)]
    assert settled_by(dialogue, channel, 8, 11, 13) == [(11, True), (13, False)]
    channel.nack(12, True)
    assert dialogue.sent() == [(1, methods.BasicNack(delivery_tag=12))]
    assert settled_by(dialogue, channel, 14, 15) == [(15, True)]
    assert settled_by(dialogue, channel, 20, 16, 17, 18, 19) == [(20, True)]


def test_no_multiple_reaches_over_a_nack_on_its_way() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    dialogue.feed(*[deliver(1, tag) for tag in range(1, 6)])
    channel.ack(1)
    channel.ack(3)
    channel.nack(2, True)
    channel.ack(4)
    channel.reject(5, True)
    assert [method for _, method in dialogue.sent()] == [
        methods.BasicAck(delivery_tag=1),
        methods.BasicAck(delivery_tag=3),
        methods.BasicNack(delivery_tag=2),
        methods.BasicAck(delivery_tag=4),
        methods.BasicReject(delivery_tag=5),
    ]


def test_what_is_put_back_coalesces() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    dialogue.feed(*[deliver(1, tag) for tag in range(1, 11)])
    channel.ack(1)
    for tag in (2, 4, 3, 4):
        channel.requeue(tag)
    assert channel.tags.outstanding == {2, 3, 4, 5, 6, 7, 8, 9, 10}
    channel.requeue(6)
    channel.requeue(7)
    channel.ack(7)  # nobody should; the first word that leaves counts, and only that
    channel.nack(5, False)
    with pytest.raises(AlreadySettled):
        channel.nack(6, True)
    assert [method for _, method in dialogue.sent()] == [
        methods.BasicAck(delivery_tag=1),
        methods.BasicAck(delivery_tag=7),
        methods.BasicNack(delivery_tag=4, multiple=True),
        methods.BasicNack(delivery_tag=6),
        methods.BasicNack(delivery_tag=5, requeue=False),
    ]
    channel.requeue(8)
    channel.recover("recover")
    assert [method.name for _, method in dialogue.sent()] == ["basic.nack", "basic.recover"]
    channel.requeue(9)
    assert dialogue.sent() == []


def test_all_consumers_and_gets_share_the_tags() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel, "a")
    dialogue.consume(channel, "b")
    dialogue.consume(channel, "free", no_ack=True)
    channel.get(methods.BasicGet(queue="q"), "get")
    channel.get(methods.BasicGet(queue="q", no_ack=True), "get")
    dialogue.sent()
    dialogue.feed(
        deliver(1, 1, consumer_tag="a"),
        deliver(1, 2, consumer_tag="b"),
        deliver(1, 3, consumer_tag="free"),
        get_ok(1, 4),
        get_ok(1, 5),
        deliver(1, 6, consumer_tag="a"),
    )
    assert channel.tags.outstanding == {1, 2, 4, 6}
    assert settled_by(dialogue, channel, 1, 4, 6) == [(1, False), (4, False), (6, False)]
    assert settled_by(dialogue, channel, 2) == [(2, False)]


def test_acks_leave_ahead_of_any_other_frame_of_the_channel() -> None:
    dialogue, channel = with_channel()
    other = dialogue.open_channel()
    consumer = dialogue.consume(channel)
    actions = [
        lambda: channel.request(methods.BasicQos(), "qos"),
        lambda: channel.send(methods.BasicRecoverAsync()),
        lambda: publish(channel, b"body"),
        lambda: channel.nack(100, True),
        lambda: channel.reject(101, False),
        lambda: channel.get(methods.BasicGet(queue="q"), "get"),
        lambda: channel.cancel(consumer, "cancel"),
        lambda: channel.close("close"),
    ]
    dialogue.feed(*[deliver(1, tag) for tag in [*range(1, 9), 100, 101]])
    for tag, action in enumerate(actions, 1):
        channel.ack(tag)
        publish(other, b"body")
        action()
        assert [frame[1].name for frame in dialogue.sent() if isinstance(frame[1], Method)][:2] == [
            "basic.publish",
            "basic.ack",
        ]


def test_settling_twice() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1), deliver(1, 2), deliver(1, 3))
    channel.ack(1)
    channel.nack(2, False)
    channel.reject(3, True)
    assert [method for _, method in dialogue.sent()] == [
        methods.BasicAck(delivery_tag=1),
        methods.BasicNack(delivery_tag=2, requeue=False),
        methods.BasicReject(delivery_tag=3, requeue=True),
    ]
    for tag in (1, 2, 3, 4):
        for settle in (channel.ack, lambda tag: channel.nack(tag, True), lambda tag: channel.reject(tag, True)):
            with pytest.raises(AlreadySettled, match="a delivery is settled once"):
                settle(tag)
    assert dialogue.sent() == []


@pytest.mark.parametrize("how", ["our close", "broker's close", "connection", "recover"])
def test_a_stale_delivery_can_not_be_settled(how: str) -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 1), deliver(1, 2))
    channel.ack(1)
    match how:
        case "our close":
            channel.close("close")
        case "broker's close":
            dialogue.feed(method_frame(1, methods.ChannelClose(reply_code=406, reply_text="PRECONDITION_FAILED")))
        case "connection":
            dialogue.feed(method_frame(0, methods.ConnectionClose(reply_code=320)))
        case "recover":
            channel.recover("recover")
    dialogue.sent()
    for tag, error in ((1, AlreadySettled), (2, StaleDelivery)):
        assert channel.is_stale(tag) == (error is StaleDelivery)
        for settle in (channel.ack, lambda tag: channel.nack(tag, True), lambda tag: channel.reject(tag, True)):
            with pytest.raises(error):
                settle(tag)
    assert dialogue.sent() == []


def test_a_broker_that_jumps_does_not_keep_us_counting() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    tags = [1, 2, 2**40, 2**40 + 1, 2**63, 2**64 - 1]
    dialogue.feed(*[deliver(1, tag) for tag in tags])
    assert settled_by(dialogue, channel, 1, 2**63) == [(1, False), (2**63, False)]
    assert settled_by(dialogue, channel, 2, 2**40) == [(2**40, True)]
    assert settled_by(dialogue, channel, 2**40 + 1, 2**64 - 1) == [(2**64 - 1, True)]


# --- recover -------------------------------------------------------------------------------------------------------


def test_recover(split: str) -> None:
    dialogue, channel = with_channel(split)
    consumer = dialogue.consume(channel)
    dialogue.consume(channel, "free", no_ack=True)
    dialogue.feed(deliver(1, 1))
    channel.recover("recover")
    assert dialogue.sent() == [(1, methods.BasicRecover(requeue=True))]
    # What arrives before recover-ok was sent before the broker saw the recover: it goes back, too.
    assert dialogue.feed(deliver(1, 2), deliver(1, 3, consumer_tag="free")) == [content("c", 2), content("free", 3)]
    channel.cancel(consumer, None)
    dialogue.sent()
    assert dialogue.feed(deliver(1, 4)) == []
    assert dialogue.sent() == []
    for tag in (1, 2, 4):
        assert channel.is_stale(tag)
        with pytest.raises(StaleDelivery, match="recovered"):
            channel.ack(tag)
    cancel_ok = method_frame(1, methods.BasicCancelOk(consumer_tag="c"))
    assert dialogue.feed(method_frame(1, methods.BasicRecoverOk()), cancel_ok) == [
        ("recovered", 1, ["c", "free"]),
        ("replied", "recover", methods.BasicRecoverOk()),
    ]
    dialogue.consume(channel)
    dialogue.feed(deliver(1, 5, redelivered=True), deliver(1, 6, redelivered=True))
    assert settled_by(dialogue, channel, 5, 6) == [(6, True)]


def test_two_recovers_on_their_way(split: str) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    channel.recover("first")
    channel.recover("second")
    ok = method_frame(1, methods.BasicRecoverOk())
    dialogue.feed(ok, deliver(1, 1))
    assert channel.is_stale(1)
    dialogue.feed(ok, deliver(1, 2))
    assert (channel.is_stale(1), channel.is_stale(2)) == (True, False)
    channel.ack(2)


def test_who_is_stale_after_several_recovers() -> None:
    dialogue, channel = with_channel()
    dialogue.consume(channel)
    ok = method_frame(1, methods.BasicRecoverOk())
    for life in range(3):
        dialogue.feed(deliver(1, 2 * life + 1), deliver(1, 2 * life + 2))
        channel.ack(2 * life + 1)
        channel.recover("waiter")
        dialogue.feed(ok)
        assert (channel.is_stale(2 * life + 1), channel.is_stale(2 * life + 2)) == (False, True)
    assert channel.is_stale(1)  # (of a life before the last one, all count as stale)
    dialogue.feed(deliver(1, 7))
    channel.close("close")
    assert [channel.is_stale(tag) for tag in (5, 6, 7)] == [False, True, True]


# --- transactions --------------------------------------------------------------------------------------------------


def test_rollback_unsettles(split: str) -> None:
    dialogue, channel = with_channel(split, methods.TxSelect())
    assert channel.mode is Mode.TRANSACTION
    dialogue.consume(channel)
    dialogue.feed(*[deliver(1, tag) for tag in range(1, 7)])
    assert settled_by(dialogue, channel, 1, 2) == [(1, False), (2, False)]  # no coalescing in a transaction
    channel.request(methods.TxCommit(), "commit")
    assert dialogue.feed(method_frame(1, methods.TxCommitOk())) == [("replied", "commit", methods.TxCommitOk())]
    channel.ack(3)
    channel.nack(4, True)
    channel.reject(5, False)
    assert channel.tags.outstanding == {6}
    channel.request(methods.TxRollback(), "rollback")
    assert dialogue.feed(method_frame(1, methods.TxRollbackOk())) == [("replied", "rollback", methods.TxRollbackOk())]
    assert channel.tags.outstanding == {3, 4, 5, 6}
    channel.ack(3)
    with pytest.raises(AlreadySettled):
        channel.ack(1)


def test_what_is_settled_behind_a_commit_belongs_to_the_next(split: str) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    dialogue.feed(*[deliver(1, tag) for tag in range(1, 7)])
    channel.ack(1)
    channel.request(methods.TxSelect(), "select")
    channel.ack(2)
    channel.request(methods.TxCommit(), "commit")
    channel.ack(3)
    channel.request(methods.TxRollback(), "rollback")
    channel.ack(4)
    channel.request(methods.TxSelect(), "again")  # changes nothing
    channel.request(methods.TxRollback(), "rollback")
    channel.ack(5)
    assert channel.tags.outstanding == {6}
    dialogue.feed(method_frame(1, methods.TxSelectOk()), method_frame(1, methods.TxCommitOk()))
    assert channel.tags.outstanding == {6}
    dialogue.feed(method_frame(1, methods.TxRollbackOk()))
    assert channel.tags.outstanding == {3, 6}
    dialogue.feed(method_frame(1, methods.TxSelectOk()), method_frame(1, methods.TxRollbackOk()))
    assert channel.tags.outstanding == {3, 4, 6}


# --- closing -------------------------------------------------------------------------------------------------------


def test_closing_tells_everybody_and_discards(split: str) -> None:
    dialogue, channel = with_channel(split, methods.ConfirmSelect())
    dialogue.consume(channel, "a")
    dialogue.consume(channel, "b")
    channel.request(methods.QueueDeclare(queue="q"), "declare")
    channel.request(methods.QueueDeclare(queue="q"), "abandoned").abandon()
    publish(channel, b"1", "message")
    method, header, body = content_frames(
        1, methods.BasicDeliver(consumer_tag="a", delivery_tag=1, exchange="", routing_key="q"), b"body"
    )
    dialogue.feed(method)
    dialogue.sent()
    channel.close("close")
    assert channel.close("again") is None
    assert dialogue.sent() == [(1, methods.ChannelClose(reply_code=200, reply_text="closed by the client"))]
    assert dialogue.events() == [("channel ended", 1, CLOSED_BY_US, ["declare"], ["a", "b"], ["message"], [])]
    assert dialogue.connection.awaiting == 1
    assert (
        dialogue.feed(
            header,
            body,
            method_frame(1, DECLARE_OK),
            ack(1, 1),
            deliver(1, 2),
            deliver(1, 2, consumer_tag="unknown"),
            method_frame(1, methods.BasicCancel(consumer_tag="a", nowait=True)),
            method_frame(1, methods.ChannelFlow(active=False)),
            get_ok(1, 9),
        )
        == []
    )
    with pytest.raises(ChannelClosed, match="closed by this program"):
        channel.request(methods.BasicQos(), "qos")
    ok = methods.ChannelCloseOk()
    assert dialogue.feed(method_frame(1, ok)) == [("replied", "close", ok)]
    assert channel.state is ChannelState.CLOSED
    assert dialogue.sent() == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (403, AccessRefused),
        (404, NotFound),
        (405, ResourceLocked),
        (406, PreconditionFailed),
        (541, ChannelClosed),
    ],
)
def test_closed_by_the_broker(split: str, code: int, error: type[ChannelClosed]) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    channel.request(methods.QueueDeclare(queue="q", passive=True), "declare")
    dialogue.sent()
    close = methods.ChannelClose(reply_code=code, reply_text="reason", failing_class_id=50, failing_method_id=10)
    [ended] = dialogue.feed(method_frame(1, close))
    words = f"{error.__name__}: channel closed ({code}): reason, caused by queue.declare"
    assert ended == ("channel ended", 1, words, ["declare"], ["c"], [], [])
    assert dialogue.sent() == [(1, methods.ChannelCloseOk())]
    with pytest.raises(error) as raised:
        channel.request(methods.BasicQos(), "qos")
    assert (raised.value.code, raised.value.text, raised.value.method) == (code, "reason", "queue.declare")
    assert dialogue.connection.state is ConnectionState.OPEN


def test_an_opening_channel_closed_by_the_broker(split: str) -> None:
    dialogue = Dialogue(split).open()
    dialogue.connection.open_channel("open")
    [ended] = dialogue.feed(method_frame(1, methods.ChannelClose(reply_code=541, reply_text="sorry")))
    assert ended[3] == ["open"]


def test_both_close_the_channel_at_once(split: str) -> None:
    dialogue, channel = with_channel(split, channel_max=1)
    channel.close("close")
    dialogue.sent()
    dialogue.events()
    close = methods.ChannelClose(reply_code=404, reply_text="NOT_FOUND")
    assert dialogue.feed(method_frame(1, close)) == [("replied", "close", close)]
    assert dialogue.sent() == [(1, methods.ChannelCloseOk())]
    with pytest.raises(LocalProtocolError, match="channel_max"):
        dialogue.connection.open_channel("next")
    assert dialogue.feed(method_frame(1, methods.ChannelCloseOk())) == []
    assert (channel.state, dialogue.connection.awaiting) == (ChannelState.CLOSED, 0)
    dialogue.connection.open_channel("next")


def test_frames_of_a_channel_that_is_over_are_an_error(split: str) -> None:
    """Once close-ok was sent or received nothing may follow: the number may belong to somebody else."""
    dialogue, channel = with_channel(split)
    channel.close("close")
    dialogue.events()
    [_, ended] = dialogue.feed(method_frame(1, methods.ChannelCloseOk()), method_frame(1, DECLARE_OK))
    assert ended[1].endswith("the broker broke the protocol: a method for channel 1, which is not open")


# --- the hot paths and the general ones ----------------------------------------------------------------------------

names = st.text(max_size=20)
bodies = st.binary(max_size=300)


@settings(max_examples=200, deadline=None)
@given(names, names, st.booleans(), bodies, st.sampled_from([None, 1, 2]), st.sampled_from([4096, 131072]))
def test_publish_as_the_general_way(
    exchange: str, routing_key: str, mandatory: bool, body: bytes, mode: int | None, frame_max: int
) -> None:
    dialogue, channel = with_channel(frame_max=frame_max)
    properties = encode_properties(Properties(delivery_mode=mode))
    body *= 30
    for _ in range(2):  # the second time with what was kept of the first
        channel.publish(properties, body, exchange, routing_key, mandatory)
        method = methods.BasicPublish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        general = content_frames(1, method, body, properties, piece=frame_max - 8)
        assert dialogue.connection.data_to_send() == b"".join(general)


def test_the_kept_publish_frames_stay_few() -> None:
    dialogue, channel = with_channel()
    for number in range(1000):
        channel.publish(NO_PROPERTIES, b"", "", f"reply-queue-{number}", False)
    assert len(channel._heads) < 300
    assert len({frame[1].routing_key for frame in dialogue.sent() if isinstance(frame[1], Method)}) == 1000


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 65535), st.integers(1, 2**64 - 1), st.booleans())
def test_settlements_as_the_general_way(number: int, tag: int, requeue: bool) -> None:
    dialogue = Dialogue(channel_max=65535).open(channel_max=65535)
    dialogue.connection._next_number = number
    channel = dialogue.open_channel()
    assert channel.number == number
    dialogue.consume(channel)
    for settle, method in (
        (lambda: channel.ack(tag), methods.BasicAck(delivery_tag=tag)),
        (lambda: channel.nack(tag, requeue), methods.BasicNack(delivery_tag=tag, requeue=requeue)),
        (lambda: channel.reject(tag, requeue), methods.BasicReject(delivery_tag=tag, requeue=requeue)),
    ):
        channel.own_tags().outstanding.add(tag)
        settle()
        assert dialogue.connection.data_to_send() == method_frame(number, method)
    if tag > 1:
        channel.tags.outstanding |= {tag - 1, tag}
        channel.tags.last = tag
        channel.ack(tag - 1)
        channel.ack(tag)
        multiple = methods.BasicAck(delivery_tag=tag, multiple=True)
        assert dialogue.connection.data_to_send() == method_frame(number, multiple)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "free", "gone"]), st.booleans(), names, names, bodies, st.binary(max_size=40)
        ),
        max_size=10,
    ),
    st.sampled_from([4088, 100]),
)
def test_deliveries_as_the_general_way(messages: list[tuple[str, bool, str, str, bytes, bytes]], piece: int) -> None:
    """In one piece they take the hot path, octet by octet the general one."""
    outcomes = []
    for split in ("whole", "octets"):
        dialogue, channel = with_channel(split)
        for tag in ("a", "b"):
            dialogue.consume(channel, tag)
        dialogue.consume(channel, "free", no_ack=True)
        channel.cancel(dialogue.consume(channel, "gone"), None)
        dialogue.sent()
        data = b"".join(
            deliver(
                1,
                tag,
                body,
                consumer_tag=consumer,
                redelivered=redelivered,
                exchange=exchange,
                routing_key=key,
                properties=b"\0\0" + extra,
                piece=piece,
            )
            for tag, (consumer, redelivered, exchange, key, body, extra) in enumerate(messages, 1)
        )
        outcomes.append((dialogue.feed(data), dialogue.sent(), channel.tags.outstanding, channel.tags.last))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == sum(message[0] != "gone" for message in messages)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "a", "a", "b", "free", "gone"]),
            st.sampled_from([("", "q"), ("", "q"), ("", "r"), ("e", "")]),
            st.sampled_from([b"body", b"BODY", b"longer than that", b""]),
            st.sampled_from([b"\0\0", b"\x10\0\2"]),
        ),
        min_size=2,
        max_size=8,
    ),
    st.integers(1, 3),
    st.one_of(st.none(), st.tuples(st.integers(0, 600), st.integers(0, 255))),
    st.sampled_from([b"", HEARTBEAT]),
)
def test_runs_of_deliveries_as_the_general_way(
    messages: list[tuple[str, tuple[str, str], bytes, bytes]],
    step: int,
    fault: tuple[int, int] | None,
    between: bytes,
) -> None:
    """What is alike and comes together is taken together, up to what is not, or is wrong."""
    outcomes = []
    for split in ("whole", "octets"):
        dialogue, channel = with_channel(split)
        for tag in ("a", "b"):
            dialogue.consume(channel, tag)
        dialogue.consume(channel, "free", no_ack=True)
        channel.cancel(dialogue.consume(channel, "gone"), None)
        dialogue.sent()
        data = bytearray(
            between.join(
                deliver(
                    1,
                    tag * step,
                    body,
                    consumer_tag=consumer,
                    redelivered=tag % 2 == 0,
                    exchange=exchange,
                    routing_key=key,
                    properties=properties,
                )
                for tag, (consumer, (exchange, key), body, properties) in enumerate(messages, 1)
            )
        )
        if fault is not None:
            data[fault[0] % len(data)] = fault[1]
        events = dialogue.feed(bytes(data))
        if events and events[-1][0] == "ended":
            outcomes.append((events[:-1], str(events[-1])))
        else:
            outcomes.append((events, dialogue.sent(), channel.tags.outstanding, channel.tags.last))
    assert outcomes[0] == outcomes[1]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 12), st.integers(0, 255))
def test_a_confirm_as_the_general_way(tag: int, bits: int) -> None:
    """The hot path reads the octets of basic.ack itself."""
    events = []
    for general in (False, True):
        dialogue, channel = with_channel("whole", methods.ConfirmSelect())
        for number in range(1, 11):
            publish(channel, b"body", number)
        payload = methods.BasicAck.key + tag.to_bytes(8, "big") + bytes([bits])
        if general:
            receive_channel_method(channel, methods.decode_method(payload))
            events.append(dialogue.events())
        else:
            events.append(dialogue.feed(b"\x01\0\x01\0\0\0\x0d" + payload + b"\xce"))
    assert events[0] == events[1]


@pytest.mark.parametrize("header_size", [12, 13])
def test_a_header_without_properties_is_refused_either_way(split: str, header_size: int) -> None:
    dialogue, channel = with_channel(split)
    dialogue.consume(channel)
    method, _, body = content_frames(
        1, methods.BasicDeliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="q"), b"body"
    )
    events = dialogue.feed(method, header_frame(1, 4, b"\0" * (header_size - 12)), body)
    assert events[-1][0] == "ended"
    assert "truncated" in events[-1][1]
