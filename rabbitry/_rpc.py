"""RPC in its simplest complete form: calls over direct reply-to, and a server that answers them.

What must stay true: a correlation id never outlives its call; replies are matched while they are parsed, without a
task; late and unknown replies are counted and dropped; a request is acknowledged after its reply was queued.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from rabbitry._codecs import Codec, codec_named, decode_body
from rabbitry._delivery import Delivery
from rabbitry._errors import (
    Closed,
    ConsumerCancelled,
    LocalProtocolError,
    OutcomeUnknown,
    RabbitryError,
    RemoteError,
    Unroutable,
)
from rabbitry._message import Message
from rabbitry._scopes import background
from rabbitry._topology import Exchange, name_of
from rabbitry._waiting import Waiter, checkpoint_if_cancelled, is_being_cancelled
from rabbitry.protocol import methods
from rabbitry.protocol.content import Content

if TYPE_CHECKING:
    from rabbitry._channel import Channel

__all__ = ["REPLY_TO", "RPC", "Handler", "reply_to", "serve"]

logger = logging.getLogger("rabbitry")

Handler = Callable[[Any], Awaitable[Any]]

REPLY_TO = "amq.rabbitmq.reply-to"
"""The pseudo-queue of RabbitMQ's direct reply-to."""

REPLY_TAG = "rabbitry-replies"
"""The consumer tag of a channel's reply consumer."""

ERROR_HEADER = "x-rabbitry-error"
"""Set on a reply whose handler raised: the exception's type name. The body is its text."""

_MAX_EXPIRATION = 4294967.295


class RPC:
    """Calls servers and gives their replies; made by `connection.rpc()`, any number of calls at once.

    `late_replies` counts replies that came when nobody waited for them any more. When the connection ends, each call in
    flight raises `OutcomeUnknown`.
    """

    __slots__ = ("_channel", "_codec", "_error", "_ids", "_waiters", "late_replies")

    def __init__(self, channel: Channel, codec: str) -> None:
        self._channel = channel
        self._codec = codec_named(codec)
        self._ids = count(1)
        self._waiters: dict[str, Waiter] = {}
        self._error: RabbitryError | None = None
        self.late_replies = 0

    def __repr__(self) -> str:
        return f"<RPC {len(self._waiters)} calls in flight, {self.late_replies} late replies>"

    @property
    def is_open(self) -> bool:
        """True inside the block until the channel, its connection or its reply consumer ends."""
        return self._error is None and self._channel.is_open

    async def __aenter__(self) -> Self:
        """Open the channel and its reply consumer."""
        await self._channel.__aenter__()
        try:
            channel = self._channel._live
            channel.on_return = self._returned
            waiter = Waiter()
            method = methods.BasicConsume(queue=REPLY_TO, consumer_tag=REPLY_TAG, no_ack=True)
            _, slot = channel.consume(method, self, waiter)
            await self._channel._endpoint.reply(slot, waiter)
        except BaseException:
            await self._channel._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel._close()

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
        """Send a request and return the reply's payload, decoded by its content type; with `raw` both are bytes.

        Raises `Unroutable` when no queue is bound (with `mandatory`), `RemoteError` when the handler raised,
        `OutcomeUnknown` when the channel ended meanwhile. Its time-out is the caller's cancel scope: the request
        expires with it; cancelled, a late reply is dropped and counted.
        """
        await checkpoint_if_cancelled()
        exchange = name_of(exchange)
        channel, endpoint = self._channel._live, self._channel._endpoint
        if self._error is not None:
            raise self._error.copy()
        while not endpoint.make_room():
            channel.check_open()
            await endpoint.wait_room()
        if anyio.current_effective_deadline() <= anyio.current_time():
            await anyio.sleep_forever()  # nothing is sent when no time is left: the caller's scope cancels here
        correlation_id = str(next(self._ids))
        message = self._request(payload, raw, correlation_id, headers)
        waiter = self._waiters[correlation_id] = Waiter()
        endpoint.protocol.expect(1)  # reading must not pause, and the poller may look again at once
        try:
            channel.publish(message.encoded_properties(), message.body, exchange, routing_key, mandatory)
            endpoint.wrote()
            reply = await waiter.wait()
        except _CallLost as lost:
            if isinstance(lost.cause, Unroutable):
                raise Unroutable(message, exchange, routing_key, lost.cause.reply) from None
            raise OutcomeUnknown(message, exchange, routing_key, str(lost.cause)) from lost.cause
        finally:
            endpoint.protocol.expect(-1)
            self._waiters.pop(correlation_id, None)
        return self._result(reply, raw)

    def _request(self, payload: Any, raw: bool, correlation_id: str, headers: Mapping[str, Any] | None) -> Message:
        remaining = anyio.current_effective_deadline() - anyio.current_time()
        expiration = max(min(remaining, _MAX_EXPIRATION), 0.001) if remaining != math.inf else None
        properties: dict[str, Any] = {
            "correlation_id": correlation_id,
            "reply_to": REPLY_TO,
            "delivery_mode": 1,
            "headers": headers,
            "expiration": expiration,
        }
        if raw:
            return Message(b"" if payload is None else payload, **properties)
        return Message(self._codec.encode(payload), content_type=self._codec.content_type, **properties)

    def _result(self, reply: Delivery, raw: bool) -> Any:
        properties = reply.properties
        if properties.headers and ERROR_HEADER in properties.headers:
            raise RemoteError(str(properties.headers[ERROR_HEADER]), reply.body.decode("utf-8", "replace"))
        if raw:
            return reply.body
        return decode_body(reply.body, properties.content_type, None if properties.content_type else self._codec)

    # --- called when something arrives: this object is its reply consumer's token ---------------------------------

    def put(self, delivery: Delivery) -> None:
        """A reply arrived."""
        waiter = self._waiter_of(delivery)
        if waiter is None:
            self.late_replies += 1
        else:
            waiter.set(delivery)

    def _returned(self, code: int, text: str, content: Content) -> None:
        """basic.return: nobody serves."""
        waiter = self._waiter_of(content)
        if waiter is not None:
            waiter.fail(_CallLost(Unroutable(b"", content.exchange, content.routing_key, (code, text))))

    def _waiter_of(self, content: Content) -> Waiter | None:
        """The call that a reply or a return is for, which it ends."""
        try:
            correlation_id = content.properties.correlation_id
        except RabbitryError:  # not to be decoded, so not ours
            return None
        return self._waiters.pop(correlation_id, None) if correlation_id is not None else None

    def drop_stale(self) -> None:
        """basic.recover concerns no replies: they are not acknowledged."""

    def cancelled_by_broker(self) -> None:
        """No more replies will come, though the channel is open."""
        self.channel_ended(ConsumerCancelled(REPLY_TAG, REPLY_TO))

    def channel_ended(self, error: RabbitryError) -> None:
        """No more replies will come."""
        self._error = error
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.fail(_CallLost(error))


