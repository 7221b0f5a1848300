"""`python -m tests.measuring.reconnect`: ten thousand clients whose broker goes away, and how they come back.

Half of them publish, half consume, each on a connection of its own, all in this process. Two faults: the broker is
killed and started again; and it ends all connections at once while it stays up, so that all come back to a broker that
takes them. What must hold: all are back and at work, and nothing that was confirmed is missing. Attempts to connect are
counted, by the credentials being asked for. With --output it writes `reconnect-BACKEND.md` and `.svg`.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import psutil
from anyio.abc import TaskGroup

import rabbitry
from rabbitry import Client, Credentials, Delivery, Queue, Reactor
from rabbitry.testing import PrivateNode
from tests.support.picture import Mark, Panel, draw, rates

QUEUES = 100
PACE = 20.0
"""Seconds between a client's publishes, on average."""
AT_ONCE = 200
"""Clients that connect at the same time to begin with."""
STEADY = 10.0
"""Seconds of plain work before each fault, and at the end."""
PATIENCE = 300.0
"""Seconds after which who is not back counts as lost."""
EVERY = 0.25
"""Seconds between samples."""
COLLECT_AFTER = 50_000
"""Objects made, more than ended, until the garbage collector looks. Over millions that live it takes seconds."""


@dataclass
class Return:
    """How they came back from one fault. Times are seconds since it."""

    fault: str
    up: float
    """When the broker had done it, and answered."""
    back: list[float] = field(default_factory=list)
    """When each client had its connection again, with what it needs on it."""
    attempts: list[float] = field(default_factory=list)
    cpu: float = 0.0
    memory_before: float = 0.0
    memory_peak: float = 0.0
    memory_after: float = 0.0
    pause: float = 0.0
    """The longest in which this process did nothing else than one thing."""

    @property
    def busiest(self) -> int:
        """Attempts in the second that had the most."""
        return max(Counter(int(at) for at in self.attempts).values(), default=0)


