"""`convert`: decoded values, which are plain, as what an annotation says: dataclasses, enums, datetimes, and so on.

What must stay true: what is returned is what the annotation promises, all the way down; what does not fit is a
`DecodeError` that names its place; what can't be read at all, or could be read in two ways, is a `TypeError` before any
value comes. Nothing is made of a peer's data but what the annotation names.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NewType, NotRequired, Required, TypeAlias, Union

from rabbitry._errors import DecodeError
from rabbitry._values.readers import (
    ANYTHING,
    ARRAYS,
    MAPS,
    SIMPLE,
    Known,
    Misfit,
    Reader,
    enum_reader,
    literal_reader,
    misfit,
    named,
    read_elements,
    refused,
    shown_value,
)
from rabbitry._values.records import dataclass_reader, named_tuple_reader, typed_dict_reader

__all__ = ["Convert", "convert", "reader_of"]

Convert: TypeAlias = Callable[[Any, Any], Any]
"""Makes of a decoded value what an annotation says: given the annotation and the value. Raises what it likes."""


def convert(annotation: Any, value: Any) -> Any:
    """`value`, as decoded from JSON or MessagePack, as what `annotation` says: `convert(User, {"name": "Ann"})`.

    That may be: a dataclass or `TypedDict` (from a map; what it does not name is left out), a `NamedTuple` (from a
    list), list, tuple, set, frozenset, dict and their abstract kinds, `Optional`, `Union`, `Literal`, `Enum` (by
    value), datetime, date, time (from ISO 8601 text), `UUID`, `Decimal` (from text), int, float (from an int, too),
    str, bytes, bool, None, nested in each other; `Any` and `object` are anything, unchanged. A dict's keys may be ints
    written as text, as in JSON. Of `Annotated` only the type counts.

    `DecodeError` where the value does not fit, with its place ("User.age: 'x' is no int"). `TypeError` for any other
    annotation, and for a union of what can't be told apart by the value's type, as two dataclasses: those take another
    converter, such as `msgspec.convert` or pydantic's.
    """
    reader = reader_of(annotation)
    try:
        return reader.read(value)
    except Misfit as error:
        raise error.as_error(named(annotation)) from error.__cause__
    except RecursionError:
        raise DecodeError(f"{named(annotation)}: nested too deep") from None


@lru_cache(maxsize=256)
def _reader_of_hashable(annotation: Any) -> Reader:
    return _made(annotation)


def reader_of(annotation: Any) -> Reader:
    """What reads values as `annotation` says; `TypeError` where it says nothing that can be read for certain."""
    try:
        hash(annotation)
    except TypeError:  # metadata of Annotated
        return _made(annotation)
    return _reader_of_hashable(annotation)


def _made(annotation: Any) -> Reader:
    try:
        return _reader(annotation, {})
    except RecursionError:
        raise refused(annotation, "contains itself without a class in between") from None


# --- values of values -------------------------------------------------------------------------------------------------

_LISTS = (list, Sequence, MutableSequence, Collection, Iterable)
_SETS: Mapping[Any, type] = {set: set, Set: set, MutableSet: set, frozenset: frozenset}
_DICTS = (dict, Mapping, MutableMapping)


def _reader(annotation: Any, known: Known) -> Reader:
    try:
        if (simple := SIMPLE.get(annotation)) is not None:
            return simple
    except TypeError:  # no hash
        pass
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if not isinstance(origin, Hashable):
        raise _unreadable(annotation)
    if origin in (Annotated, Required, NotRequired, Final) or _is_read_only(origin):
        return _reader(arguments[0], known)
    if isinstance(annotation, NewType):
        return _reader(annotation.__supertype__, known)
    if type(annotation).__name__ == "TypeAliasType":  # Python 3.12
        return _reader(annotation.__value__, known)
    if origin is Union or origin is types.UnionType:
        return _union_reader(annotation, arguments, known)
    if origin is Literal:
        return literal_reader(arguments)
    if origin in _LISTS:
        return _array_reader(list, _reader(arguments[0] if arguments else Any, known))
    if origin in _SETS:
        return _array_reader(_SETS[origin], _reader(arguments[0] if arguments else Any, known))
    if origin is tuple:
        return _tuple_reader(annotation, arguments, known)
    if origin in _DICTS:
        return _dict_reader(arguments or (Any, Any), known)
    if isinstance(origin, type):
        if annotation in known:
            return known[annotation]
        if issubclass(origin, Enum) and len(origin):
            return enum_reader(origin)
        if dataclasses.is_dataclass(origin):
            return dataclass_reader(annotation, origin, known, _reader)
        if typing.is_typeddict(origin):
            return typed_dict_reader(annotation, origin, known, _reader)
        if issubclass(origin, tuple) and hasattr(origin, "_fields"):
            return named_tuple_reader(annotation, origin, known, _reader)
    raise _unreadable(annotation)


def _unreadable(annotation: Any) -> TypeError:
    return refused(annotation, "is nothing that rabbitry.convert makes of what was decoded")


def _is_read_only(origin: Any) -> bool:
    """`ReadOnly` of Python 3.13."""
    return origin is getattr(typing, "ReadOnly", typing)


def _array_reader(kind: Callable[[list[Any]], Any], element: Reader) -> Reader:
    what = getattr(kind, "__name__", "list")
    takes = (*ARRAYS, set, frozenset) if what != "list" else ARRAYS
    read_one = element.read

    def read(values: Any) -> Any:
        if not isinstance(values, takes):
            raise misfit(values, what)
        result: list[Any] = []
        for value in values:
            try:
                result.append(read_one(value))
            except Misfit as error:
                raise error.within(f"[{len(result)}]") from error.__cause__
        if what == "list":
            return result
        try:
            return kind(result)
        except TypeError:
            raise Misfit(f"has an element that can't be in a {what}") from None

    return Reader(what, takes, read)


def _tuple_reader(annotation: Any, arguments: tuple[Any, ...], known: Known) -> Reader:
    if annotation in (tuple, typing.Tuple):  # noqa: UP006 - which is another object
        arguments = (Any, ...)
    if arguments[1:] == (...,):
        return _array_reader(tuple, _reader(arguments[0], known))
    elements = [_reader(each, known).read for each in arguments]
    return Reader("tuple", ARRAYS, lambda values: tuple(read_elements(elements, len(elements), values, "tuple")))


def _dict_reader(arguments: tuple[Any, ...], known: Known) -> Reader:
    read_key = _read_int_key if arguments[0] is int else _reader(arguments[0], known).read
    read_value = _reader(arguments[1], known).read

    def read(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise misfit(value, "dict")
        result = {}
        for key, each in value.items():
            try:
                result[read_key(key)] = read_value(each)
            except Misfit as error:
                raise error.within(f"[{shown_value(key)}]") from error.__cause__
            except TypeError:
                raise Misfit("can't be a key of a dict", f"[{shown_value(key)}]") from None
        return result

    return Reader("dict", MAPS, read)


def _read_int_key(key: Any) -> int:
    """JSON's keys are text."""
    if isinstance(key, str):
        try:
            number = int(key)
        except ValueError:
            raise misfit(key, "int") from None
        if str(number) != key:  # "07", " 7": two keys could be one
            raise misfit(key, "int")
        return number
    return int(SIMPLE[int].read(key))


