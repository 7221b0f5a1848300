"""`python -m tests.measuring.independent`: a run's figures beside those of others who watched it, and how they differ.

- Messages: RabbitMQ's own counters (rabbitmq_prometheus' global ones, which are immediate and not sampled).
- Latencies: a second recorder in the same run, a plain list of every one, around the driver; its percentiles are exact.
- Processor time and memory: /proc, of both processes, read when the measured window opens and closes.

What must hold: counts are equal, everything else within 2 %. Processor time comes in ticks of 10 ms, so that a run has
to be long enough for that. With --output it writes `independent-BACKEND.md`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Any
from unittest.mock import patch

from loadtest.commands.flags import parse_settings
from loadtest.commands.performing import perform
from loadtest.drivers import rabbitry as driver
from loadtest.drivers.base import Outcome
from loadtest.execution.body import read_stamp
from loadtest.machine.resources import Meter
from loadtest.metrics.histogram import PERCENTILES
from loadtest.metrics.latencies import Measurement
from loadtest.metrics.record import Cost
from loadtest.output.console import make_console
from loadtest.output.progress import Progress
from rabbitry.testing import PrivateNode

BOUND = 0.02
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
COUNTERS = {
    "sent": "rabbitmq_global_messages_received_total",
    "confirmed": "rabbitmq_global_messages_confirmed_total",
    "received": "rabbitmq_global_messages_delivered_consume_manual_ack_total",
    "acknowledged": "rabbitmq_global_messages_acknowledged_total",
}


@dataclass(slots=True)
class Watcher:
    """What is seen from outside."""

    pid: int
    """The broker's."""
    window: tuple[int, int] = (0, 0)
    publishes: list[tuple[int, int]] = field(default_factory=list)
    """When each was sent and confirmed."""
    deliveries: list[tuple[int, int]] = field(default_factory=list)
    """When each was intended and arrived."""
    used: dict[str, list[float]] = field(default_factory=lambda: {"client": [], "broker": []})
    broker_rss_peak: int = 0
    client_rss_peak: int = 0

    def read_processors(self) -> None:
        self.used["client"].append(cpu_seconds(os.getpid()))
        self.used["broker"].append(cpu_seconds(self.pid))

    def seconds(self, side: str) -> float:
        before, after = self.used[side]
        return after - before

    def inside(self, spans: Sequence[tuple[int, int]]) -> list[float]:
        """The lengths in milliseconds of those that belong to the measured window, ascending."""
        start, end = self.window
        return sorted((done - began) / 1e6 for began, done in spans if began < end and done >= start)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from /proc."""
    text = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(text[11]) + int(text[12])) / TICK


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def rss_peak_bytes() -> int:
    """This process's, as the kernel remembers it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Everything of a run in the block is seen."""
    publish, consume = driver._Producer.publish, driver._Consumer.run
    open_window, close_window, cost_of = Measurement.open, Measurement.close, Meter.cost

    async def publish_and_time(self: Any, body: bytes, *more: Any) -> Outcome:
        began = monotonic_ns()
        outcome = await publish(self, body, *more)
        watcher.publishes.append((began, monotonic_ns()))
        return outcome

    async def consume_and_time(self: Any, receive: Any) -> None:
        def receive_and_time(body: bytes, redelivered: bool) -> Any:
            now, stamp = monotonic_ns(), read_stamp(body)
            if stamp is not None:
                watcher.deliveries.append((stamp[3], now))
            return receive(body, redelivered)

        await consume(self, receive_and_time)

    def open_and_read(self: Measurement, start: int, end: int) -> None:
        watcher.read_processors()
        open_window(self, start, end)

    def close_and_read(self: Measurement, now: int) -> None:
        close_window(self, now)
        watcher.read_processors()
        watcher.window = self.start, self.end

    def cost_and_read(self: Meter, *how: Any) -> Cost:
        watcher.client_rss_peak = rss_peak_bytes()
        return cost_of(self, *how)

    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            if len(watcher.used["broker"]) == 1:
                watcher.broker_rss_peak = max(watcher.broker_rss_peak, rss_bytes(watcher.pid))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        with (
            patch.object(driver._Producer, "publish", publish_and_time),
            patch.object(driver._Consumer, "run", consume_and_time),
            patch.object(Measurement, "open", open_and_read),
            patch.object(Measurement, "close", close_and_read),
            patch.object(Meter, "cost", cost_and_read),
        ):
            yield
    finally:
        over.set()
        looking.join()


