"""What turns a row of the method table into a class: the types of its fields, and the compiler of its codec.

A row is a class whose annotations are its fields in wire order. `@method` gives it slots; a keyword constructor,
`encode` and `decode` are compiled when the first of them is called. What must stay true: the annotations alone decide
the octets; encoding raises only `TypeError` and `ValueError`, naming method and field, decoding only
`RemoteProtocolError`. Knows no method by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from struct import Struct
from struct import error as StructError
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, TypeAlias, TypeVar, cast, dataclass_transform

from rabbitry._errors import RemoteProtocolError
from rabbitry.protocol.wire.constants import SYNTAX_ERROR
from rabbitry.protocol.wire.tables import (
    decode_longstr,
    decode_shortstr,
    decode_table,
    encode_longstr,
    encode_shortstr,
    encode_table,
    outside,
    reworded,
)

__all__ = [
    "NO_TABLE",
    "Bit",
    "Field",
    "FieldType",
    "Long",
    "LongLong",
    "LongStr",
    "Method",
    "Octet",
    "Route",
    "Secret",
    "Short",
    "ShortStr",
    "Table",
    "method",
]

# --- the types of fields (specification 4.2.5) ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type of the wire: either the `struct` letter of a number, or the functions for what has its own length."""

    name: str
    letter: str = ""
    encode: Callable[[Any], bytes] | None = None
    decode: Callable[[bytes, int], tuple[Any, int]] | None = None
    is_secret: bool = False

    def fault(self, value: object) -> TypeError | ValueError | None:
        """Why `value` can't be encoded, worded to follow the field's name; None if it can."""
        try:
            if self.encode is not None:
                self.encode(value)
            elif self.letter:
                Struct(f">{self.letter}").pack(value)
        except (TypeError, ValueError) as exc:
            return exc
        except StructError:
            return outside(value, 256 ** Struct(f">{self.letter}").size - 1)
        return None


def _encode_name(value: str) -> bytes:
    return encode_shortstr(value, "strict")


def _decode_frozen_table(data: bytes, offset: int) -> tuple[Mapping[str, Any], int]:
    _, end = decode_longstr(data, offset)
    return _frozen_table(data[offset:end]), end


@lru_cache(16)
def _frozen_table(data: bytes) -> Mapping[str, Any]:
    """Decoded once and shared: ten thousand connections to one broker get the same server properties."""
    frozen: Mapping[str, Any] = _freeze(decode_table(data)[0])
    return frozen


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(inner) for key, inner in value.items()})
    if isinstance(value, list):
        return tuple(map(_freeze, value))
    return value


NO_TABLE: Final[Mapping[str, Any]] = MappingProxyType({})


def _encode_bit(value: object) -> bytes:
    """What is no bit. Others are encoded with their neighbours."""
    if value is not True and value is not False:  # "no" would be taken for yes
        raise TypeError(f"must be True or False, not {value!r:.60}")
    return b""


_BIT = FieldType("bit", encode=_encode_bit)
Bit = Annotated[bool, _BIT]
"""Bits side by side share octets, the first in the lowest place."""
Octet = Annotated[int, FieldType("octet", "B")]
Short = Annotated[int, FieldType("short", "H")]
Long = Annotated[int, FieldType("long", "I")]
LongLong = Annotated[int, FieldType("longlong", "Q")]
ShortStr = Annotated[str, FieldType("shortstr", encode=_encode_name, decode=decode_shortstr)]
"""A name or a text. It must be UTF-8, or RabbitMQ ends the connection."""
Route = Annotated[str, FieldType("shortstr", encode=encode_shortstr, decode=decode_shortstr)]
"""The exchange and routing key of a message, where RabbitMQ lets any octets pass, and so do we (see `tables`)."""
LongStr = Annotated[bytes, FieldType("longstr", encode=encode_longstr, decode=decode_longstr)]
"""Octets: what they mean is up to the field."""
Secret = Annotated[bytes, FieldType("longstr", encode=encode_longstr, decode=decode_longstr, is_secret=True)]
"""Octets that no repr shows."""
Table = Annotated[Mapping[str, Any], FieldType("table", encode=encode_table, decode=_decode_frozen_table)]
"""Read-only at every level when decoded: equal tables may be one object."""

_FIELD_TYPES: Mapping[str, FieldType] = {
    name: globals()[name].__metadata__[0]
    for name in ("Bit", "Octet", "Short", "Long", "LongLong", "ShortStr", "Route", "LongStr", "Secret", "Table")
}
"""By the names that rows write them with: to evaluate their annotations took longer than all else at their import."""


