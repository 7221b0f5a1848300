"""The comparison of libraries: who does what, in which order, for how long, and what is made of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.measuring.bench.__main__ import available_libraries, main
from tests.measuring.bench.comparison import page, result, tables
from tests.measuring.bench.comparison.libraries.__main__ import JOBS as DONE
from tests.measuring.bench.comparison.libraries.__main__ import MODULES
from tests.measuring.bench.comparison.libraries.work import Work, shares
from tests.measuring.bench.comparison.pictures import pictures
from tests.measuring.bench.comparison.plan import (
    AHEAD,
    JOBS,
    LIBRARIES,
    ONE_AT_A_TIME,
    SIZES,
    Cell,
    Library,
    choose,
    rows,
    shuffled,
)
from tests.measuring.bench.comparison.rounds import Trial, format_size, measure, run_rounds
from tests.measuring.bench.runner import ROOT, Measured, Runner, Unavailable, compile_reference

PYTHON = [library for library in LIBRARIES if library.module is not None]


def figures_of(cell: Cell, rate: float = 1000.0) -> dict[str, float]:
    if cell.job == "connections":
        return {"connections": 10, "connect_seconds": 1.0, "connect_cpu_seconds": 0.01, "bytes_per_connection": 2048.0}
    found = {"messages": rate, "seconds": 1.0, "cpu_seconds": 0.01, "system_seconds": 0.002, "sleeps": 3.0}
    return found | ({"p50_us": 90.0, "p99_us": 200.0} if cell.job == "publish_one" else {})


def built(trials: list[Trial], **options: Any) -> dict[str, Any]:
    options = {"skipped": [], "interrupted": False, "environment": {"python": "3"}, "rounds": 2} | options
    return result.build(
        command="python -m tests.measuring.bench", started_at="2026-01-01", seconds=90, seed=1, trials=trials, **options
    )


def all_trials() -> list[Trial]:
    cells = [cell for block in choose() for cell in block]
    return [Trial(cell, round, figures_of(cell, 1000 + round)) for round in range(3) for cell in cells]


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_every_library_has_every_job_for_every_size() -> None:
    assert {library.module for library in PYTHON} == set(MODULES)
    assert {job.name for job in JOBS} == set(DONE)
    cells = [cell for block in choose() for cell in block]
    for library in LIBRARIES:
        mine = {(cell.job, cell.size) for cell in cells if cell.library == library.name}
        assert mine >= {(job, size) for job in ("publish", "consume") for size in SIZES}
        assert {job for job, _ in mine} == set(DONE)
    assert SIZES == (128, 4096, 2**20)


def test_a_block_has_the_same_work_for_all() -> None:
    for block in choose():
        assert len({(cell.job, cell.size, cell.ahead) for cell in block}) == 1
        assert [cell.library for cell in block] == [library.name for library in LIBRARIES]


def test_large_bodies_are_fewer() -> None:
    for library in LIBRARIES:
        small, middle, large = (library.count("publish", size) for size in SIZES)
        assert small >= middle and small >= large <= 150


def test_small_scales_still_fill_the_window() -> None:
    cells = [cell for block in choose(scale=0.0001) for cell in block]
    assert all(cell.count >= AHEAD[cell.size] for cell in cells if cell.job != "connections")
    assert all(cell.count == 10 for cell in cells if cell.job == "connections")


def test_choosing() -> None:
    blocks = choose(["libraries publishing"], ["pika", "rabbitmq-c"], [4096])
    assert [[(cell.library, cell.job, cell.size) for cell in block] for block in blocks] == [
        [("pika", "publish", 4096), ("rabbitmq-c", "publish", 4096)]
    ]
    assert choose(["libraries"]) == choose() and "libraries" in rows()


def test_the_order_is_drawn_by_lot_in_blocks_and_can_be_repeated() -> None:
    blocks = choose()
    first, again, second = (list(shuffled(blocks, 7, round)) for round in (0, 0, 1))
    assert first == again and first != second
    for order in (first, second):
        assert {frozenset(block) for block in order} == {frozenset(block) for block in blocks}
        assert any([cell.library for cell in block] != [library.name for library in LIBRARIES] for block in order)


def test_shares_are_the_whole() -> None:
    assert shares(Work("", 103, 128, 10)) == [11, 11, 11, *[10] * 7]


# --- rounds -----------------------------------------------------------------------------------------------------------


def rounds_of(seconds_each: float, bound: float, rounds: int = 5) -> tuple[list[Trial], list[str], list[Cell], int]:
    taken: list[Trial] = []
    said: list[str] = []
    ran: list[Cell] = []
    clock = [0.0]

    def fake(cell: Cell) -> Measured:
        ran.append(cell)
        clock[0] += seconds_each
        return Measured(None, "it hung") if cell.library == "pika" else Measured(figures_of(cell))

    blocks = choose(["libraries one by one"], ["pika", "aiormq"])
    done = run_rounds(
        fake, blocks, rounds=rounds, seconds=bound, seed=1, take=taken.append, say=said.append, now=lambda: clock[0]
    )
    return taken, said, ran, done


def test_all_rounds_with_progress_and_failures() -> None:
    taken, said, ran, done = rounds_of(1, 1000)
    assert done == 5 and len(taken) == 10 and len(ran) == 15, "the first of each block is run twice"
    assert [trial.round for trial in taken] == [number for number in range(5) for _ in range(2)]
    assert {trial.failure for trial in taken if trial.cell.library == "pika"} == {"it hung"}
    assert "round 1 of 5" in said[0] and "FAILED (it hung)" in said[0] and "min left" in said[0]


def test_no_round_begins_that_would_not_be_done_in_time() -> None:
    taken, said, _, done = rounds_of(1, 10)  # a round takes 3 s
    assert done == 3 and len(taken) == 6
    assert "3 of 5 rounds" in said[-1]


def test_the_first_round_is_always_done() -> None:
    assert rounds_of(100, 1)[3] == 1


# --- the libraries ----------------------------------------------------------------------------------------------------


def tried() -> Iterator[tuple[Library, str]]:
    """Each job of each library once: some do two in the same way, and event loops differ in none."""
    for library in PYTHON:
        for job in DONE:
            is_same = job == "publish" and library.ways["publish"].startswith(ONE_AT_A_TIME)
            is_known = library.backend != "asyncio" and job in ("publish_one", "connections")
            if not is_same and not is_known:
                yield library, job


@pytest.mark.parametrize(
    ("library", "job"), list(tried()), ids=lambda each: each if isinstance(each, str) else each.name
)
def test_a_library_does_its_job(amqp_url: str, library: Library, job: str) -> None:
    command = [sys.executable, "-m", "tests.measuring.bench.comparison.libraries", library.module, job, amqp_url, "20"]
    command += ["--size", "200000", "--ahead", "5", "--backend", library.backend]  # more than a frame
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    if job == "connections":
        assert figures["connections"] == 20 and figures["bytes_per_connection"] > 0
    else:
        assert figures["messages"] == 20 and figures["seconds"] > 0 and figures["cpu_seconds"] > 0
        assert ("p50_us" in figures) == (job == "publish_one")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the broker to come to rest: no figure matters here."""
    monkeypatch.setattr(Runner, "_settle", lambda self: None)


