"""The tests in docs/testing.md pass as written, in milliseconds each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rabbitry.testing import pytest_plugin

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))

RUNNERS = {"anyio": "anyio.pytest_plugin", "asyncio": "pytest_asyncio.plugin", "trio": "pytest_trio.plugin"}


def run(folder: Path, test: str, *runners: str) -> str:
    for name, text in FILES.items():
        if name != "conftest.py" or "asyncio" in runners:  # without it, pytest doesn't know what is in there
            (folder / name).write_text(text)
    for runner in runners:
        pytest.importorskip(RUNNERS[runner].partition(".")[0])
    plugins = ["-p", "no:cacheprovider"]
    for module in ("rabbitry.testing.pytest_plugin", *(RUNNERS[runner] for runner in runners)):
        plugins += ["-p", module]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "--durations=0", *plugins, test],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("runner", "count"), [("asyncio", 3), ("trio", 3), ("anyio", 2)])
def test_virtual_time(tmp_path: Path, runner: str, count: int) -> None:
    said = run(tmp_path, f"test_on_{runner}.py", runner)
    assert f"{count} passed" in said
    took = [float(seconds) for seconds in re.findall(r"^([\d.]+)s call ", said, re.MULTILINE)]
    assert len(took) == count and max(took) < 2, "milliseconds, but for a machine that is busy"


def test_all_of_them_stand_in_one_folder(tmp_path: Path) -> None:
    assert "9 passed, 1 deselected" in run(tmp_path, "-knot rabbitmq", *RUNNERS)


@pytest.mark.broker
def test_both_brokers(tmp_path: Path) -> None:
    assert "2 passed" in run(tmp_path, "test_both.py", "anyio")


def test_each_fixture_is_in_the_table() -> None:
    first = TEXT.partition("\n### ")[0]  # the tables that follow are of other things
    table = set(re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE))
    definition = type(pytest_plugin.broker_url)
    fixtures = {name for name, value in vars(pytest_plugin).items() if isinstance(value, definition)}
    assert table == fixtures - {"broker_kind", "rabbitmq_node", "rabbitmq_virtual_hosts"}
    assert all(f"`{name}`" in TEXT for name in ("broker_kind", "rabbitmq_node"))


def test_each_program_has_its_test() -> None:
    assert set(FILES) == {
        "orders.py",
        "test_both.py",
        *(f"test_on_{runner}.py" for runner in RUNNERS),
        "conftest.py",
    }
