"""`Retrying`: what `client.process(retry=…)` does with a delivery whose handler failed.

What must stay true: a delivery is acknowledged only when a copy of it was confirmed, by the delay or by the dead queue;
until then it stays unacknowledged, and who can't get rid of it asks ever more seldom. A copy says nothing of its former
way but what the headers in `_values/retry.py` say.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import anyio

from rabbitry._channel.delivery import Delivery, log_failure
from rabbitry._client.delays import DELAYED, Delays, Need, level_of
from rabbitry._client.link import Link
from rabbitry._client.outcomes import in_a_life
from rabbitry._concurrency.repeated import Repeated
from rabbitry._connection.connection import Connection
from rabbitry._errors import (
    Closed,
    ConnectionBlocked,
    NotConnected,
    PublishFailed,
    Refused,
    shown,
    shown_error,
)
from rabbitry._values.annotations import Unfit
from rabbitry._values.durations import seconds
from rabbitry._values.message import Message
from rabbitry._values.retry import (
    ATTEMPT,
    ATTEMPTS,
    ERROR,
    EXCHANGE,
    FROM,
    ROUTING_KEY,
    TO,
    USER_ID,
    Retry,
    attempt_told,
    to_queue,
    without_traces,
)
from rabbitry._values.topology import Queue

__all__ = ["Retrying"]

SHORTEST, LONGEST = 0.1, 5.0
"""Seconds between attempts to hand a message over: the first, which doubles, and where that ends."""

CONFIRM_BOUND = 10.0
"""Seconds until a copy that is not confirmed is published again: to a quorum queue that had no leader yet, just after
the broker's restart, RabbitMQ leaves it unanswered for a minute or more.
"""

_HELD_UP = Repeated()


class Retrying:
    """The retries of one `process` of the queue."""

    __slots__ = ("_delays", "_link", "_publish", "_queue", "_retry")

    def __init__(
        self, retry: Retry, queue: str, delays: Delays, publish: Callable[..., Awaitable[None]], link: Link
    ) -> None:
        """`publish` is the client's, whose `link` is the publishing one."""
        if retry.dead_name == queue:
            raise ValueError(f"what is dead must not come again: retry's dead queue {queue!r} is the one it is of")
        self._retry = retry
        self._queue = queue
        self._delays = delays
        self._publish = publish
        self._link = link

    async def begin(self, has_ended: Callable[[], bool]) -> None:
        """Provide for all that a failure will need, so that it shows now what is missing, or not permitted. Waits for a
        connection until it `has_ended`.
        """
        while not has_ended():
            try:
                levels: list[Need] = [level_of(seconds(delay)) for delay in self._retry.delays]
                await self._delays.provide([*levels, to_queue(self._queue)], "fail")
                if self._retry.dead_name is not None:
                    await in_a_life(self._link, "fail", self._have_dead)
                return
            except (NotConnected, ConnectionBlocked):
                if self._link.state == "closed":
                    raise
                await anyio.sleep(SHORTEST)

    async def _have_dead(self, connection: Connection) -> None:
        async with connection.channel(confirm=False) as channel:
            if isinstance(self._retry.dead, Queue):
                await channel.declare(self._retry.dead)
            else:
                await channel.declare_queue(self._retry.dead_name or "", passive=True)

    async def settle_failed(self, delivery: Delivery, error: Exception, has_ended: Callable[[], bool]) -> None:
        """Hand it over to where it goes now, and acknowledge it; or put it back where that can't be until it
        `has_ended`. Raises why there can't be a copy of it.
        """
        retry, headers = self._retry, delivery.headers
        attempt = attempt_told(headers, self._queue)
        is_over = attempt > len(retry.delays) or isinstance(error, (Unfit, *retry.give_up_on))
        why = f"as its attempt {attempt} was the last"
        copy, is_gone = _copy(delivery), False
        exchange = headers.get(EXCHANGE, "") if delivery.exchange == DELAYED.name else delivery.exchange
        fresh = {**(copy.headers or {}), EXCHANGE: exchange}
        became = ""
        if not is_over:
            delay = seconds(retry.delays[attempt - 1])
            became = f"attempt {attempt} of {len(retry.delays) + 1}, the next one in {delay:g} s"
            again = copy.replace(headers=fresh | {TO: to_queue(self._queue), ATTEMPT: attempt + 1})
            try:
                is_gone = await self._hand_over(delivery, self._wait(again, delay, delivery.routing_key), has_ended)
            except ValueError as no_room:
                is_over, why = True, f"as it can't be retried: {no_room}"
        if is_over and retry.dead is None:
            delivery.reject(requeue=False)
            log_failure(delivery, error, f"rejected, {why}")
            return
        if is_over:
            became = f"moved to queue '{shown(retry.dead_name or '')}', {why}"
            told = {
                ATTEMPTS: attempt,
                FROM: self._queue,
                ROUTING_KEY: delivery.routing_key,
                ERROR: type(error).__qualname__,
            }
            try:
                is_gone = await self._hand_over(delivery, self._bury(copy, fresh | told), has_ended)
            except ValueError:  # no room for what is told
                bare = self._bury(copy, without_traces(delivery.message.headers))
                is_gone = await self._hand_over(delivery, bare, has_ended)
        if is_gone and not delivery.is_stale:
            delivery.ack()
        elif is_gone:
            became += "; its channel has ended meanwhile: the broker will deliver it again, too"
        elif delivery.is_stale:
            became = "its channel has ended: the broker will deliver it again"
        else:
            delivery.nack(requeue=True)
            became = "put back"
        log_failure(delivery, error, became)

    def _bury(self, copy: Message, headers: Mapping[str, object]) -> Callable[[], Awaitable[None]]:
        message = copy.replace(headers=_without_copies(headers))
        return lambda: self._publish(message, routing_key=self._retry.dead_name, mandatory=True, while_down="fail")

    def _wait(self, message: Message, delay: float, routing_key: str) -> Callable[[], Awaitable[None]]:
        return lambda: self._delays.hold(
            message,
            delay,
            routing_key=routing_key,
            to=to_queue(self._queue),
            while_down="fail",
            on_unknown="raise",
        )

    async def _hand_over(
        self, delivery: Delivery, publish: Callable[[], Awaitable[None]], has_ended: Callable[[], bool]
    ) -> bool:
        """Whether the broker has confirmed the copy; until it does, or the delivery is nobody's, or the whole
        `has_ended`, it is published again.
        """
        pause = SHORTEST
        while not delivery.is_stale:
            try:
                with anyio.move_on_after(CONFIRM_BOUND) as bound:
                    await publish()
                    return True
                if bound.cancelled_caught:
                    self._held_up(TimeoutError(f"no confirm within {CONFIRM_BOUND:g} s"))
            except Refused:
                raise
            except (PublishFailed, Closed, NotConnected, ConnectionBlocked) as error:
                self._held_up(error)
            if has_ended():
                return False
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST)
        return False

    def _held_up(self, error: Exception) -> None:
        _HELD_UP.log(
            logging.WARNING,
            self._queue,
            type(error).__qualname__,
            "a failed delivery of queue '%s' can't be handed over to its delay or the dead queue, is kept "
            "unacknowledged, and handed over again soon: %s",
            shown(self._queue),
            shown_error(error),
        )


def _copy(delivery: Delivery) -> Message:
    """The message to publish again. Its expiration was for its first stay in a queue, and its user_id another user's
    perhaps, as whom this client can't publish.
    """
    message = delivery.message
    headers = without_traces(message.headers)
    user_id = message.user_id if message.user_id is not None else delivery.headers.get(USER_ID)
    if user_id is not None:
        headers[USER_ID] = user_id
    return message.replace(headers=headers, expiration=None, user_id=None)


def _without_copies(headers: Mapping[str, object]) -> dict[str, object]:
    """By the default exchange a copy for others would go to them again."""
    return {name: value for name, value in headers.items() if name not in ("CC", "BCC")}
