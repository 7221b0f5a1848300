"""The README: its program runs as written, its commands are the load tester's own, and it stays short.

`tests/measuring/pages` holds its figures and pictures to the results, `test_project.py` its commands for a clone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from loadtest.commands.flags import parse_settings
from loadtest.commands.program import COMMANDS
from rabbitry._cli.arguments import parse
from rabbitry.testing.hosting import broker_in_a_thread

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```(?:python|py)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
URL = "amqp://guest:guest@localhost"


@pytest.fixture(scope="module", params=["embedded", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker's, of each kind."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("amqp_url")
        return
    with broker_in_a_thread("3.10") as url:
        yield url


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_its_program_runs(
    backend: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is changed is the broker's address, and the backend of `anyio.run`."""
    (program,) = PROGRAMS
    assert URL in program and "anyio.run(main)" in program
    run = anyio.run
    monkeypatch.setattr(anyio, "run", lambda main: run(main, backend=backend))
    exec(compile(program.replace(URL, url), "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "10000 orders; connected\n"


def test_its_commands_are_known() -> None:
    lines = re.findall(r"^(?:\.venv/bin/)?python -m (rabbitry|loadtest) ([^#\n]*)", README, re.MULTILINE)
    assert {program for program, _ in lines} == {"rabbitry", "loadtest"}
    for program, words in lines:
        if program == "rabbitry":
            parse(shlex.split(words))
        else:
            assert words.split()[0] not in COMMANDS
            parse_settings(shlex.split(words), {})


def test_it_can_be_read_in_two_minutes() -> None:
    assert len(README.splitlines()) < 200
