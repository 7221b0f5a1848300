"""`RPC`: calls of one connection life, whose replies come by direct reply-to, an exclusive queue or an exchange.

What must stay true: a correlation id never outlives its call, and nobody can guess it; replies are matched while they
are parsed, without a task; late and unknown replies are counted and dropped; a reply that can't be read ends its call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import urandom
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from rabbitry._channel.channel import Channel, life_of
from rabbitry._channel.delivery import Delivery
from rabbitry._concurrency.waiting import Waiter, checkpoint_if_cancelled
from rabbitry._errors import (
    Closed,
    ConsumerCancelled,
    MessageTooLarge,
    RabbitryError,
    Unroutable,
)
from rabbitry._rpc.envelope import (
    DIRECT,
    REPLY_EXCHANGE_HEADER,
    REQUEST_HEADERS,
    address_of,
    deadline_headers,
    remote_error,
)
from rabbitry._rpc.interface import bound
from rabbitry._values import converting
from rabbitry._values.codecs import Codec, codec_named, decode_from
from rabbitry._values.converting import Convert
from rabbitry._values.culprit import failure_of, find_culprit, is_like_refused, loss
from rabbitry._values.message import Message, wire_properties
from rabbitry._values.options import Loss, ReplyTo
from rabbitry._values.topology import Exchange, name_of
from rabbitry.protocol.client.channel import octets
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.states import ChannelState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PRECONDITION_FAILED
from rabbitry.protocol.wire.properties import Properties, decode_properties, encode_properties

__all__ = ["RPC", "calls_in_flight", "check_reply_to", "request_properties"]


REPLY_TAG = "rabbitry-replies"
"""The consumer tag of a channel's reply consumer."""

UNUSED_REPLY_QUEUE_EXPIRES_MS = 60_000
"""A reply queue goes with its consumer; one that never came to have one (it was cancelled there) goes with time."""

ID_SIZE = 16
"""Characters of a correlation id: 64 bits that nobody can guess."""
IDS_AT_ONCE = 64
"""Correlation ids that are made together."""
KINDS_KEPT = 16
"""Kinds of requests whose encoded properties are kept, and of replies; a server may send any number."""

_OPEN = ChannelState.OPEN  # hot: to look up a member of an enum takes CPython 3.11 a third of a microsecond

T = TypeVar("T")


