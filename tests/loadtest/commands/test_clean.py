"""What broken runs have left is found and removed, and nothing else is, against a real broker."""

from __future__ import annotations

import json
import os
import pty
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import rabbitry
from loadtest.commands import clean as clean_command
from loadtest.commands.clean import Found
from loadtest.commands.program import main
from rabbitry.testing import PrivateNode

pytestmark = pytest.mark.anyio


async def clean(*words: str) -> int:
    return await anyio.to_thread.run_sync(main, ["clean", *words])


@pytest.fixture
async def left(amqp_url: str) -> AsyncIterator[str]:
    """A run that was killed: it has left queues, messages, an exchange."""
    run = f"20261130T101500Z-{secrets.token_hex(3)}"
    names = [f"loadtest.{run}.{number}" for number in (0, 1, 2, "rpc.0")]
    async with rabbitry.open_client(amqp_url) as client:
        for name in names:
            await client.declare(rabbitry.Queue(name))
            await client.publish(b"left", routing_key=name)
        await client.declare(rabbitry.Exchange(f"loadtest.{run}.exchange", "fanout"))
        yield run
        for name in names:
            await client.delete(rabbitry.Queue(name))


async def exists(url: str, queue: str) -> bool:
    async with rabbitry.connect(url) as connection:
        try:
            async with connection.channel() as channel:
                await channel.declare_queue(queue, passive=True)
        except rabbitry.NotFound:
            return False
    return True


