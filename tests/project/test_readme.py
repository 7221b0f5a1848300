"""The README: its programs run as written, its tables say what is."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import rabbitry
from loadtest.commands.flags import parse_settings
from loadtest.commands.program import COMMANDS
from loadtest.commands.program import main as load_tester
from rabbitry.testing.hosting import broker_in_a_thread

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
URL = "amqp://guest:guest@localhost"

# What each of them prints in the end: a regular expression.
ENDINGS = (
    """b'{"number":9999}'""",
    r"b'a bad order' rejected tour\.orders",
    "42",
    r"connected QueueInfo\(name='tour\.letters', message_count=0, consumer_count=0\)",
    r"attempt 3\ndead: 1",
    "100 connections",
    r"done: job 0\nstopped; left for others: \d\nended in order",
    r"\d{4} readings",  # of a run before this one as well, if that was ended
    "connected",
    r"1024 Point\(x=1\.5, y=1\.5\)\nDecodeError points\[0\]\.x: '1' is no float",
    r"publish tour\.traced, trace (\w+), .*\nprocess tour\.traced, trace \1, .*",
    r".*\('publish', 'confirmed'\): 100.* slowest confirm: [\d.]+ s",
    r"\{.*'confirmed': \d+.*\}(\nFault\(.*\))+",
)


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker's, of each kind."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("amqp_url")
        return
    with broker_in_a_thread("3.10") as url:
        yield url


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run(
    number: int, backend: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is changed is the broker's address, and the backend of `anyio.run`."""
    program = PROGRAMS[number]
    assert URL in program and "anyio.run(main)" in program
    run = anyio.run
    monkeypatch.setattr(anyio, "run", lambda main: run(main, backend=backend))
    code = compile(program.replace(URL, url), f"README.md, program {number + 1}", "exec")
    exec(code, {"__name__": "__main__"})
    assert re.search(rf"^{ENDINGS[number]}\n\Z", capsys.readouterr().out, re.MULTILINE)


def test_the_end_of_each_program_is_known() -> None:
    assert len(PROGRAMS) == len(ENDINGS)


def _section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_error_is_in_the_table() -> None:
    table = _section("Errors")
    named = set(re.findall(r"`([A-Z]\w+)`", table))
    errors = {
        name
        for name in rabbitry.__all__
        if inspect.isclass(getattr(rabbitry, name)) and issubclass(getattr(rabbitry, name), rabbitry.RabbitryError)
    }
    assert named - errors == {"TimeoutError", "TypeError", "ValueError"}
    # bases of others, which are never raised themselves, need no row
    assert errors - named == {"Closed", "ProtocolError"}


def test_the_load_testers_flags_and_commands_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    section = _section("The load tester")

    def flags_of(*command: str) -> set[str]:
        with pytest.raises(SystemExit):
            load_tester([*command, "--help"])
        return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))

    flags = {command: flags_of(command) for command in COMMANDS}
    assert set(re.findall(r"--[a-z][a-z-]*", section)) <= set().union(flags_of(), *flags.values())
    commands = re.findall(r"^python -m loadtest ([^#\n]*)", section, re.MULTILINE)
    assert len(commands) > 5
    for words in map(shlex.split, commands):
        if words[0] in COMMANDS:
            assert {word for word in words if word.startswith("--")} <= flags[words[0]]
        else:
            parse_settings(words, {})


async def test_the_defaults_are_as_told(amqp_url: str) -> None:
    rows: dict[str, Any] = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", _section("Defaults"), re.MULTILINE))
    assert inspect.signature(rabbitry.Connection.channel).parameters["prefetch"].default == 100
    assert rows["prefetch of a channel's consumers"].startswith("100")
    assert inspect.signature(rabbitry.Channel.publisher).parameters["window"].default == int(rows["publisher window"])
    assert rabbitry.Message(b"").delivery_mode == int(rows["message delivery mode"][0])
    connection = rabbitry.connect(amqp_url)
    assert f"{connection._settings.heartbeat} s" == rows["heartbeat"]
    assert f"{connection._settings.connect_timeout:g} s" == rows["one connect attempt, dial and handshake"]
    assert f"{connection._settings.max_message_size >> 20} MiB" == rows["largest message accepted"]
