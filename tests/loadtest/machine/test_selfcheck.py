from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from loadtest.machine.selfcheck import find_slowdowns

PROGRAM = """
import asyncio
from loadtest.machine.selfcheck import find_slowdowns
async def main(): print(*find_slowdowns(), sep="|")
asyncio.run(main())
"""


def ask(*options: str, **environment: str) -> list[str]:
    """What a new interpreter with these options says of itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    told = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM],
        env=clean | {"PYTHONPATH": os.getcwd()} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.strip()
    return told.split("|") if told else []


def test_an_ordinary_interpreter_has_nothing_to_say() -> None:
    assert ask() == []


def test_development_mode_has_a_slow_loop_too() -> None:
    dev, loop = ask("-X", "dev")
    assert dev.startswith("Python's development mode") and loop.startswith("asyncio's debug mode")
    assert ask(PYTHONDEVMODE="1") == [dev, loop]


def test_switches_that_are_left_in_the_environment() -> None:
    (loop,) = ask(PYTHONASYNCIODEBUG="1")
    assert loop.startswith("asyncio's debug mode")
    assert ask("-X", "tracemalloc") == ["tracemalloc"]
    assert ask(PYTHONMALLOC="debug") == ["a debugging memory allocator (PYTHONMALLOC)"]


def test_a_loop_that_is_asked_for_its_debug_mode() -> None:
    async def main() -> list[str]:
        asyncio.get_running_loop().set_debug(True)
        return find_slowdowns()

    assert any(each.startswith("asyncio's debug mode") for each in asyncio.run(main()))
    assert not any(each.startswith("asyncio's") for each in find_slowdowns()), "there is no loop here"


@pytest.mark.parametrize(
    ("switch", "current", "name"),
    [
        (sys.settrace, sys.gettrace, "a tracer, such as a debugger or coverage"),
        (sys.setprofile, sys.getprofile, "a profiler"),
    ],
)
def test_tracers_and_profilers(switch: Callable[[Any], None], current: Callable[[], Any], name: str) -> None:
    def trace(frame: FrameType, event: str, argument: object) -> None:
        return None

    before = current()
    switch(trace)
    try:
        found = find_slowdowns()
    finally:
        switch(before)
    assert name in found
