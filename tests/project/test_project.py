"""The rules of the project itself: public names, docstrings, and the front door that the README promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.project.rooms import ROOT, Graph, is_within, private_names

TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s tests"
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s loadtest -- --clients 10000"


GRAPH = Graph()


@pytest.mark.parametrize("module", sorted(name for name in GRAPH.sources if is_within(name, "loadtest")))
def test_loadtest_uses_public_names_only(module: str) -> None:
    sources = [source for source in GRAPH.sources if is_within(source, "rabbitry")]
    of_rabbitry = {name for source in sources for name in private_names(GRAPH.trees[source])}
    its_own = private_names(GRAPH.trees[module])
    attributes = [
        f"line {node.lineno}: .{node.attr}"
        for node in ast.walk(GRAPH.trees[module])
        if isinstance(node, ast.Attribute) and node.attr in of_rabbitry - its_own
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os"))
    ]
    assert not attributes


def test_trio_is_imported_only_where_it_runs() -> None:
    """It is an optional dependency."""
    script = "import sys, rabbitry; sys.exit('trio' in sys.modules or 'loadtest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


# --- public names -----------------------------------------------------------------------------------------------------


def public(module: ModuleType) -> dict[str, object]:
    return {name: getattr(module, name) for name in module.__all__}


def public_coroutines() -> dict[str, Callable[..., object]]:
    """Coroutine functions that users call: of the package, and of its public classes, inherited ones included."""
    found: dict[str, Callable[..., object]] = {}
    for package in ("rabbitry", "rabbitry.testing"):
        for name, value in public(importlib.import_module(package)).items():
            members = inspect.getmembers(value) if inspect.isclass(value) else [("", value)]
            for member_name, member in members:
                is_ours = not str(getattr(member, "__module__", "")).startswith("asyncio.")
                if inspect.iscoroutinefunction(member) and is_ours and not member_name.startswith("_"):
                    found[f"{package}.{name}.{member_name}".rstrip(".")] = member
    return found


def test_public_names_resolve_and_belong_to_the_package() -> None:
    rabbitry = importlib.import_module("rabbitry")
    assert len(set(rabbitry.__all__)) == len(rabbitry.__all__)
    astray = {
        name: value.__module__
        for name, value in public(rabbitry).items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ != "rabbitry"
    }
    assert not astray


def test_public_classes_and_functions_have_docstrings() -> None:
    rabbitry = importlib.import_module("rabbitry")
    bare = [
        name
        for name, value in public(rabbitry).items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not (value.__doc__ or "").strip()
    ]
    assert not bare


def test_every_public_coroutine_says_what_cancelling_it_means() -> None:
    coroutines = public_coroutines()
    assert coroutines
    silent = [name for name, value in coroutines.items() if not re.search("cancel", inspect.getdoc(value) or "", re.I)]
    assert not silent


@pytest.mark.parametrize("module", sorted(GRAPH.sources))
def test_modules_open_with_their_law(module: str) -> None:
    assert ast.get_docstring(GRAPH.trees[module])


# --- the front door ---------------------------------------------------------------------------------------------------


def test_runtime_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[<>=!~ \[]", text)[0] for text in project["dependencies"]] == ["anyio", "msgpack"]
    assert project["requires-python"] == ">=3.11"


def test_every_session_has_a_one_line_docstring() -> None:
    sessions = {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse((ROOT / "noxfile.py").read_text()).body
        if isinstance(node, ast.FunctionDef) and any("session" in ast.dump(mark) for mark in node.decorator_list)
    }
    assert sessions.keys() >= {"tests", "tests_all", "tests_rabbitmq_4", "lint", "types", "loadtest", "bench"}
    assert not [name for name, text in sessions.items() if len(text.splitlines()) != 1]


def test_the_readme_names_the_two_commands() -> None:
    lines = {line.strip(" `$") for line in (ROOT / "README.md").read_text().splitlines()}
    assert lines >= {TEST_COMMAND, MAIN_JOB}


def test_ci_runs_the_readmes_test_command_word_for_word() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert TEST_COMMAND in script.read_text()
