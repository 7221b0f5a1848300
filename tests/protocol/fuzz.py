"""Fuzzing of `receive_data`: connections between random actions and a scripted broker whose octets are mutated.

    python -m tests.protocol.fuzz --seconds 600 --seed 1

Each life has two clients. Both do the same and receive the same octets, one in whole chunks, the other cut up at
random; they must report and send the same. Whatever happens, nothing but the library's own errors may come out of an
action and nothing at all out of `receive_data`, every token is told its end exactly once, at most one connection.close
is sent, and nothing after the end. In lives without mutation the client must find no fault with the broker either.
A life is named by seed and number: `--only NUMBER` repeats it.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from unittest.mock import patch

from rabbitry._errors import ConnectionClosed, RabbitryError, RemoteProtocolError
from rabbitry.protocol.client import events
from rabbitry.protocol.client.channel import ProtocolChannel, ProtocolConsumer
from rabbitry.protocol.client.connection import ProtocolConnection
from rabbitry.protocol.client.content import Content
from rabbitry.protocol.client.slots import Slot
from rabbitry.protocol.client.states import ChannelState, ConnectionState
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import METHODS, Method
from rabbitry.protocol.wire.properties import Properties, encode_properties
from tests.support.protocol_broker import (
    HEARTBEAT,
    PLAIN,
    check_bookkeeping,
    content_frames,
    described,
    method_frame,
    parse,
    raw_frame,
    reply_to,
)

# --- the broker ----------------------------------------------------------------------------------------------------


@dataclass
class BrokerChannel:
    """What a broker remembers of a channel."""

    number: int
    requests: list[Method] = field(default_factory=list)
    consumers: dict[str, bool] = field(default_factory=dict)
    confirms: bool = False
    published: int = 0
    unconfirmed: list[int] = field(default_factory=list)
    last_tag: int = 0
    closing: bool = False


class Broker:
    """Answers in its own time, and does what a broker does unasked."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.channels: dict[int, BrokerChannel] = {}
        self.to_answer: list[Method] = []
        self.piece = 4088
        self.is_open = self.is_closed = False

    def receive(self, frames: list[tuple[Any, ...]]) -> None:
        """Take note of what the client sent."""
        for number, method, *_ in (frame for frame in frames if len(frame) > 1):
            if not isinstance(method, Method):
                continue
            if number == 0:
                if isinstance(method, methods.ConnectionTuneOk):
                    self.piece = min(method.frame_max - 8, 20_000)
                elif isinstance(method, methods.ConnectionCloseOk):
                    self.is_closed = True
                if method.replies or isinstance(method, methods.ConnectionStartOk):
                    self.to_answer.append(method)
                continue
            if isinstance(method, methods.ChannelOpen):
                self.channels[number] = BrokerChannel(number)
            channel = self.channels.get(number)
            if channel is not None:
                self.receive_on(channel, method)

    def receive_on(self, channel: BrokerChannel, method: Method) -> None:
        if channel.closing and not isinstance(method, methods.ChannelClose | methods.ChannelCloseOk):
            return
        match method:
            case methods.BasicPublish():
                channel.published += 1
                if channel.confirms:
                    channel.unconfirmed.append(channel.published)
            case methods.ChannelCloseOk():
                del self.channels[channel.number]
            case methods.ChannelClose():
                channel.requests = [method]
            case _ if method.replies and not getattr(method, "nowait", False):
                channel.requests.append(method)

    def say(self) -> bytes:
        """The next octets: an answer, or something unasked."""
        return next((said for said in (self.try_to_say() for _ in range(5)) if said), b"")

    def try_to_say(self) -> bytes:
        if self.is_closed:
            return b""
        if self.to_answer and (not self.channels or self.random.random() < 0.7):
            return self.answer_connection(self.to_answer.pop(0))
        if not self.is_open:
            return HEARTBEAT if self.random.random() < 0.5 else b""
        channels = list(self.channels.values())
        if self.random.random() < (0.02 if channels else 0.2):
            blocked = method_frame(0, methods.ConnectionBlocked(reason="memory"))
            unblocked = method_frame(0, methods.ConnectionUnblocked())
            said = self.random.choices([HEARTBEAT, blocked, unblocked, b""], [10, 3, 3, 0.2])[0]
            return said or self.close()
        if not channels:
            return b""
        channel = self.random.choice(channels)
        if channel.closing:
            return b""
        if channel.requests and self.random.random() < 0.6:
            return self.answer(channel)
        speak = self.random.choices(
            [self.deliver, self.confirm, self.give_back, self.cancel, self.flow, self.close_channel],
            [10, 6, 1, 0.3, 0.2, 0.1],
        )[0]
        return speak(channel)

    def close(self) -> bytes:
        self.is_closed = True
        return method_frame(0, methods.ConnectionClose(reply_code=320, reply_text="CONNECTION_FORCED"))

    def answer_connection(self, method: Method) -> bytes:
        match method:
            case methods.ConnectionStartOk():
                return method_frame(0, methods.ConnectionTune(channel_max=7, frame_max=8192, heartbeat=10))
            case methods.ConnectionOpen():
                self.is_open = True
            case methods.ConnectionClose():
                self.is_closed = True
        return method_frame(0, reply_to(method))

    def answer(self, channel: BrokerChannel) -> bytes:
        index = 0
        late = (methods.BasicConsume, methods.BasicCancel)
        while index + 1 < len(channel.requests) and isinstance(channel.requests[index], late):
            following = channel.requests[index + 1]
            if self.random.random() < 0.7 or isinstance(following, methods.BasicCancel | methods.ChannelClose):
                break
            index += 1
        request = channel.requests.pop(index)
        match request:
            case methods.BasicGet() if self.random.random() < 0.7:
                channel.last_tag += 1
                get_ok = methods.BasicGetOk(
                    delivery_tag=channel.last_tag, exchange="", routing_key="q", message_count=1
                )
                return self.content(channel, get_ok)
            case methods.BasicConsume():
                channel.consumers[request.consumer_tag] = request.no_ack
            case methods.BasicCancel():
                channel.consumers.pop(request.consumer_tag, None)
            case methods.ConfirmSelect():
                if not channel.confirms:
                    channel.confirms, channel.published = True, 0
            case methods.ChannelClose():
                del self.channels[channel.number]
        return method_frame(channel.number, reply_to(request))

    def deliver(self, channel: BrokerChannel) -> bytes:
        if not channel.consumers:
            return b""
        tag = self.random.choice(list(channel.consumers))
        channel.last_tag += 1
        deliver = methods.BasicDeliver(
            consumer_tag=tag,
            delivery_tag=channel.last_tag,
            redelivered=self.random.random() < 0.2,
            exchange=self.random.choice(["", "e", "é" * 20]),
            routing_key="k" * self.random.randrange(0, 255, 17),
        )
        return self.content(channel, deliver)

    def content(self, channel: BrokerChannel, method: Method) -> bytes:
        size = self.random.choice([0, 1, 10, 10, 10, 100, 1000, self.piece, self.piece + 1])
        properties = self.random.choice(
            [
                Properties(),
                Properties(delivery_mode=2),
                Properties(headers={"a": [1, {"b": None}], "t": datetime(2024, 2, 29, tzinfo=UTC)}, priority=3),
            ]
        )
        frames = content_frames(
            channel.number, method, b"x" * min(size, 9000), encode_properties(properties), piece=self.piece
        )
        if self.random.random() < 0.1:  # frames of other channels may stand between them
            frames.insert(self.random.randrange(len(frames) + 1), HEARTBEAT)
        return b"".join(frames)

    def confirm(self, channel: BrokerChannel) -> bytes:
        if not channel.unconfirmed:
            return b""
        tag = self.random.choice(channel.unconfirmed)
        multiple = self.random.random() < 0.3
        channel.unconfirmed = [each for each in channel.unconfirmed if each != tag and not (multiple and each < tag)]
        row = methods.BasicAck if self.random.random() < 0.9 else methods.BasicNack
        return method_frame(channel.number, row(delivery_tag=tag, multiple=multiple))

    def give_back(self, channel: BrokerChannel) -> bytes:
        method = methods.BasicReturn(reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="nowhere")
        return self.content(channel, method)

    def cancel(self, channel: BrokerChannel) -> bytes:
        if not channel.consumers:
            return b""
        tag, _ = channel.consumers.popitem()
        return method_frame(channel.number, methods.BasicCancel(consumer_tag=tag, nowait=True))

    def flow(self, channel: BrokerChannel) -> bytes:
        return method_frame(channel.number, methods.ChannelFlow(active=self.random.random() < 0.5))

    def close_channel(self, channel: BrokerChannel) -> bytes:
        channel.closing = True
        code = self.random.choice([403, 404, 405, 406, 541])
        return method_frame(channel.number, methods.ChannelClose(reply_code=code, reply_text="sorry"))


