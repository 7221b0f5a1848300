"""The pages of a folder of results: only what is there is told, and all that is there."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.output.test_bars import strategies_result
from tests.measuring.bench.comparison.plan import choose
from tests.measuring.bench.comparison.result import build
from tests.measuring.bench.comparison.rounds import Trial
from tests.measuring.bench.plan import OURS, Run
from tests.measuring.bench.report import Report, as_json
from tests.measuring.bench.runner import Outcome
from tests.measuring.bench.verdict import judge, summarise
from tests.measuring.pages.__main__ import PAGES, ROOT, main
from tests.measuring.pages.brief import libraries_brief, strategies_brief
from tests.measuring.pages.folder import read_folder
from tests.measuring.pages.index import render_index
from tests.measuring.pages.readme import PARTS, NoPlace, begin, end, with_parts

FIGURES = {"messages": 10.0, "seconds": 1.0, "cpu_seconds": 0.1, "system_seconds": 0.01}
SOAK = """# A soak under faults, 2026-11-21

## 500 clients, 1200 s, seed 2, trio

| | |
|---|---|
| publishes | 580,052 confirmed, 984 OutcomeUnknown |
| confirmed, but never delivered | **0** |
"""
FAULTS = """# What becomes of each operation under each fault

## cut

| operation | outcome | asyncio | trio |
|---|---|---|---|
| publish | goes on | 205 confirmed | 203 confirmed |
| consume | goes on | 122 received | 120 received |

## reset

