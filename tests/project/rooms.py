"""The project's rooms, and what its import graph says of them: `python -m tests.project.rooms` prints both.

A room is a file or a folder. Each may import the rooms above it in `ROOMS` and what `LEAVES_OUT` does not forbid; an
import counts wherever it stands: for type checkers only, or inside a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the ground up: each may import those above it, and no room below. rabbitry/ first, then loadtest/.
ROOMS = (
    "rabbitry._errors",
    "rabbitry._secrets",
    "rabbitry._signatures",
    "rabbitry._later",
    "rabbitry._concurrency",
    "rabbitry._transport",
    "rabbitry.protocol.wire",
    "rabbitry.protocol.client",
    "rabbitry.protocol.server",
    "rabbitry.protocol",
    "rabbitry._values",
    "rabbitry._message",  # an alias for one release
    "rabbitry._endpoint",
    "rabbitry._channel",
    "rabbitry._instrumentation",
    "rabbitry._conventions",
    "rabbitry._rpc",
    "rabbitry._connection",
    "rabbitry._client",
    "rabbitry._instrumented",
    "rabbitry._api",
    "rabbitry._public",
    "rabbitry",
    "rabbitry.opentelemetry",
    "rabbitry.prometheus",
    "rabbitry.taskiq",
    "rabbitry.blocking",
    "rabbitry.broker",
    "rabbitry.testing.rabbitmq",
    "rabbitry.testing.faults",
    "rabbitry.testing",
    "rabbitry._cli",
    "rabbitry.__main__",
    "rabbitry.tutorials",
    "loadtest.units",
    "loadtest.urls",
    "loadtest.scenarios",
    "loadtest.capacity",
    "loadtest.drivers",
    "loadtest.metrics",
    "loadtest.machine",
    "loadtest.execution",
    "loadtest.fleet",
    "loadtest.strategies",
    "loadtest.analysis",
    "loadtest.output",
    "loadtest.commands",
    "loadtest",
    "loadtest.__main__",
)

# The front doors: what the load tester, the command line, the tutorials and users import of rabbitry. Of a package the
# `__init__` is the door, of `rabbitry.protocol` and nothing else its folders, too.
DOORS = (
    "rabbitry",
    "rabbitry.blocking",
    "rabbitry.broker",
    "rabbitry.opentelemetry",
    "rabbitry.prometheus",
    "rabbitry.protocol",
    "rabbitry.protocol.server",
    "rabbitry.taskiq",
    "rabbitry.testing",
)

# The rooms that use rabbitry as its users do.
GUESTS = ("loadtest", "rabbitry._cli", "rabbitry.__main__", "rabbitry.tutorials")

# The rooms that may import these and nothing else of the project, where "above it" would allow more.
ONLY: Mapping[str, tuple[str, ...]] = {
    "rabbitry._errors": (),
    "rabbitry._secrets": (),
    "rabbitry._signatures": (),
    "rabbitry._later": (),
    "rabbitry._concurrency": ("rabbitry._errors", "rabbitry._later"),
    "rabbitry._transport": ("rabbitry._concurrency", "rabbitry._errors", "rabbitry._secrets", "rabbitry._later"),
    "rabbitry.protocol.wire": ("rabbitry._errors",),
    "rabbitry.protocol.client": ("rabbitry.protocol.wire", "rabbitry._errors", "rabbitry._secrets"),
    "rabbitry.protocol.server": ("rabbitry.protocol.wire", "rabbitry._errors"),
    "rabbitry.protocol": (
        "rabbitry.protocol.client",
        "rabbitry.protocol.wire",
        "rabbitry._errors",
        "rabbitry._signatures",
    ),
    "rabbitry._values": ("rabbitry.protocol.wire", "rabbitry._errors", "rabbitry._secrets", "rabbitry._later"),
    "rabbitry.testing.rabbitmq": (),
    "rabbitry.prometheus": ("rabbitry", "rabbitry._conventions", "rabbitry._values"),
    "rabbitry.taskiq": ("rabbitry", "rabbitry._api", "rabbitry._concurrency", "rabbitry._values"),
    "rabbitry.blocking": ("rabbitry", "rabbitry._values", "rabbitry._secrets", "rabbitry._signatures"),
    "rabbitry.broker": (  # rabbitry: for `connect` and `open_client`; see test_the_brokers_core_is_pure
        "rabbitry",
        "rabbitry.protocol.server",
        "rabbitry.protocol.wire",
        "rabbitry._transport",
        "rabbitry._concurrency",
        "rabbitry._errors",
        "rabbitry._signatures",
    ),
    "loadtest.units": (),
    "loadtest.capacity": (),
    "loadtest.drivers": ("rabbitry", "rabbitry.blocking", "loadtest.urls", "loadtest.units"),
}


def module_name(path: Path, root: Path = ROOT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class Graph:
    """The modules of rabbitry and loadtest, and which imports which. They are read when that is asked for: each process
    that collects the tests has graphs, for the names in them, and few run what looks into the modules."""

    def __init__(self, root: Path = ROOT) -> None:
        paths = [path for package in ("rabbitry", "loadtest") for path in (root / package).rglob("*.py")]
        self.sources = {module_name(path, root): path for path in sorted(paths)}

    @cached_property
    def trees(self) -> Mapping[str, ast.Module]:
        return {name: parse(path) for name, path in self.sources.items()}

    @cached_property
    def imports(self) -> Mapping[str, set[str]]:
        return {name: self._imports(name) for name in self.sources}

    def imported(self, module: str) -> Iterator[str]:
        """The full names that a module imports, wherever in it: `from a import b` gives a.b, relative ones resolved."""
        parts = module.split(".")
        package = parts if self.sources[module].name == "__init__.py" else parts[:-1]
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                base = [*base, node.module] if node.module else base
                yield from (".".join([*base, alias.name]) for alias in node.names)

    def resolved(self, name: str) -> str:
        """The module that an imported name is in: a.b is a's unless a.b is a module itself."""
        while name not in self.sources and "." in name:
            name = name.rpartition(".")[0]
        return name

    def _imports(self, module: str) -> set[str]:
        return {name for name in map(self.resolved, self.imported(module)) if name in self.sources} - {module}

    def circles(self) -> list[list[str]]:
        """The modules that import each other, by one way or another: each group of them (Tarjan)."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(module: str) -> None:
            index[module] = low[module] = len(index)
            stack.append(module)
            for other in self.imports[module]:
                if other not in index:
                    visit(other)
                    low[module] = min(low[module], low[other])
                elif other in stack:
                    low[module] = min(low[module], index[other])
            if low[module] == index[module]:
                place = stack.index(module)
                group = stack[place:]
                del stack[place:]
                if len(group) > 1:
                    found.append(sorted(group))

        for module in self.sources:
            if module not in index:
                visit(module)
        return found

    def reaches(self) -> list[str]:
        """Every use of a private name that is another module's: `x._name` where this one defines no such name."""
        found = []
        for module, tree in self.trees.items():
            own = private_names(tree)
            found += [
                f"{module}:{node.lineno} {ast.unparse(node)}"
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own
                if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            ]
        return found


