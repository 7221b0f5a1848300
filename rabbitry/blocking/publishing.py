"""`publish_many`: messages handed over many at a time, published ahead of their confirms, done when all are confirmed.

What must stay true: the messages are taken from what the caller gave in the caller's thread, a bounded number ahead;
every one is counted once; a failure, a time-out or an interruption leaves nothing under way behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import islice
from typing import Any, Protocol, TypeAlias, cast

import anyio

import rabbitry
from rabbitry import Exchange, LocalProtocolError, Message
from rabbitry.blocking.portal import Deadline, Portal, Timeout

__all__ = ["ByKey", "Several", "Submits", "publish_all", "unconfirmed", "with_keys"]

Several: TypeAlias = Iterable[Message | bytes]
ByKey: TypeAlias = Mapping[str, Message | bytes | Iterable[Message | bytes]]

AT_ONCE = 1000
"""Messages handed over at once, at most: a change of thread for each would cost more than to publish it."""

Keyed: TypeAlias = tuple[str, Message | bytes]

SINGLE: tuple[type, ...] = (Message, bytes, bytearray, memoryview, str)
"""What is one message, or is meant to be; text is refused when it is published."""


class Submits(Protocol):
    """A publisher, or what stands for one where nothing is confirmed."""

    async def submit(
        self, message: Message | bytes, *, routing_key: str, exchange: str | Exchange | None, mandatory: bool
    ) -> Any:
        """Publish, as soon as there is room."""
        ...


def with_keys(messages: Several | ByKey, routing_key: str | None) -> Iterator[Keyed]:
    """Each message with its routing key."""
    if isinstance(messages, SINGLE):
        raise TypeError("publish_many takes several messages: publish(...) sends one")
    if isinstance(messages, Mapping):
        if routing_key is not None:
            raise ValueError("a mapping has its own routing keys: leave out routing_key")
        return _of_mapping(cast(Mapping[str, Any], messages))
    key = routing_key or ""
    return ((key, message) for message in _several(messages))


def _of_mapping(messages: Mapping[str, Any]) -> Iterator[Keyed]:
    for key, value in messages.items():
        several: Iterable[Any] = (value,) if isinstance(value, SINGLE) else _several(value)
        for message in several:
            yield key, message


def _several(messages: Any) -> Iterator[Any]:
    try:
        return iter(messages)
    except TypeError:
        raise TypeError(f"publish_many takes an iterable of messages, not {messages!r:.200}") from None


class _Publishing:
    """One `publish_many`, on the loop. Its block may be entered and left by different tasks."""

    def __init__(
        self,
        open_publisher: Callable[[], AbstractAsyncContextManager[Submits]],
        exchange: str | Exchange,
        mandatory: bool,
    ) -> None:
        self._open_publisher = open_publisher
        self._block: AbstractAsyncContextManager[Submits] | None = None
        self._publisher: Submits | None = None
        self._exchange = exchange
        self._mandatory = mandatory

    async def send(self, messages: list[Keyed], is_last: bool) -> None:
        """Publish these messages. With the last ones, return when all are confirmed."""
        try:
            if self._publisher is None:
                block = self._open_publisher()
                self._publisher = await block.__aenter__()
                self._block = block
            submit, exchange, mandatory = self._publisher.submit, self._exchange, self._mandatory
            for key, message in messages:
                await submit(message, routing_key=key, exchange=exchange, mandatory=mandatory)
            if is_last:
                await self._leave(None)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._leave(error)
            raise

    async def give_up(self) -> None:
        """Leave at once: the caller has failed to give the rest."""
        await self._leave(LocalProtocolError("publish_many was interrupted"))

    async def _leave(self, error: BaseException | None) -> None:
        block, self._block = self._block, None
        if block is not None:
            await block.__aexit__(type(error) if error is not None else None, error, None)


def publish_all(
    portal: Portal,
    open_publisher: Callable[[], AbstractAsyncContextManager[Submits]],
    messages: Iterator[Keyed],
    exchange: str | Exchange,
    mandatory: bool,
    timeout: Timeout,
) -> int:
    """Publish all messages, wait for their confirms, and return how many there were."""
    deadline = Deadline(timeout)
    publishing = _Publishing(open_publisher, exchange, mandatory)
    count = 0
    try:
        is_last = False
        while not is_last:
            chunk = list(islice(messages, AT_ONCE))
            count += len(chunk)
            is_last = len(chunk) < AT_ONCE
            portal.run(_sending(publishing, chunk, is_last), deadline.rest)
    except BaseException:
        if publishing._block is not None:
            portal.run(publishing.give_up)
        raise
    return count


def _sending(publishing: _Publishing, chunk: list[Keyed], is_last: bool) -> Callable[[], Awaitable[None]]:
    return lambda: publishing.send(chunk, is_last)


# --- without confirms -------------------------------------------------------------------------------------------------


class _Unconfirmed:
    """Publishes on a channel that does not confirm."""

    def __init__(self, channel: rabbitry.Channel) -> None:
        self._channel = channel

    async def submit(
        self, message: Message | bytes, *, routing_key: str, exchange: str | Exchange | None, mandatory: bool
    ) -> None:
        """Publish; return once the message is queued."""
        await self._channel.publish(message, routing_key=routing_key, exchange=exchange or "", mandatory=mandatory)


@asynccontextmanager
async def unconfirmed(channel: rabbitry.Channel) -> AsyncIterator[Submits]:
    """What stands for a publisher of this channel."""
    yield _Unconfirmed(channel)
