"""A broker that does as little as one can: it takes, confirms and hands over, and keeps nothing but what is under way.

What a load generator reaches against it is what the generator can do at all. It speaks AMQP 0-9-1 as far as a run needs
it: queues, exchanges (direct ones look at the key, all others fan out), confirms, prefetch, acknowledgements, returns,
direct reply-to. It stores nothing, knows no patterns and no users, and refuses nobody. As
`python -m loadtest.machine.sink` it is a process of its own that prints its URL and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict, deque
from typing import Any

from rabbitry.protocol import methods
from rabbitry.protocol.server import Closing, Command, Ended, Login, Opening, Refusal, ServerConnection

REPLY_TO = "amq.rabbitmq.reply-to"
_ASKED = b"\x15" + REPLY_TO.encode()
"""How a request says that it wants its reply directly, among its properties' octets."""
ROOM = 1_000_000
"""Bytes that wait for one client, beyond which its deliveries wait in their queues."""


class Message:
    """What is under way."""

    __slots__ = ("body", "exchange", "is_redelivered", "key", "properties")

    def __init__(self, exchange: str, key: str, properties: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.key = key
        self.properties = properties
        self.body = body
        self.is_redelivered = False


class Queue:
    """Hands each message to the next consumer that may have it.

    Consumers that can't take one now leave the round until they can: their number costs nothing.
    """

    __slots__ = ("consumers", "is_stream", "messages", "name", "ready")

    def __init__(self, name: str, is_stream: bool) -> None:
        self.name = name
        self.is_stream = is_stream
        self.messages: deque[Message] = deque()
        self.consumers: list[Consumer] = []
        self.ready: deque[Consumer] = deque()

    def put(self, message: Message) -> None:
        """A message arrives."""
        if self.is_stream:
            for consumer in self.consumers:
                consumer.deliver(message)
            return
        self.messages.append(message)
        self.dispatch()

    def dispatch(self) -> None:
        """Hands over what there is to those who have room."""
        messages, ready = self.messages, self.ready
        while messages and ready:
            consumer = ready[0]
            if consumer.has_room:
                ready.rotate(-1)
                consumer.deliver(messages.popleft())
            else:
                ready.popleft()
                consumer.is_ready = False

    def welcome(self, consumer: Consumer) -> None:
        """A consumer may be able to take a message from now on."""
        if not consumer.is_ready:
            consumer.is_ready = True
            self.ready.append(consumer)
        self.dispatch()

    def leave(self, consumer: Consumer) -> None:
        """A consumer is over."""
        self.consumers.remove(consumer)
        if consumer.is_ready:
            self.ready.remove(consumer)


class Consumer:
    """A subscription."""

    __slots__ = ("channel", "is_ready", "no_ack", "outstanding", "prefetch", "queue", "tag")

    def __init__(self, channel: Channel, queue: Queue, tag: str, no_ack: bool) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.prefetch = 0 if no_ack else channel.prefetch
        self.outstanding = 0
        self.is_ready = False

    @property
    def has_room(self) -> bool:
        """Whether it may have another message."""
        return (not self.prefetch or self.outstanding < self.prefetch) and self.channel.client.has_room

    def deliver(self, message: Message) -> None:
        """Hands a message over."""
        channel = self.channel
        channel.delivered += 1
        if not self.no_ack:
            self.outstanding += 1
            channel.unsettled[channel.delivered] = self, message
        deliver = methods.BasicDeliver(
            consumer_tag=self.tag,
            delivery_tag=channel.delivered,
            redelivered=message.is_redelivered,
            exchange=message.exchange,
            routing_key=message.key,
        )
        channel.client.connection.send_content(channel.number, deliver.encode(), message.properties, message.body)
        channel.client.flush_later()


class Channel:
    """One channel of a client."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.prefetch = 0
        self.delivered = 0
        self.confirms = False
        self.published = self.confirmed = 0
        self.unsettled: dict[int, tuple[Consumer, Message]] = {}
        self.consumers: dict[str, Consumer] = {}
        self.reply_address = ""
        self.reply_tag = ""

    def settle(self, tag: int, multiple: bool, requeue: bool = False) -> None:
        """The client answers a delivery, or all up to it."""
        tags = [each for each in self.unsettled if each <= tag or not tag] if multiple else [tag]
        freed: dict[Consumer, None] = {}
        for each in tags:
            settled = self.unsettled.pop(each, None)
            if settled is not None:
                consumer, message = settled
                consumer.outstanding -= 1
                if requeue:
                    message.is_redelivered = True
                    consumer.queue.messages.appendleft(message)
                freed[consumer] = None
        for consumer in freed:
            if self.consumers.get(consumer.tag) is consumer:
                consumer.queue.welcome(consumer)
            else:
                consumer.queue.dispatch()

    def release(self) -> None:
        """The channel is over: its consumers go, and what they hold goes back."""
        for consumer in self.consumers.values():
            consumer.queue.leave(consumer)
        self.consumers.clear()
        self.client.sink.callers.pop(self.reply_address, None)
        for tag in sorted(self.unsettled, reverse=True):
            self.settle(tag, multiple=False, requeue=True)


class Sink:
    """What all clients share."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, str] = {}
        self.bindings: defaultdict[str, list[tuple[str, Queue]]] = defaultdict(list)
        self.callers: dict[str, Channel] = {}
        self.names = 0

    def new_name(self, kind: str) -> str:
        """A name that nobody has."""
        self.names += 1
        return f"{kind}.{self.names}"

    def route(self, message: Message) -> bool:
        """Puts a message into every queue it belongs to; False if it belongs to none."""
        key, is_taken = message.key, True
        if message.exchange:
            fans_out, is_taken = self.exchanges.get(message.exchange) in ("fanout", "topic"), False
            for bound, queue in self.bindings[message.exchange]:
                if fans_out or bound == key:
                    queue.put(message)
                    is_taken = True
        elif (taker := self.queues.get(key)) is not None:
            taker.put(message)
        elif (caller := self.callers.get(key)) is not None:
            reply = methods.BasicDeliver(
                consumer_tag=caller.reply_tag, delivery_tag=1, redelivered=False, exchange="", routing_key=key
            )
            caller.client.connection.send_content(caller.number, reply.encode(), message.properties, message.body)
            caller.client.flush_later()
        else:
            return False
        return is_taken


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.connection = ServerConnection(
            properties={
                "product": "null sink",
                "version": "1",
                "capabilities": {
                    "publisher_confirms": True,
                    "basic.nack": True,
                    "consumer_cancel_notify": True,
                    "direct_reply_to": True,
                    "per_consumer_qos": True,
                },
            }
        )
        self.channels: dict[int, Channel] = {}
        self._transport: asyncio.Transport | None = None
        self._is_flushing = False
        self._buffered = 0

    @property
    def has_room(self) -> bool:
        """Whether more may wait for the client."""
        return self.connection.out_size < ROOM and self._buffered < ROOM

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self._transport = None
        for channel in self.channels.values():
            channel.release()
        self.channels.clear()

    def pause_writing(self) -> None:
        """asyncio's: the client is slow."""
        self._buffered = ROOM

    def resume_writing(self) -> None:
        """asyncio's: it has caught up."""
        self._buffered = 0
        self._welcome_consumers()

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        for event in self.connection.receive_data(data):
            match event:
                case Command():
                    self._command(event)
                case Login():
                    self.connection.accept_login()
                case Opening():
                    self.connection.accept_virtual_host()
                case Closing() | Ended():
                    self.flush()
                    if isinstance(event, Ended) and self._transport is not None:
                        self._transport.close()
        for channel in self.channels.values():
            if channel.published > channel.confirmed:
                channel.confirmed = channel.published
                ack = methods.BasicAck(delivery_tag=channel.published, multiple=True)
                self.connection.send(channel.number, ack)
        self.flush()

    def flush_later(self) -> None:
        """What was queued leaves when this turn of the loop is over."""
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """What was queued leaves."""
        self._is_flushing = False
        if self.connection.out_size and self._transport is not None:
            was_full = self.connection.out_size >= ROOM
            self._transport.write(self.connection.data_to_send())
            if was_full and not self._buffered:
                self._welcome_consumers()

    def _welcome_consumers(self) -> None:
        for channel in self.channels.values():
            for consumer in channel.consumers.values():
                consumer.queue.welcome(consumer)

    def _command(self, command: Command) -> None:
        method, number = command.method, command.number
        if type(method) is methods.ChannelOpen:
            self.channels[number] = Channel(self, number)
            return
        channel = self.channels.get(number)
        if channel is None:
            return
        if type(method) is methods.BasicPublish:  # hot, as the acknowledgement below
            self._publish(channel, method, command)
        elif type(method) is methods.BasicAck:
            channel.settle(method.delivery_tag, method.multiple)
        elif type(method) is methods.ChannelClose:
            del self.channels[number]
            channel.release()
        elif (answer := self._answer(channel, method)) is not None:
            self.connection.send(number, answer)

    def _publish(self, channel: Channel, method: methods.BasicPublish, command: Command) -> None:
        properties = command.properties
        if _ASKED in properties and channel.reply_address:
            address = channel.reply_address.encode()
            properties = properties.replace(_ASKED, bytes([len(address)]) + address)
        if channel.confirms:
            channel.published += 1
        message = Message(method.exchange, method.routing_key, properties, command.body)
        if not self.sink.route(message) and method.mandatory:
            returned = methods.BasicReturn(
                reply_code=312, reply_text="NO_ROUTE", exchange=message.exchange, routing_key=message.key
            )
            self.connection.send_content(channel.number, returned.encode(), properties, command.body)

    def _answer(self, channel: Channel, method: Any) -> Any:
        """What is answered to a method; None if nothing is."""
        sink = self.sink
        match method:
            case methods.BasicNack():
                channel.settle(method.delivery_tag, method.multiple, method.requeue)
            case methods.BasicReject():
                channel.settle(method.delivery_tag, False, method.requeue)
            case methods.ConfirmSelect():
                channel.confirms = True
                return None if method.nowait else methods.ConfirmSelectOk()
            case methods.BasicQos():
                channel.prefetch = method.prefetch_count
                return methods.BasicQosOk()
            case methods.BasicConsume():
                return self._consume(channel, method)
            case methods.BasicCancel():
                consumer = channel.consumers.pop(method.consumer_tag, None)
                if consumer is not None:
                    consumer.queue.leave(consumer)
                return None if method.nowait else methods.BasicCancelOk(consumer_tag=method.consumer_tag)
            case methods.QueueDeclare():
                return self._declare(channel, method)
            case methods.QueueDelete():
                queue = sink.queues.pop(method.queue, None)
                for bound in sink.bindings.values():
                    bound[:] = [each for each in bound if each[1] is not queue]
                count = 0 if queue is None else len(queue.messages)
                return None if method.nowait else methods.QueueDeleteOk(message_count=count)
            case methods.QueueBind() if method.queue in sink.queues:
                sink.bindings[method.exchange].append((method.routing_key, sink.queues[method.queue]))
                return None if method.nowait else methods.QueueBindOk()
            case methods.ExchangeDeclare():
                sink.exchanges.setdefault(method.exchange, method.type)
                return None if method.nowait else methods.ExchangeDeclareOk()
            case methods.ExchangeDelete():
                sink.exchanges.pop(method.exchange, None)
                return None if method.nowait else methods.ExchangeDeleteOk()
            case _:
                ids = (method.class_id, method.method_id)
                self.connection.refuse(channel.number, Refusal(540, "the null sink can't do that"), ids)
        return None

    def _declare(self, channel: Channel, method: methods.QueueDeclare) -> methods.QueueDeclareOk | None:
        name = method.queue or self.sink.new_name("amq.gen")
        queue = self.sink.queues.get(name)
        if queue is None and method.passive:
            ids = (method.class_id, method.method_id)
            self.connection.refuse(channel.number, Refusal(404, f"no queue '{name}'"), ids)
            del self.channels[channel.number]
            channel.release()
            return None
        if queue is None:
            queue = self.sink.queues[name] = Queue(name, method.arguments.get("x-queue-type") == "stream")
        if method.nowait:
            return None
        counts = len(queue.messages), len(queue.consumers)
        return methods.QueueDeclareOk(queue=name, message_count=counts[0], consumer_count=counts[1])

    def _consume(self, channel: Channel, method: methods.BasicConsume) -> methods.BasicConsumeOk | None:
        tag = method.consumer_tag or self.sink.new_name("amq.ctag")
        if method.queue == REPLY_TO:
            channel.reply_tag, channel.reply_address = tag, self.sink.new_name(REPLY_TO)
            self.sink.callers[channel.reply_address] = channel
            return None if method.nowait else methods.BasicConsumeOk(consumer_tag=tag)
        queue = self.sink.queues.get(method.queue)
        if queue is None:
            ids = (method.class_id, method.method_id)
            self.connection.refuse(channel.number, Refusal(404, f"no queue '{method.queue}'"), ids)
            del self.channels[channel.number]
            channel.release()
            return None
        consumer = channel.consumers[tag] = Consumer(channel, queue, tag, method.no_ack)
        if not method.nowait:
            self.connection.send(channel.number, methods.BasicConsumeOk(consumer_tag=tag))
        queue.consumers.append(consumer)
        queue.welcome(consumer)
        return None


async def serve() -> None:
    """Serves on a free port of the loopback interface until the standard input ends, and prints the URL."""
    loop = asyncio.get_running_loop()
    sink = Sink()
    server = await loop.create_server(lambda: Client(sink), "127.0.0.1", 0, backlog=4096)
    print(f"amqp://guest:guest@127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
