"""The faults: each strikes once, says so, and is healed, where it can be, when its block is entered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread

from rabbitry.testing import PrivateNode, Proxy
from tests.measuring.fault_table.operations import Operation, World

STALL = 3.5
"""Seconds: the clients' heartbeat is 1 s, and two missed ones end a connection."""
ALARM = 2.0


@dataclass
class Scene:
    """Whom a fault may strike: the way to the broker, the broker, and what the operations use."""

    proxy: Proxy
    node: PrivateNode
    world: World
    operations: list[Operation]


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def cut(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.cut()
    scene.world.struck.set()
    yield


@asynccontextmanager
async def reset(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.reset()
    scene.world.struck.set()
    yield


@asynccontextmanager
async def stall(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.stall()
    scene.world.struck.set()
    await anyio.sleep(STALL)
    scene.proxy.resume()
    yield


@asynccontextmanager
async def half_close(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.half_close()
    scene.world.struck.set()
    yield


@asynccontextmanager
async def kill_and_restart(scene: Scene) -> AsyncIterator[None]:
    await scene.node.akill()
    scene.world.struck.set()
    await scene.node.arestart()
    yield


@asynccontextmanager
async def restart(scene: Scene) -> AsyncIterator[None]:
    await scene.node.astop()
    scene.world.struck.set()
    await scene.node.arestart()
    yield


@asynccontextmanager
async def forced_close(scene: Scene) -> AsyncIterator[None]:
    await anyio.to_thread.run_sync(scene.node.rabbitmqctl, "close_all_connections", "as a test")
    scene.world.struck.set()
    yield


@asynccontextmanager
async def memory_alarm(scene: Scene) -> AsyncIterator[None]:
    async with scene.node.memory_alarm():
        scene.world.struck.set()
        await anyio.sleep(ALARM)
    yield


@asynccontextmanager
async def queue_deleted(scene: Scene) -> AsyncIterator[None]:
    scene.world.call_bound = 1.0  # a request that was in the queue is gone with it
    await scene.world.calm.delete(*[operation.queue for operation in scene.operations])
    scene.world.struck.set()
    yield


@asynccontextmanager
async def node_lost(scene: Scene) -> AsyncIterator[None]:
    await scene.node.akill()
    scene.world.struck.set()
    yield  # it stays lost: the others take over


ON_A_CLUSTER = "cluster node lost"

FAULTS: dict[str, Fault] = {
    "cut": cut,
    "reset": reset,
    "stall past the heartbeat": stall,
    "half-close": half_close,
    "SIGKILL and restart": kill_and_restart,
    "graceful restart": restart,
    "forced close": forced_close,
    "memory alarm": memory_alarm,
    "queue deleted": queue_deleted,
    ON_A_CLUSTER: node_lost,
}
