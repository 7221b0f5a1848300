"""The run as it goes on, at a terminal and elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from loadtest.commands.flags import parse_settings
from loadtest.execution.state import Run, start_run
from loadtest.metrics.record import Phase
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Timeline
from loadtest.output.progress import Progress


async def in_phase(name: str) -> Run:
    run = start_run(parse_settings(["--clients", "100"], {}))
    run.record.tally.connected, run.record.tally.failed = 97, 3
    run.record.phases.append(Phase(name, 0.0))
    tally = Tally()
    tally.confirmed = 12_345
    Timeline(run.record.timeline).add(1.0, name, tally, [run.measurement.outside])
    return run


def console_of(width: int, *, is_terminal: bool) -> tuple[Console, Any]:
    file = io.StringIO()
    return Console(file=file, force_terminal=is_terminal, width=width, legacy_windows=False, _environ={}), file


@pytest.mark.parametrize("phase", ["connect", "warmup", "measure", "drain"])
@pytest.mark.parametrize("width", [40, 80, 200])
async def test_the_picture_at_a_terminal(phase: str, width: int) -> None:
    run = await in_phase(phase)
    console, file = console_of(width, is_terminal=True)
    with Progress(console, quiet=False) as progress:
        progress.say("starting")
        progress.update(run, run.record.timeline[-1], 2.0)
    text = file.getvalue()
    assert all(part in text for part in (phase, "starting", "97 of 100", "3 failed"))
    assert ("12,345/s" in text) == (phase != "connect")
    assert "\x1b[?1049h" in text and "\x1b[?1049l" in text, "on a screen of its own"


async def test_blocking_is_shown_while_it_lasts() -> None:
    run = await in_phase("measure")
    for is_terminal in (True, False):
        for run.is_blocked in (False, True):
            console, file = console_of(80, is_terminal=is_terminal)
            with Progress(console, quiet=False) as progress:
                progress.update(run, run.record.timeline[-1], 2.0)
            assert ("blocked" in file.getvalue()) == run.is_blocked


async def test_off_a_terminal_there_are_lines() -> None:
    """One for each phase, one every ten seconds."""
    run = await in_phase("warmup")
    console, file = console_of(200, is_terminal=False)
    with Progress(console, quiet=False) as progress:
        progress.say("starting")
        for second in range(26):
            progress.update(run, run.record.timeline[-1], float(second))
        run.record.phases.append(Phase("measure", 25.0))
        progress.update(run, run.record.timeline[-1], 26.0)
    lines = file.getvalue().splitlines()
    assert lines[0] == "starting"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0.0", "s", "warmup"],
        ["10.0", "s", "warmup"],
        ["20.0", "s", "warmup"],
        ["26.0", "s", "measure"],
    ]
    assert all("97 of 100, 3 failed" in line and "confirmed 12,345/s" in line for line in lines[1:])
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_quiet_is_quiet(is_terminal: bool) -> None:
    run = await in_phase("measure")
    console, file = console_of(80, is_terminal=is_terminal)
    with Progress(console, quiet=True) as progress:
        progress.say("starting")
        progress.update(run, run.record.timeline[-1], 2.0)
    assert file.getvalue() == ""
