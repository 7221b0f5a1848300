"""`python -m tests.soak`: many clients publish to quorum queues of a cluster while faults strike, and a ledger is kept.

Half a thousand clients publish with confirms, each on a connection of its own through one of three proxies; ten others
consume. A seeded schedule spoils the ways to the brokers, and about every minute a node is killed and started again.
What must hold: what was confirmed is delivered; every other publish is accounted for as nacked or of unknown outcome;
nobody stands still. It writes `results/soak.md`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import anyio

import rabbitry
from rabbitry import Backoff, Queue
from rabbitry.testing import PrivateCluster, Schedule, open_proxy

TARGET = Path("results/soak.md")
QUEUES = 10
PACE = 1.0
"""Seconds between a client's publishes: half a thousand clients are what a cluster on a small machine bears."""
STANDSTILL = 60.0
"""Seconds in which every client must have had a confirm: a node's restart takes 20 here."""
SETTLE = 30.0
"""Seconds after the last publish in which all that was confirmed must have been delivered."""
KILL_EVERY = 60.0
DOWN_FOR = 10.0


@dataclass
class Ledger:
    """What became of each publish (client, number), and what arrived."""

    outcomes: Counter[str] = field(default_factory=Counter)
    confirmed: set[tuple[int, int]] = field(default_factory=set)
    uncertain: set[tuple[int, int]] = field(default_factory=set)
    arrived: Counter[tuple[int, int]] = field(default_factory=Counter)
    latest: dict[int, float] = field(default_factory=dict)  # each client's latest confirm
    struck: list[tuple[str, float]] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault to each client's next confirm."""
    waiting: dict[int, list[float]] = field(default_factory=dict)  # by client: the faults since its latest confirm

    def strike(self, name: str) -> None:
        now = anyio.current_time()
        self.struck.append((name, now))
        for faults in self.waiting.values():
            faults.append(now)

    def confirm(self, client: int, number: int) -> None:
        now = self.latest[client] = anyio.current_time()
        self.outcomes["confirmed"] += 1
        self.confirmed.add((client, number))
        self.recoveries += [now - at for at in self.waiting[client]]
        self.waiting[client] = []

    @property
    def lost(self) -> set[tuple[int, int]]:
        return self.confirmed - self.arrived.keys()


