"""`python -m tests.measuring.retries`: ten thousand messages of which a third fails at each of four attempts, without
faults and with the broker killed twice; how late a delay is on an idle broker; and what it all costs.

What must hold: each message is handled in the end, or in the dead queue; attempts are exact where nothing is killed;
what comes twice was under way at a kill, and so was what it came from; a delay is at most a tenth and 50 ms late.
With --output it writes `retries-BACKEND.md`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

import rabbitry
from rabbitry import Client, Delivery, Queue, Retry
from rabbitry.testing import PrivateNode

DELAYS = (2.0, 4.0, 6.0)
IDLE_DELAYS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
IDLE_ROUNDS = 10
CONCURRENCY = 50
UNDER_WAY = 2.0
"""Seconds before a kill in which what was acknowledged may not be known to the broker afterwards: it writes to its disk
a little later, and its delays hand messages over without telling us when.
"""
SETTLED = 8.0
"""Seconds from when queues are declared to the first kill: of a quorum queue that was declared in the last seconds
before it dies, RabbitMQ (3.10 to 4.0) forgets that it was ever leader, and it answers nobody for good.
"""
PATIENCE = 240.0


class NotYet(Exception):
    """What a handler fails with here."""


def fails(number: int, attempt: int) -> bool:
    """Whether this attempt at this message fails: a third of those that come to it, whichever that is."""
    return number // 3 ** (attempt - 1) % 3 == 0


def attempts_of(number: int, most: int) -> int:
    """How many attempts it takes, and what becomes of it: one more than `most` stands for dead."""
    return next((attempt for attempt in range(1, most + 1) if not fails(number, attempt)), most + 1)


@dataclass
class Ledger:
    """What became of each message of one run. Times are seconds of the event loop's clock."""

    messages: int
    delays: Sequence[float]
    begun: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """By message and attempt, when its handler was run."""
    done: Counter[int] = field(default_factory=Counter)
    dead: Counter[int] = field(default_factory=Counter)
    kills: list[tuple[float, float]] = field(default_factory=list)
    """When the broker was killed, and when the client was at work again."""
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def lost(self) -> set[int]:
        return set(range(self.messages)) - self.done.keys() - self.dead.keys()

    @property
    def runs(self) -> int:
        return sum(map(len, self.begun.values()))

    @property
    def expected_runs(self) -> int:
        most = len(self.delays) + 1
        return sum(min(most, attempts_of(number, most)) for number in range(self.messages))

    def wrong(self) -> list[str]:
        """What is not as it would be without faults, but for what came twice."""
        most = len(self.delays) + 1
        found = [f"{number} is lost" for number in sorted(self.lost)]
        for number in range(self.messages):
            needed = attempts_of(number, most)
            if missing := [each for each in range(1, min(needed, most) + 1) if (number, each) not in self.begun]:
                found.append(f"{number} did not have the attempts {missing}")
            if (number in self.dead) != (needed > most) or (number in self.done) == (needed > most):
                found.append(f"{number} ended otherwise than its attempts")
        unforeseen = [key for key in self.begun if key[1] > min(most, attempts_of(key[0], most))]
        return [*found, *(f"{number} had an attempt {attempt}" for number, attempt in unforeseen)]

    def twice(self) -> dict[int, list[float]]:
        """The messages that came twice, and when the first of what came twice had come, and the attempt before it, by
        which it was handed over.
        """
        found: dict[int, list[float]] = {}
        for number, attempt in sorted(self.begun):
            if len(times := self.begun[number, attempt]) > 1:
                found.setdefault(number, [times[0], *self.begun.get((number, attempt - 1), ())])
        for number, count in self.dead.items():
            if count > 1:
                found.setdefault(number, self.begun.get((number, len(self.delays) + 1), []))
        return found

    def twice_without_reason(self) -> list[int]:
        """Those of them that were not under way at a kill."""
        return [
            number
            for number, times in self.twice().items()
            if not any(killed - UNDER_WAY <= at <= back for killed, back in self.kills for at in times)
        ]

    def failures(self) -> list[str]:
        found = self.wrong()[:10]
        if reasonless := self.twice_without_reason():
            found.append(f"{len(reasonless)} came twice and were not under way at a kill: {reasonless[:10]}")
        return found


