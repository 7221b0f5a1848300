"""Checks of single arguments, each as RabbitMQ makes it: the value that is meant, or why it is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rabbitry.broker.fields import type_name
from rabbitry.broker.messages import LONGEST_DELAY

__all__ = [
    "Invalid",
    "age",
    "at_least_one",
    "at_least_zero",
    "check_int",
    "choice",
    "dead_letter_key",
    "delay",
    "flag",
    "integer",
    "positive_delay",
    "priority",
    "text",
]

_AGE = re.compile(r"([0-9]+)(Y|M|D|h|m|s)\Z")
_UNITS = {"Y": 365 * 86_400_000, "M": 30 * 86_400_000, "D": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}


def check_int(name: str, value: object) -> None:
    """Raise the `TypeError` of an argument of this package's own functions that is no whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")


class Invalid(Exception):
    """Why an argument is none, as an Erlang term."""


def integer(value: Any, arguments: Mapping[str, Any]) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f'"expected integer, got {type_name(value)}"')
    return value


def at_least_zero(value: Any, arguments: Mapping[str, Any]) -> int:
    """A whole number that is not negative."""
    number = integer(value, arguments)
    if number < 0:
        raise Invalid(f"{{value_negative,{number}}}")
    return number


def at_least_one(value: Any, arguments: Mapping[str, Any]) -> int:
    """A positive whole number."""
    number = at_least_zero(value, arguments)
    if number == 0:
        raise Invalid("{value_zero,0}")
    return number


def delay(value: Any, arguments: Mapping[str, Any]) -> int:
    """Milliseconds."""
    number = at_least_zero(value, arguments)
    if number > LONGEST_DELAY:
        raise Invalid(f"{{value_too_large,{number}}}")
    return number


def positive_delay(value: Any, arguments: Mapping[str, Any]) -> int:
    """Milliseconds, and not none."""
    number = integer(value, arguments)
    if number == 0:
        raise Invalid("{value_zero,0}")
    return delay(number, arguments)


def text(value: Any, arguments: Mapping[str, Any]) -> str:
    """A text."""
    if not isinstance(value, str):
        raise Invalid(f"{{unacceptable_type,{type_name(value)}}}")
    return value


def dead_letter_key(value: Any, arguments: Mapping[str, Any]) -> str:
    """A routing key, which needs an exchange."""
    key = text(value, arguments)
    if "x-dead-letter-exchange" not in arguments:
        raise Invalid("routing_key_but_no_dlx_defined")
    return key


def priority(value: Any, arguments: Mapping[str, Any]) -> int:
    """0 to 255."""
    number = at_least_zero(value, arguments)
    if number > 255:
        raise Invalid(f"{{max_value_exceeded,{number}}}")
    return number


class choice:
    """One of some words; else `reason`, in which {} is what was given."""

    def __init__(self, reason: str, *words: str) -> None:
        self._reason = reason
        self._words = words

    def __call__(self, value: Any, arguments: Mapping[str, Any]) -> str:
        word = text(value, arguments)
        if word not in self._words:
            raise Invalid(self._reason.format(word))
        return word


def flag(value: Any, arguments: Mapping[str, Any]) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise Invalid(f"{{unacceptable_type,{type_name(value)}}}")
    return value


def age(value: Any, arguments: Mapping[str, Any]) -> int:
    """Milliseconds, from a text such as 7D: years, months, days, hours, minutes or seconds. Raises `ValueError` for a
    text that begins with no digit, over which some versions stumble."""
    match = _AGE.match(text(value, arguments))
    if not value[:1].isdecimal():
        raise ValueError("there is no number")
    if match is None or not int(match[1]):
        raise Invalid("invalid_max_age")
    return int(match[1]) * _UNITS[match[2]]
