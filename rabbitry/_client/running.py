"""`Running`: what a client is made of: its links, the tasks that keep them, its unfinished work, and its end, in order.

What must stay true: a client is complete when it is made; the scope raises for what waiting does not mend, and then
only; leaving it ends consuming first, then publishing, then the connections, in bounded time.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from rabbitry._client.changes import Change, Changes
from rabbitry._client.link import CredentialsSource, Fate, Link
from rabbitry._client.publisher import Publishers
from rabbitry._client.registry import Registry
from rabbitry._client.subscriptions import Subscriptions
from rabbitry._concurrency.scopes import background
from rabbitry._concurrency.waiting import waits
from rabbitry._connection.connection import Connection
from rabbitry._connection.hub import Hub, open_hub
from rabbitry._connection.settings import Settings
from rabbitry._errors import ConsumingStopped, LocalProtocolError, NotConnected, RabbitryError
from rabbitry._later import Later
from rabbitry._values.backoff import Backoff

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Later("asyncio")

__all__ = ["Host", "Running", "run_client", "start_hosted"]

logger = logging.getLogger("rabbitry")

C = TypeVar("C")


class Host:
    """The asyncio task that a client without a block lives in."""

    __slots__ = ("_check_loop", "_leave", "_task")

    def __init__(self) -> None:
        self._check_loop = waits().check_loop
        self._leave = anyio.Event()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()

    async def wait_left(self) -> None:
        """Return when the client is to be left."""
        await self._leave.wait()

    async def end(self) -> None:
        """Leave the client, and return once it has been."""
        self._check_loop()
        assert self._task is not None
        self._leave.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({self._task})


class Running:
    """What one client shares with its tasks. `host` is the task of a client that `start_client` made."""

    __slots__ = (
        "_working",
        "changes",
        "closed",
        "consuming",
        "fate",
        "host",
        "publishers",
        "publishing",
        "registry",
        "subscriptions",
    )

    def __init__(
        self,
        tg: TaskGroup,
        fate: Fate,
        hub: Hub,
        hosts: Sequence[Settings],
        *,
        backoff: Backoff,
        credentials: CredentialsSource | None,
        on_change: Callable[[Change], None] | None,
        host: Host | None,
    ) -> None:
        start_soon = tg.start_soon
        self.fate: Fate = fate
        self.host: Host | None = host
        self.closed: anyio.Event = anyio.Event()
        self.registry: Registry = Registry()
        self.subscriptions: Subscriptions = Subscriptions(self.registry, start_soon)
        self.publishers: Publishers = Publishers(start_soon)
        self.changes: Changes = Changes(on_change)
        self._working: set[anyio.Event] = set()  # one for each `process` or `serve` under way

        def link(role: str, restore: Callable[[Connection], Any]) -> Link:
            named = [replace(each, name=f"{each.name}-{role}") for each in hosts]
            tell, keep = self._tell, self._keep
            return Link(
                role,
                hub,
                named,
                backoff,
                credentials,
                fate,
                start_soon=start_soon,
                keep=keep,
                restore=restore,
                tell=tell,
            )

        self.consuming: Link = link("consume", self.registry.restore)
        self.publishing: Link = link("publish", self._await_topology)

    @property
    def links(self) -> tuple[Link, Link]:
        """The publishing one, and the consuming one."""
        return self.publishing, self.consuming

    # --- the links ----------------------------------------------------------------------------------------------------

    async def _keep(self, link: Link) -> None:
        """Run a link. When it fails, that is the end of the other, too."""
        try:
            await link.run()
        finally:
            self.stop_links()

    def _tell(self, change: Change) -> None:
        if change.state == "connected" and not change.is_alarm and change.connection == self.consuming.role:
            self.subscriptions.life_began()
        self.changes.tell(change)

    async def _await_topology(self, _: Connection) -> None:
        """What is published must find the queues that went with the former life."""
        if not self.registry.is_lasting:
            await self.consuming.connection("wait", is_patient=True)

    def stop_consuming(self) -> None:
        """Take no more deliveries, for good, nor wait for a connection in order to."""
        self.subscriptions.stop(
            ConsumingStopped(
                "client.stop_consuming() was called, which is for good: consume by another client, or end a single "
                "process or serve by a Stop that it is given, and a consume by its own stop()"
            )
        )
        self.consuming.stop_waiting()

    def stop_for(self, signal: str) -> None:
        """`stop_consuming`, because of this signal."""
        logger.info("%s: no more deliveries are taken; the next one is handled as ever", signal)
        self.stop_consuming()

    def stop_links(self) -> None:
        """Have both come to their end, and none begin."""
        for link in self.links:
            link.stop()

    # --- the end ------------------------------------------------------------------------------------------------------

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What leaving the client waits for, up to its bound."""
        done = anyio.Event()
        self._working.add(done)
        try:
            yield
        finally:
            self._working.discard(done)
            done.set()

    async def drain(self, bound: float) -> None:
        """Let what other tasks have under way come to its end: handlers first, as they may publish."""
        if self.fate.failure is not None:
            return
        self.subscriptions.stop(self.fate.closed_error())
        if self._working or self.publishers.are_pending:
            with anyio.move_on_after(bound, shield=True):
                for done in list(self._working):
                    await done.wait()
                await self.publishers.flush()

    def end(self) -> None:
        """No task is left: tell whoever still waits for something."""
        for link in self.links:
            link.close()
        self.publishers.give_up(self.fate.closed_error())
        self.changes.end()
        self.closed.set()


@asynccontextmanager
async def run_client(
    make: Callable[[Running], C],
    hub: Hub | None,
    hosts: Sequence[Settings],
    *,
    backoff: Backoff,
    credentials: CredentialsSource | None,
    drain: float,
    on_change: Callable[[Change], None] | None = None,
    host: Host | None = None,
) -> AsyncIterator[C]:
    """The client that `make` gives, with its tasks, on `hub` or on one of its own. Its connections are named as `hosts`
    say, with their role added.
    """
    fate = Fate()
    running: Running | None = None
    async with nullcontext(hub) if hub is not None else open_hub() as hub:
        try:
            async with background() as tg:
                running = Running(
                    tg,
                    fate,
                    hub,
                    hosts,
                    backoff=backoff,
                    credentials=credentials,
                    on_change=on_change,
                    host=host,
                )
                try:
                    yield make(running)
                finally:
                    hub.waits.check_loop()
                    try:
                        await running.drain(drain)
                    finally:
                        running.stop_links()
                        tg.cancel_scope.cancel()
        except NotConnected as error:
            if fate.failure is not None and error.__cause__ is fate.failure:
                raise fate.failure from None  # the body met it before it was cancelled
            raise
        finally:
            if running is not None and hub.is_here():
                running.end()


async def start_hosted(run: Callable[[Host], AbstractAsyncContextManager[C]]) -> C:
    """What `run` gives, entered in an asyncio task of its own, which leaves it again when the host is ended."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise LocalProtocolError("start_client is for asyncio; under trio: 'async with open_client(...)'") from None
    started: asyncio.Future[C] = loop.create_future()

    async def live() -> None:
        host = Host()
        try:
            async with run(host) as client:
                if not started.done():
                    started.set_result(client)
                await host.wait_left()
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            elif not isinstance(error, RabbitryError):
                raise

    task = loop.create_task(live(), name="rabbitry client")
    try:
        return await asyncio.shield(started)
    except BaseException:
        task.cancel()
        raise
