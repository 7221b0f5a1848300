"""A peer that breaks the protocol: one well-worded connection.close, one end, no exception, bounded memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from rabbitry._errors import ConnectFailed, ConnectionClosed, DecodeError, RemoteProtocolError
from rabbitry.protocol.client.connection import UNSPLIT_MAX
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.messages import PROPERTIES_MAX
from rabbitry.protocol.client.states import ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.codec import Method
from rabbitry.protocol.wire.methods import METHODS
from tests.protocol.fuzz import Fuzzer
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
    returned,
)

DELIVER = methods.BasicDeliver(consumer_tag="c", delivery_tag=1, exchange="", routing_key="q")
DELIVER_FRAME = method_frame(1, DELIVER)


def nested_table(depth: int) -> bytes:
    """The octets of a table within a table and so on."""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + len(table).to_bytes(4, "big") + table
    return len(table).to_bytes(4, "big") + table


def ready(split: str, **options: Any) -> Dialogue:
    """An open connection: channel 1 consumes and confirms and awaits its "declare"; 2 was closed, 3 is closing."""
    dialogue = Dialogue(split, **options).open()
    first = dialogue.open_channel(methods.ConfirmSelect())
    dialogue.consume(first)
    second, third = dialogue.open_channel(), dialogue.open_channel()
    second.close(None)
    dialogue.feed(method_frame(2, methods.ChannelCloseOk()))
    third.close(None)
    first.request(methods.QueueDeclare(), "declare")
    first.publish(NO_PROPERTIES, b"body", "", "q", False, "message")
    dialogue.sent()
    dialogue.events()
    return dialogue


def check_end(dialogue: Dialogue, events: list[tuple[Any, ...]], code: int, words: str) -> None:
    """Exactly one end, told to everybody, and one connection.close that says why."""
    assert [event[0] for event in events if "ended" in event[0]] == ["channel ended", "ended"]
    ended, connection_ended = events[-2:]
    assert ended[3:] == (["declare"], ["c"], ["message"], [])
    error = dialogue.connection.error
    assert isinstance(error, ConnectionClosed)
    assert error.code == code
    assert isinstance(error.__cause__, RemoteProtocolError)
    assert error.__cause__.code == code
    assert connection_ended[1] == f"ConnectionClosed: {error}"
    assert words in str(error)
    assert "internal error" not in str(error)
    closes = [frame[1] for frame in dialogue.sent() if isinstance(frame[1], methods.ConnectionClose)]
    assert [(close.reply_code, close.reply_text) for close in closes] == [(code, str(error.__cause__))]
    assert not dialogue.connection.ended_here
    assert dialogue.feed(deliver(1, 99), HEARTBEAT, method_frame(0, methods.ConnectionCloseOk())) == []
    assert dialogue.sent() == []


HOSTILE: dict[str, tuple[list[bytes], int, str]] = {
    # frames
    "frame end of a method": ([raw_frame(1, 1, DELIVER.encode(), b"\x00")], 501, "frame-end"),
    "frame end of a header": ([DELIVER_FRAME, raw_frame(2, 1, b"\0\x3c" + b"\0" * 12, b"\xcf")], 501, "frame-end"),
    "frame end of a body": ([DELIVER_FRAME, header_frame(1, 4), raw_frame(3, 1, b"body", b"\xcd")], 501, "frame-end"),
    "frame end of a header before its body": (
        [DELIVER_FRAME, raw_frame(2, 1, b"\0\x3c" + b"\0" * 9 + b"\x04\0\0", b"\xcf"), body_frame(1, b"body")],
        501,
        "frame-end",
    ),
    "frame end of a heartbeat": ([HEARTBEAT[:-1] + b"\xff"], 501, "frame-end"),
    "frame end in the middle": ([DELIVER_FRAME[:-5] + HEARTBEAT * 3], 501, "frame-end"),
    **{f"frame type {kind}": ([raw_frame(kind, 1, b"")], 501, f"type {kind}") for kind in (0, 4, 5, 6, 7, 9, 206, 255)},
    "oversized": ([raw_frame(3, 1, b"a" * 131065)], 501, "131073 bytes exceeds frame_max (131072)"),
    "oversized beyond reason": ([b"\x01\x00\x01\xff\xff\xff\xff\x00"], 501, "exceeds frame_max"),
    "heartbeat on a channel": ([raw_frame(8, 1, b"")], 501, "heartbeat"),
    "heartbeat with a payload": ([raw_frame(8, 0, b"x")], 501, "heartbeat"),
    # channels
    "method for an unknown channel": ([method_frame(9, methods.ChannelOpenOk())], 504, "channel 9"),
    "method for a closed channel": ([method_frame(2, methods.BasicQosOk())], 504, "channel 2"),
    "delivery for an unknown channel": ([deliver(65535, 1)], 504, "channel 65535"),
    "confirm for an unknown channel": ([ack(9, 1)], 504, "channel 9"),
    "header for a closed channel": ([header_frame(2, 4)], 504, "channel 2"),
    "body for a closed channel": ([body_frame(2, b"body")], 504, "channel 2"),
    "header on channel 0": ([header_frame(0, 4)], 504, "channel 0"),
    "body on channel 0": ([body_frame(0, b"body")], 504, "channel 0"),
    # methods
    "empty method": ([raw_frame(1, 1, b"")], 540, "unknown method"),
    "half a method id": ([raw_frame(1, 0, b"\x00\x0a\x00")], 540, "unknown method 00"),
    "unknown method": ([raw_frame(1, 1, b"\x00\x3c\x00\x63")], 540, "unknown method 003c 0063"),
    "unknown method of the connection": ([raw_frame(1, 0, b"\x00\x0a\x00\x63")], 540, "unknown method"),
    "truncated reply": ([raw_frame(1, 1, methods.QueueDeclareOk.key + b"\x05abc")], 502, "queue.declare-ok"),
    "reply and more": ([raw_frame(1, 1, methods.BasicQosOk.key + b"more")], 502, "basic.qos-ok: 4 octets follow"),
    "a channel's method on channel 0": ([method_frame(0, methods.ChannelCloseOk())], 503, "channel.close-ok"),
    "a method of the connection": ([method_frame(1, methods.ConnectionClose(reply_code=320))], 503, "channel 1"),
    "connection.close-ok unasked": ([method_frame(0, methods.ConnectionCloseOk())], 503, "connection.close-ok"),
    "secret-ok unasked": ([method_frame(0, methods.ConnectionUpdateSecretOk())], 503, "connection.update-secret-ok"),
    "a second start": ([method_frame(0, methods.ConnectionStart())], 503, "unexpected connection.start"),
    "a second tune": ([method_frame(0, methods.ConnectionTune())], 503, "unexpected connection.tune"),
    "a client's method": ([method_frame(1, methods.QueueDeclare(queue="q"))], 503, "queue.declare on channel 1"),
    "a publish": ([b"".join(content_frames(1, methods.BasicPublish(), b"body"))], 503, "basic.publish"),
    "another reply": ([method_frame(1, methods.QueueDeleteOk(message_count=1))], 503, "queue.delete-ok on channel 1"),
    "a second open-ok": ([method_frame(1, methods.ChannelOpenOk())], 503, "channel.open-ok"),
    "channel.close-ok unasked": ([method_frame(1, methods.ChannelCloseOk())], 503, "channel.close-ok"),
    "get-ok unasked": ([get_ok(1, 1)], 503, "basic.get-ok"),
    "consume-ok unasked": ([method_frame(1, methods.BasicConsumeOk(consumer_tag="c"))], 503, "basic.consume-ok"),
    # the order of content
    "header without method": ([header_frame(1, 4)], 505, "content header"),
    "body without method": ([body_frame(1, b"body")], 505, "content body"),
    "body without header": ([DELIVER_FRAME, body_frame(1, b"body")], 505, "before its header after basic.deliver"),
    "two headers": ([DELIVER_FRAME, header_frame(1, 4), header_frame(1, 4)], 505, "second content header"),
    "delivery amid content": ([DELIVER_FRAME, deliver(1, 2)], 505, "amid the content"),
    "delivery amid a body": ([DELIVER_FRAME, header_frame(1, 4), body_frame(1, b"bo"), deliver(1, 2)], 505, "amid"),
    "confirm amid content": ([DELIVER_FRAME, ack(1, 1)], 505, "basic.ack on channel 1 amid"),
    "nack amid content": ([DELIVER_FRAME, nack(1, 1)], 505, "basic.nack on channel 1 amid"),
    "close amid content": ([DELIVER_FRAME, method_frame(1, methods.ChannelClose(reply_code=404))], 505, "amid"),
    "reply amid content": (
        [DELIVER_FRAME, method_frame(1, methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0))],
        505,
        "amid",
    ),
    "body too long": ([DELIVER_FRAME, header_frame(1, 4), body_frame(1, b"bodies")], 501, "longer than its header"),
    "body one octet too long": ([DELIVER_FRAME, header_frame(1, 3), body_frame(1, b"body")], 501, "longer than"),
    "body longer with its end": (
        [DELIVER_FRAME, header_frame(1, 4), body_frame(1, b"bo"), body_frame(1, b"dies")],
        501,
        "longer than its header says",
    ),
    "body of an empty message": (
        [returned(1, b""), DELIVER_FRAME, header_frame(1, 0), body_frame(1, b"")],
        505,
        "content body",
    ),
    # content headers
    "header of another class": ([DELIVER_FRAME, header_frame(1, 4, class_id=50)], 501, "class 50"),
    "header without properties": ([DELIVER_FRAME, header_frame(1, 4, b"\0"), body_frame(1, b"body")], 502, "truncated"),
    "empty header": ([DELIVER_FRAME, raw_frame(2, 1, b"")], 502, "truncated"),
    "huge body for nobody": (
        [DELIVER_FRAME.replace(b"\x01c", b"\x01d"), header_frame(1, 2**64 - 1)],
        503,
        "unknown consumer",
    ),
    # deliveries
    "unknown consumer": ([deliver(1, 1, consumer_tag="d")], 503, "unknown consumer"),
    "unknown consumer, not text": (
        [deliver(1, 1, consumer_tag="ab").replace(b"\x02ab", b"\x02\xff\xfe")],
        503,
        "unknown consumer",
    ),
    "delivery tag 0": ([deliver(1, 0)], 501, "delivery tag 0 after 0"),
    "the same delivery tag": ([deliver(1, 5), deliver(1, 5)], 501, "delivery tag 5 after 5"),
    "a smaller delivery tag": ([deliver(1, 5), deliver(1, 4)], 501, "delivery tag 4 after 5"),
    "truncated delivery": (
        [raw_frame(1, 1, DELIVER.encode()[:-1]), header_frame(1, 4), body_frame(1, b"body")],
        502,
        "basic.deliver: ",
    ),
    "delivery and more": (
        [raw_frame(1, 1, DELIVER.encode() + b"!"), header_frame(1, 4), body_frame(1, b"body")],
        502,
        "basic.deliver: 1 octets follow",
    ),
    "delivery of nothing": ([raw_frame(1, 1, methods.BasicDeliver.key), header_frame(1, 0)], 502, "basic.deliver"),
    "truncated return": ([raw_frame(1, 1, methods.BasicReturn.key + b"\x01"), header_frame(1, 0)], 502, "basic.return"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(split: str, name: str) -> None:
    frames, code, words = HOSTILE[name]
    dialogue = ready(split)
    check_end(dialogue, dialogue.feed(*frames), code, words)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "delivery" not in name])
def test_what_came_before_counts(split: str, name: str) -> None:
    """Messages and confirms in front of the fault are events all the same, and what follows it is not."""
    frames, code, words = HOSTILE[name]
    dialogue = ready(split)
    frames = [deliver(1, tag, b"%d" % tag) for tag in (7, 8)] + [
        frame.replace(DELIVER_FRAME, DELIVER_FRAME.replace(b"\0\0\0\x01", b"\0\0\0\x09")) for frame in frames
    ]
    events = dialogue.feed(*frames, deliver(1, 100))
    assert [event[-1] for event in events[:2]] == [b"7", b"8"]
    assert len(events) == (6 if name == "body of an empty message" else 4)
    check_end(dialogue, events, code, words)


@pytest.mark.parametrize("state", [state for state in ConnectionState if state is not ConnectionState.CLOSED])
@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_each_method_in_each_state(row: type[Method], state: ConnectionState) -> None:
    """Whatever the broker may not say ends the connection; nothing escapes, nothing is said twice."""
    values = {"bit": True, "shortstr": "s", "longstr": b"", "table": {}}
    method = row(**{field.name: values.get(field.type.name, 1) for field in row.fields})
    for number in (0, 1, 3, 9):
        dialogue = in_state("whole", state)
        events = dialogue.feed(method_frame(number, method))
        ended = [event for event in events if event[0] == "ended"]
        closes = [frame for frame in dialogue.sent() if isinstance(frame[-1], methods.ConnectionClose)]
        assert len(ended) == (dialogue.connection.state is ConnectionState.CLOSED)
        error = dialogue.connection.error
        if error is not None and isinstance(error.__cause__, RemoteProtocolError):
            assert "internal error" not in str(error)
            assert len(closes) == (state is not ConnectionState.START)
            assert isinstance(error, ConnectionClosed if state is ConnectionState.OPEN else ConnectFailed)
        else:
            assert not closes


def in_state(split: str, state: ConnectionState) -> Dialogue:
    if state in (ConnectionState.OPEN, ConnectionState.CLOSING):
        dialogue = ready(split)
        if state is ConnectionState.CLOSING:
            dialogue.connection.close()
    else:
        dialogue = Dialogue(split)
        if state is not ConnectionState.START:
            dialogue.start()
        if state is ConnectionState.OPEN_OK:
            dialogue.tune()
    assert dialogue.connection.state is state
    dialogue.events()
    dialogue.sent()
    return dialogue


@pytest.mark.parametrize("state", [ConnectionState.TUNE, ConnectionState.OPEN_OK])
def test_faults_in_the_handshake(split: str, state: ConnectionState) -> None:
    for frames, words in (
        ([raw_frame(1, 0, b"\0\x0a\0\x1e")], "connection.tune: its arguments are truncated"),
        ([raw_frame(1, 0, b"junk")], "unknown method"),
        ([method_frame(0, methods.ConnectionStart())], "unexpected connection.start"),
        ([method_frame(1, methods.ChannelOpenOk())], "channel 1, which is not open"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], ""),
    ):
        dialogue = in_state(split, state)
        [ended] = dialogue.feed(*frames)
        assert ended[1].startswith("ConnectFailed: the server broke the protocol: ")
        assert words in ended[1]
        [(_, close)] = dialogue.sent()
        assert isinstance(close, methods.ConnectionClose)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (raw_frame(1, 0, methods.ConnectionStart.key + b"\0\x09" + nested_table(1000) + b"\0" * 8), "deep"),
        (raw_frame(1, 0, methods.ConnectionStart.key + b"\0\x09\xff\xff\xff\xff"), "connection.start"),
        (raw_frame(1, 0, methods.ConnectionStart.key + b"\0\x09\0\0\0\x03\x01a?"), "unknown type b'?'"),
        (method_frame(0, methods.ConnectionTune()), "unexpected connection.tune while waiting for connection.start"),
        (method_frame(7, methods.ConnectionStart()), "channel 7"),
        (b"\x01\x00\x00\xff\xff\xff\xff\x00", "exceeds frame_max"),
    ],
)
def test_faults_in_the_first_frame(split: str, start: bytes, words: str) -> None:
    dialogue = in_state(split, ConnectionState.START)
    [ended] = dialogue.feed(start)
    assert ended[1].startswith("ConnectFailed: the server broke the protocol: ")
    assert words in ended[1]
    assert dialogue.sent() == []  # it has not even said hello


def test_malformed_while_closing(split: str) -> None:
    """It has our connection.close already, and gets no second one."""
    for frame in (raw_frame(1, 1, DELIVER.encode(), b"!"), raw_frame(99, 0, b"")):
        dialogue = in_state(split, ConnectionState.CLOSING)
        [ended] = dialogue.feed(frame)
        assert ended[0] == "ended"
        assert dialogue.sent() == []


def test_methods_are_not_looked_at_while_closing(split: str) -> None:
    dialogue = in_state(split, ConnectionState.CLOSING)
    unread = raw_frame(1, 0, b"junk"), raw_frame(1, 0, methods.ConnectionTune.key), raw_frame(1, 1, b"junk")
    assert dialogue.feed(*unread) == []
    assert dialogue.feed(method_frame(0, methods.ConnectionCloseOk())) == [
        ("ended", "ConnectionClosed: connection closed: the connection was closed by this program", [])
    ]


def test_properties_are_the_publishers_fault(split: str) -> None:
    """They come from whoever published: a message with bad ones must not cost the connection."""
    dialogue = ready(split)
    headers = nested_table(1000)
    for tag, properties in enumerate([b"\x20\x00" + headers, b"\xff\xff", b"\0\0more"], 1):
        for chunk in dialogue.cut(deliver(1, tag, properties=properties)):
            dialogue.connection.receive_data(chunk)
    assert len(dialogue.connection.events) == 3
    for message in dialogue.connection.events:
        with pytest.raises(DecodeError, match="properties are malformed"):
            message.properties
    dialogue.events()
    [event] = dialogue.feed(returned(1, b"body", b"\x20\x00" + headers))
    assert event[:2] == ("returned", None)
    assert dialogue.connection.state is ConnectionState.OPEN


def test_a_queue_name_that_is_no_text(split: str) -> None:
    dialogue = ready(split)
    channel = dialogue.connection.channels[1]
    channel.request(methods.QueueDeclare(), "second").abandon()
    dialogue.sent()
    declare_ok = methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)
    dialogue.feed(method_frame(1, declare_ok))
    dialogue.feed(raw_frame(1, 1, methods.QueueDeclareOk.key + b"\x01\xff" + b"\0" * 8))
    assert "named a queue '\\udcff'" in str(dialogue.connection.error)


def test_headers_and_bodies_keep_to_their_channel(split: str) -> None:
    """A header of channel 4 does not serve the delivery on channel 1, however well it would fit."""
    dialogue = ready(split)
    fourth = dialogue.open_channel()
    dialogue.consume(fourth)
    other = method_frame(fourth.number, DELIVER)
    events = dialogue.feed(other, DELIVER_FRAME, header_frame(fourth.number, 4), body_frame(1, b"body"))
    assert {event[0] for event in events} == {"channel ended", "ended"}
    assert "a content body before its header" in events[-1][1]


def test_whoever_waited_for_the_faulty_reply_is_told(split: str) -> None:
    dialogue = ready(split)
    channel = dialogue.connection.channels[1]
    declare_ok = methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)
    dialogue.feed(method_frame(1, declare_ok), deliver(1, 5))
    channel.get(methods.BasicGet(queue="q"), "get")
    [ended, _] = dialogue.feed(get_ok(1, 5))
    assert ended[3] == ["get"]
    assert "delivery tag 5 after 5" in ended[2]


def test_a_defect_of_ours_does_not_escape(split: str) -> None:
    """Not the peer's fault, but whoever reads the socket serves ten thousand other connections."""

    class Defective(Content):
        def __init__(self, *arguments: Any) -> None:
            raise ZeroDivisionError("oops")

    dialogue = ready(split)
    dialogue.connection.delivery_type = Defective
    events = dialogue.feed(deliver(1, 1))
    assert "internal error of the client: ZeroDivisionError('oops')" in events[-1][1]
    [(_, close)] = dialogue.sent()
    assert close.reply_code == 541
    error = dialogue.connection.error
    assert error is not None and error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, ZeroDivisionError)


