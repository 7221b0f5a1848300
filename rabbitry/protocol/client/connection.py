"""The connection's state machine: handshake, tuning, frames in and out, heartbeats, the end.

Four verbs: `receive_data`, `data_to_send`, take `events`, and the actions (`open_channel`, `close`, …). What must stay
true: `receive_data` never raises, whatever the peer sends; a peer's fault ends the connection with one connection.close
that says what was wrong; after the end nothing more is queued. Time comes in as `now`, seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any

from rabbitry._errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    LocalProtocolError,
    NotConnected,
    RabbitryError,
    RemoteProtocolError,
)
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel, method_frame
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.contents import receive_body, receive_delivery, receive_header
from rabbitry.protocol.client.handshake import Handshake, agreed, refused_greeting
from rabbitry.protocol.client.receiving import receive_method, settle_confirms
from rabbitry.protocol.client.settling import Settling
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ChannelState, ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import (
    BASIC_CLASS_ID,
    CHANNEL_ERROR,
    COMMAND_INVALID,
    CONNECTION_FORCED,
    FRAME_BODY,
    FRAME_END,
    FRAME_ERROR,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    INTERNAL_ERROR,
    PROTOCOL_HEADER,
    REPLY_SUCCESS,
    RESOURCE_ERROR,
)
from rabbitry.protocol.wire.framing import HEARTBEAT_FRAME
from rabbitry.protocol.wire.methods import Method, decode_method, encode_method_frame

__all__ = ["ProtocolConnection"]

_unpack_frame = Struct(">BHI").unpack_from
_unpack_content_header = Struct(">BHIHHQ").unpack_from
_unpack_ack = Struct(">QB").unpack_from

_DELIVER = methods.BasicDeliver.key
_ACK = methods.BasicAck.key
_CLOSES = (methods.ConnectionClose.key, methods.ConnectionCloseOk.key)
_UNTUNED_FRAME_MAX = 131072
"""Bound of the frames before connection.tune. The specification (4.2.3) guarantees 4,096 only; a broker may say more
of itself.
"""

_ANSWERS_MAX = 10_000
"""Answers queued at once above which the connection ends: only a peer that asks without reading can come so far."""


class ProtocolConnection:
    """The client's side of one connection.

    `mechanisms` are (SASL name, initial response) in order of preference; they are forgotten once used. `heartbeat` is
    in seconds, 0 for none; `frame_max` and `channel_max` are what we ask for, lowered to the broker's. Messages larger
    than `max_message_size` bytes end the connection. Received messages become instances of `delivery_type`.
    """

    __slots__ = (
        "_answers",
        "_channels",
        "_handshake",
        "_missed",
        "_needed",
        "_next_number",
        "_received",
        "_sent",
        "_slots",
        "_tail",
        "acking",
        "awaiting",
        "body_max",
        "channel_max",
        "delivery_type",
        "ended_here",
        "error",
        "events",
        "frame_max",
        "heartbeat",
        "max_message_size",
        "out",
        "out_size",
        "server_properties",
        "stale_settlements",
        "state",
        "token",
    )

    def __init__(
        self,
        *,
        mechanisms: Sequence[tuple[str, bytes]],
        virtual_host: str = "/",
        client_properties: Mapping[str, Any] | None = None,
        heartbeat: int = 30,
        frame_max: int = 131072,
        channel_max: int = 2047,
        max_message_size: int = 134217728,
        delivery_type: type[Content] = Content,
    ) -> None:
        self.state = ConnectionState.START
        self.ended_here = False  # whether it was this program that ended it
        self.stale_settlements = 0  # deliveries processed after their channel had ended
        self.token: Any = None  # the caller's: for what reaches it through a received message
        self.error: RabbitryError | None = None
        self.events: list[Any] = []
        self.server_properties: Mapping[str, Any] = {}
        self.heartbeat = heartbeat
        self.frame_max = frame_max
        self.body_max = _UNTUNED_FRAME_MAX - FRAME_OVERHEAD
        self.channel_max = channel_max
        self.max_message_size = max_message_size
        self.delivery_type = delivery_type
        # Requests and publishes not answered yet, over all channels.
        self.awaiting = 1  # the handshake
        self.out: list[bytes] = [PROTOCOL_HEADER]
        self.out_size = len(PROTOCOL_HEADER)
        self.acking: list[Settling] = []
        # What is said and needed until the connection is open, credentials among it; None from then on.
        self._handshake: Handshake | None = Handshake(mechanisms, virtual_host, client_properties or {})
        self._channels: dict[int, ProtocolChannel] = {}
        self._next_number = 1
        self._slots: list[Slot] = []
        self._answers = 0
        # An incomplete frame, and the size at which it can be looked at again.
        self._tail: bytes | bytearray = b""
        self._needed = 0
        # Heartbeats: whether anything came or went since the last tick, and how many ticks nothing came.
        self._received = False
        self._sent = False
        self._missed = 0

    # --- bytes out -------------------------------------------------------------------------------------------------

    def queue(self, frame: bytes) -> None:
        """Append whole frames."""
        self.out.append(frame)
        self.out_size += len(frame)

    def expect(self, replies: int) -> None:
        """Count replies that come as deliveries (or with -1, no longer), which the protocol can't tell from others."""
        if self.state is not ConnectionState.CLOSED:
            self.awaiting += replies

    def queue_answer(self, frame: bytes) -> None:
        """Append an answer that the broker may ask for any number of times, and must then also read."""
        self._answers += 1
        if self._answers > _ANSWERS_MAX:
            raise RemoteProtocolError(
                f"the peer asks on and on, and reads none of {_ANSWERS_MAX} answers", RESOURCE_ERROR
            )
        self.queue(frame)

    def data_to_send(self) -> bytes:
        """Take everything queued, pending acknowledgements included."""
        if self.acking:
            acking, self.acking = self.acking, []
            for channel in acking:
                channel.flush_acks()
        out = self.out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.out_size = 0
        self._answers = 0
        self._sent = True
        return data

    # --- bytes in --------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in a chunk as it came. Never raises; what it meant is in `events`."""
        if self.state is ConnectionState.CLOSED:
            return
        self._received = True
        try:
            self._parse(data)
        except RemoteProtocolError as exc:
            self._fail(exc)
        except LocalProtocolError as exc:  # what the handshake should carry (a virtual host of 300 bytes, say)
            refused = ConnectFailed(f"the connection can't be opened like this: {exc}")
            refused.__cause__ = exc
            self._end(refused)
        except Exception as exc:  # a defect of ours must not escape into whoever reads the socket
            self.fail_internally(exc)

    def _parse(self, data: bytes) -> None:
        if self._tail:
            if len(self._tail) + len(data) < self._needed:
                self._tail += data  # in place: a large frame in small pieces takes linear time
                return
            data, self._tail = b"".join((self._tail, data)), b""
        if self.state is ConnectionState.START and data[:1] != b"\x01":
            self._refuse_greeting(data)
            return
        position, size = 0, len(data)
        channels, longest = self._channels, self.body_max
        while size - position >= 8:
            kind, number, length = _unpack_frame(data, position)
            start = position + 7
            end = start + length
            if length > longest:
                raise RemoteProtocolError(
                    f"a frame of {length + FRAME_OVERHEAD} bytes exceeds frame_max ({longest + FRAME_OVERHEAD})",
                    FRAME_ERROR,
                )
            if end >= size:
                break
            if data[end] != FRAME_END:
                raise RemoteProtocolError("a frame does not end with the frame-end octet", FRAME_ERROR)
            position = end + 1
            if kind == FRAME_METHOD:
                key = data[start : start + 4]
                channel = channels.get(number)
                if key == _DELIVER and channel is not None:
                    # hot: deliver, header and body of one message in one step when all three are here (1.9 us a
                    # message against 9 one by one). Anything unusual falls through to the general way.
                    if size - position >= 22:
                        kind2, number2, length2, class_id, _weight, body_size = _unpack_content_header(data, position)
                        body = position + length2 + 8  # the body frame, if there is one
                        if (
                            kind2 == FRAME_HEADER
                            and number2 == number
                            and class_id == BASIC_CLASS_ID
                            and 14 <= length2 <= longest
                            and size - body >= 8
                        ):
                            kind3, number3, length3 = _unpack_frame(data, body)
                            stop = body + 7 + length3
                            if (
                                kind3 == FRAME_BODY
                                and number3 == number
                                and 0 < length3 == body_size
                                and stop < size
                                and data[stop] == FRAME_END
                                and data[body - 1] == FRAME_END
                                and length3 <= longest
                                and length3 <= self.max_message_size
                                and channel.state is ChannelState.OPEN
                                and channel.assembly is None
                            ):
                                receive_delivery(
                                    channel,
                                    data[start + 4 : end],
                                    data[position + 19 : body - 1],
                                    data[body + 7 : stop],
                                )
                                position = stop + 1
                                continue
                elif (
                    key == _ACK
                    and channel is not None
                    and length == 13
                    and channel.state is ChannelState.OPEN
                    and channel.assembly is None
                ):
                    # hot: a confirm without a Method object, 0.6 us against 3
                    tag, multiple = _unpack_ack(data, start + 4)
                    settle_confirms(channel, tag, multiple & 1 == 1, True)
                    continue
                if self.state is ConnectionState.CLOSING and (number or key not in _CLOSES):
                    continue  # everything but close and close-ok is discarded (specification 1.4.2.10)
                if number == 0:
                    self._receive_method(decode_method(data[start:end]))
                elif channel is None:
                    raise RemoteProtocolError(f"a method for channel {number}, which is not open", CHANNEL_ERROR)
                else:
                    receive_method(channel, decode_method(data[start:end]))
                longest = self.body_max
                if self.state is ConnectionState.CLOSED:
                    return
            elif kind == FRAME_HEADER or kind == FRAME_BODY:
                channel = channels.get(number)
                if self.state is ConnectionState.CLOSING:
                    continue
                if channel is None:
                    raise RemoteProtocolError(f"content for channel {number}, which is not open", CHANNEL_ERROR)
                if kind == FRAME_HEADER:
                    receive_header(channel, data[start:end])
                else:
                    receive_body(channel, data[start:end])
            elif kind == FRAME_HEARTBEAT:
                if number or length:
                    raise RemoteProtocolError("a heartbeat frame must be empty and on channel 0", FRAME_ERROR)
            else:
                raise RemoteProtocolError(f"unknown frame type {kind}", FRAME_ERROR)
        if position < size:
            self._tail = bytearray(data[position:])
            self._needed = 8 if size - position < 8 else 8 + _unpack_frame(data, position)[2]

    def _refuse_greeting(self, data: bytes) -> None:
        """The first byte is no method frame: another protocol version, or no AMQP server at all."""
        refused = refused_greeting(data)
        if refused is None:
            self._tail, self._needed = bytearray(data), 0
        else:
            self._end(refused)

    def eof_received(self, error: Exception | None) -> None:
        """The peer closed the stream, or the transport failed with `error`."""
        if self.state is ConnectionState.CLOSED:
            return
        detail = f"{error}" if error is not None else "the peer closed the connection"
        ended: RabbitryError
        if self._handshake is not None:
            may_be_no_amqp = error is None or isinstance(error, ConnectionError)
            ended = self._handshake.cut_off(self.state, bytes(self._tail), detail, may_be_no_amqp)
        elif self.state is ConnectionState.CLOSING:
            ended = ConnectionClosed("the connection was closed by this program")
        else:
            ended = ConnectionClosed(f"connection lost: {detail}")
        ended.__cause__ = error
        self._end(ended)

    # --- methods of channel 0 --------------------------------------------------------------------------------------

    def _receive_method(self, method: Method) -> None:
        handler = _LEGAL.get((self.state, type(method)))
        if handler is not None:
            handler(self, method)
        else:
            raise RemoteProtocolError(f"unexpected {method.name} while waiting for {self.state.value}", COMMAND_INVALID)

    def _on_start(self, method: Method) -> None:
        assert isinstance(method, methods.ConnectionStart) and self._handshake is not None
        self.server_properties = method.server_properties
        answer = self._handshake.answer(method)
        if isinstance(answer, ConnectFailed):
            self._end(answer)
            return
        self.queue(answer)
        self.state = ConnectionState.TUNE

    def _on_secure(self, method: Method) -> None:
        self._end(
            AuthenticationFailed(
                "the server asked a challenge (connection.secure), which PLAIN, AMQPLAIN and EXTERNAL have no answer to"
            )
        )

    def _on_tune(self, method: Method) -> None:
        assert isinstance(method, methods.ConnectionTune) and self._handshake is not None
        asked = methods.ConnectionTuneOk(
            channel_max=self.channel_max, frame_max=self.frame_max, heartbeat=self.heartbeat
        )
        tuned = agreed(asked, method)
        self.channel_max, self.frame_max, self.heartbeat = tuned.channel_max, tuned.frame_max, tuned.heartbeat
        # "No limit" is one all the same: what is buffered of a frame must stay bounded.
        self.body_max = min(self.frame_max - FRAME_OVERHEAD, max(self.max_message_size, _UNTUNED_FRAME_MAX))
        self.queue(encode_method_frame(0, tuned) + self._handshake.open_frame(self.frame_max))
        self.state = ConnectionState.OPEN_OK

    def _on_open_ok(self, method: Method) -> None:
        self.state = ConnectionState.OPEN
        self._handshake = None
        self.awaiting -= 1
        self.events.append(events.Opened())

    def _on_blocked(self, method: Method) -> None:
        assert isinstance(method, methods.ConnectionBlocked)
        self._append_alarm(events.Blocked(method.reason))

    def _on_unblocked(self, method: Method) -> None:
        self._append_alarm(events.Unblocked())

    def _append_alarm(self, event: events.Blocked | events.Unblocked) -> None:
        """Of several in a row the last one counts: a peer that sends thousands must not have each of them told."""
        if self.events and isinstance(self.events[-1], events.Blocked | events.Unblocked):
            self.events[-1] = event
        else:
            self.events.append(event)

    def _on_update_secret_ok(self, method: Method) -> None:
        if not self._slots:
            raise RemoteProtocolError(f"unexpected {method.name}", COMMAND_INVALID)
        slot = self._slots.pop(0)
        self.awaiting -= 1
        if slot.token is not None:
            self.events.append(events.Replied(slot.token, method))

    def _on_close(self, method: Method) -> None:
        assert isinstance(method, methods.ConnectionClose)
        self.queue(encode_method_frame(0, methods.ConnectionCloseOk()))
        error: RabbitryError
        if self._handshake is not None:
            error = self._handshake.refused(self.state, method)
        else:
            blamed = methods.method_name(method.failing_class_id, method.failing_method_id)
            error = ConnectionClosed(method.reply_text, code=method.reply_code, method=blamed)
        self._end(error)

    def _on_close_while_closing(self, method: Method) -> None:
        self.queue(encode_method_frame(0, methods.ConnectionCloseOk()))
        self._end(ConnectionClosed("the connection was closed by this program"))

    def _on_close_ok(self, method: Method) -> None:
        self._end(ConnectionClosed("the connection was closed by this program"))

    # --- actions ---------------------------------------------------------------------------------------------------

    def open_channel(self, token: Any) -> tuple[ProtocolChannel, Slot]:
        """Queue channel.open on a free number."""
        if self.state is not ConnectionState.OPEN:
            raise self.end_error()
        channel = ProtocolChannel(self, self._free_number())
        slot = channel.request(methods.ChannelOpen(), token)
        self._channels[channel.number] = channel
        return channel, slot

    def _free_number(self) -> int:
        channels = self._channels
        if len(channels) >= self.channel_max:
            raise LocalProtocolError(f"all {self.channel_max} channels of this connection are open (channel_max)")
        number = self._next_number
        while number in channels:
            number = number % self.channel_max + 1
        self._next_number = number % self.channel_max + 1
        return number

    def release(self, channel: ProtocolChannel) -> None:
        """The channel's number is free again."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]

    def update_secret(self, secret: bytes, reason: str, token: Any) -> Slot:
        """Queue connection.update-secret: a new token for a connection that authenticated with one."""
        if self.state is not ConnectionState.OPEN:
            raise self.end_error()
        method = methods.ConnectionUpdateSecret(new_secret=secret, reason=reason)
        frame = method_frame(0, method, self.body_max)
        slot = Slot(None, method, token)
        self._slots.append(slot)
        self.awaiting += 1
        self.queue(frame)
        return slot

    def close(self, code: int = REPLY_SUCCESS, text: str = "closed by the client") -> None:
        """Queue connection.close; the end comes with close-ok. From now on everything else received is discarded."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        method = methods.ConnectionClose(reply_code=code, reply_text=text, failing_class_id=0, failing_method_id=0)
        frame = encode_method_frame(0, method)  # may refuse: before anything changes
        self.ended_here = True
        if self.state is not ConnectionState.OPEN:
            self._end(ConnectionClosed("the connection was closed by this program before it was open"))
            return
        for channel in self._channels.values():
            channel.flush_acks()
        self.queue(frame)
        self.state = ConnectionState.CLOSING
        self.awaiting += 1
        self._end_channels(ConnectionClosed("the connection was closed by this program"), {})

    def abort(self, error: RabbitryError) -> None:
        """The connection is given up. What is queued may still leave, but for publishes and what came after them."""
        self.ended_here = self.ended_here or self.state is not ConnectionState.CLOSED
        self._end(error)

    def end_error(self) -> RabbitryError:
        """Why the connection can't be used, as a fresh exception."""
        error = self.error
        if error is None:
            if self.state is ConnectionState.CLOSING:
                return ConnectionClosed("the connection was closed by this program")
            return NotConnected("the connection is not open yet")
        return error.copy()

    # --- time ------------------------------------------------------------------------------------------------------

    def handle_timer(self, now: float, *, reading: bool = True) -> float | None:
        """To be called at the time the last call returned, first right after `Opened`; None: no timer is needed.

        Sends a heartbeat when half an interval passed without sending, and ends the connection when nothing came for
        two intervals (specification 4.2.7). `reading=False`: we have paused reading ourselves, so silence means
        nothing.
        """
        if not self.heartbeat or self.state is ConnectionState.CLOSED:
            return None
        if not self._sent and not self.out:
            self.queue(HEARTBEAT_FRAME)
        self._sent = False
        # Ticks without data are counted, not seconds: a process that slept through two intervals counts one tick.
        self._missed = 0 if self._received or not reading else self._missed + 1
        self._received = False
        if self._missed >= 4:
            self._end(
                ConnectionClosed(
                    f"no heartbeat: nothing came from the broker for {2 * self.heartbeat} s", code=CONNECTION_FORCED
                )
            )
            return None
        return now + self.heartbeat / 2

    # --- the end ---------------------------------------------------------------------------------------------------

    def _fail(self, error: RemoteProtocolError) -> None:
        """The peer broke the protocol: tell it so, and end."""
        # Not before the broker knows us, and not twice.
        if self.state not in (ConnectionState.START, ConnectionState.CLOSING, ConnectionState.CLOSED):
            text = str(error).encode("utf-8", "replace")[:255].decode("utf-8", "ignore")
            method = methods.ConnectionClose(
                reply_code=error.code, reply_text=text, failing_class_id=0, failing_method_id=0
            )
            self.queue(encode_method_frame(0, method))
        ended: RabbitryError
        if self.state in (ConnectionState.OPEN, ConnectionState.CLOSING):
            ended = ConnectionClosed(f"the broker broke the protocol: {error}", code=error.code)
        else:
            ended = ConnectFailed(f"the server broke the protocol: {error}")
        ended.__cause__ = error
        self._end(ended)

    def give_up(self, error: RemoteProtocolError) -> None:
        """The peer is beyond what can be borne."""
        if self.state is not ConnectionState.CLOSED:
            self._fail(error)

    def fail_internally(self, defect: Exception) -> None:
        """Something of this program's failed amid what it received: nothing is certain any more, so end."""
        if self.state is not ConnectionState.CLOSED:
            error = RemoteProtocolError(f"internal error of the client: {defect!r}", INTERNAL_ERROR)
            error.__cause__ = defect
            self._fail(error)

    def _end(self, error: RabbitryError) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        if self.error is None:
            self.error = error
        self.state = ConnectionState.CLOSED
        self._handshake = None
        self._tail = b""
        self._end_channels(error, self._drop_publishes())
        self._channels = {}
        self.acking = []
        waiting = [slot.token for slot in self._slots if slot.token is not None]
        self._slots = []
        self.awaiting = 0
        self.events.append(events.ConnectionEnded(self.error, waiting))

    def _drop_publishes(self) -> Mapping[int, int]:
        """Count each channel's messages still queued: certainly not sent, and they won't be.

        Nor will anything queued behind the first of them: the acknowledgement of a request must not arrive without the
        result published before it. Channel 0's connection.close or close-ok is kept.
        """
        counts: dict[int, int] = {}
        kept = []
        for chunk in self.out:
            number = int.from_bytes(chunk[1:3], "big")
            if chunk[7:11] == methods.BasicPublish.key and chunk[0] == FRAME_METHOD:
                counts[number] = counts.get(number, 0) + 1
            elif not counts or not number:
                kept.append(chunk)
        self.out = kept
        self.out_size = sum(map(len, kept))
        return counts

    def _end_channels(self, error: RabbitryError, unsent: Mapping[int, int]) -> None:
        for channel in list(self._channels.values()):
            if channel.state is not ChannelState.CLOSED:
                channel.connection_ended(error, unsent.get(channel.number, 0))


