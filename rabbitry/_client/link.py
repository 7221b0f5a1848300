"""`Link`: one connection of a client through all its lives. One task owns the state machine and alone moves it on.

    idle ─► connecting ─► connected ─► recovering ─► connected …          closed, from anywhere

What must stay true: whoever waits for a connection is woken by every change and looks again; a connection is handed
out only once `restore` has put back what its life needs; what ends the link for good is raised by `run`, once. A link
that nobody needs has no task, and there may be ten thousand: what each keeps is counted in bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from threading import get_ident
from typing import NamedTuple

import anyio

from rabbitry._client.changes import Change
from rabbitry._client.hosts import first_to_open
from rabbitry._client.refusals import is_refusal, was_told
from rabbitry._concurrency.clock import Chance, loop_time
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import check_here, checkpoint_if_cancelled
from rabbitry._connection.connection import Connection, watch_alarms
from rabbitry._connection.hub import Hub
from rabbitry._connection.settings import Settings
from rabbitry._errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    ConsumingStopped,
    NotConnected,
    RabbitryError,
)
from rabbitry._secrets import Secret, unwatched
from rabbitry._values.backoff import Backoff
from rabbitry._values.durations import seconds
from rabbitry._values.options import State, WhileDown

__all__ = ["Credentials", "CredentialsSource", "Fate", "Link"]

logger = logging.getLogger("rabbitry")


ONE_ATTEMPT = 2.0
"""Seconds for which a connection that nobody wanted before is waited for after `stop_waiting`."""
VAIN_LIFE = 1.0
"""Seconds that a connection has to last, or the attempt counts as one that failed."""
REFRESH_AT = 0.8
"""Part of a token's life after which the next one is asked for."""
REFRESH_AGAIN = 5.0
"""Seconds between attempts to have the next token, once one has failed."""
REFRESH_BOUND = 15.0
"""Seconds that the source of credentials may take."""

_RANDOM = Chance()


class Credentials(NamedTuple):
    """A user's name and password, or token; `expires_in` seconds, if it does."""

    username: str
    password: str
    expires_in: float | None = None

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, expires_in={self.expires_in!r})"


def _hidden(username: str, password: str, expires_in: float | None = None) -> tuple[str, Secret[str], float | None]:
    return username, Secret(password), expires_in


CredentialsSource = Callable[[], Awaitable[Credentials]]


class Fate:
    """What has become of a client, shared by its links: whether any of them ever had a connection, which of them waits
    to try again, and why the client has ended, if not because it was left.
    """

    __slots__ = ("_pausing", "failure", "has_lived")

    def __init__(self) -> None:
        self.has_lived: bool = False
        self.failure: Exception | None = None
        self._pausing: anyio.Event | None = None

    async def pause(self, delay: float) -> bool:
        """Wait so long before the next attempt, or until another link of the client is connected: then there is no
        reason to wait. Whether that was it.
        """
        if self._pausing is None:
            self._pausing = anyio.Event()
        news = self._pausing
        with anyio.move_on_after(delay):
            await news.wait()
        return news.is_set()

    def tell_connected(self) -> None:
        """End the others' pauses."""
        pausing, self._pausing = self._pausing, None
        if pausing is not None:
            pausing.set()

    def closed_error(self) -> NotConnected:
        """What who needs a connection is told once there will be none."""
        error = NotConnected(f"the client has ended: {self.failure}" if self.failure else "the client is closed")
        error.__cause__ = self.failure
        return error