def test_long_texts_fit_the_close(split: str) -> None:
    """A short string holds 255 octets, the text of an error may be longer."""
    dialogue = ready(split)
    channel = dialogue.connection.channels[1]
    channel.request(methods.QueueDeclare(), "second").abandon()
    dialogue.sent()
    declare_ok = methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)
    dialogue.feed(method_frame(1, declare_ok))
    dialogue.feed(raw_frame(1, 1, methods.QueueDeclareOk.key + b"\xff" + b"\xfe" * 255 + b"\0" * 8))
    assert len(str(dialogue.connection.error)) > 300
    [(_, close)] = dialogue.sent()
    assert len(close.reply_text) == 255


# --- cut off at any point ------------------------------------------------------------------------------------------


def test_cut_off_anywhere() -> None:
    """Each beginning of a dialogue, then the end of the stream: one end, and what was complete is there."""
    frames = [
        deliver(1, 1),
        HEARTBEAT,
        deliver(1, 2, b"0123456789", piece=3),
        ack(1, 1),
        method_frame(1, methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0)),
        method_frame(0, methods.ConnectionBlocked(reason="r")),
        deliver(1, 3, b""),
    ]
    data = b"".join(frames)
    for size in range(len(data)):
        dialogue = ready("whole")
        dialogue.connection.receive_data(data[:size])
        dialogue.connection.eof_received(None)
        events = dialogue.events()
        assert [event[0] for event in events[-2:]] == ["channel ended", "ended"]
        assert events[-1][1] == "ConnectionClosed: connection closed: connection lost: the peer closed the connection"
        assert dialogue.sent() == []
        whole = sum(len(b"".join(frames[:count])) <= size for count in range(1, len(frames) + 1))
        assert len(events) - 2 == min(whole, 1) + max(whole - 2, 0)  # the heartbeat is none


