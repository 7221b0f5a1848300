"""Dataclasses as plain values, and back: what may be sent and kept, and is read with every type checked.

It knows numbers, text, bytes, lists, mappings, enumerations, paths and dataclasses of these, by their annotations. What
is read makes values and runs nothing: a name that the dataclass doesn't have is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgpack

T = TypeVar("T")

_LISTS = (list, tuple, Sequence, set, frozenset)


def packed(plain: Any) -> bytes:
    """A plain value as msgpack."""
    return cast("bytes", msgpack.packb(plain))


def to_plain(value: Any) -> Any:
    """The value as None, bool, int, float, str, bytes, list or dict. TypeError for what can't be that."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(to_plain(each) for each in cast("set[Any]", value))
    if isinstance(value, Sequence):
        return [to_plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} can't be sent")


def from_plain(kind: type[T], plain: Any) -> T:
    """The dataclass that `to_plain` was asked of. ValueError, saying where, for anything else."""
    return cast("T", _read(kind, plain, kind.__name__))


def _read(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return plain
    if origin in (Union, UnionType):
        return _read_either(get_args(kind), plain, where)
    if origin is Literal:
        _check(plain in get_args(kind), plain, where)
        return plain
    if kind in (None, NoneType):
        _check(plain is None, plain, where)
        return None
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_dataclass(kind, plain, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _converted(kind, plain, where)
    if kind is Path:
        _check(isinstance(plain, str), plain, where)
        return Path(plain)
    if kind in (bool, str, bytes):
        _check(type(plain) is kind, plain, where)
        return plain
    if kind in (int, float):
        _check(type(plain) in (int, kind), plain, where)
        return plain
    if (origin or kind) in _LISTS:
        return _read_list(origin or kind, get_args(kind), plain, where)
    if (origin or kind) in (dict, Mapping):
        return _read_mapping(get_args(kind), plain, where)
    raise ValueError(f"{where}: nothing is known of {kind}")


def _read_either(kinds: Sequence[Any], plain: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, plain, where)
        except ValueError:
            continue
    raise ValueError(f"{where}: it can't be a {type(plain).__name__}")


def _read_dataclass(kind: type[Any], plain: Any, where: str) -> Any:
    _check(isinstance(plain, dict), plain, where)
    hints, known = _hints(kind), {each.name: each for each in fields(kind) if each.init}
    if strange := set(plain) - set(known):
        raise ValueError(f"{where}: there is no {', '.join(sorted(map(repr, strange)))[:200]}")
    for name, each in known.items():
        if name not in plain and each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{where}.{name} is missing")
    return _converted(
        lambda values: kind(**values),
        {name: _read(hints[name], value, f"{where}.{name}") for name, value in plain.items()},
        where,
    )


def _read_list(kind: Any, kinds: Sequence[Any], plain: Any, where: str) -> Any:
    _check(isinstance(plain, list), plain, where)
    if kind is tuple and kinds and kinds[-1] is not Ellipsis:
        _check(len(plain) == len(kinds), plain, where)
        return tuple(_read(each, value, where) for each, value in zip(kinds, plain, strict=True))
    each = kinds[0] if kinds else Any
    values = [_read(each, value, f"{where}[{number}]") for number, value in enumerate(plain)]
    return tuple(values) if kind in (tuple, Sequence) else kind(values)


def _read_mapping(kinds: Sequence[Any], plain: Any, where: str) -> dict[Any, Any]:
    _check(isinstance(plain, dict), plain, where)
    of_key, of_value = kinds or (Any, Any)
    return {
        _read(of_key, key, where): _read(of_value, value, f"{where}[{str(key)[:50]!r}]") for key, value in plain.items()
    }


def _converted(make: Any, value: Any, where: str) -> Any:
    try:
        return make(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _check(holds: bool, plain: Any, where: str) -> None:
    if not holds:
        raise ValueError(f"{where}: it can't be a {type(plain).__name__}")


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]
