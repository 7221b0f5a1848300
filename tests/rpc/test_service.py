"""Services: several functions at one queue, called by name through an object that has the interface's types."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

import rabbitry
from rabbitry import Service
from tests.support.clients import some_queue
from tests.support.helpers import exclusive_queue, unique


class Calculator(Protocol):
    async def add(self, a: int, b: int = 1) -> int:
        """The sum."""
        ...

    async def divide(self, a: float, *, by: float) -> float: ...


class Implementation:
    """Of a `Calculator`, with more that the protocol does not have."""

    def __init__(self) -> None:
        self.callable_attribute = print
        self.calls: list[str] = []

    async def add(self, a: int, b: int = 1) -> int:
        self.calls.append("add")
        return a + b

    def divide(self, a: float, *, by: float) -> float:  # in a thread
        return a / by

    async def more(self) -> str:
        return "more"

    async def _secret(self) -> str:
        raise AssertionError("called")

    @property
    def computed(self) -> Callable[[], None]:
        raise AssertionError("looked up")


async def double(number: int) -> int:
    return 2 * number


def triple(number: int) -> int:
    return 3 * number


@pytest.mark.parametrize("codec", ["msgpack", "json"])
async def test_a_bound_interface_calls_the_methods_of_an_object(amqp_url: str, codec: str) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(connection.serve, queue, Service(Implementation()), codec=codec))
            async with connection.rpc(codec=codec) as rpc:
                calculator = rpc.bind(Calculator, queue)
                assert await calculator.add(1, 2) == 3
                assert await calculator.add(a=5) == 6
                assert await calculator.divide(1, by=4) == 0.25
                with pytest.raises(rabbitry.RemoteError, match="ZeroDivisionError"):
                    await calculator.divide(1, by=0)
                assert await rpc.call(queue, {"args": [], "kwargs": {}}, method="more") == "more"
            tg.cancel_scope.cancel()


async def test_a_client_binds_too_and_serves_a_list_of_functions(amqp_url: str) -> None:
    class Multiplier(Protocol):
        async def double(self, number: int) -> int: ...
        async def triple(self, number: int) -> int: ...

    async with some_queue(amqp_url) as queue, rabbitry.open_client(amqp_url) as client:
        async with anyio.create_task_group() as tg, client.rpc() as rpc:
            await tg.start(partial(client.serve, queue, [double, triple]))
            multiplier = rpc.bind(Multiplier, queue, idempotent=True)
            assert (await multiplier.double(3), await multiplier.triple(3)) == (6, 9)
            client.stop_consuming()
        async with client.rpc() as rpc:
            with pytest.raises(rabbitry.Unroutable):
                await rpc.bind(Multiplier, unique()).double(3)


async def test_wrong_arguments_and_names_reach_the_caller_and_nothing_runs(amqp_url: str) -> None:
    service = Implementation()
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, connection.rpc() as rpc:
            tg.start_soon(partial(connection.serve, queue, Service(service)))
            calculator: Any = rpc.bind(Calculator, queue)
            for arguments, text in (
                ((), "missing a required argument: 'a'"),
                ((1, 2, 3), "too many positional arguments"),
            ):
                with pytest.raises(rabbitry.RemoteError, match=text) as caught:
                    await calculator.add(*arguments)
                assert caught.value.type_name == "TypeError"
            with pytest.raises(rabbitry.RemoteError, match="unexpected keyword argument 'c'"):
                await calculator.add(1, c=2)
            for payload in (
                [1, 2],
                {"args": [1]},
                {"args": 1, "kwargs": {}},
                {"args": [1], "kwargs": {"a": 1}, "c": 2},
                None,
            ):
                with pytest.raises(rabbitry.RemoteError) as caught:
                    await rpc.call(queue, payload, method="add")
                assert caught.value.type_name == "TypeError"
            for name in (
                "_secret",
                "__init__",
                "__class__",
                "callable_attribute",
                "computed",
                "calls",
                "",
                "adds",
                None,
            ):
                with pytest.raises(rabbitry.RemoteError, match="there are add, divide, more") as caught:
                    await rpc.call(queue, {"args": [], "kwargs": {}}, method=name)
                assert caught.value.type_name == "AttributeError"
            tg.cancel_scope.cancel()
    assert service.calls == []


def test_what_a_service_is_made_of() -> None:
    class Empty:
        attribute = 1

    assert Service(Implementation()).methods == ("add", "divide", "more")
    assert Service(Implementation(), interface=Calculator).methods == ("add", "divide")
    assert Service(double, {"math.triple": triple}).methods == ("double", "math.triple")
    for parts, text in (
        ((), "at least one"),
        ((Empty(),), "at least one"),
        ((object(),), "made of functions"),
        ((Implementation,), "not the class"),
        (([double],), r"Service\(\*functions\)"),
        (("double",), r"Service\(\*functions\)"),
        ((double, {"double": triple}), "two methods named 'double'"),
        (({"_private": double},), "public"),
        (({"x": 1},), "must be a function"),
        ((lambda: 1,), "public"),
    ):
        with pytest.raises(TypeError, match=text):
            Service(*parts)
    with pytest.raises(TypeError, match="methods that nothing here has: divide"):
        Service({"add": double}, interface=Calculator)


async def test_a_bound_object_has_the_interface_and_nothing_else(amqp_url: str) -> None:
    class Sync:
        def add(self) -> None: ...

    class Empty(Protocol): ...

    async with rabbitry.connect(amqp_url) as connection, connection.rpc() as rpc:
        calculator = rpc.bind(Calculator, "calculator")
        assert repr(calculator) == "<Calculator served at 'calculator'>"
        assert [name for name in vars(calculator) if not name.startswith("_")] == ["add", "divide"]
        assert inspect.iscoroutinefunction(calculator.add)
        assert calculator.add.__doc__ == "The sum."
        with pytest.raises(TypeError, match=r"Sync.add must be 'async def'"):
            rpc.bind(Sync, "x")
        with pytest.raises(TypeError, match="no public method"):
            rpc.bind(Empty, "x")
        with pytest.raises(TypeError, match="takes a class"):
            rpc.bind(lambda: 1, "x")


async def test_raw_is_for_one_handler(amqp_url: str) -> None:
    async with rabbitry.connect(amqp_url) as connection:
        with pytest.raises(ValueError, match="raw"):
            await connection.serve("x", [double], raw=True)


async def test_the_traceback_is_sent_only_where_the_server_allows_it(amqp_url: str) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def fail(how: str) -> None:
        raise Odd if how == "odd" else ValueError(f"no {how}")

    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        closed, told = await exclusive_queue(channel), await exclusive_queue(channel)
        async with anyio.create_task_group() as tg, connection.rpc() as rpc:
            tg.start_soon(connection.serve, closed, fail)
            tg.start_soon(partial(connection.serve, told, fail, send_traceback=True))
            with pytest.raises(rabbitry.RemoteError, match="ValueError: no way") as caught:
                await rpc.call(closed, "way")
            assert caught.value.traceback is None
            with pytest.raises(rabbitry.RemoteError, match="ValueError: no way") as caught:
                await rpc.call(told, "way")
            assert caught.value.text == "no way"
            assert "test_service.py" in (caught.value.traceback or "")
            with pytest.raises(rabbitry.RemoteError, match=r"Odd.*can't be had: RuntimeError"):
                await rpc.call(told, "odd")
            tg.cancel_scope.cancel()


# --- for type checkers ------------------------------------------------------------------------------------------------

RIGHT = """
from typing import Protocol
import rabbitry

