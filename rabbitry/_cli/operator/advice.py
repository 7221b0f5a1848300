"""What looks wrong with a queue, judged by what the broker tells, and claiming no more than that shows.

The management keeps samples of each queue: its messages ready and unacknowledged, and how many were acknowledged so
far. Where they cover the window, two things can be said for certain:

    unacknowledged   in each sample some were, and from the oldest to the newest none was acknowledged
    unconsumed       there is no consumer, and more messages are ready than in the middle of the window, more then
                     than at its beginning

They don't show why. A consumer that forgets to acknowledge, one that takes longer than the window, and one that rejects
everything look alike, so the text names them all. Without samples it says only what is so at this moment:

    prefetch-full    as many are unacknowledged as the consumers may have
    no-consumer      there are messages, and no consumer

A full prefetch where messages are being acknowledged is how a busy consumer looks, and nothing is said of it.

A broker may take its samples so seldom that a window has one or two (`collect_statistics_interval`, often a minute
where there are many connections). Then `is_unresolved` says so, and the queue itself can be asked for more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rabbitry._cli.output import plural

Row = Mapping[str, Any]

SAMPLES = 12
"""How many cover a window: with the default of a minute one each 5 s, which is as often as the broker takes them."""

RESOLVED = 180.0
"""Seconds of a window that has three samples even where the broker takes one a minute."""


@dataclass(frozen=True)
class Note:
    """One thing that looks wrong. `kind` is for programs."""

    kind: str
    text: str


@dataclass(frozen=True)
class Samples:
    """Values of one figure that cover the window, the newest first."""

    values: tuple[int, ...]
    seconds: float
    """From the oldest to the newest."""

    @property
    def middle(self) -> int:
        """The value half-way."""
        return self.values[len(self.values) // 2]


def query(window: float) -> dict[str, int]:
    """What the management is asked for so that its samples cover the window, in seconds."""
    step = max(1, round(window / SAMPLES))
    age = max(1, round(window)) + 2 * step
    return {"lengths_age": age, "lengths_incr": step, "msg_rates_age": age, "msg_rates_incr": step}


def notes(queue: Row, consumers: Sequence[Row], window: float) -> list[Note]:
    """What looks wrong with this queue, which has these consumers; rows are the HTTP API's."""
    if queue.get("type") == "stream":  # where an acknowledgement is credit for more, and messages stay
        return []
    found = _unacknowledged(queue, consumers, window), _unconsumed(queue, window)
    return [note for note in found if note is not None]


def is_unresolved(queue: Row, window: float) -> bool:
    """Whether the queue may grow without a consumer, and the samples of the window are too few to tell: nothing in them
    changed more than once.
    """
    is_candidate = not (queue.get("type") == "stream" or queue.get("exclusive") or _number(queue, "consumers"))
    samples = _samples(queue.get("messages_ready_details"), window) if window < RESOLVED else None
    if not is_candidate or samples is None or samples.values[0] < samples.values[-1]:
        return False
    statistics = queue.get("message_stats")
    published = _samples(statistics.get("publish_details"), window) if isinstance(statistics, Mapping) else None
    return all(_changes(each.values) < 2 for each in (samples, published) if each is not None)


def grows(queue: Row, counts: Sequence[int], seconds: float) -> Note | None:
    """What is wrong with a queue without consumers, by its messages ready now and so many seconds later."""
    sampled, now, later = _number(queue, "messages_ready"), *counts
    if not later > now > sampled:
        return None
    text = f"no consumer, and it grows: {now - sampled:,} more ready than when the broker took its last sample, and "
    return Note("unconsumed", f"{text}{later - now:,} more {seconds:g} s later")


def _changes(values: Sequence[int]) -> int:
    return sum(newer != older for newer, older in pairwise(values))


def _unacknowledged(queue: Row, consumers: Sequence[Row], window: float) -> Note | None:
    count = _number(queue, "messages_unacknowledged")
    if not count:
        return None
    room = _prefetch(consumers)
    is_full = room is not None and count >= room
    who = plural(len(consumers), "consumer")
    samples = _samples(queue.get("messages_unacknowledged_details"), window)
    statistics = queue.get("message_stats")
    acks = _samples(statistics.get("ack_details"), window) if isinstance(statistics, Mapping) else None
    if samples is None or acks is None:
        if is_full and not _has_samples(queue):
            text = f"{count:,} unacknowledged, all that {who} may have; nothing here tells if any get acknowledged"
            return Note("prefetch-full", text)
        return None
    if min(samples.values) < 1 or max(acks.values) != min(acks.values):
        return None
    text = (
        f"{count:,} unacknowledged: some all through {min(samples.seconds, acks.seconds):.0f} s in which none was "
        "acknowledged. Are acknowledgements forgotten, or do handlers take that long, or reject everything?"
    )
    if is_full:
        text += f" The prefetch of {who} is full ({room:,}): nothing more is delivered until one is settled."
    elif not consumers:
        text += " There is no consumer: they were taken by get, or their consumer was cancelled."
    return Note("unacknowledged", text)


def _unconsumed(queue: Row, window: float) -> Note | None:
    count = _number(queue, "messages_ready")
    if not count or _number(queue, "consumers"):
        return None
    samples = _samples(queue.get("messages_ready_details"), window)
    if samples is None:
        return None if _has_samples(queue) else Note("no-consumer", f"{count:,} ready, and no consumer")
    if not samples.values[0] > samples.middle > samples.values[-1]:
        return None
    growth = samples.values[0] - samples.values[-1]
    return Note("unconsumed", f"no consumer, and it grows: {growth:,} more ready than {samples.seconds:.0f} s ago")


def _samples(details: Any, window: float) -> Samples | None:
    """The samples of the window and the one before it; None if they don't reach back so far."""
    found = details.get("samples") if isinstance(details, Mapping) else None
    if not isinstance(found, list) or not found:
        return None
    try:
        pairs = sorted(((each["timestamp"] / 1000, int(each["sample"])) for each in found), reverse=True)
    except (KeyError, TypeError, ValueError):  # of another make
        return None
    newest = pairs[0][0]  # by the broker's clock, like the others
    values = []
    for time, value in pairs:
        values.append(value)
        if newest - time >= window:
            return Samples(tuple(values), newest - time)
    return None


def _has_samples(queue: Row) -> bool:
    """Whether there is a history at all; a queue that is too young for the window has some of it."""
    details = queue.get("messages_ready_details")
    return isinstance(details, Mapping) and "samples" in details


def _prefetch(consumers: Sequence[Row]) -> int | None:
    """How many messages these consumers may have unacknowledged; None if there is no bound, or nobody."""
    limits = [_number(each, "prefetch_count") for each in consumers if each.get("ack_required")]
    return sum(limits) if limits and all(limits) else None


def _number(row: Row, name: str) -> int:
    value = row.get(name)
    return value if isinstance(value, int) else 0
