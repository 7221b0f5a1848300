"""`Arrivals`: when each request arrived, as it may wait for a handler while its caller's time runs.

What must stay true: it keeps nothing of a connection life but the present one, whose delivery tags begin anew.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from rabbitry._channel.delivery import Delivery

__all__ = ["Arrivals"]


class Arrivals:
    """The moments by delivery tag, of the consumer that last had a delivery. `note` is its `on_arrival`."""

    __slots__ = ("_consumer", "_times")

    def __init__(self) -> None:
        self._consumer: Any = None
        self._times: dict[int, float] = {}

    def note(self, request: Delivery) -> None:
        """It arrives now."""
        if request.consumer is not self._consumer:
            self._consumer, self._times = request.consumer, {}
        self._times[request.delivery_tag] = monotonic()

    def take(self, request: Delivery) -> float:
        """When it arrived, asked once; now, where that is not known (it is of a former life)."""
        now = monotonic()
        return self._times.pop(request.delivery_tag, now) if request.consumer is self._consumer else now
