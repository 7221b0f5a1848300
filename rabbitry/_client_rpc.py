"""RPC through all lives: `ClientRPC` calls on the publishing connection, `answer` replies on it.

What must stay true: a call is made again only if its request was certainly not sent; a request is acknowledged once its
reply is the broker's, or can't be delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio

from rabbitry._codecs import codec_named
from rabbitry._delivery import Delivery
from rabbitry._errors import Closed, ConsumerCancelled, LocalProtocolError, PublishFailed
from rabbitry._rpc import REPLY_TO, RPC, Handler, reply_to

if TYPE_CHECKING:
    from rabbitry._client import Client
    from rabbitry._link import Link, WhileDown
    from rabbitry._topology import Exchange, Queue

__all__ = ["Answering", "ClientRPC"]

logger = logging.getLogger("rabbitry")


class ClientRPC:
    """Calls servers and gives their replies, through all lives of the connection; made by `client.rpc()`, any number of
    calls at once.

    A call in flight when the connection ends raises `OutcomeUnknown`: the server may have done its work. All calls
    share a channel: one that the broker closes it for (an exchange that does not exist, say) ends the others so, too.
    """

    __slots__ = ("_codec", "_is_open", "_late", "_link", "_lock", "_rpc", "_waiting", "_while_down")

    def __init__(self, link: Link, codec: str, while_down: WhileDown) -> None:
        codec_named(codec)  # refuses an unknown one, at once
        self._link = link
        self._codec = codec
        self._while_down: WhileDown = while_down
        self._lock = anyio.Lock()
        self._rpc: RPC | None = None  # of the present life, or the former
        self._late = 0
        self._is_open = True
        self._waiting: set[anyio.CancelScope] = set()  # of those who wait for the next life

    def __repr__(self) -> str:
        return f"<ClientRPC {self._rpc!r}>"

    @property
    def late_replies(self) -> int:
        """Replies that came when nobody waited for them any more."""
        return self._late + (self._rpc.late_replies if self._rpc is not None else 0)

    async def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        headers: Mapping[str, Any] | None = None,
        raw: bool = False,
    ) -> Any:
        """As `RPC.call`, cancelling included. While the connection is down it waits, or with `while_down="fail"` raises
        `NotConnected`.
        """
        while True:
            rpc = await self._live()
            try:
                return await rpc.call(
                    routing_key, payload, exchange=exchange, mandatory=mandatory, headers=headers, raw=raw
                )
            except (Closed, ConsumerCancelled):
                continue  # of the life that had ended before: nothing was sent

    async def _live(self) -> RPC:
        """The one of this life."""
        while self._is_open:
            if self._rpc is not None and self._rpc.is_open:
                return self._rpc
            with anyio.CancelScope() as scope:
                self._waiting.add(scope)
                try:
                    await self._open()
                finally:
                    self._waiting.discard(scope)
        raise LocalProtocolError("the RPC is not open: use it inside 'async with client.rpc() as rpc'")

    async def _open(self) -> None:
        async with self._lock:
            if not self._is_open or (self._rpc is not None and self._rpc.is_open):
                return
            connection = await self._link.connection(self._while_down)
            await self._leave()
            rpc = connection.rpc(codec=self._codec)
            try:
                await rpc.__aenter__()
            except Closed:
                if connection.is_open:
                    raise
            else:
                self._rpc = rpc
                if not self._is_open:  # the block was left in this very turn
                    await self._leave()

    async def _leave(self) -> None:
        rpc, self._rpc = self._rpc, None
        if rpc is not None:
            self._late += rpc.late_replies
            await rpc.__aexit__(None, None, None)

    async def _close(self) -> None:
        self._is_open = False
        for scope in self._waiting:
            scope.cancel()
        await self._leave()


class Answering:
    """The handler that answers requests, for `client.process`."""

    __slots__ = ("_client", "_codec", "_handler", "_queue", "_raw")

    def __init__(self, client: Client, queue: str | Queue, handler: Handler, codec: str, raw: bool) -> None:
        self._client = client
        self._queue = queue if isinstance(queue, str) else queue.name or "(temporary)"
        self._handler = handler
        self._codec = codec_named(codec)
        self._raw = raw

    async def __call__(self, request: Delivery) -> None:
        """Run the user's handler and send what it returned, or how it failed."""
        reply = await reply_to(request, self._handler, self._codec, self._raw, self._queue)
        if reply is None:
            return
        to = request.properties.reply_to or ""
        # RabbitMQ returns every mandatory message to a direct reply-to address, though it delivers it.
        mandatory = not to.startswith(REPLY_TO)
        try:
            await self._client.publish(
                reply, routing_key=to, mandatory=mandatory, while_down="wait", on_unknown="republish"
            )
        except PublishFailed as error:
            self._client._undeliverable_replies += 1
            logger.warning("a reply to a request of queue %r could not be delivered: %s", self._queue, error)
