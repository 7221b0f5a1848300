"""The soak itself: a cluster, a proxy before each node, clients that publish and consume, faults, and a watchdog.

What must stay true: a message is in the ledger as published before its consumer may enter it as arrived; the faults
end, with every node up, before the publishers do; what is left in the queues is waited for, and only that.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

import anyio
import psutil
from anyio.abc import TaskStatus

import rabbitry
from rabbitry import Backoff, Client, Delivery, Queue, Reactor
from rabbitry.testing import PrivateCluster, Proxy, Schedule, open_proxy
from tests.measuring.soak.ledger import Ledger

BACKOFF = Backoff(initial=0.2, maximum=5)
HEARTBEAT = 2.0
"""Seconds: short, so that some stalls outlast it."""
PACE = 1.0
"""Seconds between a client's publishes, on average."""
STANDSTILL = 60.0
"""Seconds in which every client must have had a confirm: a node's restart takes 20 on a small machine."""
SETTLE = 60.0
"""Seconds after the last publish in which all that was confirmed must have been delivered."""


@dataclass
class Soak:
    """clients: that publish, each on a connection of its own. seconds: of faults. kill_every: seconds from one node's
    death to another's, on average; it is started again after down_for. fault_every: seconds between the faults of each
    of the three proxies."""

    clients: int
    seconds: float
    seed: int
    queues: int = 10
    kill_every: float = 60.0
    down_for: float = 10.0
    fault_every: float = 15.0
    on_progress: bool = True
    failures: list[str] = field(default_factory=list)

    async def run(self, cluster: PrivateCluster) -> Ledger:
        self.ledger = Ledger(began=anyio.current_time())
        self.over = anyio.Event()
        async with AsyncExitStack() as stack:
            proxies = [await stack.enter_async_context(open_proxy(url)) for url in cluster.urls]
            reactor = await stack.enter_async_context(rabbitry.open_reactor())
            queues = [Queue(f"soak.{number}", type="quorum") for number in range(self.queues)]
            async with reactor.open_client(cluster.urls, reconnect=BACKOFF) as steward:
                await steward.declare(*queues)
                await self._work(cluster, proxies, reactor, queues)
                await steward.delete(*queues)
        self.failures += self.ledger.failures()
        return self.ledger

    async def _work(self, cluster: PrivateCluster, proxies: list[Proxy], reactor: Reactor, queues: list[Queue]) -> None:
        urls = [proxy.url for proxy in proxies]
        async with anyio.create_task_group() as consuming:
            for queue in queues:
                await consuming.start(self._consume, reactor, urls, queue)
            async with anyio.create_task_group() as publishing:
                self.ledger.began = anyio.current_time()
                for number in range(self.clients):
                    publishing.start_soon(self._publish, reactor, urls, number, queues[number % len(queues)])
                await self._trouble(cluster, proxies)
                self.over.set()
            with anyio.move_on_after(SETTLE):
                while self.ledger.lost:
                    await anyio.sleep(0.2)
            consuming.cancel_scope.cancel()

    # --- the clients --------------------------------------------------------------------------------------------------

    async def _consume(self, reactor: Reactor, urls: list[str], queue: Queue, *, task_status: TaskStatus[None]) -> None:
        async def take(delivery: Delivery) -> None:
            client, number = delivery.body.split()
            self.ledger.arrive(int(client), int(number))

        async with reactor.open_client(urls, reconnect=BACKOFF, heartbeat=HEARTBEAT) as client:
            await client.process(queue, take, prefetch=200, task_status=task_status)

    async def _publish(self, reactor: Reactor, urls: list[str], name: int, queue: Queue) -> None:
        ledger, random, number = self.ledger, Random(name), 0
        ledger.enter(name, anyio.current_time())
        await anyio.sleep(random.uniform(0, PACE))
        async with (
            reactor.open_client(urls, reconnect=BACKOFF, heartbeat=HEARTBEAT, name=f"soak-{name}") as client,
            anyio.create_task_group() as watching,
        ):
            watching.start_soon(self._note_losses, client, name)
            while not self.over.is_set():
                try:
                    await client.publish(b"%d %d" % (name, number), routing_key=queue.name)
                except rabbitry.PublishFailed as error:
                    ledger.fail(name, number, type(error).__name__)
                else:
                    ledger.confirm(name, number, anyio.current_time())
                number += 1
                await anyio.sleep(random.uniform(0.5, 1.5) * PACE)
            watching.cancel_scope.cancel()

    async def _note_losses(self, client: Client, name: int) -> None:
        with client.changes() as changes:
            async for change in changes:
                if change.state == "recovering":
                    self.ledger.lose(name, change.time)
                elif change.state == "connected":
                    self.ledger.return_(name)

    # --- the faults ---------------------------------------------------------------------------------------------------

    async def _trouble(self, cluster: PrivateCluster, proxies: list[Proxy]) -> None:
        """For as long as is asked, and until the node that is down by then is up."""
        random = Random(self.seed)
        async with anyio.create_task_group() as tg:
            for proxy in proxies:
                schedule = Schedule(proxy, seed=random.getrandbits(32), every=self.fault_every, share=0.3)
                tg.start_soon(schedule.run)
                tg.start_soon(self._note_faults, schedule)
            tg.start_soon(self._kill, cluster, random)
            tg.start_soon(self._watch)
            await anyio.sleep(self.seconds)
            tg.cancel_scope.cancel()

    async def _kill(self, cluster: PrivateCluster, random: Random) -> None:
        while True:
            await anyio.sleep(max(0.0, random.uniform(0.7, 1.3) * self.kill_every - self.down_for))
            node = random.choice(cluster.nodes)
            with anyio.CancelScope(shield=True):
                self.ledger.strike("node killed", anyio.current_time())
                await node.akill()
                await anyio.sleep(self.down_for)
                await node.arestart()

    async def _note_faults(self, schedule: Schedule) -> None:
        seen = 0
        while True:
            for fault in list(schedule.applied)[seen:]:
                self.ledger.strike(fault.name, anyio.current_time())
                seen += 1
            await anyio.sleep(0.05)

    async def _watch(self) -> None:
        """Samples each second, and sees to it that nobody stands still."""
        process, ledger = psutil.Process(), self.ledger
        while True:
            now = anyio.current_time()
            ledger.sample(now, process.memory_info().rss)
            slowest = ledger.slowest(now)
            if self.on_progress and len(ledger.samples) % 10 == 0:
                outcomes = ", ".join(f"{count:,} {name}" for name, count in ledger.outcomes.most_common())
                print(
                    f"{now - ledger.began:4.0f} s: {outcomes}; {len(ledger.faults)} faults, {len(ledger.down)} clients "
                    f"down; the slowest has waited {slowest:.0f} s",
                    flush=True,
                )
            if slowest > STANDSTILL:
                self.failures.append(f"a client had nothing confirmed for {slowest:.0f} s")
                return
            await anyio.sleep(1)
