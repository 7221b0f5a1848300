from __future__ import annotations

from pathlib import Path

from loadtest.commands.flags import parse_settings
from loadtest.output.files import check_destinations


def test_looking_whether_a_result_can_be_written_changes_nothing(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("precious")
    for path in (old, new):
        check_destinations(parse_settings(["--json", str(path), "--output", str(tmp_path / "deep" / "er")], {}))
    assert old.read_text() == "precious"
    assert not new.exists()
    assert not list((tmp_path / "deep" / "er").iterdir())
