"""`call`, and what `serve` answers with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import rabbitry
from rabbitry._cli.commands.rpc import load_function, run_shell, shell_handler
from rabbitry._cli.output import CommandError
from tests.cli import functions
from tests.cli.conftest import Cli
from tests.cli.test_commands import BACKENDS
from tests.support.helpers import open_channel, unique, until


@contextmanager
def served(url: str, queue: str, handler: Callable[[Any], Any], **options: Any) -> Iterator[None]:
    """A server in a thread."""

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with rabbitry.open_client(url) as client:
            await client.serve(queue, handler, task_status=task_status, **options)

    with start_blocking_portal() as portal:
        future, _ = portal.start_task(serve)
        try:
            yield
        finally:
            future.cancel()


# --- call -----------------------------------------------------------------------------------------------------------


@BACKENDS
def test_a_call(cli: Cli, queue: str, amqp_url: str, backend: str) -> None:
    for codec, body, reply in (
        *(("json", "21", b"42\n"), ("json", '["a"]', b'["a","a"]\n'), ("msgpack", '"x"', b"xx\n")),
        ("text", "hé", "héhé\n".encode()),
    ):
        with served(amqp_url, queue, functions.double, codec=codec):
            done = cli("call", queue, body, "--codec", codec, "--backend", backend)
            assert (done.code, done.out, done.err) == (0, reply, "")
    with served(amqp_url, queue, functions.double, codec="json"):
        call = partial(cli, "call", queue, "--codec", "json")
        assert call("21", "--json").records == [{"reply": 42}]
        assert call('"\\u009b"').out == b"\xc2\x9b\xc2\x9b\n"  # no terminal: as it is
        assert call('["\\u009b"]').out == b'["\\u009b","\\u009b"]\n'
        failed = call("null")
        assert (failed.code, "TypeError" in failed.err) == (1, True)


def test_a_call_of_a_server_at_its_defaults(cli: Cli, queue: str, amqp_url: str) -> None:
    with served(amqp_url, queue, functions.double):
        assert cli("call", queue, "21").out == b"42\n"
        refused = cli("call", queue, "21", "--codec", "json")
        assert (refused.code, "codec 'msgpack'" in refused.err) == (1, True)


def test_raw_bytes(cli: Cli, queue: str, amqp_url: str) -> None:
    body = bytes(range(256))

    async def echo(request: rabbitry.Delivery) -> bytes:
        return request.body

    with served(amqp_url, queue, echo, raw=True):
        assert cli("call", queue, "-", "--codec", "raw", stdin=body).out == body
        (record,) = cli("call", queue, "-", "--codec", "raw", "--json", stdin=b"\xff").records
        assert record == {"reply_base64": "/w=="}


def test_replies_that_are_no_text_and_no_json(cli: Cli, queue: str, amqp_url: str) -> None:
    """None makes the program fail, and nothing of them is left out."""
    replies = {"keys": {b"\xffk": 1, "2": {b"k": 5}}, "nan": [float("nan")], "numbers": {2: 3}}
    with served(amqp_url, queue, lambda name: replies[name], codec="msgpack"):
        for name, shown in (
            ("keys", b'{"\\\\xffk":1,"2":{"k":5}}\n'),
            ("nan", b'[{"$float":"nan"}]\n'),
        ):
            done = cli("call", queue, f'"{name}"', "--codec", "msgpack")
            assert (done.code, done.out, done.err) == (0, shown, "")
        numbers = cli("call", queue, '"numbers"', "--codec", "msgpack")
        assert (numbers.code, "a map has a key that is no text" in numbers.err) == (1, True)
    with served(
        amqp_url, queue, lambda _: rabbitry.Message(b'"\\ud800"', content_type="application/json"), codec="json"
    ):
        assert cli("call", queue, "1", "--codec", "json").out == b"\\ud800\n"
    assert "--codec raw takes any bytes" in cli("call", queue, "-", "--codec", "text", stdin=b"\xff").err


def test_no_reply(cli: Cli, queue: str) -> None:
    unserved = cli("call", unique(), "1")
    assert (unserved.code, "no queue is bound" in unserved.err) == (1, True)
    late = cli("call", queue, "1", "--timeout", "100ms")
    assert (late.code, late.err) == (1, "rabbitry: no reply within 0.1 s\n")


# --- serve ----------------------------------------------------------------------------------------------------------


async def test_a_command_answers(amqp_url: str) -> None:
    async with open_channel(amqp_url) as channel, rabbitry.open_client(amqp_url) as client:
        queue = unique()
        await channel.declare_queue(queue, exclusive=False, auto_delete=True)
        handler = shell_handler("tr a-z A-Z", "text/plain")
        async with anyio.create_task_group() as tg, client.rpc(codec="text") as rpc:
            await tg.start(lambda *, task_status: client.serve(queue, handler, raw=True, task_status=task_status))
            assert await rpc.call(queue, "$(id); `id`\0") == "$(ID); `ID`\0"  # which no shell has seen
            tg.cancel_scope.cancel()


async def test_a_command_that_fails() -> None:
    with pytest.raises(CommandError, match="ended with status 3"):
        await run_shell("cat > /dev/null; exit 3", b"x")
    with pytest.raises(CommandError, match="was ended by signal 15"):
        await run_shell("kill $$", b"x")


async def test_a_command_that_does_not_read_its_stdin() -> None:
    assert await run_shell("echo done", bytes(1_000_000)) == b"done\n"


async def test_a_command_may_answer_before_it_has_read_all() -> None:
    body = os.urandom(1_000_000)
    assert await run_shell("cat", body) == body


@pytest.mark.parametrize("last", ["wait", ":"], ids=["waited for", "left behind by the shell"])
async def test_a_command_that_is_given_up_dies_with_its_children(tmp_path: Any, last: str) -> None:
    marker = tmp_path / "pid"
    with anyio.move_on_after(20) as scope:

        async def give_up() -> None:
            await until(lambda: marker.exists() and marker.read_text().endswith("\n"))
            scope.cancel()

        async with anyio.create_task_group() as tg:
            tg.start_soon(give_up)
            await run_shell(f"sleep 30 & echo $! > {marker}; {last}", b"")
    assert scope.cancel_called
    await until(lambda: not is_alive(int(marker.read_text())))


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("code", ["raise SystemExit(7)", "1 / 0", "def f(:"])
def test_a_module_that_fails_is_named(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(f"\n{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CommandError, match=r"^--function 'failing:f': \w+: .*failing.py, line 2\)") as raised:
        load_function("failing:f")
    assert raised.value.code == 2
