"""All clocks are read in one place, so that virtual time reaches everything."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.project.rooms import Graph, is_within

GRAPH = Graph()

SEAM = "rabbitry._concurrency"

IN_REAL_TIME = {
    "rabbitry.blocking": "threads wait by locks, which know no time but the machine's",
    "rabbitry._cli": "a program for people, who wait in real time; it has no seam but the front doors",
    "rabbitry.testing.rabbitmq": "processes of the machine, and nothing of this library",
}

OF_TIME = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}
OF_DATES = {"now", "today", "utcnow"}


def clocks_read(tree: ast.Module) -> Iterator[str]:
    """Every place that reads a clock, or imports one by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "anyio", "trio", "trio.lowlevel"):
            clocks = {*OF_TIME, "current_time", "current_clock"}
            found = [alias.name for alias in node.names if alias.name.removesuffix("_ns") in clocks]
            yield from (f"{node.lineno}: from {node.module} import {name}" for name in found)
        elif isinstance(node, ast.Attribute):
            of = ast.unparse(node.value)
            is_of_time = of == "time" and node.attr.removesuffix("_ns") in OF_TIME
            is_date = of.rpartition(".")[2] in ("datetime", "date") and node.attr in OF_DATES
            is_loops = node.attr in ("time", "current_time") and of not in ("time", "self", "datetime")
            if is_of_time or is_date or is_loops:
                yield f"{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in GRAPH.sources
        if is_within(name, "rabbitry") and not any(is_within(name, room) for room in (SEAM, *IN_REAL_TIME))
    ],
)
def test_no_clock_is_read_outside_the_seam(module: str) -> None:
    assert not list(clocks_read(GRAPH.trees[module])), "ask rabbitry._concurrency.clock"


def test_within_the_room_of_the_seam_few_files_read_clocks() -> None:
    files = {name for name in GRAPH.sources if is_within(name, SEAM) and list(clocks_read(GRAPH.trees[name]))}
    assert files == {f"{SEAM}.{name}" for name in ("clock", "virtual_asyncio", "virtual_trio")}


def test_who_lives_in_real_time_reads_clocks() -> None:
    """Else it needs no exception."""
    for room in IN_REAL_TIME:
        assert any(list(clocks_read(GRAPH.trees[name])) for name in GRAPH.sources if is_within(name, room)), room


@pytest.mark.parametrize(
    "line",
    [
        "import time\ntime.monotonic()",
        "import time\nread = time.perf_counter_ns",
        "from time import time",
        "from anyio import current_time",
        "import anyio\nanyio.current_time()",
        "import trio\ntrio.current_time()",
        "asyncio.get_running_loop().time()",
        "loop = self._loop\nloop.time()",
        "from datetime import datetime\ndatetime.now()",
        "import datetime\ndatetime.datetime.now(datetime.UTC)",
    ],
)
def test_each_way_to_read_a_clock_is_seen(line: str) -> None:
    assert len(list(clocks_read(ast.parse(line)))) == 1


def test_what_only_looks_like_it_is_not() -> None:
    text = "import time\ntime.sleep(1)\nself.time = change.timestamp\nfrom datetime import time\nmonotonic()"
    assert not list(clocks_read(ast.parse(text)))
