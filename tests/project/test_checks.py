"""The checks check: what failed side by side gets one second try, and only that; and everything is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LONG_FILES
from tests.support.outcomes import Run, add_up, count, read
from tests.support.twice import TOLERATED, WORTH_TRYING, conclude, worth_trying

ROOT = Path(__file__).parents[2]
FAILED = 1  # pytest's exit code where tests failed

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs a file of tests as nox does, in a folder of its own, with the one plugin that matters: the exit code and the
    last line."""

    def run(tests: str, *words: str) -> tuple[int, str]:
        (tmp_path / "pytest.ini").write_text("[pytest]")
        (tmp_path / "test_it.py").write_text(f"import os, pathlib, pytest\n{tests}")
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.twice", "outcomes/tests.jsonl", "-p", "xdist", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout.splitlines()[-1]

    return run


FLAKY = """
def first_time(name):
    there = pathlib.Path(name).exists()
    pathlib.Path(name).touch()
    return not there
"""


def test_a_green_run_runs_once_and_says_so(check: Check, tmp_path: Path) -> None:
    tests = "def test_one(): pass\ndef test_two(): pytest.skip()"
    assert check(tests) == (0, "1 passed, 0 failed, 1 skipped")
    assert len(read(tmp_path / "outcomes" / "tests.jsonl")) == 1


def test_what_takes_long_is_told_by_file(check: Check, tmp_path: Path) -> None:
    tests = """import time
@pytest.fixture
def slow():
    time.sleep(0.1)
    yield
    time.sleep(0.1)
def test_one(slow): time.sleep(0.1)
def test_two(slow): time.sleep(0.1)"""
    check(tests, "-n", "1")
    (run,) = read(tmp_path / "outcomes" / "tests.jsonl")
    assert (list(run.seconds), run.seconds["test_it.py"] >= 0.6) == (["test_it.py"], True)


def test_what_passes_alone_is_counted_and_named(check: Check, tmp_path: Path) -> None:
    tests = f"""{FLAKY}
@pytest.mark.parametrize("text", ["a::b [c]", "d"])
def test_flaky(text): assert text == "d" or not first_time("call")
@pytest.fixture
def broken():
    yield
    assert not first_time("fixture")
def test_fixture(broken): pass
"""
    line = "3 passed, 0 failed, 0 skipped; 2 tests passed only when run alone: "
    line += "test_it.py::test_flaky[a::b [c]], test_it.py::test_fixture"
    assert check(tests, "-n", "1") == (0, line)
    together, alone = read(tmp_path / "outcomes" / "tests.jsonl")
    assert len(alone.tests) == 2
    reasons = together.reasons.values()
    assert [("test_it.py:" in reason, "assert" in reason) for reason in reasons] == [(True, True)] * 2


def test_what_fails_alone_too_is_red(check: Check) -> None:
    line = "0 passed, 1 failed, 0 skipped; alone, too, did not pass: test_it.py::test_one"
    assert check("def test_one(): assert False") == (1, line)


def test_what_is_skipped_alone_has_not_passed(check: Check) -> None:
    code, line = check(f"{FLAKY}\ndef test_one():\n    assert not first_time('it')\n    pytest.skip()")
    assert (code, line.partition("; ")[2]) == (1, "alone, too, did not pass: test_it.py::test_one")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_can_not_be_collected_is_red_at_once(check: Check, tmp_path: Path, workers: str) -> None:
    code, line = check("def test_one(): pass\nraise ValueError", "-n", workers)
    assert (code != 0, line) == (True, "0 passed, 1 failed, 0 skipped; test_it.py was not collected")
    assert len(read(tmp_path / "outcomes" / "tests.jsonl")) == 1


def test_a_worker_that_died_is_red_at_once(check: Check, tmp_path: Path) -> None:
    tests = f"{FLAKY}\ndef test_one():\n    if first_time('it'): os._exit(3)\ndef test_two(): pass"
    code, line = check(tests, "-n", "1")
    assert (code, line) == (FAILED, "1 passed, 1 failed, 0 skipped; worker gw0 died")
    assert len(read(tmp_path / "outcomes" / "tests.jsonl")) == 1


def test_wrong_words_and_nothing_to_run_are_red(check: Check) -> None:
    assert check("", "--no-such-flag") == (4, "0 passed, 0 failed, 0 skipped")
    assert check("") == (5, "0 passed, 0 failed, 0 skipped")


def run_of(failed: int, passed: int = 0, status: int | None = None) -> Run:
    outcomes = ["failed"] * failed + ["passed"] * passed
    tests = {f"test_{number}": outcome for number, outcome in enumerate(outcomes)}
    return Run(tests, status=int(failed > 0) if status is None else status)


@pytest.mark.parametrize("failed", range(1, 6))
def test_a_few_may_need_to_run_alone(failed: int) -> None:
    line, status = conclude([run_of(failed), run_of(0, passed=failed)])
    assert status == (failed > TOLERATED)
    assert line.endswith("(red, as these are more than 3)") == (failed > TOLERATED)


def test_where_much_failed_no_wait_was_too_short() -> None:
    assert len(worth_trying(run_of(WORTH_TRYING))) == WORTH_TRYING
    assert not worth_trying(run_of(WORTH_TRYING + 1))
    assert conclude([run_of(WORTH_TRYING + 1)])[1] == FAILED


def test_an_interrupted_run_is_not_tried_again() -> None:
    assert not worth_trying(run_of(1, status=int(pytest.ExitCode.INTERRUPTED)))


def test_a_test_has_the_worst_of_its_outcomes() -> None:
    run = Run()
    for outcome in ("passed", "failed", "skipped"):
        run.add({"test": "it", "outcome": outcome})
    assert run.tests == {"it": "failed"}
    assert count([run]) == {"passed": 0, "failed": 1, "skipped": 0}


def test_a_whole_check_is_added_up(tmp_path: Path) -> None:
    assert add_up(tmp_path, red=False) == "0 passed, 0 failed, 0 skipped"
    assert add_up(tmp_path, red=True) == "0 passed, 1 failed, 0 skipped", "a step without tests"
    began = json.dumps({"began": True})
    passed, failed = (json.dumps({"test": name, "outcome": name}) for name in ("passed", "failed"))
    (tmp_path / "one.jsonl").write_text("\n".join([began, passed, failed, '{"test": "killed he']))
    (tmp_path / "other.jsonl").write_text("\n".join([began, passed]))
    assert add_up(tmp_path, red=True) == "2 passed, 1 failed, 0 skipped"


def test_the_sum_needs_no_packages(tmp_path: Path) -> None:
    """.ci/run asks for it even where installing them was what failed."""
    program = ROOT / "tests" / "support" / "outcomes.py"
    done = subprocess.run([sys.executable, "-IS", program, tmp_path, "1"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0 passed, 1 failed, 0 skipped\n")


def test_what_faces_no_broker_has_no_mark(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("broker") is None


def test_what_faces_a_broker_by_a_fixture_has_the_mark(request: pytest.FixtureRequest, amqp_url: str) -> None:
    assert request.node.get_closest_marker("broker")


def test_what_starts_a_broker_has_the_mark(request: pytest.FixtureRequest) -> None:
    def start() -> object:
        from rabbitry.testing import PrivateNode

        return PrivateNode()

    assert request.node.get_closest_marker("broker")


def test_the_long_files_are_there() -> None:
    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).is_file()] == []