async def run(node: PrivateNode, messages: int, kills: int, delays: Sequence[float] = DELAYS) -> Ledger:
    """Have them all handled. The broker is killed when a share of the runs to come has been."""
    ledger = Ledger(messages, delays)
    jobs, dead = Queue("retries.jobs", type="quorum"), Queue("retries.dead", type="quorum")
    at_work = anyio.Event()
    async with rabbitry.open_client(node.url, reconnect=rabbitry.Backoff(maximum=1)) as client:
        await client.declare(jobs, dead)

        async def handle(delivery: Delivery) -> None:
            nonlocal at_work
            number, attempt = int(delivery.body), delivery.attempt
            ledger.begun.setdefault((number, attempt), []).append(anyio.current_time())
            at_work.set()
            if fails(number, attempt):
                raise NotYet
            ledger.done[number] += 1

        async def publish() -> None:
            async with client.publisher(on_unknown="republish") as publisher:
                for number in range(messages):
                    await publisher.submit(b"%d" % number, routing_key=jobs.name)

        async def bury(delivery: Delivery) -> None:
            ledger.dead[int(delivery.body)] += 1

        async with anyio.create_task_group() as tg:
            retry = Retry(delays, dead=dead)
            tg.start_soon(_supervised, partial(client.process, jobs, handle, retry=retry, concurrency=CONCURRENCY))
            tg.start_soon(_supervised, partial(client.process, dead, bury))
            await anyio.sleep(SETTLED if kills else 0)
            began, cpu = anyio.current_time(), time.process_time()
            tg.start_soon(publish)
            with anyio.move_on_after(PATIENCE):
                for kill in range(kills):
                    while ledger.runs < ledger.expected_runs * (kill + 1) / (kills + 2):
                        await anyio.sleep(0.01)
                    killed = anyio.current_time()
                    await node.akill()
                    await node.arestart()
                    at_work = anyio.Event()
                    await at_work.wait()
                    # What was handed over as it died, and what it delivers again, is all on its way now.
                    ledger.kills.append((killed, anyio.current_time() + UNDER_WAY))
                while ledger.lost:
                    await anyio.sleep(0.05)
                ledger.seconds, ledger.cpu = anyio.current_time() - began, time.process_time() - cpu
                await _emptied(client, jobs, max(delays))
            tg.cancel_scope.cancel()
        await client.delete(jobs, dead)
    return ledger


async def _supervised(process: Callable[[], Awaitable[None]]) -> None:
    """RabbitMQ 3.10 crashes the channel (541) of who consumes from a quorum queue that has no leader yet after a
    restart, again and again perhaps, which ends a `process`.
    """
    while True:
        try:
            return await process()
        except rabbitry.ConnectionClosed:
            await anyio.sleep(0.5)


async def _emptied(client: Client, jobs: Queue, longest: float) -> None:
    """Return once nothing comes any more: what came twice may still be on its way."""
    quiet_since = anyio.current_time()
    while anyio.current_time() - quiet_since < longest * 1.1 + 1:
        info = await client.inspect(jobs)
        if info is None or info.message_count:
            quiet_since = anyio.current_time()
        await anyio.sleep(0.2)


# --- an idle broker ---------------------------------------------------------------------------------------------------


