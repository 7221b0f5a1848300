"""Exchanges, queues and bindings as plain values, with RabbitMQ's queue arguments typed, and checked by `arguments`.

What must stay true: a value says the same to the broker each time it is declared, and what some version of RabbitMQ
refuses, crashes on or silently ignores is refused here, with the reason. Values declare nothing themselves:
`channel.declare` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from math import ceil
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from rabbitry._errors import LocalProtocolError
from rabbitry._values.arguments import (
    check_arguments,
    check_exchange_type,
    check_flag,
    check_name,
    check_queue_arguments,
    merged,
    whole,
)
from rabbitry._values.durations import LONGEST_MS, seconds
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.tables import encode_table

__all__ = ["Binding", "Entity", "Exchange", "ExchangeBinding", "Queue", "in_order", "name_of"]

Lock = TypeVar("Lock")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange: "direct", "fanout", "topic", "headers" or a plugin's `type`. What can't be declared anywhere is
    refused as it is made: `TypeError`, `ValueError`.

    `alternate` is the exchange that gets what this one can't route; other `arguments` as RabbitMQ names them.
    """

    name: str
    type: str = "direct"
    _: KW_ONLY
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    alternate: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_name("the name of an exchange", self.name)
        if not self.name:
            raise ValueError('an exchange needs a name: "" is the default exchange, which is always there')
        check_exchange_type(self.type)
        for flag in ("durable", "auto_delete", "internal"):
            check_flag(flag, getattr(self, flag))
        if self.alternate is not None:
            check_name("alternate, the name of an exchange,", self.alternate)
        check_arguments(self.arguments)
        self.declaration().encode()  # refuses what no frame carries, and what is given twice

    def declaration(self) -> methods.ExchangeDeclare:
        """The method that declares the exchange."""
        return methods.ExchangeDeclare(
            exchange=self.name,
            type=self.type,
            durable=self.durable,
            auto_delete=self.auto_delete,
            internal=self.internal,
            arguments=merged(self.arguments, {"alternate-exchange": self.alternate}),
        )

    def deletion(self) -> methods.ExchangeDelete:
        """The method that deletes the exchange."""
        return methods.ExchangeDelete(exchange=self.name)


