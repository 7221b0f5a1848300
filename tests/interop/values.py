"""What is sent between rabbitry and its peers, and the table of what each peer changes or can't express.

What must stay true: each line of it is tested, so one that is no longer true fails. It tells what peers do: rabbitry
reads every type that any of them writes, and its own values arrive in the types it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

__all__ = ["ADDED", "ANY", "DIFFERENCES", "LETTERS", "PROPERTIES", "SAME", "VALUES", "Added", "Difference", "Fails"]

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

VALUES: dict[str, Any] = {
    "true": True,
    "false": False,
    "0": 0,
    "8 bits": 127,
    "-8 bits": -128,
    "8 bits unsigned": 255,
    "16 bits": 32767,
    "-16 bits": -32768,
    "16 bits unsigned": 65535,
    "32 bits": 2**31 - 1,
    "-32 bits": -(2**31),
    "32 bits unsigned": 2**32 - 1,
    "53 bits": 2**53 - 1,
    "54 bits": 2**53 + 1,
    "64 bits": 2**63 - 1,
    "-64 bits": -(2**63),
    "1.5": 1.5,
    "0.1": 0.1,
    "2.0": 2.0,
    "-0.0": -0.0,
    "1e300": 1e300,
    "decimal": Decimal("1.25"),
    "decimal, negative": Decimal("-1.25"),
    "decimal ending in 0": Decimal("1.50"),
    "decimal, whole": Decimal("100"),
    "time": NOON,
    "time 0": datetime(1970, 1, 1, tzinfo=UTC),
    "time before 1970": datetime(1969, 12, 31, tzinfo=UTC),
    "time after 2106": datetime(2200, 1, 1, tzinfo=UTC),
    "no text": "",
    "text": "ž€😀",
    "70 kB of text": "x" * 70_000,
    "no bytes": b"",
    "bytes": b"\x00\xff",
    "bytes of text": b"text",
    "None": None,
    "empty table": {},
    "nested tables": {"a": {"b": {"c": 1}}},
    "empty array": [],
    "nested arrays": [1, "a", None, [True]],
    "table in an array": [{"a": ["b"]}],
}
"""The values of a header, by the names that `DIFFERENCES` uses."""

PROPERTIES: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "identity",
    "headers": {"a": "b"},
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "a correlation id",
    "reply_to": "a.queue",
    "expiration": "60000",
    "message_id": "a message id",
    "timestamp": NOON,
    "type": "a type",
    "user_id": "guest",
    "app_id": "an application",
    "cluster_id": "a cluster",
}
"""All fourteen, with values that RabbitMQ lets through: of `user_id`, only the connection's own."""

FLOATS = ("1.5", "0.1", "2.0", "-0.0", "1e300")
DECIMALS = ("decimal", "decimal, negative", "decimal ending in 0", "decimal, whole")
TIMES = ("time", "time 0", "time before 1970", "time after 2106")
BYTES = ("no bytes", "bytes", "bytes of text")


class _Same:
    def __repr__(self) -> str:
        return "SAME"


class _Any:
    def __repr__(self) -> str:
        return "ANY"

    def __eq__(self, other: object) -> bool:
        return other is not None

    __hash__ = None  # type: ignore[assignment]


SAME: Any = _Same()
ANY: Any = _Any()
"""Equal to whatever there is: the peer makes it up."""


@dataclass(frozen=True)
class Fails:
    """The peer's library raises this; with None it never answers."""

    error: str | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What becomes of a value or property of rabbitry's that the peer `reads`, and of one that it `writes`."""

    reads: Any = SAME
    writes: Any = SAME
    why: str


@dataclass(frozen=True, kw_only=True)
class Added:
    """What a message has at the other end that was given no properties: `read` by the peer, or `written` by it."""

    read: dict[str, Any]
    written: dict[str, Any]
    why: str


def _each(names: Iterable[str], why: str, **ends: Any) -> dict[str, Difference]:
    """The same for several values; a function as an end takes the value."""
    return {
        name: Difference(**{key: end(VALUES[name]) if callable(end) else end for key, end in ends.items()}, why=why)
        for name in names
    }


# --- the table ------------------------------------------------------------------------------------------------------

_UNSIGNED_TIME = "it takes a timestamp's 64 bits as unsigned"


def _unsigned_number(time: datetime) -> int:
    """What becomes of a signed 64-bit integer that JavaScript reads as unsigned, into a number of 53 bits."""
    return int(float(int(time.timestamp()) % 2**64))


_PAMQP = {
    "0.1": Difference(writes=0.10000000149011612, why="pamqp writes every float in 32 bits"),
    "1e300": Difference(writes=Fails("OverflowError"), why="pamqp writes every float in 32 bits"),
    "time after 2106": Difference(
        reads=datetime(1970, 3, 26, 0, 8, 38, 400_000, tzinfo=UTC),
        why="pamqp takes seconds that 32 bits do not hold as milliseconds",
    ),
    **_each(BYTES, "pamqp writes bytearray only", writes=Fails("TypeError")),
}
"""Of pamqp, which aiormq and so aio-pika encode with, and AMQPStorm."""

_JAVASCRIPT = {
    "54 bits": Difference(reads=2**53, why="a number in JavaScript has 53 bits"),
    "64 bits": Difference(reads=2**63, why="a number in JavaScript has 53 bits"),
    "2.0": Difference(reads=2, writes=2, why="a number without a fraction is an integer"),
    "-0.0": Difference(writes=0, why="a number without a fraction is an integer"),
}

