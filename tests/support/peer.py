"""A scripted broker on a socket, for what a real one does not do: it shakes hands, then answers as a test wants.

Runs in threads, so that it goes on whatever happens to the client's event loop. What is not scripted gets the plain
answer to the request; methods without one here are ignored.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method, decode_method
from tests.support.protocol_broker import method_frame, reply_to

Answer = Callable[[Method, int], bytes | None]
"""What to send for a method on a channel; None for the plain answer."""


class Peer:
    """`received` are the names of the methods that came. While `reading` is not set it leaves everything unread."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self.url = f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}/"
        self.received: list[str] = []
        self.reading = Event()
        self.reading.set()
        self._listener = listener
        self._answer = answer
        self._connections: list[socket.socket] = []
        self._threads: list[Thread] = []

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the test is over
                return
            self._connections.append(connection)
            thread = Thread(target=self._serve, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def send(self, data: bytes) -> None:
        """Say something unasked on the latest connection."""
        self._connections[-1].sendall(data)

    def close(self) -> None:
        self.reading.set()
        for connection in self._connections:
            with suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            stream.read(8)
            connection.sendall(method_frame(0, methods.ConnectionStart(mechanisms=b"PLAIN", locales=b"en_US")))
            while head := stream.read(7):
                number, size = int.from_bytes(head[1:3], "big"), int.from_bytes(head[3:], "big")
                payload = stream.read(size + 1)[:-1]
                if head[0] == 1 and len(payload) == size:
                    self._receive(connection, number, decode_method(payload))
                self.reading.wait()

    def _receive(self, connection: socket.socket, number: int, method: Method) -> None:
        self.received.append(method.name)
        answer = self._answer(method, number)
        if answer is None:
            answer = _plain_answer(method, number)
        connection.sendall(answer)


def _plain_answer(method: Method, number: int) -> bytes:
    if isinstance(method, methods.ConnectionStartOk):
        return method_frame(0, methods.ConnectionTune(channel_max=0, frame_max=131072, heartbeat=0))
    if not method.replies:
        return b""
    return method_frame(number, reply_to(method))


@contextmanager
def scripted(answer: Answer) -> Iterator[Peer]:
    """A peer that answers so, until the block is left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(listener, answer)
        accepting = Thread(target=peer.accept)
        accepting.start()
        try:
            yield peer
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which closing would not
            accepting.join()
            peer.close()
