"""The door: what happens before the program itself runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run_with(patch: str) -> subprocess.CompletedProcess[str]:
    """`python -m loadtest --help` where this was executed first."""
    run = "runpy.run_module('loadtest', run_name='__main__')"
    code = f"import sys, runpy\nsys.argv = ['loadtest', '--help']\n{patch}\n{run}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_help() -> None:
    done = run_with("")
    assert done.returncode == 0
    assert "--clients" in done.stdout


def test_a_missing_extra_is_named() -> None:
    done = run_with("sys.modules['psutil'] = None")
    assert done.returncode == 2
    assert done.stderr == "loadtest: it needs the package 'psutil': in a clone of rabbitry, pip install '.[loadtest]'\n"


WINDOWS = """
class Windows:
    def find_spec(self, name, path, target=None):
        if name == "loadtest.commands.program":
            sys.platform = "win32"
            raise ModuleNotFoundError("No module named 'resource'", name="resource")
sys.meta_path.insert(0, Windows())
"""


def test_a_system_without_unix_is_named() -> None:
    """And not a package to install: none has it."""
    done = run_with(WINDOWS)
    assert done.returncode == 2
    assert done.stderr == "loadtest: it needs Unix: this Python has no module 'resource'\n"


@pytest.mark.parametrize("module", ["resource", "sqlite3.dbapi2", "ssl"])
def test_a_python_without_a_part_of_its_library_is_told_which(module: str) -> None:
    """It is this Python that lacks it, whatever the system."""
    missing = f"raise ModuleNotFoundError('No module', name={module!r})"
    done = run_with(WINDOWS.replace('sys.platform = "win32"', missing))
    assert done.returncode == 2
    told = (
        f"loadtest: this Python ({sys.executable}) has no module {module.partition('.')[0]!r}, a part of the standard "
    )
    assert done.stderr.startswith(told) and "Unix" not in done.stderr


def test_interrupted_while_it_imports() -> None:
    patch = """
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "loadtest.commands.run":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
"""
    done = run_with(patch)
    assert done.returncode == 130
    assert done.stderr == "loadtest: interrupted before anything was measured\n"
