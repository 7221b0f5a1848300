"""What can be checked of numbers, names, a declaration's arguments and a stream's offset before RabbitMQ sees them.

RabbitMQ answers most that is wrong by closing the channel, with a reason. Some of it crashes the channel's process, and
that takes the connection along without a reason (541); some it ignores. What must stay true: what a RabbitMQ or one of
its plugins may accept is not refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from rabbitry.protocol.wire.tables import SIZED_INTS, encode_shortstr, encode_table

__all__ = [
    "as_others_write_them",
    "check_arguments",
    "check_exchange_type",
    "check_flag",
    "check_name",
    "check_offset",
    "check_queue_arguments",
    "merged",
    "stream_filter",
    "table_of",
    "whole",
]

_INTERVAL = r"[0-9]{1,18}[YMDhms]"
"""What RabbitMQ reads as a time span (`rabbit_amqqueue:check_max_age`); over "-5s" its channel crashes."""

_COUNTS = ("x-max-length", "x-max-length-bytes", "x-message-ttl", "x-expires", "x-max-priority")

_LONGEST_AGO = timedelta(days=36525)
"""A century: dates begin not much before, for RabbitMQ as for Python."""

_NAMES = ("x-dead-letter-exchange", "x-dead-letter-routing-key")
"""What goes into a frame as a name, once a message is dead-lettered: too long a one is not refused before."""


def whole(value: int, name: str, least: int | None = None, most: int | None = None) -> int:
    """The number as an `int`. `TypeError` for what is none, True and False included; `ValueError` for one that is not
    from `least` to `most`.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, not {value!r}")
    number: int = value.__index__()
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = f"at least {least:,}" if most is None else f"{least:,} to {most:,}"
        raise ValueError(f"{name} must be {bounds}, not {number:,}")
    return number


def check_name(what: str, name: object) -> None:
    """Refuse what is no text, and text that no frame carries as a name."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is text, not {name!r:.200}")
    try:
        encode_shortstr(name, "strict")
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def check_arguments(arguments: object) -> None:
    """Refuse what is no table of names and values."""
    if not isinstance(arguments, Mapping):
        raise TypeError(f"arguments are a mapping of names to values, not {arguments!r:.200}")


def table_of(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments, none unless given, as a table of their own; `TypeError` for what is none."""
    if arguments is None:
        return {}
    check_arguments(arguments)
    return dict(arguments)


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False: "no" would be taken for yes."""
    if value is not True and value is not False:
        raise TypeError(f"{name} is True or False, not {value!r:.200}")


def check_exchange_type(type: object) -> None:
    """Refuse what no plugin can have named. Which types there are, the broker alone knows: it closes the connection
    (503; the channel from 3.13 on) over one that it does not.
    """
    check_name("an exchange's type", type)
    if not type:
        raise ValueError('an exchange needs a type: "direct", "fanout", "topic", "headers", or a plugin\'s')


def check_queue_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse queue arguments that RabbitMQ crashes on, or silently takes for others."""
    check_arguments(arguments)
    for name in _COUNTS:
        if arguments.get(name) is not None:
            whole(arguments[name], name, 0)
    if arguments.get("x-delivery-limit") is not None:  # of whose type RabbitMQ 3 asks nothing; -1 is no limit for 4
        whole(arguments["x-delivery-limit"], "x-delivery-limit")
    for name in _NAMES:
        if arguments.get(name) is not None:
            check_name(name, arguments[name])
    age = arguments.get("x-max-age")
    if age is not None:
        if not isinstance(age, str):
            raise TypeError(f'x-max-age is text such as "7D", not {age!r}')
        if not re.fullmatch(_INTERVAL, age) or not int(age[:-1]):
            raise ValueError(f'x-max-age is a positive number with one of Y, M, D, h, m, s, such as "7D", not {age!r}')
    if arguments.get("x-overflow") == "reject-publish-dlx" and arguments.get("x-queue-type") == "quorum":
        raise ValueError(
            "a quorum queue does not know reject-publish-dlx: RabbitMQ would silently drop its oldest messages; "
            'give overflow="reject-publish"'
        )