DIFFERENCES: dict[str, dict[str, Difference]] = {
    "pika": {
        **_each(
            FLOATS,
            "pika cuts fractions off, and writes no floats",
            reads=int,
            writes=Fails("UnsupportedAMQPFieldException"),
        ),
        "decimal ending in 0": Difference(writes=Decimal("1.5"), why="pika normalizes decimals"),
        "time before 1970": Difference(
            reads=Fails("StreamLostError"), writes=Fails("error"), why=f"{_UNSIGNED_TIME}: the connection ends"
        ),
    },
    "aio_pika": {
        **_PAMQP,
        "time before 1970": Difference(
            reads=Fails("InvalidFrameError"), writes=Fails("error"), why=f"{_UNSIGNED_TIME}: the channel ends"
        ),
        "cluster_id": Difference(writes=Fails("TypeError"), why="aio-pika's Message has no such property"),
    },
    "aiormq": {
        **_PAMQP,
        "time before 1970": Difference(
            reads=Fails("InvalidFrameError"), writes=Fails("error"), why=f"{_UNSIGNED_TIME}: the channel ends"
        ),
        "cluster_id": Difference(writes=Fails("ValueError"), why="pamqp writes only an empty one"),
    },
    "amqpstorm": {
        **_PAMQP,
        "time before 1970": Difference(
            reads=Fails(None), writes=Fails("error"), why=f"{_UNSIGNED_TIME}: the connection hangs"
        ),
        "cluster_id": Difference(writes=Fails("ValueError"), why="pamqp writes only an empty one"),
    },
    "kombu": {
        "decimal ending in 0": Difference(reads=Decimal("1.5"), why="py-amqp divides by a power of ten"),
        **_each(TIMES, "py-amqp's times have no zone", reads=lambda time: time.replace(tzinfo=None)),
        "time before 1970": Difference(
            reads=Fails("OverflowError"),
            writes=Fails("error"),
            why=f"{_UNSIGNED_TIME}, and loses its place in the stream",
        ),
        **_each(BYTES, "py-amqp writes bytes as text", writes=lambda value: value.decode("utf-8", "surrogateescape")),
    },
    "amqplib": {
        **_JAVASCRIPT,
        "decimal, negative": Difference(
            reads=Decimal("42949671.71"), writes=Fails("RangeError"), why="amqplib takes a decimal's digits as unsigned"
        ),
        "time before 1970": Difference(
            reads=_unsigned_number(VALUES["time before 1970"]), writes=Fails("RangeError"), why=_UNSIGNED_TIME
        ),
        "70 kB of text": Difference(writes=Fails("RangeError"), why="amqplib writes tables of at most 64 KiB"),
        "cluster_id": Difference(writes=None, why="amqplib leaves it out unasked"),
    },
    "rabbitmq_client": {
        **_JAVASCRIPT,
        **{
            name: Difference(writes={"scale": scale, "value": digits}, why="rabbitmq-client writes no decimals")
            for name, (scale, digits) in zip(DECIMALS, ((2, 125), (2, -125), (2, 150), (0, 100)), strict=True)
        },
        **_each(
            TIMES,
            "rabbitmq-client reads times in tables as numbers, of 53 bits, and writes a Date as an empty table",
            reads=_unsigned_number,
            writes={},
        ),
        **_each(
            BYTES,
            "rabbitmq-client writes a Buffer as a table of its octets",
            writes=lambda value: {str(index): octet for index, octet in enumerate(value)},
        ),
        "70 kB of text": Difference(
            writes=Fails("AMQPChannelError"), why="rabbitmq-client has a table in one frame, by default of 8 KiB"
        ),
    },
}
"""By peer, and by the name of a value or a property: what is not here arrives unchanged, both ways."""

_OF_PAMQP = {"cluster_id": ""}

ADDED: dict[str, Added] = {
    "pika": Added(read={}, written={}, why="pika adds nothing"),
    "aio_pika": Added(
        read={"headers": {}, "delivery_mode": 1, "priority": 0} | _OF_PAMQP,
        written={"headers": {}, "delivery_mode": 1, "priority": 0, "message_id": ANY},
        why="aio-pika's Message has defaults, incoming ones as well; a publish with confirms gets an id",
    ),
    "aiormq": Added(read=_OF_PAMQP, written={"message_id": ANY}, why="a publish gets an id"),
    "amqpstorm": Added(read=_OF_PAMQP, written={"content_encoding": "utf-8"}, why="AMQPStorm says so of bytes, too"),
    "kombu": Added(
        read={},
        written={
            "content_type": "application/data",
            "content_encoding": "binary",
            "headers": {},
            "delivery_mode": 2,
            "priority": 0,
        },
        why="kombu describes bytes as such",
    ),
    "amqplib": Added(read={}, written={"headers": {}}, why="amqplib always sends headers"),
    "rabbitmq_client": Added(
        read={},
        written={"delivery_mode": 1, "timestamp": ANY},
        why="rabbitmq-client sends the time, and durable or not",
    ),
}

LETTERS: dict[str, str] = {
    "pika": "ADFISTVltx",
    "aio_pika": "ADFISTVbfilstu",
    "aiormq": "ADFISTVbfilstu",
    "amqpstorm": "ADFISTVbfilstu",
    "kombu": "ADFILSTVdt",
    "amqplib": "ABDFISTVbdfilstux",
    "rabbitmq_client": "AFISVbdlst",
}
"""The types, by their letters, that each peer writes for `VALUES`; amqplib also those that one has to ask it for."""
