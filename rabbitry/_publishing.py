"""What publishes through all lives of a connection: a channel for each exchange, and the pipelined `ClientPublisher`.

What must stay true: a message is sent again only when it certainly did not arrive, or where duplicates were asked for;
messages of one publisher leave in the order they were submitted, those sent again ahead of new ones; each publish ends
exactly once, at the latest with the client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import anyio

from rabbitry._channel import Channel
from rabbitry._confirmation import Confirmation
from rabbitry._errors import Closed, ConnectionClosed, LocalProtocolError, NotConnected, RabbitryError
from rabbitry._link import Link, WhileDown
from rabbitry._publisher import Publisher
from rabbitry._topology import Exchange, name_of
from rabbitry._waiting import GIVE_WAY, checkpoint, checkpoint_if_cancelled

if TYPE_CHECKING:
    from rabbitry._message import Message

__all__ = ["ClientPublisher", "OnUnknown", "Senders", "check_policies"]

OnUnknown = Literal["raise", "republish"]

OWN_CHANNELS = 100
"""Exchanges that have a channel of their own for what is published to them."""


def check_policies(while_down: str, on_unknown: str = "raise") -> None:
    """Refuse what is no such policy."""
    if while_down not in ("wait", "fail"):
        raise LocalProtocolError(f"while_down is 'wait' or 'fail', not {while_down!r}")
    if on_unknown not in ("raise", "republish"):
        raise LocalProtocolError(f"on_unknown is 'raise' or 'republish', not {on_unknown!r}")


async def open_channel(link: Link, while_down: WhileDown) -> Channel:
    """A confirm channel of the present life, or the next; it ends with its connection."""
    while True:
        connection = await link.connection(while_down)
        channel = connection.channel()
        try:
            return await channel.__aenter__()
        except ConnectionClosed:
            continue


class Senders:
    """By exchange, the open channel that publishes to it: one that is missing ends the publishes to it alone."""

    __slots__ = ("_channels", "_link", "_lock")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channels: dict[str | None, Channel] = {}  # None: of those beyond the first hundred
        self._lock = anyio.Lock()

    def ready(self, exchange: str) -> Channel | None:
        """The channel for this exchange if it is open."""
        channel = self._channels.get(exchange) or self._channels.get(None)
        return channel if channel is not None and channel.is_open else None

    async def channel(self, exchange: str, while_down: WhileDown) -> Channel:
        """The channel for this exchange, opened if need be. Cancelling it does no harm."""
        key = exchange if exchange in self._channels or len(self._channels) < OWN_CHANNELS else None
        await self._link.connection(while_down)  # fails, where it is to fail, ahead of those who wait
        async with self._lock:
            channel = self._channels.get(key)
            if channel is None or not channel.is_open:
                channel = self._channels[key] = await open_channel(self._link, while_down)
            return channel


class LastingConfirmation(Confirmation):
    """The outcome of one publish, which may take several lives."""

    __slots__ = ("_publisher", "mandatory")

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

    def lose(self, outcome: Literal["unknown", "unsent"], error: RabbitryError) -> None:
        """The channel ended first."""
        if not self._publisher._takes_back(self, outcome, error):
            super().lose(outcome, error)


class ClientPublisher(Publisher):
    """A `Publisher` that goes on in the next connection life; made by `client.publisher`.

    What was certainly not sent when a connection ended is sent in the next life, in order. What was under way ends as
    `OutcomeUnknown`, or with `on_unknown="republish"` is sent again and counted in `republished`: it arrives at least
    once, so there may be duplicates.
    """

    __slots__ = ("_again", "_link", "_lock", "_on_unknown", "_resent", "_start", "_while_down", "republished")

    def __init__(
        self,
        channel: Channel,
        link: Link,
        start: Callable[[Callable[[], Awaitable[None]]], object],
        exchange: str,
        window: int,
        on_outcome: Callable[[Confirmation], None] | None,
        while_down: WhileDown,
        on_unknown: OnUnknown,
    ) -> None:
        """`channel` is that of the first life; `start` runs a coroutine function in a task of the client's."""
        super().__init__(channel, exchange, window, on_outcome)
        self._link = link
        self._start = start
        self._while_down: WhileDown = while_down
        self._on_unknown: OnUnknown = on_unknown
        self._again: deque[LastingConfirmation] = deque()  # taken back, to be sent in the next life
        self._resent: anyio.Event | None = None  # set when all of them were; while it is there, a task sends them
        self._lock = anyio.Lock()
        self.republished = 0

    async def __aenter__(self) -> Self:
        """Nothing is left to do: the channel is open."""
        await checkpoint_if_cancelled()
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, traceback)
        finally:
            self._give_up(NotConnected("the publisher was left before the message could be sent"))
            await self._channel._close()

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
            await self._channel._endpoint.checkpoint_if_cancelled()
        else:
            await checkpoint()
        exchange = self._exchange if exchange is None else name_of(exchange)
        confirmation = LastingConfirmation(
            self, message, exchange, routing_key, mandatory, tag, self._submitted_settled
        )
        if (  # hot: `_has_room` and `_try_queue` without the calls
            self.sent - self.confirmed - self.failed < self._window
            and not self._reserved
            and not self._waiting
            and self._resent is None
            and self._is_open
            and self._channel.is_open
            and self._channel._queue_confirmed(confirmation, mandatory)
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
        """Publish within the window and return once confirmed; raises as `Client.publish`, and cancelling means the
        same.
        """
        await checkpoint_if_cancelled()
        exchange = self._exchange if exchange is None else name_of(exchange)
        confirmation = LastingConfirmation(self, message, exchange, routing_key, mandatory, None, self._settled)
        await self._queue(confirmation, mandatory)
        await confirmation.wait()

    # --- from one life to the next ------------------------------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        raise LocalProtocolError("the publisher is not open: use it inside its 'async with' block")

    def _try_queue(self, confirmation: Confirmation, mandatory: bool) -> bool:
        return (
            self._resent is None and self._channel.is_open and self._channel._queue_confirmed(confirmation, mandatory)
        )

    async def _wait_ready(self) -> None:
        if self._resent is not None:
            await self._resent.wait()
        elif self._channel.is_open:
            await self._channel._endpoint.wait_room()
        else:
            await self._reopen()

    async def _reopen(self) -> None:
        """Have a channel in the next life."""
        async with self._lock:
            if not self._channel.is_open:
                self._channel = await open_channel(self._link, self._while_down)

    def _takes_back(
        self, confirmation: LastingConfirmation, outcome: Literal["unknown", "unsent"], error: RabbitryError
    ) -> bool:
        """Whether a publish that a life's end has struck will be sent in the next one."""
        if not self._is_open or self._while_down == "fail" or self._link.state == "closed":
            return False
        if outcome == "unknown":
            # Only for a lost connection: the message may be why the broker closed the channel.
            if self._on_unknown == "raise" or not isinstance(error, ConnectionClosed):
                return False
            self.republished += 1
        confirmation.forget_return()
        self._again.append(confirmation)
        if self._resent is None:
            self._resent = anyio.Event()
            self._start(self._send_again)
        return True

    async def _send_again(self) -> None:
        """Send what was taken back, in order. A task of the client's runs it."""
        try:
            while self._again:
                confirmation = self._again[0]
                try:
                    await self._reopen()
                    if self._channel._queue_confirmed(confirmation, confirmation.mandatory):
                        self._again.popleft()
                    else:
                        await self._channel._endpoint.wait_room()
                except Closed:
                    continue
        except RabbitryError as error:  # there will be no other life
            self._give_up(error)
        finally:
            resent, self._resent = self._resent, None
            if resent is not None:
                resent.set()

    def _give_up(self, error: RabbitryError) -> None:
        """What waits to be sent again never will be."""
        again, self._again = self._again, deque()
        for confirmation in again:
            Confirmation.lose(confirmation, "unsent", error)