class RPC:
    """Calls servers and gives their replies; made by `connection.rpc()`, any number of calls at once.

    `late_replies` counts replies that came when nobody waited for them: late ones, duplicates, unknown correlation ids.
    When the connection ends, each call in flight raises `OutcomeUnknown`.
    """

    __slots__ = (
        "_channel",
        "_codec",
        "_error",
        "_heads",
        "_ids",
        "_kinds",
        "_life",
        "_reply_address",
        "_reply_headers",
        "_reply_to",
        "_waiters",
        "late_replies",
    )

    def __init__(self, channel: Channel, codec: str | Codec, reply_to: ReplyTo = "direct") -> None:
        self._channel = channel
        self._life = life_of(channel)
        self._codec = codec_named(codec)
        self._reply_to: ReplyTo = check_reply_to(reply_to)
        self._reply_address = DIRECT
        self._reply_headers: dict[str, Any] = {}
        self._waiters: dict[bytes, _Call] = {}  # by correlation id, in the order of publishing
        self._ids: list[bytes] = []  # not used yet
        # hot: properties of which nothing but the correlation id differs are encoded and decoded once: of requests what
        # stands before and behind it, by content type and method; of replies what stands before it.
        self._heads: dict[tuple[str | None, str | None], tuple[bytes, bytes]] = {}
        self._kinds: dict[bytes, Properties] = {}
        self._error: RabbitryError | None = None
        self.late_replies: int = 0

    def __repr__(self) -> str:
        return f"<RPC {len(self._waiters)} calls in flight, {self.late_replies} late replies>"

    @property
    def is_open(self) -> bool:
        """True inside the block until the channel, its connection or its reply consumer ends."""
        # hot: `life.is_open` without the call; a client asks for each call
        protocol = self._life.protocol
        return self._error is None and protocol is not None and protocol.state is _OPEN

    async def __aenter__(self) -> Self:
        """Open the channel and its reply consumer."""
        await self._life.enter()
        try:
            channel = self._life.live
            channel.on_return = self._returned
            queue = DIRECT if self._reply_to == "direct" else await self._declare_reply_queue()
            waiter = Waiter()
            method = methods.BasicConsume(queue=queue, consumer_tag=REPLY_TAG, no_ack=True)
            _, slot = channel.consume(method, self, waiter)
            await self._life.endpoint.reply(slot, waiter)
        except BaseException:
            await self._life.close()
            raise
        return self

    async def _declare_reply_queue(self) -> str:
        """A queue for this RPC alone; with an exchange, bound to it by its own name."""
        exchange = self._reply_to if isinstance(self._reply_to, Exchange) else None
        if exchange is not None:
            await self._channel.declare(exchange)
        arguments = {"x-expires": UNUSED_REPLY_QUEUE_EXPIRES_MS}
        info = await self._channel.declare_queue(durable=False, exclusive=True, auto_delete=True, arguments=arguments)
        if exchange is not None:
            await self._channel.bind_queue(info.name, exchange, info.name)
            self._reply_headers = {REPLY_EXCHANGE_HEADER: exchange.name}
        self._reply_address = info.name
        return info.name

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._life.close()

    async def call(
        self,
        routing_key: str,
        payload: Any = None,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        headers: Mapping[str, Any] | None = None,
        method: str | None = None,
        raw: bool = False,
    ) -> Any:
        """Send a request and return the reply's payload, decoded by its content type; with `raw` both are bytes.

        `method` names one of a `Service`, whose payload is `{"args": […], "kwargs": {…}}`: see `bind`. `headers` may be
        those of a request that is passed on: its deadline and the way of its reply are left out. Raises
        `Unroutable` when no queue is bound (with `mandatory`), `RemoteError` when the handler raised, `DecodeError`
        when the reply can't be decoded, `OutcomeUnknown` when the channel ended meanwhile, `Refused` when the broker
        ended it over this request, `NotSent` when over one before it, and what ended it where that was before: then
        nothing was sent.

        Its only time-out is the caller's cancel scope, which travels: the request expires in its queue, no server
        begins it once the time is up, and one that works on it stops. Cancelled, a late reply is dropped and counted.
        """
        if type(exchange) is not str:
            exchange = name_of(exchange, Exchange)
        if raw:
            content_type = None
            body = b"" if payload is None else payload if type(payload) is bytes else Message(payload).body
        else:
            content_type = self._codec.content_type
            body = self._codec.encode(payload)
            if type(body) is not bytes:
                body = Message(body).body
        call = await self._ask(body, (content_type, method), headers, exchange, routing_key, mandatory)
        reply: Delivery = call.value
        if raw:
            return reply.body
        properties = call.kind or reply.properties
        return decode_from(reply.body, properties.content_type, self._codec, properties.content_encoding)

    async def request(
        self, message: Message, routing_key: str = "", *, exchange: str | Exchange = "", mandatory: bool = True
    ) -> Message:
        """Send a request with properties of its own, and return the reply with its properties: neither body is encoded
        or decoded. Errors, headers, time-out and cancelling as for `call`.

        The message's `correlation_id` and `reply_to` are the RPC's to choose, and `ValueError` where they are given:
        those of a request that is passed on are left out by `message.replace(correlation_id=None, reply_to=None)`. An
        `expiration` holds, if that is earlier than the caller's deadline. Persistent is what the message is, and that
        is the default of `Message`; `call` sends transient requests, which cost less.
        """
        properties = request_properties(message)
        name = name_of(exchange, Exchange)
        call = await self._ask(message.body, properties, properties.headers, name, routing_key, mandatory)
        reply: Delivery = call.value
        return reply.message

    async def _ask(
        self,
        body: bytes,
        properties: Properties | tuple[str | None, str | None],
        headers: Mapping[str, Any] | None,
        exchange: str,
        routing_key: str,
        mandatory: bool,
    ) -> _Call:
        """The call with the reply to this request as its value. To `properties` (or the content type and the method, if
        these are all there are) is added what makes it a request.
        """
        channel, endpoint = self._life.live, self._life.endpoint
        if not endpoint.transport.scheduled:  # hot: so once a turn; who comes from another loop finds none
            endpoint.check_loop()
        while not endpoint.make_room():
            channel.check_open()
            await endpoint.wait_room()
        if self._error is not None:  # no reply will come
            await checkpoint_if_cancelled()
            raise self._error.copy()
        remaining = endpoint.time_left()
        if remaining <= 0:
            await anyio.sleep_forever()  # nothing is sent when no time is left: the caller's scope cancels here
        ids = self._ids or self._draw_ids()
        correlation_id = ids.pop()
        if type(properties) is tuple and not headers and not self._reply_headers and remaining == math.inf:
            try:
                before, behind = self._heads[properties]
            except (KeyError, TypeError):  # (what can't be a key is refused there)
                before, behind = self._head_of(properties)
            encoded = before + correlation_id + behind
            call = _Call(body, encoded, exchange, routing_key)
        else:
            own = self._request_properties(properties, headers, correlation_id, remaining)
            encoded = encode_properties(own)
            call = _Call(body, own, exchange, routing_key)
        self._waiters[correlation_id] = call
        endpoint.protocol.expect(1)  # reading must not pause, and the poller may look again at once
        try:
            channel.publish(encoded, body, exchange, routing_key, mandatory)
            endpoint.wrote()
            # hot: `await call.wait(…)` without a coroutine of its own
            if not call.is_done:
                await call.told(endpoint.new_signal())
            reply: Delivery = call.result()
        except _CallLost as lost:
            if isinstance(lost.cause, Unroutable):
                raise Unroutable(call.message, exchange, routing_key, lost.cause.reply) from None
            raise failure_of(call, lost.outcome, lost.cause) from lost.cause
        except anyio.get_cancelled_exc_class():
            self.late_replies += call.value is not None  # it came in this very turn
            raise
        finally:
            endpoint.protocol.expect(-1)
            self._waiters.pop(correlation_id, None)
        if call.kind is None:
            error = remote_error(reply.body, reply.properties)
            if error is not None:
                raise error
        return call

    def _draw_ids(self) -> list[bytes]:
        """Correlation ids for the calls to come. A server knows where replies go, but not which other calls wait there.

        hot: the system is asked for chance once for many calls, which takes as long as for one.
        """
        text = urandom(ID_SIZE // 2 * IDS_AT_ONCE).hex().encode()
        self._ids += (text[start : start + ID_SIZE] for start in range(0, len(text), ID_SIZE))
        return self._ids

    def _request_properties(
        self,
        properties: Properties | tuple[str | None, str | None],
        headers: Mapping[str, Any] | None,
        correlation_id: bytes,
        remaining: float,
    ) -> Properties:
        if isinstance(properties, tuple):
            properties = Properties(content_type=properties[0], delivery_mode=1, type=properties[1])
        properties.correlation_id = correlation_id.decode()
        properties.reply_to = self._reply_address
        table = self._reply_headers
        if headers:  # which may be those of a request that is passed on, with another's deadline and way back
            table = {name: headers[name] for name in headers if name not in REQUEST_HEADERS} | table
        if remaining != math.inf:
            expiration, deadline = deadline_headers(remaining)
            if properties.expiration is None or int(properties.expiration) > int(expiration):
                properties.expiration = expiration
            table = {**table, **deadline}
        properties.headers = table or None
        return properties

    def _head_of(self, kind: tuple[str | None, str | None]) -> tuple[bytes, bytes]:
        """What stands before and behind the correlation id in the encoded properties of requests of this kind."""
        content_type, method = kind
        before = len(encode_properties(Properties(content_type=content_type, delivery_mode=1))) + 1
        encoded = encode_properties(self._request_properties(kind, None, b"0" * ID_SIZE, math.inf))
        if len(self._heads) >= KINDS_KEPT:
            self._heads.clear()
        head = self._heads[content_type, method] = encoded[:before], encoded[before + ID_SIZE :]
        return head

    def bind(
        self,
        interface: Callable[..., T],
        routing_key: str,
        *,
        exchange: str | Exchange = "",
        mandatory: bool = True,
        convert: Convert | None = converting.convert,
    ) -> T:
        """An object whose methods call those of a `Service`: `calculator = rpc.bind(Calculator, "calculator")`.

        `interface` is a class, best a `Protocol`, whose public methods are coroutine functions. `await
        calculator.add(1, 2)` is a call, with its errors, and cancelling it means the same. Type checkers see a
        `Calculator`; at run time the server checks the arguments against the function's parameters, and raises
        `TypeError` (here: `RemoteError`).

        What comes back is what the method's return annotation says, by `convert(annotation, reply)`: `rabbitry.convert`
        unless given, which knows dataclasses, datetimes, enums and the like. A reply that does not fit is a
        `DecodeError`. Where nothing is said, or `Any`, and with `convert=None`, it is as it was decoded: a dataclass as
        a dict, a tuple as a list. `TypeError` for an annotation that can't be evaluated, or that `rabbitry.convert`
        makes nothing of.
        """
        return bound(interface, self.call, routing_key, {"exchange": exchange, "mandatory": mandatory}, convert)

    # --- called when something arrives: this object is its reply consumer's token ---------------------------------

    def put(self, delivery: Delivery) -> None:
        """A reply arrived."""
        header = delivery._header
        kind = self._kinds.get(header[:-ID_SIZE]) if type(header) is bytes else None
        if kind is not None:  # hot: such properties as were decoded before
            call = self._waiters.pop(header[-ID_SIZE:], None)  # type: ignore[index]
            if call is None:
                self.late_replies += 1
            else:
                call.kind = kind
                call.set(delivery)
            return
        call = self._waiter_of(delivery)
        if call is None:
            self.late_replies += 1
            return
        try:
            properties = delivery.properties  # decoded here, where it may fail
        except RabbitryError as error:
            call.fail(error)
        else:
            if type(header) is bytes and len(self._kinds) < KINDS_KEPT and _ends_with_its_id(properties, header):
                self._kinds[header[:-ID_SIZE]] = properties
            call.set(delivery)

    def refuse(self, delivery: Delivery, size: int) -> None:
        """A reply arrived that is too large: its call fails, and no other."""
        waiter = self._waiter_of(delivery)
        if waiter is None:
            self.late_replies += 1
        else:
            limit = self._life.endpoint.protocol.max_message_size
            waiter.fail(MessageTooLarge(self._reply_address, size, limit, True))

    def _returned(self, code: int, text: str, content: Content) -> None:
        """basic.return: nobody serves."""
        waiter = self._waiter_of(content)
        if waiter is not None:
            waiter.fail(_CallLost(Unroutable(b"", content.exchange, content.routing_key, (code, text))))

    def _waiter_of(self, content: Content) -> _Call | None:
        """The call that a reply or a return is for, which it ends."""
        properties: Properties | None
        try:
            properties = content.properties
        except RabbitryError:
            properties = address_of(content)
        if properties is None or properties.correlation_id is None:
            return None
        return self._waiters.pop(octets(properties.correlation_id), None)

    def drop_stale(self) -> None:
        """basic.recover concerns no replies: they are not acknowledged."""

    def cancelled_by_broker(self) -> None:
        """No more replies will come, though the channel is open."""
        self.channel_ended(ConsumerCancelled(REPLY_TAG, self._reply_address))

    def channel_ended(self, error: RabbitryError) -> None:
        """No more replies will come."""
        self._error = error
        calls, self._waiters = list(self._waiters.values()), {}
        culprit = _find_culprit(calls, error)
        for index, call in enumerate(calls):
            call.fail(_CallLost(error, loss(index, culprit)))


def calls_in_flight(rpc: RPC) -> int:
    """Calls whose reply has not come yet."""
    return len(rpc._waiters)


class _Call(Waiter):
    """A call whose reply has not come yet: a publish like others, should the broker refuse it. `kind` has the
    properties of the reply but for the correlation id, where these were known.
    """

    __slots__ = ("_body", "_properties", "exchange", "kind", "routing_key")

    def __init__(self, body: bytes, properties: Properties | bytes, exchange: str, routing_key: str) -> None:
        self.is_done = False  # hot: as Waiter.__init__ does, without the call
        self.value = None
        self._error = None
        self._signal = None
        self._body = body
        self._properties = properties
        self.exchange = exchange
        self.routing_key = routing_key
        self.kind: Properties | None = None

    @property
    def message(self) -> Message:
        """The request as a message, for an error and for who asks which request was refused."""
        properties = self._properties
        return _message(self._body, properties if isinstance(properties, Properties) else decode_properties(properties))


def _ends_with_its_id(properties: Properties, header: bytes) -> bool:
    """Whether such a header is known by what stands before the correlation id: that comes last, and says no more than
    which call it answers.
    """
    if properties.headers is not None or properties.correlation_id is None:
        return False
    alone = Properties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
    )
    return len(properties.correlation_id) == ID_SIZE and encode_properties(alone) == header


