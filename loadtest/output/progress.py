"""A run as it goes on, for people: phase, time left, connections, rates, latencies, errors.

At a terminal it is a picture, drawn anew twice a second on a screen of its own, so that no line of another width stays
behind when the window is resized. Elsewhere it is a line for each phase, and one every ten seconds, each with the same
fields. It draws only when told and never by a thread of its own: drawing takes a few milliseconds, which every client
feels. Of several workloads each has its part of the picture, and lines of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.execution.state import Run
from loadtest.metrics.timeline import STUB, Row
from loadtest.units import format_count, format_duration, format_milliseconds, format_text

LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""
NARROW, WIDE = 78, 120
"""Columns below which only the most important figures are shown, and from which on all are."""
ERRORS_SHOWN = 3
"""Kinds of errors that are shown, the most frequent first."""
_BARS = "▁▂▃▄▅▆▇█"
_LINES_OF_ONE = 10
"""Lines that a workload's part of a picture takes, without errors and alarms: where the terminal has too few for all,
only its figures are shown.
"""


@dataclass(slots=True)
class _Look:
    """What one run looked like when it was last seen."""

    run: Run
    row: Row | None
    now: float
    phase: str = ""
    line_due: float = 0.0


class Progress:
    """Shows a run while the block lasts, unless it is to be quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        is_picture = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._live = Live(console=console, auto_refresh=False, screen=True) if is_picture else None
        self._console = None if quiet else console
        self._lines = None if is_picture else self._console
        self._looks: dict[str, _Look] = {}
        """At each run, by its name: one, or that of each workload."""
        self._notes: list[str] = []

    def __enter__(self) -> Self:
        self._looks.clear()  # one display may show several runs, one after the other
        self._notes.clear()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line in place of the run: before it, or after it, and while nothing is shown of it a line as any other."""
        if self._live is not None and self._live.is_started:
            self._live.update(Text(text), refresh=True)
        elif self._console is not None:
            self._console.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that somebody needs while the run goes on: it stays below the picture."""
        self._notes.append(text)
        self.say(text)

    def update(self, run: Run, row: Row | None, now: float) -> None:
        """Draws a look at the run, as `loadtest.execution.sampler.Display` says."""
        look = self._looks.setdefault(run.record.run_id, _Look(run, row, now))
        look.row, look.now = row, now
        if self._live is not None and look is self._leader():
            self._live.update(self._picture(self._live.console), refresh=True)
        elif self._lines is not None:
            phase = _phase(run)
            if phase != look.phase or now >= look.line_due:
                look.phase, look.line_due = phase, now + LINE_EVERY
                names = max(len(each.run.settings.workload) for each in self._looks.values())
                self._lines.print("  ".join(_line(run, row, now, names)), markup=False, soft_wrap=True)

    def _leader(self) -> _Look:
        """At whose looks the picture of all is drawn: the first workload that is not over."""
        looks = list(self._looks.values())
        return next((look for look in looks if not look.run.over.is_set()), looks[-1])

    def _picture(self, console: Console) -> RenderableType:
        looks, is_ascii = list(self._looks.values()), not console.encoding.startswith("utf")
        wanted = [len(look.run.record.errors.counts) for look in looks]
        lines = sum(_LINES_OF_ONE + min(errors, ERRORS_SHOWN + 1) for errors in wanted) + len(self._notes)
        is_short = len(looks) > 1 and lines + sum(look.run.is_blocked for look in looks) > console.height
        parts: list[RenderableType] = []
        for look in looks:
            parts += [Text()] if parts and not is_short else []
            parts.append(
                render_progress(look.run, look.row, look.now, console.width, is_ascii=is_ascii, is_short=is_short)
            )
        parts += [Text(note, style="dim", overflow="fold") for note in self._notes]
        return Group(*parts)


def render_progress(
    run: Run, row: Row | None, now: float, width: int = 80, *, is_ascii: bool = False, is_short: bool = False
) -> RenderableType:
    """One picture of a run, ``now`` seconds after it began. No word of it is broken where there are 40 columns.

    A short one, of one workload beside others, has its figures, and only how many errors there were.
    """
    if is_short:
        return Group(
            _render_name(run), *_render_phase(run, now, width), _render_figures(run, row, width, is_ascii=is_ascii)
        )
    heading = [Text(run.settings.workload, style="bold underline")] if run.settings.workload else []
    return Group(
        *heading,
        *_render_phase(run, now, width),
        _render_numbers(run, row, width, is_ascii=is_ascii),
        *_render_errors(run, width),
    )


def _render_name(run: Run) -> Text:
    """A workload's name, and what must be told of it in few words."""
    text = Text(run.settings.workload, style="bold underline", no_wrap=True, overflow="ellipsis")
    errors = sum(run.record.errors.counts.values())
    told = [*(["blocked"] if run.is_blocked else []), *([f"{format_count(errors)} errors"] if errors else [])]
    return Text("  ").join([text, *(Text(each, style="bold red") for each in told)])


def _render_phase(run: Run, now: float, width: int) -> Iterator[RenderableType]:
    settings, tally, phase = run.settings, run.record.tally, run.record.phases[-1]
    in_phase = now - phase.began
    done, total = {
        "connect": (float(tally.connected + tally.failed), float(settings.connections)),
        **{name: (in_phase, seconds) for name, seconds in _lengths(run).items()},
    }.get(phase.name, (in_phase, 0.0))
    left = _left(run, now)
    times = [format_duration(now), *([f"{format_duration(left)} left"] if left is not None else [])]
    name = Text(f"{_phase(run):<8}", style="bold")
    if width < NARROW:  # what goes on within a phase needs the line
        yield name
    room = width - 4 - len(" ".join(times)) - (0 if width < NARROW else len(name))
    bar = ProgressBar(total=total, completed=min(done, total), width=max(5, min(40, room)))
    line = Table.grid(padding=(0, 2))
    cells = [bar if total else format_duration(in_phase), Text("  ".join(times), style="dim", no_wrap=True)]
    line.add_row(*([] if width < NARROW else [name]), *cells)
    yield line