# --- methods -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a method."""

    name: str
    type: FieldType
    default: Any
    """`inspect.Parameter.empty` if the field must be given."""


class Method:
    """A method of AMQP with its arguments. Compares by value."""

    __slots__ = ()

    name: ClassVar[str]
    """As the specification writes it: "queue.declare-ok"."""
    class_id: ClassVar[int]
    method_id: ClassVar[int]
    key: ClassVar[bytes]
    """Class id and method id as the four octets that begin the payload."""
    fields: ClassVar[tuple[Field, ...]]
    replies: ClassVar[tuple[str, ...]]
    """The names of the classes that may answer it."""
    is_synchronous: ClassVar[bool]
    """Whether it is answered (unless its `nowait` is set)."""
    has_content: ClassVar[bool]
    """Whether a content header follows it."""

    # These three are called once for each class: what they compile takes their place there.

    def __init__(self, **values: Any) -> None:
        _compile(type(self)).__init__(self, **values)  # (which is not this one any more)

    def encode(self) -> bytes:
        """The payload of the method's frame. `TypeError` or `ValueError` names the field that can't be encoded."""
        return _compile(type(self)).encode(self)

    @classmethod
    def decode(cls, payload: bytes) -> Any:
        """The method in a payload that begins with `key`; see `decode_method`."""
        return _compile(cls).decode(payload)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in self.fields)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        """The fields that differ from their defaults, without secrets."""
        shown = [
            f"{field.name}={'...' if field.type.is_secret else repr(value)}"
            for field in self.fields
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


_M = TypeVar("_M", bound=Method)


@dataclass_transform(kw_only_default=True)
def method(
    class_id: int, method_id: int, *, replies: tuple[str, ...] = (), has_content: bool = False
) -> Callable[[type[_M]], type[_M]]:
    """Make a row into a method class."""

    def with_slots(row: type[_M]) -> type[_M]:
        namespace = dict(row.__dict__)
        namespace.pop("__dict__", None)
        namespace.pop("__weakref__", None)
        fields = tuple(
            Field(name, _FIELD_TYPES[written], namespace.pop(name, inspect.Parameter.empty))
            for name, written in inspect.get_annotations(row).items()
        )
        class_name, *rest = re.findall("[A-Z][a-z]*", row.__name__)
        namespace |= {
            "__slots__": tuple(field.name for field in fields),
            "name": f"{class_name}.{'-'.join(rest)}".lower(),
            "class_id": class_id,
            "method_id": method_id,
            "key": Struct(">HH").pack(class_id, method_id),
            "fields": fields,
            "replies": replies,
            "is_synchronous": bool(replies),
            "has_content": has_content,
        }
        # Slots can't be added to a class that exists, so, like dataclasses, make it again.
        return cast("type[_M]", type(row.__name__, row.__bases__, namespace))

    return with_slots


# --- the compiler --------------------------------------------------------------------------------------------------
#
# hot: ten thousand handshakes are 140,000 methods. The codec of each row is written out as source, numbers side by side
# sharing one `struct` call: connection.tune-ok is encoded in 0.09 us and basic.consume in 0.7, walking over the fields
# took 0.5 and 1.5. A row is compiled when it is first used: all of them take 10 ms. The source of basic.cancel, say:
#
#     def __init__(self, *, consumer_tag, nowait=default_nowait):
#         self.consumer_tag = consumer_tag
#         self.nowait = nowait
#     def encode(self):
#         try:
#             return key + encode_consumer_tag(self.consumer_tag) + pack1(
#                 (1 if self.nowait is True else 0 if self.nowait is False else no_bit(self.nowait))
#             )
#         except (TypeError, ValueError, StructError) as exc:
#             raise explained(self, exc) from None
#     def decode(payload):
#         self = new(cls)
#         offset = 4
#         self.consumer_tag, offset = decode_consumer_tag(payload, offset)
#         bits0, = unpack1(payload, offset)
#         offset += 1
#         self.nowait = bits0 & 1 != 0
#         if offset != len(payload): raise surplus(payload, offset)
#         return self


def _compile(cls: type[Method]) -> type[Method]:
    """The class, with its three functions."""
    scope: dict[str, Any] = {
        "cls": cls,
        "key": cls.key,
        "new": object.__new__,
        "explained": _explained,
        "surplus": _surplus,
        "no_bit": _encode_bit,
        "StructError": StructError,
    }
    terms = ["key"]
    steps = ["self = new(cls)", "offset = 4"]
    for index, (letters, units) in enumerate(_runs(cls.fields)):
        if letters:
            _compile_numbers(index, letters, units, scope, terms, steps)
        else:
            _compile_variable(units, scope, terms, steps)
    steps += ["if offset != len(payload): raise surplus(payload, offset)", "return self"]

    parameters = [""]
    for field in cls.fields:
        if field.default is inspect.Parameter.empty:
            parameters.append(field.name)
        else:
            scope[f"default_{field.name}"] = field.default
            parameters.append(f"{field.name}=default_{field.name}")
    lines = [f"def __init__(self{', *' if cls.fields else ''}{', '.join(parameters)}):"]
    lines += [f"    self.{field.name} = {field.name}" for field in cls.fields] or ["    pass"]
    lines += ["def encode(self):", "    try:", f"        return {' + '.join(terms)}"]
    lines += ["    except (TypeError, ValueError, StructError) as exc:", "        raise explained(self, exc) from None"]
    lines += ["def decode(payload):"]
    lines += [f"    {step}" for step in steps]
    functions: dict[str, Any] = {}
    exec("\n".join(lines), scope, functions)
    functions["decode"] = staticmethod(functions["decode"])
    for name, function in functions.items():
        setattr(cls, name, function)
    return cls


_Unit: TypeAlias = tuple[Field, ...]
"""One number on the wire, which is one field or up to eight bits, or one field of variable length."""


def _runs(fields: tuple[Field, ...]) -> Iterator[tuple[str, list[_Unit]]]:
    """The units, those that one `struct` call can do together, with its letters; and "" with the others."""
    units: list[tuple[str, _Unit]] = []
    for is_bit, group in groupby(fields, lambda field: field.type is _BIT):
        members = tuple(group)
        if is_bit:
            units += [("B", members[start : start + 8]) for start in range(0, len(members), 8)]
        else:
            units += [(field.type.letter, (field,)) for field in members]
    for _, run in groupby(units, lambda unit: unit[0] != ""):
        letters, members_of = zip(*run, strict=True)
        yield "".join(letters), list(members_of)


def _compile_numbers(
    index: int, letters: str, units: list[_Unit], scope: dict[str, Any], terms: list[str], steps: list[str]
) -> None:
    struct = Struct(f">{letters}")
    scope |= {f"pack{index}": struct.pack, f"unpack{index}": struct.unpack_from}
    values, targets, unfolded = [], [], []
    for position, unit in enumerate(units):
        if unit[0].type is _BIT:
            bits = [(field.name, 1 << place) for place, field in enumerate(unit)]
            values.append(
                " | ".join(
                    f"({bit} if self.{name} is True else 0 if self.{name} is False else no_bit(self.{name}))"
                    for name, bit in bits
                )
            )
            targets.append(f"bits{position}")
            unfolded += [f"self.{name} = bits{position} & {bit} != 0" for name, bit in bits]
        else:
            values.append(f"self.{unit[0].name}")
            targets.append(f"self.{unit[0].name}")
    terms.append(f"pack{index}({', '.join(values)})")
    steps += [f"{', '.join(targets)}, = unpack{index}(payload, offset)", f"offset += {struct.size}", *unfolded]


def _compile_variable(units: list[_Unit], scope: dict[str, Any], terms: list[str], steps: list[str]) -> None:
    for (field,) in units:
        scope |= {f"encode_{field.name}": field.type.encode, f"decode_{field.name}": field.type.decode}
        terms.append(f"encode_{field.name}(self.{field.name})")
        steps.append(f"self.{field.name}, offset = decode_{field.name}(payload, offset)")


def _explained(method: Method, error: Exception) -> TypeError | ValueError:
    """What to raise for `error`, naming the field. Only found now: what can be encoded shouldn't pay for it."""
    for field in method.fields:
        fault = field.type.fault(getattr(method, field.name))
        if fault is not None:
            return reworded(fault, f"{method.name}: {field.name} {fault}")
    return reworded(error, f"{method.name}: {error}")


def _surplus(payload: bytes, offset: int) -> RemoteProtocolError:
    return RemoteProtocolError(f"{len(payload) - offset} octets follow its arguments", SYNTAX_ERROR)
