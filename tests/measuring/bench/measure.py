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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.measuring.bench.rpc import Server

QUEUE = "rabbitry.bench"
BODY = b"x" * 128
PREFETCH = 500
WINDOW = 1000
TASKS = 100
WARM_UP = 100
"""Calls that are made before RPC is measured."""
OPENING = 200
"""How many connections are being opened at a time, by every client alike."""
PUBLISHES_EACH = 5
"""Confirmed publishes per connection, one after the other on each."""

Figures = dict[str, float]


class Clocks:
    """Wall time since it was made, and what this process (and its server, if it has one) used meanwhile."""

    def __init__(self, server: Server | None = None) -> None:
        self._server = server
        self._served = server.usage() if server is not None else {}
        self._used = usage()
        self._wall = time.perf_counter()

    def figures(self, messages: int) -> Figures:
        wall = time.perf_counter() - self._wall
        used = usage()
        served = self._server.usage() if self._server is not None else {}
        return {"messages": messages, "seconds": wall} | {
            name: used[name] - self._used[name] + served.get(name, 0) - self._served.get(name, 0) for name in used
        }


def usage() -> Figures:
    """This process's processor time so far (all threads, user and system); how much of that the kernel used, by its
    coarser account; and how often the process went to sleep."""
    cpu = time.process_time()
    found = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_seconds": cpu, "system_seconds": found.ru_stime, "sleeps": found.ru_nvcsw}


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