class Calculator(Protocol):
    async def add(self, a: int, b: int = 1) -> int: ...

async def main(rpc: rabbitry.RPC, client_rpc: rabbitry.ClientRPC) -> int:
    calculator = client_rpc.bind(Calculator, "calculator", idempotent=True)
    same: Calculator = rpc.bind(Calculator, "calculator", exchange="x", convert=None)
    message: rabbitry.Message = await client_rpc.request(rabbitry.Message(b"x"), "calculator", idempotent=True)
    return await calculator.add(1, b=2) + await same.add(3)
"""
WRONG = {
    "an argument's type": ("add(1, b=2)", 'add("1", b=2)'),
    "an argument's name": ("add(1, b=2)", "add(1, c=2)"),
    "a method's name": ("add(1, b=2)", "sub(1, b=2)"),
    "the result's type": ("-> int:\n    calculator", "-> str:\n    calculator"),
    "what a request gives": ("message: rabbitry.Message", "message: bytes"),
    "a converter": ("convert=None", "convert=5"),
    "what is bound": ("same: Calculator", "same: str"),
}
CHECKERS = {
    "mypy": ("mypy", "--strict", "--no-error-summary", "--no-pretty", "--cache-dir"),
    "pyright": ("pyright", "--pythonpath", sys.executable),
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_accept_right_use_and_reject_wrong_use(checker: str, tmp_path: Path) -> None:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: it comes with the dependency group 'types'")
    files = {"right": RIGHT} | {name: RIGHT.replace(*change) for name, change in WRONG.items()}
    for number, text in enumerate(files.values()):
        (tmp_path / f"case_{number}.py").write_text(text)
    root = Path(rabbitry.__file__).parent.parent
    arguments = [*CHECKERS[checker], *([str(tmp_path / "cache")] if checker == "mypy" else [])]
    run = subprocess.run(
        [sys.executable, "-m", *arguments, *(f"case_{number}.py" for number in range(len(files)))],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "MYPYPATH": str(root), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
    )
    rejected = {
        name
        for number, name in enumerate(files)
        if any(f"case_{number}.py:" in line and "error" in line for line in run.stdout.splitlines())
    }
    assert rejected == set(WRONG), run.stdout + run.stderr
