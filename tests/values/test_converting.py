"""`rabbitry.convert`: what it reads, what it refuses, and where it says that something does not fit."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import STRICT, Enum, Flag, IntEnum, StrEnum
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import pytest

import rabbitry
from rabbitry import DecodeError, Message, convert
from rabbitry._values.annotations import argument_conversions, payload_conversion, result_conversion, typed
from rabbitry._values.codecs import decode_body

T = TypeVar("T")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
NUMBER = UUID("12345678-1234-5678-1234-567812345678")


class Colour(Enum):
    RED = "red"
    ONE = 1


class Level(IntEnum):
    LOW = 1


class Name(StrEnum):
    ANN = "ann"


class Case(Enum):
    LOWER = "lower"

    @classmethod
    def _missing_(cls, value: object) -> "Case":
        return {"LOWER": cls.LOWER}[str(value)]


class Right(Flag, boundary=STRICT):  # the default from Python 3.11.4 on
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Address(TypedDict):
    city: str
    code: NotRequired[int]


@dataclass(frozen=True)
class User:
    name: str
    age: int = 0
    friends: list["User"] = field(default_factory=list)
    address: Address | None = None


@dataclass(slots=True, kw_only=True)
class Page(Generic[T]):
    items: list[T]
    following: T | None = None


@dataclass
class Checked:
    number: int
    double: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("negative")
        self.double = 2 * self.number


UserId = NewType("UserId", int)

FITS: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (float, 5, 5.0),
    (float, 0.5, 0.5),
    (bool, True, True),
    (str, "x", "x"),
    (bytes, b"x", b"x"),
    (None, None, None),
    (Any, {"a": [1]}, {"a": [1]}),
    (object, "x", "x"),
    (datetime, "2026-11-21T12:00:00Z", NOON),
    (datetime, NOON, NOON),
    (date, "2026-11-21", date(2026, 11, 21)),
    (time, "12:30:00", time(12, 30)),
    (UUID, str(NUMBER), NUMBER),
    (Decimal, "1.10", Decimal("1.10")),
    (Colour, "red", Colour.RED),
    (Colour, 1, Colour.ONE),
    (Level, 1, Level.LOW),
    (Name, "ann", Name.ANN),
    (Case, "LOWER", Case.LOWER),
    (Right, 3, Right.READ | Right.WRITE),
    (Literal["a", 2], 2, 2),
    (Literal[Colour.RED], "red", Colour.RED),
    (Optional[int], None, None),  # noqa: UP045
    (int | float, 3, 3),
    (float | int, 3, 3),
    (float | None, 3, 3.0),
    (Literal["auto"] | int | None, "auto", "auto"),
    (Literal["auto"] | str, "other", "other"),
    (int | list[str] | User, {"name": "Ann"}, User("Ann")),
    (list[int], [1, 2], [1, 2]),
    (list[int], (1, 2), [1, 2]),
    (Sequence[int], [1], [1]),
    (list, ["x", 1], ["x", 1]),
    (set[int], [1, 2, 1], {1, 2}),
    (frozenset[str], ["a"], frozenset("a")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, str], [1, "a"], (1, "a")),
    (tuple[()], [], ()),
    (tuple, [1, "a"], (1, "a")),
    (dict[str, Colour], {"a": "red"}, {"a": Colour.RED}),
    (dict[int, str], {"1": "a", 2: "b"}, {1: "a", 2: "b"}),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
    (dict, {"a": 1}, {"a": 1}),
    (Point, [1, 2], Point(1, 2.0)),
    (Point, [1], Point(1)),
    (Address, {"city": "Rome", "more": 1}, {"city": "Rome"}),
    (User, {"name": "Ann", "unknown": 1}, User("Ann")),
    (
        User,
        {"name": "Ann", "age": 3, "friends": [{"name": "Bob", "address": {"city": "Rome", "code": 5}}]},
        User("Ann", 3, [User("Bob", address={"city": "Rome", "code": 5})]),
    ),
    (User, User("Ann"), User("Ann")),
    (Page[User], {"items": [{"name": "Ann"}], "following": None}, Page(items=[User("Ann")])),
    (Page[list[int]], {"items": [[1]], "following": [2]}, Page(items=[[1]], following=[2])),
    (Checked, {"number": 2, "double": 7}, Checked(2)),
    (UserId, 5, 5),
    (Annotated[int, "positive"], 5, 5),
    (Annotated[int, {"no": "hash"}], 5, 5),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), FITS)
def test_what_fits(annotation: Any, value: Any, expected: Any) -> None:
    found = convert(annotation, value)
    assert found == expected
    assert type(found) is type(expected)


MISFITS: list[tuple[Any, Any, str]] = [
    (int, "x", "int: 'x' is no int"),
    (int, True, "int: True is no int"),
    (int, 1.0, "int: 1.0 is no int"),
    (int, None, "int: None is no int"),
    (float, True, "float: True is no float"),
    (float, "1", "float: '1' is no float"),
    (float, 10**400, "is no float"),
    (bool, 1, "bool: 1 is no bool"),
    (str, b"x", "str: b'x' is no str"),
    (bytes, "x", "bytes: 'x' is no bytes"),
    (None, 0, "None: 0 is not None"),
    (datetime, "yesterday", "datetime: 'yesterday' is no datetime"),
    (datetime, 5, "datetime: 5 is no datetime"),
    (date, NOON, "a value of type datetime is no date"),
    (UUID, "x", "UUID: 'x' is no UUID"),
    (Decimal, "x", "Decimal: 'x' is no Decimal"),
    (Colour, "blue", "Colour: 'blue' is no Colour"),
    (Colour, True, "Colour: True is no Colour"),
    (Colour, [1], "Colour: a value of type list is no Colour"),
    (Case, "x", "Case: 'x' is no Case"),
    (Right, 8, "Right: 8 is no Right"),
    (Literal["a", "b"], "c", "'c' is no 'a' or 'b'"),
    (Literal[1], True, "True is no 1"),
    (Literal["a"], ["a"], "a value of type list is no 'a'"),
    (int | None, "x", "'x' is no int or None"),
    (int | None, True, "True is no int"),
    (list[int], "12", "'12' is no list"),
    (list[int], {"a": 1}, "a value of type dict is no list"),
    (list[int], [1, "x"], "list[int][1]: 'x' is no int"),
    (set[Any], [[1]], "has an element that can't be in a set"),
    (tuple[int, str], [1], "has 1 elements, where tuple has 2"),
    (tuple[int, str], [1, 2], "[1]: 2 is no str"),
    (tuple[()], [1], "has 1 elements, where tuple has 0"),
    (dict[str, int], {"a": "x"}, "['a']: 'x' is no int"),
    (dict[str, int], {5: 1}, "[5]: 5 is no str"),
    (dict[int, str], {"07": "a"}, "['07']: '07' is no int"),
    (dict[int, str], {"x": "a"}, "['x']: 'x' is no int"),
    (dict[str, int], [1], "a value of type list is no dict"),
    (Point, [], "Point: has 0 elements, where Point has 1 to 2"),
    (Point, [1, 2, 3], "Point: has 3 elements, where Point has 1 to 2"),
    (Point, {"x": 1}, "a value of type dict is no Point"),
    (Point, [1, "y"], "Point[1]: 'y' is no float"),
    (Address, {}, "Address.city: is missing"),
    (Address, {"city": "Rome", "code": "x"}, "Address.code: 'x' is no int"),
    (User, {"name": "Ann", "age": "x"}, "User.age: 'x' is no int"),
    (User, {}, "User.name: is missing"),
    (User, ["Ann"], "User: a value of type list is no User"),
    (User, {"name": "a", "friends": [{"name": "b", "friends": [{"name": 3}]}]}, "User.friends[0].friends[0].name: 3"),
    (User, {"name": "a", "address": {"city": 1}}, "User.address.city: 1 is no str"),
    (Page[User], {"items": [{}]}, ".items[0].name: is missing"),
    (Checked, {"number": -1}, "Checked: is no Checked: negative"),
]


@pytest.mark.parametrize(("annotation", "value", "told"), MISFITS)
def test_what_does_not_fit_says_where(annotation: Any, value: Any, told: str) -> None:
    with pytest.raises(DecodeError) as caught:
        convert(annotation, value)
    assert told in str(caught.value)


def test_what_is_told_of_a_value_fits_into_a_line() -> None:
    for value in ("x" * 10_000, b"\n" * 10_000, "\x1b[2J\n", 10**5000, [0] * 10_000, {"a": "\ud800"}, "\ud800"):
        with pytest.raises(DecodeError) as caught:
            convert(list[dict[str, bool]], [{"\n" * 1000: value}])
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()


def test_a_class_that_contains_itself_may_be_nested_deep_but_not_without_end() -> None:
    value: dict[str, Any] = {"name": "last"}
    for _ in range(100):
        value = {"name": "x", "friends": [value]}
    depth, user = 0, convert(User, value)
    while user.friends:
        depth, user = depth + 1, user.friends[0]
    assert depth == 100
    for _ in range(100_000):
        value = {"name": "x", "friends": [value]}
    with pytest.raises(DecodeError, match="nested too deep"):
        convert(User, value)
    conversion = payload_conversion(takes_user, convert)
    assert conversion is not None
    with pytest.raises(DecodeError, match="user: nested too deep"):
        conversion(value)
    while value:  # which Python would free by as deep a recursion
        value = value["friends"].pop() if value.get("friends") else {}


def takes_user(user: User) -> None: ...


class Plain:
    pass


@dataclass
class WithInitVar:
    x: dataclasses.InitVar[int]


@dataclass
class WithBareInitVar:
    constant: ClassVar[Plain]
    other: ClassVar = 5
    x: dataclasses.InitVar


@dataclass
class Unresolved:
    x: "NoSuchName"  # type: ignore[name-defined]  # noqa: F821


@dataclass
class HasPlain:
    plain: Plain


class Bytes(bytearray):
    pass


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (Plain, "Plain is nothing that rabbitry.convert makes"),
        (complex, "complex is nothing"),
        (timedelta, "timedelta is nothing"),
        (bytearray, "bytearray is nothing"),
        (Bytes, "Bytes is nothing"),
        (Callable[[int], int], "is nothing"),
        (type[int], "is nothing"),
        (T, "~T is nothing"),
        (Page, "Page.items: ~T is nothing"),
        ("User", "User is nothing"),
        ({"a": 1}, "is nothing"),
        (5, "5 is nothing"),
        (list[Plain], "Plain is nothing"),
        (HasPlain, "HasPlain.plain: Plain is nothing"),
        (WithInitVar, "WithInitVar has an InitVar, x,"),
        (WithBareInitVar, "WithBareInitVar has an InitVar, x,"),
        (Unresolved, "Unresolved has an annotation that can't be evaluated, name 'NoSuchName'"),
        (User | Page[int], "can't be told apart by its values, as a dict may be User and Page"),
        (User | dict[str, Any], "can't be told apart"),
        (list[int] | list[str], "can't be told apart"),
        (str | datetime, "can't be told apart by its values, as a str may be str and datetime"),
        (list[str | Colour], "can't be told apart"),
    ],
)
def test_what_can_not_be_read_for_certain_is_refused_before_a_value_comes(annotation: Any, told: str) -> None:
    for value in (None, {}, []):
        with pytest.raises(TypeError) as caught:
            convert(annotation, value)
        assert told in str(caught.value)
        assert "annotate it with Any" in str(caught.value)


# --- there and back ---------------------------------------------------------------------------------------------------


@dataclass
class Everything:
    user: User
    at: datetime
    on: date
    until: time
    id: UUID
    price: Decimal
    colour: Colour
    level: Level
    point: Point
    tags: frozenset[str]
    by_number: dict[int, tuple[str, ...]]
    nothing: None = None


EVERYTHING = Everything(
    User("Ann", friends=[User("Bob")]),
    NOON,
    date(2026, 1, 2),
    time(1, 2),
    NUMBER,
    Decimal("1.10"),
    Colour.RED,
    Level.LOW,
    Point(1, 2.5),
    frozenset(("a", "b")),
    {},
)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_encoded_is_converted_to_the_same(codec: str, wrapped: bool) -> None:
    value: Any = {"list": [EVERYTHING]} if wrapped else EVERYTHING
    message = Message.encode(value, codec=codec)
    annotation: Any = dict[str, list[Everything]] if wrapped else Everything
    assert convert(annotation, decode_body(message.body, message.content_type, None)) == value


def test_json_has_keys_of_text_and_times_without_zones() -> None:
    @dataclass
    class Both:
        by_number: dict[int, str]
        at: datetime

    both = Both({1: "a", -20: "b"}, NOON.replace(tzinfo=None))
    assert convert(Both, json.loads(Message.json(both).body)) == both
    with pytest.raises(ValueError, match="without a time zone"):
        Message.msgpack(both)


@pytest.mark.parametrize(
    ("encode", "value", "error", "told"),
    [
        (Message.json, {"a": b"x"}, TypeError, "JSON has no bytes"),
        (Message.json, Plain(), TypeError, "type Plain is not serializable as JSON"),
        (Message.msgpack, Plain(), TypeError, "type Plain is not serializable as MessagePack"),
        (Message.json, User, TypeError, "type type is not serializable"),
        (Message.msgpack, User, TypeError, "type type is not serializable"),
        (Message.msgpack, 2**64, OverflowError, "out of range"),
        (Message.msgpack, [-(2**63) - 1], OverflowError, "64 bits"),
        (Message.json, timedelta(1), TypeError, "timedelta"),
    ],
)
def test_what_has_no_form_is_refused(
    encode: Callable[[Any], Message], value: Any, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        encode(value)


def test_a_value_that_contains_itself_can_not_be_sent() -> None:
    user = User("Ann")
    user.friends.append(user)
    for encode in (Message.json, Message.msgpack):
        with pytest.raises((ValueError, RecursionError)):
            encode(user)


# --- functions --------------------------------------------------------------------------------------------------------


class Callable_:
    def __call__(self, user: User) -> None: ...

    def method(self, user: "User", *more: int, **named: float) -> "User":
        return user


def test_what_is_said_of_parameters_is_found_wherever_it_is_written() -> None:
    from functools import partial, wraps

    def decorated(function: Any) -> Any:
        @wraps(function)
        def inner(*args: Any) -> Any:
            return function(*args)

        return inner

    def unannotated(user): ...  # type: ignore[no-untyped-def]
    def anything(user: Any) -> None: ...
    def with_a_default(user: User, database: Plain = Plain()) -> None: ...  # noqa: B008

    for function in (takes_user, Callable_(), Callable_().method, partial(takes_user), decorated(takes_user)):
        conversion = payload_conversion(function, convert)
        assert conversion is not None
        assert conversion({"name": "Ann"}) == User("Ann")
        with pytest.raises(DecodeError, match=r"^user.age: 'x' is no int$"):
            conversion({"name": "Ann", "age": "x"})
    for function in (unannotated, anything, lambda x: x, len, print, lambda: None):
        assert payload_conversion(function, convert) is None
    assert payload_conversion(takes_user, None) is None
    assert payload_conversion(with_a_default, convert) is not None
    with pytest.raises(TypeError, match="database: Plain is nothing"):
        argument_conversions(with_a_default, convert)
    assert set(argument_conversions(Callable_().method, convert)) == {"user", "more", "named"}
    assert result_conversion(Callable_.method, convert) is not None
    assert result_conversion(unannotated, convert) is None


def test_an_annotation_that_can_not_be_evaluated_is_refused_and_only_where_it_is_needed() -> None:
    def unknown(user: "NoSuchName") -> int: ...  # type: ignore[name-defined]  # noqa: F821
    def gives(user: User) -> "NoSuchName": ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"unknown can't be evaluated, name 'NoSuchName' is not defined"):
        payload_conversion(unknown, convert)
    with pytest.raises(TypeError, match=r"gives can't be evaluated"):
        result_conversion(gives, convert)
    assert result_conversion(unknown, convert) is not None
    assert payload_conversion(gives, convert) is not None
    assert payload_conversion(unknown, None) is None


@pytest.mark.parametrize(
    ("annotation", "value"), [(dict[Decimal, int], {"sNaN": 1}), (dict[list[int], int], {(1,): 2})]
)
def test_a_key_without_a_hash_does_not_fit(annotation: Any, value: Any) -> None:
    """Any other error would have a peer's message come again for ever."""
    with pytest.raises(DecodeError, match="can't be a key of a dict"):
        convert(annotation, value)