def check_offset(offset: object) -> None:
    """Refuse what is no place in a stream, over which RabbitMQ's channel crashes: `TypeError`, `ValueError`."""
    if isinstance(offset, str):
        if offset not in ("first", "last", "next") and not re.fullmatch(_INTERVAL, offset):
            raise ValueError(
                f'the offset in a stream is "first", "last", "next", or a time span such as "1h", not {offset!r}'
            )
    elif isinstance(offset, datetime):
        if offset.utcoffset() is None:
            raise ValueError(f"the offset {offset.isoformat()} is without a time zone: which instant is meant?")
    elif isinstance(offset, timedelta):
        if offset < timedelta(0):
            raise ValueError(f"the offset is a timedelta into the past, which is not negative: {offset}")
        if offset > _LONGEST_AGO:
            raise ValueError(f'the offset is longer ago than there are streams: {offset}; "first" is the beginning')
    elif isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(
            f'the offset in a stream is "first", "last", "next", an int, a datetime or a timedelta, not {offset!r}'
        )
    elif not 0 <= offset < 2**63:
        raise ValueError(f"the offset in a stream is 0 to 2**63 - 1, not {offset}")


def stream_filter(values: str | Iterable[str] | None, match_unfiltered: bool) -> dict[str, Any]:
    """The arguments that filter a stream; none without a filter. Refuses what RabbitMQ ignores, or crashes on."""
    check_flag("match_unfiltered", match_unfiltered)
    if values is None:
        if match_unfiltered:
            raise ValueError("match_unfiltered is of a filter: give filter= as well")
        return {}
    if not isinstance(values, str | list | tuple | set | frozenset):
        raise TypeError(f"filter is text, or a list of several, not {values!r:.200}")
    several = [values] if isinstance(values, str) else list(values)
    if not several:
        raise ValueError("filter is empty: leave it out for all messages")
    for value in several:
        check_name("a filter's value", value)
    return {
        "x-stream-filter": several[0] if len(several) == 1 else several,
        "x-stream-match-unfiltered": match_unfiltered,
    }


# --- integers --------------------------------------------------------------------------------------------------------

_RANGES = {
    "b": (-(2**7), 2**7 - 1),
    "s": (-(2**15), 2**15 - 1),
    "u": (0, 2**16 - 1),
    "I": (-(2**31), 2**31 - 1),
    "i": (0, 2**32 - 1),
    "l": (-(2**63), 2**63 - 1),
}

_HABITS = ("l", "bsIl", "bsuIil")
"""The types that other clients choose the first fitting one of: Java's and Go's 64-bit integers; amqplib; pamqp, and so
aiormq and aio-pika. This library's, pika's and others' are "Il".
"""


def as_others_write_them(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same arguments with each integer in the types in which other clients write it; none if there is no integer.

    To RabbitMQ the type is part of what a binding is: one that was made with a 64-bit 5 is not removed by a 32-bit 5,
    and the answer says that it was.
    """
    if not arguments:
        return []
    known = {encode_table(arguments)}
    found = []
    for codes in _HABITS:
        other = {name: _sized(value, codes) for name, value in arguments.items()}
        encoded = encode_table(other)
        if encoded not in known:
            known.add(encoded)
            found.append(other)
    return found


def _sized(value: Any, codes: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _sized(each, codes) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sized(each, codes) for each in value]
    if isinstance(value, int) and not isinstance(value, bool):
        for code in codes:
            least, most = _RANGES[code]
            if least <= value <= most:
                return SIZED_INTS[code](value) if code != "I" else int(value)
    return value


def merged(given: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that fields stand for, and those given as they are; `ValueError` for what is given twice."""
    found = {name: value for name, value in typed.items() if value is not None}
    if twice := found.keys() & given.keys():
        raise ValueError(f"{', '.join(sorted(twice))} in arguments is given by a field as well")
    return {**found, **given}
