"""`declare`, `delete`, `bind`, `unbind`, `purge` and `ping`: one request each, and what the broker answered."""

from __future__ import annotations

import argparse
import time
from typing import Any

from rabbitry import Connection, Exchange, NotFound, Queue
from rabbitry._cli.output import FAILED, OK, emit, plural, say
from rabbitry._cli.session import Session
from rabbitry._cli.values import parse_pairs, parse_value


async def declare_queue(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry declare queue`."""
    queue = Queue(
        arguments.name,
        type=arguments.type,
        auto_delete=arguments.auto_delete,
        max_length=arguments.max_length,
        max_length_bytes=arguments.max_length_bytes,
        overflow=arguments.overflow,
        message_ttl=arguments.message_ttl,
        expires=arguments.expires,
        max_age=arguments.max_age,
        dead_letter_exchange=arguments.dead_letter_exchange,
        dead_letter_routing_key=arguments.dead_letter_routing_key,
        single_active_consumer=arguments.single_active_consumer,
        max_priority=arguments.max_priority,
        delivery_limit=arguments.delivery_limit,
        arguments=_arguments(arguments),
    )
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        if not arguments.passive:
            await channel.declare(queue)
        info = await channel.declare_queue(queue.name, passive=True)
    record = {"queue": info.name, "messages": info.message_count, "consumers": info.consumer_count}
    text = f"queue {info.name}: {plural(info.message_count, 'message')}, {plural(info.consumer_count, 'consumer')}"
    emit(record, text, as_line_of_json=arguments.json)
    return OK


async def declare_exchange(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry declare exchange`."""
    exchange = Exchange(
        arguments.name,
        arguments.type,
        durable=not arguments.transient,
        auto_delete=arguments.auto_delete,
        internal=arguments.internal,
        alternate=arguments.alternate,
        arguments=_arguments(arguments),
    )
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        if arguments.passive:
            await channel.declare_exchange(exchange.name, exchange.type, passive=True)
        else:
            await channel.declare(exchange)
    emit({"exchange": exchange.name}, f"exchange {exchange.name}", as_line_of_json=arguments.json)
    return OK


async def delete_queue(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry delete queue`."""
    code = OK
    async with session.connect() as connection:
        for name in arguments.names:
            if not arguments.missing_ok and not await _exists(connection, queue=name):
                code = FAILED
                continue
            async with connection.channel(confirm=False) as channel:
                count = await channel.delete_queue(name, if_unused=arguments.if_unused, if_empty=arguments.if_empty)
            text = f"queue {name} deleted, with {plural(count, 'message')}"
            emit({"queue": name, "messages": count}, text, as_line_of_json=arguments.json)
    return code


async def delete_exchange(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry delete exchange`."""
    code = OK
    async with session.connect() as connection:
        for name in arguments.names:
            if not arguments.missing_ok and not await _exists(connection, exchange=name):
                code = FAILED
                continue
            async with connection.channel(confirm=False) as channel:
                await channel.delete_exchange(name, if_unused=arguments.if_unused)
            emit({"exchange": name}, f"exchange {name} deleted", as_line_of_json=arguments.json)
    return code


async def _exists(connection: Connection, **what: str) -> bool:
    """Whether there is such a queue or exchange; says so if not. AMQP's delete does not tell."""
    ((kind, name),) = what.items()
    async with connection.channel(confirm=False) as channel:
        try:
            if kind == "queue":
                await channel.declare_queue(name, passive=True)
            else:
                await channel.declare_exchange(name, passive=True)
        except NotFound as error:
            say(str(error))
            return False
    return True


async def bind(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry bind`."""
    await _rebind(arguments, session, "bound")
    return OK


async def unbind(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry unbind`."""
    await _rebind(arguments, session, "unbound")
    return OK


async def _rebind(arguments: argparse.Namespace, session: Session, outcome: str) -> None:
    table = _arguments(arguments)
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        operation = {
            ("bound", "queue"): channel.bind_queue,
            ("bound", "exchange"): channel.bind_exchange,
            ("unbound", "queue"): channel.unbind_queue,
            ("unbound", "exchange"): channel.unbind_exchange,
        }[outcome, arguments.kind]
        for key in arguments.routing_key or [""]:
            await operation(arguments.destination, arguments.source, key, arguments=table)
            record = {arguments.kind: arguments.destination, "source": arguments.source, "routing_key": key}
            text = (
                f"{arguments.kind} {arguments.destination} {outcome} "
                f"{'to' if outcome == 'bound' else 'from'} {arguments.source}{f' by {key}' if key else ''}"
            )
            emit(record, text, as_line_of_json=arguments.json)


async def purge(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry purge`."""
    async with session.connect() as connection, connection.channel(confirm=False) as channel:
        for name in arguments.names:
            count = await channel.purge_queue(name)
            text = f"queue {name}: {plural(count, 'message')} dropped"
            emit({"queue": name, "messages": count}, text, as_line_of_json=arguments.json)
    return OK


async def ping(arguments: argparse.Namespace, session: Session) -> int:
    """`rabbitry ping`."""
    began = time.perf_counter()
    async with session.connect() as connection:
        connected = time.perf_counter()
        async with connection.channel(confirm=False):
            answered = time.perf_counter()
        properties = connection.server_properties
    cluster, platform = (str(properties.get(name, "")) for name in ("cluster_name", "platform"))
    record = {
        "product": str(properties.get("product", "")),
        "version": str(properties.get("version", "")),
        "cluster": cluster,
        "platform": platform,
        "connect_ms": round((connected - began) * 1000, 3),
        "round_trip_ms": round((answered - connected) * 1000, 3),
    }
    # the embedded broker tells clients the product and version of what it is like, and here alone what it is
    which = platform if "embedded" in platform else cluster
    who = ", ".join(filter(None, (f"{record['product']} {record['version']}", which)))
    text = f"{who}: connected in {record['connect_ms']:.1f} ms, round trip {record['round_trip_ms']:.1f} ms"
    emit(record, text, as_line_of_json=arguments.json)
    return OK


def _arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    return {key: parse_value(text) for key, text in parse_pairs(arguments.argument, "--argument").items()}