# --- memory --------------------------------------------------------------------------------------------------------


def growth(action: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        action()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_endless_empty_body_frames() -> None:
    dialogue = ready("whole")
    dialogue.feed(DELIVER_FRAME, header_frame(1, 10))
    many = body_frame(1, b"") * 1000
    assert growth(lambda: [dialogue.connection.receive_data(many) for _ in range(20)] and None) < 10_000
    [event] = dialogue.feed(body_frame(1, b"0123456789"))
    assert event[-1] == b"0123456789"


def test_a_body_in_tiny_frames() -> None:
    dialogue = ready("whole")
    dialogue.feed(DELIVER_FRAME, header_frame(1, 200_000))
    many = body_frame(1, b"ab") * 1000
    grown = growth(lambda: [dialogue.connection.receive_data(many) for _ in range(99)] and None)
    assert grown < 300_000  # two octets as an object of their own take 43
    [event] = dialogue.feed(many)
    assert event[-1] == b"ab" * 100_000


@pytest.mark.parametrize(
    "question",
    [methods.ChannelFlow(active=False), methods.ChannelClose(reply_code=200, reply_text="")],
    ids=["channel.flow", "channel.close"],
)
def test_a_peer_that_asks_and_does_not_read(question: Method) -> None:
    dialogue = ready("whole")
    number = 1 if isinstance(question, methods.ChannelFlow) else 3
    many = method_frame(number, question) * 1000
    assert growth(lambda: [dialogue.connection.receive_data(many) for _ in range(50)] and None) < 2_000_000
    assert "reads none of" in str(dialogue.connection.error)


def test_a_large_frame_in_pieces() -> None:
    """Time grows with the frame, not with its square, which would be minutes here."""
    dialogue = Dialogue("whole", frame_max=0).open(frame_max=0)
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    frames = deliver(1, 1, bytes(30_000_000), piece=30_000_000)
    began = time.perf_counter()
    for start in range(0, len(frames), 1000):
        dialogue.connection.receive_data(frames[start : start + 1000])
    assert time.perf_counter() - began < 5
    [event] = dialogue.events()
    assert event[-1] == bytes(30_000_000)


def test_a_frame_that_never_ends() -> None:
    dialogue = ready("whole")
    dialogue.feed(raw_frame(3, 1, b"")[:3] + (131064).to_bytes(4, "big"))
    assert growth(lambda: [dialogue.connection.receive_data(b"a" * 1000) for _ in range(1000)] and None) < 200_000
    assert dialogue.connection.state is ConnectionState.CLOSED


def test_no_limit_is_a_limit() -> None:
    """Where neither side limits the frames, max_message_size does."""
    dialogue = Dialogue("whole", frame_max=0, max_message_size=1_000_000)
    dialogue.open(frame_max=0)
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    [event] = dialogue.feed(deliver(1, 1, b"a" * 1_000_000, piece=1_000_000))
    assert len(event[-1]) == 1_000_000
    dialogue.connection.receive_data(DELIVER_FRAME + b"\x03\x00\x01" + (1_000_001).to_bytes(4, "big") + b"a")
    assert "body before its header" in str(dialogue.connection.error)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10_000])
