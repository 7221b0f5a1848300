"""A virtual host: its exchanges and queues by name, how they are bound, declared again and deleted, and how messages
get from one to the other.

What must stay true: what is declared again is equal or refused with RabbitMQ's words; what is deleted leaves no
binding. Checks permissions nowhere: who asks has been checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rabbitry.broker.arguments import compared_arguments, queue_options, with_plain_age
from rabbitry.broker.burials import Burials
from rabbitry.broker.compat import Compat
from rabbitry.broker.equivalence import check_equal, check_equal_arguments
from rabbitry.broker.exchanges import TYPES, Binding, Destination, Exchange, check_headers_binding
from rabbitry.broker.messages import Message
from rabbitry.broker.names import called
from rabbitry.broker.queues import Queue
from rabbitry.broker.replies import ReplyAddresses
from rabbitry.broker.routing import route
from rabbitry.broker.streams import Stream
from rabbitry.broker.timers import Timers
from rabbitry.protocol.server.refusals import Refusal

__all__ = ["VirtualHost"]

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


class VirtualHost:
    """One world of names."""

    def __init__(self, name: str, compat: Compat, timers: Timers) -> None:
        self.name = name
        self.compat = compat
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {
            name: Exchange(name, type, internal=name == "amq.rabbitmq.trace") for name, type in _PREDECLARED.items()
        }
        self.replies: ReplyAddresses = ReplyAddresses(compat)
        self._timers = timers
        self.burials: Burials = Burials(self.queues, self.exchanges, self.route, compat, timers)

    # --- names -----------------------------------------------------------------------------------------------------

    def called(self, kind: str, name: str) -> str:
        """An entity in RabbitMQ's words."""
        return called(kind, name, self.name)

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
        check_equal(resource, "type", found.type, type)
        check_equal(resource, "durable", found.durable, durable)
        check_equal(resource, "auto_delete", found.auto_delete, auto_delete)
        check_equal(resource, "internal", found.internal, internal)
        check_equal_arguments(resource, found.arguments, arguments, ("alternate-exchange",))

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
        options = queue_options(resource, arguments, self.compat)
        if options.kind != "classic":
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
        fields: dict[str, Any] = {
            "bury": self.burials.bury,
            "timers": self._timers,
            "now": now,
            "durable": durable,
            "auto_delete": auto_delete,
            "owner": owner,
            "arguments": arguments,
            "requeues_behind": self.compat.requeues_behind,
            "succession": self.compat.succession,
            "on_unused": self._delete_unused,
        }
        if options.kind == "stream":
            queue: Queue = Stream(name, options, compat=self.compat, **fields)
        else:
            queue = Queue(name, options, **fields)
        self.queues[name] = queue
        return queue

    def _check_equal_queue(
        self, found: Queue, durable: bool, auto_delete: bool, owner: object, arguments: Mapping[str, Any]
    ) -> None:
        if found.owner is not owner:
            raise self._locked(found)
        resource = self.called("queue", found.name)
        check_equal(resource, "durable", found.durable, durable)
        check_equal(resource, "auto_delete", found.auto_delete, auto_delete)
        current, received = found.arguments, arguments
        if self.compat.compares_ages:
            current, received = with_plain_age(current), with_plain_age(received)
        check_equal_arguments(
            resource,
            current,
            received,
            compared_arguments(found.kind, self.compat),
            default_queue_type=self.compat.default_queue_type,
        )

    def delete_queue(self, queue: Queue, now: float, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete it; how many messages were ready. Its consumers are told."""
        resource = self.called("queue", queue.name)
        queue.check_delete(resource, if_unused=if_unused, if_empty=if_empty)
        del self.queues[queue.name]
        self._unbind_destination(queue)
        ready = queue.purge()
        queue.purge_dead()
        for consumer in queue.drop_consumers():
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

    def check_binding(self, source: Exchange, key: str, arguments: Mapping[str, Any]) -> None:
        """Raise the `Refusal` of a binding that its exchange can't have."""
        if source.type == "headers":
            check_headers_binding(arguments)
        most, count = self.compat.most_wildcards, key.split(".").count("#")
        if source.type == "topic" and most is not None and count > most:
            raise Refusal(406, f"Topic binding key '{key}' uses {count} '#' wildcards, at most {most} are allowed")

    def bind(self, source: Exchange, destination: Destination, key: str, arguments: Mapping[str, Any]) -> None:
        """Bind, unless it is bound so already. It has been checked."""
        identity = _identity(destination, key, arguments)
        if identity in source.bindings:
            return
        binding = Binding(source, destination, key, arguments)
        source.bind(identity, binding)
        _incoming(destination)[binding] = None

    def is_bound(self, source: Exchange, destination: Destination, key: str, arguments: Mapping[str, Any]) -> bool:
        """Whether there is this binding."""
        return _identity(destination, key, arguments) in source.bindings

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
        keys = message.routing_keys
        if not exchange.name and len(keys) == 1:  # hot: most messages go to a queue by its name
            queue = self.queues.get(keys[0])
            return () if queue is None else (queue,)
        return route(exchange, message, self.queues, self.exchanges, exact_numbers=self.compat.exact_numbers)


def _incoming(destination: Destination) -> dict[Binding, None]:
    assert isinstance(destination, (Queue, Exchange))
    return destination.incoming


def _identity(destination: Destination, key: str, arguments: Mapping[str, Any]) -> object:
    kind = "queue" if isinstance(destination, Queue) else "exchange"
    return kind, destination.name, key, repr(sorted(arguments.items()))