# --- mutations -----------------------------------------------------------------------------------------------------


def mutate(random: Random, data: bytes, older: list[bytes]) -> bytes:
    """Other octets, close enough to the right ones to get far."""
    kind = random.randrange(12)
    position = random.randrange(len(data) + 1)
    end = min(len(data), position + random.choice([1, 2, 4, 8, 40]))
    match kind:
        case 0 if data:
            index = random.randrange(len(data))
            return data[:index] + bytes([data[index] ^ 1 << random.randrange(8)]) + data[index + 1 :]
        case 1 if data:
            index = random.randrange(len(data))
            return data[:index] + bytes([random.choice([0, 1, 127, 128, 206, 255])]) + data[index + 1 :]
        case 2:
            return data[:position] + data[end:]
        case 3:
            return data[:end] + data[position:]
        case 4:
            return data[:position] + random.randbytes(random.randrange(1, 20)) + data[position:]
        case 5:
            return data[:position]
        case 6 if len(data) >= 7:  # the size of a frame
            size = random.choice([0, 1, 3, 13, 14, 255, 4096, 0x7FFFFFFF, 0xFFFFFFFF])
            return data[:3] + size.to_bytes(4, "big") + data[7:]
        case 7 if len(data) >= 7:  # its channel
            return data[:1] + random.choice([0, 1, 2, 3, 65535]).to_bytes(2, "big") + data[3:]
        case 8 if data:  # its type
            return bytes([random.choice([0, 1, 2, 3, 4, 8, 206, 255])]) + data[1:]
        case 9 if older:  # out of order
            return random.choice(older) + data
        case 10:
            return data + method_frame(random.choice([0, 1, 2, 9]), any_method(random))
        case _:
            payload = random.choice(list(METHODS)) + random.randbytes(random.randrange(0, 30))
            return data + raw_frame(random.choice([1, 1, 2, 3, 8]), random.choice([0, 1, 2, 9]), payload)


