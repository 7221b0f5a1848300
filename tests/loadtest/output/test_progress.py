"""The run as it goes on, at a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from loadtest.commands.flags import parse_settings
from loadtest.execution.state import Run, start_run
from loadtest.metrics.record import Phase
from loadtest.metrics.tally import Tally
from loadtest.metrics.timeline import Timeline
from loadtest.output.progress import Progress, render_progress


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


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_what_is_said_before_and_after_the_run_is_seen(is_terminal: bool) -> None:
    """Between the runs of a sweep, or of what could not be written: there is no screen of its own then."""
    console, file = console_of(80, is_terminal=is_terminal)
    progress = Progress(console, quiet=False)
    progress.say("before")
    with progress:
        pass
    progress.say("after")
    lines = file.getvalue().replace("\x1b[?25h", "").splitlines()
    assert lines[0] == "before" and lines[-1].endswith("after")
    quiet = Progress(console, quiet=True)
    file.truncate(file.seek(0))
    quiet.say("nothing")
    quiet.note("nothing")
    assert not file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_a_note_stays_for_as_long_as_the_run_is_shown(is_terminal: bool) -> None:
    """Such as where the counters are served, on a port that nobody has chosen."""
    run = await in_phase("measure")
    console, file = console_of(40, is_terminal=is_terminal)
    progress = Progress(console, quiet=False)
    with progress:
        progress.note("metrics   http://127.0.0.1:43210/metrics")
        file.truncate(file.seek(0) if is_terminal else None)
        progress.update(run, run.record.timeline[-1], 2.0)
    assert file.getvalue().count("metrics   http://127.0.0.1:43210/metrics") == 1
    file.truncate(file.seek(0))
    with progress:
        progress.update(run, run.record.timeline[-1], 2.0)
    assert "metrics" not in file.getvalue()


async def test_blocking_is_shown_while_it_lasts() -> None:
    run = await in_phase("measure")
    for is_terminal in (True, False):
        for run.is_blocked in (False, True):
            console, file = console_of(80, is_terminal=is_terminal)
            with Progress(console, quiet=False) as progress:
                progress.update(run, run.record.timeline[-1], 2.0)
            assert ("blocked" in file.getvalue()) == run.is_blocked


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_without_confirms_what_was_sent_is_shown(is_terminal: bool) -> None:
    run = start_run(parse_settings(["--producers", "5", "--consumers", "5", "--no-confirm"], {}))
    run.record.phases.append(Phase("measure", 0.0))
    run.record.tally.sent = run.record.tally.unconfirmed = 12_345
    run.record.ledger.unique = 12_000
    Timeline(run.record.timeline).add(1.0, "measure", run.record.tally, [run.measurement.outside])
    console, file = console_of(80, is_terminal=is_terminal)
    with Progress(console, quiet=False) as progress:
        progress.update(run, run.record.timeline[-1], 2.0)
    assert re.search(r"sent +12,345/s", file.getvalue()) and "confirmed" not in file.getvalue()
    assert not is_terminal or re.search(r"unreceived +345\b", file.getvalue())


async def test_each_copy_of_a_message_is_to_be_received() -> None:
    run = start_run(parse_settings(["--producers", "5", "--consumers", "30", "--fanout", "3"], {}))
    run.record.phases.append(Phase("measure", 0.0))
    run.record.tally.confirmed, run.record.ledger.unique = 100, 250
    Timeline(run.record.timeline).add(1.0, "measure", run.record.tally, [run.measurement.outside])
    console, file = console_of(80, is_terminal=True)
    with Progress(console, quiet=False) as progress:
        progress.update(run, run.record.timeline[-1], 2.0)
    assert re.search(r"unreceived +50\b", file.getvalue())


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
    assert len({len(line) for line in lines[1:]}) == 1, "each field has its place"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["0.0", "s", "warmup"],
        ["10.0", "s", "warmup"],
        ["20.0", "s", "warmup"],
        ["26.0", "s", "measure"],
    ]
    assert all("97 of 100, 3 failed" in line and "confirmed  12,345/s" in line for line in lines[1:])
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_quiet_is_quiet(is_terminal: bool) -> None:
    run = await in_phase("measure")
    console, file = console_of(80, is_terminal=is_terminal)
    with Progress(console, quiet=True) as progress:
        progress.say("starting")
        progress.update(run, run.record.timeline[-1], 2.0)
    assert file.getvalue() == ""


def rendered(run: Run, width: int, *, is_ascii: bool = False) -> str:
    console, file = console_of(width, is_terminal=False)
    console.print(render_progress(run, run.record.timeline[-1], 30.0, width, is_ascii=is_ascii))
    text: str = file.getvalue()
    return text


async def busy_run(*words: str) -> Run:
    """A run with everything that a picture can have, and large numbers."""
    run = start_run(parse_settings(["--clients", "10000", *words], {}))
    tally = run.record.tally
    tally.connected, tally.failed, tally.dropped = 10_000, 1234, 567
    tally.confirmed, tally.received, tally.replies = 123_456_789, 123_000_000, 9_876_543
    run.is_blocked, run.doing = True, "step 14, 123,456/s"
    run.record.errors.counts.update({"ConnectFailed": 1234, "Nacked": 56, "ChannelClosed": 7, "Other": 1})
    run.record.phases.append(Phase("measure", 20.0))
    for second in range(40):
        row: dict[str, Any] = {"t_seconds": second, "seconds": 1.0, "phase": "measure", "connections": 9}
        row |= {"published": 1, "confirmed": 123_456 if second % 2 else 0, "consumed": 99_999, "rpc": 12_345}
        for kind in ("confirm", "end_to_end", "rpc"):
            row |= {f"{kind}_p50_ms": 12.34, f"{kind}_p99_ms": 123.4, f"{kind}_max_ms": 12_345.6}
        run.record.timeline.append(row)
    return run


@pytest.mark.parametrize("width", [40, 60, 77, 78, 80, 119, 120, 200])
async def test_no_width_breaks_a_word_or_loses_a_digit(width: int) -> None:
    run = await busy_run()
    text = rendered(run, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for part in ("measure: step 14, 123,456/s", "9,433 of 10,000", "123,456/s", "99,999/s"):
        assert part in text, part
    for part in (
        "p99 123 ms",
        "blocked",
        "by the broker: an alarm",
        "456,789",
        "1,234 × ConnectFailed",
        "7 × ChannelClosed",
    ):
        assert part in text, part
    assert "and 1 other kind" in text
    assert ("max 12.3 s" in text) == (width >= 78)
    assert ("123,456,789 in all" in text) == (width >= 120)


async def test_the_sparkline_shows_the_latest_rates() -> None:
    run = await busy_run()
    assert "▁█▁█▁█▁█▁█▁█" in rendered(run, 80)
    assert "████████████" in rendered(run, 80), "what is steady is level"
    text = rendered(run, 80, is_ascii=True)
    assert not set("▁█") & set(text), "not where the terminal has no such letters"
    for row in run.record.timeline:
        row["rpc"] = 0
    assert "▁▁▁▁▁▁▁▁▁▁▁▁" in rendered(run, 80)


@pytest.mark.parametrize(
    ("phase", "words", "left"),
    [
        ("connect", (), None),
        ("warmup", (), "1 m 15 s left"),  # of 5 it has taken 10: 30 of the search and 45 of the measurement follow
        ("closed", (), "1 m 15 s left"),
        ("search", (), "1 m 05 s left"),
        ("settle", (), "45.0 s left"),
        ("measure", (), "35.0 s left"),
        ("measure", ("--mode", "closed"), "35.0 s left"),
        ("warmup", ("--mode", "closed"), "45.0 s left"),
        ("drain", (), None),
        ("close", (), None),
    ],
)
async def test_the_time_left(phase: str, words: tuple[str, ...], left: str | None) -> None:
    given = words or ("--search", "30")
    run = await busy_run("--duration", "45", "--warmup", "5", *given)
    run.doing = ""
    run.record.phases.append(Phase(phase, 20.0))
    text = rendered(run, 80)
    assert (" left" in text) == (left is not None)
    assert left is None or left in text


async def test_a_window_that_changes_its_size_is_filled_anew() -> None:
    """Each picture fills the whole screen, so that nothing of the one before stays, and none is wiped first."""
    run = await busy_run()
    console, file = console_of(120, is_terminal=True)
    with Progress(console, quiet=False) as progress:
        for width in (120, 40, 80):
            file.truncate(0)
            console.size = ConsoleDimensions(width, 20)
            progress.update(run, run.record.timeline[-1], 30.0)
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).strip("\x00\r")
            assert {len(line) for line in text.split("\n")} == {width}
            assert len(text.split("\n")) == 20
            assert "\x1b[2J" not in file.getvalue(), "no flicker"


# --- several workloads --------------------------------------------------------------------------------------------


async def workloads(*names: str) -> list[Run]:
    """Runs that have begun to measure, each with a rate of its own."""
    runs = []
    for number, name in enumerate(names, 1):
        run = await busy_run()
        run.settings = replace(run.settings, workload=name)
        run.record.run_id = f"20260101T000000Z-abcdef.{name}"
        run.record.timeline[-1]["confirmed"] = number * 1111
        run.is_blocked = name == "loud"
        runs.append(run)
    return runs


def seen(file: Any) -> str:
    """What stands on the screen, without what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("height", [12, 60])
