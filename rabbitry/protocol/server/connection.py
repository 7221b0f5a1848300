"""A connection as a broker sees it: the handshake, frames to commands, answers to frames, closes, heartbeats.

`receive_data` is a generator: each command is handed over before the next frame is looked at, as what is done with one
(a channel that closes) decides what becomes of the next. Iterate over it to its end. What must stay true: it raises
nothing, whatever the client sends; after a close nothing but its answer is understood, on a channel as on the
connection. Time comes in as `now`, on any monotonic clock. Knows nothing of exchanges and queues.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from struct import Struct
from struct import error as StructError
from typing import Any

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.server.events import Closing, Command, Ended, Event, Login, Opening
from rabbitry.protocol.server.handshake import HEADERS, MECHANISMS
from rabbitry.protocol.server.refusals import Refusal, cut_text, octets_shown
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.codec import ShortStr
from rabbitry.protocol.wire.constants import (
    BASIC_CLASS_ID,
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_MIN_SIZE,
    FRAME_OVERHEAD,
    PROTOCOL_HEADER,
)
from rabbitry.protocol.wire.framing import HEARTBEAT_FRAME
from rabbitry.protocol.wire.methods import METHODS, Method, encode_method_frame

__all__ = ["ServerConnection", "State"]

_unpack_frame = Struct(">BHI").unpack_from
_unpack_content_header = Struct(">HHQ").unpack_from
_pack_content_header = Struct(">BHIHHQ").pack
_unpack_header_frame = Struct(">BHIHHQ").unpack_from
_pack_frame_head = Struct(">BHI").pack

_OPEN = methods.ChannelOpen.key
_CLOSE = methods.ChannelClose.key
_CLOSE_OK = methods.ChannelCloseOk.key

_SHORT_STRING = ShortStr.__metadata__[0]  # type: ignore[attr-defined]
_NAMES = {key: tuple(field.name for field in row.fields if field.type is _SHORT_STRING) for key, row in METHODS.items()}
"""The fields of each method that must be UTF-8. (RabbitMQ lets others pass: routes of messages, and tables.)"""


def _is_malformed(text: str) -> bool:
    """Whether it was decoded from what is not UTF-8."""
    return any("\udc80" <= letter <= "\udcff" for letter in text)


HANDSHAKE_SECONDS = 10.0
"""How long a client may take to open its connection, as RabbitMQ's `handshake_timeout`."""
CLOSING_SECONDS = 30.0
"""How long it may take to answer a close."""
TOLERATED = 8
"""Octets by which a frame may exceed frame_max, as RabbitMQ lets it."""


class State(Enum):
    """How far a connection is; the values are the words of RabbitMQ's texts."""

    HEADER = "pre_init"
    STARTING = "starting"
    JUDGING = "securing"
    TUNING = "tuning"
    OPENING = "opening"
    OPEN = "running"
    CLOSING = "closing"
    CLOSED = "closed"


class _Channel:
    """What is kept of a channel that is open, or whose close is not yet answered."""

    __slots__ = ("former", "is_closing", "method", "parts", "properties", "remaining", "size")

    def __init__(self) -> None:
        self.is_closing = False
        self.method: Method | None = None  # whose content is being received
        self.former: tuple[bytes | None, Method | None] = None, None  # the last such method: as it came, and decoded
        self.properties: bytes | None = None
        self.parts: list[bytes] = []
        self.remaining = 0
        self.size = 0