class ServerName:
    """The name that the broker gave a temporary queue, and the connection's `life` that it is good for; also what tells
    such queues apart. A life is one and the same object for all that happens on one connection.
    """

    __slots__ = ("_life", "_lock", "_locked_in", "name")

    def __init__(self) -> None:
        self.name: str | None = None
        self._life: object = None
        self._lock: Any = None
        self._locked_in: object = None

    def lock(self, life: object, new: Callable[[], Lock]) -> Lock:
        """What to hold while the broker names the queue on this connection: tasks that declare it at once would else
        have a queue each. `new` makes a lock.
        """
        if self._locked_in is not life:
            self._lock, self._locked_in = new(), life
        lock: Lock = self._lock
        return lock

    def is_of(self, life: object) -> bool:
        """Whether the broker has named the queue on this connection: to declare it there again would make another."""
        return self._life is life and life is not None

    def keep(self, name: str, life: object) -> None:
        """Keep what the broker answered on this connection."""
        self.name, self._life = name, life


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. `ValueError` for a combination that RabbitMQ refuses, now or in its newest versions.

    `type`: "classic"; "quorum", replicated, durable, redelivers a message `delivery_limit` times at most; "stream",
    a log that keeps what was read, for as long as `max_age` and `max_length_bytes` say.
    `max_length` (messages) and `max_length_bytes` (of bodies): beyond them `overflow` says what happens, "drop-head"
    (the default), "reject-publish" or "reject-publish-dlx" (which a quorum queue does not know).
    `message_ttl` and `expires` (seconds or timedelta, to the millisecond, up to 49 days): how long a message waits, and
    how long the queue lives unused. `dead_letter_exchange` ("" is the default exchange) gets what is rejected or
    expired, under `dead_letter_routing_key` if that is given.
    `single_active_consumer`: one consumer at a time gets messages. `max_priority` (1 to 255; classic only; RabbitMQ
    advises at most 10). `arguments` are any others, as RabbitMQ names them. `transient`: not durable though shared, as
    other programs may have declared it: RabbitMQ 3 has such queues, which go with its restart; RabbitMQ 4 deprecates
    them.

    Of quorum queues, from RabbitMQ 4.3 on: `delayed_retry` says what comes again only after a while, "failed" (rejected
    with requeue, or its consumer was lost), "returned" (nacked with requeue) or "all", and "disabled" that a policy is
    not to; after `delayed_retry_min` (seconds or timedelta, to the millisecond) × the deliveries that failed, at most
    `delayed_retry_max` (the same as `delayed_retry_min` unless given). `consumer_timeout` (seconds or timedelta): what
    a consumer has not settled by then is delivered again. 3.10 and 4.0 take all four and silently ignore the first
    three; of `consumer_timeout` 3.10 knows nothing, 3.12 to 4.2 close the channel of who takes longer. Priorities of a
    quorum queue need no argument: 4.3 delivers by the priority of messages, 0 to 31 (4 unless given), 4.0 to 4.2 know
    two levels, up to 4 and above, and 3.10 none. Once declared, 4.3 refuses these arguments with other values; older
    ones do not compare them.
    """

    name: str
    _: KW_ONLY
    type: Literal["classic", "quorum", "stream"] = "classic"
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: Literal["drop-head", "reject-publish", "reject-publish-dlx"] | None = None
    message_ttl: float | timedelta | None = None
    expires: float | timedelta | None = None
    dead_letter_exchange: str | None = None
    dead_letter_routing_key: str | None = None
    single_active_consumer: bool = False
    max_priority: int | None = None
    delivery_limit: int | None = None
    max_age: float | timedelta | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    transient: bool = False
    delayed_retry: Literal["failed", "returned", "all", "disabled"] | None = None
    delayed_retry_min: float | timedelta | None = None
    delayed_retry_max: float | timedelta | None = None
    consumer_timeout: float | timedelta | None = None
    _server: ServerName | None = field(default=None, init=False, repr=False)

    @classmethod
    def temporary(cls, **options: Any) -> Queue:
        """A queue for this connection alone, which goes with it and whose name the broker chooses: another one in each
        life of a client. `current_name` is what it is called now. `options` are those of a queue.

        Each is a queue of its own, and belongs to one client or connection.
        """
        queue = cls("temporary", **{"durable": False, "exclusive": True, **options})  # is what its options make it
        if queue.declaration().arguments.get("x-queue-type", "classic") != "classic":
            raise ValueError("only a classic queue can be temporary: RabbitMQ chooses no names for others")
        object.__setattr__(queue, "name", "")
        object.__setattr__(queue, "_server", ServerName())
        return queue

    @property
    def current_name(self) -> str:
        """The name that the broker knows the queue by. `LocalProtocolError` for a temporary one not declared yet."""
        if self._server is None:
            return self.name
        if self._server.name is None:
            raise LocalProtocolError("a temporary queue has no name before it is declared")
        return self._server.name

    @property
    def is_temporary(self) -> bool:
        """Whether the broker chooses the queue's name."""
        return self._server is not None

    def __post_init__(self) -> None:
        check_name("the name of a queue", self.name)
        if not self.name:
            raise ValueError("a queue needs a name: Queue.temporary() is one whose name the broker chooses")
        for flag in ("durable", "exclusive", "auto_delete", "single_active_consumer", "transient"):
            check_flag(flag, getattr(self, flag))
        if not isinstance(self.type, str) or self.type not in _UNSUITABLE:
            raise ValueError(f"a queue's type is {', '.join(_UNSUITABLE)}, not {self.type!r}")
        if self.type != "classic" and (not self.durable or self.exclusive or self.auto_delete):
            raise ValueError(f"a {self.type} queue is durable, and neither exclusive nor auto_delete")
        if self.transient:
            if self.exclusive or self.type != "classic":
                raise ValueError("a transient queue is neither exclusive nor quorum nor a stream")
            object.__setattr__(self, "durable", False)
        elif not self.durable and not self.exclusive:
            raise ValueError(
                "RabbitMQ 4 deprecates queues that are neither durable nor exclusive, and is to deny them: make it "
                "durable, with expires= if it should go by itself, or exclusive if only this connection uses it, or "
                "transient=True where other programs declare it so"
            )
        for name in _UNSUITABLE[self.type]:
            if getattr(self, name) not in (None, False):
                raise ValueError(f"{name} does nothing for a {self.type} queue")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            object.__setattr__(self, name, whole(value, name, least, most))
        if self.overflow not in _OVERFLOWS:
            raise ValueError(f"overflow is {', '.join(map(str, _OVERFLOWS[1:]))}, not {self.overflow!r}")
        if self.dead_letter_exchange is not None:
            check_name("dead_letter_exchange, the name of an exchange,", self.dead_letter_exchange)
        if self.dead_letter_routing_key is not None:
            check_name("dead_letter_routing_key", self.dead_letter_routing_key)
        if self.dead_letter_routing_key is not None and self.dead_letter_exchange is None:
            raise ValueError("dead_letter_routing_key needs a dead_letter_exchange")
        self._check_delayed_retry()
        check_arguments(self.arguments)
        declared = self.declaration()  # refuses times out of range, and what is given twice
        check_queue_arguments(declared.arguments)
        declared.encode()  # refuses what no frame carries

    def _check_delayed_retry(self) -> None:
        """Refuse what RabbitMQ 4.3 takes for none, without a word."""
        if self.delayed_retry not in _DELAYED_RETRIES:
            raise ValueError(
                f"delayed_retry is {', '.join(map(str, _DELAYED_RETRIES[1:]))}, not {self.delayed_retry!r}"
            )
        least, most = self.delayed_retry_min, self.delayed_retry_max
        if self.delayed_retry in (None, "disabled"):
            if least is not None or most is not None:
                raise ValueError("delayed_retry_min and delayed_retry_max need delayed_retry, which says of what")
        elif least is None:
            raise ValueError("delayed_retry needs delayed_retry_min, the seconds of the first pause")
        elif most is not None and seconds(most, "delayed_retry_max") < seconds(least, "delayed_retry_min"):
            raise ValueError("delayed_retry_max is less than delayed_retry_min")

    def declaration(self) -> methods.QueueDeclare:
        """The method that declares the queue."""
        typed = {
            "x-queue-type": None if self.type == "classic" else self.type,
            "x-max-length": self.max_length,
            "x-max-length-bytes": self.max_length_bytes,
            "x-overflow": self.overflow,
            "x-message-ttl": _milliseconds("message_ttl", self.message_ttl, 0),
            "x-expires": _milliseconds("expires", self.expires, 1),
            "x-dead-letter-exchange": self.dead_letter_exchange,
            "x-dead-letter-routing-key": self.dead_letter_routing_key,
            "x-single-active-consumer": self.single_active_consumer or None,
            "x-max-priority": self.max_priority,
            "x-delivery-limit": self.delivery_limit,
            "x-max-age": _age(self.max_age),
            "x-delayed-retry-type": self.delayed_retry,
            "x-delayed-retry-min": _milliseconds("delayed_retry_min", self.delayed_retry_min, 1),
            "x-delayed-retry-max": _milliseconds("delayed_retry_max", self.delayed_retry_max, 1),
            "x-consumer-timeout": _milliseconds("consumer_timeout", self.consumer_timeout, 1),
        }
        return methods.QueueDeclare(
            queue=self.name,
            durable=self.durable,
            exclusive=self.exclusive,
            auto_delete=self.auto_delete,
            arguments=merged(self.arguments, typed),
        )

    def deletion(self) -> methods.QueueDelete:
        """The method that deletes the queue."""
        return methods.QueueDelete(queue=self.current_name)


