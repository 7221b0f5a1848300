"""What is said reaches whoever listens, as what it is: in any encoding, in a build's log, on a terminal of any size."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from loadtest.commands.flags import parse_settings
from loadtest.commands.program import main
from loadtest.execution.state import start_run
from loadtest.output.console import WIDE, make_console, marked
from loadtest.output.progress import Progress

Output = Callable[[str, bool], io.BytesIO]


class Terminal(io.TextIOWrapper):
    """A standard output in an encoding, at a terminal or not."""

    def __init__(self, buffer: io.BytesIO, encoding: str, is_terminal: bool) -> None:
        super().__init__(buffer, encoding=encoding, write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def replace(encoding: str, is_terminal: bool) -> io.BytesIO:
        buffer = io.BytesIO()
        monkeypatch.setattr("sys.stdout", Terminal(buffer, encoding, is_terminal))
        return buffer

    return replace


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("ascii", "ok NO 3 us 2 x - - +-1 ... ?"),
        ("latin-1", "ok NO 3 µs 2 × - · ±1 ... ?"),
        ("utf-8", "✓ ✗ 3 µs 2 × – · ±1 … 兎"),
    ],
)
def test_signs_that_an_encoding_lacks_are_spelled(encoding: str, said: str, output: Output) -> None:
    buffer = output(encoding, False)
    make_console().print("✓ ✗ 3 µs 2 × – · ±1 … 兎", markup=False)
    assert buffer.getvalue().decode(encoding) == f"{said}\n"


@pytest.mark.parametrize("words", [["--help"], ["merge", "--help"], ["--list-scenarios"], ["--list-drivers"]])
def test_help_needs_no_encoding(words: list[str], output: Output) -> None:
    buffer = output("ascii", False)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0 and len(buffer.getvalue()) > 100


@pytest.mark.parametrize("text", ["[2001:db8:a:b::1]:5672", "vhost a:bomb:c", "0..5000:100:x", "12:ab:cd:o:m:x:"])
def test_what_stands_between_colons_is_no_emoji(text: str, output: Output) -> None:
    buffer = output("utf-8", False)
    console = make_console()
    console.print(text, markup=False)
    console.print(marked(text.replace("[", r"\[")))
    assert buffer.getvalue().decode() == f"{text}\n" * 2


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
async def test_a_build_that_asks_for_colours_has_lines_and_no_picture(
    name: str, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = output("utf-8", False)
    monkeypatch.setenv(name, "1")
    console = make_console()
    run = start_run(parse_settings(["--clients", "10"], {}))
    run.begin_phase("connect")
    with Progress(console, quiet=False) as progress:
        progress.update(run, None, 1.0)
    console.print(marked("[red]worse[/]"))
    text = buffer.getvalue().decode()
    assert "connections 0 of 10" in text and "\x1b[31mworse" in text
    assert "\x1b[?" not in text and console.width == WIDE


@pytest.mark.parametrize(
    ("columns", "is_terminal", "width"),
    [
        *(("0", True, None), ("0", False, WIDE), ("", False, WIDE), ("wide", False, WIDE)),
        *(("123", True, 123), ("123", False, 123)),
    ],
)
def test_no_columns_at_all_are_no_width(
    columns: str, is_terminal: bool, width: int | None, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = output("utf-8", is_terminal)
    monkeypatch.setenv("COLUMNS", columns)
    console = make_console()
    assert console.width == (width or Console(_environ={}).width) >= 40
    console.print("a line of words")
    assert b"a line of words" in buffer.getvalue()


class Gone(Terminal):
    """A terminal whose window was closed."""

    is_there = True

    def write(self, text: str) -> int:
        if not self.is_there:
            raise OSError(5, "Input/output error")
        return super().write(text)

    def fileno(self) -> int:
        raise OSError("none")


@pytest.mark.parametrize("leaves", [0, 1, 2, 3])
async def test_a_terminal_that_goes_away_ends_nothing(leaves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the picture, before it is drawn anew, before it is taken away, or before what comes after it."""
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout", terminal := Gone(io.BytesIO(), "utf-8", True))
    console = make_console()
    run = start_run(parse_settings(["--clients", "10"], {}))
    run.begin_phase("connect")
    progress = Progress(console, quiet=False)
    terminal.is_there = leaves > 0
    with progress:
        progress.update(run, None, 1.0)
        terminal.is_there = leaves > 1
        if leaves != 2:
            progress.update(run, None, 2.0)
        terminal.is_there = leaves > 2
    terminal.is_there = False
    console.print("what was measured")
