"""A connection's life as its channels see it: its state, the bytes and events that wait to be taken, and its end.

The base of `ProtocolConnection`. What must stay true: only whole frames are queued; whatever ends the connection, it
ends once, every channel of it ends first, and after that nothing more is queued; a peer's fault is answered by one
connection.close that says what was wrong. Knows no channel but by what `Ending` says, and parses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

from rabbitry._errors import ConnectFailed, ConnectionClosed, NotConnected, RabbitryError, RemoteProtocolError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.handshake import Handshake
from rabbitry.protocol.client.slots import Slot, Slots, suspects
from rabbitry.protocol.client.states import ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import (
    CONNECTION_FORCED,
    FRAME_METHOD,
    FRAME_OVERHEAD,
    INTERNAL_ERROR,
    PROTOCOL_HEADER,
    REPLY_SUCCESS,
    RESOURCE_ERROR,
)
from rabbitry.protocol.wire.methods import encode_method_frame

__all__ = ["UNTUNED_FRAME_MAX", "Acking", "ConnectionLife", "Ending"]

UNTUNED_FRAME_MAX = 131072
"""Bound of the frames before connection.tune. The specification (4.2.3) guarantees 4,096 only; a broker may say more
of itself.
"""

_ANSWERS_MAX = 10_000
"""Answers queued at once above which the connection ends: only a peer that asks without reading can come so far."""

_CLOSED = ConnectionState.CLOSED  # hot: see `connection`


class Acking(Protocol):
    """A channel while settlements of it wait to be made into frames."""

    def flush_acks(self) -> None:
        """Queue the frames of what waits."""
        ...


class Ending(Acking, Protocol):
    """What ends with its connection: as much of a channel as the connection's life needs."""

    number: int
    slots: Slots

    @property
    def is_publishing(self) -> bool:
        """Whether publishes still wait for their confirm."""
        ...

    def connection_ended(self, error: RabbitryError, unsent: int, is_alone: bool) -> None:
        """The connection has ended, by `error`; the last `unsent` publishes of the channel never left. It `is_alone`
        where no other channel is publishing.
        """
        ...


Channel = TypeVar("Channel", bound=Ending)


