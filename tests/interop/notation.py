"""Values as JSON, each with its type, so that nothing changes between a test and the process of a peer.

What must stay true: two values have the same notation only if they are the same for a user, type and all: 1, 1.0 and
True differ, and so do Decimal("1.5") and Decimal("1.50"), and times with and without a zone. programs/notation.js is
the same for Node.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

__all__ = ["noted", "value_of"]


def noted(value: Any) -> Any:
    """The notation of a value: what JSON has too as it is, anything else an object {type: text}."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return {"int": str(value)}
        case float():
            return {"float": repr(value)}
        case Decimal():
            return {"decimal": str(value)}
        case datetime():
            return {"datetime": value.isoformat()}
        case bytes() | bytearray() | memoryview():
            return {"bytes": bytes(value).hex()}
        case dict():
            return {"table": {key: noted(each) for key, each in value.items()}}
        case list() | tuple():
            return [noted(each) for each in value]
    raise TypeError(f"no notation for a {type(value).__name__}: {value!r}")


def value_of(notation: Any) -> Any:
    """The value that has this notation."""
    if isinstance(notation, list):
        return [value_of(each) for each in notation]
    if not isinstance(notation, dict):
        return notation
    ((kind, content),) = notation.items()
    return _READERS[kind](content)


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "bytes": bytes.fromhex,
    "table": lambda table: {key: value_of(each) for key, each in table.items()},
}