def any_method(random: Random) -> Method:
    """Any method with any arguments."""
    row = random.choice(list(METHODS.values()))
    values: dict[str, Callable[[], Any]] = {
        "bit": lambda: random.random() < 0.5,
        "octet": lambda: random.choice([0, 1, 9, 255]),
        "short": lambda: random.choice([0, 1, 200, 404, 65535]),
        "long": lambda: random.choice([0, 1, 4096, 2**32 - 1]),
        "longlong": lambda: random.choice([0, 1, 2, 5, 2**63, 2**64 - 1]),
        "shortstr": lambda: random.choice(["", "q", "c1", "x" * 255]),
        "longstr": lambda: random.randbytes(random.randrange(10)),
        "table": lambda: random.choice([{}, {"a": {"b": [1, 2.0, None, b"x"]}}]),
    }
    return row(**{each.name: values[each.type.name]() for each in row.fields})


# --- a client ------------------------------------------------------------------------------------------------------


class Client:
    """One of the two clients of a life: the connection, and what becomes of every token."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.connection = ProtocolConnection(mechanisms=PLAIN, **options)
        self.channels: list[ProtocolChannel] = []
        self.slots: list[Slot] = []
        self.consumers: list[ProtocolConsumer] = []
        self.replies: dict[int, Any] = {}
        self.waiting: set[int] = set()
        self.confirms: set[int] = set()
        self.consuming: set[int] = set()
        self.ended: list[events.ConnectionEnded] = []
        self.closes = 0

    def take_events(self) -> list[tuple[Any, ...]]:
        """Take the events, and account for their tokens."""
        taken, self.connection.events = self.connection.events, []
        assert not (taken and self.ended), f"events after the end: {taken}"
        for event in taken:
            match event:
                case events.Replied():
                    self.waiting.remove(event.token)
                    self.replies[event.token] = event.reply
                case events.Failed():
                    self.waiting.remove(event.token)
                case events.Confirmed():
                    for token in event.tokens:
                        self.confirms.remove(token)
                case events.Returned():
                    assert event.token is None or event.token in self.confirms
                case events.TooLarge():
                    assert event.content.consumer in self.consuming
                case events.ConsumerCancelledByBroker():
                    self.consuming.remove(event.token)
                case events.ChannelEnded():
                    for token in event.waiting:
                        self.waiting.remove(token)
                    for token in (*event.unknown, *event.unsent):
                        self.confirms.remove(token)
                    for token in event.consumers:
                        self.consuming.remove(token)
                case events.ConnectionEnded():
                    for token in event.waiting:
                        self.waiting.remove(token)
                    self.ended.append(event)
                case Content():
                    assert event.consumer in self.consuming
        return joined([tuple(map(comparable, described(event))) for event in taken])

    def take_sent(self) -> bytes:
        """Take the octets."""
        data = self.connection.data_to_send()
        self.closes += sum(isinstance(frame[-1], methods.ConnectionClose) for frame in parse(data))
        assert self.closes <= 1, "a second connection.close"
        return data

    def check(self) -> None:
        check_bookkeeping(self.connection)
        error = self.connection.error
        if error is not None:
            assert "internal error" not in str(error), error.__cause__ and traceback.format_exception(error.__cause__)
        if self.connection.state is ConnectionState.CLOSED and not self.connection.events:
            assert not self.waiting, f"nobody told {self.waiting}"
            assert not self.confirms, f"nobody told the publishes {self.confirms}"

    def pick(self, things: list[Any], number: int) -> Any:
        return things[number % len(things)] if things else None

    # Actions take a token and a number to choose by.

    def open_channel(self, token: int, number: int) -> None:
        channel, slot = self.connection.open_channel(token)
        self.channels = [*self.channels[-9:], channel]
        self.track(slot, token)

    def track(self, slot: Slot | None, token: int) -> None:
        if slot is not None:
            self.slots = [*self.slots[-30:], slot]
            self.waiting.add(token)

    def close_channel(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            self.track(channel.close(token), token)

    def request(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            method = _REQUESTS[number % len(_REQUESTS)]
            self.track(channel.request(method, token), token)

    def consume(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            method = methods.BasicConsume(queue="q", consumer_tag=f"c{number % 6}", no_ack=number % 5 == 0)
            consumer, slot = channel.consume(method, -token, token)
            self.consumers = [*self.consumers[-20:], consumer]
            self.consuming.add(-token)
            self.track(slot, token)

    def cancel(self, token: int, number: int) -> None:
        consumer = self.pick(self.consumers, number)
        for channel in self.channels if consumer is not None else ():
            if channel.consumers.get(consumer.consumer_tag) is consumer:
                self.track(channel.cancel(consumer, token), token)
                if consumer.canceller == token:  # put off until it has started
                    self.waiting.add(token)

    def get(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            self.track(channel.get(methods.BasicGet(queue="q", no_ack=number % 3 == 0), token), token)
            channel.take_kept("q")

    def abandon(self, token: int, number: int) -> None:
        slot = self.pick(self.slots, number)
        if slot is not None and isinstance(slot.request, methods.ChannelOpen) and number % 10:
            return  # it closes the channel: seldom
        if slot is not None and slot.token is not None:
            mine, reply = slot.token, self.replies.get(slot.token)
            slot.abandon(reply)
            self.waiting.discard(mine)

    def publish(self, token: int, number: int) -> None:
        channel = self.pick([each for each in self.channels if each.state is ChannelState.OPEN], number)
        if channel is None:
            return
        body = b"y" * (number % 23 * 500)
        confirmed = channel.mode.value == "confirm"
        if confirmed and number % 4 == 0:
            with patch("rabbitry.protocol.client.publish_tags.urandom", lambda size: token.to_bytes(size)):
                channel.publish_mandatory(Properties(), body, "", "nowhere", token)  # marked alike by both twins
        else:
            channel.publish(b"\0\0", body, "e", f"k{number % 3}", False, token if confirmed else None)
        if confirmed:
            self.confirms.add(token)

    def settle(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            tags = sorted(channel.tags.outstanding) or [number % 5]
            for tag in tags[: number % 4 + 1]:
                (channel.ack, lambda tag: channel.nack(tag, True), lambda tag: channel.reject(tag, False), channel.ack)[
                    number % 4
                ](tag)

    def recover(self, token: int, number: int) -> None:
        channel = self.pick(self.channels, number)
        if channel is not None:
            self.track(channel.recover(token), token)

    def update_secret(self, token: int, number: int) -> None:
        self.track(self.connection.update_secret(b"secret", "because", token), token)

    def tick(self, token: int, number: int) -> None:
        self.connection.handle_timer(float(token), reading=number % 3 != 0)

    def close(self, token: int, number: int) -> None:
        self.connection.close()

    def lose(self, token: int, number: int) -> None:
        self.connection.eof_received(None if number % 2 else OSError("gone"))

    def abort(self, token: int, number: int) -> None:
        self.connection.abort(ConnectionClosed("given up"))


_REQUESTS: list[Method] = [
    methods.QueueDeclare(),
    methods.QueueDeclare(queue="q"),
    methods.QueueBind(queue="q", exchange="e"),
    methods.ExchangeDeclare(exchange="e"),
    methods.BasicQos(prefetch_count=3),
    methods.ConfirmSelect(),
    methods.ConfirmSelect(),
    methods.TxSelect(),
    methods.TxCommit(),
    methods.TxRollback(),
    methods.QueuePurge(queue="q" * 300),  # can't be encoded
    methods.QueueDeclare(arguments={"x": "y" * 9000}),  # fits no frame
]

_ACTIONS: list[tuple[Callable[[Client, int, int], None], float]] = [
    (Client.open_channel, 1),
    (Client.close_channel, 0.2),
    (Client.request, 5),
    (Client.consume, 4),
    (Client.cancel, 1),
    (Client.get, 2),
    (Client.abandon, 2),
    (Client.publish, 8),
    (Client.settle, 8),
    (Client.recover, 0.3),
    (Client.update_secret, 0.3),
    (Client.tick, 0.5),
    (Client.close, 0.05),
    (Client.lose, 0.03),
    (Client.abort, 0.03),
]


def joined(told: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """With confirms that follow one another as one: of those that come together it is told together."""
    found: list[tuple[Any, ...]] = []
    for event in told:
        if found and event[0] == found[-1][0] == "confirmed" and event[2] == found[-1][2]:
            event = ("confirmed", found.pop()[1] + event[1], event[2])
        found.append(event)
    return found


def comparable(item: Any) -> Any:
    """Without what may differ: of a greeting that is none, the text shows what had come so far."""
    return item.partition("it began with")[0] if isinstance(item, str) and "not an AMQP server" in item else item


# --- a life --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a run has seen."""

    lives: int = 0
    inputs: int = 0
    octets: int = 0
    ended_by_fault: int = 0
    seconds: float = 0.0
    escapes: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"{self.inputs} inputs ({self.octets} octets) in {self.lives} lives, {self.ended_by_fault} of them ended "
            f"by a fault of the broker, {len(self.faults)} kinds of them; "
            f"{self.seconds:.0f} seconds, {len(self.escapes)} escapes"
        )