@pytest.mark.parametrize("way", ["deliver", "get", "return"])
def test_where_frames_have_no_limit_a_body_that_is_too_large_ends_its_consumer_only(way: str, chunk: int) -> None:
    dialogue = Dialogue("whole", frame_max=0, max_message_size=1000)
    dialogue.open(frame_max=0)
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    size = 20_000  # more than is kept of a frame (8,184)
    if way == "get":
        channel.request(methods.BasicGet(queue="q"), "got")
        dialogue.sent()
    frames = {"deliver": deliver(1, 1, b""), "get": get_ok(1, 1), "return": returned(1, b"")}[way]
    method = frames[: 8 + int.from_bytes(frames[3:7], "big")]
    data = method + header_frame(1, size) + body_frame(1, b"\xce" * size) + deliver(1, 2, b"next")
    pieces = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    events = dialogue.feed(*pieces)
    first = {"deliver": "too large", "get": "failed", "return": "returned"}[way]
    assert [event[0] for event in events] == [first, "content"]
    assert events[-1][-1] == b"next"
    method = deliver(1, 3, b"")[: len(DELIVER_FRAME)]
    dialogue.connection.receive_data(method + header_frame(1, size) + body_frame(1, b"a" * size)[:-1] + b"a")
    assert "frame-end" in str(dialogue.connection.error)


