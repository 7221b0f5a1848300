"""What becomes of a message that has died in a queue: its new headers, and whether it would go round for ever.

Functions of their arguments. What must stay true: there is one `x-death` entry for each queue and reason, the latest
first; a message that dies in a circle without ever being rejected by somebody is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rabbitry.broker.compat import Compat
from rabbitry.broker.entries import Entry
from rabbitry.broker.messages import Counts, Message, message_facts, with_headers
from rabbitry.broker.queues import Queue
from rabbitry.protocol.wire.tables import SIZED_INTS

__all__ = ["dead_message", "goes_round"]

_long = SIZED_INTS["l"]
_NO_COUNTS = Counts(0, 0, 0)


def dead_message(
    entry: Entry,
    queue: Queue,
    reason: str,
    exchange: str,
    routing_key: str | None,
    wall_time: float,
    compat: Compat,
) -> Message:
    """The message as it is published to a dead-letter exchange."""
    message = entry.message
    headers = dict(message.facts.headers)
    carbon_copies = [each for each in headers.get("CC", ()) if isinstance(each, str)]
    death: dict[str, Any] = {
        "count": _long(1),
        "reason": reason,
        "queue": queue.name,
        "time": datetime.fromtimestamp(int(wall_time), UTC),
        "exchange": message.exchange,
        "routing-keys": [message.routing_keys[0], *carbon_copies],
    }
    if message.facts.expiration is not None:
        death["original-expiration"] = message.facts.expiration
    if compat.believes_x_death:
        deaths, is_first = _deaths(headers), "x-death" not in headers  # whatever is in there
    else:
        deaths, is_first = list(message.deaths), not message.deaths
    earlier = next((each for each in deaths if (each.get("queue"), each.get("reason")) == (queue.name, reason)), None)
    if earlier is not None:
        others = [each for each in deaths if each is not earlier]
        count = earlier.get("count")
        death = {**earlier, "count": _long((count if isinstance(count, int) else 0) + 1)}
        deaths = [death, *others]
    else:
        deaths = [death, *deaths]
    headers["x-death"] = deaths
    for name, value in (("reason", reason), ("queue", queue.name), ("exchange", message.exchange)):
        if is_first:
            headers[f"x-first-death-{name}"] = value
        if compat.tells_last_death:
            headers[f"x-last-death-{name}"] = value
    if routing_key is not None and not compat.keeps_copies:
        headers.pop("CC", None)
    keys = message.routing_keys if routing_key is None else (routing_key,)
    properties = with_headers(message.properties, headers, drop_expiration=True)
    return Message(
        exchange,
        keys,
        properties,
        message.body,
        message_facts(properties),
        deaths,
        (entry.redelivered or reason == "rejected") and compat.dead_are_redelivered and not queue.options.at_least_once,
        _counts(entry, reason, queue.is_quorum, compat),
    )


def _counts(entry: Entry, reason: str, is_quorum: bool, compat: Compat) -> Counts | None:
    """What it brings along."""
    before, is_rejected = entry.message.counts or _NO_COUNTS, reason == "rejected"
    match compat.carried_counts:
        case "rejections":
            failed = before.failed + (is_rejected and is_quorum)
            return Counts(0, failed, 0) if failed else None
        case "deliveries":
            acquired, failed = before.acquired + entry.acquired + is_rejected, entry.count + is_rejected
            return Counts(acquired, failed, failed) if acquired else None
        case "":
            return None


def _deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    deaths = headers.get("x-death")
    return [each for each in deaths if isinstance(each, dict)] if isinstance(deaths, list) else []


def goes_round(message: Message, queue: str) -> bool:
    """Whether it has died in this queue before, and since then of nothing but the broker's own doing."""
    since: list[Mapping[str, Any]] = []
    for death in message.deaths:
        since.append(death)
        if death.get("queue") == queue:
            return all(each.get("reason") != "rejected" for each in since)
    return False
