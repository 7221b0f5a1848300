"""What the measuring processes share: clocks, memory, the line of JSON in which each hands over its figures.

A figure's unit is in its name. It knows no client, and imports nothing that would count towards a client's memory.
"""

from __future__ import annotations

import json
import os
import resource
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

QUEUE = "rabbitry.bench"
BODY = b"x" * 128
PREFETCH = 500
WINDOW = 1000
TASKS = 100
OPENING = 200
"""How many connections are being opened at a time, by every client alike."""
PUBLISHES_EACH = 5
"""Confirmed publishes per connection, one after the other on each."""

Figures = dict[str, float]


class Clocks:
    """Wall time and this process's processor time (all threads, user and system) since it was made; how much of that
    the kernel used, by its coarser account; and how often the process went to sleep."""

    def __init__(self) -> None:
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def figures(self, messages: int) -> Figures:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "messages": messages,
            "seconds": wall,
            "cpu_seconds": cpu,
            "system_seconds": usage.ru_stime - self._usage.ru_stime,
            "sleeps": usage.ru_nvcsw - self._usage.ru_nvcsw,
        }


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def percentiles(latencies: list[float]) -> Figures:
    ordered = sorted(latencies)
    return {
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
    }


def connection_figures(
    opening: Figures, before: int, publishing: Figures | None = None, latencies: list[float] | None = None
) -> Figures:
    """The figures of a run with many connections. `opening` is about opening them: its messages are the connections,
    its `resident_bytes` were read when all were open. `before` is the memory without any; `publishing` was over all.
    """
    connections = opening["messages"]
    figures = {
        "connections": connections,
        "connect_seconds": opening["seconds"],
        "connect_cpu_seconds": opening["cpu_seconds"],
        "bytes_per_connection": (opening["resident_bytes"] - before) / connections,
    }
    if publishing is not None and latencies is not None:
        figures |= publishing | percentiles(latencies)
        figures["bytes_per_connection_after"] = (resident_bytes() - before) / connections
    return figures


def raise_descriptor_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def print_figures(figures: Figures) -> None:
    print(json.dumps(figures), flush=True)


def arguments(jobs: list[str]) -> Namespace:
    """job, url, count and backend, as every measuring process in Python takes them."""
    parser = ArgumentParser()
    parser.add_argument("job", choices=jobs)
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    return parser.parse_args()
