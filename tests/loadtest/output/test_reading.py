"""Results read back, and the schema they follow."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadtest.output.reading import NoResult, read_result
from loadtest.output.ways import gave_up, read_strategies

ROOT = Path(__file__).parents[3]
PUBLISHED = sorted((ROOT / "results").glob("2*Z-*.json"))
SCHEMA = json.loads((ROOT / "loadtest/output/schema.json").read_text())


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_published_result_can_be_read_and_follows_the_schema(path: Path) -> None:
    jsonschema.validate(read_result(path), SCHEMA, jsonschema.Draft202012Validator)


def test_the_schema_is_one_and_holds_what_it_must() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    whole = json.loads(PUBLISHED[0].read_text())
    for name in SCHEMA["required"]:
        assert not validator.is_valid({key: value for key, value in whole.items() if key != name}), name
    for way, value in ((("publish", "sent"), "x"), (("connect", "latency_ms", "p99"), "1 ms"), (("loop",), "other")):
        wrong: Any = deepcopy(whole)
        *path, last = way
        section = wrong
        for step in path:
            section = section[step]
        section[last] = value
        assert not validator.is_valid(wrong), way
    assert validator.is_valid({**whole, "later": {}}), "what is added is no fault"


def test_a_list_of_ways_is_read(tmp_path: Path) -> None:
    row = {"strategy": "a", "clients": 10, "rate": 1.0}
    trial = {"strategy": "a", "clients": 10, "gave_up": None, "publish": {"rate": 1.0}}
    ended = {"strategy": "b", "clients": 10, "gave_up": {"text": "no threads"}, "publish": None, "resources": None}
    skipped = {"strategy": "b", "clients": 100, "because": {"clients": 10}}
    titles = {"a": {"title": "one each"}}
    trials = {"schema": 1, "strategies": titles, "cells": [trial, ended], "not_tried": [skipped]}
    for content in ([row], {"schema": 1, "strategies": [row]}, trials):
        path = tmp_path / "x.json"
        path.write_text(json.dumps(content))
        assert read_result(path)["schema"] == 1
    rows = read_strategies(trials)
    assert [(row["strategy"], row["clients"], row.get("rate"), gave_up(row)) for row in rows] == [
        ("one each", 10, 1.0, ""),
        ("b", 10, None, "no threads"),
        ("b", 100, None, "not tried: given up with 10 clients"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ('{"schema": NaN}', "NaN is no number"),
        ("3", "it is no result"),
        ("{}", "its schema is None"),
        ("[]", "run_id is missing"),
        ('{"schema": 2}', "its schema is 2"),
        ('{"schema": 1}', "run_id is missing"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(NoResult, match=said):
        read_result(path)
    with pytest.raises(NoResult, match="No such file"):
        read_result(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("way", "value", "said"),
    [
        (("publish", "sent"), None, "publish.sent is missing"),
        (("rpc",), 3, "rpc is missing or of another kind"),
        (("phases",), [{"name": "measure"}], "phases has an entry without a right seconds"),
        (("timeline",), [7], "timeline has an entry of another kind"),
        (("scenario", "clients"), "x", "scenario.clients is no number"),
        (("publish", "rate"), "fast", "TypeError"),
        (("timeline",), None, "timeline is missing"),
        (("verdict",), {}, "verdict has an entry without a right status"),
    ],
)
def test_half_a_result_is_refused(tmp_path: Path, way: tuple[str, ...], value: Any, said: str) -> None:
    whole = json.loads(PUBLISHED[0].read_text())
    section: Any = whole
    for step in way[:-1]:
        section = section[step]
    if value is None:
        del section[way[-1]]
    else:
        section[way[-1]] = value
    path = tmp_path / "x.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(NoResult, match=said):
        read_result(path)