class Crowd:
    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.began = anyio.current_time()
        self.process = psutil.Process()
        self.connected: set[int] = set()
        self.returns: list[Return] = []
        self.attempts = 0
        self.confirmed: set[tuple[int, int]] = set()
        self.uncertain: Counter[str] = Counter()
        self.arrived: Counter[tuple[int, int]] = Counter()
        self.samples: list[tuple[float, int, int, float]] = []  # seconds, connected, attempts, MiB
        self.marks: list[Mark] = []
        self.failures: list[str] = []
        self.idle_memory = 0.0
        self.full_memory = 0.0
        self._struck_at: float | None = None
        self._over = anyio.Event()

    @property
    def memory(self) -> float:
        return self.process.memory_info().rss / 2**20

    async def run(self) -> None:
        async with (
            PrivateNode(connections=self.clients) as node,
            rabbitry.open_reactor() as reactor,
            anyio.create_task_group() as sampling,
        ):
            queues = [Queue(f"crowd.{number}") for number in range(QUEUES)]
            async with reactor.connect(node.url) as connection, connection.channel() as channel:
                await channel.declare(*queues)
            self.idle_memory = self.memory
            sampling.start_soon(self._sample)
            async with anyio.create_task_group() as working:
                await self._enter(working, reactor, node.url, queues)
                self.full_memory = self.memory
                gc.collect()
                gc.freeze()  # as docs/guides/many_connections.md advises
                gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
                print(f"{self.clients:,} connected after {anyio.current_time() - self.began:.1f} s", flush=True)
                await anyio.sleep(STEADY)
                await self._strike("is killed, and started again", "broker killed", node, self._kill)
                await anyio.sleep(STEADY)
                await self._strike("ends all connections, and stays up", "all connections ended", node, self._end_all)
                await anyio.sleep(STEADY)
                await self._check(reactor, node.url, queues)
                self._over.set()
                working.cancel_scope.cancel()
            sampling.cancel_scope.cancel()

    # --- the clients --------------------------------------------------------------------------------------------------

    async def _enter(self, working: TaskGroup, reactor: Reactor, url: str, queues: list[Queue]) -> None:
        turns = anyio.Semaphore(AT_ONCE)
        for number in range(self.clients):
            await turns.acquire()
            work = self._consume if number % 2 else self._publish
            working.start_soon(self._live, work, reactor, url, number, queues[number // 2 % QUEUES], turns)
        while len(self.connected) < self.clients:
            await anyio.sleep(0.05)

    async def _live(self, work, reactor: Reactor, url: str, number: int, queue: Queue, turns: anyio.Semaphore) -> None:
        async def credentials() -> Credentials:
            self.attempts += 1
            if self._struck_at is not None:
                self.returns[-1].attempts.append(anyio.current_time() - self._struck_at)
            return Credentials("guest", "guest")

        async with (
            reactor.open_client(url, name=f"crowd-{number}", credentials=credentials, connect_timeout=30) as client,
            anyio.create_task_group() as tg,
        ):
            tg.start_soon(self._note, client, number)
            await work(client, number, queue, turns)

    async def _publish(self, client: Client, number: int, queue: Queue, turns: anyio.Semaphore) -> None:
        random, count = Random(number), 0
        while True:
            count += 1
            try:
                await client.publish(b"%d %d" % (number, count), routing_key=queue.name)
            except rabbitry.PublishFailed as error:
                self.uncertain[type(error).__name__] += 1
            else:
                self.confirmed.add((number, count))
            if count == 1:
                turns.release()
            await anyio.sleep(random.uniform(0, 2 * PACE))

    async def _consume(self, client: Client, number: int, queue: Queue, turns: anyio.Semaphore) -> None:
        async def take(delivery: Delivery) -> None:
            publisher, count = delivery.body.split()
            self.arrived[int(publisher), int(count)] += 1

        async with anyio.create_task_group() as tg:
            await tg.start(client.process, queue, take)
            turns.release()

    async def _note(self, client: Client, number: int) -> None:
        with client.changes() as changes:
            if client.is_ready:
                self.connected.add(number)
            async for change in changes:
                if change.state == "connected":
                    self.connected.add(number)
                    if self._struck_at is not None:
                        self.returns[-1].back.append(change.time - self._struck_at)
                else:
                    self.connected.discard(number)

    # --- the faults ---------------------------------------------------------------------------------------------------

    async def _strike(self, fault: str, mark: str, node: PrivateNode, strike) -> None:
        self._struck_at = anyio.current_time()
        self.marks.append(Mark(self._struck_at - self.began, mark, strong=True))
        found = Return(fault, up=0.0, memory_before=self.memory)
        self.returns.append(found)
        cpu, first = sum(self.process.cpu_times()[:2]), len(self.samples)
        await strike(node)
        found.up = anyio.current_time() - self._struck_at
        with anyio.move_on_after(PATIENCE):
            while len(self.connected) < self.clients or len(found.back) < self.clients:
                await anyio.sleep(0.05)
        if missing := self.clients - len(self.connected):
            self.failures.append(f"{missing:,} are not back {PATIENCE:g} s after the broker {fault}")
        found.cpu = sum(self.process.cpu_times()[:2]) - cpu
        found.memory_peak = max((memory for *_, memory in self.samples[first:]), default=self.memory)
        found.memory_after = self.memory
        found.pause = max(0.0, *(after[0] - before[0] - EVERY for before, after in pairwise(self.samples[first:])))
        self._struck_at = None
        print(f"{len(self.connected):,} back {max(found.back, default=0):.1f} s after the broker {fault}", flush=True)

    async def _kill(self, node: PrivateNode) -> None:
        await node.akill()
        await node.arestart()

    async def _end_all(self, node: PrivateNode) -> None:
        # All at once: `close_all_connections` closes one after the other, which takes minutes here.
        await anyio.to_thread.run_sync(
            node.rabbitmqctl,
            "eval",
            "[spawn(fun() -> rabbit_networking:close_connection(C, <<>>) end)"
            " || C <- rabbit_networking:connections()], ok.",
        )

    async def _sample(self) -> None:
        while True:
            seconds = anyio.current_time() - self.began
            self.samples.append((seconds, len(self.connected), self.attempts, self.memory))
            await anyio.sleep(EVERY)

    # --- afterwards ---------------------------------------------------------------------------------------------------

    async def _check(self, reactor: Reactor, url: str, queues: list[Queue]) -> None:
        """Every consumer is at its queue, and whatever was confirmed has come."""
        async with reactor.connect(url) as connection, connection.channel() as channel:
            found = [await channel.declare_queue(queue.name, passive=True) for queue in queues]
        consumers = sum(queue.consumer_count for queue in found)
        if consumers != self.clients // 2:
            self.failures.append(f"{consumers:,} of {self.clients // 2:,} consumers are at their queues")
        with anyio.move_on_after(30):
            while self.lost:
                await anyio.sleep(0.1)
        if self.lost:
            self.failures.append(f"{len(self.lost):,} confirmed and never delivered")

    @property
    def lost(self) -> set[tuple[int, int]]:
        return self.confirmed - self.arrived.keys()


def page(crowd: Crowd, backend: str) -> str:
    rows: list[tuple[str, ...]] = [
        ("the broker", *(found.fault for found in crowd.returns)),
        ("---", *("---" for _ in crowd.returns)),
        ("the broker is done with that, and answers, after", *(f"{found.up:.1f} s" for found in crowd.returns)),
        *(
            (f"{share:.0%} of the clients are back after", *(_when(found, share) for found in crowd.returns))
            for share in (0.5, 0.9, 0.99, 1)
        ),
        ("attempts to connect", *(f"{len(found.attempts):,}" for found in crowd.returns)),
        ("in the busiest second", *(f"{found.busiest:,}" for found in crowd.returns)),
        ("longest pause of the event loop", *(f"{found.pause:.2f} s" for found in crowd.returns)),
        ("CPU of this process until all are back", *(f"{found.cpu:.1f} s" for found in crowd.returns)),
        (
            "its memory before, at most, after",
            *(
                f"{found.memory_before:.0f}, {found.memory_peak:.0f}, {found.memory_after:.0f} MiB"
                for found in crowd.returns
            ),
        ),
    ]
    each = (crowd.full_memory - crowd.idle_memory) * 1024 / crowd.clients
    return "\n".join(
        [
            f"## {crowd.clients:,} clients, {backend}\n",
            f"![connections, attempts, memory](reconnect-{backend}.svg)\n",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            f"Each client takes {each:.1f} KiB here: a supervised connection with its tasks, a channel and a handler.",
            f"{len(crowd.confirmed):,} publishes were confirmed, of which **{len(crowd.lost):,}** are missing; "
            f"{crowd.uncertain.total():,} others failed, each told to its publisher"
            + "".join(f", {count:,} as {name}" for name, count in crowd.uncertain.items())
            + f"; {crowd.arrived.total() - len(crowd.arrived):,} came twice.",
            f"Failures: {'; '.join(crowd.failures) or 'none'}.\n",
        ]
    )


def _when(found: Return, share: float) -> str:
    back = sorted(found.back)
    return f"{back[int(share * (len(back) - 1))]:.1f} s" if back else "–"


def picture(crowd: Crowd, backend: str) -> str:
    return draw(
        f"{crowd.clients:,} clients whose broker goes away, {backend}",
        [
            Panel("connections", {"open": [(seconds, count) for seconds, count, *_ in crowd.samples]}),
            Panel("attempts/s", {"to connect": rates([(seconds, count) for seconds, _, count, _ in crowd.samples])}),
            Panel("MiB", {"memory": [(seconds, memory) for seconds, *_, memory in crowd.samples]}),
        ],
        crowd.marks,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.reconnect", description="How a crowd comes back.")
    parser.add_argument("--clients", type=int, default=10_000, help="half publish, half consume (default: 10000)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write page and picture, e.g. results")
    arguments = parser.parse_args()
    logging.getLogger("rabbitry").setLevel(logging.ERROR)  # losses are the point here, and counted

    async def run() -> Crowd:
        crowd = Crowd(arguments.clients)
        await crowd.run()
        return crowd

    crowd = anyio.run(run, backend=arguments.backend)
    text = page(crowd, arguments.backend)
    print(text)
    if arguments.output is not None:
        target = arguments.output / f"reconnect-{arguments.backend}.md"
        target.write_text(f"# How a crowd comes back, {datetime.now(UTC):%Y-%m-%d}\n\n{text}")
        target.with_suffix(".svg").write_text(picture(crowd, arguments.backend))
        print(f"written: {target}")
    return int(bool(crowd.failures))


if __name__ == "__main__":
    sys.exit(main())
