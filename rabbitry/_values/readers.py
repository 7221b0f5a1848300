"""`Reader`: makes one kind of value, such as a datetime, of what was decoded; and what is said of a value that is none.

What must stay true: a reader returns what it is named for or raises `Misfit`, and nothing else, whatever a peer sent;
what it tells of a value fits into a line of the log.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, Flag
from typing import Any, TypeAlias, get_args
from uuid import UUID

from rabbitry._errors import DecodeError, shown

__all__ = [
    "ANYTHING",
    "ARRAYS",
    "HINT",
    "MAPS",
    "SIMPLE",
    "UNKNOWN_HINT",
    "Known",
    "Misfit",
    "Reader",
    "enum_reader",
    "literal_reader",
    "misfit",
    "named",
    "read_elements",
    "refused",
    "shown_value",
]

TEXT_SHOWN = 40
"""Characters of a value that does not fit, in the error that says so."""

HINT = (  # what to do about an annotation that can't be used
    "annotate it with Any, or give another converter, such as "
    "convert=lambda annotation, value: msgspec.convert(value, annotation); bind, Service and serve also take "
    "convert=None, which leaves values as they are"
)
UNKNOWN_HINT = (  # what to do about a name that is not found
    "names in annotations that are text are looked up in the module where they stand: define, or import, this one "
    "there, or annotate it with Any; bind, Service and serve also take convert=None, which leaves values as they are"
)

ARRAYS, MAPS = (list, tuple), (dict,)
"""What JSON and MessagePack decode to, in the order of their names."""


class Misfit(Exception):
    """Says what does not fit. On its way out, each container adds where it is, so the innermost place is the first."""

    def __init__(self, text: str, place: str = "") -> None:
        self.text = text
        self.places = [place] if place else []

    def within(self, place: str) -> Misfit:
        """The same, seen from what contains it."""
        self.places.append(place)
        return self

    def as_error(self, root: str) -> DecodeError:
        """What users get."""
        return DecodeError(f"{root}{''.join(reversed(self.places))}: {self.text}")


@dataclass(slots=True, eq=False)
class Reader:
    """Reads values as one annotation says. `what` it makes, in words; the types of values that it takes, and those that
    it takes where nothing else does (`spare`); `is_check`: what fits is returned as it is.
    """

    what: str
    takes: Collection[type]
    read: Callable[[Any], Any]
    is_check: bool = False
    spare: Collection[type] = field(default=())


Known: TypeAlias = dict[Any, Reader]
"""Readers of classes that are being made, which may contain each other."""

# --- values that are one ----------------------------------------------------------------------------------------------


def shown_value(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str | bytes):
        try:
            return shown(repr(value[: 2 * TEXT_SHOWN] if isinstance(value, str | bytes) else value), TEXT_SHOWN)
        except ValueError:  # an int of thousands of digits
            pass
    return f"a value of type {type(value).__name__}"


def misfit(value: Any, what: str) -> Misfit:
    return Misfit(f"{shown_value(value)} is no {what}")


def _checking(kind: type) -> Reader:
    """Values of one type, as they are. True is no int."""
    what = kind.__name__

    def read(value: Any) -> Any:
        if isinstance(value, kind) and (value is not True and value is not False):
            return value
        raise misfit(value, what)

    return Reader(what, (kind,), read, is_check=True)


def _read_bool(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise misfit(value, "bool")


def _read_none(value: Any) -> None:
    if value is not None:
        raise Misfit(f"{shown_value(value)} is not None")


def _read_float(value: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise misfit(value, "float")


def _from_text(kind: type, parse: Callable[[str], Any]) -> Reader:
    what = kind.__name__

    def read(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                raise misfit(value, what) from None
        if isinstance(value, kind) and not (kind is date and isinstance(value, datetime)):
            return value
        raise misfit(value, what)

    return Reader(what, (str, kind), read)


ANYTHING = Reader("anything", (), lambda value: value, is_check=True)

SIMPLE: Mapping[Any, Reader] = {
    Any: ANYTHING,
    object: ANYTHING,
    None: (_NONE := Reader("None", (types.NoneType,), _read_none, is_check=True)),
    types.NoneType: _NONE,
    bool: Reader("bool", (bool,), _read_bool, is_check=True),
    int: _checking(int),
    float: Reader("float", (float,), _read_float, spare=(int,)),
    str: _checking(str),
    bytes: _checking(bytes),
    datetime: _from_text(datetime, datetime.fromisoformat),
    date: _from_text(date, date.fromisoformat),
    time: _from_text(time, time.fromisoformat),
    UUID: _from_text(UUID, UUID),
    Decimal: _from_text(Decimal, Decimal),
}


def enum_reader(kind: type[Enum]) -> Reader:
    def read(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        try:
            member = kind(value)
        except Exception:  # of a value without a hash, too, and whatever its own `_missing_` raises
            raise misfit(value, kind.__name__) from None
        if isinstance(value, bool) is not isinstance(member.value, bool):  # to Python, 1 is True
            raise misfit(value, kind.__name__)
        return member

    values = {type(member.value) for member in kind}
    return Reader(kind.__name__, {int, kind} if issubclass(kind, Flag) else {*values, kind}, read)


def literal_reader(choices: Sequence[Any]) -> Reader:
    """Enum members among the choices go by their values, as they are sent."""
    by_value = {}
    for choice in choices:
        value = choice.value if isinstance(choice, Enum) else choice
        by_value[type(value), value] = choice
    what = " or ".join(repr(choice) for choice in choices)

    def read(value: Any) -> Any:
        if isinstance(value, Enum):
            value = value.value
        try:
            return by_value[type(value), value]
        except (KeyError, TypeError):
            raise misfit(value, what) from None

    is_check = not any(isinstance(choice, Enum) for choice in choices)
    return Reader(what, {kind for kind, _ in by_value} | {type(choice) for choice in choices}, read, is_check=is_check)


def read_elements(elements: Sequence[Callable[[Any], Any]], least: int, values: Any, what: str) -> list[Any]:
    """As many values as there are elements, or at least so many."""
    if not isinstance(values, ARRAYS):
        raise misfit(values, what)
    if not least <= len(values) <= len(elements):
        bounds = f"{len(elements)}" if least == len(elements) else f"{least} to {len(elements)}"
        raise Misfit(f"has {len(values)} elements, where {what} has {bounds}")
    result: list[Any] = []
    for read_one, value in zip(elements, values, strict=False):
        try:
            result.append(read_one(value))
        except Misfit as error:
            raise error.within(f"[{len(result)}]") from error.__cause__
    return result


def refused(annotation: Any, why: str) -> TypeError:
    """What is raised for an annotation that can't be used."""
    return TypeError(f"{named(annotation)} {why}: {HINT}")


def named(annotation: Any) -> str:
    """The annotation as it is written."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")
