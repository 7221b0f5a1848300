"""What the generator reached alone, against a sink that does nothing, beside what it reached against the broker.

Who is within `MARGIN` of what he can do at all may be the limit himself: then nothing is said of the broker. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.metrics.record import Record, Work

MARGIN = 1.45
"""By how many times the generator alone must exceed what was reached before the broker is called the limit."""
DONE = ("confirmed", "unconfirmed", "received", "replies")
"""What counts as a message done, by the names of the tally."""


def reached_rate(work: Work | None) -> float:
    """Messages done each second of the measured window, of all kinds together."""
    return sum(work.counts[name] for name in DONE) / work.seconds if work and work.seconds > 0 else 0.0


def highest_rate(record: Record) -> float:
    """The most that was done each second of anything that was tried: where a rate was sought, more than measured."""
    capacity = record.capacity or {}
    steps = [*([capacity["closed"]] if capacity else []), *capacity.get("steps", ())]
    return max([reached_rate(record.work), *map(rate_of_step, steps)])


def describe_calibration(record: Record) -> dict[str, Any] | None:
    """The result's section; None if nobody asked for it."""
    if record.calibration is None:
        return None
    reached = highest_rate(record)
    ratio = record.calibration["rate"] / reached if reached else None
    return {
        **record.calibration,
        "reached_rate": round(reached, 1),
        "ratio": None if ratio is None else round(ratio, 3),
        "limit": MARGIN,
    }


def rate_of_step(step: Mapping[str, Any]) -> float:
    """The same of a step of the search for the rate that can be kept up."""
    return sum(step[name] or 0.0 for name in ("confirmed_rate", "consumed_rate", "reply_rate"))


def tell_calibration(alone: float | None, reached: float) -> Iterator[str]:
    """In a sentence, whatever came of it; nothing if nobody asked for it."""
    if alone is not None and reached:
        beside = f"{alone / reached:.2f} × of the {reached:,.0f}/s that were reached"
        yield f"calibration: this generator alone reaches {alone:,.0f} messages/s here, {beside}"


def find_nearness(alone: float | None, reached: float) -> Iterator[str]:
    """Why the broker is not called the limit, if the generator may be that itself, and what would help."""
    if alone is not None and alone < MARGIN * reached:
        yield (
            f"the generator alone reaches less than {MARGIN} × of that, so that it may be the limit itself; what would "
            "help: a faster machine for it, or several processes"
        )
