"""What a scenario, a scenario file and the command line ask for, one above the other, as one list of words.

The same flags everywhere: a key of a file or of the catalogue is a flag without its dashes in front, with `_` or `-`.
What a layer names takes the place of what those below it say, and of what can't go with it.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any


class Takes(Enum):
    """What a flag takes: it is there or not, has one value, or may be given several times."""

    NOTHING = "true or false"
    ONE = "one number or text"
    SEVERAL = "a number, a text, or a list of them"


Known = Mapping[str, Takes]
"""The flags that there are, with their dashes."""
Layer = Mapping[str, Sequence[str]]
"""For each flag, with its dashes, the words that give it."""

_ROLES = ("--producers", "--consumers", "--callers")
_INSTEAD: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_ROLES, frozenset({"--clients"})),
    "--rate": frozenset({"--rate-each", "--mode"}),
    "--rate-each": frozenset({"--rate", "--mode"}),
    "--mode": frozenset({"--rate", "--rate-each"}),
    "--reconnect": frozenset({"--no-reconnect"}),
    "--no-reconnect": frozenset({"--reconnect"}),
}
"""What a flag takes the place of, beside itself."""
_NOT_IN_FILES = frozenset({"--help", "--list-scenarios", "--list-drivers", "--json"})
_TABLES: Mapping[str, Callable[[str], str]] = {"--queue-arg": json.dumps, "--header": json.dumps, "--label": str}
"""Flags of the form K=V, which may be tables; and how a text is written then."""


@dataclass(frozen=True, slots=True)
class File:
    """A scenario file as read: the flags of all, and of each workload, by its name."""

    flags: Mapping[str, Any]
    workloads: Mapping[str, Mapping[str, Any]]


def read_file(text: str) -> File:
    """Reads a TOML scenario file. ValueError if it is none; flags are looked at by `make_layer`."""
    try:
        flags = tomllib.loads(text.removeprefix("\ufeff"))  # which editors put there
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is no TOML: {error}") from None
    workloads: dict[str, Mapping[str, Any]] = {}
    for number, workload in enumerate(_tables(flags, "workload"), 1):
        name = workload.pop("name", f"workload-{number}")
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
            raise ValueError(f"[[workload]] name {name!r}: letters, digits, - and _, at most 40")
        if name in workloads:
            raise ValueError(f"two workloads are called {name!r}")
        workloads[name] = workload
    if faults := _tables(flags, "fault"):
        flags["fault"] = [_read_fault(each) for each in faults]
    return File(flags, workloads)


def _tables(flags: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Takes out the ``[[key]]`` tables; what is written otherwise under that name stays."""
    value = flags.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        if key == "workload" and value is not None:
            raise ValueError("write each workload as a table of its own: [[workload]]")
        return []
    del flags[key]
    return value


def _read_fault(table: Mapping[str, Any]) -> str:
    if set(table) != {"at", "action"}:
        raise ValueError(f'[[fault]] has at and action, such as at = "60s", action = "kill-sockets 10%": {table!r}')
    return f"{table['at']} {table['action']}"


def make_layer(flags: Mapping[str, Any], known: Known) -> Layer:
    """The words for each flag. ValueError for a key that is none of the known flags, with the nearest one, for one that
    is there twice, and for what its flag doesn't take.
    """
    layer: dict[str, Sequence[str]] = {}
    keys: dict[str, str] = {}
    for key, value in flags.items():
        flag = _find_flag(key, known)
        if flag in keys:
            raise ValueError(f"{keys[flag]!r} and {key!r} are the same flag")
        keys[flag] = key
        if known[flag] is Takes.NOTHING:
            flag, words = _switch(key, flag, value, known)
        else:
            words = _spell(key, flag, value, known[flag])
        layer[flag] = words
    return layer


def _find_flag(key: str, known: Known) -> str:
    flag = f"--{key.replace('_', '-')}"
    if flag not in known or flag in _NOT_IN_FILES:
        near = difflib.get_close_matches(flag, set(known) - _NOT_IN_FILES, 1)
        raise ValueError(f"{key!r} is no flag" + (f": {near[0][2:]} is" if near else ""))
    return flag


def _switch(key: str, flag: str, value: Any, known: Known) -> tuple[str, list[str]]:
    if not isinstance(value, bool):
        raise ValueError(f"{key!r} takes {Takes.NOTHING.value}")
    negative = f"--no-{flag[2:]}"
    if not value and negative in known:
        return negative, [negative]
    return flag, [flag] if value else []


def _spell(key: str, flag: str, value: Any, takes: Takes) -> list[str]:
    if isinstance(value, Mapping):
        if flag not in _TABLES:
            raise ValueError(f"{key!r} takes no table")
        return [f"{flag}={name}={_spell_in_table(key, flag, name, each)}" for name, each in value.items()]
    values = value if isinstance(value, list) and takes is Takes.SEVERAL else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
        raise ValueError(f"{key!r} takes {takes.value}")
    return [f"{flag}={_spell_number(each) if isinstance(each, float) else each}" for each in values]


def _spell_in_table(key: str, flag: str, name: str, value: Any) -> str:
    if not name or "=" in name:
        raise ValueError(f"{key!r}: {name!r} is no name: it has letters, and no =")
    if isinstance(value, str):
        return _TABLES[flag](value)
    if not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{key!r}: {name!r} is neither a text, a number, nor true or false")
    return json.dumps(value)


def _spell_number(number: float) -> str:
    """As flags take it, who know no 1e-05."""
    return f"{Decimal(repr(number)):f}"


def stack(layers: Sequence[Layer], words: Sequence[str]) -> list[str]:
    """The words of all layers, the lowest first, without what a higher one, or the command line, has instead."""
    taken = named_in(words)
    kept = list(words)
    for layer in reversed(layers):
        gone = taken.union(*(_INSTEAD.get(flag, ()) for flag in taken))
        kept = [word for flag, spelled in layer.items() if flag not in gone for word in spelled] + kept
        taken |= set(layer)
    return kept


def named_in(words: Iterable[str]) -> set[str]:
    """The flags that a command line names."""
    return {word.partition("=")[0] for word in words if word.startswith("--")}
