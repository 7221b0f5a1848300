"""The run of all workers as one, for who looks at it while it goes on: as far as they have told of it."""

from __future__ import annotations

from time import monotonic_ns

from loadtest.execution.sampler import Display
from loadtest.fleet.crew import Crew
from loadtest.metrics.timeline import Row, Timeline
from loadtest.scenarios.schedule import NANOSECONDS


class View:
    """Follows the workers' phases and counters, and has a display show them."""

    def __init__(self, crew: Crew, display: Display) -> None:
        self._crew = crew
        self._display = display
        self._rows: list[Row] = []
        self._timeline = Timeline(self._rows)
        self._notice = ""

    def show(self, *, is_blocked: bool = False) -> None:
        """A look at the run; nothing before the moment at which all begin to connect."""
        run = self._crew.run
        now = run.seconds_at(monotonic_ns())
        if self._crew.began_at is None or now < 0:
            return
        self._follow()
        phase, members = run.record.phases[-1].name, list(self._crew.roster)
        is_one_broker = run.settings.control_url is None
        run.is_blocked = any(each.beat.is_blocked for each in members) or (is_blocked and is_one_broker)
        lost, silent = sum(each.status == "lost" for each in members), sum(each.is_suspect for each in members)
        told = [f"{number} {what}" for number, what in ((lost, "lost"), (silent, "silent")) if number]
        if told or run.doing == self._notice:  # (a search has what it does told there)
            run.doing = self._notice = f"of {len(members)} workers {', '.join(told)}" if told else ""
        self._timeline.add(now, phase, run.record.tally, ())
        self._display.update(run, self._rows[-1], now)

    def _follow(self) -> None:
        """The run is in the phase in which the first of those is who are there."""
        run = self._crew.run
        phase = next((member.beat.phase for member in self._crew.roster.present if member.beat.phase), "")
        if not phase or phase == run.record.phases[-1].name:
            return
        run.end_phase()
        run.begin_phase(phase)
        if phase == "measure":
            start = monotonic_ns()
            run.measurement.open(start, start + int(run.settings.duration * NANOSECONDS))
            run.measuring.set()
