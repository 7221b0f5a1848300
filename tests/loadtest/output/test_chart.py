"""The chart of a run."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from loadtest.output.chart import draw_chart
from loadtest.output.frame import round_step


def test_the_chart_is_one_well_formed_picture(result: dict[str, Any]) -> None:
    root = ElementTree.fromstring(draw_chart(result))
    lines = [element for element in root if element.tag.endswith("polyline")]
    assert len(lines) == 3 + 6
    assert all(len(line.attrib["points"].split()) == 2 for line in lines)  # the stub is left out
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert "10,000 clients, rabbitry on trio, 20260101T000000Z-abcdef" in texts


def test_the_chart_of_nothing(result: dict[str, Any]) -> None:
    result |= {"timeline": [], "phases": []}
    ElementTree.fromstring(draw_chart(result))


@pytest.mark.parametrize("highest", [0, 0.001, 0.99, 1, 7.99, 8.01, 9.99, 10, 94, 95.5, 8_500, 1e6 - 1])
def test_gridlines_are_few_and_reach_the_top(highest: float) -> None:
    step = round_step(highest)
    assert highest / step <= 8
    assert highest == 0 or highest / step > 3


def test_time_that_was_not_measured_is_shown(result: dict[str, Any]) -> None:
    assert "missing" not in draw_chart(result)
    result["scenario"]["duration"] = 60.0
    root = ElementTree.fromstring(draw_chart(result))
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert "missing: 40.0 s were not measured" in texts
    assert "60 s" in texts, "the axis goes on"
    result["scenario"]["duration"] = 20.1  # a busy machine
    assert "missing" not in draw_chart(result)