async def lateness(node: PrivateNode, rounds: int, delays: Sequence[float] = IDLE_DELAYS) -> dict[float, list[float]]:
    """By delay, how much later than asked each message came, in seconds, from its failure to its next attempt."""
    found: dict[float, list[float]] = {delay: [] for delay in delays}
    queue = Queue("retries.idle", type="quorum")
    async with rabbitry.open_client(node.url) as client:
        await client.declare(queue)
        failed: dict[bytes, float] = {}
        left = rounds * len(delays)
        stop = rabbitry.Stop()

        async def handle(delivery: Delivery) -> None:
            nonlocal left
            now = anyio.current_time()
            if (at := failed.get(delivery.body)) is not None:
                found[delays[delivery.attempt - 2]].append(now - at - delays[delivery.attempt - 2])
                left -= 1
                if not left:
                    stop.set()
            if delivery.attempt <= len(delays):
                failed[delivery.body] = anyio.current_time()
                raise NotYet

        async with anyio.create_task_group() as tg:
            await tg.start(partial(client.process, queue, handle, retry=Retry(delays), concurrency=rounds, stop=stop))
            for number in range(rounds):
                await client.publish(b"%d" % number, routing_key=queue.name)
                await anyio.sleep(0.037)  # so that they are due apart
        await client.delete(queue)
    return found


def too_late(found: dict[float, list[float]]) -> list[str]:
    return [
        f"a delay of {delay:g} s was {late * 1000:.0f} ms late"
        for delay, all_late in found.items()
        for late in all_late
        if not -0.005 <= late <= delay * 0.1 + 0.05
    ]


# --- what it costs ----------------------------------------------------------------------------------------------------


