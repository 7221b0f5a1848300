from __future__ import annotations

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
        check_destinations(parse_settings(["--json", str(path), "--output", str(tmp_path / "deep" / "er")], {}))
    assert old.read_text() == "precious"
    assert not new.exists()
    assert not list((tmp_path / "deep" / "er").iterdir())


def test_a_result_on_a_terminal_does_not_steer_it(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result["environment"]["broker"]["product"] = "é\x9b31m\u202e\udcff"
    assert list(write_result(result, parse_settings(["--json", "-"], {}))) == []
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert json.loads(text)["environment"]["broker"]["product"] == "é\x9b31m\u202e\udcff"
