"""From an exchange to queues: through exchanges that are bound to each other, and alternates where nothing matches.

What must stay true: a queue gets one copy, a circle of exchanges ends. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rabbitry.broker.exchanges import Exchange
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue

__all__ = ["route"]


def route(
    exchange: Exchange,
    message: Message,
    queues: Mapping[str, Queue],
    exchanges: Mapping[str, Exchange],
    *,
    exact_numbers: bool,
) -> Sequence[Queue]:
    """The queues that get the message, each once. `exact_numbers`: whether headers tell 1 from 1.0."""
    keys = message.routing_keys
    if not exchange.name:
        return [queues[key] for key in sorted(set(keys)) if key in queues]
    found: dict[Queue, None] = {}
    visited = {exchange}
    following = [exchange]
    while following:
        source = following.pop()
        destinations = source.find(keys, message.facts.headers, exact_numbers)
        if not destinations:
            alternate = source.arguments.get("alternate-exchange")
            other = exchanges.get(alternate) if isinstance(alternate, str) else None
            destinations = () if other is None else (other,)
        for destination in destinations:
            if isinstance(destination, Queue):
                found[destination] = None
            elif isinstance(destination, Exchange) and destination not in visited:
                visited.add(destination)
                if destination.name:
                    following.append(destination)
                else:
                    directly = route(destination, message, queues, exchanges, exact_numbers=exact_numbers)
                    found.update((each, None) for each in directly)
    return list(found)