class Soak:
    def __init__(self, clients: int, seconds: float, seed: int) -> None:
        self.clients, self.seconds, self.seed = clients, seconds, seed
        self.ledger = Ledger()
        self.over = anyio.Event()
        self.failures: list[str] = []

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(PrivateCluster(connections=self.clients + 500))
            proxies = [await stack.enter_async_context(open_proxy(url)) for url in cluster.urls]
            reactor = await stack.enter_async_context(rabbitry.open_reactor())
            urls = [proxy.url for proxy in proxies]
            backoff = Backoff(initial=0.2, maximum=5)
            queues = [Queue(f"soak.{number}", type="quorum") for number in range(QUEUES)]
            async with reactor.open_client(cluster.urls, reconnect=backoff) as steward:
                await steward.declare(*queues)
                async with anyio.create_task_group() as consuming:
                    for queue in queues:
                        consumer = await stack.enter_async_context(
                            reactor.open_client(urls, reconnect=backoff, heartbeat=5)
                        )
                        await consuming.start(self._start_consuming, consumer, queue)
                    async with anyio.create_task_group() as working:
                        began = anyio.current_time()
                        for number in range(self.clients):
                            working.start_soon(self._publish, reactor, urls, number, queues[number % QUEUES])
                        random = Random(self.seed)
                        async with anyio.create_task_group() as troubling:
                            for proxy in proxies:
                                schedule = Schedule(proxy, seed=random.getrandbits(32), every=15, share=0.3)
                                troubling.start_soon(schedule.run)
                                troubling.start_soon(self._note, schedule)
                            troubling.start_soon(self._kill, cluster, random)
                            troubling.start_soon(self._watch)
                            await anyio.sleep_until(began + self.seconds)
                            troubling.cancel_scope.cancel()
                        with anyio.CancelScope(shield=True):
                            for node in cluster.nodes:
                                if not node.is_running:
                                    await node.arestart()
                        self.over.set()
                    with anyio.move_on_after(SETTLE):
                        while self.ledger.lost:
                            await anyio.sleep(0.2)
                    consuming.cancel_scope.cancel()
                await steward.delete(*queues)

    async def _start_consuming(
        self, client: rabbitry.Client, queue: Queue, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        async def take(delivery: rabbitry.Delivery) -> None:
            client_number, number = delivery.body.split()
            self.ledger.arrived[int(client_number), int(number)] += 1

        await client.process(queue, take, concurrency=1, prefetch=200, task_status=task_status)

    async def _publish(self, reactor: rabbitry.Reactor, urls: list[str], name: int, queue: Queue) -> None:
        ledger, random = self.ledger, Random(name)
        ledger.waiting[name], ledger.latest[name] = [], anyio.current_time()
        await anyio.sleep(random.uniform(0, PACE))
        backoff = Backoff(initial=0.2, maximum=5)
        async with reactor.open_client(urls, reconnect=backoff, heartbeat=5, name=f"soak-{name}") as client:
            number = 0
            while not self.over.is_set():
                number += 1
                try:
                    await client.publish(b"%d %d" % (name, number), routing_key=queue.name)
                except rabbitry.PublishFailed as error:
                    ledger.outcomes[type(error).__name__] += 1
                    ledger.uncertain.add((name, number))
                else:
                    ledger.confirm(name, number)
                await anyio.sleep(random.uniform(0.5, 1.5) * PACE)

    async def _kill(self, cluster: PrivateCluster, random: Random) -> None:
        while True:
            await anyio.sleep(random.uniform(0.7, 1.3) * KILL_EVERY - DOWN_FOR)
            node = random.choice(cluster.nodes)
            self.ledger.strike("node killed")
            await node.akill()
            await anyio.sleep(DOWN_FOR)
            await node.arestart()

    async def _note(self, schedule: Schedule) -> None:
        """Tell the ledger of each fault of a schedule."""
        seen = 0
        while True:
            for fault in list(schedule.applied)[seen:]:
                self.ledger.strike(fault.name)
                seen += 1
            await anyio.sleep(0.05)

    async def _watch(self) -> None:
        """Nothing may stand still; shows the progress."""
        while True:
            await anyio.sleep(5)
            ledger, now = self.ledger, anyio.current_time()
            slowest = max(now - latest for latest in ledger.latest.values())
            outcomes = ", ".join(f"{count:,} {name}" for name, count in ledger.outcomes.most_common())
            print(f"{outcomes}; {len(ledger.struck)} faults; the slowest waits {slowest:.0f} s", flush=True)
            if slowest > STANDSTILL:
                self.failures.append(f"a client stood still for {slowest:.0f} s")
                return

    def report(self, backend: str) -> str:
        ledger = self.ledger
        unarrived = len(ledger.uncertain - ledger.arrived.keys())
        recoveries = sorted(ledger.recoveries) or [0.0]
        faults = Counter(name for name, _ in ledger.struck)
        twice = sum(count - 1 for count in ledger.arrived.values())
        rows = [
            ("clients, seconds, seed, backend", f"{self.clients}, {self.seconds:g}, {self.seed}, {backend}"),
            ("faults", ", ".join(f"{count} {name}" for name, count in faults.most_common())),
            ("publishes", ", ".join(f"{count:,} {name}" for name, count in ledger.outcomes.most_common())),
            ("confirmed, but never delivered", f"**{len(ledger.lost)}**"),
            ("not confirmed: arrived, did not", f"{len(ledger.uncertain) - unarrived:,}, {unarrived:,}"),
            ("delivered more than once", f"{twice:,}"),
            (
                "seconds from a fault to a client's next confirm (each publishes about every second): p50, p99, max",
                ", ".join(f"{recoveries[int(share * (len(recoveries) - 1))]:.2f}" for share in (0.5, 0.99, 1)),
            ),
            ("failures", "; ".join(self.failures) or "none"),
        ]
        return "\n".join(f"| {name} | {value} |" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Publish under faults, and keep account.")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--no-report", action="store_true", help="do not write results/soak.md")
    arguments = parser.parse_args()
    soak = Soak(arguments.clients, arguments.seconds, arguments.seed)
    anyio.run(soak.run, backend=arguments.backend)
    table = f"| | |\n|---|---|\n{soak.report(arguments.backend)}\n"
    print(table)
    if not arguments.no_report:
        TARGET.write_text(f"# A soak under faults\n\n{__doc__}\n\n{datetime.now(UTC):%Y-%m-%d}.\n\n{table}")
    return int(bool(soak.ledger.lost or soak.failures))


if __name__ == "__main__":
    sys.exit(main())
