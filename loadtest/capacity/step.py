"""Was a rate held? From what waited at each look at a step: a backlog that grows is the answer, not a latency.

Three things may wait: messages that are due and not yet settled, messages that are confirmed and not yet consumed,
calls that are due and not yet answered. Each is told in seconds of its own rate, and by its lowest level within a
while: a pause of the machine lets it jump and fall again, and only what is not caught up with keeps the lowest level
up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SETTLING = 0.2
"""The part of a step, at its beginning, in which what is on its way builds up: it is not looked at."""
GROWTH = 0.03
VERIFIED_GROWTH = 0.015
"""By how many seconds' worth a backlog may grow each second in a step, and in the longer one that verifies a rate."""
JITTER_SECONDS = 0.05
JITTER = 5
"""What may wait longer, or more messages, than before by chance."""
LONGEST_SECONDS = 1.0
"""How many seconds' worth may wait at a rate that is held."""
HOPELESS_SECONDS = 1.5
"""What waits in a step that need not go on."""
RESPONSE_SECONDS = 1.0
"""What the response time's p99 may come to at a rate that is held, unless twice the shortest p99 seen is more: of the
steps that were held, and until there is one of the closed loop, in which thousands of clients wait for each other.
"""
REFUSED = 0.01
"""The share of what is settled that may be nacked, returned, time out or end unknown."""
FEWEST_LOOKS = 6
STALL_SECONDS = 1.2
STALLED = 0.1
STALLED_LOOKS = 4
"""A stall: within this time, from one look to that many later, less than this part of the usual was done."""

PUBLISH, QUEUES, RPC = "publish", "queues", "rpc"
WAITING = {
    PUBLISH: "messages that were due and not confirmed",
    QUEUES: "messages in the queues",
    RPC: "calls that were due and not answered",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How much waited, by kind, so many seconds after the step began."""

    seconds: float
    waiting: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a step showed. The growth is that of the backlog that grew fastest, in seconds' worth each second."""

    is_held: bool
    reason: str
    growth: float = 0.0
    capacity: float = 1.0
    """The share of the rate asked that was usually done in it: 1 where it was held."""
    is_doubtful: bool = False
    """Whether all stood still for a while in it."""


def judge_step(
    rates: Mapping[str, float],
    looks: Sequence[Look],
    response_p99: float | None = None,
    *,
    longest_response: float = RESPONSE_SECONDS,
    refused_share: float = 0.0,
    is_verifying: bool = False,
) -> Finding:
    """What a step at these rates, a second and by kind, came to. Times are seconds.

    Of what was settled, a share may have been refused or gone unanswered: nobody keeps that up.
    """
    end = looks[-1].seconds if looks else 0.0
    seen = [look for look in looks if look.seconds >= SETTLING * end]
    if len(seen) < FEWEST_LOOKS:
        return Finding(is_held=False, reason="it was too short to tell")
    worst, growth, reason, capacity = "", 0.0, "", 1.0
    for kind, rate in rates.items():
        points = [(look.seconds, look.waiting[kind]) for look in seen]
        grown = _growth(points) / rate
        allowed = _allowed(points, rate, VERIFIED_GROWTH if is_verifying else GROWTH)
        if grown > growth or not worst:
            worst, growth = kind, grown
        capacity = min(capacity, 1 - _slope(points) / rate)
        if grown > allowed and not _is_shrinking(points, rate):
            reason = reason or f"{WAITING[kind]} grew by {grown * rate:,.0f} each second"
        elif (level := _lowest(points[-len(points) // 3 :]) / rate) > LONGEST_SECONDS:
            reason = reason or f"{WAITING[kind]} were {level:.1f} s of work"
    if not reason and response_p99 is not None and response_p99 > longest_response:
        reason = f"the response time's p99 was {response_p99:.1f} s (limit {longest_response:.1f} s)"
    if not reason and refused_share > REFUSED:
        reason, capacity = f"{refused_share:.1%} of what was sent was refused or got no answer", 1 - refused_share
    capacity = max(0.0, min(1.0, capacity)) if reason else 1.0
    return Finding(not reason, reason or "held", growth, capacity, bool(reason) and _has_stall(rates, seen))


def is_hopeless(rates: Mapping[str, float], look: Look) -> bool:
    """Whether so much waits that the step need not go on."""
    return any(look.waiting[kind] > max(HOPELESS_SECONDS * rate, 10 * JITTER) for kind, rate in rates.items())


def is_stalled(rates: Mapping[str, float], looks: Sequence[Look]) -> bool:
    """Whether hardly anything was done for a while just now: a step that ends so tells nothing, and should go on."""
    return bool(looks) and _has_stall(rates, looks, since=looks[-1].seconds - STALL_SECONDS)


def _has_stall(rates: Mapping[str, float], looks: Sequence[Look], since: float = 0.0) -> bool:
    """Whether in some stretch hardly anything was done of what had been done in the best of them."""
    for kind, rate in rates.items():
        stretches = [
            (former.seconds, later.seconds - former.seconds, later.waiting[kind] - former.waiting[kind])
            for former, later in zip(looks, looks[STALLED_LOOKS:], strict=False)
        ]
        best = max((rate - grown / seconds for _, seconds, grown in stretches), default=0.0)
        for began, seconds, grown in stretches:
            if began >= since and grown > JITTER and rate - grown / seconds < STALLED * max(best, rate * STALLED):
                return True
    return False


def _growth(points: Sequence[tuple[float, float]]) -> float:
    """How much each second the lowest level of the last third lies above that of the first."""
    third = len(points) // 3
    distance = points[-third][0] - points[0][0]
    return (_lowest(points[-third:]) - _lowest(points[:third])) / distance if distance > 0 else 0.0


def _allowed(points: Sequence[tuple[float, float]], rate: float, share: float) -> float:
    """The growth, in seconds' worth each second, that may be chance."""
    distance = (points[-1][0] - points[0][0]) * 2 / 3
    return share + max(JITTER_SECONDS, JITTER / rate) / distance if distance > 0 else share


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """By how much it usually grew each second: the median of some stretches, which a pause or two don't move."""
    stretch = max(1, len(points) // 10)
    return median(
        (later - former) / (ended - began)
        for (began, former), (ended, later) in zip(points, points[stretch:], strict=False)
    )


def _is_shrinking(points: Sequence[tuple[float, float]], rate: float) -> bool:
    """Whether it is being caught up with in the end, after a pause."""
    sixth = max(1, len(points) // 6)
    before, after = _lowest(points[-2 * sixth : -sixth]), _lowest(points[-sixth:])
    return before - after > max(0.03 * rate * (points[-1][0] - points[-1 - sixth][0]), 0.03 * before)


def _lowest(points: Sequence[tuple[float, float]]) -> float:
    return min(waiting for _, waiting in points)
