"""Two ends of a byte stream in memory: what one sends the other receives, in order, and no more than a kernel would
keep for a reader who is late.
"""

from __future__ import annotations

from collections import deque

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

__all__ = ["MemoryStream", "memory_streams"]

KEPT = 262144
"""Octets that may wait for the reader before the writer does."""


class _Pipe:
    """One direction."""

    __slots__ = ("_changed", "chunks", "has_reader", "has_writer", "size")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.size: int = 0
        self.has_reader: bool = True
        self.has_writer: bool = True
        self._changed: anyio.Event | None = None

    def change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class MemoryStream(ByteStream):
    """One end. Closing it is an end of the stream for the other, and breaks what it still sends."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def receive(self, max_bytes: int = 65536) -> bytes:
        pipe = self._incoming
        await checkpoint()
        while not pipe.chunks:
            if not pipe.has_reader:
                raise anyio.ClosedResourceError
            if not pipe.has_writer:
                raise anyio.EndOfStream
            await pipe.wait()
        chunk = pipe.chunks.popleft()
        if len(chunk) > max_bytes:
            pipe.chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        pipe.size -= len(chunk)
        pipe.change()
        return chunk

    async def send(self, item: bytes) -> None:
        pipe = self._outgoing
        await checkpoint()
        while pipe.size > KEPT and pipe.has_reader and pipe.has_writer:
            await pipe.wait()
        if not pipe.has_writer:
            raise anyio.ClosedResourceError
        if not pipe.has_reader:
            raise anyio.BrokenResourceError
        if item:
            pipe.chunks.append(item)
            pipe.size += len(item)
            pipe.change()

    async def send_eof(self) -> None:
        self._outgoing.has_writer = False
        self._outgoing.change()

    async def aclose(self) -> None:
        await self.send_eof()
        self._incoming.has_reader = False
        self._incoming.change()
        await checkpoint()


def memory_streams() -> tuple[MemoryStream, MemoryStream]:
    """Both ends."""
    there, back = _Pipe(), _Pipe()
    return MemoryStream(back, there), MemoryStream(there, back)
