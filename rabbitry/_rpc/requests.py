"""What a server keeps of its requests: when each arrived, what became of them all, and what of that is logged.

What must stay true: an arrival is kept from when the request came until a handler takes it, and no longer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.clock import clock
from rabbitry._concurrency.repeated import Repeated
from rabbitry._errors import PublishFailed, shown

__all__ = ["LINES", "Arrivals", "RequestCounts", "log_lost_reply"]

LINES = Repeated()
"""The log lines about requests, each by the queue's name: who sends them must not fill the disk."""


@dataclass(slots=True)
class RequestCounts:
    """What became of the requests that `serve` took: `answered` by what their handler returned, `failed` by an error
    reply, or by a reject where none is wanted; `expired` before they were begun, `stopped` as their caller's time was
    up; `duplicates` came again after they had been answered; `refused` were rejected: they wanted their reply where
    `reply_to_allowed` lets none go, or were larger than `max_message_size`. `undeliverable_replies` were lost: with
    their callers, mostly.
    """

    answered: int = 0
    failed: int = 0
    expired: int = 0
    stopped: int = 0
    duplicates: int = 0
    undeliverable_replies: int = 0
    refused: int = 0


class Arrivals:
    """When the requests that wait for a handler arrived: a caller's time runs meanwhile."""

    __slots__ = ("_by_tag", "_monotonic")

    def __init__(self) -> None:
        self._by_tag: dict[int, float] = {}
        self._monotonic = clock().monotonic

    def note(self, request: Delivery) -> None:
        """The request arrived. Called while reading."""
        self._by_tag[request.delivery_tag] = self._monotonic()

    def take(self, request: Delivery) -> float:
        """When this request arrived, asked once, before anything else is awaited; now if that was not noted."""
        arrived = self._by_tag.pop(request.delivery_tag, None)
        return self._monotonic() if arrived is None else arrived

    def clear(self) -> None:
        """The requests' channel has ended: those that wait go back, and delivery tags begin anew."""
        self._by_tag.clear()


def log_lost_reply(queue: str, error: PublishFailed) -> None:
    """Tell that a reply to a request of this queue could not be delivered."""
    LINES.log(
        logging.WARNING,
        queue,
        type(error).__name__,
        "a reply to a request of queue %r could not be delivered: %s",
        queue,
        shown(str(error), 1000),
    )
