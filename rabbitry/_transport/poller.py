"""One poller for many sockets: one epoll, one receive buffer, one heap of deadlines, one list of those to flush.

It owns every socket it connects, from the first system call on; a connection costs it no task and no timer of its
own. What must stay true: the events of one pass are used before anything else runs and never kept; a pass takes a
bounded number of sockets and reads each once; one connection's failure ends that connection only. It knows nothing of
what the bytes mean.

End it in this order: end the connections, `stop`, let `run` return, `close`.
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import suppress
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.lowlevel import RunVar

from rabbitry._concurrency.clock import clock
from rabbitry._transport.addresses import Address, os_error, peer_name
from rabbitry._transport.contracts import Endpoint, Pump
from rabbitry._transport.pumps import pump_for_backend
from rabbitry._transport.socket import EPOLLIN, EPOLLONESHOT, EPOLLOUT, SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskStatus

SOCKETS_PER_PASS = 256  # at most
PASS_SECONDS = 0.01  # a pass that took longer halves the next one's sockets, and then what each may deliver: tasks and
# timers want their turn, too
FEWEST_PER_PASS = 4
TIMERS_PER_PASS = 256
BUFFER_SIZE = 256 * 1024  # what one socket may deliver in one pass
LEAST_BUFFER = 16 * 1024  # the same where a few sockets flood: 256 KiB of the smallest frames take 100 ms to parse
FEW = 4  # a pass that touched more sockets than this has work enough; spinning would only delay it
BACKLOG_SECONDS = 0.01  # between attempts at a Unix socket whose backlog is full
STALE_TIMERS = 64  # fewer are not worth rebuilding the heap for

PENDING = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EINTR})


_BUFFER: RunVar[memoryview] = RunVar("rabbitry's receive buffer")


def receive_buffer() -> memoryview:
    """One for all pollers of an event loop: what is received is used before anything else runs, and no part of it kept.
    A connection without a reactor has a poller of its own, and would have these 256 KiB, too.
    """
    try:
        return _BUFFER.get()
    except LookupError:
        buffer = memoryview(bytearray(BUFFER_SIZE))
        _BUFFER.set(buffer)
        return buffer


class Poller:
    """Connects sockets and serves them all from one place in the event loop. Not for use from other threads.

    The `Turn` of its pump and the `Keeper` of its sockets.
    `pump` makes the pump; without it the running backend decides.
    """

    def __init__(self, pump: Callable[[Poller], Pump] | None = None) -> None:
        self.epoll: select.epoll = select.epoll()
        self._buffer = receive_buffer()
        self.view: memoryview = self._buffer  # the part received into by every transport, kept by none
        self.next_deadline: float | None = None  # the earliest in the heap; it may be stale, which costs one look
        self.context: Context = copy_context()  # of what is called while reading, like the pump's
        self._monotonic = clock().monotonic
        self._make_pump = pump or pump_for_backend
        self._pump: Pump | None = None
        self._scope: anyio.CancelScope | None = None
        self._stopped = False
        self._batch = SOCKETS_PER_PASS
        self._transports: dict[int, SocketTransport] = {}
        self._connecting: dict[int, anyio.Event] = {}
        self._scheduled: list[SocketTransport] = []
        self._doomed: list[SocketTransport] = []
        self._touched: list[SocketTransport] = []
        self._timers: list[tuple[float, int, SocketTransport]] = []
        self._timer_order = count()
        self._stale_timers = 0

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._transports)

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`. Shielded: in a cancelled scope it goes on, so that connections can still close."""
        with anyio.CancelScope(shield=True) as self._scope:
            if self._stopped:
                self._scope.cancel()
            self._pump = self._make_pump(self)
            try:
                await self._pump.run(task_status.started)
            finally:
                self._pump = None
                self.flush()

    def stop(self) -> None:
        """Have `run` return. What is scheduled is still flushed; nothing is received any more."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Lose the connections that are left and close the selector. Idempotent; `run` must have returned."""
        if self.epoll.closed:
            return
        for transport in list(self._transports.values()):
            transport.lose(OSError(errno.ECONNABORTED, f"{transport.describe()}: the poller was closed"))
        for event in self._connecting.values():
            event.set()
        self._scheduled.clear()
        self._doomed.clear()
        self._touched.clear()
        self._timers.clear()
        self.epoll.close()

    # --- connecting --------------------------------------------------------------------------------------------------

    async def connect_tcp(self, address: Address, endpoint: Endpoint) -> SocketTransport:
        """Connect to an IP address. The endpoint is not called before this returns.

        Raises OSError, of the class that fits the failure and naming the address. Cancelled, it leaves nothing behind.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return await self._connect(family, address, endpoint, peer_name(address))

    async def connect_unix(self, path: str, endpoint: Endpoint) -> SocketTransport:
        """Connect to a Unix socket. As `connect_tcp`."""
        return await self._connect(socket.AF_UNIX, path, endpoint, path)

    async def _connect(self, family: int, address: Address | str, endpoint: Endpoint, peer: str) -> SocketTransport:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # Asking again gives the attempt's result as SO_ERROR would, but also tells "not yet" from success: the
            # event that woke us may have been meant for the former owner of this descriptor.
            while (code := sock.connect_ex(address)) in PENDING:
                await self._wait_connected(sock)
            while code == errno.EAGAIN:  # unix(7): the listener's backlog is full
                await anyio.sleep(BACKLOG_SECONDS)
                code = sock.connect_ex(address)
            if not code and family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
                code = errno.ECONNREFUSED  # nobody listened, but our own port happened to be the same
            if not code and self.epoll.closed:
                code = errno.ECONNABORTED
            if code:
                raise os_error(code, peer)
            return self.adopt(sock, endpoint, peer)
        except BaseException:
            sock.close()
            raise

    def adopt(self, sock: socket.socket, endpoint: Endpoint, peer: str) -> SocketTransport:
        """A transport over a socket that is connected, does not block and now belongs to the poller."""
        transport = SocketTransport(self, sock, endpoint, peer)
        self._transports[transport.fd] = transport
        transport.watch()
        return transport

    async def _wait_connected(self, sock: socket.socket) -> None:
        """Wait for the first event; one-shot, so that a HUP does not repeat until this task has run."""
        descriptor = sock.fileno()
        if self.epoll.closed:
            raise OSError(errno.ECONNABORTED, "the poller was closed")
        self.epoll.register(descriptor, EPOLLOUT | EPOLLONESHOT)
        event = self._connecting[descriptor] = anyio.Event()
        try:
            await event.wait()
        finally:
            del self._connecting[descriptor]
            if not self.epoll.closed:
                self.epoll.unregister(descriptor)

    # --- the turn, run by the pump -----------------------------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """The epoll's own: readable while `poll` has something to do."""
        return self.epoll.fileno()

    def poll(self) -> bool:
        """One pass. True if it had events and touched few sockets, so that spinning may be worth it."""
        events = self.epoll.poll(0, self._batch)
        if not events:
            return False
        monotonic = self._monotonic
        now = monotonic()
        transports = self._transports
        touched: list[SocketTransport] = []
        for descriptor, event in events:
            # Looked up at the last moment: what an earlier event's callback has ended is no longer there.
            transport = transports.get(descriptor)
            if transport is None:
                if (waiter := self._connecting.get(descriptor)) is not None:
                    waiter.set()
            else:
                touched.append(transport)
                if event == EPOLLIN:
                    transport.receive(now)
                else:
                    transport.handle_event(event, now)
        took = monotonic() - now
        if took > PASS_SECONDS:
            self._take_less()
        elif self._batch < SOCKETS_PER_PASS and took < PASS_SECONDS / 4:
            self._take_more()
        few = 0 < len(touched) <= FEW
        self._touched = touched if few else []
        return few

    def _take_less(self) -> None:
        if self._batch > FEWEST_PER_PASS:
            self._batch //= 2
        elif len(self.view) > LEAST_BUFFER:
            self.view = self._buffer[: len(self.view) // 2]

    def _take_more(self) -> None:
        if len(self.view) < BUFFER_SIZE:
            self.view = self._buffer[: len(self.view) * 2]
        else:
            self._batch *= 2

    def is_awaiting(self) -> bool:
        """Whether one of the few connections that the last pass with events touched awaits a reply."""
        for transport in self._touched:
            if transport.is_awaiting():
                return True
        return False

    def awaits_one(self) -> bool:
        """Whether the last pass with events touched one connection, and that awaits one reply."""
        return len(self._touched) == 1 and self._touched[0].endpoint.awaiting == 1

    @property
    def has_work(self) -> bool:
        """Whether something waits for the end of the turn."""
        return bool(self._scheduled or self._doomed)

    def flush(self) -> None:
        """The end of the turn: send what the turn's writes have left, and end those whose sending failed."""
        if self._scheduled:
            scheduled, self._scheduled = self._scheduled, []
            for transport in scheduled:
                transport.end_turn()
        if self._doomed:
            doomed, self._doomed = self._doomed, []
            now = self._monotonic()
            for transport in doomed:
                transport.finish(now)

    def run_timers(self) -> None:
        """Call the deadlines that have passed, a bounded number of them, and have the pump come back for the next."""
        now = self._monotonic()
        timers = self._timers
        due: list[SocketTransport] = []
        while timers and timers[0][0] <= now and len(due) < TIMERS_PER_PASS:
            when, _, transport = heappop(timers)
            if transport.deadline == when:
                transport.deadline = inf
                due.append(transport)
            else:
                self._stale_timers -= 1
        for transport in due:
            transport.handle_timer(now)
        self._set_timer()

    # --- for the transports ------------------------------------------------------------------------------------------

    def arrange(self, transport: SocketTransport) -> None:
        """Have the transport's `end_turn` called when the turn ends."""
        if not self._scheduled and self._pump is not None:
            self._pump.wake()
        self._scheduled.append(transport)

    def doom(self, transport: SocketTransport) -> None:
        """Have the transport's `finish` called when the turn ends."""
        if self._pump is not None:
            self._pump.wake()
        self._doomed.append(transport)

    def set_deadline(self, transport: SocketTransport, when: float) -> None:
        if transport.deadline != inf:
            self._add_stale_timer()
        transport.deadline = when
        heappush(self._timers, (when, next(self._timer_order), transport))
        if self._timers[0][2] is transport:
            self._set_timer()

    def _set_timer(self) -> None:
        self.next_deadline = self._timers[0][0] if self._timers else None
        if self._pump is not None and self.next_deadline is not None:
            self._pump.set_timer(self.next_deadline)

    def forget(self, transport: SocketTransport) -> None:
        """The transport is about to close its descriptor."""
        del self._transports[transport.fd]
        if transport.interest:
            with suppress(OSError):  # a forked child that ended may have taken it out of the epoll both share
                self.epoll.unregister(transport.fd)
        if transport.deadline != inf:
            transport.deadline = inf
            self._add_stale_timer()

    def _add_stale_timer(self) -> None:
        """An entry counts no more. It keeps its transport in memory until its time comes, so there must not be many."""
        self._stale_timers += 1
        if self._stale_timers > STALE_TIMERS and self._stale_timers * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if timer[2].deadline == timer[0]]
            heapify(self._timers)
            self._stale_timers = 0
