"""The charts: which there are, what they show, and what becomes of them."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any
from xml.etree import ElementTree

import pytest

from loadtest.output.charts.lines import logarithmic
from loadtest.output.charts.palette import DARK, LIGHT
from loadtest.output.charts.panels import for_page, for_picture, make_panels
from loadtest.output.charts.rendering import to_png, to_svg

STRATEGY = {"strategy": "a channel each", "clients": 10, "rate": 900.0, "p50_ms": 1.0, "p99_ms": 2.0}
STRATEGY |= {"memory_bytes": 2**26, "client_cpu_us": 50.0, "broker_cpu_us": 60.0, "gave_up": None}


def picture_of(*results: dict[str, Any]) -> list[str]:
    """The texts of the picture of these results."""
    root = ElementTree.fromstring(to_svg(for_picture("Title", list(make_panels(results)))))
    return [text for element in root.iter() if (text := (element.text or "").strip())]


def names_of(*results: dict[str, Any]) -> list[str]:
    return [panel.name for panel in make_panels(results)]


def test_the_picture_of_a_run(result: dict[str, Any]) -> None:
    texts = picture_of(result)
    for part in (
        *("Title", "Messages a second", "Latency over time", "Connections", "Percentile spectrum"),
        *("messages a second (1/s)", "latency (ms)", "open connections", "seconds since the run began"),
        *("confirmed", "consumed", "RPC replies", "confirm", "end to end", "RPC", "p50", "p99", "max"),
        *("measure", "99.9 %", "percentile, by log 1/(1−p)"),
    ):
        assert part in texts, part
    assert "var(" not in json.dumps(for_picture("", list(make_panels([result])))), "a picture has no style sheet"


def test_a_picture_is_a_png_as_well(result: dict[str, Any]) -> None:
    assert to_png(for_picture("Title", list(make_panels([result])))).startswith(b"\x89PNG")


def test_a_long_title_makes_no_picture_wider(result: dict[str, Any]) -> None:
    panels = list(make_panels([result]))
    pictures = [to_svg(for_picture(title, panels)) for title in ("Title", "ten thousand clients got through " * 10)]
    widths = [re.search(r'width="(\d+)"', picture) for picture in pictures]
    assert [width and width[1] for width in widths] == [widths[0] and widths[0][1]] * 2


def test_the_picture_of_nothing(result: dict[str, Any]) -> None:
    result |= {"timeline": [], "phases": [], "histograms": {}}
    assert names_of(result) == []
    assert picture_of(result) == ["Title"]


def test_time_that_was_not_measured_is_shown(result: dict[str, Any]) -> None:
    assert not any("missing" in text for text in picture_of(result))
    result["scenario"]["duration"] = 60.0
    texts = picture_of(result)
    assert "missing: 40.0 s were not measured" in texts
    assert "60" in texts, "the axis goes on"


def test_phases_and_faults_are_named_where_there_is_room(result: dict[str, Any]) -> None:
    result["phases"] = [{"name": "search", "seconds": 10.0}, {"name": "drain", "seconds": 0.01}]
    result["faults"] = [
        {"at_seconds": 2.0, "action": "killed"},
        {"at_seconds": 2.1, "fault": "paused"},
        {"fault": "never"},
    ]
    texts = picture_of(result)
    assert "search" in texts and "drain" not in texts
    assert "paused" in texts and "killed" not in texts, "they strike too close to each other"


def test_several_runs_are_overlaid(result: dict[str, Any]) -> None:
    other = deepcopy(result)
    other["scenario"]["backend"] = "asyncio"
    del other["rpc"]
    other["phases"][0]["seconds"] = 9.0  # it took longer to connect
    names = names_of(result, other)
    assert names[:3] == ["rate-confirmed", "rate-consumed", "rate-rpc"]
    texts = picture_of(result, other)
    assert "seconds since the measurement began" in texts
    assert {"rabbitry on trio", "rabbitry on asyncio"} <= set(texts)
    assert "connect" not in texts, "phases differ"


def test_capacity_and_sweep(result: dict[str, Any]) -> None:
    steps = [{"rate": 1000.0, "held": True}, {"rate": 2000.0, "held": False}]
    result["capacity"] = {"sustainable_rate": 1500.0, "closed_rate": 1800.0, "share": 0.5, "steps": steps}
    found = [{"rate": rate, "response_ms": {"p50": rate / 100, "p99": rate / 10}} for rate in (300, 100, 200)]
    result["sweep"] = {"steps": found, "knees": [{"rate": 250, "by": "curvature"}]}
    assert names_of(result)[:2] == ["sweep", "capacity"]
    texts = picture_of(result)
    for part in ("sustainable: 1,500/s", "closed loop: 1,800/s", "not sustained", "knee: 250/s", "rate reached (1/s)"):
        assert part in texts, part


@pytest.mark.parametrize("wrong", [{}, {"steps": None}, {"steps": [3, {}, {"rate": "x"}]}, None])
def test_a_capacity_without_steps_has_no_chart(result: dict[str, Any], wrong: Any) -> None:
    result["capacity"] = result["sweep"] = wrong
    assert not {"capacity", "sweep"} & set(names_of(result))


def test_ways_are_compared_by_their_number_of_clients() -> None:
    gone = {**STRATEGY, "strategy": "a thread each", "clients": 1000, "rate": None, "gave_up": "no more threads"}
    rows = [STRATEGY, {**STRATEGY, "clients": 1000, "rate": 1800.0}, {**STRATEGY, "strategy": "a thread each"}, gone]
    found = {"schema": 1, "strategies": rows}
    assert names_of(found) == [f"strategies-{key}" for key in list(STRATEGY)[2:-1]]
    texts = picture_of(found)
    for part in ("a channel each", "a thread each", "clients", "memory (MiB)", "CPU a message (µs)", "×", "1,000"):
        assert part in texts, part


@pytest.mark.parametrize("low", [0.00012, 0.5, 1.0, 4.99, 5.0, 5.01, 99_000.0])
@pytest.mark.parametrize("factor", [1.0, 1.01, 3.0, 1e5])
def test_a_logarithmic_axis_holds_all_and_little_else(low: float, factor: float) -> None:
    axis = logarithmic([low, None, low * factor], "x").to_dict()
    bottom, top = axis["scale"]["domain"]
    assert bottom <= low * (1 + 1e-9) and low * factor <= top * (1 + 1e-9) and bottom < top
    assert bottom > low / 2.6 and top < max(low * factor, bottom * 2) * 2.6
    marks = axis["axis"]["values"]
    assert 2 <= len(marks) <= 16 and marks == sorted(marks)


def test_a_page_has_the_colours_of_its_style_sheet(result: dict[str, Any]) -> None:
    text = json.dumps([for_page(panel) for panel in make_panels([result])])
    assert not any(colour in text for colour in {*LIGHT.values(), *DARK.values()})
    assert LIGHT.keys() == DARK.keys()
    assert '"container"' in text and "PLOT_WIDTH" not in text


def test_charts_hold_no_secret(result: dict[str, Any]) -> None:
    url = "amqp://u:secret@h/"
    result["faults"] = [{"at_seconds": 1.0, "action": url}]
    result["phases"].append({"name": url, "seconds": 1.0})
    other = deepcopy(result)
    result["scenario"]["labels"], other["scenario"]["labels"] = {"a": url}, {"b": url}
    rows = [{**STRATEGY, "strategy": url, "gave_up": url}, {**STRATEGY, "strategy": url}]
    for results in ([result], [result, other], [{"strategies": rows}]):
        assert "secret" not in json.dumps([for_page(panel) for panel in make_panels(results)])


def contrast(one: str, other: str) -> float:
    """WCAG 2: how well one colour can be told from another, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_text_and_lines_stand_out(colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        least = 4.5 if name in ("ink", "soft", "alarm") else 3.0 if name.startswith("line") else 1.0
        assert contrast(colour, colours["paper"]) >= least, name


def test_without_confirms_the_rate_is_of_what_was_sent(result: dict[str, Any]) -> None:
    result["publish"] |= {"confirms": False}
    for row in result["timeline"]:
        row["confirmed"] = 0
    texts = picture_of(result)
    assert "sent" in texts and "confirmed" not in texts
