"""What the tests of the command line share: a way to run it in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rabbitry._cli.program import main
from tests.support.helpers import unique


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """stdout as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


@pytest.fixture
def cli(amqp_url: str, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """`cli("get", "jobs", stdin=b"")`: main() with these words, against the broker of the tests."""
    monkeypatch.setenv("RABBITMQ_URL", amqp_url)

    def run(*words: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = main(words)
        out, err = capfdbinary.readouterr()
        return Result(code, out, err.decode())

    return run


@pytest.fixture
def queue(cli: Cli) -> Any:
    """A queue of the test's own."""
    name = unique("cli")
    assert cli("declare", "queue", name).code == 0
    yield name
    cli("delete", "queue", name, "--missing-ok")
