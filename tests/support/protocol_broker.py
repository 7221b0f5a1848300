"""The broker's side of a dialogue, scripted: frames made with the codec under test, and a client fed with them.

`Dialogue` feeds the same octets whole, octet by octet, split at random or with the beginning of another frame behind
them; what the client then reports must not depend on it. After each step it checks the connection's own bookkeeping.
"""

from __future__ import annotations

from random import Random
from struct import Struct
from typing import Any

from rabbitry._errors import RabbitryError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel
from rabbitry.protocol.client.connection import UNSPLIT_MAX, ProtocolConnection
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.states import ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from rabbitry.protocol.wire.methods import Method, decode_method, encode_method_frame
from rabbitry.protocol.wire.properties import Properties, encode_properties

SPLITS = ("whole", "octets", "random-1", "random-2", "trailing")
"""The ways to feed a client. "trailing": behind each chunk the beginning of a heartbeat, the rest before the next."""

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
NO_PROPERTIES = encode_properties(Properties())
PLAIN = [("PLAIN", b"\0guest\0guest")]

_FRAME = Struct(">BHI")
_CONTENT_HEADER = Struct(">HHQ")

# --- frames --------------------------------------------------------------------------------------------------------


def raw_frame(kind: int, number: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    """Any frame, also one that is wrong."""
    return _FRAME.pack(kind, number, len(payload)) + payload + end


def method_frame(number: int, method: Method) -> bytes:
    return encode_method_frame(number, method)


def header_frame(number: int, size: int, properties: bytes = NO_PROPERTIES, *, class_id: int = 60) -> bytes:
    return raw_frame(2, number, _CONTENT_HEADER.pack(class_id, 0, size) + properties)


def body_frame(number: int, piece: bytes) -> bytes:
    return raw_frame(3, number, piece)


def content_frames(
    number: int, method: Method, body: bytes, properties: bytes = NO_PROPERTIES, *, piece: int = 4088
) -> list[bytes]:
    """A method with content, a frame each: the general way, with nothing hand-written."""
    pieces = [body_frame(number, body[start : start + piece]) for start in range(0, len(body), piece)]
    return [method_frame(number, method), header_frame(number, len(body), properties), *pieces]


def deliver(
    number: int,
    tag: int,
    body: bytes = b"body",
    *,
    consumer_tag: str = "c",
    redelivered: bool = False,
    exchange: str = "",
    routing_key: str = "q",
    properties: bytes = NO_PROPERTIES,
    piece: int = 4088,
) -> bytes:
    method = methods.BasicDeliver(
        consumer_tag=consumer_tag,
        delivery_tag=tag,
        redelivered=redelivered,
        exchange=exchange,
        routing_key=routing_key,
    )
    return b"".join(content_frames(number, method, body, properties, piece=piece))


def get_ok(number: int, tag: int, body: bytes = b"body", *, routing_key: str = "q") -> bytes:
    method = methods.BasicGetOk(delivery_tag=tag, exchange="", routing_key=routing_key, message_count=0)
    return b"".join(content_frames(number, method, body))


def returned(number: int, body: bytes, properties: bytes = NO_PROPERTIES) -> bytes:
    method = methods.BasicReturn(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="nowhere")
    return b"".join(content_frames(number, method, body, properties))


def ack(number: int, tag: int, multiple: bool = False) -> bytes:
    return method_frame(number, methods.BasicAck(delivery_tag=tag, multiple=multiple))


def nack(number: int, tag: int, multiple: bool = False) -> bytes:
    return method_frame(number, methods.BasicNack(delivery_tag=tag, multiple=multiple))


def parse(data: bytes) -> list[tuple[Any, ...]]:
    """What a client sent: (number, method), (number, "header" or "body", payload), (0, "heartbeat")."""
    found: list[tuple[Any, ...]] = []
    if data.startswith(PROTOCOL_HEADER):
        found.append(("protocol header",))
        data = data[8:]
    while data:
        kind, number, length = _FRAME.unpack_from(data)
        payload = data[7 : 7 + length]
        assert len(data) >= length + 8, f"half a frame was queued: {data!r}"
        assert data[7 + length] == 0xCE
        data = data[length + 8 :]
        match kind:
            case 1:
                found.append((number, decode_method(payload)))
            case 2:
                found.append((number, "header", payload))
            case 3:
                found.append((number, "body", payload))
            case _:
                assert (kind, number, payload) == (8, 0, b"")
                found.append((0, "heartbeat"))
    return found


# --- events --------------------------------------------------------------------------------------------------------


def described(event: Any) -> tuple[Any, ...]:
    """An event as a tuple that compares by value; the first item names its kind."""
    match event:
        case Content():
            return (
                "content",
                event.consumer,
                event.delivery_tag,
                event.redelivered,
                event.exchange,
                event.routing_key,
                event.body,
            )
        case events.Opened():
            return ("opened",)
        case events.Replied():
            reply = described(event.reply) if isinstance(event.reply, Content) else event.reply
            return ("replied", event.token, reply)
        case events.Failed():
            return ("failed", event.token, getattr(event.error, "blame", None), failure(event.error))
        case events.Confirmed():
            return ("confirmed", event.tokens, event.acked)
        case events.Returned():
            return ("returned", event.token, event.code, event.text, described(event.content))
        case events.TooLarge():
            return ("too large", event.content.consumer, event.content.delivery_tag, event.size)
        case events.ConsumerCancelledByBroker():
            return ("cancelled", event.token)
        case events.Blocked():
            return ("blocked", event.reason)
        case events.Unblocked():
            return ("unblocked",)
        case events.Recovered():
            return ("recovered", event.number, event.consumers)
        case events.ChannelEnded():
            return (
                "channel ended",
                event.number,
                failure(event.error),
                event.waiting,
                event.consumers,
                event.unknown,
                event.unsent,
            )
        case events.ConnectionEnded():
            return ("ended", failure(event.error), event.waiting)
    raise AssertionError(f"not an event: {event!r}")


def failure(error: RabbitryError) -> str:
    return f"{type(error).__name__}: {error}"


# --- the client and what it is fed ---------------------------------------------------------------------------------


class Dialogue:
    """A client's connection and the broker's script against it."""

    def __init__(self, split: str = "whole", **options: Any) -> None:
        self.connection = ProtocolConnection(**{"mechanisms": PLAIN, **options})
        self._split = split
        self._random = Random(split)
        self._held = b""
        self._count = 0

    def feed(self, *frames: bytes) -> list[tuple[Any, ...]]:
        """Have the client receive these octets; the events."""
        for chunk in self.cut(b"".join(frames)):
            self.connection.receive_data(chunk)
            check_bookkeeping(self.connection)
        return self.events()

    def cut(self, data: bytes) -> list[bytes]:
        """The octets in the pieces in which the client will get them."""
        if self._split == "octets":
            return [data[index : index + 1] for index in range(len(data))]
        if self._split.startswith("random"):
            cuts = sorted(self._random.randrange(len(data) + 1) for _ in range(self._random.randrange(1, 8)))
            return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        if self._split == "trailing":
            self._count += 1
            cut = 1 + self._count % 7
            data, self._held = self._held + data + HEARTBEAT[:cut], HEARTBEAT[cut:]
        return [data]

    def events(self) -> list[tuple[Any, ...]]:
        """Take the events; confirms in a row as one, since how many are told of together depends on how they came."""
        taken, self.connection.events = self.connection.events, []
        found: list[tuple[Any, ...]] = []
        for event in map(described, taken):
            if event[0] == "confirmed" and found and found[-1][0] == "confirmed" and found[-1][2] == event[2]:
                event = ("confirmed", found.pop()[1] + event[1], event[2])
            found.append(event)
        return found

    def sent(self) -> list[tuple[Any, ...]]:
        """Take what the client has queued."""
        data = self.connection.data_to_send()
        check_bookkeeping(self.connection)
        return parse(data)

    def start(self, **fields: Any) -> list[tuple[Any, ...]]:
        """Feed connection.start."""
        return self.feed(method_frame(0, methods.ConnectionStart(**{"mechanisms": b"PLAIN AMQPLAIN", **fields})))

    def tune(self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 60) -> list[tuple[Any, ...]]:
        """Feed connection.tune."""
        tune = methods.ConnectionTune(channel_max=channel_max, frame_max=frame_max, heartbeat=heartbeat)
        return self.feed(method_frame(0, tune))

    def open(self, **tune: int) -> Dialogue:
        """The whole handshake."""
        assert self.start() == []
        assert self.tune(**tune) == []
        assert self.feed(method_frame(0, methods.ConnectionOpenOk())) == [("opened",)]
        self.sent()
        return self

    def open_channel(self, *setup: Method) -> ProtocolChannel:
        """A channel that is open, after these requests with their replies (confirm.select, say)."""
        channel, _ = self.connection.open_channel("open")
        self.feed(method_frame(channel.number, methods.ChannelOpenOk()))
        for method in setup:
            channel.request(method, "setup")
            self.feed(method_frame(channel.number, reply_to(method)))
        self.sent()
        return channel

    def consume(self, channel: ProtocolChannel, tag: str = "c", no_ack: bool = False) -> Any:
        """A consumer that has started; its token is its tag."""
        consumer, _ = channel.consume(methods.BasicConsume(queue="q", consumer_tag=tag, no_ack=no_ack), tag, "waiter")
        assert self.feed(method_frame(channel.number, methods.BasicConsumeOk(consumer_tag=tag))) == [
            ("replied", "waiter", methods.BasicConsumeOk(consumer_tag=tag))
        ]
        self.sent()
        return consumer


def reply_to(request: Method, **fields: Any) -> Method:
    """The reply to a request, with the least it may hold."""
    row = getattr(methods, request.replies[-1])
    if isinstance(request, methods.BasicConsume | methods.BasicCancel):
        fields = {"consumer_tag": request.consumer_tag, **fields}
    values: dict[str, Any] = {"queue": "amq.gen-1", "message_count": 0, "consumer_count": 0, "active": True}
    reply: Method = row(**{name: value for name, value in {**values, **fields}.items() if name in row.__slots__})
    return reply


def check_bookkeeping(connection: ProtocolConnection) -> None:
    """What must be true of a connection at any time."""
    channels = list(connection.channels.values())
    outstanding = sum(len(channel.slots) + len(channel.confirms.pending) for channel in channels)
    outstanding += len(connection.slots)
    match connection.state:
        case ConnectionState.CLOSED:
            assert not channels and not outstanding
            assert not connection.acking and not connection._tail and connection.handshake is None
        case ConnectionState.OPEN:
            pass
        case _:
            outstanding += 1
    assert connection.awaiting == outstanding, f"awaiting is {connection.awaiting}, outstanding are {outstanding}"
    assert connection.out_size == sum(map(len, connection.out))
    unsplit = UNSPLIT_MAX if connection.handshake is None else 0
    assert len(connection._tail) <= max(connection.body_max, unsplit) + 8
    for channel in channels:
        if channel.tags.pending or channel.tags.requeued:
            assert channel in connection.acking
        assert not channel.tags.outstanding & set(channel.tags.pending)
