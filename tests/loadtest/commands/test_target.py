"""What is loaded is shown first, and asked about where nobody named it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from loadtest.commands import run as program

FAR = "amqps://me:secret@192.0.2.1/v?password=secret"
NEAR = "amqp://me:secret@127.0.0.1:1/"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Runs:
    """What would have been run."""

    def __init__(self) -> None:
        self.urls: list[tuple[str, ...]] = []

    def __call__(self, settings: Any, *_: object) -> int:
        self.urls.append(settings.urls)
        return 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(program, "_run", runs)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return runs


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        ((), None),
        ((), NEAR),
        ((), "amqp://localhost"),
        ((), "amqp://[::1]:5672"),
        (("--url", FAR), NEAR),
        (("--url", FAR), FAR),
        (("--yes",), FAR),
        (("--yes", "--quiet"), FAR),
    ],
)
def test_what_is_named_is_loaded(
    words: tuple[str, ...],
    variable: str | None,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    if variable is not None:
        monkeypatch.setenv("RABBITMQ_URL", variable)
    assert program.main(words) == 0
    (urls,) = runs.urls
    out, err = capsys.readouterr()
    assert "secret" not in out + err
    assert out.startswith("target    amqp") is (bool(urls) and "--quiet" not in words)


@pytest.mark.parametrize(
    "variable",
    [
        FAR,
        "amqp://broker.example",
        "amqp://localhost.example",
        "amqp://[2001:db8::1]",
        "amqp://0.0.0.0",
        "amqp://127.1",
    ],
)
@pytest.mark.parametrize("words", [(), ("--vhost", "v"), ("--json", "-"), ("--quiet",)])
def test_what_only_the_environment_names_is_not(
    words: tuple[str, ...],
    variable: str,
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", variable)
    assert program.main(words) == 2
    assert not runs.urls
    out, err = capsys.readouterr()
    assert "say --yes if it shall be loaded, or name it by --url" in err
    assert "secret" not in out + err
    assert not (out and "--json" in words)


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("Yes\n", 0), ("\n", 2), ("no\n", 2), ("", 2)])
def test_a_terminal_is_asked(answer: str, code: int, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = Terminal()
    monkeypatch.setenv("RABBITMQ_URL", FAR)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", errors)
    assert program.main(()) == code
    assert len(runs.urls) == (code == 0)
    assert (
        "amqps://me@192.0.2.1/v?password=***, which is not known to be this machine. Load it? [y/N] "
        in errors.getvalue()
    )
