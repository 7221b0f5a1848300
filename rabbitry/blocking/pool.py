"""`Publishers`: the publishers that a client's `publish_many` uses, pooled for the next one.

What must stay true: a publisher serves one caller at a time, and is kept only while nothing of its messages has failed;
a call that is given up waits for no broker.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

import rabbitry
from rabbitry._values.options import OnUnknown, WhileDown, check_window
from rabbitry.blocking.portal import Portal

__all__ = ["PublisherOptions", "Publishers"]

logger: logging.Logger = logging.getLogger("rabbitry")

PublisherOptions: TypeAlias = tuple[WhileDown | None, OnUnknown]


class Publishers:
    """A client's publishers that are not in use, each with a channel of its own, so that the calls of several threads
    don't share their failures. Used on the loop alone.
    """

    def __init__(self) -> None:
        self._client: rabbitry.Client
        self._portal: Portal
        self._is_open = False
        self._idle: dict[PublisherOptions, list[tuple[rabbitry.ClientPublisher, AsyncExitStack]]] = {}

    @asynccontextmanager
    async def with_client(
        self, opening: AbstractAsyncContextManager[rabbitry.Client], portal: Portal
    ) -> AsyncIterator[rabbitry.Client]:
        """The client's block, with which these end. It must not know the blocking client, which may be dropped."""
        async with opening as self._client:
            self._portal, self._is_open = portal, True
            try:
                yield self._client
            finally:
                self._is_open = False
                idle, self._idle = self._idle, {}
                for kept in idle.values():
                    for _, stack in kept:
                        await stack.aclose()

    @asynccontextmanager
    async def one(self, window: int, options: PublisherOptions) -> AsyncIterator[rabbitry.ClientPublisher]:
        """A publisher for this caller alone, until all it published is confirmed."""
        check_window(window)
        idle = self._idle.setdefault(options, [])
        publisher, stack = idle.pop() if idle else await self._new(options)
        # The async library's own attribute: with nothing under way it may change, so that one channel serves all sizes.
        publisher._window = window
        try:
            yield publisher
            await publisher.flush()
        except BaseException as error:  # a broker that does not answer may take seconds to close the channel
            self._portal.spawn(self._abandon(stack, error))
            raise
        if publisher.failed or not self._is_open:
            await stack.aclose()
        else:
            idle.append((publisher, stack))

    async def _abandon(self, stack: AsyncExitStack, error: BaseException) -> None:
        """Leave at once what the publisher has under way, and close its channel."""
        try:
            await stack.__aexit__(type(error), error, None)
        except BaseException as again:
            if again is not error:
                logger.warning("a publisher could not be closed: %s", again)

    async def _new(self, options: PublisherOptions) -> tuple[rabbitry.ClientPublisher, AsyncExitStack]:
        while_down, on_unknown = options
        stack = AsyncExitStack()
        publisher = await stack.enter_async_context(
            self._client.publisher(while_down=while_down, on_unknown=on_unknown)
        )
        return publisher, stack
