"""The handshake: what this side says until the connection is open, and how a refusal reads.

Holds the credentials, and is dropped with them once the connection is open or has ended. What must stay true: whatever
answers on the port, the error says what it was. Knows the methods, queues nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rabbitry._errors import AuthenticationFailed, ConnectFailed, RemoteProtocolError, shown
from rabbitry._secrets import Secret, unwatched
from rabbitry.protocol.client.states import ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import (
    ACCESS_REFUSED,
    COMMAND_INVALID,
    FRAME_ERROR,
    FRAME_MAX_SIZE,
    FRAME_MIN_SIZE,
    NOT_ALLOWED,
)
from rabbitry.protocol.wire.methods import encode_method_frame

__all__ = ["Handshake", "agreed", "refused_greeting"]

_BYTES_SHOWN = 60

MODERN_FRAME_MIN_SIZE = 8192
"""RabbitMQ 4.1 and newer hang up on less."""


class Handshake:
    """One connection's part in the handshake. `mechanisms` are (SASL name, initial response) in order of preference."""

    __slots__ = (
        "_client_properties",
        "_is_frame_small",
        "_is_start_ok_large",
        "_mechanisms",
        "_response",
        "_virtual_host",
    )

    def __init__(
        self,
        mechanisms: Sequence[tuple[str, bytes | Secret[bytes]]],
        virtual_host: str,
        client_properties: Mapping[str, Any],
    ) -> None:
        self._mechanisms = tuple(
            (name, response if isinstance(response, Secret) else Secret(response)) for name, response in mechanisms
        )
        self._virtual_host = virtual_host
        self._client_properties = client_properties
        self._is_start_ok_large = False
        self._is_frame_small = False
        self._response = Secret(b"")

    def answer(self, start: methods.ConnectionStart) -> bytes | ConnectFailed:
        """The frame that answers connection.start; or why there is none."""
        if (start.version_major, start.version_minor) != (0, 9):
            raise RemoteProtocolError(
                f"the server speaks AMQP {start.version_major}-{start.version_minor}, not 0-9-1", COMMAND_INVALID
            )
        offered = start.mechanisms.split()
        chosen = next((ours for ours in self._mechanisms if ours[0].encode() in offered), None)
        if chosen is None:
            theirs = shown(start.mechanisms.decode("ascii", "backslashreplace"))
            ours = " ".join(name for name, _ in self._mechanisms)
            return AuthenticationFailed(
                f"no common authentication mechanism: the server offers {theirs}, this client would use {ours}"
            )
        mechanism, response = chosen
        self._mechanisms = ()
        self._response = response
        frame = unwatched(lambda: self._start_ok(mechanism, response.reveal()))
        self._is_start_ok_large = len(frame) > FRAME_MIN_SIZE
        return frame

    def _start_ok(self, mechanism: str, response: bytes) -> bytes:
        return encode_method_frame(
            0,
            methods.ConnectionStartOk(
                client_properties=self._client_properties, mechanism=mechanism, response=response, locale="en_US"
            ),
        )

    def open_frame(self, frame_max: int) -> bytes:
        """The frame that asks for the virtual host, after `frame_max` has been agreed on."""
        self._is_frame_small = frame_max < MODERN_FRAME_MIN_SIZE
        return encode_method_frame(0, methods.ConnectionOpen(virtual_host=self._virtual_host))

    def refused(self, state: ConnectionState, close: methods.ConnectionClose) -> ConnectFailed:
        """The error for a connection.close amid the handshake."""
        code, text = close.reply_code, shown(self._without_secret(close.reply_text))
        if state is ConnectionState.TUNE and code == ACCESS_REFUSED:
            return AuthenticationFailed(f"the broker refused the credentials ({code}): {text}")
        passes = " is down" in text or " limit " in text  # RabbitMQ's words for what is no matter of rights
        if state is ConnectionState.OPEN_OK and code in (ACCESS_REFUSED, NOT_ALLOWED) and not passes:
            return AuthenticationFailed(f"the broker refused virtual host {self._virtual_host!r} ({code}): {text}")
        return ConnectFailed(f"the broker refused the connection ({code}): {text}")

    def _without_secret(self, text: str) -> str:
        """A server must not have us log the password that it was just given."""
        response = self._response.reveal()
        # of PLAIN, and of AMQPLAIN, whose table ends with it
        for secret in (response.rpartition(b"\0")[2], response.rpartition(b"PASSWORDS")[2][4:]):
            if secret:
                text = text.replace(secret.decode("utf-8", "replace"), "…")
        return text

    def cut_off(self, state: ConnectionState, received: bytes, detail: str, may_be_no_amqp: bool) -> ConnectFailed:
        """The error for a stream that ended amid the handshake; `received` is what of a frame had come."""
        if state is ConnectionState.START:
            began = f" after {_shown(received)}" if received else " before a byte came"
            question = "; is this an AMQP port?" if may_be_no_amqp else ""
            return ConnectFailed(f"the handshake was cut off{began}: {detail}{question}")
        if state is ConnectionState.OPEN_OK:
            small = " (RabbitMQ 4.1 and newer want a frame_max of at least 8192)" if self._is_frame_small else ""
            return ConnectFailed(
                f"the handshake was cut off at connection.open: {detail}; does virtual host "
                f"{self._virtual_host!r} exist, and may the user use it?{small}"
            )
        if self._is_start_ok_large:
            return ConnectFailed(
                f"the handshake was cut off after credentials and client properties of over {FRAME_MIN_SIZE} bytes: "
                f"{detail}; brokers need not accept more (RabbitMQ: initial_frame_max)"
            )
        # RabbitMQ refuses credentials by connection.close; others may just hang up.
        return ConnectFailed(f"the handshake was cut off after the credentials were sent: {detail}; were they refused?")


def agreed(asked: methods.ConnectionTuneOk, tune: methods.ConnectionTune) -> methods.ConnectionTuneOk:
    """What both sides can live with. Zero means "no limit" to either (specification 1.4.2.5), of heartbeats none."""
    frame_max = min(asked.frame_max or FRAME_MAX_SIZE, tune.frame_max or FRAME_MAX_SIZE)
    if frame_max < FRAME_MIN_SIZE:
        raise RemoteProtocolError(
            f"the server wants a frame_max of {frame_max}, below the minimum {FRAME_MIN_SIZE}", FRAME_ERROR
        )
    ours, theirs = asked.heartbeat, tune.heartbeat
    return methods.ConnectionTuneOk(
        channel_max=min(asked.channel_max or 65535, tune.channel_max or 65535),
        frame_max=frame_max,
        heartbeat=min(ours, theirs) if ours and theirs else (ours if not theirs else 0),
    )


def refused_greeting(data: bytes) -> ConnectFailed | None:
    """What a first byte that begins no method frame means; None while that can't be told yet."""
    if not data:
        return None
    if b"AMQP".startswith(data[:4]):
        if len(data) < 8:
            return None
        version = ".".join(str(byte) for byte in data[5:8])
        return ConnectFailed(f"the server refused protocol version 0-9-1, it speaks AMQP {version}")
    guess = ""
    if data[:5] == b"HTTP/":
        guess = " (an HTTP server: the management port is not the AMQP port)"
    elif data[:1] in (b"\x15", b"\x16") and data[1:2] == b"\x03":
        guess = " (a TLS server: use amqps://)"
    return ConnectFailed(f"not an AMQP server: it began with {_shown(data)}{guess}")


def _shown(data: bytes) -> str:
    """The beginning of `data`, for a message."""
    more = "…" if len(data) > _BYTES_SHOWN else ""
    return f"{data[:_BYTES_SHOWN]!r}{more}"
