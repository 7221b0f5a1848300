"""Types on both sides: `bind`, `Service` and `serve` give what annotations promise, or say why they can't."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Annotated, Any, Protocol

import anyio
import pytest

import rabbitry
from rabbitry import Service
from tests.rpc.test_hostile_callers import LAYERS, server
from tests.support.clients import some_queue

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


@dataclass
class User:
    name: str
    born: datetime
    colour: Colour = Colour.RED
    friends: list["User"] = field(default_factory=list)


class Users(Protocol):
    async def older(self, user: User, *, years: int = 1) -> User: ...
    async def all(self, *users: User, **named: User) -> dict[str, list[User]]: ...
    async def untyped(self, user): ...  # type: ignore[no-untyped-def]
    async def nothing(self, user: User) -> None: ...


class Server:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def older(self, user: User, *, years: int = 1) -> User:
        self.seen.append(user)
        return User(user.name, user.born.replace(year=user.born.year - years), user.colour, [user])

    def all(self, *users: User, **named: User) -> dict[str, list[User]]:  # in a thread
        self.seen.extend([*users, *named.values()])
        return {"users": list(users), "named": list(named.values())}

    async def untyped(self, user):  # type: ignore[no-untyped-def]
        return user

    async def nothing(self, user: User) -> Any:
        return user


ANN = User("Ann", NOON)


@asynccontextmanager
async def serving(url: str, handler: Any, *, layer: str = "client", **options: Any) -> AsyncIterator[tuple[str, Any]]:
    """A queue that is served, and an RPC to call there: of a client or of a connection, as its server."""
    codec = options.get("codec", "msgpack")
    async with some_queue(url) as queue, server(url, layer) as (serve, _), anyio.create_task_group() as tg:
        tg.start_soon(partial(serve, queue, handler, **options))
        if layer == "client":
            async with rabbitry.open_client(url) as client, client.rpc(codec=codec) as rpc:
                yield queue, rpc
        else:
            async with rabbitry.connect(url) as connection, connection.rpc(codec=codec) as rpc:
                yield queue, rpc
        tg.cancel_scope.cancel()


# --- bind and Service -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_what_is_promised_to_type_checkers_is_what_comes(amqp_url: str, layer: str, codec: str) -> None:
    implementation = Server()
    async with serving(amqp_url, Service(implementation, interface=Users), layer=layer, codec=codec) as (queue, rpc):
        users = rpc.bind(Users, queue)
        assert await users.older(ANN, years=3) == User("Ann", NOON.replace(year=2023), friends=[ANN])
        assert await users.all(ANN, ANN, bob=ANN) == {"users": [ANN, ANN], "named": [ANN]}
        assert (await users.untyped(ANN))["name"] == "Ann"  # nothing is promised
        with pytest.raises(rabbitry.DecodeError, match=r"^nothing\(\): a value of type dict is not None"):
            await users.nothing(ANN)
        plain = rpc.bind(Users, queue, convert=None)
        assert (await plain.older(ANN))["name"] == "Ann"
    assert implementation.seen == [ANN] * 5
    assert all(type(each) is User for each in implementation.seen)


@pytest.mark.parametrize("layer", LAYERS)
async def test_arguments_that_do_not_fit_are_told_to_the_caller_and_nothing_runs(
    amqp_url: str, layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    implementation = Server()
    async with serving(amqp_url, Service(implementation), layer=layer) as (queue, rpc):
        users: Any = rpc.bind(Users, queue)
        for call, told in (
            (partial(users.older, {"name": "Ann"}), "user.born: is missing"),
            (partial(users.older, "Ann"), "user: 'Ann' is no User"),
            (partial(users.older, User("Ann", NOON), years="x"), "years: 'x' is no int"),
            (partial(users.all, ANN, {"name": 5}), "users.name: 5 is no str"),
            (partial(users.all, bob={"name": 5}), "named.name: 5 is no str"),
            (partial(users.older, User(3, NOON)), "user.name: 3 is no str"),  # type: ignore[arg-type]
        ):
            with pytest.raises(rabbitry.RemoteError) as caught:
                await call()
            assert (caught.value.type_name, caught.value.text) == ("DecodeError", told)
        with pytest.raises(rabbitry.RemoteError) as caught:
            await users.older()
        assert caught.value.type_name == "TypeError"
        assert (await users.older(ANN)).name == "Ann"
    assert implementation.seen == [ANN]
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    assert "can't be answered: DecodeError: user.born: is missing" in caplog.text


async def test_a_reply_that_is_no_such_thing_is_a_decode_error_with_its_place(amqp_url: str) -> None:
    class Wrong(Protocol):
        async def older(self, user: User) -> list[User]: ...

    class Partly(Protocol):
        async def untyped(self, user: Any) -> User: ...

    async with serving(amqp_url, Service(Server())) as (queue, rpc):
        with pytest.raises(rabbitry.DecodeError, match=r"^older\(\): a value of type dict is no list"):
            await rpc.bind(Wrong, queue).older(ANN)
        with pytest.raises(rabbitry.DecodeError, match=r"^untyped\(\)\.friends\[0\]\.born: 'x' is no datetime"):
            await rpc.bind(Partly, queue).untyped({"name": "a", "born": NOON, "friends": [{"name": "b", "born": "x"}]})
        with pytest.raises(rabbitry.RemoteError, match="AttributeError"):  # errors are those of the call
            await rpc.bind(type("Other", (), {"no_such": Partly.untyped}), queue).no_such(1)


class Opaque:
    pass


async def test_annotations_that_can_not_be_used_are_refused_at_once(amqp_url: str) -> None:
    class Unresolved(Protocol):
        async def get(self) -> "NoSuchName": ...  # type: ignore[name-defined]  # noqa: F821

    class Odd(Protocol):
        async def get(self) -> Opaque: ...

    def takes(x: Opaque) -> None: ...
    def unresolved(x: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    async with rabbitry.open_client(amqp_url) as client, client.rpc() as rpc:
        with pytest.raises(TypeError, match=r"get can't be evaluated, name 'NoSuchName'.*convert=None"):
            rpc.bind(Unresolved, "x")
        with pytest.raises(TypeError, match=r"get, get\(\): Opaque is nothing"):
            rpc.bind(Odd, "x")
        assert rpc.bind(Odd, "x", convert=None) and rpc.bind(Odd, "x", convert=lambda annotation, value: value)
        with pytest.raises(TypeError, match="convert is a plain function"):
            rpc.bind(Users, "x", convert=5)  # type: ignore[arg-type]
        for function in (takes, unresolved):
            with pytest.raises(TypeError, match=r"Opaque is nothing|NoSuchName"):
                Service(function)
            with pytest.raises(TypeError, match=r"Opaque is nothing|NoSuchName"):
                await client.serve("x", function)
            assert Service(function, convert=None).convert is None
        service = Service(Server())
        for convert in (None, lambda annotation, value: value):
            with pytest.raises(ValueError, match="converter of its own"):
                await client.serve("x", service, convert=convert)
        with pytest.raises(ValueError, match="nothing to convert"):
            await client.serve("x", takes, raw=True, convert=lambda annotation, value: value)
        with pytest.raises(TypeError, match="convert is a plain function"):
            await client.serve("x", takes, convert="msgspec")  # type: ignore[arg-type]


async def test_only_the_functions_that_can_be_called_are_looked_at(amqp_url: str) -> None:
    class Both(Server):
        def opaque(self, x: Opaque) -> None: ...

    with pytest.raises(TypeError, match="Opaque is nothing"):
        Service(Both())
    assert Service(Both(), interface=Users).methods == ("all", "nothing", "older", "untyped")


# --- plain handlers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["coroutine", "thread", "object", "list"])
async def test_a_plain_handler_gets_what_its_parameter_says(
    amqp_url: str, layer: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    async def coroutine(user: User) -> User:
        seen.append(user)
        return user

    def thread(user: User) -> User:
        seen.append(user)
        return user

    class Called:
        async def __call__(self, user: User) -> User:
            return await coroutine(user)

    handlers = {"coroutine": coroutine, "thread": thread, "object": Called(), "list": [coroutine]}
    async with serving(amqp_url, handlers[kind], layer=layer) as (queue, rpc):

        async def call(value: Any) -> Any:
            if kind != "list":
                return await rpc.call(queue, value)
            return await rpc.call(queue, {"args": [value], "kwargs": {}}, method="coroutine")

        assert await call(ANN) == {"name": "Ann", "born": NOON, "colour": "red", "friends": []}
        with pytest.raises(rabbitry.RemoteError, match=r"user.name: 5 is no str") as caught:
            await call({"name": 5})
        assert caught.value.type_name == "DecodeError"
    assert seen == [ANN]
    assert not [record for record in caplog.records if record.exc_info]


async def test_what_says_nothing_gets_what_was_decoded(amqp_url: str) -> None:
    async def unannotated(payload):  # type: ignore[no-untyped-def]
        return type(payload).__name__

    async def anything(payload: Any) -> str:
        return type(payload).__name__

    async def typed(payload: User) -> str:
        return type(payload).__name__

    async def raw(delivery: rabbitry.Delivery) -> bytes:
        return type(delivery).__name__.encode()

    for handler, options, expected in (
        (unannotated, {}, "dict"),
        (anything, {}, "dict"),
        (typed, {}, "User"),
        (typed, {"convert": None}, "dict"),
        (raw, {"raw": True}, b"Delivery"),
        (raw, {"raw": True, "convert": None}, b"Delivery"),
    ):
        async with serving(amqp_url, handler, **options) as (queue, rpc):
            assert await rpc.call(queue, rabbitry.Message.msgpack(ANN).body, raw=True) == (
                expected if isinstance(expected, bytes) else rabbitry.Message.msgpack(expected).body
            )


async def test_the_handlers_own_decode_error_is_its_failure(amqp_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(number: int) -> int:
        rabbitry.convert(str, number)
        return number

    async with serving(amqp_url, handler) as (queue, rpc):
        with pytest.raises(rabbitry.RemoteError, match="5 is no str"):
            await rpc.call(queue, 5)
    assert [record for record in caplog.records if record.exc_info]


# --- other converters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
async def test_other_libraries_convert_by_a_line(amqp_url: str, library: str) -> None:
    msgspec, pydantic = pytest.importorskip("msgspec"), pytest.importorskip("pydantic")
    if library == "msgspec":
        Base, at_least_one = msgspec.Struct, msgspec.Meta(ge=1)

        def convert(annotation: Any, value: Any) -> Any:
            return msgspec.convert(value, annotation)

        codec = rabbitry.Codec("by msgspec", "application/json", msgspec.json.encode, msgspec.json.decode)
    else:
        Base, at_least_one = pydantic.BaseModel, pydantic.Field(ge=1)

        def convert(annotation: Any, value: Any) -> Any:
            return pydantic.TypeAdapter(annotation).validate_python(value)

        codec = rabbitry.Codec(
            "by pydantic",
            "application/json",
            pydantic.TypeAdapter(Any).dump_json,
            pydantic.TypeAdapter(Any).validate_json,
        )

    class Order(Base):  # type: ignore[misc,valid-type]
        amount: int

    class Orders(Protocol):
        async def double(self, order: Order, times: Annotated[int, at_least_one] = 2) -> Order: ...

    async def double(order: Order, times: Annotated[int, at_least_one] = 2) -> Order:
        assert isinstance(order, Order)
        return Order(amount=times * order.amount)

    async with serving(amqp_url, Service(double, convert=convert), codec=codec) as (queue, rpc):
        orders = rpc.bind(Orders, queue, convert=convert)
        assert await orders.double(Order(amount=2)) == Order(amount=4)
        with pytest.raises(rabbitry.RemoteError, match=r"order: .*amount") as caught:
            await orders.double({"amount": "x"})  # type: ignore[arg-type]
        assert caught.value.type_name == "DecodeError"
        with pytest.raises(rabbitry.RemoteError, match=r"times: .*1"):
            await orders.double(Order(amount=2), 0)
        with pytest.raises(TypeError, match=r"Order is nothing that rabbitry.convert makes"):
            rpc.bind(Orders, queue)


async def test_what_a_converter_raises_of_a_reply_is_a_decode_error(amqp_url: str) -> None:
    def convert(annotation: Any, value: Any) -> Any:
        assert annotation is User
        raise LookupError("no way")

    async with serving(amqp_url, Service(Server())) as (queue, rpc):
        with pytest.raises(rabbitry.DecodeError, match=r"^older\(\): no way$") as caught:

            class Older(Protocol):
                async def older(self, user: User) -> User: ...

            await rpc.bind(Older, queue, convert=convert).older(ANN)
        assert isinstance(caught.value.__cause__, LookupError)