_LEGAL: dict[tuple[ConnectionState, type[Method]], Callable[[ProtocolConnection, Any], None]] = {
    (ConnectionState.START, methods.ConnectionStart): ProtocolConnection._on_start,
    (ConnectionState.START, methods.ConnectionClose): ProtocolConnection._on_close,
    (ConnectionState.TUNE, methods.ConnectionSecure): ProtocolConnection._on_secure,
    (ConnectionState.TUNE, methods.ConnectionTune): ProtocolConnection._on_tune,
    (ConnectionState.TUNE, methods.ConnectionClose): ProtocolConnection._on_close,
    (ConnectionState.OPEN_OK, methods.ConnectionOpenOk): ProtocolConnection._on_open_ok,
    (ConnectionState.OPEN_OK, methods.ConnectionClose): ProtocolConnection._on_close,
    (ConnectionState.OPEN, methods.ConnectionBlocked): ProtocolConnection._on_blocked,
    (ConnectionState.OPEN, methods.ConnectionUnblocked): ProtocolConnection._on_unblocked,
    (ConnectionState.OPEN, methods.ConnectionUpdateSecretOk): ProtocolConnection._on_update_secret_ok,
    (ConnectionState.OPEN, methods.ConnectionClose): ProtocolConnection._on_close,
    (ConnectionState.CLOSING, methods.ConnectionClose): ProtocolConnection._on_close_while_closing,
    (ConnectionState.CLOSING, methods.ConnectionCloseOk): ProtocolConnection._on_close_ok,
}
"""The connection's states and what the broker may say in each. A missing key is an illegal move."""
