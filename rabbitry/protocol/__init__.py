"""AMQP 0-9-1 without I/O: bytes in, events out; no clock, no socket, no await. Provisional.

For those who bring an event loop of their own. `rabbitry` itself stands on it, so it is tested and fast; but its names
may change in any release, and will be settled once the server's side is here, too. What is not named here is not for
import.

    connection = ProtocolConnection(mechanisms=[("PLAIN", b"\\0guest\\0guest")])
    sock.sendall(connection.data_to_send())          # the protocol header
    connection.receive_data(sock.recv(65536))        # never raises; what it meant is in `connection.events`
    sock.sendall(connection.data_to_send())          # the answers; and so on, until an `events.Opened` comes

    channel, _ = connection.open_channel(token)      # each request has a token of yours: `events.Replied` carries it
    channel.request(methods.QueueDeclare(queue="q"), another)
    channel.publish(encode_properties(Properties(delivery_mode=2)), b"body", "", "q", False)

Actions queue whole frames, and raise `TypeError` or `ValueError` for what can't be sent, `rabbitry.LocalProtocolError`
for what can't be now, or why the channel or connection has ended. Times are an argument (`handle_timer`). Waiting for
room where `out_size` grows, and for replies, is the caller's business.
"""

from __future__ import annotations

from rabbitry._signatures import hide_constructors as _hide_constructors
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel, ProtocolConsumer
from rabbitry.protocol.client.connection import ProtocolConnection
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ChannelState, ConnectionState, Mode
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.properties import Properties, encode_properties

__all__ = [
    "ChannelState",
    "ConnectionState",
    "Content",
    "Mode",
    "Properties",
    "ProtocolChannel",
    "ProtocolConnection",
    "ProtocolConsumer",
    "Slot",
    "encode_properties",
    "events",
    "methods",
]

_hide_constructors(ProtocolChannel, Slot)  # `open_channel` and requests make them
