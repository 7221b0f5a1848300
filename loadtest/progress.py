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

from loadtest.run import Run
from loadtest.timeline import Row
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
        """See `loadtest.sampler.Display`."""
        if self._live is not None:
            self._live.update(render_progress(run, row, now), refresh=True)


def render_progress(run: Run, row: Row | None, now: float) -> RenderableType:
    """One picture of a run."""
    settings, tally = run.settings, run.tally
    phase = run.phases[-1]
    began = now - (run.phases[-1].began - run.phases[0].began) / 1e9
    limits = {"warmup": settings.warmup, "measure": settings.duration}
    if phase.name == "connect":
        done, total = float(tally.connected + tally.failed), float(settings.connections)
    else:
        total = limits.get(phase.name, 0.0)
        done = min(began, total)

    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total or 1.0, completed=done, width=40) if total else Text(format_duration(began))
    head.add_row(Text(f"{phase.name:<8}", style="bold"), bar, Text(format_duration(now), style="dim"))

    gone = f", {format_count(tally.failed)} failed, {format_count(tally.dropped)} dropped"
    connections = f"{format_count(tally.connected - tally.dropped)} of {format_count(settings.connections)}"
    lines = Table.grid(padding=(0, 3))
    lines.add_row("connections", connections + (gone if tally.failed or tally.dropped else ""))
    if row is not None and phase.name != "connect":
        if settings.producers:
            lines.add_row(
                "confirmed", *_flow(row["confirmed"], tally.confirmed, row["confirm_p50_ms"], row["confirm_p99_ms"])
            )
        if settings.consumers:
            ends = row["end_to_end_p50_ms"], row["end_to_end_p99_ms"]
            lines.add_row("consumed", *_flow(row["consumed"], tally.received, *ends))
        if settings.callers:
            lines.add_row("RPC", *_flow(row["rpc"], tally.replies, row["rpc_p50_ms"], row["rpc_p99_ms"]))
        if settings.producers:
            lines.add_row("not yet received", format_count(max(0, tally.confirmed - run.ledger.unique)))
    return Group(head, lines)


def _flow(recent: int, total: int, p50: float | None, p99: float | None) -> tuple[str, str, str]:
    return (
        f"{format_count(recent)}/s",
        f"{format_count(total)} in all",
        f"p50 {format_milliseconds(p50)}  p99 {format_milliseconds(p99)}",
    )
