"""Deliveries that are held too long: which they are, by version, and how a channel that holds one is refused."""

from __future__ import annotations

from rabbitry.broker.compat import Compat
from rabbitry.broker.unsettled import Unsettled
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["due", "held_too_long"]


def due(unsettled: Unsettled, timeout: float | None, compat: Compat) -> float | None:
    """When this delivery will have been held too long; `timeout` is the broker's own, in seconds. None for never."""
    counting, queue, consumer = compat.consumer_timeout, unsettled.queue, unsettled.consumer
    if queue is None or (counting == "quorum" and not queue.is_quorum):
        return None
    if counting != "channel" and queue.options.consumer_timeout is not None:
        timeout = queue.options.consumer_timeout / 1000
    if consumer is not None and consumer.options.timeout is not None:
        timeout = consumer.options.timeout / 1000
    return None if timeout is None else unsettled.since + timeout


def held_too_long(number: int, seconds: float, compat: Compat) -> Refusal:
    """The refusal of what was to be settled in so many seconds, on the channel with this number."""
    shown = -1 if compat.consumer_timeout == "quorum" else round(seconds * 1000)
    return Refusal(
        406,
        f"delivery acknowledgement on channel {number} timed out. Timeout value used: {shown} ms. This timeout value "
        "can be configured, see consumers doc guide to learn more",
        (0, 0),
    )
