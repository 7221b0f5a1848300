"""The live picture."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from loadtest.commands.flags import parse_settings
from loadtest.execution.state import start_run
from loadtest.metrics.record import Phase
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Timeline
from loadtest.output.progress import Progress


async def test_the_live_picture_is_for_terminals_only() -> None:
    run = start_run(parse_settings(["--clients", "100"], {}))
    run.record.tally.connected, run.record.tally.failed = 97, 3
    timeline = Timeline(run.record.timeline)
    for phase in ("connect", "warmup", "measure", "drain"):
        run.record.phases.append(Phase(phase, 0.0))
        timeline.add(1.0, phase, Tally(), [run.measurement.outside])
        for is_terminal, quiet in ((True, False), (True, True), (False, False)):
            console = Console(file=io.StringIO(), force_terminal=is_terminal, width=100)
            with Progress(console, quiet=quiet) as progress:
                progress.say("starting")
                progress.update(run, timeline.rows[-1], 2.0)
            output: Any = console.file
            text = output.getvalue()
            if is_terminal and not quiet:
                assert all(part in text for part in (phase, "starting", "97 of 100", "3 failed"))
            else:
                assert text == ""
