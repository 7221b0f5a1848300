"""`ClientPublisher`: pipelined publishing through all lives of a connection; and the roster of a client's publishers.

What must stay true: what is sent again is what `outcomes` says, and messages of one publisher leave in the order they
were submitted, those sent again ahead of new ones; each publish ends exactly once, at the latest with the client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import anyio

from rabbitry._channel.channel import life_of
from rabbitry._channel.confirmation import Confirmation
from rabbitry._channel.life import ChannelLife
from rabbitry._channel.publisher import Publisher
from rabbitry._client.link import Link
from rabbitry._client.outcomes import next_step
from rabbitry._client.senders import Renewal, open_channel
from rabbitry._concurrency.waiting import GIVE_WAY, checkpoint
from rabbitry._errors import (
    ChannelClosed,
    Closed,
    ConnectionBlocked,
    LocalProtocolError,
    NotConnected,
    PublishFailed,
    RabbitryError,
)
from rabbitry._values.message import Message
from rabbitry._values.options import Loss, OnUnknown, WhileDown
from rabbitry._values.topology import Exchange, name_of

__all__ = ["ClientPublisher", "LastingConfirmation", "Publishers"]


class LastingConfirmation(Confirmation):
    """The outcome of one publish, which may take several lives."""

    __slots__ = ("_publisher", "is_suspect", "mandatory", "number", "was_sent")

    def __init__(
        self,
        publisher: ClientPublisher,
        message: Message | bytes,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        tag: Any,
        on_settled: Callable[[Confirmation], None],
    ) -> None:
        Confirmation.__init__(self, message, exchange, routing_key, tag, on_settled)
        self._publisher = publisher
        self.mandatory = mandatory
        self.number = 0  # in the order of submitting
        self.was_sent = False  # in a former life: it may have arrived then
        self.is_suspect = False  # the broker closed a channel for it, or for one beside it, or for one that is like it

    def __lt__(self, other: LastingConfirmation) -> bool:
        return self.number < other.number

    def lose(self, outcome: Loss, error: RabbitryError) -> None:
        """The channel ended before the broker answered."""
        if outcome == "refused" or not self._publisher._takes_back(self, outcome, error):
            self.give_up(outcome, error)

    def take_over(self, answered: Confirmation) -> None:
        """End it by the broker's answer to another publish of the same message."""
        self._returned = answered._returned
        self.settle(answered.outcome != "nacked")

    def give_up(self, outcome: Loss, error: RabbitryError) -> None:
        """End it, as the message will not be sent again."""
        super().lose("unknown" if self.was_sent and outcome == "unsent" else outcome, error)


