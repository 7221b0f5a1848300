"""A connection as a client sees it: bytes in, frames apart, each to whom it concerns; heartbeats; new channels.

Four verbs: `receive_data`, `data_to_send`, take `events`, and the actions (`open_channel`, `close`, …). What must stay
true: `receive_data` never raises, whatever the peer sends. Time comes in as `now`, seconds on any monotonic clock. What
is queued and how it ends is in `life`; what the broker says of the connection in `connection_methods`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any

from rabbitry._errors import ConnectFailed, ConnectionClosed, LocalProtocolError, RabbitryError, RemoteProtocolError
from rabbitry._secrets import Secret, forget_frames, unwatched
from rabbitry.protocol.client.channel import ProtocolChannel, method_frame
from rabbitry.protocol.client.channel_methods import receive_acks, receive_channel_method
from rabbitry.protocol.client.connection_methods import receive_connection_method
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.handshake import Handshake, refused_greeting
from rabbitry.protocol.client.life import ConnectionLife
from rabbitry.protocol.client.messages import receive_body, receive_delivery, receive_header, receive_run
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ChannelState, ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import (
    BASIC_CLASS_ID,
    CHANNEL_ERROR,
    CONNECTION_FORCED,
    CONTENT_TOO_LARGE,
    FRAME_BODY,
    FRAME_END,
    FRAME_ERROR,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_OVERHEAD,
)
from rabbitry.protocol.wire.framing import HEARTBEAT_FRAME
from rabbitry.protocol.wire.methods import decode_method

__all__ = ["UNSPLIT_MAX", "ProtocolConnection"]

_unpack_frame = Struct(">BHI").unpack_from
_unpack_content_header = Struct(">BHIHHQ").unpack_from

_DELIVER = methods.BasicDeliver.key
_ACK = methods.BasicAck.key
_CLOSES = (methods.ConnectionClose.key, methods.ConnectionCloseOk.key)

# hot: CPython 3.11 looks up a member of an enum by a call in Python, which takes a third of a microsecond
_START, _CLOSING, _CLOSED = ConnectionState.START, ConnectionState.CLOSING, ConnectionState.CLOSED
_CHANNEL_OPEN = ChannelState.OPEN


UNSPLIT_MAX = 16777216
"""Bytes that a content header or a method may take whatever frame_max says, once the connection is open.