class Link:
    """Made with its client, run by a task of that from when a connection is first wanted."""

    __slots__ = (
        "_alone",
        "_changed",
        "_connection",
        "_credentials",
        "_expires_in",
        "_failed",
        "_fate",
        "_hosts",
        "_hub",
        "_keep",
        "_life",
        "_restore",
        "_short_lives",
        "_start_soon",
        "_tell",
        "_vain_attempts",
        "_vain_since",
        "backoff",
        "is_awaited",
        "last_error",
        "lives",
        "role",
        "state",
    )

    def __init__(
        self,
        role: str,
        hub: Hub,
        hosts: Sequence[Settings],
        backoff: Backoff,
        credentials: CredentialsSource | None,
        fate: Fate,
        *,
        start_soon: Callable[..., object],
        keep: Callable[[Link], Awaitable[None]],
        restore: Callable[[Connection], Awaitable[None]],
        tell: Callable[[Change], None],
    ) -> None:
        """`start_soon` has a task of the client do something, `keep` has such a task `run` the link, `restore` puts
        back what a new life needs, `tell` is told of each change.
        """
        self.role: str = role
        self._fate = fate
        self.state: State = "idle"
        self.last_error: Exception | None = None
        self.lives: int = 0
        self._hub = hub
        self._hosts = list(hosts)
        self._failed: Settings | None = None
        self.backoff: Backoff = backoff
        self._credentials = credentials
        self._start_soon = start_soon
        self._keep = keep
        self._restore = restore
        self._tell = tell
        self._life = anyio.CancelScope(shield=True)  # the client's body may need the connection while it is cancelled
        self._connection: Connection | None = None
        self._expires_in: float | None = None
        # A broker that takes us in and drops us must not be dialled for ever, nor again and again without a pause.
        self._short_lives = 0
        self._vain_attempts = 0
        self._vain_since: float | None = None
        self._changed: anyio.Event | None = None
        self._alone: anyio.Lock | None = None
        self.is_awaited: bool = True

    def __repr__(self) -> str:
        return f"<Link {self.role} {self.state}, {self.lives} lives>"

    def check_loop(self) -> None:
        """Raise on another event loop than the client's."""
        self._hub.waits.check_loop()

    def check_thread(self) -> None:
        """Raise in another thread than the client's."""
        if get_ident() != self._hub.waits.thread:
            check_here(self.check_loop)

    async def connection(self, while_down: WhileDown, *, is_patient: bool = False) -> Connection:
        """The open connection of now. Without one, waits for it or raises `NotConnected`; after
        `stop_waiting` it raises `ConsumingStopped`, unless `is_patient`.
        """
        self.check_loop()
        await checkpoint_if_cancelled()
        self.want()
        has_waited = False
        while self._connection is None or not self._connection.is_open:
            if self.state == "closed":
                raise self._fate.closed_error()
            if while_down == "fail" and self.last_error is not None:
                raise NotConnected(
                    f"the connection is down, and being recovered: {self.last_error}"
                ) from self.last_error
            if not (self.is_awaited or is_patient) and (has_waited or self.last_error is not None):
                why = f"is down: {self.last_error}" if self.last_error is not None else "was not made yet"
                raise ConsumingStopped(
                    f"client.stop_consuming() was called: nothing waits any more for the {self.role} connection, "
                    f"which {why}"
                ) from self.last_error
            if self._changed is None:
                self._changed = anyio.Event()
            with anyio.move_on_after(inf if self.is_awaited or is_patient else ONE_ATTEMPT):
                await self._changed.wait()
            has_waited = True
        return self._connection

    def want(self) -> None:
        """Have a connection made, if none was wanted before."""
        if self.state == "idle":
            self._move("connecting")
            self._start_soon(self._keep, self)

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker takes no publishes on the connection of now; None where it does, or there is none."""
        return None if self._connection is None else self._connection.blocked_reason

    def alarm_changed(self, reason: str | None) -> None:
        """The broker has blocked the connection, or does no longer (None). Called while reading."""
        self._start_soon(self._tell_of_alarm)  # AnyIO's clock is out of reach while reading

    async def _tell_of_alarm(self) -> None:
        if self.state == "connected":
            now, reason = loop_time(), self.blocked_reason
            self._tell(Change(self.role, self.state, None, now, reason, is_alarm=True))

    def stop_waiting(self) -> None:
        """Have nobody wait any more: those who do so now raise `ConsumingStopped`, and so do others while there is no
        connection. Who is the first to need it still waits for one attempt, up to `ONE_ATTEMPT`.
        """
        self.is_awaited = False
        self._wake()

    async def apart(self, operation: Callable[[Connection], Awaitable[object]]) -> None:
        """Have this done alone, on a connection apart from the link's, which ends with it. Raises what it raises, or
        why there is no such connection. One at a time; cancelling it ends that connection.
        """
        if self._alone is None:
            self._alone = anyio.Lock()
        async with self._alone:
            settings = _RANDOM.choice(self._hosts)
            connection = await self._entered(replace(settings, name=f"{settings.name}-apart"))
            try:
                await operation(connection)
            finally:
                await connection.__aexit__(None, None, None)

    # --- the supervisor ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a connection open until stopped. Raises what can't be recovered from; that cancels the client's body."""
        try:
            with self._life:
                while True:
                    connection = await self._open()
                    try:
                        await self._serve(connection)
                    finally:
                        await connection.__aexit__(None, None, None)
        except Exception as error:
            if self._fate.failure is not None and isinstance(error, RabbitryError | OSError):
                logger.debug("%s, of a client that had ended: %s", self._hosts[0].name, error)
                return  # the other link failed first, mostly for the same reason, and that is what is raised
            self._fate.failure = self._fate.failure or error
            raise
        finally:  # who still waits for a connection, in a clean-up perhaps, waits in vain
            self.close()

    def stop(self) -> None:
        """End `run`, whatever it does, and the connection with it; it will not begin any more, either."""
        self._life.cancel()
        if self.state == "idle":
            self.close()

    def close(self) -> None:
        """Be closed: there will be no other life."""
        if self.state != "closed":
            self._move("closed", self._fate.failure)

    async def _open(self) -> Connection:
        """The next life, entered, with everything restored in it."""
        failures = self._vain_attempts
        former: OSError | None = None
        crashes = 0  # in a row
        began = loop_time() if self._vain_since is None else self._vain_since
        while True:
            self._check_patience(failures, began)
            follows = False
            if failures or self.lives:
                follows = await self._fate.pause(self.backoff.delay(max(1, failures + self._short_lives), _RANDOM))
            refusals = 0

            def is_hopeless(host: Settings, error: OSError) -> bool:
                nonlocal former, refusals, crashes
                if self._is_final(error, former, crashes):
                    return True
                crashes = crashes + 1 if was_told(error) else 0
                self.last_error = former = error
                self._failed = host
                self._wake()  # who would rather fail than wait
                logger.warning("%s: %s", host.name, error)
                refusals += isinstance(error, AuthenticationFailed)
                return refusals == len(self._hosts) and not self._fate.has_lived  # waiting does not mend it

            rest = self.backoff.rest(loop_time() - began)
            if rest <= 0 and self.last_error is None:
                rest = inf  # one attempt is made, however late this task had its turn
            found = None
            if rest > 0:
                found = await first_to_open(self._in_turn(), partial(self._entered, most=rest), is_hopeless)
            if found is not None:
                host, connection = found
                try:
                    # Who only followed tells nobody: two that are dropped again and again would chase each other.
                    return await self._restored(connection, is_news=not follows)
                except (ConnectFailed, OSError) as error:
                    if is_hopeless(host, error):
                        raise
            failures += 1

    def _in_turn(self) -> list[Settings]:
        """The hosts in random order, but for the one that failed last, which comes last."""
        hosts = _RANDOM.sample(self._hosts, len(self._hosts))
        return sorted(hosts, key=lambda host: host is self._failed)

    def _check_patience(self, failures: int, began: float) -> None:
        """Raise when it is time to give up."""
        if failures and self.backoff.is_exhausted(failures, loop_time() - began):
            assert self.last_error is not None
            raise ConnectFailed(f"given up after {failures} attempts: {self.last_error}") from self.last_error

    def _is_final(self, error: OSError, former: OSError | None, crashes: int) -> bool:
        """Whether waiting mends nothing: the broker refuses what is to be restored, the reactor was left, or a file
        that the URL names was never there. `crashes` is how often the broker may have crashed over what is restored.
        """
        if isinstance(error, ConnectionClosed):
            return is_refusal(error, former, was_accepted=True, times=crashes)
        if isinstance(error, ConnectFailed):
            return False
        return isinstance(error, NotConnected) or not self._fate.has_lived

    async def _restored(self, connection: Connection, *, is_news: bool) -> Connection:
        """The connection, with what its life needs; or it is left."""
        if is_news:
            self._fate.tell_connected()
        try:
            await self._restore(connection)
        except BaseException:
            await connection.__aexit__(None, None, None)
            raise
        return connection

    async def _entered(self, settings: Settings, *, most: float = inf) -> Connection:
        """A connection, made within `most` seconds."""
        settings = replace(settings, connect_timeout=min(settings.connect_timeout, most))
        if self._credentials is not None:
            username, password, self._expires_in = await self._ask(settings.connect_timeout)
            address = replace(settings.address, username=username, password=password)
            settings = replace(settings, address=address)
        connection = Connection(settings, self._hub)
        await connection.__aenter__()
        return connection

    async def _ask(self, bound: float) -> tuple[str, Secret[str], float | None]:
        """The credentials of now. Whatever is wrong with their source may mend itself."""
        assert self._credentials is not None
        try:
            with anyio.fail_after(bound):
                found = Secret(await self._credentials())
            return unwatched(lambda: _hidden(*found.reveal()))
        except Exception as error:  # not its text, which may hold a secret
            raise ConnectFailed(f"the credentials could not be had ({type(error).__name__})") from error

    async def _serve(self, connection: Connection) -> None:
        """Hand out the connection until its life has ended."""
        self.lives += 1
        self._fate.has_lived = True
        began = loop_time()
        self._connection = connection
        if self.lives > 1:
            logger.info("%s is connected again", connection.name)
        self._move("connected")
        watch_alarms(connection, self)
        try:
            if self._expires_in is None:
                await connection.wait_closed()
            else:
                async with background() as tg:
                    tg.start_soon(self._refresh, connection, self._expires_in)
                    try:
                        await connection.wait_closed()
                    finally:
                        tg.cancel_scope.cancel()
        except RabbitryError as error:
            self.last_error = error
        finally:
            self._connection = None
        self._judge(began, loop_time() - began)
        logger.warning("%s was lost: %s", connection.name, self.last_error)
        self._move("recovering", self.last_error)

    def _judge(self, began: float, lasted: float) -> None:
        """How a life counts for the pauses to come, and for when to give up."""
        if was_told(self.last_error):
            return
        self._short_lives = self._short_lives + 1 if lasted < seconds(self.backoff.maximum) else 0
        if lasted < VAIN_LIFE:
            self._vain_attempts += 1
            self._vain_since = began if self._vain_since is None else self._vain_since
        else:
            self._vain_attempts, self._vain_since = 0, None

    async def _refresh(self, connection: Connection, expires_in: float) -> None:
        """Give the broker a new token ahead of each expiry."""
        pause = expires_in * REFRESH_AT
        while True:
            await anyio.sleep(pause)
            pause = REFRESH_AGAIN
            try:
                _, password, following = await self._ask(REFRESH_BOUND)
                with anyio.fail_after(REFRESH_BOUND):
                    await connection.update_secret(password.reveal())
            except (RabbitryError, OSError, TimeoutError) as error:
                logger.warning("%s: the credentials could not be renewed: %s", connection.name, error)
                continue
            if following is None:
                return
            pause = following * REFRESH_AT

    def _move(self, state: State, error: Exception | None = None) -> None:
        self.state = state
        self._wake()
        self._tell(Change(self.role, state, error, loop_time()))

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
