"""The door: what happens before the program itself runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    assert done.stderr == "loadtest: it needs the package 'psutil': pip install 'rabbitry[loadtest]'\n"


def test_a_system_without_unix_is_named() -> None:
    """And not a package to install: none has it."""
    done = run_with("sys.modules['resource'] = None")
    assert done.returncode == 2
    assert done.stderr == "loadtest: it needs Unix: this Python has no module 'resource'\n"


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
