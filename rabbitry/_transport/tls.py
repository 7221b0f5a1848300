"""TLS as a layer between a transport and its endpoint: cipher text below, plain text above, nothing awaited.

It takes the endpoint's place at the transport and calls the endpoint in turn, so neither knows of it, and every
transport bears it. What must stay true: plain text that arrived ahead of an error reaches the endpoint before the
error does. Verifying the peer is the context's affair. A peer that renegotiates (up to TLS 1.2 it might) loses the
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from rabbitry._later import Later
from rabbitry._transport.contracts import Endpoint, Transport

if TYPE_CHECKING:
    import ssl
else:
    ssl = Later("ssl")

__all__ = ["NotTLS", "TlsLayer", "reason_of"]

RECORD = 16384  # the largest record's plain text (RFC 8446, 5.1)
FIRST_BYTES = frozenset(b"\x14\x15\x16\x17")  # the types of records that there are


class NotTLS(OSError):
    """The peer's first bytes are no TLS; `received` has them."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"the peer did not answer in TLS, but with {received[:16]!r}")
        self.received = received


class TlsLayer:
    """One connection's TLS, as a client. Connect the transport with this as its endpoint, then `shake_hands`."""

    __slots__ = ("_endpoint", "_failure", "_has_received", "_incoming", "_is_open", "_outgoing", "_shaken", "_tls")

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._endpoint = endpoint
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._is_open = False
        self._has_received = False
        self._shaken: anyio.Event | None = anyio.Event()
        self._failure: Exception | None = None

    async def shake_hands(self, transport: Transport) -> None:
        """Agree with the peer. Raises `ssl.SSLError`, `NotTLS` or another OSError, and then has ended the transport,
        as it has when cancelled.
        """
        assert self._shaken is not None
        try:
            self._advance()
            transport.send_now()
            while not self._is_open and self._failure is None:
                await self._shaken.wait()
                self._shaken = anyio.Event()
                transport.flush()  # the next flight of the handshake, or an alert that says what we refuse
            if self._failure is not None:
                raise self._failure
        except BaseException:
            transport.abort()
            raise
        finally:
            self._shaken = None

    def _advance(self) -> None:
        """Take the handshake as far as what has arrived allows."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._failure = error
        else:
            self._is_open = True
        if self._shaken is not None:
            self._shaken.set()

    # --- called by the transport -------------------------------------------------------------------------------------

    @property
    def awaiting(self) -> int:
        return self._endpoint.awaiting if self._is_open else 1

    def receive_data(self, data: bytes, now: float) -> None:
        if not self._is_open:
            if self._failure is not None:
                return  # who shakes hands is about to learn of it; OpenSSL would forget why
            if not self._has_received and data[0] not in FIRST_BYTES:
                self._failure = NotTLS(data)
                raise self._failure
            self._has_received = True
            self._incoming.write(data)
            self._advance()
            if not self._is_open:
                return
        else:
            self._incoming.write(data)
        parts: list[bytes] = []
        try:
            while part := self._tls.read(RECORD):  # nothing: the peer's close_notify, behind which it hangs up
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        finally:
            if parts:
                self._endpoint.receive_data(b"".join(parts), now)

    def data_to_send(self) -> bytes:
        if self._is_open:
            plain = memoryview(self._endpoint.data_to_send())
            while plain:  # a record each
                plain = plain[self._tls.write(plain) :]
        return self._outgoing.read()

    def handle_timer(self, now: float) -> float | None:
        return self._endpoint.handle_timer(now)

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_open:
            if isinstance(error, ssl.SSLError):
                broken = OSError(f"TLS failed: {reason_of(error)}")
                broken.__cause__ = error
                error = broken
            self._endpoint.connection_lost(error)
            return
        if self._failure is None:
            self._failure = error or ConnectionResetError("the peer closed the connection during the TLS handshake")
        if self._shaken is not None:
            self._shaken.set()


def reason_of(error: Exception) -> str:
    """An error's text without OpenSSL's file names and line numbers."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(getattr(error, "strerror", None) or error)