def test_what_a_hook_raises_is_a_decode_error_with_its_text_in_one_line() -> None:
    def hook(annotation: Any, value: Any) -> Any:
        if value == "interrupt":
            raise KeyboardInterrupt
        raise {"odd": Odd(), "empty": KeyError()}.get(value, ValueError(f"{annotation.__name__}?\n" * 10_000))

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    conversion = payload_conversion(takes_user, hook)
    assert conversion is not None
    for value, told in (("x", r"^user: User\?\\n"), ("odd", "can't be had"), ("empty", "^user: KeyError$")):
        with pytest.raises(DecodeError, match=told) as caught:
            conversion(value)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 2100
        assert caught.value.__cause__ is not None
    with pytest.raises(KeyboardInterrupt):
        conversion("interrupt")
    with pytest.raises(TypeError, match="convert is a plain function"):
        payload_conversion(takes_user, 5)  # type: ignore[arg-type]


def test_msgspec_and_pydantic_by_a_line() -> None:
    msgspec, pydantic = pytest.importorskip("msgspec"), pytest.importorskip("pydantic")

    class Struct(msgspec.Struct):  # type: ignore[name-defined,misc]
        number: int

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        number: int

    def by_msgspec(one: Struct) -> None: ...
    def by_pydantic(one: Model) -> None: ...

    hooks = (
        (by_msgspec, Struct, lambda annotation, value: msgspec.convert(value, annotation)),
        (by_pydantic, Model, lambda annotation, value: pydantic.TypeAdapter(annotation).validate_python(value)),
    )
    for function, kind, hook in hooks:
        conversion = payload_conversion(function, hook)
        assert conversion is not None
        assert conversion({"number": 5}) == kind(number=5)
        with pytest.raises(DecodeError, match=r"^one: .*number"):
            conversion({"number": "x"})
        with pytest.raises(TypeError, match=r"is nothing that rabbitry.convert makes"):
            payload_conversion(function, convert)

    def bounded(number: Annotated[int, msgspec.Meta(gt=0)]) -> None: ...

    conversion = payload_conversion(bounded, hooks[0][2])
    assert conversion is not None and conversion(1) == 1
    with pytest.raises(DecodeError, match=">= 1"):
        conversion(0)


