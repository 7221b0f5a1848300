"""Reading stdin and writing stdout without ever blocking the event loop: heartbeats go on behind a slow pipe.

What must stay true: bytes pass as they are; `written` counts those the kernel has taken, so that a message whose
writing was cancelled halfway is known not to have been written; `taken` is less by what is known to lie in a pipe
unread. No threads: one that blocks could not be ended.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import stat
import struct
import sys
import termios
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress

import anyio

from rabbitry._cli.output import CommandError, printable

READ_SIZE = 65536
PIECE = select.PIPE_BUF
"""A pipe that polls as writable takes so many bytes without blocking (POSIX, `write`)."""
PAUSE = 0.005
"""Seconds between looks at a pipe that does not tell by itself that it is empty."""
LARGEST = 128 * 1024 * 1024
"""Bytes of one message: what RabbitMQ accepts unless configured otherwise."""


class Writer:
    """stdout, written to as fast as its reader reads."""

    def __init__(self) -> None:
        self.written = 0
        if sys.stdout is None:
            raise CommandError("stdout is closed: there is nowhere to write to")
        sys.stdout.flush()
        self._descriptor = _descriptor(sys.stdout)
        self.is_terminal = sys.stdout.isatty()
        self.is_pipe = self._descriptor is not None and _tells_unread(self._descriptor)
        """Whether it is a pipe that tells how much of it is unread: on Linux they do."""

    @property
    def taken(self) -> int:
        """The bytes written that are not known to be unread."""
        return self.written - self._unread() if self.is_pipe else self.written

    def _unread(self) -> int:
        assert self._descriptor is not None
        return _unread(self._descriptor)

    def check_reader(self) -> None:
        """BrokenPipeError if it is a pipe that nobody reads any more."""
        if self._descriptor is not None and _polled(self._descriptor, select.POLLOUT) & select.POLLERR:
            raise BrokenPipeError

    @contextmanager
    def narrowed(self) -> Iterator[None]:
        """In the block a pipe holds one page, if it can be had: it then polls as writable when all of it was read."""
        before = None
        if self.is_pipe:
            assert self._descriptor is not None
            with suppress(OSError):  # there is more in it already
                before = fcntl.fcntl(self._descriptor, fcntl.F_GETPIPE_SZ)
                fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, 1)  # rounded up to a page
        try:
            yield
        finally:
            if before is not None:
                assert self._descriptor is not None
                with suppress(OSError):
                    fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, before)

    async def wait_taken(self) -> None:
        """Wait until all that was written to a pipe is read. BrokenPipeError if its reader leaves some of it."""
        if not self.is_pipe:
            return
        assert self._descriptor is not None
        while self._unread():
            self.check_reader()
            if _is_ready(self._descriptor, select.POLLOUT):  # a pipe of more than a page
                await anyio.sleep(PAUSE)
            else:
                await anyio.wait_writable(self._descriptor)

    async def write(self, data: bytes) -> None:
        """Write all of it. BrokenPipeError if the reader has gone; cancelled, `written` tells how far it came."""
        if self._descriptor is None:  # stdout was replaced by something in memory
            stream = sys.stdout.buffer
            stream.write(data)
            stream.flush()
            self.written += len(data)
            return
        view = memoryview(data)
        while view:
            if not _is_ready(self._descriptor, select.POLLOUT):
                await anyio.wait_writable(self._descriptor)
            try:
                count = os.write(self._descriptor, view[:PIECE])
            except BlockingIOError:  # somebody made it non-blocking
                await anyio.wait_writable(self._descriptor)
                continue
            self.written += count
            view = view[count:]

    def shown(self, body: bytes) -> bytes:
        """The body as it is; on a terminal without control characters, other than line breaks and tabs."""
        return printable(body.decode(errors="replace"), but="\n\t").encode() if self.is_terminal else body


class Reader:
    """stdin, read as it comes."""

    def __init__(self) -> None:
        if sys.stdin is None:
            raise CommandError("stdin is closed: there is nothing to read from")
        self._descriptor = _descriptor(sys.stdin)
        self.is_pipe = self._descriptor is not None and stat.S_ISFIFO(os.fstat(self._descriptor).st_mode)
        """Whether what is read is nowhere else any more."""
        self._is_at_end = False
        self._scope = anyio.CancelScope()
        self.is_stopped = False
        self.waiting: deque[bytes] = deque()

    def stop(self) -> None:
        """Read no more; what was read whole is still handed on."""
        self.is_stopped = True
        self._scope.cancel()

    async def read(self) -> bytes:
        """Some bytes; none at the end. Cancelling it loses nothing that was not read."""
        if self._descriptor is None:
            if self._is_at_end:
                return b""
            self._is_at_end = True
            return sys.stdin.buffer.read()
        if not self.is_stopped:
            with anyio.CancelScope() as self._scope:
                return await self._read(self._descriptor)
        return b""

    async def _read(self, descriptor: int) -> bytes:
        while True:
            if not _is_ready(descriptor, select.POLLIN):
                await anyio.wait_readable(descriptor)
            try:
                return os.read(descriptor, READ_SIZE)
            except BlockingIOError:
                await anyio.wait_readable(descriptor)

    async def read_all(self) -> bytes:
        """Everything up to the end, as one body."""
        data = bytearray()
        while piece := await self.read():
            data += piece
            if len(data) > LARGEST:
                raise CommandError(f"the body is larger than {LARGEST:,} bytes")
        return bytes(data)

    async def lines(self, end: bytes = b"\n") -> AsyncGenerator[bytes, None]:
        """Each line without its end; the last one may lack it, unless reading was stopped there. In `waiting` are those
        that were read and are yet to come.
        """
        rest = bytearray()
        while piece := await self.read():
            first, *others = piece.split(end)
            rest += first
            for other in others:
                self.waiting.append(bytes(rest))
                rest = bytearray(other)
            while self.waiting:
                yield self.waiting.popleft()
            if len(rest) > LARGEST:
                raise CommandError(f"a line is longer than {LARGEST:,} bytes")
        if rest and not self.is_stopped:
            yield bytes(rest)


def _descriptor(stream: object) -> int | None:
    """The stream's file descriptor; None if it has none."""
    try:
        return stream.fileno()  # type: ignore[attr-defined, no-any-return]  # of whatever stands for a stream
    except (io.UnsupportedOperation, AttributeError, ValueError, OSError):
        return None


def _is_ready(descriptor: int, event: int) -> bool:
    """Whether reading or writing would not block; always so for files, which an event loop can't wait for."""
    return bool(_polled(descriptor, event))


def _polled(descriptor: int, event: int) -> int:
    poll = select.poll()
    poll.register(descriptor, event)
    return sum(found for _, found in poll.poll(0))


def _tells_unread(descriptor: int) -> bool:
    """Whether it is a pipe whose writing end tells what is unread, as Linux has them; elsewhere it may tell 0."""
    try:
        if not sys.platform.startswith("linux") or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False
        _unread(descriptor)
    except OSError:
        return False
    return True


def _unread(descriptor: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(count)
