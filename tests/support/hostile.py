"""Servers that mean ill, for the tests of what they can do to a client, and a look at what they leave behind: nothing.

`recording` takes down the broker's half of a real conversation frame by frame, `Replay` says such a script to whoever
connects. `serving` does anything else to a connection. All run in threads, so that they go on whatever becomes of the
client's event loop. What must stay true: no server waits longer than a bound, and what fails in one fails the test.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest

import rabbitry
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import decode_method
from tests.support.protocol_broker import method_frame

SILENCE = 0.15
"""Seconds without a word after which a server takes it that the client waits for what will never come."""
PATIENCE = 10.0
"""Seconds after which a server's read or write fails otherwise."""

Script = Sequence[tuple[int, bytes]]
"""What to send, each piece with how many requests of the client must have come before."""

# --- the client's octets -------------------------------------------------------------------------------------------


class Requests:
    """Counts what a client asks: the protocol header, and each method that is answered."""

    def __init__(self) -> None:
        self.count = 0
        self._data = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> None:
        """Take in what the client sent, cut anywhere."""
        self._data += data
        if not self._greeted and len(self._data) >= 8:
            assert self._data[:4] == b"AMQP"
            del self._data[:8]
            self._greeted = True
            self.count += 1
        while len(self._data) >= 8 and len(self._data) >= (size := 8 + int.from_bytes(self._data[3:7], "big")):
            if self._data[0] == 1:
                method = decode_method(bytes(self._data[7 : size - 1]))
                self.count += bool(method.replies) or isinstance(method, ANSWERED)
            del self._data[:size]


ANSWERED = (methods.ConnectionStartOk, methods.BasicPublish)
"""Answered, though not by a reply of their own."""

# --- recording and replaying ---------------------------------------------------------------------------------------


class Recorder:
    """Passes one connection on to a broker; `frames` is what the broker said."""

    def __init__(self, broker_url: str, listener: socket.socket) -> None:
        parts = urlsplit(broker_url)
        self.url = parts._replace(netloc=f"guest:guest@127.0.0.1:{listener.getsockname()[1]}").geturl()
        self._broker = (parts.hostname or "localhost", parts.port or 5672)
        self._listener = listener
        self._requests = Requests()
        self.frames: list[tuple[int, bytes]] = []

    def run(self) -> None:
        with suppress(OSError):  # the test is over
            client, _ = self._listener.accept()
            with client, socket.create_connection(self._broker, timeout=PATIENCE) as broker:
                client.settimeout(PATIENCE)
                thread = Thread(target=self._pass_answers, args=(broker, client))
                thread.start()
                while data := client.recv(65536):
                    self._requests.feed(data)  # ahead of the answers
                    broker.sendall(data)
                broker.shutdown(socket.SHUT_WR)
                thread.join()

    def _pass_answers(self, broker: socket.socket, client: socket.socket) -> None:
        with suppress(OSError), broker.makefile("rb") as stream:
            while head := stream.read(7):
                frame = head + stream.read(int.from_bytes(head[3:], "big") + 1)
                self.frames.append((self._requests.count, frame))
                client.sendall(frame)


@contextmanager
def recording(broker_url: str) -> Iterator[Recorder]:
    """A way to the broker, for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        recorder = Recorder(broker_url, listener)
        thread = Thread(target=recorder.run)
        thread.start()
        try:
            yield recorder
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class Replay:
    """Says `script`, whatever it hears, then hangs up: at once, or when the client has been silent for so long."""

    def __init__(self, script: Script, *, hang_up: bool = False, silence: float = PATIENCE) -> None:
        self._script = script
        self._hang_up = hang_up
        self._silence = silence

    def serve(self, connection: socket.socket) -> None:
        self.converse(connection)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # closing now might reset, and take back what was said
            pass

    def converse(self, connection: socket.socket) -> None:
        """All but hanging up."""
        requests = Requests()
        for after, piece in self._script:
            while requests.count < after:
                if not (data := self._receive(connection)):
                    return
                requests.feed(data)
            connection.sendall(piece)
        while not self._hang_up and self._receive(connection):
            pass

    def _receive(self, connection: socket.socket) -> bytes:
        """What the client says; nothing when it has left, or has been silent for too long."""
        spoke = select.select([connection], [], [], self._silence)[0]
        return connection.recv(65536) if spoke else b""


class Flood:
    """Says `script`, then one of `chunks` after another for as long as the client takes them, which it counts."""

    def __init__(self, script: Script, chunks: Iterable[bytes], *, reads: bool = True) -> None:
        self._script = script
        self._chunks = chunks
        self._reads = reads
        self.sent = 0
        self.began = Event()

    def serve(self, connection: socket.socket) -> None:
        requests = Requests()
        for after, piece in self._script:
            while requests.count < after:
                if not (data := connection.recv(65536)):
                    return
                requests.feed(data)
            connection.sendall(piece)
        self.began.set()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        for chunk in self._chunks:
            connection.sendall(chunk)
            self.sent += len(chunk)
            if self._reads and select.select([connection], [], [], 0)[0] and not connection.recv(65536):
                return


def answers(*replies: bytes) -> list[tuple[int, bytes]]:
    """The handshake, then one piece for each request."""
    start = methods.ConnectionStart(mechanisms=b"PLAIN", locales=b"en_US")
    tune = methods.ConnectionTune(channel_max=2047, frame_max=131072, heartbeat=60)
    handshake = method_frame(0, start), method_frame(0, tune), method_frame(0, methods.ConnectionOpenOk())
    return list(enumerate([*handshake, *replies], 1))


# --- servers -------------------------------------------------------------------------------------------------------


class Server:
    """`serve` is called with each connection, in a thread of its own. `stop` is set when the test is over."""

    def __init__(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self.port: int = listener.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.accepted = 0
        self._listener = listener
        self._serve = serve
        self._failures: list[Exception] = []
        self._connections: list[socket.socket] = []
        self._threads: list[Thread] = []

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the test is over
                return
            self.accepted += 1
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            thread = Thread(target=self._run, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._serve(connection)
        except OSError:  # the client has left, or said nothing for too long
            pass
        except Exception as error:
            self._failures.append(error)

    def close(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for failure in self._failures:
            raise failure


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    """A server on this machine, until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, serve)
        accepting = Thread(target=server.accept)
        accepting.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which closing would not
            accepting.join()
            server.close()


# --- what must be left ---------------------------------------------------------------------------------------------


@contextmanager
def leaving_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No task and no descriptor more than before, and nothing logged that says it was the client's own fault."""
    caplog.set_level(logging.DEBUG)
    tasks, descriptors = _tasks(), _descriptors()
    yield
    assert _tasks() <= tasks
    if _descriptors() > descriptors:
        gc.collect()
    assert _descriptors() <= descriptors
    for record in caplog.records:
        assert record.levelno < logging.ERROR and "internal" not in record.getMessage(), record.getMessage()


def _tasks() -> int:
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_task():
            return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def check_error(error: BaseException) -> None:
    """A clear error of the library's, whose chain has an end."""
    assert isinstance(error, rabbitry.RabbitryError), repr(error)
    assert not isinstance(error, BaseExceptionGroup)
    assert 10 < len(str(error)) < 600, str(error)[:1000]
    assert "internal error" not in str(error)
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None:
        assert following not in seen
        assert isinstance(following, Exception) and not isinstance(following, ExceptionGroup), repr(following)
        seen.append(following)
        following = following.__cause__