def test_of_a_body_that_is_dropped_nothing_is_kept() -> None:
    dialogue = Dialogue("whole", frame_max=0, max_message_size=1000)
    dialogue.open(frame_max=0)
    dialogue.consume(dialogue.open_channel())
    frames = DELIVER_FRAME + header_frame(1, 50_000_000) + b"\x03\x00\x01" + (50_000_000).to_bytes(4, "big")
    dialogue.connection.receive_data(frames)
    piece = bytes(65536)
    assert growth(lambda: [dialogue.connection.receive_data(piece) for _ in range(700)] and None) < 200_000
    assert dialogue.connection.state is ConnectionState.OPEN


@pytest.mark.parametrize("number", [0, 2, 3])
def test_an_overlong_body_of_no_message(number: int) -> None:
    dialogue = ready("whole", frame_max=0, max_message_size=1000)
    dialogue.connection.frame_max = 0xFFFFFFFF
    events = dialogue.feed(raw_frame(3, number, b"a" * 200_000), deliver(1, 1, b"next"))
    assert events[0][0] == ("content" if number == 3 else "channel ended"), events


# --- what can't be split may exceed frame_max -------------------------------------------------------------------------


def large_header(size: int) -> bytes:
    """A content header of so many bytes: a table of one long string among the properties."""
    text = size - 12 - 2 - 4 - 2 - 1 - 4  # class to body size, flags, the table's length, the key, the type, the length
    table = b"\x01k" + b"S" + text.to_bytes(4, "big") + b"a" * text
    return header_frame(1, 4, b"\x20\x00" + len(table).to_bytes(4, "big") + table)


