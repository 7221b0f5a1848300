"""A connected socket under a poller: reads what the poller says is there, sends what the endpoint has queued.

It owns its descriptor, the remainder of a partial send and one deadline. Always true: a stalled or ended transport is
`scheduled`, so the hot path never calls it in vain; the descriptor leaves the poller before it is closed; an endpoint
hears of the end only from the poller's own turn, never inside `send_now` or `flush`. It does not know how connections
are made.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import anyio

from rabbitry._concurrency.clock import monotonic
from rabbitry._secrets import forget_frames
from rabbitry._transport.contracts import GONE, Endpoint, Keeper

if TYPE_CHECKING:
    import socket

# epoll_ctl(2); the select module has them on Linux only, and this module must load everywhere
EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLONESHOT = 0x1, 0x4, 0x8, 0x10, 1 << 30
READABLE = EPOLLIN | EPOLLHUP | EPOLLERR  # the last two can't be masked, and reading is what tells their cause
WRITABLE = EPOLLOUT | EPOLLHUP | EPOLLERR
DRAIN_READS = 32  # of the poller's buffer: more than the kernel's largest receive queue (6 MiB) holds

logger = logging.getLogger("rabbitry")


class SocketTransport:
    """One connection of a `Poller`; made by its `connect_tcp` and `connect_unix`. Implements `Transport`."""

    __slots__ = (
        "_failure",
        "_has_sent",
        "_peer",
        "_poller",
        "_rest",
        "_socket",
        "_unstalled",
        "deadline",
        "endpoint",
        "fd",
        "interest",
        "is_reading_paused",
        "is_stalled",
        "scheduled",
    )

    def __init__(self, poller: Keeper[SocketTransport], sock: socket.socket, endpoint: Endpoint, peer: str) -> None:
        self._poller = poller
        self._socket = sock
        self._peer = peer
        self.endpoint: Endpoint = endpoint
        self.fd: int = sock.fileno()  # -1 once it has ended
        self.interest: int = 0  # the events the poller's epoll watches for us, 0 when it does not know the descriptor
        self.deadline: float = inf
        self.scheduled: bool = False
        self._has_sent = False  # at once, and nothing was received since
        self.is_stalled: bool = False
        self.is_reading_paused: bool = False
        self._rest: bytes | memoryview = b""
        self._unstalled: anyio.Event | None = None
        self._failure: Exception | None = None  # why sending failed, until the poller's turn tells the endpoint

    def describe(self) -> str:
        return self._peer

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_now(self) -> None:
        # hot: what is answered before more is written costs no flush at the end of a turn
        if not self._has_sent:
            self._has_sent = True
            self.send_queued()
        elif not self.scheduled:
            self.scheduled = True
            self._poller.arrange(self)

    def send_later(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            self._poller.arrange(self)

    def flush(self) -> None:
        self.send_queued()

    def end_turn(self) -> None:
        """The flush at the end of a turn, called by the poller for every transport that asked for one.

        Sending here opens the next turn, in which this connection has then "sent something": it stays scheduled, and
        a busy connection sends once a turn. Only after a turn without a send may a write leave at once again.
        """
        if self.send_queued():
            if not self.is_stalled:
                self._poller.arrange(self)
        elif not self.is_stalled:
            self.scheduled = self.fd < 0
            self._has_sent = False

    def send_queued(self) -> bool:
        """Take what the endpoint has queued and send it. True if there was something."""
        if self.is_stalled:
            return False
        try:
            data = self.endpoint.data_to_send()
        except Exception as error:
            self._fail(error)
            return False
        if not data:
            return False
        self._send(data)
        return True

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(forget_frames(error))  # they hold what was to be sent, credentials perhaps
            return
        if sent != len(data):
            self._rest = memoryview(data)[sent:]
            self.scheduled = self.is_stalled = True
            self.watch()
        elif self.is_stalled:
            self._unstall()

    def _unstall(self) -> None:
        """The remainder has left: those who waited may go on, and what was queued meanwhile follows at once."""
        self._rest = b""
        self.is_stalled = False
        self.wake_waiting()
        self.end_turn()
        self.watch()

    def _fail(self, error: Exception) -> None:
        """Sending is over. The poller's turn reads what the peer sent before, perhaps the reason, and then ends us."""
        if self.fd < 0 or self._failure is not None:
            return
        self._failure = error
        self._rest = b""
        self.scheduled = self.is_stalled = True
        self._poller.doom(self)

    async def wait_unstalled(self) -> None:
        if self.is_stalled:
            if self._unstalled is None:
                self._unstalled = anyio.Event()
            await self._unstalled.wait()

    def wake_waiting(self) -> None:
        if self._unstalled is not None:
            self._unstalled.set()
            self._unstalled = None

    # --- receiving, called by the poller -----------------------------------------------------------------------------

    def is_awaiting(self) -> bool:
        try:
            return self.endpoint.awaiting > 0
        except Exception as error:
            self.lose(error)
            return False

    def receive(self, now: float) -> bool:
        """Read once into the poller's buffer and pass a copy on. True if there was something.

        hot: for 100 bytes, `recv_into` and the copy take under 1 us, `recv` with a buffer of this size 12 us.
        """
        if self.is_reading_paused:  # by the callback of another transport, earlier in this pass
            return False
        view = self._poller.view
        try:
            size = self._socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.lose(error)
            return False
        if not size:
            self.lose(None)
            return False
        self._has_sent = False
        try:
            self.endpoint.receive_data(bytes(view[:size]), now)
        except Exception as error:
            self.lose(error)
        return True

    def read_now(self) -> None:
        self._poller.context.run(self.receive, monotonic())

    def handle_event(self, event: int, now: float) -> None:
        """Any event but a plain "readable". Reading goes first: the peer's last words explain a failing send."""
        if event & READABLE:
            self.receive(now)
        if event & WRITABLE and self._rest:
            self._send(self._rest)

    def pause_reading(self) -> None:
        self.is_reading_paused = True
        self.watch()

    def resume_reading(self) -> None:
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.watch()

    def watch(self) -> None:
        """Have the epoll watch for what is wanted now. HUP can't be masked, so wanting nothing means unregistering."""
        wanted = (0 if self.is_reading_paused else EPOLLIN) | (EPOLLOUT if self._rest else 0)
        if wanted == self.interest or self.fd < 0:
            return
        epoll = self._poller.epoll
        try:
            if not self.interest:
                epoll.register(self.fd, wanted)
            elif wanted:
                epoll.modify(self.fd, wanted)
            else:
                epoll.unregister(self.fd)
        except OSError as error:  # ENOSPC, ENOMEM: the system's limit on watches
            self._fail(error)
        else:
            self.interest = wanted

    # --- time --------------------------------------------------------------------------------------------------------

    def start_timer(self, when: float) -> None:
        if when < self.deadline and self.fd >= 0:
            self._poller.set_deadline(self, when)

    def handle_timer(self, now: float) -> None:
        """The deadline has passed; called by the poller, which has taken it off."""
        try:
            following = self.endpoint.handle_timer(now)
        except Exception as error:
            self.lose(error)
        else:
            if following is not None:
                self.start_timer(following)

    # --- the end -----------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        if self.fd < 0:
            return
        self._poller.forget(self)  # before closing: the number may be another's the moment after
        self._socket.close()
        self.fd = -1
        self.interest = 0
        self.endpoint = GONE
        self._rest = b""
        self.scheduled = True
        self.is_stalled = False
        self.wake_waiting()

    def finish(self, now: float) -> None:
        """After a failed send: pass on what the peer had sent, then end. Called by the poller in its own turn."""
        for _ in range(DRAIN_READS):
            if self.fd < 0 or not self.receive(now):
                break
        self.lose(self._failure)

    def lose(self, error: Exception | None) -> None:
        """End the connection and tell the endpoint. Called by the poller only."""
        if self.fd < 0:
            return
        endpoint = self.endpoint
        self.abort()
        try:
            endpoint.connection_lost(error if self._failure is None else self._failure)
        except Exception:
            logger.exception("connection_lost failed for %s", self._peer)
