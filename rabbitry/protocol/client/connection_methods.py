"""What the broker says on channel 0, and what that changes: the handshake's steps, alarms, the end.

One table says what is legal in which state; a missing key is an illegal move and raises `RemoteProtocolError`, which
ends the connection. Functions of a connection's life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from rabbitry._errors import AuthenticationFailed, ConnectFailed, ConnectionClosed, RabbitryError, RemoteProtocolError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.handshake import agreed
from rabbitry.protocol.client.life import UNTUNED_FRAME_MAX, ConnectionLife
from rabbitry.protocol.client.states import ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import COMMAND_INVALID, FRAME_OVERHEAD
from rabbitry.protocol.wire.methods import Method, encode_method_frame

__all__ = ["receive_connection_method"]

Life: TypeAlias = ConnectionLife[Any]


def receive_connection_method(connection: Life, method: Method) -> None:
    """One method of channel 0. Illegal ones raise `RemoteProtocolError`, which ends the connection."""
    handler = _LEGAL.get((connection.state, type(method)))
    if handler is None:
        raise RemoteProtocolError(
            f"unexpected {method.name} while waiting for {connection.state.value}", COMMAND_INVALID
        )
    handler(connection, method)


def _on_start(connection: Life, method: Method) -> None:
    assert isinstance(method, methods.ConnectionStart) and connection.handshake is not None
    connection.server_properties = method.server_properties
    answer = connection.handshake.answer(method)
    if isinstance(answer, ConnectFailed):
        connection.end(answer)
        return
    connection.queue(answer)
    connection.state = ConnectionState.TUNE


def _on_secure(connection: Life, method: Method) -> None:
    connection.end(
        AuthenticationFailed(
            "the server asked a challenge (connection.secure), which PLAIN, AMQPLAIN and EXTERNAL have no answer to"
        )
    )


def _on_tune(connection: Life, method: Method) -> None:
    assert isinstance(method, methods.ConnectionTune) and connection.handshake is not None
    asked = methods.ConnectionTuneOk(
        channel_max=connection.channel_max, frame_max=connection.frame_max, heartbeat=connection.heartbeat
    )
    tuned = agreed(asked, method)
    connection.channel_max, connection.frame_max = tuned.channel_max, tuned.frame_max
    connection.heartbeat = tuned.heartbeat
    # "No limit" is one all the same: what is buffered of a frame must stay bounded.
    connection.body_max = min(
        connection.frame_max - FRAME_OVERHEAD, max(connection.max_message_size, UNTUNED_FRAME_MAX)
    )
    connection.queue(encode_method_frame(0, tuned) + connection.handshake.open_frame(connection.frame_max))
    connection.state = ConnectionState.OPEN_OK


def _on_open_ok(connection: Life, method: Method) -> None:
    connection.state = ConnectionState.OPEN
    connection.handshake = None
    connection.awaiting -= 1
    connection.events.append(events.Opened())


def _on_blocked(connection: Life, method: Method) -> None:
    assert isinstance(method, methods.ConnectionBlocked)
    _append_alarm(connection, events.Blocked(method.reason))


def _on_unblocked(connection: Life, method: Method) -> None:
    _append_alarm(connection, events.Unblocked())


def _append_alarm(connection: Life, event: events.Blocked | events.Unblocked) -> None:
    """Of several in a row the last one counts: a peer that sends thousands must not have each of them told."""
    if connection.events and isinstance(connection.events[-1], events.Blocked | events.Unblocked):
        connection.events[-1] = event
    else:
        connection.events.append(event)


def _on_update_secret_ok(connection: Life, method: Method) -> None:
    if not connection.slots:
        raise RemoteProtocolError(f"unexpected {method.name}", COMMAND_INVALID)
    slot = connection.slots.pop(0)
    connection.awaiting -= 1
    if slot.token is not None:
        connection.events.append(events.Replied(slot.token, method))


def _on_close(connection: Life, method: Method) -> None:
    assert isinstance(method, methods.ConnectionClose)
    connection.queue(encode_method_frame(0, methods.ConnectionCloseOk()))
    error: RabbitryError
    if connection.handshake is not None:
        error = connection.handshake.refused(connection.state, method)
    else:
        blamed = methods.method_name(method.failing_class_id, method.failing_method_id)
        error = ConnectionClosed(method.reply_text, code=method.reply_code, method=blamed)
        connection.blame(error, method.failing_class_id, method.failing_method_id)
    connection.end(error)


def _on_close_while_closing(connection: Life, method: Method) -> None:
    connection.queue(encode_method_frame(0, methods.ConnectionCloseOk()))
    connection.end(ConnectionClosed("the connection was closed by this program"))


def _on_close_ok(connection: Life, method: Method) -> None:
    connection.end(ConnectionClosed("the connection was closed by this program"))


_LEGAL: dict[tuple[ConnectionState, type[Method]], Callable[[Life, Any], None]] = {
    (ConnectionState.START, methods.ConnectionStart): _on_start,
    (ConnectionState.START, methods.ConnectionClose): _on_close,
    (ConnectionState.TUNE, methods.ConnectionSecure): _on_secure,
    (ConnectionState.TUNE, methods.ConnectionTune): _on_tune,
    (ConnectionState.TUNE, methods.ConnectionClose): _on_close,
    (ConnectionState.OPEN_OK, methods.ConnectionOpenOk): _on_open_ok,
    (ConnectionState.OPEN_OK, methods.ConnectionClose): _on_close,
    (ConnectionState.OPEN, methods.ConnectionBlocked): _on_blocked,
    (ConnectionState.OPEN, methods.ConnectionUnblocked): _on_unblocked,
    (ConnectionState.OPEN, methods.ConnectionUpdateSecretOk): _on_update_secret_ok,
    (ConnectionState.OPEN, methods.ConnectionClose): _on_close,
    (ConnectionState.CLOSING, methods.ConnectionClose): _on_close_while_closing,
    (ConnectionState.CLOSING, methods.ConnectionCloseOk): _on_close_ok,
}
"""The connection's states and what the broker may say in each. A missing key is an illegal move."""