@pytest.mark.parametrize("frame_max", [4096, 131072])
@pytest.mark.parametrize("size", [131_100, PROPERTIES_MAX])
@pytest.mark.parametrize("before", ["deliver", "get", "return"])
def test_headers_beyond_frame_max(frame_max: int, size: int, before: str) -> None:
    dialogue = Dialogue("whole").open(frame_max=frame_max)
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    header = large_header(size)
    assert len(header) == size + 8
    if before == "get":
        channel.request(methods.BasicGet(queue="q"), "got")
        dialogue.sent()
        frames = get_ok(1, 1)
    elif before == "return":
        frames = returned(1, b"")
    else:
        frames = DELIVER_FRAME
    method = frames[: 8 + int.from_bytes(frames[3:7], "big")]
    events = dialogue.feed(method, header, body_frame(1, b"body"))
    assert [event[0] for event in events] != ["ended"], events
    assert dialogue.connection.state is ConnectionState.OPEN
    [event] = dialogue.feed(deliver(1, 2, b"next"))
    assert event[-1] == b"next"


@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("way", ["deliver", "get"])
def test_headers_that_are_too_large_end_their_consumer_only(way: str, body: bytes) -> None:
    dialogue = Dialogue("whole").open()
    channel = dialogue.open_channel()
    dialogue.consume(channel)
    header = bytearray(large_header(PROPERTIES_MAX + 1))
    header[7 + 4 : 7 + 12] = len(body).to_bytes(8, "big")
    frames = DELIVER_FRAME
    if way == "get":
        channel.request(methods.BasicGet(queue="q"), "got")
        dialogue.sent()
        frames = get_ok(1, 1)
    method = frames[: 8 + int.from_bytes(frames[3:7], "big")]
    [event] = dialogue.feed(method, bytes(header), body_frame(1, body) if body else b"")
    size = PROPERTIES_MAX + 1 + len(body)
    if way == "get":
        assert event[0] == "failed" and f"of {size:,} bytes" in str(event) and "over 1 MiB" in str(event)
    else:
        assert event == ("too large", "c", 1, size)
    [event] = dialogue.feed(deliver(1, 2, b"next"))
    assert event[-1] == b"next"


