"""A virtual host: its exchanges and queues by name, how they are bound, declared again and deleted, and how messages
get from one to the other.

What must stay true: what is declared again is equal or refused with RabbitMQ's words; what is deleted leaves no
binding; a dead message is dealt with after whatever made it die, in turn, so that a chain of queues is no chain of
calls. Checks permissions nowhere: who asks has been checked.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from struct import pack
from typing import Any, Protocol

from rabbitry.broker.arguments import QUEUE_ARGUMENTS, queue_options
from rabbitry.broker.compat import Compat
from rabbitry.broker.deaths import dead_message, goes_round
from rabbitry.broker.exchanges import TYPES, Binding, Destination, Exchange, check_headers_binding
from rabbitry.broker.fields import type_name
from rabbitry.broker.messages import Message
from rabbitry.broker.queues import Queue
from rabbitry.broker.timers import Timers
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["ReplyConsumer", "VirtualHost", "generated_name", "reply_name", "without_line_breaks"]

_PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}
_LATER_TYPES = ("x-local-random", "x-modulus-hash", "x-jms-topic", "x-recent-history")


def generated_name(prefix: str) -> str:
    """A name that nobody else has, as RabbitMQ makes them: "amq.gen-…"."""
    return f"{prefix}-{urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip('=')}"


def reply_name(node: bytes, number: int) -> str:
    """Where replies to a channel are sent, shaped as RabbitMQ's: an Erlang process id and a key, which nobody can
    guess. Clients tell from the former which addresses are of one broker."""
    process = node + pack(">III", number, 0, 0x67000000)
    key = secrets.token_bytes(16)
    return f"amq.rabbitmq.reply-to.{b64encode(process).decode()}.{b64encode(key).decode()}"


def _process(name: str) -> bytes:
    """The process id in a reply name; nothing if there is none."""
    try:
        return b64decode(name.removeprefix("amq.rabbitmq.reply-to.").partition(".")[0], validate=True)
    except ValueError:
        return b""


class ReplyConsumer(Protocol):
    """A channel that consumes from the pseudo-queue of direct reply-to."""

    def deliver_reply(self, message: Message) -> None:
        """Send it to the client."""
        ...


class VirtualHost:
    """One world of names. `wall_offset` is what makes the time of day of `now`."""

    def __init__(self, name: str, compat: Compat, timers: Timers, wall_offset: float = 0.0) -> None:
        self.name = name
        self.compat = compat
        self.queues: dict[str, Queue] = {}
        self.exchanges = {
            name: Exchange(name, type, internal=name == "amq.rabbitmq.trace") for name, type in _PREDECLARED.items()
        }
        self.reply_consumers: dict[str, ReplyConsumer] = {}
        """Those of direct reply-to, by the name that replies are sent to."""
        self._node = b"\x83Xv\x00\x0ereply@%08d" % secrets.randbelow(10**8)  # as Erlang begins a process id
        self._replies = count(1)
        self._timers = timers
        self.wall_offset = wall_offset
        self._dead: deque[tuple[Message, Queue, str, bool]] = deque()
        self._is_burying = False

    def add_reply_consumer(self, consumer: ReplyConsumer) -> str:
        """The name that replies to it are sent to."""
        name = reply_name(self._node, next(self._replies))
        self.reply_consumers[name] = consumer
        return name

    def has_made(self, name: str) -> bool:
        """Whether replies were sent to this name here, now or earlier."""
        return _process(name).startswith(self._node)

    def stumbles_over(self, name: str) -> bool:
        """Whether RabbitMQ would at this reply name, to which nobody listens."""
        if self.compat.stumbles_over == "foreign":
            return name.count(".") == 4 and not self.has_made(name)
        return self.compat.stumbles_over == "malformed" and name.count(".") == 4 and _process(name)[:1] != b"\x83"

    # --- names -----------------------------------------------------------------------------------------------------

    def called(self, kind: str, name: str) -> str:
        """An entity in RabbitMQ's words."""
        return f"{kind} '{name}' in vhost '{self.name}'"

    def queue(self, name: str, connection: object = None) -> Queue:
        """The queue, for somebody on this connection (None: whoever). Raises `Refusal` 404 or 405."""
        queue = self.queues.get(name)
        if queue is None:
            raise Refusal(404, f"no {self.called('queue', name)}")
        if queue.owner is not None and queue.owner is not connection:
            raise self._locked(queue)
        return queue

    def _locked(self, queue: Queue) -> Refusal:
        return Refusal(
            405,
            f"cannot obtain exclusive access to locked {self.called('queue', queue.name)}. It could be originally "
            "declared on another connection or the exclusive property value does not match that of the original "
            "declaration.",
        )

    def exchange(self, name: str) -> Exchange:
        """The exchange. Raises `Refusal` 404."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise Refusal(404, f"no {self.called('exchange', name)}")
        return exchange

    def check_name(self, kind: str, name: str) -> None:
        """Raise the `Refusal` of a name that is RabbitMQ's own."""
        if name.startswith("amq."):
            raise Refusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")

    # --- exchanges -------------------------------------------------------------------------------------------------

    def check_type(self, type: str) -> None:
        """Raise the `Refusal` of a type of exchange that doesn't exist."""
        if type in TYPES:
            return
        if type in _LATER_TYPES and self.compat.has_plugin_types:
            raise Refusal(540, f"exchanges of type {type} are not implemented by the embedded broker")
        raise Refusal(self.compat.unknown_exchange_type, f"unknown exchange type '{type}'")

    def declare_exchange(
        self, name: str, type: str, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ) -> None:
        """Create it, or check that what there is is equal."""
        found = self.exchanges.get(name)
        if found is None:
            found = self.exchanges[name] = Exchange(
                name, type, durable=durable, auto_delete=auto_delete, internal=internal, arguments=arguments
            )
            return
        resource = self.called("exchange", name)
        self._check_equal(resource, "type", found.type, type)
        self._check_equal(resource, "durable", found.durable, durable)
        self._check_equal(resource, "auto_delete", found.auto_delete, auto_delete)
        self._check_equal(resource, "internal", found.internal, internal)
        self._check_equal_arguments(resource, found.arguments, arguments, ("alternate-exchange",))

    def delete_exchange(self, name: str, if_unused: bool = False) -> None:
        """Delete it, if it is there, and whatever was bound to it or it was bound to."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise Refusal(406, f"{self.called('exchange', name)} in use")
        del self.exchanges[name]
        for binding in exchange.bindings.values():
            _incoming(binding.destination).pop(binding, None)
        exchange.bindings.clear()
        self._unbind_destination(exchange)

    def _check_equal(self, resource: str, key: str, current: object, received: object) -> None:
        if current != received:
            raise Refusal(
                406,
                f"inequivalent arg '{key}' for {resource}: received '{_word(received)}' but current is "
                f"'{_word(current)}'",
            )

    def _check_equal_arguments(
        self, resource: str, current: Mapping[str, Any], received: Mapping[str, Any], keys: Sequence[str]
    ) -> None:
        for key in keys:
            if (key in current, current.get(key)) == (key in received, received.get(key)):
                continue
            if key == "x-queue-type":
                default = "classic"
                if current.get(key, default) == received.get(key, default):
                    continue
                if self.compat.default_queue_type:
                    self._check_equal(resource, key, current.get(key, default), received.get(key, default))
            if key in current and key in received:
                self._check_equal(resource, key, current[key], received[key])
            else:
                raise Refusal(
                    406,
                    f"inequivalent arg '{key}' for {resource}: received {_value(received, key)} but current is "
                    f"{_value(current, key)}",
                )

    # --- queues ----------------------------------------------------------------------------------------------------

    def declare_queue(
        self,
        name: str,
        *,
        durable: bool,
        auto_delete: bool,
        owner: object,
        arguments: Mapping[str, Any],
        now: float,
        check_new: Callable[[], None] = lambda: None,
    ) -> Queue:
        """Create it, or check that what there is is equal. `check_new` is asked before one is created."""
        found = self.queues.get(name)
        if found is not None:
            self._check_equal_queue(found, durable, auto_delete, owner, arguments)
            found.touch(now)
            return found
        check_new()
        resource = self.called("queue", name)
        options = queue_options(resource, arguments, self.compat.queue_versions)
        if options.kind == "quorum":
            for is_wrong, what in (
                (auto_delete, "auto-delete"),
                (owner is not None, "exclusive-owner"),
                (not durable, "non-durable"),
            ):
                if is_wrong:
                    raise Refusal(406, f"invalid property '{what}' for {resource}")
        default = self.compat.delivery_limit
        if options.kind == "quorum" and default is not None:
            limit = default if options.delivery_limit is None else options.delivery_limit
            options = replace(options, delivery_limit=None if limit < 0 else limit)
        queue = self.queues[name] = Queue(
            name,
            options,
            bury=self.bury,
            timers=self._timers,
            now=now,
            durable=durable,
            auto_delete=auto_delete,
            owner=owner,
            arguments=arguments,
            requeues_behind=self.compat.requeues_behind,
            on_unused=self._delete_unused,
        )
        return queue

    def _check_equal_queue(
        self, found: Queue, durable: bool, auto_delete: bool, owner: object, arguments: Mapping[str, Any]
    ) -> None:
        if found.owner is not owner:
            raise self._locked(found)
        resource = self.called("queue", found.name)
        self._check_equal(resource, "durable", found.durable, durable)
        self._check_equal(resource, "auto_delete", found.auto_delete, auto_delete)
        self._check_equal_arguments(resource, found.arguments, arguments, QUEUE_ARGUMENTS)

    def delete_queue(self, queue: Queue, now: float, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete it; how many messages were ready. Its consumers are told."""
        resource = self.called("queue", queue.name)
        if if_unused and queue.is_quorum:
            raise Refusal(
                540,
                f"cannot delete {resource}. queue.delete operations with if-unused flag set are not supported by "
                "quorum queues",
            )
        if if_empty and queue.is_quorum:
            raise Refusal(
                540,
                f"cannot delete {resource}. queue.delete operations with if-empty flag set are not supported by "
                "quorum queues",
            )
        if if_empty and queue.count:
            raise Refusal(406, f"{resource} not empty")
        if if_unused and len(queue.consumers):
            raise Refusal(406, f"{resource} in use")
        del self.queues[queue.name]
        self._unbind_destination(queue)
        ready = queue.purge()
        for consumer in list(queue.consumers):
            queue.consumers.remove(consumer)
            consumer.channel.lose_consumer(consumer)
        return ready

    def _delete_unused(self, queue: Queue, now: float) -> None:
        if self.queues.get(queue.name) is queue:
            self.delete_owned(queue, now)

    def delete_owned(self, queue: Queue, now: float) -> None:
        """Delete it whatever is in it, by the broker's own decision."""
        if self.queues.get(queue.name) is queue:
            self.delete_queue(queue, now)

    # --- bindings --------------------------------------------------------------------------------------------------

    def bind(self, source: Exchange, destination: Destination, key: str, arguments: Mapping[str, Any]) -> None:
        """Bind, unless it is bound so already."""
        if source.type == "headers":
            check_headers_binding(arguments)
        most, count = self.compat.most_wildcards, key.split(".").count("#")
        if source.type == "topic" and most is not None and count > most:
            raise Refusal(406, f"Topic binding key '{key}' uses {count} '#' wildcards, at most {most} are allowed")
        identity = _identity(destination, key, arguments)
        if identity in source.bindings:
            return
        binding = Binding(source, destination, key, arguments)
        source.bind(identity, binding)
        _incoming(destination)[binding] = None

    def unbind(self, source: Exchange, destination: Destination, key: str, arguments: Mapping[str, Any]) -> None:
        """Remove the binding, if it is there; an auto-delete exchange goes with its last one."""
        binding = source.unbind(_identity(destination, key, arguments))
        if binding is not None:
            _incoming(destination).pop(binding, None)
            self._after_unbinding(source)

    def _unbind_destination(self, destination: Destination) -> None:
        bindings = list(_incoming(destination))
        _incoming(destination).clear()
        for binding in bindings:
            binding.source.unbind(_identity(destination, binding.key, binding.arguments))
        for binding in bindings:
            self._after_unbinding(binding.source)

    def _after_unbinding(self, source: Exchange) -> None:
        if source.auto_delete and not source.bindings and self.exchanges.get(source.name) is source:
            self.delete_exchange(source.name)

    # --- messages --------------------------------------------------------------------------------------------------

    def route(self, exchange: Exchange, message: Message) -> Sequence[Queue]:
        """The queues that get the message, each once."""
        keys, queues = message.routing_keys, self.queues
        if not exchange.name:
            if len(keys) == 1:
                queue = queues.get(keys[0])
                return () if queue is None else (queue,)
            return [queues[key] for key in sorted(set(keys)) if key in queues]
        found: dict[Queue, None] = {}
        visited = {exchange}
        following = [exchange]
        while following:
            source = following.pop()
            destinations = source.find(keys, message.facts.headers, self.compat.exact_numbers)
            if not destinations:
                alternate = source.arguments.get("alternate-exchange")
                other = self.exchanges.get(alternate) if isinstance(alternate, str) else None
                destinations = () if other is None else (other,)
            for destination in destinations:
                if isinstance(destination, Queue):
                    found[destination] = None
                elif isinstance(destination, Exchange) and destination not in visited:
                    visited.add(destination)
                    if destination.name:
                        following.append(destination)
                    else:
                        found.update((each, None) for each in self.route(destination, message))
        return list(found)

    def bury(self, message: Message, queue: Queue, reason: str, now: float, was_delivered: bool) -> None:
        """Dead-letter a message, or drop it."""
        if queue.options.dead_letter_exchange is None:
            return
        self._dead.append((message, queue, reason, was_delivered))
        if self._is_burying:
            return
        self._is_burying = True
        try:
            while self._dead:
                self._dead_letter(*self._dead.popleft(), now)
        finally:
            self._is_burying = False

    def _dead_letter(self, message: Message, queue: Queue, reason: str, was_delivered: bool, now: float) -> None:
        options = queue.options
        exchange = self.exchanges.get(options.dead_letter_exchange or "")
        if exchange is None:
            return
        dead = dead_message(
            message,
            queue.name,
            reason,
            exchange.name,
            options.dead_letter_routing_key,
            now + self.wall_offset,
            was_delivered,
            self.compat,
        )
        for target in self.route(exchange, dead):
            if reason == "rejected" or not goes_round(dead, target.name):
                target.publish(dead, now)


def _incoming(destination: Destination) -> dict[Binding, None]:
    assert isinstance(destination, (Queue, Exchange))
    return destination.incoming


def _identity(destination: Destination, key: str, arguments: Mapping[str, Any]) -> object:
    kind = "queue" if isinstance(destination, Queue) else "exchange"
    return kind, destination.name, key, repr(sorted(arguments.items()))


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(arguments: Mapping[str, Any], key: str) -> str:
    if key not in arguments:
        return "none"
    value = arguments[key]
    return f"the value '{_word(value)}' of type '{type_name(value)}'"


_LINES = re.compile("[\r\n]")


def without_line_breaks(name: str) -> str:
    """A name as RabbitMQ takes it."""
    return _LINES.sub("", name)