class _CallLost(Exception):
    """Carries to a waiting call why no reply will come, and what became of its request; never leaves this module."""

    def __init__(self, cause: RabbitryError, outcome: Loss = "unknown") -> None:
        self.cause = cause
        self.outcome: Loss = outcome


def _find_culprit(calls: Sequence[_Call], end: RabbitryError) -> int | None:
    """The index of the call that the broker ended the channel for, where that can be told.

    A call waits for long, and what it is refused for may be new: an exchange that is gone, a permission. So for what
    is no fault of the message itself it must be the only one that fits.
    """
    culprit = find_culprit(calls, end)
    if culprit is None:
        return None
    assert isinstance(end, Closed)
    if end.code != PRECONDITION_FAILED and any(is_like_refused(call, end) for call in calls[culprit + 1 :]):
        return None
    end.is_explained = True
    return culprit


def check_reply_to(reply_to: ReplyTo) -> ReplyTo:
    """Refuse what is no way for replies."""
    if isinstance(reply_to, Exchange) or reply_to in ("direct", "exclusive"):
        return reply_to
    raise ValueError(f'reply_to is "direct", "exclusive" or an Exchange, not {reply_to!r}')


def request_properties(message: Message) -> Properties:
    """The properties of a message that is to be a request, without those that make it one. `TypeError` and `ValueError`
    say what can't be.
    """
    if not isinstance(message, Message):
        raise TypeError(f"request takes a Message, not {message!r:.200}: call takes a payload")
    if message.correlation_id is not None or message.reply_to is not None:
        raise ValueError(
            "correlation_id and reply_to are the RPC's own, to know its reply by: leave them out, "
            "as by message.replace(correlation_id=None, reply_to=None)"
        )
    message.encoded_properties()  # refuses what can't be sent
    return wire_properties(message)


def _message(body: bytes, properties: Properties) -> Message:
    """The request as a message, for an error."""
    fields = {name: getattr(properties, name) for name in Properties.__slots__}
    expiration = fields["expiration"]
    fields["expiration"] = None if expiration is None else int(expiration) / 1000
    return Message(body, **fields)