| operation | outcome | asyncio | trio |
|---|---|---|---|
| publish | goes on | 1 confirmed | 2 confirmed |
"""


def comparison() -> dict[str, Any]:
    cells = [cell for block in choose(["libraries publishing"], ["pika", "aiormq"], [128]) for cell in block]
    return build(
        command="python -m tests.measuring.bench --output results/libraries.json",
        started_at="2026-01-01",
        seconds=60,
        seed=1,
        rounds=1,
        environment={},
        skipped=[],
        interrupted=False,
        trials=[Trial(cell, 0, FIGURES) for cell in cells],
    )


def bounds() -> dict[str, Any]:
    """A benchmark in which one run failed."""
    run = Run(OURS, "publish_await", 10, "trio")
    outcomes = [Outcome(run, 0, None, "it hung")]
    checks = judge(outcomes, [run.job], ["trio"])
    held = Report("bench x", "2026-01-01", 1.0, {"python": "3"}, ["x: missing"], outcomes, checks, summarise(outcomes))
    found: dict[str, Any] = json.loads(as_json(held))
    return found


def put(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        if isinstance(value, str):
            (folder / f"{name}.md").write_text(value)
        else:
            (folder / f"{name}.json").write_text(json.dumps(value))


def strategies() -> dict[str, Any]:
    result = strategies_result()
    result["plan"]["warmup"] = 1.0
    return result


def test_an_empty_folder_mentions_nothing(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# What happens") and "](" not in text and "##" not in text


def test_each_kind_has_its_section_page_and_command(
    tmp_path: Path, run_result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = deepcopy(run_result)
    del other["capacity"]
    other["scenario"]["command"] = "python -m loadtest --rate 100"
    put(tmp_path, answer=run_result, other=other, ways=strategies(), libraries=comparison(), bounds=bounds())
    put(tmp_path, faults=FAULTS, **{"soak-trio": SOAK}, notes="# Something else\n")
    assert main([str(tmp_path)]) == 0, capsys.readouterr().err
    text = (tmp_path / "README.md").read_text()
    for part in (
        *("## A connection for each of them", "**9,000 messages/s**"),
        f"`python -m loadtest --clients 10000 --output {tmp_path.name}`",
        *("## Ways to serve them", "way a", "--clients 10,100", "--seed 1"),
        *("## rabbitry beside other clients", f"bench --output {tmp_path.name}/libraries.json`"),
        *("100 clients: 1 of 2 strategies got through", "With 100 clients way b was given up"),
        *("## When something breaks", "2 operations under 2 faults", "`nox -s faults`"),
        *("580,052 confirmed", "0 of the confirmed lost", "--seed 2 --backend trio"),
        *("0 of 1 bounds kept", "`bench x`", "python -m loadtest --rate 100", "[Something else](notes.md)"),
    ):
        assert part in text, part
    assert "\n- 10 clients: " not in text, "what fewer clients did stands on the page"
    order = [text.index(part) for part in ("A connection for each", "Ways to serve", "beside other", "breaks", "also")]
    assert order == sorted(order)
    links = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    for link in (first or second for first, second in links):
        assert (tmp_path / link).exists(), link
    assert "it hung" in (tmp_path / "bounds.md").read_text()
    for page in ("answer.md", "ways.md", "libraries.md"):
        for link in re.findall(r"src(?:set)?=\"([^\"]+)\"", (tmp_path / page).read_text()):
            assert (tmp_path / link).exists(), link


def test_pages_are_made_anew_and_nothing_else_is_touched(tmp_path: Path) -> None:
    put(tmp_path, libraries=comparison(), faults=FAULTS)
    assert main([str(tmp_path)]) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "libraries.md").write_text("stale")
    (tmp_path / "libraries-cpu.svg").unlink()
    assert main([str(tmp_path)]) == 0
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert again == first


BROKEN = (
    *("{", "[]", "{}", '{"schema": 1}', '{"checks": [1], "summaries": []}'),
    *('{"kind": "rabbitry-bench-libraries"}', '{"kind": "rabbitry-loadtest-strategies"}'),
)


def test_broken_files_are_told_and_the_rest_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, notes="# Something else\n")
    for number, text in enumerate(BROKEN):
        (tmp_path / f"broken{number}.json").write_text(text)
    assert main([str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert all(f"broken{number}.json" in told for number in range(len(BROKEN)))
    index = (tmp_path / "README.md").read_text()
    assert "Something else" in index and "broken" not in index


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "nowhere")])
    assert ended.value.code == 2


# --- the project's README ---------------------------------------------------------------------------------------------


def page_with(*names: str) -> str:
    return "\n".join(["# x", *(f"{begin(name)}\n\nold\n\n{end(name)}" for name in names), "y", ""])


def test_a_page_tells_of_the_latest_results_alone(tmp_path: Path, run_result: dict[str, Any]) -> None:
    later = comparison() | {"started_at": "2026-02-01"}
    on_trio = deepcopy(run_result) | {"started_at": "2027-01-01"}
    on_trio["scenario"]["backend"] = "trio"
    put(tmp_path, b_first=comparison(), a_later=later, ways=strategies(), run=run_result, trio=on_trio)
    put(tmp_path, faults=FAULTS, **{"soak-trio": SOAK, "soak-asyncio": SOAK})
    assert main([str(tmp_path)]) == 0
    folder = read_folder(tmp_path)
    text = with_parts(page_with(*PARTS), folder)
    assert text.startswith("# x\n") and text.endswith(f"{end('run')}\ny\n") and "old" not in text
    for part in (
        *(
            "2 operations under each of 2 faults, from “cut” to “reset”",
            "Of 1,160,104 messages confirmed",
            "**0** were",
        ),
        *("a_later-brief.svg", "a_later-brief-dark.svg", "ways-brief.svg"),
        *("kept up 9,000 messages/s", "`python -m loadtest --clients 10000`", "on 2 cores", "run-brief.svg"),
    ):
        assert part in " ".join(text.split()), part
    assert "b_first" not in text and "trio-brief" not in text
    for link in re.findall(r"(?:src|srcset)=\"([^\"]+)\"|\]\(([^)]+\.svg)\)", text):
        assert (tmp_path.parent / (link[0] or link[1])).exists(), link
    assert with_parts(text, folder) == text, "again is the same"
    answer = with_parts(page_with("answer"), folder)
    assert "kept up" in answer and "svg" not in answer, "a page has the parts that it has marks for"


def test_a_page_without_results_has_marks_alone(tmp_path: Path) -> None:
    empty = "\n".join(["# x", *(f"{begin(name)}\n\n{end(name)}" for name in PARTS), "y", ""])
    assert with_parts(page_with(*PARTS), read_folder(tmp_path)) == empty


@pytest.mark.parametrize("page", ["# nothing", begin("run"), f"{begin('nothing known')}\n{end('nothing known')}"])
def test_a_page_without_its_marks(page: str, tmp_path: Path) -> None:
    with pytest.raises(NoPlace):
        with_parts(page, read_folder(tmp_path))


def test_brief_pictures_show_all_who_are_compared() -> None:
    libraries = json.dumps(libraries_brief(comparison()))
    assert "published one at a time" in libraries and "consumed" not in libraries, "what was not measured has no scale"
    assert all(json.dumps(each["title"]) in libraries for each in comparison()["libraries"].values())
    ways = json.dumps(strategies_brief(strategies()), ensure_ascii=False)
    assert '"100 clients"' not in ways and "Ways to serve 100 clients" in ways
    assert '"way a"' in ways and '"way b"' in ways and ways.count('"told": "✗"') == 3, "b was given up"


def test_the_project_shows_what_it_has() -> None:
    folder = read_folder(ROOT / "results")
    assert not folder.problems
    assert (ROOT / "results" / "README.md").read_text() == render_index(folder), "run `nox -s report`"
    for page in PAGES:
        assert with_parts(page.read_text(), folder) == page.read_text(), "run `nox -s report`"
    readme = (ROOT / "README.md").read_text()
    assert all(begin(name) in readme for name in PARTS)
    for page in (ROOT / "README.md", *sorted((ROOT / "results").glob("*.md"))):
        for link in re.findall(r"(?:src|srcset)=\"([^\"]+)\"|\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / (link[0] or link[1])).exists(), (page.name, link)


@pytest.fixture
def run_result(result: dict[str, Any]) -> dict[str, Any]:
    """A run that sought its rate."""
    step = {"rate": 9000.0, "held": True, "is_verification": True, "confirmed_rate": 9000.0, "reply_rate": 300.0}
    result["capacity"] = {
        "sustainable_rate": 9000.0,
        "closed_rate": 12_000.0,
        "paced_rate": 4500.0,
        "share": 0.5,
        "steps": [step],
        "verdict": {"status": "machine-bound", "evidence": ["machine: all cores were busy"]},
    }
    result["environment"]["cores"] = 2
    result["scenario"] |= {"scenario": "c10k", "backend": "asyncio"}
    result["scenario"]["command"] = "python -m loadtest --clients 10000 --output /somewhere/else"
    return result
