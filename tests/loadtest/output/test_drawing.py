"""The child that draws, and what becomes of a report without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.commands.flags import parse_settings
from loadtest.output import drawing
from loadtest.output.drawing import NotDrawn, draw
from loadtest.output.files import write_report, write_result


def test_each_file_is_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    files = {kind: tmp_path / f"x.{kind}" for kind in ("html", "svg", "png")}
    assert draw([result], files) == list(files.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.png", "x.svg"]
    page = files["html"].read_text()
    assert page.startswith("<!DOCTYPE html>") and "10,000 clients" in page
    assert 0.5e6 < len(page) < 1.3e6
    assert "10,000 clients" in files["svg"].read_text()


def test_a_run_is_written_whether_it_can_be_drawn_or_not(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    settings = parse_settings(["--output", str(tmp_path)], {})
    assert sorted(path.suffix for path in write_result(result, settings)) == [".json", ".md"]
    with pytest.raises(
        NotDrawn, match=r"html, svg: they need the extra `report`: in a clone of rabbitry, pip install '\.\[report\]'"
    ):
        write_report(result, settings)
    assert "![" not in next(tmp_path.glob("*.md")).read_text(), "no picture is promised"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('it broke')", "it broke"),
        ("import os; os.kill(os.getpid(), 9)", "ended with -9"),
        ("import time; time.sleep(60)", "not drawn within 0.5 s"),
    ],
)
def test_a_child_that_fails_is_told_and_leaves_nothing(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    executable = tmp_path / "python"
    executable.write_text(f"#!{sys.executable}\n{program}\n")
    executable.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(executable))
    if "0.5" in said:
        monkeypatch.setattr(drawing, "PATIENCE", 0.5)
    with pytest.raises(NotDrawn, match=said):
        draw([result], {"svg": tmp_path / "x.svg"})
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_an_interrupt_ends_the_drawing_alone(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.run", interrupt)
    with pytest.raises(NotDrawn, match="svg: interrupted"):
        draw([result], {"svg": tmp_path / "x.svg"})


def test_a_place_that_cannot_be_written_is_told(result: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotDrawn, match="No such file or directory"):
        draw([result], {"svg": tmp_path / "gone" / "x.svg"})


def test_a_result_that_cannot_be_drawn_is_told(result: dict[str, Any], tmp_path: Path) -> None:
    result["timeline"][0]["seconds"] = "long"
    with pytest.raises(NotDrawn, match="svg: TypeError"):
        draw([result], {"svg": tmp_path / "x.svg"})
    assert not list(tmp_path.iterdir())
