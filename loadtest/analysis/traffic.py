"""What the result says of the traffic itself: confirms asked for or not, copies, answers, spoilt bodies, segments.

Without confirms nothing is `confirmed`: `unconfirmed` were sent, and `lost` is counted against them. With copies each
queue's is a message of its own in `unique`, `lost` and `backlog`. A delivery put back is received, and has not arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.metrics.record import Record
from loadtest.scenarios.settings import Settings
from loadtest.scenarios.shapes import Shape, parse_shape

Result = Mapping[str, Any]


def describe_sending(settings: Settings, record: Record) -> dict[str, Any]:
    """What the section `publish` says beside its own."""
    told: dict[str, Any] = {
        "confirms": not settings.no_confirm,
        "unconfirmed": record.tally.unconfirmed,
        "segments": _segments(settings, record),
    }
    if settings.no_confirm:
        told["rate"] = _rate(record, "unconfirmed")
    return told


def describe_taking(settings: Settings, record: Record) -> dict[str, Any]:
    """What the section `consume` says beside its own."""
    tally = record.tally
    told: dict[str, Any] = {
        "requeued": tally.requeued,
        "rejected": tally.rejected,
        "corrupted": tally.corrupted if settings.body is not None or settings.sizes is not None else None,
        "copies_per_message": settings.copies,
        "lost_of": "sent" if settings.no_confirm else "confirmed",
    }
    if settings.consume_foreign and settings.consumers and record.work is not None:
        told["rate"] = _rate(record, "received", "foreign")
    return told


def has_queues(settings: Settings) -> bool:
    """Whether it is known which queues the messages are in, and so what became of them."""
    return bool(settings.queues) and bool(settings.producers or settings.consumers)


def done(settings: Settings) -> tuple[str, ...]:
    """What counts as a message done, by the names of the tally."""
    return ("confirmed", "unconfirmed", "received", "replies", *(("foreign",) if settings.consume_foreign else ()))


def find_failures(result: Result) -> Iterator[str]:
    """What of the traffic fails a run."""
    scenario, publish, consume = result["scenario"], result["publish"], result["consume"]
    if consume and consume.get("corrupted"):
        yield f"{consume['corrupted']:,} messages were corrupted: their bodies are not what was sent"
    if consume and consume.get("foreign") and _is_sparing(scenario):
        yield "another party's messages came: they were put back, and the run ended (--consume-foreign takes them)"
    wanted = scenario.get("messages")
    if wanted and publish and publish["sent"] < wanted and not result["interrupted"]:
        yield f"only {publish['sent']:,} of {wanted:,} messages were sent in the time there was"


def is_done(result: Result) -> bool:
    """Whether the run ended before its time because all was done that was asked for."""
    return bool(result.get("complete"))


def is_beside_others(result: Result) -> bool:
    """Whether others are meant to take what this run publishes, or to have sent what it takes: nobody here can say what
    is lost, and nobody expects it.
    """
    scenario = result["scenario"]
    is_alone = not scenario.get("consumers") or not scenario.get("producers")
    return bool(scenario.get("existing") or scenario.get("exchange")) and (is_alone or scenario["consume_foreign"])


def _is_sparing(scenario: Mapping[str, Any]) -> bool:
    return bool(scenario.get("existing") or scenario.get("exchange")) and not scenario.get("consume_foreign")


def _rate(record: Record, *names: str) -> float | None:
    work = record.work
    return round(sum(work.counts[name] for name in names) / work.seconds, 1) if work and work.seconds > 0 else None


def _segments(settings: Settings, record: Record) -> list[dict[str, Any]] | None:
    """Each segment of a rate that changes: how long it lasted, what was due in it, what of that was ever sent, and how
    much was published in each second of it, as the timeline has it.
    """
    warmup = next((phase for phase in record.phases if phase.name == "warmup"), None)
    if settings.shape is None or warmup is None or not record.segments:
        return None
    shape = parse_shape(settings.shape)
    shape = Shape(shape.segments, lead=settings.warmup)
    seconds, published = [0.0] * len(shape.segments), [0.0] * len(shape.segments)
    for number, (_, begin, end) in enumerate(shape.occurrences(max(until for until, _, _ in record.segments))):
        place = number % len(seconds)
        seconds[place] += end - begin
        published[place] += _published(record, warmup.began + begin, warmup.began + end)
    return [
        {
            "rate": str(segment),
            "seconds": round(seconds[place], 3),
            "planned": record.segments[place][1],
            "sent": record.segments[place][2],
            "published_per_second": round(published[place] / seconds[place], 1) if seconds[place] else None,
        }
        for place, segment in enumerate(shape.segments)
    ]


def _published(record: Record, begin: float, end: float) -> float:
    """How many messages were published between two moments: of a row that only overlaps, its part."""
    total = 0.0
    for row in record.timeline:
        overlap = min(end, row["t_seconds"]) - max(begin, row["t_seconds"] - row["seconds"])
        if overlap > 0 and row["seconds"]:
            total += row["published"] * overlap / row["seconds"]
    return total