def _union_reader(annotation: Any, arguments: tuple[Any, ...], known: Known) -> Reader:
    """Which of them a value is, its type says; `TypeError` where that can't be."""
    readers = [_reader(each, known) for each in arguments]
    if ANYTHING in readers:
        return ANYTHING
    by_type: dict[type, list[Reader]] = {}
    for reader in readers:
        for kind in reader.takes:
            by_type.setdefault(kind, []).append(reader)
    for reader in readers:
        for kind in reader.spare:
            by_type.setdefault(kind, [reader])
    for kind, several in by_type.items():
        if len(several) > 1 and not all(reader.is_check for reader in several):
            names = " and ".join(reader.what for reader in several)
            raise refused(annotation, f"can't be told apart by its values, as a {kind.__name__} may be {names}")
    what = " or ".join(reader.what for reader in readers)

    def read(value: Any) -> Any:
        several = by_type.get(type(value))
        if several is None:  # of a subclass, perhaps
            several = next((found for kind, found in by_type.items() if isinstance(value, kind)), [])
        if len(several) == 1:
            return several[0].read(value)
        for reader in several:
            try:
                return reader.read(value)
            except Misfit:
                continue
        raise misfit(value, what)

    takes = {kind for reader in readers for kind in reader.takes}
    spare = {kind for reader in readers for kind in reader.spare} - takes
    return Reader(what, takes, read, all(reader.is_check for reader in readers), spare)
