from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.output.files import check_destinations, write_result


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
        assert json.loads(buffer.getvalue().decode(encoding))["environment"]["broker"]["product"] == "Häschen – 兎"


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