def room_of(module: str) -> str:
    """The room that a module is in: the most specific of ROOMS. Raises `ValueError` where there is none."""
    matching = [room for room in ROOMS if module == room or ("." in room and is_within(module, room))]
    if not matching:
        raise ValueError(f"{module} is in none of the rooms: move it, or say which room it is")
    return max(matching, key=len)


@cache
def private_names(tree: ast.Module) -> frozenset[str]:
    """Names with a leading underscore that a module defines: attribute, function, class, slot or annotation."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names.add(node.value)  # __slots__
    return frozenset(filter(_is_private, names))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def upward(graph: Graph) -> list[str]:
    """Imports of a room below, or of one that `ONLY` does not list."""
    found = []
    for module, imports in graph.imports.items():
        room = room_of(module)
        for other in sorted(imports):
            there = room_of(other)
            if there == room:
                continue
            allowed = ONLY[room] if room in ONLY else ROOMS[: ROOMS.index(room)]
            if there not in allowed:
                found.append(f"{module} imports {other}")
    return found


def through_the_wall(graph: Graph) -> list[str]:
    """What guests import of rabbitry past its front doors."""
    found = []
    for module, imports in graph.imports.items():
        guest = next((guest for guest in GUESTS if is_within(module, guest)), None)
        if guest is None:
            continue
        open_to_it = (guest, "rabbitry._cli") if guest == "rabbitry.__main__" else (guest,)
        for other in sorted(imports):
            is_behind = is_within(other, "rabbitry") and other not in DOORS
            if is_behind and not any(is_within(other, room) for room in open_to_it):
                found.append(f"{module} imports {other}")
    return found


def main(roots: Iterable[Path] = (ROOT,)) -> None:
    for root in roots:
        graph = Graph(root)
        reaches = graph.reaches()
        print(f"{len(graph.sources)} modules, {sum(map(len, graph.imports.values()))} imports")
        print(f"{len(graph.circles())} circles:", *(" ".join(each) for each in graph.circles()), sep="\n  ")
        homeless = [name for name in graph.sources if not _has_room(name)]
        print(f"{len(homeless)} modules without a room:", *homeless, sep="\n  ")
        if not homeless:
            print(f"{len(upward(graph))} upward imports:", *upward(graph), sep="\n  ")
            print(f"{len(through_the_wall(graph))} past the doors:", *through_the_wall(graph), sep="\n  ")
        of_rabbitry = [each for each in reaches if each.startswith("rabbitry")]
        print(f"{len(reaches)} private names of other modules, {len(of_rabbitry)} of them in rabbitry:")
        print("", *reaches, sep="\n  ")


def _has_room(module: str) -> bool:
    try:
        room_of(module)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    import sys

    main([Path(each).resolve() for each in sys.argv[1:]] or (ROOT,))