class Life:
    """One connection from greeting to end, and its twin."""

    def __init__(self, name: str, report: Report) -> None:
        self.random = Random(name)
        self.report = report
        options = {
            "frame_max": self.random.choice([4096, 8192, 131072, 0]),
            "max_message_size": self.random.choice([5000, 10_000, 134217728]),
            "heartbeat": self.random.choice([0, 10]),
            "channel_max": self.random.choice([1, 3, 2047]),
        }
        self.clients = [Client(options), Client(options)]
        self.broker = Broker(self.random)
        self.older: list[bytes] = []
        self.mutations = self.random.choice([0.0, 0.01, 0.05, 0.3])
        if self.mutations == 0:
            for client in self.clients:
                client.connection.max_message_size = 134217728

    def run(self) -> None:
        start = method_frame(0, methods.ConnectionStart(server_properties={"product": "fuzz"}))
        self.exchange()
        self.feed(start)
        for token in range(1, self.random.choice([10, 50, 200, 400])):
            self.exchange()
            if self.clients[0].connection.state is ConnectionState.CLOSED:
                break
            if token < 3 or self.random.random() < 0.5:
                data = b"".join(self.broker.say() for _ in range(self.random.choice([1, 1, 2, 5])))
                self.feed(data)
            else:
                action = self.random.choices([each for each, _ in _ACTIONS], [weight for _, weight in _ACTIONS])[0]
                live = [each for each in self.clients[0].channels if each.state is not ChannelState.CLOSED]
                self.act(action if live or self.random.random() < 0.1 else Client.open_channel, token)
        self.exchange()
        error = self.clients[0].connection.error
        if error is not None and isinstance(error.__cause__, RemoteProtocolError):
            assert self.mutations, f"fault found with a good broker: {error}"
            self.report.ended_by_fault += 1
            self.report.faults["".join("0" if each.isdigit() else each for each in str(error))] += 1
        self.end()

    def end(self) -> None:
        """Nothing may happen after the end."""
        self.act(Client.lose, 100_000)
        self.both(Client.take_sent)
        for action, _ in _ACTIONS:
            self.act(action, 100_001)
        self.feed(method_frame(0, methods.ConnectionClose(reply_code=320)) + b"more")
        for client in self.clients:
            assert len(client.ended) == 1
            assert client.connection.data_to_send() == b""
            assert client.connection.state is ConnectionState.CLOSED
            assert not any(channel.state is ChannelState.OPEN for channel in client.channels)

    def both(self, take: Callable[[Client], Any]) -> Any:
        first, second = (take(client) for client in self.clients)
        assert first == second, f"the twins differ: {first!r} and {second!r}"
        return first

    def exchange(self) -> None:
        """The broker reads, sometimes."""
        if self.random.random() < 0.7:
            self.broker.receive(parse(self.both(Client.take_sent)))

    def feed(self, data: bytes) -> None:
        if data and self.random.random() < self.mutations:
            for _ in range(self.random.choice([1, 1, 1, 3])):
                data = mutate(self.random, data, self.older)
        if data:
            self.older = [*self.older[-4:], data]
        self.report.octets += len(data)
        whole, pieces = self.clients
        for client, chunks in ((whole, [data]), (pieces, self.cut(data))):
            for chunk in chunks:
                self.report.inputs += 1
                client.connection.receive_data(chunk)
                client.check()
        self.both(Client.take_events)

    def cut(self, data: bytes) -> list[bytes]:
        if len(data) < 200 and self.random.random() < 0.5:
            return [data[index : index + 1] for index in range(len(data))]
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.randrange(6)))
        return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def act(self, action: Callable[[Client, int, int], None], token: int) -> None:
        number = self.random.randrange(1000)

        def act(client: Client) -> str:
            try:
                action(client, token, number)
            except (RabbitryError, ValueError) as error:
                outcome = comparable(f"{type(error).__name__}: {error}")
            else:
                outcome = "done"
            return outcome

        self.both(act)
        self.both(Client.take_events)
        for client in self.clients:
            client.check()


class Fuzzer:
    """Lives one after the other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.report = Report()

    def run(self, seconds: float, only: int | None = None, on_escape: Callable[[str], None] | None = None) -> Report:
        """Fuzz for so long. The first escape raises, unless `on_escape` takes them."""
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            number = self.report.lives if only is None else only
            self.report.lives += 1
            try:
                Life(f"{self.seed}-{number}", self.report).run()
            except Exception as error:
                if on_escape is None:
                    error.add_note(f"repeat with: python -m tests.protocol.fuzz --seed {self.seed} --only {number}")
                    raise
                self.report.escapes.append(f"life {number}: {error!r}")
                on_escape(f"life {number}:\n{traceback.format_exc()}")
            if only is not None:
                break
        self.report.seconds = elapsed
        return self.report


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the protocol's receive_data.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one life, to repeat it")
    parser.add_argument("--wordings", action="store_true", help="list the faults found with the broker")
    arguments = parser.parse_args()
    report = Fuzzer(arguments.seed).run(arguments.seconds, arguments.only, print)
    if arguments.wordings:
        for wording, count in report.faults.most_common():
            print(f"{count:8} {wording}")
    print(report)
    return 1 if report.escapes else 0


if __name__ == "__main__":
    raise SystemExit(main())
