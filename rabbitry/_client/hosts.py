"""Several URLs of one client: the next one is tried beside one that does not answer, and the first to be open is used.

What must stay true: a host that accepts and says nothing keeps nobody from the others; no more than one connection is
left open; a single host costs no task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio

from rabbitry._concurrency.scopes import background
from rabbitry._connection.connection import Connection
from rabbitry._connection.settings import Settings
from rabbitry._errors import ConnectFailed

__all__ = ["HOST_DELAY", "first_to_open"]

HOST_DELAY = 0.5
"""Seconds after which the next host is tried beside one that is not open yet. Twice what an address of one name has
(RFC 8305): hosts are brokers, mostly, and one that is busy should not have its clients go to all the others as well.
"""


Enter: TypeAlias = Callable[[Settings], Awaitable[Connection]]
Failed: TypeAlias = Callable[[Settings, OSError], bool]


async def first_to_open(hosts: Sequence[Settings], enter: Enter, failed: Failed) -> tuple[Settings, Connection] | None:
    """The host that was open first, and its connection; None where all have failed. `failed` is told of each failure,
    and says whether to raise it, as no other host would mend it. Cancelling it leaves nothing behind.
    """
    race = _Race(enter, failed)
    try:
        if len(hosts) == 1:
            await race.enter(hosts[0])
        else:
            await race.run(hosts)
    except BaseException:
        if race.winner is not None:
            await race.winner[1].__aexit__(None, None, None)
        raise
    if race.final is not None:
        raise race.final
    return race.winner


class _Race:
    """`ended` counts the hosts that have been tried."""

    __slots__ = ("_enter", "_failed", "_news", "ended", "final", "winner")

    def __init__(self, enter: Enter, failed: Failed) -> None:
        self._enter = enter
        self._failed = failed
        self._news: anyio.Event | None = None
        self.ended = 0
        self.winner: tuple[Settings, Connection] | None = None
        self.final: OSError | None = None

    @property
    def is_decided(self) -> bool:
        return self.winner is not None or self.final is not None

    async def run(self, hosts: Sequence[Settings]) -> None:
        """Return when it is decided, or all have failed."""
        async with background() as tg:
            try:
                for host in hosts:
                    if self.is_decided:
                        return
                    tg.start_soon(self.enter, host)
                    with anyio.move_on_after(HOST_DELAY):
                        await self._more_ended(self.ended + 1)
                await self._more_ended(len(hosts))
            finally:
                tg.cancel_scope.cancel()

    async def _more_ended(self, count: int) -> None:
        while self.ended < count and not self.is_decided:
            self._news = anyio.Event()
            await self._news.wait()

    async def enter(self, host: Settings) -> None:
        """Try this one."""
        try:
            connection = await self._enter(host)
        except (ConnectFailed, OSError) as error:
            if not self.is_decided and self._failed(host, error):
                self.final = error
        else:
            if self.is_decided:
                await connection.__aexit__(None, None, None)
            else:
                self.winner = host, connection
        self.ended += 1
        if self._news is not None:
            self._news.set()