class ClientPublisher(Publisher):
    """A `Publisher` that goes on in the next connection life; made by `client.publisher`.

    What was certainly not taken when a channel or connection ended is sent again, in order. What was under way ends as
    `OutcomeUnknown`, or with `on_unknown="republish"` is sent again and counted in `republished`: it arrives at least
    once, so there may be duplicates. A message that the broker closed the channel over ends as `Refused`. Where it
    can't be told which that is, each that was under way is, with "republish", sent alone, and only the culprit fails.
    """

    __slots__ = (
        "_again",
        "_is_ready",
        "_is_suspect",
        "_link",
        "_lock",
        "_on_unknown",
        "_renewal",
        "_resent",
        "_scopes",
        "_taken_back",
        "_while_down",
        "republished",
    )

    sent: int

    def __init__(
        self,
        life: ChannelLife,
        link: Link,
        exchange: str,
        window: int,
        on_outcome: Callable[[Confirmation], None] | None,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        """`life` is its channel's in the first connection life. A task of the client's runs `_resend`."""
        super().__init__(life, exchange, window, on_outcome)
        self._link = link
        self._while_down: WhileDown = while_down
        self._on_unknown: OnUnknown = on_unknown
        self._again: list[LastingConfirmation] = []  # a heap: taken back, to be sent in the next life
        self._scopes: set[anyio.CancelScope] = set()  # of those who wait for a channel
        self._taken_back = anyio.Event()  # set where there are some
        self._resent = anyio.Event()  # set when all of them were sent
        self._is_suspect = False  # the channel, because of a nack
        self._is_ready = True  # none waits to be sent again, and the channel is not suspect
        self._renewal = Renewal()
        self._lock = anyio.Lock()
        self.republished: int = 0

    async def __aenter__(self) -> Self:
        """Nothing is left to do, so there is nothing to cancel: the channel is open."""
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            for scope in self._scopes:
                scope.cancel()
            self._give_up(NotConnected("the publisher was left before the message could be sent"))
            try:
                await self._renewal.close_idle(all_of_them=True)
            finally:
                await self._life.close()

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

        While the connection is down it waits, or with `while_down="fail"` raises `NotConnected`. Cancelling it while it
        waits means: not sent.
        """
        self._calls += 1
        if self._calls & GIVE_WAY:
            await self._life.endpoint.checkpoint_if_cancelled()
        else:
            self._life.endpoint.check_loop()
            await checkpoint()
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        confirmation = LastingConfirmation(
            self, message, exchange, routing_key, mandatory, tag, self._submitted_settled
        )
        if (  # hot: `_has_room` and `_try_queue` without the calls
            self.sent - self.confirmed - self.failed < self._window
            and not self._reserved
            and not self._waiting
            and self._is_ready
            and self._is_open
            and self._life.is_open
            and self._life.queue_confirmed(message, confirmation, mandatory)
        ):
            confirmation.number = self.sent
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
        """Publish within the window and return once confirmed; raises as `Client.publish`, and cancelling means the
        same.
        """
        await self._life.endpoint.begin()
        exchange = self._exchange if exchange is None else name_of(exchange, Exchange)
        confirmation = LastingConfirmation(self, message, exchange, routing_key, mandatory, None, self._settled)
        await self._queue(confirmation, mandatory)
        await confirmation.wait()

    # --- from one life to the next ------------------------------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        raise LocalProtocolError("the publisher is not open: use it inside its 'async with' block")

    def _try_queue(self, confirmation: Confirmation, mandatory: bool) -> bool:
        assert isinstance(confirmation, LastingConfirmation)
        confirmation.number = self.sent
        return (
            self._is_ready
            and self._life.is_open
            and self._life.queue_confirmed(confirmation.message, confirmation, mandatory)
        )

    async def _wait_ready(self) -> None:
        if self._taken_back.is_set():
            await self._resent.wait()
        elif self._while_down == "fail" and (reason := self._life.endpoint.blocked_reason) is not None:
            raise ConnectionBlocked(reason)
        elif self._life.is_open and not self._is_suspect:
            await self._life.endpoint.wait_room()
        else:
            await self._reopen()

    async def _reopen(self) -> None:
        """Have a channel in the next life, or in the place of one whose publishes are refused."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with self._lock:
                    former = self._life
                    if self._is_open and (self._is_suspect or not former.is_open):
                        self._life = life_of(await open_channel(self._link, self._while_down))
                        self._renewal.retire(former)
                        self._is_suspect = False
                        self._is_ready = not self._taken_back.is_set()
                        await self._renewal.close_idle()
            finally:
                self._scopes.discard(scope)
        if not self._is_open:
            self._refuse()

    def _settled(self, confirmation: Confirmation) -> None:
        if confirmation.outcome == "nacked" and self._renewal.is_due():
            self._is_suspect, self._is_ready = True, False
        super()._settled(confirmation)

    def _takes_back(
        self,
        confirmation: LastingConfirmation,
        outcome: Literal["unknown", "unsent"],
        error: RabbitryError,
        *,
        is_last: bool = False,
    ) -> bool:
        """Whether a publish that the end of a channel or connection has struck will be sent again."""
        if not self._is_open or self._link.state == "closed":
            return False
        if self._while_down == "fail" and not isinstance(error, ChannelClosed):  # it would have to wait
            return False
        may_repeat = self._on_unknown == "republish"
        step = next_step(confirmation, outcome, error, may_repeat=may_repeat, is_last=is_last)
        if step == "never":
            return False
        if step == "alone":
            confirmation.is_suspect = True
        if outcome == "unknown":
            self.republished += 1
            confirmation.was_sent = True
        confirmation.forget_return()
        heappush(self._again, confirmation)
        self._is_ready = False
        self._taken_back.set()
        return True

    async def _resend(self) -> None:
        """Send what is taken back, in order, in the life that follows; as long as the publisher is open."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            while self._is_open:
                await self._taken_back.wait()
                try:
                    await self._send_all_again()
                except RabbitryError as error:  # there will be no other life
                    self._give_up(error)
                except ValueError as error:  # the new life takes smaller frames than the one that it was sent in
                    self._give_up(LocalProtocolError(str(error)))
                resent, self._resent = self._resent, anyio.Event()
                self._taken_back = anyio.Event()
                self._is_ready = not self._is_suspect
                resent.set()

    async def _send_all_again(self) -> None:
        while self._again:
            if self._again[0].is_suspect:
                await self._send_alone(heappop(self._again))
            elif self._is_suspect or not self._life.is_open:
                await self._reopen()
            elif not self._try_again(heappop(self._again)):
                await self._life.endpoint.wait_room()

    def _try_again(self, confirmation: LastingConfirmation) -> bool:
        queued = False
        try:
            queued = self._life.queue_confirmed(confirmation.message, confirmation, confirmation.mandatory)
        finally:
            if not queued:
                heappush(self._again, confirmation)
        return queued

    async def _send_alone(self, confirmation: LastingConfirmation) -> None:
        """Send a suspect message on a channel with no other, so that its end is this one's fault."""
        once = self._once(confirmation)
        is_under_way = False
        try:
            life = life_of(await open_channel(self._link, self._while_down))
            try:
                is_under_way = True
                await life.publish(once.message, once, confirmation.mandatory)
            finally:
                await life.close()
        except PublishFailed as failure:
            error = failure.__cause__
            assert error is None or isinstance(error, RabbitryError)
            if error is None:
                confirmation.take_over(once)
            elif once.outcome == "refused":
                confirmation.give_up("refused", error)
            else:
                outcome: Literal["unknown", "unsent"] = "unsent" if once.outcome == "unsent" else "unknown"
                if not self._takes_back(confirmation, outcome, error, is_last=True):
                    confirmation.give_up(outcome, error)
        except Closed:  # before it was queued
            heappush(self._again, confirmation)
        except BaseException:
            confirmation.was_sent = confirmation.was_sent or is_under_way
            if self._is_open:
                heappush(self._again, confirmation)
            else:  # it was left, and has given up what was in the heap
                confirmation.give_up("unsent", NotConnected("the publisher was left before the message was confirmed"))
            raise
        else:
            confirmation.take_over(once)

    def _once(self, confirmation: LastingConfirmation) -> Confirmation:
        """The outcome of one attempt more: an instrumented publisher's belongs to its operation."""
        return Confirmation(confirmation.message, confirmation.exchange, confirmation.routing_key)

    def _give_up(self, error: RabbitryError) -> None:
        """End the publishes that wait to be sent again: they never will be."""
        again, self._again = self._again, []
        for confirmation in sorted(again):
            confirmation.give_up("unsent", error)


class Publishers:
    """The open publishers of one client; `republished` counts what they and those that were left have sent again."""

    __slots__ = ("_left_republished", "_open", "_start_soon")

    def __init__(self, start_soon: Callable[..., object]) -> None:
        """`start_soon` runs something in a task of the client."""
        self._start_soon = start_soon
        self._open: set[ClientPublisher] = set()
        self._left_republished = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def republished(self) -> int:
        """Publishes that were sent again because their outcome was unknown."""
        return self._left_republished + sum(publisher.republished for publisher in self._open)

    @property
    def are_pending(self) -> bool:
        """Whether a publisher has a publish that has not ended yet."""
        return any(publisher.pending for publisher in self._open)

    @asynccontextmanager
    async def opened(self, publisher: ClientPublisher) -> AsyncIterator[ClientPublisher]:
        """The publisher inside its block, with the task that sends again what a life's end has struck."""
        self._open.add(publisher)
        try:
            async with publisher:
                self._start_soon(publisher._resend)
                yield publisher
        finally:
            self._open.discard(publisher)
            self._left_republished += publisher.republished

    async def flush(self) -> None:
        """Return once no publisher has anything pending."""
        for publisher in list(self._open):
            await publisher.flush()

    def give_up(self, error: RabbitryError) -> None:
        """End the publishes that still wait to be sent again."""
        for publisher in list(self._open):
            publisher._give_up(error)