class ConnectionLife(Generic[Channel]):
    """What a connection's channels, and what the broker says of it, act on.

    `channels` are those whose numbers are taken, `token` is the caller's own.
    """

    __slots__ = (
        "_answers",
        "_sent",
        "acking",
        "awaiting",
        "body_max",
        "channel_max",
        "channels",
        "delivery_type",
        "ended_here",
        "error",
        "events",
        "frame_max",
        "handshake",
        "heartbeat",
        "max_message_size",
        "out",
        "out_size",
        "server_properties",
        "slots",
        "stale_settlements",
        "state",
        "token",
    )

    def __init__(
        self,
        handshake: Handshake,
        *,
        heartbeat: int,
        frame_max: int,
        channel_max: int,
        max_message_size: int,
        delivery_type: type[Any],
    ) -> None:
        self.state: ConnectionState = ConnectionState.START
        self.ended_here: bool = False  # whether it was this program that ended it
        self.stale_settlements: int = 0  # deliveries processed after their channel had ended
        self.token: Any = None  # the caller's: for what reaches it through a received message
        self.error: RabbitryError | None = None
        self.events: list[Any] = []
        self.server_properties: Mapping[str, Any] = {}
        self.heartbeat: int = heartbeat
        self.frame_max: int = frame_max
        self.body_max: int = UNTUNED_FRAME_MAX - FRAME_OVERHEAD
        self.channel_max: int = channel_max
        self.max_message_size: int = max_message_size
        self.delivery_type: type[Any] = delivery_type
        # Requests and publishes not answered yet, over all channels.
        self.awaiting: int = 1  # the handshake
        self.out: list[bytes] = [PROTOCOL_HEADER]
        self.out_size: int = len(PROTOCOL_HEADER)
        self.acking: list[Acking] = []
        # What is said and needed until the connection is open, credentials among it; None from then on.
        self.handshake: Handshake | None = handshake
        self.channels: dict[int, Channel] = {}
        self.slots: list[Slot] = []  # of requests on channel 0
        self._answers = 0
        self._sent = False  # whether anything went since the last tick of the heartbeat

    # --- bytes out -------------------------------------------------------------------------------------------------

    def queue(self, frame: bytes) -> None:
        """Append whole frames."""
        self.out.append(frame)
        self.out_size += len(frame)

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

    def expect(self, replies: int) -> None:
        """Count replies that come as deliveries (or with -1, no longer), which the protocol can't tell from others."""
        if self.state is not _CLOSED:
            self.awaiting += replies

    def release(self, channel: Channel) -> None:
        """The channel's number is free again."""
        if self.channels.get(channel.number) is channel:
            del self.channels[channel.number]

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self, code: int = REPLY_SUCCESS, text: str = "closed by the client") -> None:
        """Queue connection.close; the end comes with close-ok. From now on everything else received is discarded."""
        if self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            return
        method = methods.ConnectionClose(reply_code=code, reply_text=text, failing_class_id=0, failing_method_id=0)
        frame = encode_method_frame(0, method)  # may refuse: before anything changes
        self.ended_here = True
        if self.state is not ConnectionState.OPEN:
            self.end(ConnectionClosed("the connection was closed by this program before it was open"))
            return
        for channel in self.channels.values():
            channel.flush_acks()
        self.queue(frame)
        self.state = ConnectionState.CLOSING
        self.awaiting += 1
        self._end_channels(ConnectionClosed("the connection was closed by this program"), {})

    def abort(self, error: RabbitryError) -> None:
        """The connection is given up. What is queued may still leave, but for publishes and what came after them."""
        self.ended_here = self.ended_here or self.state is not ConnectionState.CLOSED
        self.end(error)

    def fail(self, error: RemoteProtocolError) -> None:
        """The peer broke the protocol, or is beyond what can be borne: tell it so, and end."""
        if self.state is ConnectionState.CLOSED:
            return
        # Not before the broker knows us, and not twice.
        if self.state not in (ConnectionState.START, ConnectionState.CLOSING):
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
        self.end(ended)

    def fail_internally(self, defect: Exception) -> None:
        """Something of this program's failed amid what it received: nothing is certain any more, so end."""
        error = RemoteProtocolError(f"internal error of the client: {defect!r}", INTERNAL_ERROR)
        error.__cause__ = defect
        self.fail(error)

    def end(self, error: RabbitryError) -> None:
        """The connection is over, by `error`, if it wasn't before: the channels learn of it, then the caller does."""
        if self.state is ConnectionState.CLOSED:
            return
        if self.error is None:
            self.error = error
        self.state = ConnectionState.CLOSED
        self.handshake = None
        self._end_channels(error, self._drop_publishes())
        self.channels = {}
        self.acking = []
        waiting = [slot.token for slot in self.slots if slot.token is not None]
        self.slots = []
        self.awaiting = 0
        self.events.append(events.ConnectionEnded(self.error, waiting))

    def blame(self, error: ConnectionClosed, class_id: int, method_id: int) -> None:
        """The broker ends the connection by `error`, over what it names: tell those who may have asked for that, ahead
        of all others, who are told that it was not they.

        connection.close names a method and no channel. So a request is certainly meant where it alone, on all channels,
        is of that method; several may be meant, and all are where the channel's process crashed, which RabbitMQ reports
        by a 541 that names none. A 541 that names one says that the broker has failed in it, not that it refuses it.
        """
        if error.code in (0, REPLY_SUCCESS, CONNECTION_FORCED):
            return
        channels = (self.slots, *(channel.slots for channel in self.channels.values()))
        found = list(chain.from_iterable(suspects(slots, class_id, method_id) for slots in channels))
        if not found:
            return
        is_certain = len(found) == 1 and class_id != 0 and error.code != INTERNAL_ERROR
        for slot in found:
            if slot.token is not None:
                told = error.copy()
                told.blame = "this" if is_certain else "perhaps"
                self.events.append(events.Failed(slot.token, told))
                slot.token = None
        error.blame = "another" if class_id else "perhaps"

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
        channels = list(self.channels.values())
        is_alone = sum(channel.is_publishing for channel in channels) <= 1
        for channel in channels:
            channel.connection_ended(error, unsent.get(channel.number, 0), is_alone)

    def end_error(self) -> RabbitryError:
        """Why the connection can't be used, as a fresh exception."""
        error = self.error
        if error is None:
            if self.state is ConnectionState.CLOSING:
                return ConnectionClosed("the connection was closed by this program")
            return NotConnected("the connection is not open yet")
        return error.copy()
