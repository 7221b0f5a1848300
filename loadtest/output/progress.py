"""A run as it goes on, for a person at a terminal: phase, connections, rates, latencies, twice a second.

It draws only when told and never by a thread of its own: drawing takes a few milliseconds, which every client feels.
Away from a terminal it draws nothing.
"""

from __future__ import annotations

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


class Progress:
    """Shows a run while the block lasts; silent if the console is no terminal."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        is_shown = console.is_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if is_shown else None

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

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Draws a look at the run, as `loadtest.execution.sampler.Display` says."""
        if self._live is not None:
            self._live.update(render_progress(run, row, now), refresh=True)


def render_progress(run: Run, row: Row | None, now: float) -> RenderableType:
    """One picture of a run, ``now`` seconds after it began."""
    return Group(_render_phase(run, now), _render_numbers(run, row))


def _render_phase(run: Run, now: float) -> RenderableType:
    settings, tally, phase = run.settings, run.record.tally, run.record.phases[-1]
    in_phase = now - phase.began
    done, total = {
        "connect": (float(tally.connected + tally.failed), float(settings.connections)),
        "warmup": (in_phase, settings.warmup),
        "measure": (in_phase, settings.duration),
    }.get(phase.name, (in_phase, 0.0))
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total, completed=min(done, total), width=40) if total else format_duration(in_phase)
    line.add_row(Text(f"{phase.name:<8}", style="bold"), bar, Text(format_duration(now), style="dim"))
    return line


def _render_numbers(run: Run, row: Row | None) -> RenderableType:
    settings, tally, ledger = run.settings, run.record.tally, run.record.ledger
    lines = Table.grid(padding=(0, 3))
    gone = f", {format_count(tally.failed)} failed, {format_count(tally.dropped)} dropped"
    connections = f"{format_count(tally.connected - tally.dropped)} of {format_count(settings.connections)}"
    lines.add_row("connections", connections + (gone if tally.failed or tally.dropped else ""))
    if row is None or row["phase"] == "connect":
        return lines
    for is_done, label, name, latency, total in (
        (settings.producers, "confirmed", "confirmed", "confirm", tally.confirmed),
        (settings.consumers, "consumed", "consumed", "end_to_end", tally.received),
        (settings.callers, "RPC", "rpc", "rpc", tally.replies),
    ):
        if is_done:
            lines.add_row(
                label,
                f"{format_count(round(row[name] / max(row['seconds'], 1e-3)))}/s",
                f"{format_count(total)} in all",
                f"p50 {format_milliseconds(row[f'{latency}_p50_ms'])}",
                f"p99 {format_milliseconds(row[f'{latency}_p99_ms'])}",
            )
    if settings.producers:
        lines.add_row("not yet received", format_count(max(0, tally.confirmed - ledger.unique)))
    return lines
