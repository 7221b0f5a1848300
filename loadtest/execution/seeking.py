"""Seeks the rate that this run's clients can keep up: a closed loop for a start, then step by step on schedules.

Between two steps nobody sends anything new until what waits has been taken, so that each begins with nothing to catch
up with. A closed loop whose consumers fall behind is cut short, or all of them would wait for the backlog it leaves.
Which rate comes next is `loadtest.capacity`'s business; how long all may take is bounded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from time import monotonic, monotonic_ns
from typing import Any

import anyio

from loadtest.capacity.search import Probe, Search
from loadtest.capacity.step import (
    PUBLISH,
    QUEUES,
    RESPONSE_SECONDS,
    RPC,
    Finding,
    Look,
    is_hopeless,
    is_stalled,
    judge_step,
)
from loadtest.execution.leg import PAUSE, Leg, Schedules
from loadtest.execution.state import Run
from loadtest.machine.resources import Meter, Usage
from loadtest.metrics.histogram import percentile_of
from loadtest.scenarios.schedule import NANOSECONDS, make_schedules

LOOK = 0.05
"""Seconds from one look to the next."""
STEPS = 14.0
SHORTEST_STEP, LONGEST_STEP = 0.5, 2.5
"""So many steps fit into the time for the search, each of some seconds within these bounds; a long one takes two."""
LONGEST_CLOSED = 3.0
DRAIN_BOUND = 8.0
DRAIN_STALL = 0.5
"""Seconds for what waits after a step, altogether and without anything being taken."""
DEEPEST_SECONDS = 2.0
"""How many seconds' worth of its consumers' work a closed loop may leave in the queues before it is cut short."""
LEAST_CLOSED = 0.3
LEAD = 0.02
LEAD_PER_CLIENT = 40e-6
"""Seconds before a leg's schedules begin, in which all clients are woken to hear of it."""
SLOWEST = 1.0
"""Messages a second, over all, where nothing at all was held."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """How often what had happened, and what had been used, at one moment."""

    at: float
    sent: int
    settled: int
    confirmed: int
    consumed: int
    calls: int
    answered: int
    replies: int
    usage: Usage


class Seeker:
    """Seeks one run's rate, and enters what it finds into the run's record."""

    def __init__(self, run: Run, meter: Meter, begin_phase: Callable[[str], None]) -> None:
        self._run = run
        self._meter = meter
        self._begin_phase = begin_phase
        self._step_seconds = min(LONGEST_STEP, max(SHORTEST_STEP, run.settings.search / STEPS))
        self._legs = 0
        self._longest_response = RESPONSE_SECONDS
        self._steps: list[dict[str, Any]] = []

    async def seek(self) -> float:
        """The rate at which latency is to be measured. Returns early if the run is to end."""
        settings = self._run.settings
        closed = await self._run_closed()
        self._begin_phase("search")
        await self._drain()
        by_closed = closed["confirmed_rate" if settings.producers else "reply_rate"]
        search = Search(min(by_closed, closed["consumed_rate"]) if self._has_queues else by_closed)
        deadline = monotonic() + settings.search
        latest = deadline + settings.search
        while not self._run.enough.is_set() and monotonic() < latest:
            left = (deadline - monotonic() - 2 * self._step_seconds) / (1.15 * self._step_seconds)
            probe = search.next(int(left // 1))
            if probe is None:
                break
            finding = await self._step(probe)
            if not self._run.enough.is_set():
                search.note(is_held=finding.is_held, capacity=finding.capacity, is_doubtful=finding.is_doubtful)
            began = monotonic()
            await self._drain()
            deadline = min(latest, deadline + monotonic() - began)  # what waits for a drain is no search
        self._run.doing = ""
        believed = search.sustainable or search.held or min((s["rate"] for s in self._steps), default=0.0)
        paced = max(settings.share * believed, SLOWEST)
        self._run.record.capacity = {
            "sustainable_rate": None if search.sustainable is None else round(search.sustainable, 1),
            "closed_rate": by_closed,
            "share": settings.share,
            "paced_rate": round(paced, 1),
            "closed": closed,
            "steps": self._steps,
        }
        return paced

    def make_leg(self, rate: float, *, is_planned: bool) -> Leg:
        """A leg on schedules at that rate over all, which begins in a moment. Its phases follow from the seed."""
        settings, record = self._run.settings, self._run.record
        self._legs += 1
        random, each = Random(f"{settings.seed}/{self._legs}"), rate / (settings.producers or settings.callers)
        schedules: list[Schedules] = [
            make_schedules(number, each, random) for number in (settings.producers, settings.callers)
        ]
        lead = LEAD + LEAD_PER_CLIENT * settings.clients
        return Leg(
            publishing=schedules[0],
            calling=schedules[1],
            start=monotonic_ns() + int(lead * NANOSECONDS),
            is_planned=is_planned,
            sent_before=[account.sent for account in record.ledger.accounts],
            called_before=list(record.calls_made),
        )

    # --- closed -----------------------------------------------------------------------------------------------------

    async def _run_closed(self) -> dict[str, Any]:
        """What a closed loop squeezes out, once it is warm."""
        run, settings = self._run, self._run.settings
        before, timed = self._count(), self._timed()
        if await self._go_on(settings.warmup, before):
            self._begin_phase("closed")
            before, timed = self._count(), self._timed()
            await self._go_on(min(LONGEST_CLOSED, self._step_seconds * 1.5), before)
        after = self._count()
        told = self._tell(before, after, timed)
        if told["response_p99_ms"] is not None:
            self._longest_response = _longest_response(told["response_p99_ms"])
        run.begin_leg(PAUSE)
        return told

    async def _go_on(self, seconds: float, began: _Counts) -> bool:
        """Waits; False if the consumers fell so far behind meanwhile that the closed loop had to end."""
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0 and not self._run.enough.is_set():
            await self._sleep(min(left, LOOK))
            now = self._count()
            rate = (now.consumed - began.consumed) / (now.at - began.at)
            is_deep = now.confirmed - now.consumed > max(DEEPEST_SECONDS * rate, self._run.settings.clients)
            if self._has_queues and is_deep and now.at - began.at > LEAST_CLOSED:
                return False
        return True

    # --- steps ------------------------------------------------------------------------------------------------------

    async def _step(self, probe: Probe) -> Finding:
        """Tries one rate, for longer if all stands still at its end."""
        run, rates = self._run, self._rates(probe.rate)
        kind = "verifying" if probe.is_verifying else f"step {len(self._steps) + 1}"
        run.doing = f"{kind}, {probe.rate:,.0f}/s"
        leg = self.make_leg(probe.rate, is_planned=False)
        assert leg.start is not None
        run.begin_leg(leg)
        await self._sleep((leg.start - monotonic_ns()) / NANOSECONDS)
        before, timed, looks = self._count(), self._timed(), list[Look]()
        began, seconds = leg.start / NANOSECONDS, self._step_seconds * (2 if probe.is_long else 1)
        while not run.enough.is_set():
            await self._sleep(LOOK)
            now = self._count()
            looks.append(self._look(rates, before, now, now.at - began))
            is_long = now.at - began >= seconds
            if is_long and (now.at - began >= 2 * seconds or not is_stalled(rates, looks)):
                break
            if is_hopeless(rates, looks[-1]) and not is_stalled(rates, looks):
                break
        run.begin_leg(PAUSE)
        after = self._count()
        told = self._tell(before, after, timed)
        p99 = told["response_p99_ms"]
        finding = judge_step(
            rates,
            looks,
            None if p99 is None else p99 / 1000,
            longest_response=self._longest_response,
            refused_share=_refused_share(before, after),
            is_verifying=probe.is_verifying,
        )
        if finding.is_held and p99 is not None:
            self._longest_response = min(self._longest_response, _longest_response(p99))
        growth = round(finding.growth * probe.rate, 1)
        verdict = {"is_verification": probe.is_verifying, "held": finding.is_held, "reason": finding.reason}
        verdict["stalled"] = finding.is_doubtful
        self._steps.append({"rate": round(probe.rate, 1), **told, "backlog_growth": growth, **verdict})
        return finding

    def _rates(self, rate: float) -> Mapping[str, float]:
        """What is asked for each second, by the kind of what may wait."""
        settings = self._run.settings
        rates = {}
        if settings.producers:
            rates[PUBLISH] = rate
        if self._has_queues:
            rates[QUEUES] = rate
        if settings.callers:
            rates[RPC] = rate / (settings.producers or settings.callers) * settings.callers
        return rates

    def _look(self, rates: Mapping[str, float], before: _Counts, now: _Counts, seconds: float) -> Look:
        done = {
            PUBLISH: now.settled - before.settled,
            RPC: now.answered - before.answered,
        }
        waiting = {kind: rate * seconds - done[kind] for kind, rate in rates.items() if kind in done}
        waiting[QUEUES] = float((now.confirmed - before.confirmed) - (now.consumed - before.consumed))
        return Look(seconds, waiting)

    async def _drain(self) -> None:
        """Waits until nothing is in flight and the queues are empty, or nobody takes what is there."""
        run = self._run
        give_up_at = monotonic() + DRAIN_BOUND
        before, stalled_at = None, monotonic() + DRAIN_STALL
        while not run.enough.is_set() and monotonic() < give_up_at:
            now = self._count()
            is_settled = now.settled >= now.sent and now.answered >= now.calls
            if is_settled and (now.consumed >= now.confirmed or not self._has_queues):
                return
            done = (now.settled, now.consumed, now.answered)
            if done != before:
                before, stalled_at = done, monotonic() + DRAIN_STALL
            elif monotonic() > stalled_at:
                return
            await self._sleep(LOOK)

    # --- counting ---------------------------------------------------------------------------------------------------

    @property
    def _has_queues(self) -> bool:
        return bool(self._run.settings.producers and self._run.settings.consumers)

    def _count(self) -> _Counts:
        record = self._run.record
        tally = record.tally
        return _Counts(
            at=monotonic_ns() / NANOSECONDS,
            sent=tally.sent,
            settled=tally.settled,
            confirmed=tally.confirmed,
            consumed=record.ledger.unique // self._run.settings.copies,
            calls=tally.calls,
            answered=tally.replies + tally.rpc_timeouts + tally.rpc_errors,
            replies=tally.replies,
            usage=self._meter.read(),
        )

    def _timed(self) -> Counter[int]:
        """The response times so far, of publishes, or of calls if nobody publishes."""
        latencies = self._run.measurement.outside
        return Counter((latencies.confirm if self._run.settings.producers else latencies.rpc).counts)

    def _tell(self, before: _Counts, after: _Counts, timed: Counter[int]) -> dict[str, Any]:
        """What was done and used between two moments, as the result has it."""
        seconds = max(after.at - before.at, 1e-9)
        recent = self._timed()
        recent.subtract(timed)

        def rate(name: str) -> float:
            return round(float(getattr(after, name) - getattr(before, name)) / seconds, 1)

        def share(name: str) -> float | None:
            one, other = getattr(before.usage, name), getattr(after.usage, name)
            took = after.usage.seconds - before.usage.seconds
            return None if one is None or other is None or took <= 0 else round((other - one) / took, 3)

        percentiles = [percentile_of(recent, fraction) for fraction in (0.5, 0.99)]
        return {
            "seconds": round(seconds, 3),
            "sent_rate": rate("sent"),
            "confirmed_rate": rate("confirmed"),
            "consumed_rate": rate("consumed"),
            "reply_rate": rate("replies"),
            "response_p50_ms": percentiles[0],
            "response_p99_ms": percentiles[1],
            "client_cores": share("client_cpu"),
            "broker_cores": share("broker_cpu"),
            "machine_cores": share("machine_busy"),
            "stolen_cores": share("machine_stolen"),
        }

    async def _sleep(self, seconds: float) -> None:
        with anyio.move_on_after(max(0.0, seconds)):
            await self._run.enough.wait()


def _longest_response(p99_ms: float) -> float:
    """What a step's p99 may come to, in seconds, where it was so much in another."""
    return max(RESPONSE_SECONDS, 2 * p99_ms / 1000)


def _refused_share(before: _Counts, after: _Counts) -> float:
    """Of the publishes and calls that were settled, those that were nacked, returned, timed out or ended unknown."""
    published, called = after.settled - before.settled, after.answered - before.answered
    well = after.confirmed - before.confirmed, after.replies - before.replies
    shares = [1 - good / done for good, done in zip(well, (published, called), strict=True) if done]
    return max(shares, default=0.0)