Neither can be split into several frames (specification 4.2.6), and RabbitMQ sends them as large as they are: what came
in within its own frame_max, 131,072 bytes by default, has grown by x-death, CC or another connection's larger
frame_max. A header is taken in up to here, so that what is too large ends its consumer only (`PROPERTIES_MAX`); this
bounds what a hostile peer can have buffered.
"""

PIECE = 16384
"""Bytes of a body frame that are taken, or kept as a view, ahead of the rest; of fewer a copy costs less."""


class ProtocolConnection(ConnectionLife[ProtocolChannel]):
    """The client's side of one connection.

    `mechanisms` are (SASL name, initial response) in order of preference; they are forgotten once used. `heartbeat` is
    in seconds, 0 for none; `frame_max` and `channel_max` are what we ask for, lowered to the broker's. A message larger
    than `max_message_size` bytes, or with properties larger than `frame_max` and `PROPERTIES_MAX`, ends the consumer or
    the get that it comes for; a frame larger than `frame_max` and `UNSPLIT_MAX` ends the connection. Received messages
    become instances of `delivery_type`.
    """

    __slots__ = ("_due", "_late", "_missed", "_needed", "_next_number", "_pieces_of", "_received", "_tail")

    awaiting: int

    def __init__(
        self,
        *,
        mechanisms: Sequence[tuple[str, bytes | Secret[bytes]]],
        virtual_host: str = "/",
        client_properties: Mapping[str, Any] | None = None,
        heartbeat: int = 30,
        frame_max: int = 131072,
        channel_max: int = 2047,
        max_message_size: int = 134217728,
        delivery_type: type[Content] = Content,
    ) -> None:
        super().__init__(
            Handshake(mechanisms, virtual_host, client_properties or {}),
            heartbeat=heartbeat,
            frame_max=frame_max,
            channel_max=channel_max,
            max_message_size=max_message_size,
            delivery_type=delivery_type,
        )
        self._next_number = 1
        # An incomplete frame, and the size at which it can be looked at again.
        self._tail: bytes | bytearray = b""
        self._needed = 0
        # The channel of a body frame that is taken as it comes, of which `_needed` bytes are still to come; 0: none.
        self._pieces_of = 0
        # Heartbeats: whether anything came since the last tick, and how many ticks nothing came.
        self._received = False
        self._missed = 0
        # When the next tick is due (0: none is), and how late the last one was, if a peer may have given up meanwhile.
        self._due = 0.0
        self._late = 0.0

    # --- bytes in --------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in a chunk as it came. Never raises; what it meant is in `events`."""
        if self.state is _CLOSED:
            return
        self._received = True
        try:
            self._parse(data)
        except RemoteProtocolError as exc:
            self.fail(forget_frames(exc))  # they hold what came, and a server may give back the credentials
        except (TypeError, ValueError) as exc:
            if self.handshake is None:  # else what it should carry (a virtual host of 300 bytes, say)
                self.fail_internally(exc)
                return
            refused = ConnectFailed(f"the connection can't be opened like this: {exc}")
            refused.__cause__ = forget_frames(exc)
            self.end(refused)
        except Exception as exc:  # a defect of ours must not escape into whoever reads the socket
            self.fail_internally(exc if self.handshake is None else forget_frames(exc))

    def _parse(self, data: bytes) -> None:
        position = 0
        if self._pieces_of:
            data, self._tail = b"".join((self._tail, data)) if self._tail else data, b""
            position = self._take_piece(data, 0)
            if self._pieces_of:
                return
        elif self._tail:
            if len(self._tail) + len(data) < self._needed:
                self._tail += data  # in place: a large frame in small pieces takes linear time
                return
            data, self._tail = b"".join((self._tail, data)), b""
        if self.state is _START and data[:1] != b"\x01":
            self._refuse_greeting(data)
            return
        size = len(data)
        channels, longest = self.channels, self.body_max
        while size - position >= 8:
            kind, number, length = _unpack_frame(data, position)
            start = position + 7
            end = start + length
            if length > longest:
                if number and self._is_in_pieces(kind, length):
                    self._pieces_of, self._needed = number, length + 1
                    position = self._take_piece(data, start)
                    if self._pieces_of:
                        return
                    continue
                self._check_length(kind, length)
            if end >= size:
                if kind == FRAME_BODY and size - start >= PIECE and self._is_awaited(number, length):
                    self._pieces_of, self._needed = number, length + 1
                    self._take_piece(data, start)
                    return
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
                                and channel.state is _CHANNEL_OPEN
                                and channel.assembly is None
                            ):
                                receive_delivery(
                                    channel,
                                    data[start + 4 : end],
                                    data[position + 19 : body - 1],
                                    data[body + 7 : stop],
                                )
                                position = stop + 1
                                if position < size:
                                    position = receive_run(channel, data, start - 7, position)
                                continue
                elif (
                    key == _ACK
                    and channel is not None
                    and length == 13
                    and channel.state is _CHANNEL_OPEN
                    and channel.assembly is None
                ):
                    position = receive_acks(channel, data, start - 7)
                    continue
                if self.state is _CLOSING and (number or key not in _CLOSES):
                    continue  # everything but close and close-ok is discarded (specification 1.4.2.10)
                if number == 0:
                    receive_connection_method(self, decode_method(data[start:end]))
                elif channel is None:
                    raise RemoteProtocolError(f"a method for channel {number}, which is not open", CHANNEL_ERROR)
                else:
                    receive_channel_method(channel, decode_method(data[start:end]))
                longest = self.body_max
                if self.state is _CLOSED:
                    return
            elif kind == FRAME_HEADER or kind == FRAME_BODY:
                self._receive_content(kind, number, _part(data, start, end))
            elif kind == FRAME_HEARTBEAT:
                if number or length:
                    raise RemoteProtocolError("a heartbeat frame must be empty and on channel 0", FRAME_ERROR)
            else:
                raise RemoteProtocolError(f"unknown frame type {kind}", FRAME_ERROR)
        if position < size:
            self._tail = bytearray(data[position:])
            self._needed = 8 if size - position < 8 else 8 + _unpack_frame(data, position)[2]

    def _receive_content(self, kind: int, number: int, payload: bytes | memoryview) -> None:
        if self.state is ConnectionState.CLOSING:
            return
        channel = self.channels.get(number)
        if channel is None:
            raise RemoteProtocolError(f"content for channel {number}, which is not open", CHANNEL_ERROR)
        if kind == FRAME_HEADER:
            receive_header(channel, bytes(payload))
        else:
            receive_body(channel, payload)

    def _is_in_pieces(self, kind: int, length: int) -> bool:
        """Whether this is a body frame within the frame_max agreed on, and still too long to be kept: its message is
        larger than it may be, and dropped as it comes.
        """
        return kind == FRAME_BODY and self.handshake is None and length + FRAME_OVERHEAD <= self.frame_max

    def _is_awaited(self, number: int, length: int) -> bool:
        """Whether the body under way on that channel lacks so many bytes, so that the frame can be taken as it comes:
        to keep its beginning until the rest is here would copy the bytes of a large body once more.
        """
        channel = self.channels.get(number)
        return channel is not None and channel.assembly is not None and channel.assembly.lacks(length)

    def _take_piece(self, data: bytes, start: int) -> int:
        """Take in what has come of a frame that is taken as it comes; where what follows it begins. Its last octet is
        not taken ahead of the frame-end octet: no message is whole before its frames have ended as they must.
        """
        number, needed, size = self._pieces_of, self._needed, len(data)
        end = start + needed - 1
        if end >= size:
            end = size if end > size else size - 1
            self._needed -= end - start
            self._tail = data[end:]
            following = size
        elif data[end] == FRAME_END:
            self._pieces_of = self._needed = 0
            following = end + 1
        else:
            raise RemoteProtocolError("a frame does not end with the frame-end octet", FRAME_ERROR)
        if end > start:
            self._receive_content(FRAME_BODY, number, _part(data, start, end))
        return following

    def _check_length(self, kind: int, length: int) -> None:
        """Whether a frame beyond frame_max may be as long as this."""
        size, frame_max = length + FRAME_OVERHEAD, self.body_max + FRAME_OVERHEAD
        may_exceed = kind in (FRAME_HEADER, FRAME_METHOD) and self.handshake is None
        if not may_exceed:
            raise RemoteProtocolError(f"a frame of {size} bytes exceeds frame_max ({frame_max})", FRAME_ERROR)
        if length > UNSPLIT_MAX:
            what = "a message's properties and headers take" if kind == FRAME_HEADER else "a method takes"
            raise RemoteProtocolError(
                f"{what} {length} bytes, which exceeds frame_max ({frame_max}) and what is accepted beyond it "
                f"({UNSPLIT_MAX})",
                CONTENT_TOO_LARGE if kind == FRAME_HEADER else FRAME_ERROR,
            )

    def _refuse_greeting(self, data: bytes) -> None:
        """The first byte is no method frame: another protocol version, or no AMQP server at all."""
        refused = refused_greeting(data)
        if refused is None:
            self._tail, self._needed = bytearray(data), 0
        else:
            self.end(refused)

    def eof_received(self, error: Exception | None, now: float | None = None) -> None:
        """The peer closed the stream, or the transport failed with `error`. With `now` it is said if that happened
        because this program left no time for heartbeats.
        """
        if self.state is ConnectionState.CLOSED:
            return
        detail = f"{error}" if error is not None else "the peer closed the connection"
        ended: RabbitryError
        if self.handshake is not None:
            may_be_no_amqp = error is None or isinstance(error, ConnectionError)
            ended = self.handshake.cut_off(self.state, bytes(self._tail), detail, may_be_no_amqp)
        elif self.state is ConnectionState.CLOSING:
            ended = ConnectionClosed("the connection was closed by this program")
        else:
            ended = ConnectionClosed(f"connection lost: {detail}{self._blame(now)}")
        ended.__cause__ = error
        self.end(ended)

    def _blame(self, now: float | None) -> str:
        late = self._late if now is None or not self._due else max(self._late, now - self._due)
        if not self.heartbeat or late < self.heartbeat:
            return ""
        return (
            f", after this program had kept its event loop from running for at least {late:.1f} s, in which no "
            f"heartbeat (of {self.heartbeat} s) could be sent: what takes so long belongs into a thread"
        )

    # --- actions ---------------------------------------------------------------------------------------------------

    def open_channel(self, token: Any) -> tuple[ProtocolChannel, Slot]:
        """Queue channel.open on a free number."""
        if self.state is not ConnectionState.OPEN:
            raise self.end_error()
        channel = ProtocolChannel(self, self._free_number())
        slot = channel.request(methods.ChannelOpen(), token)
        self.channels[channel.number] = channel
        return channel, slot

    def _free_number(self) -> int:
        channels = self.channels
        if len(channels) >= self.channel_max:
            raise LocalProtocolError(f"all {self.channel_max} channels of this connection are open (channel_max)")
        number = self._next_number
        while number in channels:
            number = number % self.channel_max + 1
        self._next_number = number % self.channel_max + 1
        return number

    def update_secret(self, secret: bytes | Secret[bytes], reason: str, token: Any) -> Slot:
        """Queue connection.update-secret: a new token for a connection that authenticated with one."""
        hidden = secret if isinstance(secret, Secret) else Secret(secret)
        del secret
        if self.state is not ConnectionState.OPEN:
            raise self.end_error()
        method = methods.ConnectionUpdateSecret
        frame = unwatched(lambda: method_frame(0, method(new_secret=hidden.reveal(), reason=reason), self.body_max))
        slot = Slot(None, method(new_secret=b"", reason=reason), token)  # what waits for the reply need not have it
        self.slots.append(slot)
        self.awaiting += 1
        self.queue(frame)
        return slot

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
        late = now - self._due
        self._late = late if self._due and late >= self.heartbeat else 0.0
        # Ticks without data are counted, not seconds: a process that slept through two intervals counts one tick.
        self._missed = 0 if self._received or not reading else self._missed + 1
        self._received = False
        if self._missed >= 4:
            self.end(
                ConnectionClosed(
                    f"no heartbeat: nothing came from the broker for {2 * self.heartbeat} s", code=CONNECTION_FORCED
                )
            )
            return None
        return self.next_tick(now)

    def next_tick(self, now: float) -> float:
        """When to call `handle_timer` if nothing but heartbeats is to be seen to, half an interval from now."""
        self._due = now + self.heartbeat / 2
        return self._due

    # --- the end ---------------------------------------------------------------------------------------------------

    def end(self, error: RabbitryError) -> None:
        """End as every life does, and drop the beginning of a frame that will not be completed."""
        super().end(error)
        self._tail = b""


def _part(data: bytes, start: int, end: int) -> bytes | memoryview:
    """A part of what was received: a view, where that keeps no more than four times its size in memory.

    hot: of a body of 1 MiB each byte is copied once, when all are here, and not thrice.
    """
    size = end - start
    return memoryview(data)[start:end] if size >= PIECE and len(data) <= 4 * size else data[start:end]
