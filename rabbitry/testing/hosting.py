"""What the fixtures of the pytest plugin stand on: blocks held open for a test, and virtual hosts for many.

What must stay true: a block is left in the task that entered it, whoever sets up and tears down the fixture, and what
it raises reaches the test; a virtual host is never given twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import quote

from anyio.from_thread import start_blocking_portal

from rabbitry._concurrency.waiting import running_loop
from rabbitry.broker import Broker, Version
from rabbitry.testing.rabbitmq.node import PrivateNode

__all__ = ["VirtualHosts", "broker_in_a_thread", "hosted"]

T = TypeVar("T")

MADE_AT_ONCE = 10
"""Virtual hosts: the command takes half a second, whether for one or for ten."""


@asynccontextmanager
async def hosted(block: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """The same block, for a fixture: on asyncio in a task of its own, as pytest-asyncio sets up and tears down a
    fixture in different ones.
    """
    loop = running_loop()
    if not isinstance(loop, asyncio.AbstractEventLoop):
        async with block as value:
            yield value
        return
    entered: asyncio.Future[T] = loop.create_future()
    left = asyncio.Event()

    async def host() -> None:
        async with block as value:
            entered.set_result(value)
            await left.wait()

    task = loop.create_task(host())
    try:
        await asyncio.wait((task, entered), return_when=asyncio.FIRST_COMPLETED)
        if entered.done():
            yield entered.result()
    finally:
        left.set()
        await task


@contextmanager
def broker_in_a_thread(compat: Version) -> Iterator[str]:
    """The URL of an embedded broker whose event loop runs in a thread of its own, in real time."""
    with start_blocking_portal(backend_options={"loop_factory": asyncio.SelectorEventLoop}) as portal:
        with portal.wrap_async_context_manager(Broker(compat=compat)) as broker:
            portal.call(broker.listen)
            yield broker.url


class VirtualHosts:
    """Virtual hosts at a node, for the user guest; those that were given are deleted when others are made."""

    def __init__(self, node: PrivateNode) -> None:
        self._node = node
        self._ready: list[str] = []
        self._given: list[str] = []

    def next_url(self) -> str:
        """The URL of a virtual host that nobody has been given yet. Takes half a second for one in ten."""
        if not self._ready:
            self._ready = [f"test-{secrets.token_hex(6)}" for _ in range(MADE_AT_ONCE)]
            self._node.rabbitmqctl("eval", _exchange(self._given, self._ready))
            self._given = []
        name = self._ready.pop()
        self._given.append(name)
        return self._node.url.rpartition("/")[0] + "/" + quote(name, safe="")


def _exchange(old: list[str], new: list[str]) -> str:
    """What `rabbitmqctl delete_vhost`, `add_vhost` and `set_permissions` do, as one expression for the node."""
    return f"""
        [rabbit_vhost:delete(Name, <<"rabbitry">>) || Name <- {_erlang(old)}],
        [begin
            ok = rabbit_vhost:add(Name, <<"rabbitry">>),
            ok = rabbit_auth_backend_internal:set_permissions(
                <<"guest">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"rabbitry">>)
        end || Name <- {_erlang(new)}], ok."""


def _erlang(names: list[str]) -> str:
    return "[" + ", ".join(f'<<"{name}">>' for name in names) + "]"