async def test_a_run_is_cleaned_by_its_name(left: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await clean("--url", amqp_url, left, "--dry-run") == 1
    said = capsys.readouterr().out
    assert f"queue loadtest.{left}.0, 1 messages" in said and "5 to remove, 0 in use" in said
    assert await exists(amqp_url, f"loadtest.{left}.rpc.0")
    assert await clean("--url", amqp_url, left, "--yes") == 0
    assert "5 removed, 0 left" in capsys.readouterr().out
    assert not await exists(amqp_url, f"loadtest.{left}.rpc.0")
    assert await clean("--url", amqp_url, left) == 0
    assert "0 to remove, 0 in use" in capsys.readouterr().out


async def test_what_has_consumers_stays(left: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        async with channel.consume(f"loadtest.{left}.1"):
            assert await clean("--url", amqp_url, left, "--yes") == 1
    said = capsys.readouterr().out
    assert f"queue loadtest.{left}.1, 0 messages, 1 consumers: in use, it stays" in said and "4 removed" in said


async def test_streams_are_removed(amqp_url: str) -> None:
    run = f"20261130T101500Z-{secrets.token_hex(3)}"
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.declare_queue(f"loadtest.{run}.0", arguments={"x-queue-type": "stream"})
    assert await clean("--url", amqp_url, run, "--yes") == 0
    assert not await exists(amqp_url, f"loadtest.{run}.0")


async def test_quorum_queues_are_removed_but_for_those_in_use(amqp_url: str) -> None:
    run = f"20261130T101500Z-{secrets.token_hex(3)}"
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        for number in range(2):
            await channel.declare_queue(f"loadtest.{run}.{number}", arguments={"x-queue-type": "quorum"})
        async with channel.consume(f"loadtest.{run}.1", prefetch=1):
            assert await clean("--url", amqp_url, run, "--yes") == 1
    assert not await exists(amqp_url, f"loadtest.{run}.0")
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        await channel.delete_queue(f"loadtest.{run}.1")


async def test_what_may_not_be_removed_stays_and_the_rest_goes(
    node: PrivateNode, left: str, amqp_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node.rabbitmqctl("add_user", "narrow", "sesame")
    node.rabbitmqctl("set_permissions", "narrow", r"loadtest\..*\.[02]", ".*", ".*")
    try:
        assert await clean("--url", amqp_url.replace("guest:guest", "narrow:sesame"), left, "--yes") == 1
    finally:
        node.rabbitmqctl("delete_user", "narrow")
    said = capsys.readouterr().out
    assert f"queue loadtest.{left}.1 stays: " in said and "ACCESS_REFUSED" in said and "3 removed, 2 left" in said


async def test_an_interrupted_cleaning_leaves_what_the_next_one_finds(left: str, amqp_url: str) -> None:
    """Numbers are looked for from 0 until some are missing: so the last ones go first."""
    removed: list[str] = []

    async def remove(connection: rabbitry.Connection, found: Found) -> str:
        removed.append(found.name.rpartition(".")[2])
        return "not now"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loadtest.commands.clean._remove", remove)
        assert await clean("--url", amqp_url, left, "--yes") == 1
    assert removed == ["exchange", "0", "2", "1", "0"]


async def test_a_run_is_cleaned_by_its_result(left: str, amqp_url: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"run_id": left, "trials": None}))
    assert await clean("--url", amqp_url, str(file), "--yes") == 0
    assert not await exists(amqp_url, f"loadtest.{left}.0")


@pytest.mark.parametrize("by", ["its result", "its name", "its trials"])
async def test_what_workloads_left_is_cleaned(
    by: str, amqp_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = f"20261130T101500Z-{secrets.token_hex(3)}", tmp_path / "result.json"
    names = [f"loadtest.{run}.{name}" for name in ("steady.0", "steady.1", "no-isy.0", "no-isy.rpc.0")]
    async with rabbitry.connect(amqp_url) as connection, connection.channel() as channel:
        for name in names:
            await channel.declare_queue(name)
    result = {"run_id": run, "trials": None, "workloads": [{"name": "steady"}, {"name": "no-isy"}]}
    if by == "its trials":
        result |= {"run_id": "20261130T101500Z-000000", "trials": [{"run_id": run}]}
    file.write_text(json.dumps(result), encoding="utf-16")
    assert await clean("--url", amqp_url, run) == 0
    assert "nothing has these names; --management URL finds" in capsys.readouterr().out
    words = [f"{run}.steady", f"{run}.no-isy"] if by == "its name" else [str(file)]
    assert await clean("--url", amqp_url, *words, "--yes") == 0
    assert "4 removed, 0 left" in capsys.readouterr().out
    assert not any([await exists(amqp_url, name) for name in names])


class Away:
    """A connection to a cluster, a node of which is down: what RabbitMQ says of a queue there."""

    @asynccontextmanager
    async def channel(self, **_: Any) -> AsyncIterator[Away]:
        yield self

    async def declare_queue(self, name: str, **_: Any) -> None:
        text = f"NOT_FOUND - home node 'rabbit@b' of durable queue '{name}' in vhost '/' is down or inaccessible"
        raise rabbitry.NotFound(text, code=404)


async def test_a_queue_whose_node_is_down_is_not_gone() -> None:
    connection: Any = Away()
    found = await clean_command._look(connection, "loadtest.x.0")
    assert found == Found("queue", "loadtest.x.0", is_away=True) and "its node is down" in found.why_it_stays
    assert "down or inaccessible" in await clean_command._remove(connection, found)


async def test_nothing_is_removed_unasked(left: str, amqp_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await clean("--url", amqp_url, left) == 2
    assert "say --yes to remove these 5" in capsys.readouterr().err
    assert await exists(amqp_url, f"loadtest.{left}.0")


def answer_at_a_terminal(command: list[str], answer: bytes | None) -> int:
    """The exit code of a program that is answered when it asks, with Ctrl-C if there is no other answer."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL) as process:
            said = b""
            while b"[y/N]" not in said:
                said += os.read(ours, 1000)
            if answer is None:
                process.send_signal(signal.SIGINT)
            else:
                os.write(ours, answer)
            return process.wait(30)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(("answer", "code", "stays"), [(b"n\n", 2, True), (b"y\n", 0, False), (None, 130, True)])
async def test_who_sits_at_the_terminal_is_asked(
    answer: bytes | None, code: int, stays: bool, left: str, amqp_url: str
) -> None:
    """And may answer with Ctrl-C, which ends it at once: nothing waits for another key."""
    command = [sys.executable, "-m", "loadtest", "clean", "--url", amqp_url, left]
    assert await anyio.to_thread.run_sync(answer_at_a_terminal, command, answer) == code
    assert await exists(amqp_url, f"loadtest.{left}.0") is stays


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "say which runs"),
        (("nowhere.json",), "neither a file nor the name of a run"),
        (("{file}",), "this is no result"),
        (("--management", "amqp://localhost"), "write it as http://user:password@host:15672"),
    ],
)
async def test_refusals(words: tuple[str, ...], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text('{"run_id": "../everything"}')
    given = [word.format(file=tmp_path / "file") for word in words]
    assert await clean("--url", "amqp://me:sesame@127.0.0.1:1", *given) in (2, 4)
    said = capsys.readouterr().err
    assert (text in said or "--management" in words) and "sesame" not in said


async def test_no_broker(capsys: pytest.CaptureFixture[str]) -> None:
    assert await clean("--url", "amqp://me:sesame@127.0.0.1:1", "20261130T101500Z-a1b2c3") == 4
    said = capsys.readouterr().err
    assert said.startswith("loadtest clean: ") and "sesame" not in said