class _CallLost(Exception):
    """Carries to a waiting call why no reply will come; never leaves this module."""

    def __init__(self, cause: RabbitryError) -> None:
        self.cause = cause


async def serve(channel: Channel, queue: str, handler: Handler, *, concurrency: int, codec: str, raw: bool) -> None:
    """Answer requests until cancelled or the consumer ends; its handlers run in a task group of its own."""
    if concurrency < 1:
        raise LocalProtocolError(f"concurrency must be at least 1, not {concurrency}")
    chosen = codec_named(codec)
    limiter = anyio.Semaphore(concurrency, fast_acquire=True)

    async def answer(request: Delivery) -> None:
        try:
            reply = await reply_to(request, handler, chosen, raw, queue)
            if reply is not None:
                await channel.publish(reply, routing_key=request.properties.reply_to or "")
            if not request.is_settled:  # a raw handler may have done so
                request.ack()
        except RabbitryError as exc:
            logger.warning("a request of queue %r could not be answered: %s", queue, exc)
            if not request.is_settled and not request.is_stale:
                request.reject()
        except BaseException:
            if not request.is_settled and not request.is_stale:
                request.nack()
            raise
        finally:
            limiter.release()

    async with channel, channel.consume(queue) as requests:
        with anyio.CancelScope() as working:
            requests._on_end = lambda error: working.cancel() if isinstance(error, Closed) else None
            async with background() as tg:
                try:
                    while True:
                        await limiter.acquire()
                        try:
                            request = await requests.__anext__()
                        except BaseException:
                            limiter.release()
                            raise
                        tg.start_soon(answer, request)
                except StopAsyncIteration:
                    pass
                except ConsumerCancelled:  # the handlers at work may finish: their replies can still be sent
                    raise
                except BaseException:
                    tg.cancel_scope.cancel()
                    raise
        if requests._error is not None:
            raise requests._error.copy()


async def reply_to(request: Delivery, handler: Handler, codec: Codec, raw: bool, queue: str) -> Message | None:
    """Run the handler; None where no reply was asked for. A request whose very properties can't be decoded raises
    `DecodeError`.
    """
    properties = request.properties
    common: dict[str, Any] = {"correlation_id": properties.correlation_id, "delivery_mode": 1}
    try:
        result = await handler(request if raw else request.decode(None if properties.content_type else codec))
        reply = _reply(result, codec, raw, common)
        reply.encoded_properties()  # may refuse what the handler put into a Message
    except Exception as exc:
        logger.error("the RPC handler of queue %r failed", queue, exc_info=exc)
        reply = _error_reply(exc, common)
    except anyio.get_cancelled_exc_class() as exc:
        if is_being_cancelled():
            raise
        logger.error("the RPC handler of queue %r awaited something cancelled", queue, exc_info=exc)
        reply = _error_reply(exc, common)
    return None if properties.reply_to is None else reply


def _reply(result: Any, codec: Codec, raw: bool, common: Mapping[str, Any]) -> Message:
    """The message that carries what a handler returned."""
    if isinstance(result, Message):
        return result.replace(**common)
    if raw:
        return Message(b"" if result is None else result, **common)
    return Message(codec.encode(result), content_type=codec.content_type, **common)


def _error_reply(exc: BaseException, common: Mapping[str, Any]) -> Message:
    headers = {ERROR_HEADER: type(exc).__name__}
    return Message(str(exc).encode("utf-8", "replace"), content_type="text/plain", headers=headers, **common)
