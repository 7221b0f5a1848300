"""What lines are drawn of, and what several runs are called."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.output.charts.points import MOST, Point, missing_seconds, spans, thin
from loadtest.output.naming import name_runs

VALUES = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=2000)


@given(VALUES, st.integers(4, 100))
def test_thinning_keeps_order_ends_and_every_extreme(values: list[float | None], most: int) -> None:
    points: list[Point] = [(float(when), value) for when, value in enumerate(values)]
    thinned = thin(points, most)
    assert len(thinned) <= max(most, 4)
    assert thinned == sorted(thinned, key=lambda point: point[0]) and set(thinned) <= set(points)
    assert thinned[:1] == points[:1] and thinned[-1:] == points[-1:]
    known = [value for value in values if value is not None]
    kept = [value for _, value in thinned if value is not None]
    if known:
        assert (min(kept), max(kept)) == (min(known), max(known))


def test_a_single_peak_in_an_hour_is_drawn_where_it_was() -> None:
    points: list[Point] = [(float(second), 1.0 if second != 1801 else 900.0) for second in range(3600)]
    thinned = thin(points)
    assert len(thinned) <= MOST
    assert (1801.0, 900.0) in thinned


def test_a_stretch_without_values_stays_a_gap() -> None:
    points: list[Point] = [(float(when), None if 100 <= when < 200 else math.sin(when)) for when in range(1000)]
    assert any(value is None for _, value in thin(points, 100))


def run(run_id: str, *, backend: str = "trio", **labels: str) -> dict[str, Any]:
    return {"run_id": run_id, "scenario": {"driver": "rabbitry", "backend": backend, "labels": labels}}


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([run("a-1", host="x"), run("a-2", host="y")], ["host=x", "host=y"]),
        ([run("a-1", host="x"), run("a-2", host="x", backend="asyncio")], ["rabbitry on trio", "rabbitry on asyncio"]),
        ([run("a-1"), run("a-2")], ["1", "2"]),
        ([run("a-1"), run("b-1")], ["1: 1", "2: 1"]),
        ([run("a-1")], ["rabbitry on trio"]),
        ([], []),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(results: list[dict[str, Any]], names: list[str]) -> None:
    assert name_runs(results) == names


def test_time_that_was_to_be_measured_and_was_not(result: dict[str, Any]) -> None:
    assert missing_seconds(result) == 0
    result["scenario"]["duration"] = 60.0
    assert missing_seconds(result) == 40.0
    result["scenario"]["duration"] = 20.1  # a busy machine
    assert missing_seconds(result) == 0
    assert list(spans(result["phases"])) == [("connect", 0.0, 1.0), ("measure", 1.0, 21.0)]
