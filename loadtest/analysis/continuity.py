"""How continuous the service was: silences, order, and for which share of the time clients were connected.

Pure: from a record's values. What is told per process (silences, gaps, order) adds up as its module says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate

from loadtest.metrics.record import Record
from loadtest.metrics.silence import Silence
from loadtest.scenarios.settings import Settings


def describe_silence(silence: Silence, *, is_told: bool = True) -> dict[str, float | None]:
    """The longest time in which nothing came, in the measured window and in the whole run; milliseconds.

    None where nothing was to come.
    """
    if not is_told:
        silence = Silence()
    return {
        "longest_gap_ms": None if silence.measured is None else round(silence.measured / 1e6, 3),
        "longest_gap_total_ms": round(silence.longest / 1e6, 3) if silence.last or silence.longest else None,
    }


def describe_order(record: Record) -> dict[str, int]:
    """Gaps, latecomers and duplicates of messages, those with the redelivered flag told apart."""
    order = record.ledger.order.to_plain()
    del order["duplicates"]  # the result's own are those of all processes together
    return order


def connected_share(settings: Settings, record: Record) -> float | None:
    """How many of the connections asked for there were, on average over the time that was to be measured.

    A timeline's row knows how many there are at its end, so that this is exact to a second. What was to be measured and
    was not, because everybody was gone, counts as nobody connected.
    """
    rows = [row for row in record.timeline if row["phase"] == "measure"]
    seconds: float = sum(row["seconds"] for row in rows)
    is_cut_short = record.is_interrupted or record.aborted is not None
    asked = seconds if is_cut_short else max(seconds, settings.duration)
    if not seconds or not settings.connections:
        return None
    connected: float = sum(row["connections"] * row["seconds"] for row in rows)
    return round(connected / asked / settings.connections, 4)


def describe_confirms(sizes: Mapping[int, int]) -> dict[str, float | int] | None:
    """How many publishes each of the broker's confirm frames answered; None if the driver doesn't tell."""
    frames = sum(sizes.values())
    if not frames:
        return None
    ordered = sorted(sizes)
    reached = list(accumulate(sizes[size] for size in ordered))
    told = {
        name: ordered[bisect_left(reached, max(1, int(fraction * frames + 0.5)))]
        for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    confirms = sum(size * number for size, number in sizes.items())
    return {"count": frames, "min": ordered[0], "mean": round(confirms / frames, 3), **told, "max": ordered[-1]}
