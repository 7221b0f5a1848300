"""A conversation with a broker, octet by octet, and the transcript of it that is compared.

A case is a function of a `Conversation`. Every reply, close, delivery, return and confirm is written down, with what is
each broker's own (made-up names, times, the case's own prefix of names) put into a common form. What a channel gets
unasked waits in its own line until the case takes it, or until the end.

RabbitMQ answers some questions ahead of what it was told before (counts of a queue): `count` pauses for it. Names
that a case uses are its own, by a prefix; names that begin with "amq." are the broker's.
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from struct import Struct
from typing import Any

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.constants import PROTOCOL_HEADER
from rabbitry.protocol.wire.methods import Method, decode_method, encode_method_frame
from rabbitry.protocol.wire.properties import (
    PROPERTIES,
    Properties,
    decode_all_but_headers,
    decode_properties,
    encode_properties,
)

PATIENCE = 5.0
PAUSE = 0.05
"""Seconds in which RabbitMQ has done what it was told, on a machine that has other things to do."""

_FRAME = Struct(">BHI")
_HEADER = Struct(">HHQ")
_COUNTS = ("x-death", "x-delivery-count")
_NAMED = ("x-dead-letter-exchange", "alternate-exchange")

Case = Callable[["Conversation"], None]


class Conversation:
    """One case with one broker."""

    def __init__(self, host: str, port: int, *, is_embedded: bool = False) -> None:
        self.address = host, port
        self.is_embedded = is_embedded
        self.transcript: list[Any] = []
        self.prefix = secrets.token_hex(4) + "-"
        self._connections: list[Connection] = []
        self._made_up: dict[str, str] = {}
        self._to_delete: dict[tuple[str, str], None] = {}

    # --- names -------------------------------------------------------------------------------------------------------

    def name(self, name: str) -> str:
        """As the broker knows it."""
        return name if not name or name.startswith("amq.") else self.prefix + name

    def remember(self, kind: str, name: str) -> None:
        self._to_delete[kind, name] = None

    def plain(self, value: Any) -> Any:
        """A value without what is this broker's own."""
        if isinstance(value, str):
            value = value.replace(self.prefix, "")
            return re.sub(r"amq\.(gen|ctag)-[\w-]{22}|amq\.rabbitmq\.reply-to\.[^'\"\s]+", self._mapped, value)
        if isinstance(value, datetime):
            return "<time>"
        if isinstance(value, dict):
            return {self.plain(key): self.plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.plain(each) for each in value]
        return value

    def _mapped(self, match: re.Match[str]) -> str:
        return self._made_up.setdefault(match[0], f"<{len(self._made_up)}>")

    def say(self, *words: Any) -> None:
        self.transcript.append([self.plain(word) for word in words])

    # --- steps -------------------------------------------------------------------------------------------------------

    def dial(self, **options: Any) -> Connection:
        """A connection that is not in the conversation yet."""
        return Connection(self, **options)

    def connect(self, user: str = "guest", **options: Any) -> Connection:
        connection = self.dial(**options)
        self._connections.append(connection)
        connection.open(user)
        return connection

    def raw(self) -> Connection:
        """A connection that has said nothing yet."""
        connection = self.dial()
        self._connections.append(connection)
        return connection

    def channel(self, user: str = "guest") -> Channel:
        """A channel on a connection of its own."""
        return self.connect(user).channel()

    def pause(self, seconds: float = PAUSE) -> None:
        """Let RabbitMQ do what it was told."""
        if not self.is_embedded or seconds != PAUSE:
            time.sleep(seconds)

    def close(self) -> None:
        """Write down what has come and was not taken; leave nothing behind."""
        self.pause()
        for connection in 2 * self._connections:  # what one has set off may come to another
            connection.catch_up()
        for connection in self._connections:
            for number, channel in sorted(connection.channels.items()):
                if channel.line:
                    self.say("left over", number, *channel.line)
        self.clean()

    def clean(self) -> None:
        """Leave nothing behind."""
        for connection in self._connections:
            connection.cut()
        if self._to_delete:
            cleaner = self.dial()
            cleaner.open("guest")
            lane = cleaner.channel()
            silent, self.transcript = self.transcript, []
            for kind, name in self._to_delete:
                if not lane.is_open:
                    lane = cleaner.channel()
                if kind == "queue":
                    lane.request(methods.QueueDelete(queue=name))
                else:
                    lane.request(methods.ExchangeDelete(exchange=name))
            self.transcript = silent
            cleaner.cut()


