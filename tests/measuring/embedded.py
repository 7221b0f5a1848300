"""`python -m tests.measuring.embedded`: what the embedded broker bears in a process of its own, beside RabbitMQ.

Three figures, with rabbitry as the client, on one event loop and in turns with both brokers: unconfirmed publishes a
second, until the queue has the last of them; messages a second from a publisher with confirms to a
consumer that acknowledges each; and the memory of the broker's process with so many connections. Beside the rates it
tells the broker's processor time for each message, which a busy machine changes less. `REQUIRED` is what must hold for
the embedded broker; of RabbitMQ's figures nothing is asked. Five minutes, on a machine with nothing beside it; the
descriptors of both processes are raised as far as they may be. `--messages 20000 --connections 500 --rounds 1` to try.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import anyio
import psutil

import rabbitry
from rabbitry.testing import PrivateNode

BODY = b"x" * 100
WINDOW = 1000
"""Messages that a publisher may have unconfirmed, and a consumer unacknowledged."""
AT_ONCE = 100
"""Connections that are being opened at the same time."""
SETTLING = 2.0
"""Seconds before memory is looked at."""
PUBLISHES, MESSAGES, MEMORY = "unconfirmed publishes/s", "messages/s with confirms and acks", "MB with the connections"
REQUIRED = {PUBLISHES: 40_000.0, MESSAGES: 15_000.0, MEMORY: 150.0}


@dataclass
class Subject:
    """A broker that is measured. Of each figure there is one value a round."""

    name: str
    url: str
    process: psutil.Process
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    def cpu(self) -> float:
        """Seconds of processor time."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> float:
        """Megabytes that are resident."""
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def embedded_broker() -> Iterator[Subject]:
    """In a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "rabbitry", "broker", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            yield Subject("embedded", json.loads(child.stdout.readline())["url"], psutil.Process(child.pid))
        finally:
            child.terminate()


async def publish(subject: Subject, count: int) -> None:
    """So many, without confirms, into a queue that nobody consumes."""
    async with rabbitry.connect(subject.url) as connection, connection.channel(confirm=False) as channel:
        queue = await channel.declare_queue(exclusive=True)
        began, cpu = time.perf_counter(), subject.cpu()
        for _ in range(count):
            try:
                channel.publish_nowait(BODY, routing_key=queue.name)
            except anyio.WouldBlock:
                await channel.publish(BODY, routing_key=queue.name)
        while (await channel.declare_queue(queue.name, passive=True)).message_count < count:
            pass  # RabbitMQ counts ahead of what is on its way to the queue
        note_rate(subject, PUBLISHES, count, time.perf_counter() - began, subject.cpu() - cpu)


async def pass_on(subject: Subject, count: int) -> None:
    """So many, from a publisher to a consumer, each on a connection of its own."""
    async with (
        rabbitry.connect(subject.url) as one,
        rabbitry.connect(subject.url) as other,
        one.channel() as source,
        other.channel(prefetch=WINDOW) as sink,
    ):
        queue = await sink.declare_queue(exclusive=True)

        async def produce() -> None:
            async with source.publisher(window=WINDOW) as publisher:
                for _ in range(count):
                    await publisher.submit(BODY, routing_key=queue.name)

        began, cpu, left = time.perf_counter(), subject.cpu(), count
        async with sink.consume(queue.name) as deliveries, anyio.create_task_group() as tg:
            tg.start_soon(produce)
            async for delivery in deliveries:
                await delivery.ack()
                left -= 1
                if not left:
                    break
        note_rate(subject, MESSAGES, count, time.perf_counter() - began, subject.cpu() - cpu)


def note_rate(subject: Subject, figure: str, count: int, seconds: float, cpu: float) -> None:
    subject.note(figure, count / seconds)
    subject.note(f"{figure}: broker's us each", cpu / count * 1e6)


async def hold(subject: Subject, count: int) -> None:
    """So many connections, which do nothing."""
    gate, opened, is_over = anyio.Semaphore(AT_ONCE), anyio.Event(), anyio.Event()
    left, before = count, subject.memory()

    async def keep(reactor: rabbitry.Reactor) -> None:
        nonlocal left
        await gate.acquire()
        async with reactor.connect(subject.url):
            gate.release()
            left -= 1
            if not left:
                opened.set()
            await is_over.wait()

    async with rabbitry.open_reactor() as reactor, anyio.create_task_group() as tg:
        for _ in range(count):
            tg.start_soon(keep, reactor)
        await opened.wait()
        await anyio.sleep(SETTLING)
        subject.note(MEMORY, subject.memory())
        subject.note("KB for each connection", (subject.memory() - before) / count * 1000)
        is_over.set()


async def measure_rates(subjects: Sequence[Subject], messages: int, rounds: int) -> None:
    """In turns."""
    for _ in range(rounds):
        for subject in subjects:
            await publish(subject, messages)
            await pass_on(subject, messages)


async def measure_connections(subjects: Sequence[Subject], connections: int) -> None:
    """Each broker's, in turn."""
    for subject in subjects:
        await hold(subject, connections)


def table(subjects: Sequence[Subject]) -> str:
    """The medians, and what is required of the embedded broker."""
    lines = [f"{'':<52}" + "".join(f"{subject.name:>14}" for subject in subjects) + f"{'required':>14}"]
    for figure in subjects[0].figures:
        values = "".join(f"{median(subject.figures[figure]):>14,.1f}" for subject in subjects)
        bound = f"{'at most' if figure == MEMORY else 'at least'} {REQUIRED[figure]:,.0f}" if figure in REQUIRED else ""
        lines.append(f"{figure:<52}{values}  {bound}")
    return "\n".join(lines)


def unmet(subject: Subject) -> list[str]:
    """What is required and does not hold."""
    medians = {figure: median(subject.figures[figure]) for figure in REQUIRED}
    return [
        f"{figure}: {value:,.1f}, not {REQUIRED[figure]:,.0f}"
        for figure, value in medians.items()
        if (value > REQUIRED[figure] if figure == MEMORY else value < REQUIRED[figure])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--messages", type=int, default=300_000, help="of each round (default %(default)s)")
    parser.add_argument("--connections", type=int, default=10_000, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio", help="(default %(default)s)")
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with embedded_broker() as embedded, PrivateNode() as node:
        subjects = (embedded, Subject("RabbitMQ", node.url, psutil.Process(node.pid)))

        async def work() -> None:
            await measure_connections(subjects, asked.connections)  # first: what rates leave behind is not theirs
            await measure_rates(subjects, asked.messages, asked.rounds)

        anyio.run(work, backend=asked.backend)
    print(table(subjects))
    missed = unmet(embedded)
    for each in missed:
        print(f"not met: {each}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
