"""A transport over any AnyIO byte stream: memory streams in tests, tunnels and TLS by `dial=`, systems without epoll.

It owns the stream and, while `run` runs, the three tasks that read, write and keep time. What must stay true: whole
chunks leave in the order they were queued, none of them is cut by anything but the end of the connection; what AnyIO
and the stream raise is translated here and nowhere else. Nothing can be sent synchronously on a stream, so `send_now`
means "next turn", and `flush` hands over to the writer, as it would to a kernel.
"""

from __future__ import annotations

import errno
import logging
from math import inf
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from anyio import TASK_STATUS_IGNORED

from rabbitry._concurrency.clock import loop_time, monotonic
from rabbitry._secrets import forget_frames
from rabbitry._transport.addresses import os_error, peer_name
from rabbitry._transport.contracts import GONE, Endpoint

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskStatus

RECEIVE_SIZE = 65536
LINGER_SECONDS = 0.2  # what was handed over by `flush` may take this long to leave after `abort`
DRAIN_SECONDS = 1.0  # after a failed send: for reading what the peer had sent before, perhaps the reason

logger = logging.getLogger("rabbitry")


class StreamTransport:
    """Implements `Transport`. Let its endpoint know it before `run` starts: from then on the endpoint may be called."""

    __slots__ = (
        "_deadline",
        "_endpoint",
        "_failure",
        "_outgoing",
        "_peer",
        "_resumed",
        "_scope",
        "_sleep",
        "_stream",
        "_unstalled",
        "_wake",
        "is_reading_paused",
        "scheduled",
    )

    def __init__(self, stream: ByteStream, endpoint: Endpoint) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self._peer = _peer_name(stream)
        self._outgoing = b""  # being written, or about to be
        self._deadline = inf
        self._failure: Exception | None = None
        self._scope: anyio.CancelScope | None = None
        self._sleep: anyio.CancelScope | None = None
        self._wake: anyio.Event | None = None
        self._unstalled: anyio.Event | None = None
        self._resumed: anyio.Event | None = None
        self.scheduled = False
        self.is_reading_paused = False

    fd = -1  # only tasks can wait for a stream

    def read_now(self) -> None:
        pass

    def describe(self) -> str:
        return self._peer

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until the connection ends; then the stream is closed. Never raises for the connection's fault.

        Shielded: cancelling the surrounding scope does not end it, `abort` does.
        """
        try:
            with anyio.CancelScope(shield=True) as self._scope:
                task_status.started()
                if self._endpoint is GONE:
                    return
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._read)
                    tg.start_soon(self._write)
                    tg.start_soon(self._keep_time)
        finally:
            self.lose(os_error(errno.ECONNABORTED, self._peer))
            try:
                await anyio.aclose_forcefully(self._stream)
            except Exception:
                logger.debug("closing the stream to %s failed", self._peer, exc_info=True)

    # --- sending -----------------------------------------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        return bool(self._outgoing) or self._failure is not None

    def send_now(self) -> None:
        self.send_later()

    def send_later(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            self._wake_writer()

    def flush(self) -> None:
        if not self.is_stalled:
            try:
                self._outgoing = self._endpoint.data_to_send()
            except Exception as error:
                self._fail(error)
            else:
                self.send_later()

    async def wait_unstalled(self) -> None:
        if self.is_stalled:
            if self._unstalled is None:
                self._unstalled = anyio.Event()
            await self._unstalled.wait()

    async def _write(self) -> None:
        while self._failure is None:
            self.flush()
            if not self._outgoing:
                self.scheduled = self._endpoint is GONE
                self._wake = anyio.Event()
                await self._wake.wait()
                continue
            self.scheduled = True
            try:
                await self._stream.send(self._outgoing)
            except Exception as error:
                self._fail(_translate(forget_frames(error), self._peer))  # AnyIO's hold what was sent: credentials, too
            else:
                self._outgoing = b""
                self.wake_waiting()
                if self._endpoint is GONE:
                    self._end()

    def _fail(self, error: Exception | None) -> None:
        """Sending is over. What the peer sent before is read for a moment more, then the endpoint is told."""
        self._failure = error or ConnectionResetError(errno.ECONNRESET, f"{self._peer}: the stream has ended")
        self._outgoing = b""
        self.scheduled = True
        if self._scope is not None:
            self._scope.deadline = loop_time() + DRAIN_SECONDS

    def _wake_writer(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def wake_waiting(self) -> None:
        if self._unstalled is not None:
            self._unstalled.set()
            self._unstalled = None

    # --- receiving ---------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        if not self.is_reading_paused:
            self.is_reading_paused = True
            self._resumed = anyio.Event()

    def resume_reading(self) -> None:
        self.is_reading_paused = False
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def _read(self) -> None:
        while self._endpoint is not GONE:
            try:
                data = await self._stream.receive(RECEIVE_SIZE)
                while self._resumed is not None:
                    await self._resumed.wait()
                if data:
                    self._endpoint.receive_data(data, monotonic())
            except Exception as error:
                self.lose(_translate(error, self._peer))

    # --- time --------------------------------------------------------------------------------------------------------

    def start_timer(self, when: float) -> None:
        if when < self._deadline:
            self._deadline = when
            if self._sleep is not None:
                self._sleep.deadline = _loop_time(when)

    async def _keep_time(self) -> None:
        while True:
            with anyio.CancelScope(deadline=_loop_time(self._deadline)) as self._sleep:
                await anyio.sleep_forever()
            self._sleep = None
            now = monotonic()
            if now >= self._deadline:
                self._deadline = inf
                try:
                    following = self._endpoint.handle_timer(now)
                except Exception as error:
                    self.lose(error)
                else:
                    if following is not None:
                        self.start_timer(following)

    # --- the end -----------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        if self._endpoint is GONE:
            return
        self._endpoint = GONE
        self._failure = None
        self._deadline = inf
        self.scheduled = True
        self.wake_waiting()
        if self._outgoing and self._scope is not None:
            self._scope.deadline = loop_time() + LINGER_SECONDS
        else:
            self._end()

    def _end(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def lose(self, error: Exception | None) -> None:
        """End the connection and tell the endpoint, unless it has ended before. For this layer only."""
        endpoint, failure = self._endpoint, self._failure
        if endpoint is GONE:
            return
        self._outgoing = b""
        self.abort()
        try:
            endpoint.connection_lost(failure if failure is not None else error)
        except Exception:
            logger.exception("connection_lost failed for %s", self._peer)


def _translate(error: Exception, peer: str) -> Exception | None:
    """What `connection_lost` should be told about something a stream (or an endpoint) raised."""
    if isinstance(error, anyio.EndOfStream):
        return None
    if isinstance(error, anyio.BrokenResourceError):
        code = errno.ECONNRESET
    elif isinstance(error, anyio.ClosedResourceError):
        code = errno.ECONNABORTED
    else:
        return error
    if isinstance(error.__cause__, OSError):
        return error.__cause__
    translated = os_error(code, peer)
    translated.__cause__ = error
    return translated


def _peer_name(stream: ByteStream) -> str:
    try:
        address = stream.extra(anyio.abc.SocketAttribute.remote_address, None)
    except OSError:  # not connected any more
        address = None
    return type(stream).__name__ if address is None else peer_name(address)


def _loop_time(when: float) -> float:
    """A moment of `monotonic` on the clock of the event loop."""
    return loop_time() + (when - monotonic())
