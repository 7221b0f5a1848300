"""What a run shows while it seeks its rate."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from loadtest.commands.flags import parse_settings
from loadtest.execution.state import Run, start_run
from loadtest.output.progress import Progress, render_progress


def seeking() -> Run:
    run = start_run(parse_settings(["--clients", "100"], {}))
    run.begin_phase("search")
    run.doing = "step 4, 12,000/s"
    return run


@pytest.mark.parametrize("width", [40, 80, 200])
async def test_the_picture_says_which_step_it_is(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_progress(seeking(), None, 10.0, width))
    output: Any = console.file
    first = output.getvalue().splitlines()[0]
    assert "search: step 4, 12,000/s" in first
    assert len(first) <= width


async def test_each_step_is_a_line_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=200)
    progress, run = Progress(console, quiet=False), seeking()
    progress.update(run, None, 10.0)
    progress.update(run, None, 10.5)
    run.doing = "verifying, 11,000/s"
    progress.update(run, None, 11.0)
    output: Any = console.file
    told = [line.split("  ")[1:3] for line in output.getvalue().strip().splitlines()]
    assert [text for line in told for text in line if text.startswith("search")] == [
        "search: step 4, 12,000/s",
        "search: verifying, 11,000/s",
    ]
