"""The schema file: it says each key once, and knows those that results have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SCHEMA_FILE = ROOT / "loadtest" / "output" / "schema.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
RESULTS = [path for path in sorted((ROOT / "results").glob("*.json")) if re.match(r"\d{8}T", path.name)]


def said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)
    return dict(pairs)


def test_it_says_each_key_once() -> None:
    json.loads(SCHEMA_FILE.read_text(encoding="utf-8"), object_pairs_hook=said_once)


def of_objects(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that is of objects."""
    if "$ref" in schema:
        return of_objects(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    return next((found for each in schema.get("anyOf", ()) if (found := of_objects(each))), schema)


def unknown_keys(value: Any, schema: dict[str, Any], place: str = "") -> Iterator[str]:
    """The keys that the schema should know: where it names some, and does not leave them open."""
    schema = of_objects(schema)
    if isinstance(value, list):
        for each in value:
            yield from unknown_keys(each, schema.get("items", {}), f"{place}[]")
    elif isinstance(value, dict) and "properties" in schema:
        patterns = schema.get("patternProperties", {})
        for key, each in value.items():
            if key in schema["properties"]:
                yield from unknown_keys(each, schema["properties"][key], f"{place}.{key}")
            elif not any(re.search(pattern, key) for pattern in patterns):
                yield f"{place}.{key}"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_it_knows_every_key_of_a_result(path: Path) -> None:
    assert not set(unknown_keys(json.loads(path.read_text(encoding="utf-8")), SCHEMA))


def test_an_unknown_key_is_found() -> None:
    odd = {"rpc": {"calls": 1, "cals": 2}, "timeline": [{"rpc": 1, "rpc_p99_ms": 1.0, "prc": 2}], "errors": {"E": 1}}
    assert set(unknown_keys(odd, SCHEMA)) == {".rpc.cals", ".timeline[].prc"}