def test_headers_beyond_any_bound(split: str) -> None:
    """Refused as soon as the size is known, with what to look for, and by the code of what is too large."""
    dialogue = ready(split)
    events = dialogue.feed(DELIVER_FRAME, b"\x02\x00\x01" + (UNSPLIT_MAX + 1).to_bytes(4, "big") + b"\x00")
    assert f"properties and headers take {UNSPLIT_MAX + 1} bytes, which exceeds frame_max (131072)" in str(events)
    assert getattr(dialogue.connection.error, "code", None) == 311
    assert dialogue.connection._tail == b""


@pytest.mark.parametrize("state", [ConnectionState.TUNE, ConnectionState.OPEN_OK])
@pytest.mark.parametrize("kind", [1, 2])
def test_during_the_handshake_nothing_may_exceed(kind: int, state: ConnectionState) -> None:
    dialogue = in_state("whole", state)
    [ended] = dialogue.feed(bytes([kind]) + b"\x00\x00" + (131_100).to_bytes(4, "big") + b"\x00")
    assert "exceeds frame_max" in ended[1]


def test_a_body_may_not_exceed(split: str) -> None:
    dialogue = ready(split)
    events = dialogue.feed(DELIVER_FRAME, large_header(200_000), raw_frame(3, 1, b"a" * 131_065))
    assert "a frame of 131073 bytes exceeds frame_max (131072)" in str(events)


