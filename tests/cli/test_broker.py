"""`rabbitry broker`: serves until it is interrupted, and says where."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import rabbitry
from rabbitry._cli.commands.broker import is_for_this_machine
from rabbitry._cli.flags.broker import VERSIONS
from rabbitry._cli.program import main
from rabbitry.broker.compat import COMPAT

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_serves_until_interrupted(backend: str, number: signal.Signals) -> None:
    words = ["broker", "--port", "0", "--compat", "4.0", "--json", "--backend", backend]
    with subprocess.Popen(
        [sys.executable, "-m", "rabbitry", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        told = json.loads(process.stdout.readline())

        async def use() -> None:
            async with rabbitry.connect(told["url"]) as connection, connection.channel() as channel:
                await channel.declare_queue("q")
                assert connection.server_properties["version"].startswith("4.0")

        anyio.run(use)
        ping = subprocess.run(
            [sys.executable, "-m", "rabbitry", "--url", told["url"], "ping"], cwd=ROOT, capture_output=True, text=True
        )
        assert ping.stdout.startswith("RabbitMQ 4.0.5, rabbitry embedded broker: a test double: connected in ")
        process.send_signal(number)
        assert process.wait(20) == 130
        said = process.stderr.read()
        assert "all in memory" in said and "Traceback" not in said


NO_SIGNALS = """
import asyncio, runpy, sys

def add_signal_handler(*_):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = add_signal_handler
sys.argv = ["rabbitry", "broker", "--port", "0"]
runpy.run_module("rabbitry", run_name="__main__")
"""


def test_an_event_loop_without_signals_is_ended_at_once() -> None:
    """As all of asyncio's are on Windows."""
    with subprocess.Popen(
        [sys.executable, "-c", NO_SIGNALS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("amqp://")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(("host", "is_warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_who_listens_for_the_network_is_warned(host: str, is_warned: bool) -> None:
    """On stderr: stdout has the URL and nothing else."""
    with subprocess.Popen(
        [sys.executable, "-m", "rabbitry", "broker", "--port", "0", "--host", host],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("amqp://guest:guest@")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        said = process.stderr.read()
    assert said.startswith(f"rabbitry: warning: it listens at {host}: anybody on the network can connect") == is_warned
    assert ("anybody" in said) == is_warned


def test_which_addresses_are_this_machines_own() -> None:
    assert is_for_this_machine("amqp://guest:guest@[::1]:5672") and is_for_this_machine(
        "amqp://guest:guest@127.9.9.9:1"
    )
    others = ("[::]:5672", "0.0.0.0:5672", "10.0.0.1:5672", "[fe80::1%eth0]:5672")
    assert not any(is_for_this_machine(f"amqp://guest:guest@{address}") for address in others)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["broker", "--port", str(taken.getsockname()[1])]) == 1
    said = capsys.readouterr().err
    assert "can't listen" in said and "--port 0" in said


@pytest.mark.parametrize("words", [["--port", "-1"], ["--port", "65536"], ["--port", "x"], ["--compat", "3.9"]])
def test_wrong_words(words: list[str]) -> None:
    assert main(["broker", *words]) == 2


def test_it_offers_what_there_is() -> None:
    assert set(VERSIONS) == set(COMPAT)