async def test_every_workload_is_in_the_picture(height: int) -> None:
    """Where there is no room for all of it, of each the figures, and whether something is wrong."""
    runs = await workloads("quiet", "loud", "other")
    console, file = console_of(80, is_terminal=True)
    console.size = ConsoleDimensions(80, height)
    with Progress(console, quiet=False) as progress:
        for run in runs:
            progress.update(run, run.record.timeline[-1], 30.0)
        file.truncate(0)
        progress.update(runs[0], runs[0].record.timeline[-1], 30.5)
        text = seen(file)
    for part in ("quiet", "1,111/s", "loud", "2,222/s"):
        assert part in text, part
    assert ("other" in text and "3,333/s" in text) or height == 12
    assert text.count("measure") == 3
    assert ("9,433 of 10,000" in text) == (height == 60)
    assert "1,298 errors" in text or height == 60
    assert "blocked" in text


async def test_the_picture_is_drawn_once_for_all_and_goes_on_when_the_first_is_over() -> None:
    runs = await workloads("quiet", "loud")
    console, file = console_of(80, is_terminal=True)
    with Progress(console, quiet=False) as progress:
        for run in runs:
            progress.update(run, run.record.timeline[-1], 30.0)
        file.truncate(0)
        file.seek(0)
        progress.update(runs[1], runs[1].record.timeline[-1], 30.5)
        assert file.getvalue() == "", "the first one's look draws both"
        runs[0].over.set()
        progress.update(runs[1], runs[1].record.timeline[-1], 31.0)
        assert "quiet" in seen(file) and "loud" in seen(file)


async def test_every_workload_has_lines_of_its_own() -> None:
    runs = await workloads("quiet", "loud")
    console, file = console_of(250, is_terminal=False)
    progress = Progress(console, quiet=False)
    for second in range(12):
        for run in runs:
            progress.update(run, run.record.timeline[-1], float(second))
    told = [line.split()[:3] for line in file.getvalue().splitlines()]
    assert told == [[f"{second:.1f}", "s", name] for second in (0, 10) for name in ("quiet", "loud")]


async def test_a_display_that_shows_another_run_forgets_the_one_before() -> None:
    console, file = console_of(80, is_terminal=True)
    progress = Progress(console, quiet=False)
    for name in ("first", "second"):
        (run,) = await workloads(name)
        with progress:
            file.truncate(0)
            file.seek(0)
            progress.update(run, run.record.timeline[-1], 1.0)
            assert name in seen(file)
            assert "first" not in seen(file) or name == "first"