def read_counters(port: int) -> dict[str, int]:
    """The broker's own counts so far, of all queue types."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    return {
        name: sum(int(float(value)) for value in re.findall(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))
        for name, metric in COUNTERS.items()
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, as the run reported it and as somebody else saw it."""

    name: str
    reported: float | None
    seen: float | None
    bound: float

    @property
    def deviation(self) -> float | None:
        if self.reported is None or not self.seen:
            return None if self.reported != self.seen else 0.0
        return self.reported / self.seen - 1

    @property
    def holds(self) -> bool:
        return self.deviation is not None and abs(self.deviation) <= self.bound

    def __str__(self) -> str:
        told = "–" if self.deviation is None else f"{self.deviation:+.2%}"
        mark = "✓" if self.holds else "✗"
        return f"{mark} {self.name:<28} {_told(self.reported):>16} {_told(self.seen):>16} {told:>9}"


def _told(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def compare(result: dict[str, Any], watcher: Watcher, counted: dict[str, int]) -> Iterator[Comparison]:
    publish, consume, used = result["publish"], result["consume"], result["resources"]
    for name, section in (("sent", publish), ("confirmed", publish), ("received", consume)):
        yield Comparison(f"{name} (broker's counter)", section[name], counted[name], 0.0)
    yield Comparison("acknowledged (its counter)", consume["received"], counted["acknowledged"], 0.0)
    for label, told, spans in (
        ("confirm", publish["confirm_service_ms"], watcher.inside(watcher.publishes)),
        ("end to end", consume["end_to_end_latency_ms"], watcher.inside(watcher.deliveries)),
    ):
        yield Comparison(f"{label} samples", told["count"], len(spans), BOUND)
        for name, fraction in PERCENTILES.items():
            if told[name] is not None:
                yield Comparison(f"{label} {name} ms", told[name], exact(spans, fraction), BOUND)
        yield Comparison(f"{label} mean ms", told["mean"], sum(spans) / len(spans), BOUND)
        yield Comparison(f"{label} max ms", told["max"], spans[-1], BOUND)
    for side in ("client", "broker"):
        yield Comparison(f"{side} processor s", used[f"{side}_cpu_seconds"], watcher.seconds(side), BOUND)
    yield Comparison("client peak memory", used["client_rss_peak_bytes"], watcher.client_rss_peak, BOUND)
    yield Comparison("broker peak memory", used["broker_rss_peak_bytes"], watcher.broker_rss_peak, BOUND)


def exact(ordered: Sequence[float], fraction: float) -> float:
    """The percentile of the samples themselves."""
    return ordered[max(1, int(fraction * len(ordered) + 0.5)) - 1]


def run(backend: str, seconds: float, clients: int, rate: str | None) -> list[Comparison]:
    """A run on a private node of its own, and what comes of looking at it twice."""
    with PrivateNode(plugins=("rabbitmq_prometheus",)) as node:
        port = node.ports["rabbitmq_prometheus"]
        half = str(max(1, clients // 2))
        words = ["--url", node.url, "--producers", half, "--consumers", half, "--callers", "0", "--backend", backend]
        words += ["--duration", f"{seconds:g}s", "--warmup", "1", "--quiet"]
        words += ["--rate", rate] if rate else ["--mode", "closed"]
        watcher, before = Watcher(node.pid), read_counters(port)
        with watching(watcher):
            performed = perform(parse_settings(words, {}), words, Progress(make_console(), quiet=True))
        if performed.failures:
            raise SystemExit(f"the run failed: {performed.failures}")
        counted = {name: count - before[name] for name, count in read_counters(port).items()}
        return list(compare(performed.result, watcher, counted))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.measuring.independent", description=__doc__)
    parser.add_argument("--backend", action="append", choices=("asyncio", "trio"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rate", help="a schedule; without it a closed loop")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args(arguments)
    is_good = True
    for backend in asked.backend or ("asyncio", "trio"):
        found = run(backend, asked.seconds, asked.clients, asked.rate)
        heading = f"  {backend:<28} {'reported':>16} {'independent':>16} {'deviation':>9}"
        lines = [heading, *map(str, found)]
        print("\n".join(lines), flush=True)
        if asked.output is not None:
            asked.output.mkdir(parents=True, exist_ok=True)
            text = "\n".join(("```", *lines, "```", ""))
            (asked.output / f"independent-{backend}.md").write_text(text, encoding="utf-8")
        is_good = is_good and all(each.holds for each in found)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