@dataclass(frozen=True, slots=True)
class Binding:
    """Has `exchange` route what matches `routing_key`, or for a headers exchange `arguments`, to `queue`.

    To RabbitMQ the size of an integer in `arguments` is part of what the binding is: 32 bits where they hold it, here,
    else 64. Declared here beside another client's of another size, it is a second one; deleted here, both are.
    """

    queue: str | Queue
    exchange: str | Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_end("a binding's queue", self.queue, Queue, "an exchange is bound by ExchangeBinding")
        _check_end("a binding's exchange", self.exchange, Exchange, "it is Binding(queue, exchange)")
        _check_way(self.routing_key, self.arguments)

    def declaration(self) -> methods.QueueBind:
        """The method that makes the binding."""
        return methods.QueueBind(
            queue=name_of(self.queue),
            exchange=name_of(self.exchange),
            routing_key=self.routing_key,
            arguments=dict(self.arguments),
        )

    def deletion(self) -> methods.QueueUnbind:
        """The method that removes the binding."""
        return methods.QueueUnbind(
            queue=name_of(self.queue),
            exchange=name_of(self.exchange),
            routing_key=self.routing_key,
            arguments=dict(self.arguments),
        )


@dataclass(frozen=True, slots=True)
class ExchangeBinding:
    """Has the exchange `source` route what matches to the exchange `destination`."""

    destination: str | Exchange
    source: str | Exchange
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check_end("a binding's destination", self.destination, Exchange, "a queue is bound by Binding")
        _check_end("a binding's source", self.source, Exchange, "a queue is bound by Binding")
        _check_way(self.routing_key, self.arguments)

    def declaration(self) -> methods.ExchangeBind:
        """The method that makes the binding."""
        return methods.ExchangeBind(
            destination=name_of(self.destination),
            source=name_of(self.source),
            routing_key=self.routing_key,
            arguments=dict(self.arguments),
        )

    def deletion(self) -> methods.ExchangeUnbind:
        """The method that removes the binding."""
        return methods.ExchangeUnbind(
            destination=name_of(self.destination),
            source=name_of(self.source),
            routing_key=self.routing_key,
            arguments=dict(self.arguments),
        )


def _check_end(what: str, end: object, kind: type[Queue | Exchange], hint: str) -> None:
    """Refuse what is neither a name nor such an entity. "" would be the queue declared last, whichever that is then, or
    the default exchange, which takes no bindings.
    """
    if isinstance(end, kind):
        return
    if not isinstance(end, str):
        why = f": {hint}" if isinstance(end, Queue | Exchange) else ""
        raise TypeError(f"{what} is its name, or the {kind.__name__} itself, not {end!r:.100}{why}")
    check_name(what, end)
    if not end:
        raise ValueError(f'{what} needs a name, which "" is not')


