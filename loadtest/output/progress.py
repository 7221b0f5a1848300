"""A run as it goes on, for people: phase, connections, rates, latencies.

At a terminal it is a picture, drawn anew twice a second on a screen of its own, so that no line of another width stays
behind when the window is resized. Elsewhere it is a line for each phase, and one every ten seconds. It draws only when
told and never by a thread of its own: drawing takes a few milliseconds, which every client feels.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.execution.state import Run
from loadtest.metrics.timeline import Row
from loadtest.units import format_count, format_duration, format_milliseconds

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""
NARROW = 72
"""Columns below which only the most important figures are shown."""


class Progress:
    """Shows a run while the block lasts, unless it is to be quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        is_picture = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, screen=True) if is_picture else None
        self._lines = None if is_picture or quiet else console
        self._phase = ""
        self._line_due = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line in place of the run: before it, or after it."""
        if self._live is not None:
            self._live.update(Text(text), refresh=True)
        elif self._lines is not None:
            self._lines.print(text, markup=False, soft_wrap=True)

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Draws a look at the run, as `loadtest.execution.sampler.Display` says."""
        if self._live is not None:
            self._live.update(render_progress(run, row, now, self._live.console.width), refresh=True)
        elif self._lines is not None:
            phase = _phase(run)
            if phase != self._phase or now >= self._line_due:
                self._phase, self._line_due = phase, now + LINE_EVERY
                self._lines.print(", ".join(_line(run, row, now)), markup=False, soft_wrap=True)


def render_progress(run: Run, row: Row | None, now: float, width: int = 80) -> RenderableType:
    """One picture of a run, ``now`` seconds after it began."""
    return Group(_render_phase(run, now, width), _render_numbers(run, row, is_narrow=width < NARROW))


def _render_phase(run: Run, now: float, width: int) -> RenderableType:
    settings, tally, phase = run.settings, run.record.tally, run.record.phases[-1]
    in_phase = now - phase.began
    done, total = {
        "connect": (float(tally.connected + tally.failed), float(settings.connections)),
        "warmup": (in_phase, settings.warmup),
        "search": (in_phase, settings.search),
        "measure": (in_phase, settings.duration),
    }.get(phase.name, (in_phase, 0.0))
    line = Table.grid(padding=(0, 2))
    room = max(5, min(40, width - 16 - max(8, len(_phase(run)))))
    bar = ProgressBar(total=total, completed=min(done, total), width=room) if total else format_duration(in_phase)
    line.add_row(Text(f"{_phase(run):<8}", style="bold"), bar, Text(format_duration(now), style="dim"))
    return line


def _render_numbers(run: Run, row: Row | None, *, is_narrow: bool) -> RenderableType:
    lines = Table.grid(padding=(0, 2 if is_narrow else 3))
    lines.add_row("connections", _connections(run))
    if run.is_blocked:
        lines.add_row(Text("blocked", style="bold red"), Text("by the broker: an alarm", style="bold red"))
    for label, rate, total, latency in _figures(run, row):
        p50, p99 = (f"{name} {format_milliseconds(latency[name])}" for name in ("p50", "p99"))
        lines.add_row(label, rate, *((p99,) if is_narrow else (f"{format_count(total)} in all", p50, p99)))
    if run.settings.producers and row is not None and row["phase"] != "connect":
        lines.add_row("unreceived" if is_narrow else "not yet received", _waiting(run))
    return lines


def _line(run: Run, row: Row | None, now: float) -> Iterator[str]:
    yield f"{format_duration(now):>9}  {_phase(run):<8}  connections {_connections(run)}"
    for label, rate, _, latency in _figures(run, row):
        yield f"{label} {rate} (p99 {format_milliseconds(latency['p99'])})"
    if run.is_blocked:
        yield "blocked by the broker: an alarm"


def _phase(run: Run) -> str:
    """The phase, and what goes on within it: `search: step 4, 12,000/s`."""
    name = run.record.phases[-1].name
    return f"{name}: {run.doing}" if run.doing else name


def _connections(run: Run) -> str:
    tally = run.record.tally
    gone = f", {format_count(tally.failed)} failed, {format_count(tally.dropped)} dropped"
    connections = f"{format_count(tally.connected - tally.dropped)} of {format_count(run.settings.connections)}"
    return connections + (gone if tally.failed or tally.dropped else "")


def _figures(run: Run, row: Row | None) -> Iterator[tuple[str, str, int, dict[str, float | None]]]:
    """What each role does: its label, the rate now, the number in all, the latencies now."""
    if row is None or row["phase"] == "connect":
        return
    settings, tally = run.settings, run.record.tally
    for is_done, label, name, latency, total in (
        (settings.producers, "confirmed", "confirmed", "confirm", tally.confirmed),
        (settings.consumers, "consumed", "consumed", "end_to_end", tally.received),
        (settings.callers, "RPC", "rpc", "rpc", tally.replies),
    ):
        if is_done:
            rate = f"{format_count(round(row[name] / max(row['seconds'], 1e-3)))}/s"
            yield label, rate, total, {each: row[f"{latency}_{each}_ms"] for each in ("p50", "p99")}


def _waiting(run: Run) -> str:
    return format_count(max(0, run.record.tally.confirmed - run.record.ledger.unique))
