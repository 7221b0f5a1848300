"""`python -m loadtest report`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shutil import copy

import pytest

from loadtest.commands import report
from loadtest.commands.program import main
from loadtest.output.drawing import NotDrawn

PUBLISHED = sorted((Path(__file__).parents[3] / "results").glob("2*Z-*.json"))[:2]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [str(copy(path, tmp_path)) for path in PUBLISHED]


def endings(path: Path) -> set[str]:
    return {each.suffix for each in path.iterdir()}


def test_a_page_is_put_beside_its_result(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", files[0]]) == 0
    page = Path(files[0]).with_suffix(".html")
    assert page.is_file()
    assert capsys.readouterr().out == f"written   {page}\n"


def test_every_format_of_several_results(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert main(["report", *files, "--format", "html,md,svg,png,junit", "--output", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {f"report.{end}" for end in ("html", "md", "svg", "png", "xml")}
    assert "](report.svg)" in (out / "report.md").read_text()


@pytest.mark.parametrize("name", ["x.md", "x.xml"])
def test_one_file_says_its_format(files: list[str], tmp_path: Path, name: str) -> None:
    assert main(["report", files[0], "--output", str(tmp_path / "new" / name)]) == 0
    assert (tmp_path / "new" / name).stat().st_size > 100


def test_text_needs_no_extra(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "can_draw", lambda: False)
    assert main(["report", files[0], "--format", "md,junit"]) == 0
    assert endings(tmp_path) == {".json", ".md", ".xml"}


def test_what_lacks_the_extra_says_what_to_install(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "can_draw", lambda: False)
    with pytest.raises(SystemExit) as caught:
        main(["report", files[0], "--format", "md,html"])
    assert caught.value.code == 2
    assert "html needs the extra `report`: in a clone of rabbitry, pip install '.[report]'" in capsys.readouterr().err


def test_a_chart_that_fails_loses_no_text(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> list[Path]:
        raise NotDrawn("svg: it broke")

    monkeypatch.setattr(report, "draw", fail)
    assert main(["report", files[0], "--format", "svg,md"]) == 1
    told = capsys.readouterr()
    assert "written" in told.out and "loadtest report: svg: it broke" in told.err
    assert endings(tmp_path) == {".json", ".md"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "pdf"), "there is no format 'pdf'"),
        (("--format", ""), "there is no format ''"),
        (("--format", "md,junit", "--output", "x.md"), "name a folder"),
        (("--format", "svg", "--output", "x.md"), "name a folder"),
        (("--output", "/dev/null/x"), "Not a directory"),
        (("--output", "x.pdf"), "--output x.pdf is no folder that is there, and ends in none of .html, .md"),
        (("--output", "x.htm"), "is no folder that is there"),
        (("--colour",), "unrecognized"),
    ],
)
def test_wrong_usage(files: list[str], words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", files[0], *words])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_result_is_never_overwritten(tmp_path: Path, files: list[str]) -> None:
    odd = tmp_path / "x.md"
    odd.write_text(Path(files[0]).read_text())
    with pytest.raises(SystemExit):
        main(["report", str(odd), "--format", "md"])
    assert json.loads(odd.read_text())["schema"] == 1


def test_what_is_no_result_is_told(tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{")
    assert main(["report", files[0], str(tmp_path / "x.json")]) == 2
    assert "x.json: it is no JSON" in capsys.readouterr().err
    assert endings(tmp_path) == {".json"}


def test_a_folder_may_have_a_point_in_its_name(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "a.b").mkdir()
    for folder in ("a.b", "v1.2", "new"):
        assert main(["report", files[0], "--format", "md", "--output", str(tmp_path / folder)]) == 0
        assert endings(tmp_path / folder) == {".md"}


def test_names_that_are_no_text_are_names_all_the_same(tmp_path: Path, files: list[str]) -> None:
    odd = tmp_path / os.fsdecode(b"a\xff b.json")
    copy(files[0], odd)
    assert main(["report", str(odd), "--format", "md,svg"]) == 0
    assert "](a%FF%20b.svg)" in odd.with_suffix(".md").read_text()


def test_a_result_may_be_in_any_of_jsons_encodings(tmp_path: Path, files: list[str]) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "x.json").write_text(Path(files[0]).read_text(), encoding=encoding)
        assert main(["report", str(tmp_path / "x.json"), "--format", "junit"]) == 0


def test_the_report_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["report", "--help"])
    assert caught.value.code == 0
    assert "html, md, svg, png, junit" in " ".join(capsys.readouterr().out.split())