@pytest.mark.usefixtures("at_once")
def test_the_c_client_does_the_same(amqp_url: str, tmp_path: Path) -> None:
    try:
        program = compile_reference(tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    runner = Runner(amqp_url, None, program)
    for block in choose(libraries=["rabbitmq-c"], sizes=[2**20], scale=0.001):
        found = measure(runner, block[0])
        assert found.figures is not None, found.failure
        assert found.figures.get("messages", block[0].count) == block[0].count


# --- what is made of it -----------------------------------------------------------------------------------------------


def test_figures_are_medians_with_intervals() -> None:
    cell = Cell("pika", "publish", 128, 100)
    trials = [Trial(cell, round, figures_of(cell, rate)) for round, rate in enumerate((10, 30, 20))]
    trials.append(Trial(cell, 3, None, "it hung"))
    (found,) = built(trials)["cells"]
    assert found["trials"] == 4 and found["failures"] == ["it hung"]
    assert found["rate"]["median"] == pytest.approx(20) and found["rate"]["count"] == 3
    assert found["rate"]["low"] >= 9.99 and found["rate"]["high"] <= 30.01
    assert found["cpu_us"]["median"] == pytest.approx(0.01 / 20 * 1e6)
    assert "connection_bytes" not in found and "p50_us" not in found


def test_page_table_and_pictures(tmp_path: Path) -> None:
    found = built(all_trials(), skipped=["rabbitmq-c: no header here"])
    path = tmp_path / "libraries.json"
    path.write_text(json.dumps(found))
    read = result.read(path)
    assert read == json.loads(json.dumps(found))
    written = page.write(read, path)
    assert {each.name for each in written} == {
        "libraries.md",
        *(f"libraries-{name}{form}.svg" for name in ("messages", "cpu", "memory") for form in ("", "-dark")),
    }
    text = written[0].read_text()
    for each in written[1:]:
        assert each.name in text
        shown = [element.text or "" for element in ElementTree.parse(each).iter()]
        for library in LIBRARIES:
            assert library.title in shown, each
        assert any("(1/s)" in part or "(µs)" in part or "(KiB)" in part for part in shown), "units"
    assert "bodies of 4 KiB" in [
        element.text for element in ElementTree.parse(path.with_name("libraries-cpu.svg")).iter()
    ]
    for part in ("128 B", "4 KiB", "1 MiB", "no header here", "docs.aio-pika.com", "100 of"):
        assert part in text, part
    terminal = tables.text(read)
    assert "AMQPStorm" in terminal and "no header here" in terminal and "KiB a connection" in terminal


def test_what_was_not_measured_has_no_bar_and_is_said(tmp_path: Path) -> None:
    cells = choose(["libraries publishing"], ["pika", "aiormq"], [128])[0]
    trials = [Trial(cells[0], 0, figures_of(cells[0])), Trial(cells[1], 0, None, "status 1: no")]
    found = built(trials, interrupted=True)
    assert list(pictures(found)) == ["messages", "cpu"]
    page.write(found, tmp_path / "x.json")
    assert "not measured" in (tmp_path / "x-messages.svg").read_text()
    text = (tmp_path / "x.md").read_text()
    assert "status 1: no" in text and "interrupted" in text and "| 0 of 1 |" in text


def test_nothing_at_all_can_be_shown(tmp_path: Path) -> None:
    found = built([])
    assert pictures(found) == {} and tables.text(found) == ""
    page.write(found, tmp_path / "x.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "rabbitry-bench-libraries", "schema": 2}'])
def test_another_file_is_no_comparison(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(result.NoComparison, match=r"x\.json"):
        result.read(path)


def test_sizes_as_people_write_them() -> None:
    assert [format_size(size) for size in (128, 4096, 2**20)] == ["128 B", "4 KiB", "1 MiB"]


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
def test_a_small_run_from_its_words_to_its_files(amqp_url: str, tmp_path: Path, capsys: Any) -> None:
    words = ["--url", amqp_url, "--only", "libraries publishing", "--size", "128B", "--size", "1MiB", "--rounds", "1"]
    words += ["--library", "rabbitry-trio", "--library", "pika", "--scale", "0.02", "--seed", "3"]
    output = tmp_path / "results" / "libraries.json"
    assert main([*words, "--output", str(output)]) == 0
    found = result.read(output)
    assert found["seed"] == 3 and found["rounds"] == 1 and not found["interrupted"]
    assert {(cell["library"], cell["size"]) for cell in found["cells"]} == {
        (library, size) for library in ("rabbitry-trio", "pika") for size in (128, 2**20)
    }
    assert output.with_suffix(".md").exists() and "round 1 of 1" in capsys.readouterr().out


@pytest.mark.rabbitmq("a node with TLS is started")
@pytest.mark.usefixtures("at_once")
def test_libraries_verify_a_broker_over_tls(tmp_path: Path) -> None:
    words = ["--tls", "--only", "libraries one by one", "--rounds", "1", "--scale", "0.02"]
    assert main([*words, "--output", str(tmp_path / "tls.json")]) == 0
    found = result.read(tmp_path / "tls.json")
    assert {cell["library"] for cell in found["cells"]} == {library.name for library in PYTHON}
    assert not any(cell["failures"] for cell in found["cells"])
    assert found["environment"]["transport"] == "TLS"


@pytest.mark.usefixtures("at_once")
def test_without_the_c_client_it_goes_on_and_says_so(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def missing(directory: Path) -> Path:
        raise Unavailable("it does not compile (Debian: apt-get install librabbitmq-dev)")

    monkeypatch.setattr("tests.measuring.bench.__main__.compile_reference", missing)
    words = ["--url", amqp_url, "--only", "libraries one by one", "--rounds", "1", "--scale", "0.02"]
    words += ["--library", "rabbitmq-c", "--library", "pika", "--output", str(tmp_path / "x.json")]
    assert main(words) == 0
    assert "without rabbitmq-c: it does not compile" in capsys.readouterr().out
    assert "librabbitmq-dev" in (tmp_path / "x.md").read_text()


@pytest.mark.usefixtures("at_once")
def test_an_interrupt_keeps_what_was_measured(amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()

    def interrupted(runner: Runner, cell: Cell) -> Measured:
        if next(numbers) == 2:
            raise KeyboardInterrupt
        return Measured(figures_of(cell))

    monkeypatch.setattr("tests.measuring.bench.__main__.measure", interrupted)
    words = ["--url", amqp_url, "--only", "libraries one by one", "--output", str(tmp_path / "x.json")]
    assert main(words) == 130
    assert result.read(tmp_path / "x.json")["interrupted"] and len(result.read(tmp_path / "x.json")["trials"]) == 1


def test_what_is_not_installed_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing = ("amqpstorm", "uvloop", "aio_pika")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    skipped: list[str] = []
    found = available_libraries([], [], False, skipped)
    assert found == ["rabbitry-asyncio", "rabbitry-trio", "rabbitry.blocking", "aiormq", "pika"]
    assert skipped == [
        "rabbitry on uvloop: not installed (pip install uvloop)",
        "aio-pika: not installed (pip install aio-pika)",
        "AMQPStorm (blocking): not installed (pip install amqpstorm)",
    ]


def test_libraries_and_event_loops_can_be_chosen() -> None:
    assert available_libraries(["pika", "rabbitmq-c"], [], True, []) == ["pika", "rabbitmq-c"]
    loops = [name for name in available_libraries([], ["trio"], True, []) if name.startswith("rabbitry")]
    assert loops == ["rabbitry-trio", "rabbitry.blocking"]
