"""Entities over a channel: declaring, deleting, binding, purging, each with RabbitMQ's checks in RabbitMQ's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from rabbitry.broker.exchanges import Destination
from rabbitry.broker.fields import type_name
from rabbitry.broker.names import check_name, generated_name, without_line_breaks
from rabbitry.broker.peer import Peer
from rabbitry.broker.replies import REPLY_TO
from rabbitry.protocol.server.refusals import Refusal
from rabbitry.protocol.wire import methods
from rabbitry.protocol.wire.methods import Method

__all__ = ["DECLARING", "declare"]

_Answer: TypeAlias = tuple[Method, str]
"""The reply, and the queue that was declared last."""


def declare(peer: Peer, last_queue: str, method: Method, now: float) -> _Answer:
    """Carry out one of the methods in `DECLARING`; `last_queue` is what an empty name means. Raises `Refusal`."""
    match method:
        case methods.QueueDeclare():
            return _declare_queue(peer, last_queue, method, now)
        case methods.QueueDelete():
            return _delete_queue(peer, _named(method.queue, last_queue), method, now), last_queue
        case methods.QueuePurge():
            name = _named(method.queue, last_queue)
            peer.check("read", "queue", name)
            queue = peer.vhost.queue(name, peer)
            queue.check_purge(peer.vhost.called("queue", name))
            count = queue.purge() + (queue.purge_dead() if peer.compat.purges_the_dead else 0)
            return methods.QueuePurgeOk(message_count=count), last_queue
        case methods.QueueBind():
            key = _routing_key(method.queue, method.routing_key, last_queue)
            name = _named(method.queue, last_queue)
            _bind(peer, method.exchange, "queue", name, key, method.arguments)
            return methods.QueueBindOk(), last_queue
        case methods.QueueUnbind():
            key = _routing_key(method.queue, method.routing_key, last_queue)
            name = _named(method.queue, last_queue)
            _unbind(peer, method.exchange, "queue", name, key, method.arguments)
            return methods.QueueUnbindOk(), last_queue
        case methods.ExchangeDeclare():
            _declare_exchange(peer, method)
            return methods.ExchangeDeclareOk(), last_queue
        case methods.ExchangeDelete():
            _delete_exchange(peer, method)
            return methods.ExchangeDeleteOk(), last_queue
        case methods.ExchangeBind():
            _bind(peer, method.source, "exchange", method.destination, method.routing_key, method.arguments)
            return methods.ExchangeBindOk(), last_queue
        case methods.ExchangeUnbind():
            _unbind(peer, method.source, "exchange", method.destination, method.routing_key, method.arguments)
            return methods.ExchangeUnbindOk(), last_queue
        case _:
            raise Refusal(503, "unimplemented method")


DECLARING = (
    methods.QueueDeclare,
    methods.QueueDelete,
    methods.QueuePurge,
    methods.QueueBind,
    methods.QueueUnbind,
    methods.ExchangeDeclare,
    methods.ExchangeDelete,
    methods.ExchangeBind,
    methods.ExchangeUnbind,
)
"""The methods that `declare` carries out."""


def _named(name: str, last_queue: str) -> str:
    if name:
        return without_line_breaks(name)
    if not last_queue:
        raise Refusal(404, "no previously declared queue")
    return last_queue


def _routing_key(name: str, key: str, last_queue: str) -> str:
    """An empty key beside an empty name is the name of the queue, too."""
    if name or key:
        return key
    return _named(name, last_queue)


# --- queues ----------------------------------------------------------------------------------------------------------


def _declare_queue(peer: Peer, last_queue: str, method: methods.QueueDeclare, now: float) -> _Answer:
    vhost = peer.vhost
    name = without_line_breaks(method.queue)
    if name.startswith(REPLY_TO):
        if name != REPLY_TO and name not in vhost.replies:
            raise Refusal(404, f"no {vhost.called('queue', name)}")
        return methods.QueueDeclareOk(queue=name, message_count=0, consumer_count=1), name
    if method.passive:
        if peer.compat.checks_passive_declare:
            peer.check("configure", "queue", name)
        queue = vhost.queue(name, peer)
        queue.touch(now)
    else:
        if not name:
            if method.arguments.get("x-queue-type") in ("quorum", "stream"):
                kind = method.arguments["x-queue-type"]
                raise Refusal(406, f"Cannot declare a server-named queue for type rabbit_{kind}_queue")
            name = generated_name("amq.gen")
        else:
            check_name("queue", name)
        peer.check("configure", "queue", name)
        queue = vhost.declare_queue(
            name,
            durable=method.durable and not method.exclusive,  # which would not outlive its connection
            auto_delete=method.auto_delete,
            owner=peer if method.exclusive else None,
            arguments=method.arguments,
            now=now,
            check_new=lambda: _check_dead_letters(peer, name, method.arguments),
        )
    queue.catch_up(now)
    ok = methods.QueueDeclareOk(queue=queue.name, message_count=queue.count, consumer_count=queue.consumer_count)
    return ok, queue.name


def _check_dead_letters(peer: Peer, name: str, arguments: Mapping[str, Any]) -> None:
    key = "x-dead-letter-exchange"
    exchange = arguments.get(key)
    if key not in arguments:
        return
    if not isinstance(exchange, str):
        text = f"invalid type '{type_name(exchange)}' for arg '{key}' in {peer.vhost.called('queue', name)}"
        raise Refusal(406, text)
    peer.check("read", "queue", name)
    peer.check("write", "exchange", exchange)


def _delete_queue(peer: Peer, name: str, method: methods.QueueDelete, now: float) -> Method:
    vhost = peer.vhost
    peer.check("configure", "queue", name)
    if name not in vhost.queues:
        return methods.QueueDeleteOk(message_count=0)
    queue = vhost.queue(name, peer)
    count = vhost.delete_queue(queue, now, if_unused=method.if_unused, if_empty=method.if_empty)
    return methods.QueueDeleteOk(message_count=count)


# --- exchanges -------------------------------------------------------------------------------------------------------


def _check_not_default(name: str) -> None:
    if not name:
        raise Refusal(403, "operation not permitted on the default exchange")


def _declare_exchange(peer: Peer, method: methods.ExchangeDeclare) -> None:
    vhost = peer.vhost
    name = without_line_breaks(method.exchange)
    if method.passive:
        _check_not_default(name)
        vhost.exchange(name)
        return
    vhost.check_type(method.type)
    _check_not_default(name)
    peer.check("configure", "exchange", name)
    if name not in vhost.exchanges:
        check_name("exchange", name)
        key = "alternate-exchange"
        if key in method.arguments:
            alternate = method.arguments[key]
            if not isinstance(alternate, str):
                text = f"invalid type '{type_name(alternate)}' for arg '{key}' in {vhost.called('exchange', name)}"
                raise Refusal(406, text)
            peer.check("read", "exchange", name)
            peer.check("write", "exchange", alternate)
    vhost.declare_exchange(name, method.type, method.durable, method.auto_delete, method.internal, method.arguments)


def _delete_exchange(peer: Peer, method: methods.ExchangeDelete) -> None:
    vhost = peer.vhost
    name = without_line_breaks(method.exchange)
    _check_not_default(name)
    if name.startswith("amq."):
        raise Refusal(403, f"deletion of system {vhost.called('exchange', name)} not allowed")
    peer.check("configure", "exchange", name)
    vhost.delete_exchange(name, method.if_unused)


# --- bindings --------------------------------------------------------------------------------------------------------


def _check_binding(peer: Peer, source: str, kind: str, destination: str) -> None:
    peer.check("write", kind, destination)
    if kind == "exchange":
        _check_not_default(destination)
    _check_not_default(source)
    peer.check("read", "exchange", source)


def _bind(peer: Peer, source: str, kind: str, name: str, key: str, arguments: Mapping[str, Any]) -> None:
    source, name, vhost = without_line_breaks(source), without_line_breaks(name), peer.vhost
    _check_binding(peer, source, kind, name)
    exchange = vhost.exchange(source)
    if kind == "exchange":
        destination: Destination = vhost.exchange(name)
        vhost.check_binding(exchange, key, arguments)
    else:
        if name in vhost.queues:  # whose it is matters last
            vhost.check_binding(exchange, key, arguments)
        destination = vhost.queue(name, peer)
    vhost.bind(exchange, destination, key, arguments)


def _unbind(peer: Peer, source: str, kind: str, name: str, key: str, arguments: Mapping[str, Any]) -> None:
    source, name, vhost = without_line_breaks(source), without_line_breaks(name), peer.vhost
    _check_binding(peer, source, kind, name)
    exchange = vhost.exchanges.get(source)
    destination = (vhost.queues if kind == "queue" else vhost.exchanges).get(name)
    if exchange is None or destination is None or not vhost.is_bound(exchange, destination, key, arguments):
        return
    if kind == "queue":
        vhost.queue(name, peer)  # whose it is matters last
    vhost.unbind(exchange, destination, key, arguments)
