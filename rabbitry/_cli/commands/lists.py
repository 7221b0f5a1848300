"""`queues`, `exchanges`, `bindings` and `connections`: tables for people, JSON lines for programs."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from rabbitry._cli.operator import advice
from rabbitry._cli.operator.management import Row, open_source
from rabbitry._cli.output import FAILED, OK, USAGE, CommandError, as_json, format_bytes, print_table, printable

LONGEST_WINDOW = 3600.0

Noted = tuple[Row, list[advice.Note]]


def queues(arguments: argparse.Namespace) -> int:
    """`rabbitry queues`."""
    if not 1 <= arguments.window <= LONGEST_WINDOW:
        raise CommandError("--window is 1s to 1h", USAGE)
    source = open_source(arguments)
    rows = source.rows("queues", **advice.query(arguments.window))
    consumers: dict[tuple[str, str], list[Row]] = defaultdict(list)
    if any(row.get("messages_unacknowledged") for row in rows):
        for consumer in source.rows("consumers"):
            queue = consumer.get("queue", {})
            consumers[consumer.get("vhost") or queue.get("vhost"), queue.get("name")].append(consumer)
    noted = [(row, advice.notes(row, consumers[row["vhost"], row["name"]], arguments.window)) for row in _sorted(rows)]
    if arguments.check:
        noted = [(row, found) for row, found in _looked_at(arguments, noted) if found]
    if arguments.json:
        for row, found in noted:
            print(as_json(_queue_record(row) | {"notes": [{"kind": each.kind, "text": each.text} for each in found]}))
    elif noted or not arguments.check:
        _print(
            arguments,
            [row for row, _ in noted],
            {
                "queue": lambda row: row["name"],
                "type": lambda row: row.get("type", "-"),
                "ready": lambda row: _count(row, "messages_ready"),
                "unacked": lambda row: _count(row, "messages_unacknowledged"),
                "consumers": lambda row: _count(row, "consumers"),
                "memory": lambda row: format_bytes(row.get("memory")),
                "state": lambda row: row.get("state", "-"),
            },
            numbers=("ready", "unacked", "consumers", "memory"),
        )
        for row, found in noted:
            for note in found:
                print(printable(f"! {row['name']}: {note.text}"))
    return FAILED if arguments.check and noted else OK


def _looked_at(arguments: argparse.Namespace, noted: Sequence[Noted]) -> Sequence[Noted]:
    """With what shows only where the queues themselves are asked, as samples are too few."""
    names = [_name(row) for row, found in noted if not found and advice.is_unresolved(row, arguments.window)]
    if not names:
        return noted
    from rabbitry._cli import looks  # which imports the client

    counts = looks.look_twice(arguments.url, names, arguments.backend)
    grown = {_name(row): advice.grows(row, counts[_name(row)], looks.PAUSE) for row, _ in noted if _name(row) in counts}
    return [(row, [note] if (note := grown.get(_name(row))) else found) for row, found in noted]


def _name(row: Row) -> tuple[str, str]:
    return row["vhost"], row["name"]


def _queue_record(row: Row) -> dict[str, Any]:
    return {
        "name": row["name"],
        "vhost": row["vhost"],
        "type": row.get("type"),
        "ready": row.get("messages_ready"),
        "unacknowledged": row.get("messages_unacknowledged"),
        "consumers": row.get("consumers"),
        "memory_bytes": row.get("memory"),
        "state": row.get("state"),
        "durable": row.get("durable"),
        "auto_delete": row.get("auto_delete"),
        "exclusive": row.get("exclusive"),
        "arguments": row.get("arguments"),
    }


def exchanges(arguments: argparse.Namespace) -> int:
    """`rabbitry exchanges`."""
    return _list(
        arguments,
        "exchanges",
        ("name", "vhost", "type", "durable", "auto_delete", "internal", "arguments"),
        {
            "exchange": lambda row: row["name"] or "(default)",
            "type": lambda row: row.get("type", "-"),
            "flags": lambda row: ", ".join(name for name in ("durable", "auto_delete", "internal") if row.get(name)),
            "arguments": lambda row: _table(row.get("arguments")),
        },
    )


def bindings(arguments: argparse.Namespace) -> int:
    """`rabbitry bindings`."""
    return _list(
        arguments,
        "bindings",
        ("source", "vhost", "destination", "destination_type", "routing_key", "arguments"),
        {
            "exchange": lambda row: row["source"] or "(default)",
            "routing key": lambda row: row["routing_key"],
            "to": lambda row: f"{row['destination_type']} {row['destination']}",
            "arguments": lambda row: _table(row.get("arguments")),
        },
    )


def connections(arguments: argparse.Namespace) -> int:
    """`rabbitry connections`."""
    return _list(
        arguments,
        "connections",
        (
            "name",
            "vhost",
            "user",
            "peer_host",
            "peer_port",
            "state",
            "channels",
            "ssl",
            "protocol",
            "client_properties",
        ),
        {
            "connection": lambda row: _client(row).get("connection_name") or row["name"],
            "user": lambda row: row.get("user", "-"),
            "from": lambda row: f"{row.get('peer_host', '-')}:{row.get('peer_port', '-')}",
            "state": lambda row: row.get("state", "-"),
            "channels": lambda row: _count(row, "channels"),
            "tls": lambda row: "yes" if row.get("ssl") else "no",
            "client": lambda row: " ".join(str(_client(row).get(key, "")) for key in ("product", "version")).strip(),
        },
        numbers=("channels",),
    )


def _list(
    arguments: argparse.Namespace,
    kind: str,
    names: Sequence[str],
    columns: dict[str, Callable[[Row], str]],
    *,
    numbers: Sequence[str] = (),
) -> int:
    rows = _sorted(open_source(arguments).rows(kind))
    if arguments.json:
        for row in rows:
            print(as_json({name: row.get(name) for name in names}))
    else:
        _print(arguments, rows, columns, numbers=numbers)
    return OK


def _print(
    arguments: argparse.Namespace,
    rows: Sequence[Row],
    columns: dict[str, Callable[[Row], str]],
    *,
    numbers: Sequence[str] = (),
) -> None:
    if arguments.all_vhosts:
        columns = {"vhost": lambda row: row["vhost"], **columns}
    print_table(
        [list(columns), *([str(cell(row)) for cell in columns.values()] for row in rows)],
        numbers=[index for index, name in enumerate(columns) if name in numbers],
    )


def _sorted(rows: Sequence[Row]) -> list[Row]:
    keys = ("vhost", "name", "source", "destination", "routing_key")
    return sorted(rows, key=lambda row: [str(row.get(key, "")) for key in keys])


def _count(row: Row, name: str) -> str:
    value = row.get(name)
    return f"{value:,}" if isinstance(value, int) else "-"


def _table(table: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in table.items()) if isinstance(table, dict) else ""


def _client(row: Row) -> dict[str, Any]:
    properties = row.get("client_properties")
    return properties if isinstance(properties, dict) else {}
