"""The crowd of clients: opens their sockets, a bounded number at a time, runs them, and closes them the same way.

One task for each socket, one more for each further client that shares it. A client's failure ends that client and is
counted; it never reaches the others. Whatever happens, each socket arrives exactly once, as connected or as failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic_ns

import anyio
from anyio.abc import TaskGroup

from loadtest.drivers.base import Connection, Session
from loadtest.execution.caller import call
from loadtest.execution.consumer import consume
from loadtest.execution.opening import open_client
from loadtest.execution.producer import produce
from loadtest.execution.state import Run
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role

_WORK = {Role.PRODUCER: produce, Role.CONSUMER: consume, Role.CALLER: call}


class Crowd:
    """All sockets of a run's clients."""

    def __init__(self, run: Run, session: Session, urls: Sequence[str]) -> None:
        self._run = run
        self._tally = run.record.tally
        self._session = session
        self._urls = urls
        self._elsewhere = {Role.PRODUCER: run.settings.publish_urls, Role.CONSUMER: run.settings.consume_urls}
        self._opening = anyio.Semaphore(run.settings.handshakes)
        self.closing = anyio.Semaphore(run.settings.handshakes)
        self._expected = len(run.plan.sockets)
        self._left = 0
        self.everyone_arrived = anyio.Event()
        self.last_arrival = monotonic_ns()

    async def gather(self, tg: TaskGroup) -> None:
        """Starts all sockets; `everyone_arrived` tells when the last one is connected or has failed.

        Ends early when the run stops: who has not been started then is not expected any more.
        """
        for number, places in enumerate(self._run.plan.sockets):
            await self._opening.acquire()
            if self._run.is_stopping:
                self._expected = number
                return self._note_arrival()
            tg.start_soon(self._use_socket, number, places)

    def give_up_waiting(self) -> None:
        """Counts the sockets that have not arrived yet as failed."""
        for _ in range(self._expected - self.arrived):
            self._tally.failed += 1
            self._run.record.errors.note_name("ConnectTimeout", "the connection was not ready in time")
        self.everyone_arrived.set()

    def let_in(self, has_arrived: bool) -> bool:
        """A handshake is over. Whether that counts: who comes after it was given up has been counted as failed."""
        self._opening.release()
        if self.everyone_arrived.is_set():
            return False
        self._tally.connected += has_arrived
        self._tally.failed += not has_arrived
        self.last_arrival = monotonic_ns()
        self._note_arrival()
        return True

    @property
    def arrived(self) -> int:
        """How many sockets are connected or have failed."""
        return self._tally.connected + self._tally.failed

    def _note_arrival(self) -> None:
        if self.arrived >= self._expected:
            self.everyone_arrived.set()

    async def _use_socket(self, number: int, places: tuple[Place, ...]) -> None:
        run = self._run
        socket = Socket(run, self, len(places))
        try:
            urls = self._elsewhere.get(places[0].role) or self._urls
            await self._attend(places, urls[number % len(urls)], socket)
        except Exception as error:
            socket.fail(error)
        finally:
            socket.close()
            self._left += 1
            if self._left == self._expected:
                run.enough.set()  # nobody is left to wait for

    async def _attend(self, places: tuple[Place, ...], url: str, socket: Socket) -> None:
        """All that happens on one socket."""
        run = self._run
        started = monotonic_ns()
        consuming = all(place.role is Role.CONSUMER for place in places)
        async with open_client(run, self._session, url, name_of(run, places), consuming=consuming) as connection:
            run.record.latencies.connect.record(monotonic_ns() - started)
            if len(places) == 1:  # a task and a task group less for each client
                await self._use_client(places[0], connection, socket)
            else:
                async with anyio.create_task_group() as tg:
                    for place in places:
                        tg.start_soon(self._use_client, place, connection, socket)

    async def _use_client(self, place: Place, connection: Connection, socket: Socket) -> None:
        try:
            await _WORK[place.role](self._run, place, connection, socket)
        except Exception as error:
            socket.fail(error)


def name_of(run: Run, places: tuple[Place, ...]) -> str:
    """What the broker lists a connection as: one name for each role, so that ten thousand connections share it."""
    return f"{run.plan.prefix} {places[0].role.value if len(places) == 1 else 'clients'}"


class Socket:
    """One socket's attendance: it has a turn while it opens, until all its clients are ready, and another to close."""

    __slots__ = ("_awaited", "_crowd", "_has_failed", "_has_turn", "_is_counted", "_run", "_turn")

    def __init__(self, run: Run, crowd: Crowd, clients: int) -> None:
        self._run = run
        self._crowd = crowd
        self._awaited = clients
        self._has_failed = False
        self._is_counted = False
        self._has_turn = False
        self._turn: anyio.Event | None = None  # set once the socket may close

    def arrive(self) -> None:
        self._awaited -= 1
        if not self._awaited and not self._has_failed:
            self._is_counted = self._crowd.let_in(has_arrived=True)

    async def leave(self) -> None:
        await self._run.over.wait()
        if self._turn is not None:  # another of its clients has asked for the socket's turn
            await self._turn.wait()
            return
        self._turn = anyio.Event()
        await self._crowd.closing.acquire()
        self._has_turn = True
        self._turn.set()

    def close(self) -> None:
        """The socket is closed."""
        if self._has_turn:
            self._crowd.closing.release()

    def fail(self, error: Exception) -> None:
        """The socket, or one of its clients, came to an end that nobody asked for."""
        if self._run.over.is_set():
            return self._run.record.errors.note(error, " (closing)")
        self._run.record.errors.note(error)
        if self._has_failed:
            return
        self._has_failed = True
        if self._awaited:
            self._crowd.let_in(has_arrived=False)
        elif self._is_counted:
            self._run.record.tally.dropped += 1