def test_max_message_size(split: str) -> None:
    dialogue = ready(split, max_message_size=100)
    [event] = dialogue.feed(deliver(1, 1, b"a" * 100))
    assert len(event[-1]) == 100
    for tag, size, piece in ((2, 101, 4088), (4, 1000, 7)):
        events = dialogue.feed(deliver(1, tag, b"a" * size, piece=piece), deliver(1, tag + 1, b"next"))
        assert events[0] == ("too large", "c", tag, size)
        assert [event[-1] for event in events[1:]] == [b"next"]
    delivery = method_frame(1, methods.BasicDeliver(consumer_tag="c", delivery_tag=6, exchange="", routing_key="q"))
    events = dialogue.feed(delivery, header_frame(1, 101), body_frame(1, b"a" * 102))
    check_end(dialogue, events[1:], 501, "longer than its header says")


def test_what_is_too_large_is_told_of_at_once_and_never_held(split: str) -> None:
    dialogue = ready(split)
    assert dialogue.feed(DELIVER_FRAME, header_frame(1, 2**64 - 1)) == [("too large", "c", 1, 2**64 - 1)]
    piece = body_frame(1, bytes(131064))
    if split == "whole":
        assert growth(lambda: [dialogue.connection.receive_data(piece) for _ in range(100)] and None) < 200_000
    assert dialogue.connection.state is ConnectionState.OPEN


# --- at random -----------------------------------------------------------------------------------------------------


def test_fuzzing_for_a_few_seconds() -> None:
    report = Fuzzer(seed=20240229).run(seconds=5)
    assert report.inputs > 50
    assert report.ended_by_fault > 10
