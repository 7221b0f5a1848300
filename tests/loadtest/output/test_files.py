from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.output.files import check_destinations, write_result, write_whole
from loadtest.output.reading import read_json


def test_looking_whether_a_result_can_be_written_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("precious")
    for path in (old, new):
        check_destinations(tmp_path / "deep" / "er", str(path))
    assert old.read_text() == "precious"
    assert not new.exists()
    assert not list((tmp_path / "deep" / "er").iterdir())


def test_a_result_on_a_terminal_does_not_steer_it(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result["environment"]["broker"]["product"] = "é\x9b31m\u202e\udcff"
    assert write_result(result, parse_settings(["--json", "-"], {})) == []
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)["environment"]["broker"]["product"] == "é\x9b31m\u202e\udcff"


def test_words_that_are_no_text_lose_nothing(result: dict[str, Any], tmp_path: Path) -> None:
    """A command line's words may be any bytes: what is no UTF-8 of them has no UTF-8 either."""
    result["scenario"] |= {"labels": {"why": "\udcff"}, "command": "python -m loadtest --label why=\udcff"}
    result["environment"]["broker"]["product"] = "\udcff"
    written = write_result(result, parse_settings(["--output", str(tmp_path), "--json", str(tmp_path / "x.json")], {}))
    assert {path.suffix for path in written} == {".json", ".md"}
    assert json.loads((tmp_path / "x.json").read_text())["scenario"]["labels"] == {"why": "\udcff"}


class Pipe(io.TextIOWrapper):
    """A standard output whose reader is gone, or whose encoding knows few letters."""

    def __init__(self, encoding: str, *, is_closed: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.is_closed = is_closed

    def write(self, text: str) -> int:
        if self.is_closed:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)

    def fileno(self) -> int:
        raise OSError("none")


def test_json_is_json_in_any_encoding(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    result["environment"]["broker"]["product"] = "Häschen – 兎"
    for encoding in ("ascii", "latin-1", "utf-8"):
        monkeypatch.setattr("sys.stdout", pipe := Pipe(encoding))
        write_result(result, parse_settings(["--json", "-"], {}))
        buffer = pipe.buffer
        assert isinstance(buffer, io.BytesIO)
        assert json.loads(buffer.getvalue())["environment"]["broker"]["product"] == "Häschen – 兎", "JSON is UTF-8"


def test_json_is_json_whatever_was_asked_for(result: dict[str, Any], tmp_path: Path) -> None:
    """A header may be infinite: `--header limit=1e999` is a number to AMQP, and none to JSON."""
    result["scenario"]["headers"] = {"limit": float("inf"), "none": float("nan"), "all": [1.5, (float("-inf"),)]}
    write_result(result, parse_settings(["--output", str(tmp_path), "--json", str(tmp_path / "x.json")], {}))
    assert read_json(tmp_path / "x.json")["scenario"]["headers"] == {"limit": None, "none": None, "all": [1.5, [None]]}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, link = tmp_path / "result.json", tmp_path / "link.json"
    file.write_text("the one before")
    file.chmod(0o640)
    link.symlink_to(file)
    write_whole(link, "new")
    assert link.is_symlink() and file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o640

    def fill_up(path: Path, text: str, **options: Any) -> int:
        with path.open("w") as half:
            half.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_text", fill_up)
        write_whole(file, "newer")
    assert file.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_what_can_not_be_replaced_is_written_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is mounted by itself, as into a container, or is in a folder that takes no other."""

    def refuse(*_: Any) -> None:
        raise OSError(16, "Device or resource busy")

    file = tmp_path / "result.json"
    file.write_text("the one before, which is longer")
    monkeypatch.setattr(Path, "replace", refuse)
    write_whole(file, "new")
    assert file.read_text() == "new"
    write = Path.write_text

    def take_none(path: Path, text: str, **options: Any) -> int:
        if path.suffix == ".tmp":
            raise PermissionError(13, "Permission denied")
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", take_none)
    write_whole(file, "newer")
    assert file.read_text() == "newer" and list(tmp_path.iterdir()) == [file]
    write_whole(Path("/dev/null"), "nothing")


def test_who_reads_a_pipe_has_all_of_it(result: dict[str, Any], tmp_path: Path) -> None:
    """A reader would take a pipe that is merely tried out for one that has ended, and be gone when the result comes."""
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    check_destinations(None, str(pipe))
    reader.join(0.1)
    assert reader.is_alive()
    write_result(result, parse_settings(["--json", str(pipe)], {}))
    reader.join(10)
    assert json.loads(read[0])["run_id"] == result["run_id"]


def test_what_can_be_written_is_whatever_becomes_of_the_rest(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = parse_settings(["--json", "-", "--output", str(tmp_path)], {})
    monkeypatch.setattr("sys.stdout", Pipe("utf-8", is_closed=True))
    with pytest.raises(BrokenPipeError):
        write_result(result, settings)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]

    (tmp_path / "out").mkdir()
    settings = parse_settings(["--json", str(tmp_path), "--output", str(tmp_path / "out")], {})
    with pytest.raises(IsADirectoryError):
        write_result(result, settings)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".md"]