class Connection:
    """One connection."""

    def __init__(self, conversation: Conversation, *, capabilities: dict[str, Any] | None = None) -> None:
        self.conversation = conversation
        self.dial()
        self.channels: dict[int, Channel] = {}
        self.zero: list[Method] = []
        self.is_over = False
        self._data = b""
        self._content: dict[int, list[Any]] = {}
        default = {"consumer_cancel_notify": True, "authentication_failure_close": True, "basic.nack": True}
        self._capabilities = default if capabilities is None else capabilities

    def dial(self) -> None:
        self.socket = socket.create_connection(self.conversation.address, PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cut(self) -> None:
        """End it without a word."""
        self.socket.close()
        self.is_over = True

    def close(self) -> None:
        """End it as it should be."""
        self.send_method(0, methods.ConnectionClose(reply_code=200))
        self.wait(lambda: isinstance(self.zero[-1], methods.ConnectionCloseOk))
        self.cut()

    def open(self, user: str = "guest", password: str | None = None, vhost: str = "/", **tune: int) -> None:
        self.send(PROTOCOL_HEADER)
        self.wait(lambda: bool(self.zero))
        self.start(f"\0{user}\0{user if password is None else password}".encode())
        self.wait(lambda: len(self.zero) > 1)
        if self.is_over:
            return
        self.send_method(0, methods.ConnectionTuneOk(**{"channel_max": 100, "frame_max": 8192, **tune}))
        self.send_method(0, methods.ConnectionOpen(virtual_host=vhost))
        self.wait(lambda: len(self.zero) > 2)

    def start(self, response: bytes, mechanism: str = "PLAIN") -> None:
        properties = {"capabilities": self._capabilities}
        self.send_method(
            0, methods.ConnectionStartOk(client_properties=properties, mechanism=mechanism, response=response)
        )

    def channel(self, number: int | None = None) -> Channel:
        channel = Channel(self, number or len(self.channels) + 1)
        self.channels[channel.number] = channel
        channel.request(methods.ChannelOpen(), quiet=True)
        return channel

    # --- octets ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self.is_over = True

    def send_method(self, number: int, method: Method) -> None:
        self.send(encode_method_frame(number, method))

    def send_frame(self, kind: int, number: int, payload: bytes, end: bytes = b"\xce") -> None:
        self.send(_FRAME.pack(kind, number, len(payload)) + payload + end)

    def wait(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Read until it is true, or the connection is over."""
        deadline = time.monotonic() + seconds
        while not condition() and not self.is_over:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._read(left)
        return condition()

    def read_for(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def wait_for_end(self, seconds: float) -> None:
        self.wait(lambda: self.is_over, seconds)

    def catch_up(self) -> None:
        """Read what has been sent: up to the reply of each channel that answers."""
        channels = [channel for channel in self.channels.values() if channel.is_open]
        for channel in channels:
            if not self.is_over:
                channel.sync()
        if not channels:
            self.read_for(0.03)

    def _read(self, seconds: float) -> None:
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return
        except OSError:
            data = b""
        if not data:
            self.is_over = True
            self.conversation.say("end of stream")
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        self._data += data
        if self._data[:4] == b"AMQP":
            self.conversation.say("header", self._data[:8].hex())
            self._data = self._data[8:]
        while len(self._data) >= 8:
            kind, number, length = _FRAME.unpack_from(self._data)
            if len(self._data) < length + 8:
                break
            payload, self._data = self._data[7 : 7 + length], self._data[length + 8 :]
            self._receive(kind, number, payload)

    def _receive(self, kind: int, number: int, payload: bytes) -> None:
        if kind == 1:
            method = decode_method(payload)
            if method.has_content:
                self._content[number] = [method]
            elif number:
                self.channels[number].receive(method)
            else:
                self._receive_on_zero(method)
        elif kind == 2:
            content = self._content[number]
            content += [_HEADER.unpack_from(payload)[2], _properties(payload[12:]), b""]
            self._complete(number)
        elif kind == 3:
            self._content[number][3] += payload
            self._complete(number)

    def _complete(self, number: int) -> None:
        method, size, properties, body = self._content[number]
        if len(body) == size:
            del self._content[number]
            self.channels[number].receive(method, properties, body)

    def _receive_on_zero(self, method: Method) -> None:
        self.zero.append(method)
        if isinstance(method, methods.ConnectionClose):
            self.conversation.say(*_fields(method))
            self.send_method(0, methods.ConnectionCloseOk())
            for channel in self.channels.values():
                channel.is_open = False
            self.is_over = True


class Channel:
    """One channel. What is done is done at once, and what came back is written down."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.conversation = connection.conversation
        self.number = number
        self.is_open = True
        self.line: list[Any] = []  # what came unasked
        self.last_tag = 0
        self.reply_to = ""  # of the last message, as it came
        self._replies: list[list[Any]] = []
        self._awaited = 0
        self._confirms = 0
        self.settled: dict[int, str] = {}

    @property
    def is_confirmed(self) -> bool:
        """Whether what is published is confirmed."""
        return self._confirms > 0

    # --- in ----------------------------------------------------------------------------------------------------------

    def receive(self, method: Method, properties: Properties | None = None, body: bytes = b"") -> None:
        conversation = self.conversation
        entry = _fields(method)
        if properties is not None:
            self.reply_to = properties.reply_to or ""
            shown = {name: value for name in PROPERTIES if (value := getattr(properties, name)) is not None}
            entry += [conversation.plain(shown), body]
        if isinstance(method, methods.BasicDeliver | methods.BasicGetOk):
            self.last_tag = method.delivery_tag
        if isinstance(method, methods.ChannelClose):
            self.is_open = False
            conversation.say(*entry)
            self.connection.send_method(self.number, methods.ChannelCloseOk())
        elif isinstance(method, methods.BasicAck | methods.BasicNack):
            outcome = "acked" if isinstance(method, methods.BasicAck) else "nacked"
            first = min(set(range(1, method.delivery_tag + 1)) - set(self.settled)) if method.multiple else 0
            for tag in range(first or method.delivery_tag, method.delivery_tag + 1):
                self.settled.setdefault(tag, outcome)
        elif isinstance(method, methods.BasicDeliver | methods.BasicReturn | methods.BasicCancel | methods.ChannelFlow):
            self.line.append(conversation.plain(entry))
        elif self._awaited:
            self._awaited -= 1
            self._replies.append(entry)
        else:
            self.line.append(entry)

    # --- out ---------------------------------------------------------------------------------------------------------

    def request(self, method: Method, *, quiet: bool = False) -> list[Any] | None:
        """Send it and wait for its reply, which is written down."""
        if not self.is_open:
            self.conversation.say("not open")
            return None
        self.ask(method)
        replies = self.replies()
        if not replies:
            if self.is_open:
                self.conversation.say("no reply to", method.name)
            return None
        if not quiet:
            self.conversation.say(*replies[0])
        return replies[0]

    def ask(self, *questions: Method) -> None:
        """Send them, and wait for nothing: see `replies`."""
        self._awaited, self._replies = len(questions), []
        self.connection.send(b"".join(encode_method_frame(self.number, method) for method in questions))

    def replies(self) -> list[list[Any]]:
        """What is replied to what was asked last: less of it if the channel is closed over it."""
        self.connection.wait(lambda: not self._awaited or not self.is_open)
        return self._replies

    def tell(self, method: Method) -> None:
        """Send it: there is no reply. Wait until the broker has looked at it."""
        if not self.is_open:
            self.conversation.say("not open")
            return
        self.connection.send_method(self.number, method)

    def sync(self) -> None:
        """Everything before has been looked at by the channel, and refused if it is."""
        if self.is_open:
            self.request(methods.AccessRequest(), quiet=True)

    def take(self, count: int = 1) -> None:
        """Write down so many of what comes unasked, in its order."""
        self.connection.wait(lambda: len(self.line) >= count or not self.is_open)
        for entry in self.line[:count]:
            self.conversation.say(*entry)
        if len(self.line) < count:
            self.conversation.say("missing", count - len(self.line))
        del self.line[:count]

    def silent(self, seconds: float = PAUSE) -> None:
        """Write down whatever comes."""
        self.connection.read_for(0.01 if self.conversation.is_embedded and seconds == PAUSE else seconds)
        for entry in self.line:
            self.conversation.say("unexpected", *entry)
        self.line.clear()

    # --- verbs -------------------------------------------------------------------------------------------------------

    def _arguments(self, table: dict[str, Any] | None) -> dict[str, Any]:
        table = dict(table or {})
        for name in _NAMED:
            if isinstance(table.get(name), str):
                table[name] = self.conversation.name(table[name])
        return table

    def declare(self, queue: str = "q", arguments: dict[str, Any] | None = None, **fields: Any) -> str:
        """A queue, exclusive unless something else is said. Its name."""
        if not {"durable", "exclusive", "passive", "auto_delete"} & set(fields):
            fields["exclusive"] = True
        name = self.conversation.name(queue)
        if not fields.get("exclusive"):
            self.conversation.remember("queue", name)
        reply = self.request(methods.QueueDeclare(queue=name, arguments=self._arguments(arguments), **fields))
        return str(reply[1]["queue"]) if reply else name

    def durable(self, queue: str = "q", arguments: dict[str, Any] | None = None) -> str:
        return self.declare(queue, arguments, durable=True)

    def quorum(self, queue: str = "q", arguments: dict[str, Any] | None = None) -> str:
        return self.declare(queue, {"x-queue-type": "quorum", **(arguments or {})}, durable=True)

    def stream(self, queue: str = "q", arguments: dict[str, Any] | None = None) -> str:
        return self.declare(queue, {"x-queue-type": "stream", **(arguments or {})}, durable=True)

    def count(self, queue: str = "q") -> None:
        """How many messages are ready, and consumers there."""
        self.conversation.pause()
        self.declare(queue, passive=True)

    def exchange(
        self, name: str = "x", type: str = "direct", arguments: dict[str, Any] | None = None, **fields: Any
    ) -> None:
        self.conversation.remember("exchange", self.conversation.name(name))
        self.request(
            methods.ExchangeDeclare(
                exchange=self.conversation.name(name), type=type, arguments=self._arguments(arguments), **fields
            )
        )

    def delete_exchange(self, name: str = "x", **fields: Any) -> None:
        self.request(methods.ExchangeDelete(exchange=self.conversation.name(name), **fields))

    def bind(
        self, queue: str = "q", exchange: str = "x", key: str = "", arguments: dict[str, Any] | None = None
    ) -> None:
        name = self.conversation.name
        self.request(
            methods.QueueBind(queue=name(queue), exchange=name(exchange), routing_key=key, arguments=arguments or {})
        )

    def unbind(
        self, queue: str = "q", exchange: str = "x", key: str = "", arguments: dict[str, Any] | None = None
    ) -> None:
        name = self.conversation.name
        self.request(
            methods.QueueUnbind(queue=name(queue), exchange=name(exchange), routing_key=key, arguments=arguments or {})
        )

    def bind_exchange(self, destination: str, source: str, key: str = "", **fields: Any) -> None:
        name = self.conversation.name
        self.request(
            methods.ExchangeBind(destination=name(destination), source=name(source), routing_key=key, **fields)
        )

    def unbind_exchange(self, destination: str, source: str, key: str = "") -> None:
        name = self.conversation.name
        self.request(methods.ExchangeUnbind(destination=name(destination), source=name(source), routing_key=key))

    def publish(
        self,
        body: bytes = b"m",
        key: str = "q",
        exchange: str = "",
        *,
        mandatory: bool = False,
        immediate: bool = False,
        **properties: Any,
    ) -> None:
        """A message; with confirms on, its outcome is waited for and written down."""
        name = self.conversation.name
        method = methods.BasicPublish(
            exchange=name(exchange),
            routing_key=key if exchange else name(key),
            mandatory=mandatory,
            immediate=immediate,
        )
        self.content(method, body, **properties)
        if self._confirms:
            tag = self._confirms
            self._confirms += 1
            self.connection.wait(lambda: tag in self.settled or not self.is_open)
            self.conversation.say(self.settled.get(tag, "no outcome"))

    def content(self, method: Method, body: bytes, **properties: Any) -> None:
        if not self.is_open:
            self.conversation.say("not open")
            return
        self.send_content(method, encode_properties(Properties(**properties)), body)

    def send_content(self, method: Method, properties: bytes, body: bytes) -> None:
        """The same, with properties that are octets already."""
        frames = [encode_method_frame(self.number, method)]
        payload = _HEADER.pack(60, 0, len(body)) + properties
        frames.append(_FRAME.pack(2, self.number, len(payload)) + payload + b"\xce")
        for start in range(0, len(body), 8184):
            piece = body[start : start + 8184]
            frames.append(_FRAME.pack(3, self.number, len(piece)) + piece + b"\xce")
        self.connection.send(b"".join(frames))

    def publish_all(self, bodies: Iterable[bytes], key: str = "q", **properties: Any) -> None:
        for body in bodies:
            self.publish(body, key, **properties)

    def confirm(self) -> None:
        self.request(methods.ConfirmSelect())
        self._confirms = 1

    def get(self, queue: str = "q", *, no_ack: bool = False) -> int:
        """A message, if there is one; its delivery tag."""
        self.request(methods.BasicGet(queue=self.conversation.name(queue), no_ack=no_ack))
        return self.last_tag

    def drain(self, queue: str = "q") -> None:
        """All that is ready."""
        for _ in range(50):
            before = self.last_tag
            if self.get(queue, no_ack=True) == before or not self.is_open:
                return

    def consume(self, queue: str = "q", tag: str = "c", arguments: dict[str, Any] | None = None, **fields: Any) -> None:
        name = self.conversation.name(queue)
        self.request(methods.BasicConsume(queue=name, consumer_tag=tag, arguments=arguments or {}, **fields))

    def cancel(self, tag: str = "c") -> None:
        self.request(methods.BasicCancel(consumer_tag=tag))

    def ack(self, tag: int = 0, *, multiple: bool = False) -> None:
        self.tell(methods.BasicAck(delivery_tag=tag, multiple=multiple))
        self.sync()

    def nack(self, tag: int = 0, *, multiple: bool = False, requeue: bool = True) -> None:
        self.tell(methods.BasicNack(delivery_tag=tag, multiple=multiple, requeue=requeue))
        self.sync()

    def reject(self, tag: int, *, requeue: bool = True) -> None:
        self.tell(methods.BasicReject(delivery_tag=tag, requeue=requeue))
        self.sync()

    def qos(self, count: int = 0, *, size: int = 0, for_all: bool = False) -> None:
        self.request(methods.BasicQos(prefetch_size=size, prefetch_count=count, global_=for_all))

    def recover(self, requeue: bool = True) -> None:
        self.request(methods.BasicRecover(requeue=requeue))

    def purge(self, queue: str = "q") -> None:
        self.request(methods.QueuePurge(queue=self.conversation.name(queue)))

    def delete(self, queue: str = "q", **fields: Any) -> None:
        self.request(methods.QueueDelete(queue=self.conversation.name(queue), **fields))

    def close(self) -> None:
        self.request(methods.ChannelClose(reply_code=200))
        self.is_open = False


def _properties(octets: bytes) -> Properties:
    """Of headers that are too deep to be decoded, what the broker puts there."""
    try:
        return decode_properties(octets)
    except RemoteProtocolError:
        properties = decode_all_but_headers(octets)
        properties.headers = {"too deep, with": [name for name in _COUNTS if name.encode() in octets]}
        return properties


def _fields(method: Method) -> list[Any]:
    return [method.name, {field.name: getattr(method, field.name) for field in method.fields if field.name != "ticket"}]


def transcript(case: Case, url: str, *, is_embedded: bool = False) -> list[object]:
    """What a case writes down with the broker at `url`."""
    host, port = url.rpartition("@")[2].partition("/")[0].rsplit(":", 1)
    conversation = Conversation(host, int(port), is_embedded=is_embedded)
    try:
        case(conversation)
    finally:
        conversation.close()
    return conversation.transcript
