"""Clients that come, do one thing, and go again: each step of it timed, as fast as they can or on a schedule.

Producers and callers do so; consumers and servers stay. In an open loop a round's latency counts from when it was due.
A round that fails is counted by the error's name, and the next one begins.
"""

from __future__ import annotations

from itertools import pairwise
from time import monotonic_ns

from loadtest.execution.caller import call_once
from loadtest.execution.crowd import Crowd, Socket, name_of
from loadtest.execution.producer import produce_once
from loadtest.execution.routing import make_pace
from loadtest.scenarios.plan import Place
from loadtest.scenarios.settings import Role

_WORK = {Role.PRODUCER: produce_once, Role.CALLER: call_once}


class Churn(Crowd):
    """A crowd in which who sends does not stay."""

    async def _attend(self, places: tuple[Place, ...], url: str, socket: Socket) -> None:
        place = places[0]
        if place.role is Role.CONSUMER:
            return await super()._attend(places, url, socket)
        run = self._run
        pace = make_pace(run, place)
        socket.arrive()
        run.at_work += 1
        try:
            await pace.begin()
            while (intended := await pace.next()) is not None:
                await self._do_round(places, url, intended)
        finally:
            run.at_work -= 1
        await socket.leave()

    async def _do_round(self, places: tuple[Place, ...], url: str, intended: int) -> None:
        """Connects, sends, closes. Whatever fails is counted."""
        record, moments = self._run.record, [monotonic_ns()]
        try:
            async with self._session.connect(url, name_of(self._run, places)) as connection:
                moments.append(monotonic_ns())
                await _WORK[places[0].role](self._run, places[0], connection, intended)
                moments.append(monotonic_ns())
        except Exception as error:
            record.errors.note(error, " (churning)")
            record.scene.counts["churn.failed"] += 1
            return
        moments.append(monotonic_ns())
        if not self._run.measurement.covers(moments[-1]):
            return
        record.scene.counts["churn.rounds"] += 1
        for name, (began, ended) in zip(("connect", "work", "close"), pairwise(moments), strict=True):
            record.scene.timings[f"churn.{name}"].record(ended - began)
        record.scene.timings["churn.round"].record(moments[-1] - moments[0])