def _check_way(routing_key: object, arguments: object) -> None:
    check_name("a routing key", routing_key)
    check_arguments(arguments)
    encode_table(cast(Mapping[str, Any], arguments))  # refuses what no frame carries


Entity: TypeAlias = Exchange | Queue | ExchangeBinding | Binding


def server_name_of(queue: Queue) -> ServerName | None:
    """Where a temporary queue keeps the name that the broker chose; None of any other queue."""
    return queue._server


def is_another(former: Exchange | Queue, entity: Exchange | Queue) -> bool:
    """Whether the broker can't have taken one declaration for the other of the same name. It compares what follows here
    alone: two that differ in other arguments are the same to it.
    """
    return _compared(former) != _compared(entity)


def _compared(entity: Exchange | Queue) -> tuple[object, ...]:
    method = entity.declaration()
    arguments = {name: value for name, value in method.arguments.items() if name in _COMPARED and value}
    if arguments.get("x-queue-type") == "classic":
        del arguments["x-queue-type"]
    if isinstance(method, methods.QueueDeclare):
        return (method.durable, method.exclusive, method.auto_delete, arguments)
    return (method.type, method.durable, method.auto_delete, method.internal, arguments)


_COMPARED = {
    "alternate-exchange",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-queue-type",
    "x-single-active-consumer",
}
"""Arguments that every RabbitMQ compares as an entity is declared again (`rabbit_amqqueue:assert_args_equivalence`)."""


def in_order(entities: Iterable[Entity], verb: str = "declare") -> list[Entity]:
    """The entities in the order to declare them, as some refer to others: exchanges, queues, bindings. `TypeError` for
    what is none, with what `verb` takes.
    """
    order = get_args(Entity)
    for entity in entities:
        if type(entity) not in order:
            hint = f": say which, Queue({entity!r}) or Exchange({entity!r})" if isinstance(entity, str) else ""
            raise TypeError(f"{verb} takes {', '.join(kind.__name__ for kind in order)}, not {entity!r}{hint}")
    return sorted(entities, key=lambda entity: order.index(type(entity)))


def name_of(entity: str | Queue | Exchange, kind: type[Queue | Exchange] | None = None) -> str:
    """The name that the broker knows a queue or exchange by; text is itself. `TypeError` for what has none, and where
    `kind` says which it must be, for the other, of which there may be one of that name.
    """
    if isinstance(entity, str):
        return entity
    if isinstance(entity, kind or Queue | Exchange):
        return entity.current_name if isinstance(entity, Queue) else entity.name
    expected = f"the {kind.__name__} itself" if kind is not None else "that of a Queue or an Exchange"
    raise TypeError(f"a name is text, or {expected}; not {entity!r:.200}")


_OF_QUORUM = ("delayed_retry", "delayed_retry_min", "delayed_retry_max", "consumer_timeout")

# https://www.rabbitmq.com/docs/quorum-queues#feature-comparison, https://www.rabbitmq.com/docs/streams#feature-comparison
_UNSUITABLE: dict[str, tuple[str, ...]] = {
    "classic": ("delivery_limit", "max_age", *_OF_QUORUM),
    "quorum": ("max_priority", "max_age"),
    "stream": (
        *("max_length", "overflow", "message_ttl", "expires", "dead_letter_exchange", "dead_letter_routing_key"),
        *("single_active_consumer", "max_priority", "delivery_limit", *_OF_QUORUM),
    ),
}

_DELAYED_RETRIES = (None, "failed", "returned", "all", "disabled")

_OVERFLOWS = (None, "drop-head", "reject-publish", "reject-publish-dlx")

_RANGES = {
    "max_length": (0, 2**63 - 1),
    "max_length_bytes": (0, 2**63 - 1),
    "max_priority": (1, 255),
    "delivery_limit": (-1, 2**63 - 1),  # -1 is RabbitMQ 4's "no limit"
}


def _age(duration: float | timedelta | None) -> str | None:
    if duration is None:
        return None
    value = ceil(seconds(duration, "max_age"))
    if value < 1:  # RabbitMQ's channel crashes over a negative one
        raise ValueError(f"max_age must be positive, not {duration}")
    return f"{value}s"


def _milliseconds(name: str, duration: float | timedelta | None, least: int) -> int | None:
    if duration is None:
        return None
    value = ceil(seconds(duration, name) * 1000)
    if not least <= value <= LONGEST_MS:
        raise ValueError(f"{name} is {least} to {LONGEST_MS:,} ms, not {value:,}")
    return value
