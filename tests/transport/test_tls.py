"""The TLS layer alone, against OpenSSL's own server side in memory: bytes arrive as the test cuts them."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
import trustme

from rabbitry._transport.tls import TlsLayer


class Plain:
    """The endpoint above."""

    def __init__(self) -> None:
        self.received = b""
        self.queued: list[bytes] = []
        self.lost: list[Exception | None] = []
        self.awaiting = 7

    def receive_data(self, data: bytes, now: float) -> None:
        self.received += data

    def data_to_send(self) -> bytes:
        data, self.queued = b"".join(self.queued), []
        return data

    def handle_timer(self, now: float) -> float | None:
        return now + 1

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


class Wire:
    """The transport below, and the peer at its other end. `cut` is how many bytes arrive at a time."""

    def __init__(self, cut: int, maximum: ssl.TLSVersion, name: str = "peer.example") -> None:
        ca = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = maximum
        ca.issue_cert("peer.example").configure_cert(context)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.peer = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.is_shaken = False
        ours = ssl.create_default_context()
        ca.configure_trust(ours)
        self.plain = Plain()
        self.layer = TlsLayer(self.plain, ours, name)
        self.cut = cut
        self.was_aborted = False

    def send_now(self) -> None:
        self.flush()

    def flush(self) -> None:
        self.incoming.write(self.layer.data_to_send())

    def abort(self) -> None:
        self.was_aborted = True

    def turn(self) -> None:
        """What the peer says, in pieces; the end of the connection where the layer raises."""
        if not self.is_shaken:
            try:
                self.peer.do_handshake()
                self.is_shaken = True
            except ssl.SSLWantReadError:
                pass
        said = self.outgoing.read()
        for start in range(0, len(said), self.cut):
            try:
                self.layer.receive_data(said[start : start + self.cut], 0.0)
            except Exception as error:
                return self.layer.connection_lost(error)
        self.flush()

    async def shake_hands(self) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.layer.shake_hands, self)
            while not (self.is_shaken and self.layer._is_open):
                await anyio.lowlevel.checkpoint()
                self.turn()


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", [1, 2, 7, 1460, 10**6])
async def test_wherever_the_bytes_are_cut(cut: int, version: ssl.TLSVersion) -> None:
    wire = Wire(cut, version)
    assert wire.layer.awaiting == 1
    await wire.shake_hands()
    assert wire.layer.awaiting == 7 and wire.layer.handle_timer(1.0) == 2.0
    for size in (1, 16_384, 16_385, 100_000):
        body = bytes(range(256)) * (size // 256 + 1)
        wire.plain.received = b""
        wire.peer.write(body)
        wire.turn()
        assert wire.plain.received == body
        wire.plain.queued = [body[:1], body[1:]]
        wire.flush()
        heard = b""
        while len(heard) < len(body):
            heard += wire.peer.read(100_000)
        assert heard == body


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_came_before_an_error_is_passed_on_first(version: ssl.TLSVersion) -> None:
    wire = Wire(10**6, version)
    await wire.shake_hands()
    wire.peer.write(b"last words")
    wire.outgoing.write(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that does not decrypt
    wire.turn()
    assert wire.plain.received == b"last words"
    (error,) = wire.plain.lost
    assert error is not None and isinstance(error.__cause__, ssl.SSLError)
    # the latter from OpenSSL 3.6 on
    assert str(error) in ("TLS failed: decryption failed or bad record mac", "TLS failed: record layer failure")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", [1, 1460])
async def test_what_follows_a_refused_certificate_does_not_hide_why(cut: int, version: ssl.TLSVersion) -> None:
    """The peer's flight may go on before who shakes hands has its turn."""
    wire = Wire(cut, version, name="other.example")
    refused: list[ssl.SSLError] = []

    async def shake_hands() -> None:
        try:
            await wire.layer.shake_hands(wire)
        except ssl.SSLError as error:
            refused.append(error)

    async with anyio.create_task_group() as tg:
        tg.start_soon(shake_hands)
        while not wire.incoming.pending:
            await anyio.lowlevel.checkpoint()
        wire.turn()
        wire.layer.receive_data(b"\x17\x03\x03\x00\x20" + bytes(32), 0.0)
    assert "Hostname mismatch" in str(refused) and wire.was_aborted


async def test_the_peers_goodbye_is_no_error_and_the_sockets_end_is_the_end() -> None:
    wire = Wire(10**6, ssl.TLSVersion.TLSv1_3)
    await wire.shake_hands()
    wire.peer.write(b"bye")
    with pytest.raises(ssl.SSLWantReadError):
        wire.peer.unwrap()
    wire.turn()
    assert wire.plain.received == b"bye" and not wire.plain.lost
    wire.layer.connection_lost(None)
    assert wire.plain.lost == [None]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda wire: wire.layer.connection_lost(None), "during the TLS handshake"),
        (lambda wire: wire.layer.connection_lost(ConnectionResetError("reset by peer")), "reset by peer"),
    ],
)
async def test_an_end_amid_the_handshake(end: Callable[[Wire], None], told: str) -> None:
    wire = Wire(10**6, ssl.TLSVersion.TLSv1_3)
    errors: list[BaseException] = []

    async def shake_hands() -> None:
        try:
            await wire.layer.shake_hands(wire)
        except ConnectionResetError as error:
            errors.append(error)

    async with anyio.create_task_group() as tg:
        tg.start_soon(shake_hands)
        await anyio.sleep(0.01)
        end(wire)
    assert told in str(errors)
    assert wire.was_aborted and not wire.plain.lost


async def test_cancelled_amid_the_handshake() -> None:
    wire = Wire(10**6, ssl.TLSVersion.TLSv1_3)
    with anyio.move_on_after(0.05) as scope:
        await wire.layer.shake_hands(wire)
    assert scope.cancelled_caught and wire.was_aborted and not wire.plain.lost
