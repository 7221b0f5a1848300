"""The contracts of this layer, between it and the one above, and between a poller, its pump and its sockets.

To those above: a `Transport` moves the bytes of one connection, its `Endpoint` makes sense of them. Both sides are
synchronous, so that queueing, sending and receiving never straddle an `await`. An endpoint is called by the event
loop's own turn (by a pump, or by a stream's tasks) and never from inside a transport's method, with one exception:
`data_to_send`. Neither contract knows what the bytes mean.

Within: a poller is a `Turn` to the `Pump` that runs it and a `Keeper` to the sockets it serves; neither knows more of
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import select
    from collections.abc import Callable
    from contextvars import Context

__all__ = ["GONE", "Endpoint", "Keeper", "Pump", "Transport", "Turn"]

# --- to the layer above ----------------------------------------------------------------------------------------------


class Endpoint(Protocol):
    """What a transport calls. Its methods should not raise: an exception ends this connection, and nothing else."""

    @property
    def awaiting(self) -> int:
        """How many replies or confirms are outstanding. While it is positive the poller may spin for a few turns."""
        ...

    def receive_data(self, data: bytes, now: float) -> None:
        """Take what arrived, of any length but zero; `now` is on the clock of `_concurrency.clock.monotonic`."""
        ...

    def data_to_send(self) -> bytes:
        """Give everything that is queued, and forget it; `b""` when there is nothing."""
        ...

    def handle_timer(self, now: float) -> float | None:
        """A deadline set by `start_timer` has passed. Return the next one, absolute, or None if none is wanted."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended by itself, cleanly if None. Called at most once, and then nothing else is."""
        ...


class Transport(Protocol):
    """Moves the bytes of one connection. No method raises for the connection's fault: `connection_lost` tells of it."""

    @property
    def scheduled(self) -> bool:
        """True when there is no need to call `send_now`: a flush is arranged, or comes with writability, or never will.

        The hot path reads `if not transport.scheduled: transport.send_now()`.
        """
        ...

    @property
    def is_stalled(self) -> bool:
        """True while the kernel takes no more and a part of the last send waits for it. False once it has ended."""
        ...

    @property
    def is_reading_paused(self) -> bool:
        """True between `pause_reading` and `resume_reading`."""
        ...

    def send_now(self) -> None:
        """Something was queued: send it at once if nothing was since something was last received, or since a turn of
        the event loop without a send; else when the turn ends.
        """
        ...

    def send_later(self) -> None:
        """Something was queued that can wait for the end of this turn."""
        ...

    def flush(self) -> None:
        """Send everything that is queued now, as much as the kernel takes.

        While stalled it takes nothing from the endpoint, whose own queue so is the measure of back-pressure.
        """
        ...

    async def wait_unstalled(self) -> None:
        """Wait until the part that was stuck has left, or the connection has ended; at once if nothing is stuck.

        When it returns the transport may be stalled again: look at the queue, not at `is_stalled`. Any number of
        tasks may wait. Cancelling a wait has no effect on anything else.
        """
        ...

    def wake_waiting(self) -> None:
        """Have every `wait_unstalled` return, stalled or not: what they wait to send may have lost its sense."""
        ...

    def pause_reading(self) -> None:
        """Stop calling `receive_data`. Idempotent. The peer's end may go unnoticed meanwhile."""
        ...

    def resume_reading(self) -> None:
        """Call `receive_data` again. Idempotent."""
        ...

    @property
    def fd(self) -> int:
        """The socket that `read_now` reads; -1 where there is none to be waited for, and once it has ended."""
        ...

    def read_now(self) -> None:
        """Have what has arrived received, once: for who waits for `fd` itself, without running the event loop."""
        ...

    def start_timer(self, when: float) -> None:
        """Have `handle_timer` called at or after `when`, on the clock of `_concurrency.clock.monotonic`.

        There is one deadline: an earlier one replaces a later one, a later one is ignored while one is pending.
        """
        ...

    def abort(self) -> None:
        """End the connection now and drop what was not sent. Idempotent. The endpoint is never called again."""
        ...

    def describe(self) -> str:
        """The peer's name for messages: `127.0.0.1:5672`, `[::1]:5672`, or the path of a Unix socket."""
        ...


class _Gone:
    """Replaces the endpoint of a transport that has ended: nothing reaches the real one, no cycle keeps it alive."""

    __slots__ = ()
    awaiting = 0

    def receive_data(self, data: bytes, now: float) -> None:
        pass

    def data_to_send(self) -> bytes:
        return b""

    def handle_timer(self, now: float) -> float | None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        pass


GONE: Endpoint = _Gone()


# --- within this layer -----------------------------------------------------------------------------------------------


class Turn(Protocol):
    """What a pump runs: a poller's part in one turn of the event loop."""

    @property
    def descriptor(self) -> int:
        """What is readable while `poll` has something to do."""
        ...

    @property
    def next_deadline(self) -> float | None:
        """When `run_timers` has something to do, None for never. It may be too early, which costs one look."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether something waits for `flush`."""
        ...

    def poll(self) -> bool:
        """Serve the sockets that are ready, without waiting. True if spinning may be worth it: some were, and few."""
        ...

    def is_awaiting(self) -> bool:
        """Whether one of those few awaits a reply."""
        ...

    def awaits_one(self) -> bool:
        """Whether it was one socket, and awaits one reply. Asked where `is_awaiting` was true."""
        ...

    def flush(self) -> None:
        """The end of the turn."""
        ...

    def run_timers(self) -> None:
        """Call the deadlines that have passed, and have the pump told of the next."""
        ...


class Pump(Protocol):
    """What tells a poller when to run."""

    def wake(self) -> None:
        """Have the poller flushed when the turn ends. The poller asks once for each turn."""
        ...

    def set_timer(self, when: float) -> None:
        """Have the poller's timers run at `when` instead of whatever was set before."""
        ...

    async def run(self, started: Callable[[], None]) -> None:
        """Run until cancelled."""
        ...


Kept = TypeVar("Kept", contravariant=True)


class Keeper(Protocol[Kept]):
    """What a socket's transport asks of the poller that serves it."""

    @property
    def view(self) -> memoryview:
        """The buffer to receive into, shared by all: nothing of it is kept."""
        ...

    @property
    def context(self) -> Context:
        """What everything received is dealt with in."""
        ...

    @property
    def epoll(self) -> select.epoll:
        """What watches descriptors. A transport registers its own, and nothing else."""
        ...

    def arrange(self, transport: Kept) -> None:
        """Have the transport's `end_turn` called when the turn ends."""
        ...

    def doom(self, transport: Kept) -> None:
        """Have the transport's `finish` called when the turn ends."""
        ...

    def set_deadline(self, transport: Kept, when: float) -> None:
        """Have the transport's `handle_timer` called at or after `when`, instead of at its deadline before."""
        ...

    def forget(self, transport: Kept) -> None:
        """The transport is about to close its descriptor."""
        ...
