"""The rules of the project itself: layers, public names, docstrings, and the front door that the README promises."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

# Imports point downward only: a module imports from its own layer or those before it.
LAYERS = ("rabbitry._errors", "rabbitry.protocol", "rabbitry._transport", "rabbitry", "loadtest")

# protocol is sans-IO: no clock, no socket, no event loop.
FORBIDDEN_IN_PROTOCOL = {
    "anyio", "asyncio", "select", "selectors", "socket", "sniffio", "ssl", "threading", "time", "trio", "uvloop",
}  # fmt: skip

TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s tests"
MAIN_JOB = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s loadtest -- --clients 10000"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path for package in ("rabbitry", "loadtest") for path in (ROOT / package).rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer(module: str) -> int:
    """The most specific of LAYERS that the module belongs to."""
    matching = [name for name in LAYERS if is_within(module, name)]
    return LAYERS.index(max(matching, key=len))


def imported(module: str) -> Iterator[str]:
    """The full names that a module imports, wherever in it: `from a import b` gives a.b, relative imports resolved."""
    parts = module.split(".")
    package = parts if SOURCES[module].name == "__init__.py" else parts[:-1]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def resolved(name: str) -> str:
    """The module that an imported name is in: a.b is a's unless a.b is a module itself."""
    while name not in SOURCES and "." in name:
        name = name.rpartition(".")[0]
    return name


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_downward(module: str) -> None:
    upward = [
        name
        for name in map(resolved, imported(module))
        if is_within(name, "rabbitry") or is_within(name, "loadtest")
        if layer(name) > layer(module)
    ]
    assert not upward


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if is_within(name, "rabbitry.protocol")))
def test_protocol_does_no_io(module: str) -> None:
    assert not {name.partition(".")[0] for name in imported(module)} & FORBIDDEN_IN_PROTOCOL


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if is_within(name, "rabbitry._transport")))
def test_transport_knows_no_amqp(module: str) -> None:
    assert not [name for name in imported(module) if is_within(name, "rabbitry.protocol")]


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if is_within(name, "rabbitry")))
def test_the_client_needs_nothing_of_the_testing_package(module: str) -> None:
    crossing = [
        name
        for name in imported(module)
        if is_within(name, "rabbitry")
        if is_within(name, "rabbitry.testing") != is_within(module, "rabbitry.testing")
    ]
    assert not crossing


def private_names(tree: ast.Module) -> set[str]:
    """Names with a leading underscore that a module defines, as attribute, function, class, slot or annotation."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)  # __slots__
    return {name for name in names if name.startswith("_") and not name.endswith("__") and name != "_"}


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if is_within(name, "loadtest")))
def test_loadtest_uses_public_names_only(module: str) -> None:
    private_imports = [
        name
        for name in imported(module)
        if is_within(name, "rabbitry") and any(part.startswith("_") for part in name.split("."))
    ]
    assert not private_imports

    of_rabbitry = {name for source in TREES if is_within(source, "rabbitry") for name in private_names(TREES[source])}
    its_own = private_names(TREES[module])
    attributes = [
        f"line {node.lineno}: .{node.attr}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute) and node.attr in of_rabbitry - its_own
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
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
                if inspect.iscoroutinefunction(member) and not member_name.startswith("_"):
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


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_modules_open_with_their_law(module: str) -> None:
    assert ast.get_docstring(TREES[module])


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