async def costs(node: PrivateNode, messages: int) -> list[tuple[str, str, str]]:
    """What was done, messages a second, and microseconds of this process for each."""
    queue = Queue("retries.cost", type="quorum")
    rows: list[tuple[str, str, str]] = []
    async with rabbitry.open_client(node.url) as client:
        await client.declare(queue)
        await client.publish(b"", routing_key=queue.name, delay=30)

        async def publish(count: int, delay: float | None) -> None:
            for _ in range(count):
                await client.publish(b"x", routing_key=queue.name, delay=delay)

        for what, delay, tasks in (
            ("publish, one at a time", None, 1),
            ("publish(delay=30), one at a time", 30, 1),
            ("publish, 50 tasks", None, 50),
            ("publish(delay=30), 50 tasks", 30, 50),
        ):
            count = messages // 5 if tasks == 1 else messages
            began, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as tg:
                for _ in range(tasks):
                    tg.start_soon(publish, count // tasks, delay)
            rows.append(_row(what, count, time.perf_counter() - began, time.process_time() - cpu))
        for what, retry in (("process, all succeed", None), ("process(retry=), all fail once", Retry([30]))):
            async with client.channel() as channel:
                await channel.purge_queue(queue)
            async with client.publisher() as publisher:
                for _ in range(messages):
                    await publisher.submit(b"x", routing_key=queue.name)
            stop, seen = rabbitry.Stop(), 0
            is_failing = retry is not None

            async def handle(delivery: Delivery, stop: rabbitry.Stop = stop, is_failing: bool = is_failing) -> None:
                nonlocal seen
                seen += 1
                if seen == messages:
                    stop.set()
                if is_failing:
                    raise NotYet

            began, cpu = time.perf_counter(), time.process_time()
            await client.process(queue, handle, retry=retry, concurrency=CONCURRENCY, stop=stop)
            rows.append(_row(what, messages, time.perf_counter() - began, time.process_time() - cpu))
        # How quickly what is due at once comes out of its delay: from the first to arrive to the last.
        async with client.channel() as channel:
            await channel.purge_queue(queue)
        burst = 20.0
        async with anyio.create_task_group() as tg:
            for _ in range(CONCURRENCY):
                tg.start_soon(publish, messages // CONCURRENCY, burst)
        seen = 0
        async with client.consume(queue, prefetch=1000) as deliveries:
            async for delivery in deliveries:
                if not seen:
                    began, cpu = time.perf_counter(), time.process_time()
                seen += 1
                delivery.ack()
                if seen == messages:
                    break
        rows.append(_row("come out of a delay", messages, time.perf_counter() - began, time.process_time() - cpu))
        async with client.channel() as channel:
            for level in ("30000", "20000"):
                await channel.delete_queue(f"rabbitry.delay.{level}ms")
        await client.delete(queue)
    return rows


def _row(what: str, count: int, seconds: float, cpu: float) -> tuple[str, str, str]:
    return what, f"{count / seconds:,.0f}", f"{cpu / count * 1e6:.0f}"


# --- the page ---------------------------------------------------------------------------------------------------------


def page(
    ledgers: Sequence[Ledger], late: dict[float, list[float]], rows: Sequence[tuple[str, str, str]], backend: str
) -> str:
    lines = [f"## Retries, {backend}\n"]
    for ledger in ledgers:
        most = len(ledger.delays) + 1
        twice = ledger.twice()
        delays = ", ".join(f"{each:g}" for each in ledger.delays)
        lines.append(
            f"{ledger.messages:,} messages, {most} attempts after {delays} s, the broker killed {len(ledger.kills)} "
            f"times: {ledger.runs:,} runs of the handler, where {ledger.expected_runs:,} are needed; "
            f"{len(ledger.done):,} handled, {len(ledger.dead):,} in the dead queue, **{len(ledger.lost)}** lost; "
            f"{len(twice):,} came twice, of which **{len(ledger.twice_without_reason())}** were not under way at a "
            f"kill. {ledger.seconds:.1f} s, {ledger.cpu / max(1, ledger.runs) * 1e6:.0f} µs of CPU a run. "
            f"Wrong: {'; '.join(ledger.failures()) or 'nothing'}.\n"
        )
    if late:
        lines += ["| delay | late, median | at most | allowed |", "|---|---|---|---|"]
        for delay, all_late in late.items():
            median = sorted(all_late)[len(all_late) // 2]
            worst, allowed = max(all_late), delay * 0.1 + 0.05
            lines.append(f"| {delay:g} s | {median * 1000:.0f} ms | {worst * 1000:.0f} ms | {allowed * 1000:.0f} ms |")
        lines.append("")
    if rows:
        lines += ["| | messages/s | µs of CPU each |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.retries", description="Retries under faults.")
    parser.add_argument("--messages", type=int, default=10_000, help="(default: 10000)")
    parser.add_argument("--kills", type=int, default=2, help="times that the broker is killed (default: 2)")
    parser.add_argument("--only", choices=["exact", "killed", "idle", "cost"], action="append")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write the page, e.g. results")
    arguments = parser.parse_args()
    logging.getLogger("rabbitry").setLevel(logging.CRITICAL)  # failures are the point here, and counted
    parts = arguments.only or ["exact", "killed", "idle", "cost"]

    async def measure() -> tuple[list[Ledger], dict[float, list[float]], list[tuple[str, str, str]]]:
        with PrivateNode() as node:
            late = await lateness(node, IDLE_ROUNDS) if "idle" in parts else {}
            rows = await costs(node, arguments.messages) if "cost" in parts else []
            ledgers = []
            if "exact" in parts:
                ledgers.append(await run(node, arguments.messages, 0))
            if "killed" in parts:
                ledgers.append(await run(node, arguments.messages, arguments.kills))
            return ledgers, late, rows

    ledgers, late, rows = anyio.run(measure, backend=arguments.backend)
    text = page(ledgers, late, rows, arguments.backend)
    failures = [failure for ledger in ledgers for failure in ledger.failures()] + too_late(late)
    failures += [
        f"{len(each.twice()):,} came twice without a kill" for each in ledgers if not each.kills and each.twice()
    ]
    print(text)
    print("Failures:", "; ".join(failures) or "none")
    if arguments.output is not None:
        target = arguments.output / f"retries-{arguments.backend}.md"
        target.write_text(f"# Retries and delays, {datetime.now(UTC):%Y-%m-%d}\n\n{text}")
        print(f"written: {target}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