class ServerConnection:
    """A broker's side of one connection.

    `properties` are told to the client; `mechanisms` are offered; `channel_max`, `frame_max` and `heartbeat` (seconds)
    proposed. Bodies of more than `max_message_size` bytes are dropped as they come. The header of another protocol is
    answered by `unknown_protocol`.
    """

    __slots__ = (
        "_channels",
        "_deadline",
        "_interval",
        "_mechanisms",
        "_missed",
        "_needed",
        "_out",
        "_properties",
        "_received",
        "_sent",
        "_tail",
        "_unknown_protocol",
        "body_max",
        "channel_max",
        "client_properties",
        "frame_max",
        "heartbeat",
        "max_message_size",
        "out_size",
        "state",
    )

    def __init__(
        self,
        *,
        properties: Mapping[str, Any],
        mechanisms: tuple[str, ...] = MECHANISMS,
        channel_max: int = 2047,
        frame_max: int = 131072,
        heartbeat: int = 60,
        max_message_size: int = 134217728,
        unknown_protocol: bytes = PROTOCOL_HEADER,
    ) -> None:
        self.state: State = State.HEADER
        self.channel_max: int = channel_max
        self.frame_max: int = frame_max
        self.heartbeat: int = heartbeat
        self.max_message_size: int = max_message_size
        self.body_max: int = FRAME_MIN_SIZE - FRAME_OVERHEAD
        self.client_properties: Mapping[str, Any] = {}
        self.out_size: int = 0
        self._properties = properties
        self._mechanisms = mechanisms
        self._unknown_protocol = unknown_protocol
        self._channels: dict[int, _Channel] = {}
        self._out: list[bytes] = []
        # An incomplete frame, and the size at which it can be looked at again.
        self._tail: bytes | bytearray = b""
        self._needed = 0
        # Heartbeats: whether anything came or went since the last tick, and how many ticks nothing came.
        self._received = self._sent = False
        self._missed = 0
        self._interval = 0.0
        self._deadline: float | None = None

    # --- bytes out -------------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Everything that is queued, which is then forgotten."""
        out, self._out = self._out, []
        self.out_size = 0
        self._sent = self._sent or bool(out)
        return out[0] if len(out) == 1 else b"".join(out)

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self.out_size += len(data)

    def send(self, number: int, method: Method) -> None:
        """Queue a method. Dropped where the channel or the connection is closing."""
        if self.is_heard(number):
            self._queue(encode_method_frame(number, method))

    def send_content(self, number: int, method: bytes, properties: bytes, body: bytes) -> None:
        """Queue a method (its payload as octets) with content; the header goes out whole, whatever its size.

        hot: one join for the three frames of an ordinary message.
        """
        if not self.is_heard(number):
            return
        size = len(body)
        parts = [
            _pack_frame_head(FRAME_METHOD, number, len(method)),
            method,
            b"\xce",
            _pack_content_header(FRAME_HEADER, number, 12 + len(properties), BASIC_CLASS_ID, 0, size),
            properties,
            b"\xce",
        ]
        if size <= self.body_max:
            if size:
                parts += (_pack_frame_head(FRAME_BODY, number, size), body, b"\xce")
        else:
            for start in range(0, size, self.body_max):
                piece = body[start : start + self.body_max]
                parts += (_pack_frame_head(FRAME_BODY, number, len(piece)), piece, b"\xce")
        self._queue(b"".join(parts))

    @property
    def unfinished(self) -> bytes:
        """What has come of a frame whose end has not."""
        return bytes(self._tail)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is read."""
        return self.state is State.CLOSED

    def is_heard(self, number: int) -> bool:
        """Whether the client still wants to hear of this channel."""
        if self.state is not State.OPEN:
            return False
        channel = self._channels.get(number)
        return number == 0 or (channel is not None and not channel.is_closing)

    # --- the handshake's answers -----------------------------------------------------------------------------------

    def accept_login(self) -> None:
        """Go on with the handshake: propose limits."""
        self.state = State.TUNING
        tune = methods.ConnectionTune(channel_max=self.channel_max, frame_max=self.frame_max, heartbeat=self.heartbeat)
        self._queue(encode_method_frame(0, tune))

    def refuse_login(self, refusal: Refusal) -> None:
        """End it: with a close if the client understands one here, else without a word."""
        if self.has_capability("authentication_failure_close"):
            self._close(refusal)
        else:
            self.state = State.CLOSED

    def accept_virtual_host(self) -> None:
        """The connection is open."""
        self.state = State.OPEN
        self._queue(encode_method_frame(0, methods.ConnectionOpenOk()))

    def has_capability(self, name: str) -> bool:
        """Whether the client says that it can do this."""
        capabilities = self.client_properties.get("capabilities")
        return isinstance(capabilities, Mapping) and capabilities.get(name) is True

    # --- closes ----------------------------------------------------------------------------------------------------

    def refuse(self, number: int, refusal: Refusal, ids: tuple[int, int]) -> None:
        """Close the channel, or the connection, for what a command with these ids asked for."""
        refusal.ids = refusal.ids or ids
        channel = self._channels.get(number)
        if refusal.is_hard or channel is None:
            self._close(refusal)
        elif self.is_heard(number):
            class_id, method_id = refusal.ids
            self.send(
                number,
                methods.ChannelClose(
                    reply_code=refusal.code,
                    reply_text=cut_text(refusal.text),
                    failing_class_id=class_id,
                    failing_method_id=method_id,
                ),
            )
            channel.is_closing = True
            channel.method = None

    def close(self, code: int, text: str) -> None:
        """Close the connection for a reason that is none of the client's commands."""
        self._close(Refusal(code, text, (0, 0)))

    def _close(self, refusal: Refusal) -> None:
        if self.state in (State.CLOSING, State.CLOSED):
            return
        class_id, method_id = refusal.ids or (0, 0)
        close = methods.ConnectionClose(
            reply_code=refusal.code,
            reply_text=cut_text(refusal.text),
            failing_class_id=class_id,
            failing_method_id=method_id,
        )
        self._queue(encode_method_frame(0, close))
        self.state = State.CLOSING
        self._channels.clear()

    # --- bytes in --------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> Iterator[Event]:
        """Take in a chunk as it came. Tells what it means, one event at a time."""
        if self.state is State.CLOSED:
            return
        self._received = True
        if self._tail:
            if len(self._tail) + len(data) < self._needed:
                self._tail += data  # in place: a large frame in small pieces takes linear time
                return
            data, self._tail = b"".join((self._tail, data)), b""
        try:
            if self.state is State.HEADER:
                if len(data) < 8:
                    self._tail, self._needed = bytearray(data), 8
                    return
                if not self._greet(data[:8]):
                    yield Ended()
                    return
                data = data[8:]
            position = 0
            while len(data) - position >= 8:
                kind, number, length = _unpack_frame(data, position)
                start = position + 7
                end = start + length
                if length > self.body_max + TOLERATED:
                    raise self._ill_formed(kind, b"", f"{{frame_too_large,{length},{self.body_max}}}")
                if end >= len(data):
                    break
                if data[end] != FRAME_END:
                    raise self._ill_formed(kind, data[start:end], f"{{invalid_frame_end_marker,{data[end]}}}")
                position = end + 1
                if self.state is State.OPEN and number:
                    command = self._receive_frame(kind, number, data[start:end])
                    channel = self._channels.get(number)
                    if command is None and channel is not None and channel.method is not None:
                        command, position = self._receive_whole_content(channel, number, data, position)
                    if command is not None:
                        yield command
                        if command.method.key == _CLOSE and self.is_heard(number):
                            self.send(number, methods.ChannelCloseOk())
                            del self._channels[number]
                elif number == 0 or self.state not in (State.CLOSING, State.CLOSED):
                    yield from self._receive_on_zero(kind, number, data[start:end])
                if self.is_over:
                    return
            if position < len(data):
                rest = len(data) - position
                self._tail = bytearray(data[position:])
                self._needed = 8 if rest < 8 else 8 + _unpack_frame(data, position)[2]
        except Refusal as refusal:
            yield from self._give_up(refusal)
        except RemoteProtocolError as error:
            yield from self._give_up(Refusal(502, str(error)))

    def _give_up(self, refusal: Refusal) -> Iterator[Event]:
        """The client can't be understood: what follows in the stream is lost."""
        is_open = self.state is State.OPEN
        if is_open:
            self._close(refusal)
            yield Closing()
        if not is_open or refusal.code == 501:  # before it is open, RabbitMQ closes without a word
            self.state = State.CLOSED
            self._channels.clear()
            yield Ended()

    def _greet(self, header: bytes) -> bool:
        if header not in HEADERS:
            self._queue(PROTOCOL_HEADER if header.startswith(b"AMQP\x00") else self._unknown_protocol)
            self.state = State.CLOSED
            return False
        start = methods.ConnectionStart(
            server_properties=self._properties, mechanisms=" ".join(self._mechanisms).encode()
        )
        self._queue(encode_method_frame(0, start))
        self.state = State.STARTING
        return True

    def _ill_formed(self, kind: int, payload: bytes, reason: str) -> Refusal:
        return Refusal(501, f"type {kind}, {octets_shown(payload)}: {reason}", (0, 0))

    def _decode(self, payload: bytes) -> Method:
        row = METHODS.get(payload[:4])
        if row is None:
            raise Refusal(541, f"unknown method {payload[:4].hex(' ', 2)}", (0, 0))
        try:
            decoded: Method = row.decode(payload)
        except (RemoteProtocolError, StructError):
            text = f"cannot decode <<{','.join(map(str, payload[4:]))}>>"
            raise Refusal(501, text, (row.class_id, row.method_id)) from None
        for name in _NAMES[payload[:4]]:
            value = getattr(decoded, name)
            if not value.isascii() and _is_malformed(value):
                raise Refusal(501, "Malformed UTF-8 in shortstr", (0, 0))
        return decoded

    # --- on a channel ----------------------------------------------------------------------------------------------

    def _receive_frame(self, kind: int, number: int, payload: bytes) -> Command | None:
        """A frame of an open connection's channel; the command that it completes."""
        channel = self._channels.get(number)
        if channel is None:
            return self._open_channel(kind, number, payload)
        if channel.method is not None:
            return self._receive_content(channel, kind, number, payload)
        if kind != FRAME_METHOD:
            if kind in (FRAME_HEADER, FRAME_BODY):
                if channel.is_closing:
                    return None
                raise Refusal(505, "expected method frame, got non method frame instead", (0, 0))
            raise self._unknown(kind, number, payload)
        key = payload[:4]
        if channel.is_closing:
            if key == _CLOSE_OK:
                del self._channels[number]
            elif key == _CLOSE:
                self._queue(encode_method_frame(number, methods.ChannelCloseOk()))
            return None
        former_payload, former = channel.former
        if payload == former_payload:  # hot: most publishes go where the last one went
            channel.method, channel.properties = former, None
            return None
        method = self._decode(payload)
        if method.has_content:
            channel.method, channel.properties = method, None
            channel.former = payload, method
            return None
        if key == _OPEN:
            raise Refusal(504, "second 'channel.open' seen", (method.class_id, method.method_id))
        return Command(number, method)

    def _open_channel(self, kind: int, number: int, payload: bytes) -> Command | None:
        if kind in (FRAME_HEADER, FRAME_BODY):
            raise Refusal(505, "expected method frame, got non method frame instead", (0, 0))
        if kind != FRAME_METHOD:
            raise self._unknown(kind, number, payload)
        if payload[:4] == _CLOSE_OK:  # the answer to a close that crossed the client's own
            return None
        method = self._decode(payload)
        ids = (method.class_id, method.method_id)
        if self.channel_max and len(self._channels) >= self.channel_max:
            count = len(self._channels)
            text = f"number of channels opened ({count}) has reached the negotiated channel_max ({self.channel_max})"
            raise Refusal(530, text, (0, 0))
        if type(method) is not methods.ChannelOpen:
            raise Refusal(504, "expected 'channel.open'", ids)
        self._channels[number] = _Channel()
        self.send(number, methods.ChannelOpenOk())
        return Command(number, method)

    def _unknown(self, kind: int, number: int, payload: bytes) -> Refusal:
        if kind == FRAME_HEARTBEAT and not payload:
            return Refusal(505, f"type {kind}, all octets = <<>>", (0, 0))
        return self._ill_formed(kind, payload, "unknown_frame")

    def _receive_whole_content(
        self, channel: _Channel, number: int, data: bytes, position: int
    ) -> tuple[Command | None, int]:
        """The command whose content is two good frames at `position`, and where they end. Otherwise there is none: they
        are received one by one.

        hot: without a look at each frame a small message takes a third less.
        """
        method = channel.method
        if channel.properties is not None or len(data) - position < 30:
            return None, position
        assert method is not None
        kind, of, length, class_id, _weight, size = _unpack_header_frame(data, position)
        end = position + 7 + length
        body = end + 8
        if (kind, of, class_id) != (FRAME_HEADER, number, method.class_id) or length < 14 or body + size >= len(data):
            return None, position
        if data[end] != FRAME_END or data[body + size] != FRAME_END:
            return None, position
        if _unpack_frame(data, end + 1) != (FRAME_BODY, number, size) or not 0 < size <= self.max_message_size:
            return None, position
        if max(size, length) > self.body_max + TOLERATED:
            return None, position
        channel.method = None
        return Command(number, method, data[position + 19 : end], data[body : body + size]), body + size + 1

    def _receive_content(self, channel: _Channel, kind: int, number: int, payload: bytes) -> Command | None:
        """A frame where the header or the body of `channel.method` must follow."""
        method = channel.method
        assert method is not None
        ids = (method.class_id, method.method_id)
        if channel.properties is None:
            if kind != FRAME_HEADER:
                text = f"expected content header for class {method.class_id}, got non content header frame instead"
                raise Refusal(505, text, ids)
            if len(payload) < 14:
                raise self._ill_formed(kind, payload, "unknown_frame")
            class_id, _weight, channel.size = _unpack_content_header(payload)
            if class_id != method.class_id:
                text = f"expected content header for class {method.class_id}, got one for class {class_id} instead"
                raise Refusal(505, text, ids)
            channel.properties, channel.remaining = payload[12:], channel.size
        else:
            if kind != FRAME_BODY:
                raise Refusal(505, "expected content body, got non content body frame instead", ids)
            if len(payload) > channel.remaining:
                raise Refusal(505, "content body is longer than its header says", ids)
            channel.remaining -= len(payload)
            if channel.size <= self.max_message_size:
                channel.parts.append(payload)
        if channel.remaining:
            return None
        parts, properties = channel.parts, channel.properties
        channel.method, channel.properties, channel.parts = None, None, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return Command(number, method, properties, body, channel.size if channel.size > self.max_message_size else 0)

    # --- on channel 0, and before the connection is open -----------------------------------------------------------

    def _receive_on_zero(self, kind: int, number: int, payload: bytes) -> Iterator[Event]:
        if self.state is State.CLOSING:
            if kind == FRAME_METHOD and payload[:4] == methods.ConnectionClose.key:
                self._queue(encode_method_frame(0, methods.ConnectionCloseOk()))
            elif kind == FRAME_METHOD and payload[:4] == methods.ConnectionCloseOk.key:
                self.state = State.CLOSED
                yield Ended()
            return
        if kind == FRAME_HEARTBEAT and not number and not payload:
            return
        if number or kind in (FRAME_HEADER, FRAME_BODY):
            raise Refusal(505, f"type {kind}, {octets_shown(payload)}", (0, 0))
        if kind != FRAME_METHOD:
            raise self._ill_formed(kind, payload, "unknown_frame")
        method = self._decode(payload)
        ids = (method.class_id, method.method_id)
        match method:
            case methods.ConnectionStartOk() if self.state is State.STARTING:
                self.client_properties = method.client_properties
                if method.mechanism not in self._mechanisms:
                    raise Refusal(503, f"unknown authentication mechanism '{method.mechanism}'", ids)
                self.state = State.JUDGING
                yield Login(method.mechanism, method.response, method.client_properties)
                if self.state is State.CLOSED:
                    yield Ended()
            case methods.ConnectionTuneOk() if self.state is State.TUNING:
                self._tune(method)
                self.state = State.OPENING
            case methods.ConnectionOpen() if self.state is State.OPENING:
                yield Opening(method.virtual_host, ids)
            case methods.ConnectionClose() if self.state is State.OPEN:
                self._channels.clear()
                yield Closing()
                self._queue(encode_method_frame(0, methods.ConnectionCloseOk()))
                self.state = State.CLOSED
                yield Ended(is_by_client=True)
            case methods.ConnectionUpdateSecret() if self.state is State.OPEN:
                yield Command(0, method)
            case _:
                raise Refusal(504, f"unexpected method in connection state {self.state.value}", ids)

    def _tune(self, method: methods.ConnectionTuneOk) -> None:
        ids = (method.class_id, method.method_id)
        agreed: dict[str, int] = {}
        for name, proposed, chosen in (
            ("channel_max", self.channel_max, method.channel_max),
            ("frame_max", self.frame_max, method.frame_max),
        ):
            if name == "frame_max" and chosen and chosen < FRAME_MIN_SIZE:
                text = f"negotiated {name} = {chosen} is lower than the minimum allowed value ({FRAME_MIN_SIZE})"
                raise Refusal(530, text, ids)
            if proposed and (chosen > proposed or not chosen):
                text = (
                    f"negotiated {name} = {chosen or 'no limit'} is higher than the maximum allowed value ({proposed})"
                )
                raise Refusal(530, text, ids)
            agreed[name] = chosen
        self.channel_max, self.frame_max = agreed["channel_max"], agreed["frame_max"]
        self.heartbeat = method.heartbeat
        self.body_max = (self.frame_max or 0xFFFFFFFF) - FRAME_OVERHEAD
        self._interval = method.heartbeat / 2

    # --- time ------------------------------------------------------------------------------------------------------

    def forgive_silence(self) -> None:
        """As if something had come: the client is not read from on purpose."""
        self._received = True

    def handle_timer(self, now: float) -> tuple[float | None, bool]:
        """When to be called next, absolute (None: never), and whether the client is to be given up: no handshake, no
        heartbeat, no answer to a close. Call it once at the beginning."""
        if self.state is State.OPEN:
            self._deadline = None
            if not self._interval:
                return now + CLOSING_SECONDS, False
            self._missed = 0 if self._received else self._missed + 1
            if self._missed > 3:  # two whole intervals, as RabbitMQ counts
                return None, True
            if not self._sent:
                self._queue(HEARTBEAT_FRAME)
            self._received = self._sent = False
            return now + self._interval, False
        patience = CLOSING_SECONDS if self.state is State.CLOSING else HANDSHAKE_SECONDS
        if self._deadline is None:
            self._deadline = now + patience
        elif now >= self._deadline:
            return None, True
        return min(self._deadline, now + (self._interval or patience)), False
