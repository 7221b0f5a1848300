"""A leg of a run's work: from one change of its pace to the next.

A run that seeks its rate has many legs, one after the other: a closed loop, pauses in which nobody sends anything new,
and a schedule for each rate that is tried. Other runs have one. Clients look at the run's current leg before each
message and each call; a message that fell due in an earlier leg and was not sent in it is never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.scenarios.plan import Place
from loadtest.scenarios.schedule import Schedule
from loadtest.scenarios.settings import Role

Schedules = Sequence[Schedule] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leg:
    """How clients pace from now on. Without schedules it is a closed loop."""

    publishing: Schedules = None
    calling: Schedules = None
    start: int | None = None
    """What the schedules count from, in nanoseconds; None is when the run's work began, and who is ramped later."""
    is_paused: bool = False
    is_planned: bool = True
    """Whether all of its schedules are to be done: what is left undone is skipped, and was asked for."""
    sent_before: Sequence[int] | None = None
    called_before: Sequence[int] | None = None
    """What each producer had sent and each caller called when it began; None is nothing."""

    def schedule_of(self, place: Place) -> Schedule | None:
        """One producer's, or caller's, schedule; None in a closed loop."""
        schedules = self.calling if place.role is Role.CALLER else self.publishing
        return None if schedules is None else schedules[place.index]


PAUSE = Leg(is_paused=True, is_planned=False)
