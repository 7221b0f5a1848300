"""`Publisher`: pipelined publishing with a bounded window of unconfirmed messages.

What must stay true: never more than `window` publishes without their confirm; every publish is counted exactly once as
confirmed or failed; memory stays bounded however long the run (the first 1,000 failures are kept, the rest counted).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

import anyio

from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.life import ChannelLife
from rabbitry._concurrency.waiting import GIVE_WAY, Signal, checkpoint, wait_in_line
from rabbitry._errors import LocalProtocolError, PublishesFailed, PublishFailed
from rabbitry._values.message import Message
from rabbitry._values.options import check_on_outcome, check_window
from rabbitry._values.topology import Exchange, name_of

__all__ = ["Publisher"]

logger = logging.getLogger("rabbitry")

FAILURES_KEPT = 1000


class Publisher:
    """Publishes on a confirm channel, up to `window` messages ahead of their confirms; made by `channel.publisher`.

    Leaving the block waits for all of them and raises `PublishesFailed` if any `submit` failed, unless `on_outcome`
    was given, which then has been told. A body that raises or is cancelled leaves at once. `sent`, `confirmed`,
    `failed` and `pending` are live counts; publishes made through `publish` raise their own failure and are not
    listed again.
    """

    __slots__ = (
        "_calls",
        "_drained",
        "_exchange",
        "_failures",
        "_is_open",
        "_life",
        "_on_outcome",
        "_reserved",
        "_unreported",
        "_waiting",
        "_window",
        "confirmed",
        "failed",
        "sent",
    )

    def __init__(
        self, life: ChannelLife, exchange: str, window: int, on_outcome: Callable[[Confirmation], None] | None
    ) -> None:
        check_window(window)
        check_on_outcome(on_outcome)
        self._life = life
        self._exchange = exchange
        self._window = window
        self._on_outcome = on_outcome
        self._failures: list[PublishFailed] = []
        self._unreported = 0
        self._calls = -1
        self._is_open = False
        self._drained: anyio.Event | None = None  # set when nothing is pending
        self._waiting: list[Signal] = []  # for a place in the window, the first first
        self._reserved = 0  # places given to those who are about to queue
        self.sent: int = 0
        self.confirmed: int = 0
        self.failed: int = 0

    def __repr__(self) -> str:
        return f"<Publisher sent={self.sent} confirmed={self.confirmed} failed={self.failed} window={self._window}>"

    @property
    def pending(self) -> int:
        """Publishes whose outcome is not known yet."""
        return self.sent - self.confirmed - self.failed

    async def __aenter__(self) -> Self:
        """Check that the channel confirms."""
        await self._life.endpoint.begin()
        self._life.require_confirms("a publisher")
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            self._is_open = False
        if error is None and self._unreported and self._on_outcome is None:
            raise PublishesFailed(self._failures, self._unreported)

    async def submit(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
        tag: Any = None,
    ) -> Confirmation:
        """Publish and return as soon as there is room in the window; `tag` is yours, kept on the `Confirmation`.

        Raises `ConnectionClosed` or `ChannelClosed` if the message was not sent because the channel has ended.
        Cancelling it while it waits for room means: not sent.
        """
        self._calls += 1
        if self._calls & GIVE_WAY:
            await self._life.endpoint.checkpoint_if_cancelled()
        else:  # the first time, too
            self._life.endpoint.check_loop()
            await checkpoint()
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        confirmation = Confirmation(message, exchange, routing_key, tag, self._submitted_settled)
        if (  # hot: `_has_room` without the call
            self.sent - self.confirmed - self.failed < self._window
            and not self._reserved
            and not self._waiting
            and self._is_open
            and self._life.queue_confirmed(message, confirmation, mandatory)
        ):
            self.sent += 1
        else:
            await self._queue(confirmation, mandatory)
        return confirmation

    async def publish(
        self,
        message: Message | bytes,
        *,
        routing_key: str = "",
        exchange: str | Exchange | None = None,
        mandatory: bool = False,
    ) -> None:
        """Publish within the window and return once confirmed; raises as `Channel.publish`, and cancelling means the
        same.
        """
        await self._life.endpoint.begin()
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        confirmation = Confirmation(message, exchange, routing_key, None, self._settled)
        await self._queue(confirmation, mandatory)
        await confirmation.wait()

    async def flush(self) -> None:
        """Return once nothing is pending. Cancelling it stops the waiting only."""
        await self._life.endpoint.begin()
        while self.pending:
            if self._drained is None:
                self._drained = anyio.Event()
            await self._drained.wait()

    @property
    def _has_room(self) -> bool:
        """Whether a message more may be queued now, ahead of nobody who waits to."""
        return self.sent - self.confirmed - self.failed < self._window and not self._reserved and not self._waiting

    async def _queue(self, confirmation: Confirmation, mandatory: bool) -> None:
        """Wait for room in the window and on the connection, then queue; no checkpoint after the queueing."""
        self._life.endpoint.check_loop()
        if self._has_room:
            self._reserved += 1
        else:
            await self._wait_for_place()
        try:
            while True:
                if not self._is_open:
                    self._refuse()
                if self._try_queue(confirmation, mandatory):
                    self.sent += 1
                    return
                await self._wait_ready()
        finally:
            self._give_back()

    def _refuse(self) -> NoReturn:
        self._life.require_confirms("a publisher")
        raise LocalProtocolError("the publisher is not open: use it inside its 'async with' block")

    def _try_queue(self, confirmation: Confirmation, mandatory: bool) -> bool:
        return self._life.queue_confirmed(confirmation.message, confirmation, mandatory)

    async def _wait_ready(self) -> None:
        """Return when the channel may take a message more."""
        await self._life.endpoint.wait_room()

    async def _wait_for_place(self) -> None:
        """Return with a place in the window reserved, in the order of asking."""
        await wait_in_line(self._waiting, self._life.endpoint.new_signal(), self._give_back)

    def _give_back(self) -> None:
        """A reserved place was used, or will not be."""
        self._reserved -= 1
        self._admit()

    def _admit(self) -> None:
        """Reserve the places there are for those who wait longest."""
        while self._waiting and self.pending + self._reserved < self._window:
            self._reserved += 1
            self._waiting.pop(0).set()

    def _ended(self) -> None:
        """A publish has ended, and its place in the window is free."""
        if self._waiting:
            self._admit()
        if self._drained is not None and not self.pending:
            self._drained.set()
            self._drained = None

    def _submitted_settled(self, confirmation: Confirmation) -> None:
        # hot: what `_settled` does with nearly all
        if confirmation.outcome == "confirmed" and self._on_outcome is None:
            self.confirmed += 1
            if self._waiting or self._drained is not None:
                self._ended()
            return
        if self._on_outcome is None:
            self._unreported += 1
            if len(self._failures) < FAILURES_KEPT:
                failure = confirmation.failure()
                assert failure is not None
                self._failures.append(failure)
        self._settled(confirmation)

    def _settled(self, confirmation: Confirmation) -> None:
        if confirmation.outcome == "confirmed":
            self.confirmed += 1
        else:
            self.failed += 1
        # hot: `_ended` without the call where there is nothing to do
        if self._waiting or self._drained is not None:
            self._ended()
        if self._on_outcome is not None:
            try:
                self._on_outcome(confirmation)
            except Exception:  # it must not take the connection with it
                logger.exception("on_outcome failed for %r", confirmation)
