"""Readers of classes with fields: dataclasses, typed dicts and named tuples.

What must stay true: a field that is missing, or does not fit, is named; what a class has no field for is left out; a
class may contain itself.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NotRequired, Required, TypeAlias, TypeVar

from rabbitry._errors import shown, text_of
from rabbitry._values.readers import (
    ARRAYS,
    MAPS,
    UNKNOWN_HINT,
    Known,
    Misfit,
    Reader,
    misfit,
    named,
    read_elements,
    refused,
)

__all__ = ["dataclass_reader", "named_tuple_reader", "typed_dict_reader"]

Make: TypeAlias = Callable[[Any, Known], Reader]
"""Makes the reader of a field's annotation."""


def _hints_of(annotation: Any, cls: type) -> dict[str, Any]:
    """The annotations of a class's fields, evaluated; a generic one's with what stands for its type variables."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise TypeError(
            f"{named(cls)} has an annotation that can't be evaluated, {text_of(error)}: {UNKNOWN_HINT}"
        ) from error
    arguments = typing.get_args(annotation)
    if arguments:
        by_variable = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
        hints = {name: _substituted(hint, by_variable) for name, hint in hints.items()}
    return hints


def _substituted(hint: Any, by_variable: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return by_variable.get(hint, hint)
    if isinstance(hint, type):
        return hint
    variables = getattr(hint, "__parameters__", ())
    return hint[tuple(by_variable.get(each, each) for each in variables)] if variables else hint


@dataclass(slots=True)
class _Field:
    name: str
    read: Callable[[Any], Any]
    is_required: bool


def _read_fields(fields: Iterable[_Field], value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise misfit(value, what)
    result = {}
    for each in fields:
        if each.name in value:
            try:
                result[each.name] = each.read(value[each.name])
            except Misfit as error:
                raise error.within(f".{each.name}") from error.__cause__
        elif each.is_required:
            raise Misfit("is missing", f".{each.name}")
    return result


def dataclass_reader(annotation: Any, cls: type, known: Known, make: Make) -> Reader:
    what = cls.__name__
    fields: list[_Field] = []

    def read(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        arguments = _read_fields(fields, value, what)
        try:
            return cls(**arguments)
        except Exception as error:  # its own checks
            raise Misfit(f"is no {what}: {shown(text_of(error), 1000)}") from error

    known[annotation] = reader = Reader(what, (*MAPS, cls), read)
    every: Mapping[str, Any] = cls.__dataclass_fields__  # type: ignore[attr-defined]
    own = {each.name for each in dataclasses.fields(cls)}
    hints = _hints_of(annotation, cls)
    for name in every.keys() - own:
        if (hint := hints[name]) is not ClassVar and typing.get_origin(hint) is not ClassVar:
            raise refused(cls, f"has an InitVar, {name}, of which no value is sent")
    for each in dataclasses.fields(cls):
        if each.init:
            is_required = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            fields.append(_Field(each.name, _within(what, each.name, hints[each.name], known, make), is_required))
    return reader


def typed_dict_reader(annotation: Any, cls: Any, known: Known, make: Make) -> Reader:
    what = cls.__name__
    fields: list[_Field] = []
    known[annotation] = reader = Reader(what, MAPS, lambda value: _read_fields(fields, value, what))
    for name, hint in _hints_of(annotation, cls).items():
        # Python 3.11 takes no notice of Required and NotRequired where annotations are text.
        is_required = name in cls.__required_keys__ if (said := _said(hint)) is None else said
        fields.append(_Field(name, _within(what, name, hint, known, make), is_required))
    return reader


def _said(hint: Any) -> bool | None:
    """Whether `Required` or `NotRequired` says something, and what."""
    origin = typing.get_origin(hint)
    if origin is Annotated or origin is getattr(typing, "ReadOnly", typing):
        return _said(typing.get_args(hint)[0])
    return True if origin is Required else False if origin is NotRequired else None


def named_tuple_reader(annotation: Any, cls: Any, known: Known, make: Make) -> Reader:
    what = cls.__name__
    elements: list[Callable[[Any], Any]] = []
    least = len(cls._fields) - len(cls._field_defaults)

    def read(values: Any) -> Any:
        return values if isinstance(values, cls) else cls(*read_elements(elements, least, values, what))

    known[annotation] = reader = Reader(what, (*ARRAYS, cls), read)
    hints = _hints_of(annotation, cls)
    elements += [_within(what, name, hints.get(name, Any), known, make) for name in cls._fields]
    return reader


def _within(what: str, name: str, hint: Any, known: Known, make: Make) -> Callable[[Any], Any]:
    """Reads a field, whose class may be one that is being made."""
    try:
        reader = make(hint, known)
    except TypeError as error:
        raise TypeError(f"{what}.{name}: {error}") from error
    return reader.read
