"""`Link`: one connection of a client through all its lives. One task owns the state machine and alone moves it.

    idle ─► connecting ─► connected ─► recovering ─► connected …          closed, from anywhere

What must stay true: whoever waits for a connection is woken by every change and looks again; a connection is handed
out only once `restore` has put back what its life needs; what ends the link for good is raised by `run`, once.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple

import anyio

from rabbitry._backoff import Backoff
from rabbitry._connection import Connection, Settings
from rabbitry._errors import AuthenticationFailed, ConnectFailed, NotConnected, RabbitryError
from rabbitry._message import seconds
from rabbitry._waiting import checkpoint_if_cancelled

if TYPE_CHECKING:
    from rabbitry._reactor import Reactor

__all__ = ["Change", "Credentials", "CredentialsSource", "Link", "State", "WhileDown"]

logger = logging.getLogger("rabbitry")

State = Literal["idle", "connecting", "connected", "recovering", "closed"]
WhileDown = Literal["wait", "fail"]

REFRESH_AT = 0.8
"""Part of a token's life after which the next one is asked for."""
REFRESH_AGAIN = 5.0
"""Seconds between attempts when that fails."""


class Credentials(NamedTuple):
    """A user's name and password, or token; `expires_in` seconds, if it does."""

    username: str
    password: str
    expires_in: float | None = None

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, expires_in={self.expires_in!r})"


CredentialsSource = Callable[[], Awaitable[Credentials]]


@dataclass(frozen=True, slots=True)
class Change:
    """A connection's new state, when (`anyio.current_time()`), and the error that ended the state before, if any."""

    connection: str
    state: State
    error: Exception | None
    time: float


class Link:
    """Made by the client, run by a task of it."""

    def __init__(
        self,
        role: str,
        reactor: Reactor,
        hosts: Sequence[Settings],
        backoff: Backoff,
        credentials: CredentialsSource | None,
    ) -> None:
        self.role = role
        self.state: State = "idle"
        self.last_error: Exception | None = None
        self.lives = 0
        self._reactor = reactor
        self._hosts = list(hosts)
        self.backoff = backoff
        self._credentials = credentials
        self.restore: Callable[[Connection], Awaitable[None]] = _restore_nothing
        self.tell: Callable[[Change], None] = _tell_nobody
        self._random = Random()
        self._connection: Connection | None = None
        self._expires_in: float | None = None
        self._short_lives = 0  # in a row: a broker that drops us at once must not be dialled again and again
        self.failure: Exception | None = None
        self._wanted = anyio.Event()
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Link {self.role} {self.state}, {self.lives} lives>"

    async def connection(self, while_down: WhileDown) -> Connection:
        """The open connection of now. Without one, waits for it or raises `NotConnected`."""
        await checkpoint_if_cancelled()
        self._wanted.set()
        while self._connection is None or not self._connection.is_open:
            if self.state == "closed":
                raise self.closed_error()
            if while_down == "fail" and self.state == "recovering":
                raise NotConnected(f"the connection is down, and being recovered: {self.last_error}")
            await self._changed.wait()
        return self._connection

    # --- the supervisor ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection open from when one is wanted until cancelled. Raises what can't be recovered from.

        That cancels the client's body. Who waits for a connection learns of it by `close`, after the body.
        """
        await self._wanted.wait()
        self._move("connecting")
        try:
            while True:
                async with AsyncExitStack() as stack:
                    connection = await self._open(stack)
                    await self._serve(connection)
        except Exception as error:
            self.failure = error
            raise

    def closed_error(self) -> NotConnected:
        """What who needs a connection is told once there will be none."""
        error = NotConnected(f"the client has ended: {self.failure}" if self.failure else "the client is closed")
        error.__cause__ = self.failure
        return error

    def close(self) -> None:
        """The supervisor has ended."""
        self._move("closed", self.failure)

    async def _open(self, stack: AsyncExitStack) -> Connection:
        """The next life, entered on `stack`, with everything restored in it."""
        failures, began = 0, anyio.current_time()
        while True:
            if failures or self.lives:
                await anyio.sleep(self.backoff.delay(max(1, failures + self._short_lives), self._random))
            for settings in self._random.sample(self._hosts, len(self._hosts)):
                try:
                    return await self._open_at(settings, stack)
                except (ConnectFailed, OSError) as error:
                    if isinstance(error, AuthenticationFailed) and not self.lives:
                        raise  # waiting does not mend it
                    self.last_error = error
                    logger.warning("%s: %s", settings.name, error)
            failures += 1
            if self.backoff.is_exhausted(failures, anyio.current_time() - began):
                assert self.last_error is not None
                raise ConnectFailed(f"given up after {failures} attempts: {self.last_error}") from self.last_error

    async def _open_at(self, settings: Settings, stack: AsyncExitStack) -> Connection:
        if self._credentials is not None:
            username, password, self._expires_in = await self._credentials()
            address = replace(settings.address, username=username, password=password)
            settings = replace(settings, address=address)
        async with AsyncExitStack() as attempt:
            connection = await attempt.enter_async_context(Connection(settings, self._reactor))
            await self.restore(connection)
            stack.push_async_exit(attempt.pop_all())
        return connection

    async def _serve(self, connection: Connection) -> None:
        """One life. Returns when it has ended."""
        self.lives += 1
        began = anyio.current_time()
        self._connection = connection
        if self.lives > 1:
            logger.info("%s is connected again", connection.name)
        self._move("connected")
        try:
            async with anyio.create_task_group() as tg:
                if self._expires_in is not None:
                    tg.start_soon(self._refresh, connection, self._expires_in)
                try:
                    await connection.wait_closed()
                except RabbitryError as error:
                    self.last_error = error
                tg.cancel_scope.cancel()
        finally:
            self._connection = None
        is_short = anyio.current_time() - began < seconds(self.backoff.maximum)
        self._short_lives = self._short_lives + 1 if is_short else 0
        logger.warning("%s was lost: %s", connection.name, self.last_error)
        self._move("recovering", self.last_error)

    async def _refresh(self, connection: Connection, expires_in: float) -> None:
        """Give the broker a new token ahead of each expiry."""
        assert self._credentials is not None
        pause = expires_in * REFRESH_AT
        while True:
            await anyio.sleep(pause)
            pause = REFRESH_AGAIN
            try:
                _, password, following = await self._credentials()
                await connection.update_secret(password)
            except (RabbitryError, OSError) as error:
                logger.warning("%s: the credentials could not be renewed: %s", connection.name, error)
                continue
            if following is None:
                return
            pause = following * REFRESH_AT

    def _move(self, state: State, error: Exception | None = None) -> None:
        self.state = state
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        self.tell(Change(self.role, state, error, anyio.current_time()))


async def _restore_nothing(_: Connection) -> None: ...


def _tell_nobody(_: Change) -> None: ...