# --- handlers of deliveries -------------------------------------------------------------------------------------------


class Fake:
    def __init__(self, value: Any) -> None:
        self.value = value

    def decode(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_a_handler_gets_the_payload_and_the_delivery_where_it_asks_for_it() -> None:
    delivery = Fake({"name": "Ann"})
    ann = User("Ann")

    def payload(user: User) -> Any:
        return (user,)

    def both(user: User, delivery: Any) -> Any:
        return user, delivery

    def named(user: User, delivery: Any = None) -> Any:
        return user, delivery

    def default(user: User, retries: int = 3) -> Any:
        return user, retries

    def rest(*users: User) -> Any:
        return users

    for handler, expected in (
        (payload, (ann,)),
        (both, (ann, delivery)),
        (named, (ann, delivery)),
        (default, (ann, 3)),
        (rest, (ann,)),
        (lambda user: (user,), ({"name": "Ann"},)),
    ):
        assert typed(handler, convert)(delivery) == expected


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda a, b, c: None,
        lambda *, user: None,
        lambda user, *, more: None,
        5,
        None,
    ],
)
def test_what_can_not_be_called_with_a_payload_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError):
        typed(handler, convert)


def test_convert_is_public() -> None:
    assert rabbitry.convert is convert and convert.__module__ == "rabbitry"