def _lengths(run: Run) -> dict[str, float]:
    """The phases of the work in their order, and how long each lasts: 0 where that was not asked for."""
    settings = run.settings
    search = {"closed": 0.0, "search": settings.search, "settle": 0.0} if settings.mode == "both" else {}
    return {"warmup": settings.warmup, **search, "measure": settings.duration}


def _left(run: Run, now: float) -> float | None:
    """Seconds until the measurement ends, as far as it can be told; nothing before everyone is there, or after it."""
    phase, lengths = run.record.phases[-1], _lengths(run)
    if phase.name not in lengths:
        return None
    names = list(lengths)
    later = sum(lengths[name] for name in names[names.index(phase.name) + 1 :])
    return max(0.0, lengths[phase.name] - (now - phase.began)) + later


def _render_numbers(run: Run, row: Row | None, width: int, *, is_ascii: bool) -> RenderableType:
    state = Table.grid(padding=(0, 2))
    state.add_column(no_wrap=True)
    state.add_row("connections", _connections(run))
    if run.is_blocked:
        state.add_row(Text("blocked", style="bold red"), Text("by the broker: an alarm", style="bold red"))
    if run.settings.producers and row is not None and row["phase"] != "connect":
        state.add_row("unreceived", _waiting(run))
    return Group(state, Text(), _render_figures(run, row, width, is_ascii=is_ascii))


def _render_figures(run: Run, row: Row | None, width: int, *, is_ascii: bool) -> RenderableType:
    is_narrow = width < NARROW
    numbers = Table.grid(padding=(0, 2))
    numbers.add_column(no_wrap=True)
    for _ in range(6):
        numbers.add_column(no_wrap=True, justify="right")
    for label, name, rate, total, latency in _figures(run, row):
        shown = ("p99",) if is_narrow else ("p50", "p99", "max")
        history = (
            []
            if is_narrow or is_ascii
            else [Text(_sparkline(run.record.timeline, name, 12 if width < WIDE else 40), style="cyan")]
        )
        told = [f"{format_count(total)} in all"] if width >= WIDE else []
        numbers.add_row(label, rate, *history, *(f"{p} {format_milliseconds(latency[p])}" for p in shown), *told)
    return numbers


def _sparkline(rows: Sequence[Row], name: str, width: int) -> str:
    """The rates of the latest rows, from 0 to the highest of them."""
    rates = [row[name] / row["seconds"] for row in rows[-2 * width :] if row["seconds"] > STUB][-width:]
    highest = max(rates, default=0.0)
    bars = (_BARS[round(rate / highest * (len(_BARS) - 1))] if highest else _BARS[0] for rate in rates)
    return "".join(bars).rjust(width)


def _render_errors(run: Run, width: int) -> Iterator[RenderableType]:
    found = run.record.errors.counts
    for name, count in sorted(found.items(), key=lambda item: -item[1])[:ERRORS_SHOWN]:
        yield Text(f"{format_count(count)} × {format_text(name)}", style="red", no_wrap=True, overflow="ellipsis")
    if len(found) > ERRORS_SHOWN:
        others = len(found) - ERRORS_SHOWN
        yield Text(f"and {others} other kind{'s' * (others > 1)} of error", style="red")


def _line(run: Run, row: Row | None, now: float, names: int) -> Iterator[str]:
    """A line's fields: for one run always the same ones, each as wide as its neighbours above and below. A workload's
    begins with its name, in so many columns.
    """
    yield f"{format_duration(now):>9}"
    if names:
        yield f"{run.settings.workload:<{names}}"
    yield f"{_phase(run):<8}"
    yield f"connections {_connections(run)}"
    for label, _, rate, _, latency in _figures(run, row, always=True):
        p99, longest = (f"{name} {format_milliseconds(latency[name]):>7}" for name in ("p99", "max"))
        yield f"{label} {rate:>9} ({p99}, {longest})"
    yield f"errors {format_count(sum(run.record.errors.counts.values()))}"
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


def _figures(
    run: Run, row: Row | None, *, always: bool = False
) -> Iterator[tuple[str, str, str, int, dict[str, float | None]]]:
    """What each role does: its label, its name in rows, the rate now, the number in all, the latencies now.

    Nothing before there is work; or, for lines that are to be alike, dashes.
    """
    is_known = row is not None and row["phase"] != "connect"
    settings, tally = run.settings, run.record.tally
    published = (settings.producers, "confirmed", "confirmed", "confirm", tally.confirmed)
    if settings.no_confirm:  # what was sent is all that is known
        published = (settings.producers, "sent", "published", "confirm", tally.sent)
    for is_done, label, name, latency, total in (
        published,
        (settings.consumers, "consumed", "consumed", "end_to_end", tally.received),
        (settings.callers, "RPC", "rpc", "rpc", tally.replies),
    ):
        if is_done and row is not None and is_known:
            rate = f"{format_count(round(row[name] / max(row['seconds'], 1e-3)))}/s"
            yield label, name, rate, total, {each: row[f"{latency}_{each}_ms"] for each in ("p50", "p99", "max")}
        elif is_done and always:
            yield label, name, "–/s", total, dict.fromkeys(("p50", "p99", "max"))


def _waiting(run: Run) -> str:
    """How many messages the broker has taken, and no consumer has received: copies of them, where there are several."""
    return format_count(max(0, run.record.tally.taken * run.settings.copies - run.record.ledger.unique))
