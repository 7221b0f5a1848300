"""The types of fields in RabbitMQ's words, for texts that name them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

__all__ = ["type_name"]


def type_name(value: object) -> str:
    """How RabbitMQ calls the type of a field, as far as the decoded value tells (integers by their size)."""
    match value:
        case bool():
            return "bool"
        case int():
            return "signedint" if -0x80000000 <= value <= 0x7FFFFFFF else "long"
        case str():
            return "longstr"
        case float():
            return "double"
        case bytes():
            return "binary"
        case Decimal():
            return "decimal"
        case Mapping():
            return "table"
        case list() | tuple():
            return "array"
        case None:
            return "void"
        case _:
            return "timestamp"
