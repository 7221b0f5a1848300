"""Bars: what they show, for light and dark pages, and the picture of ways to serve many clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from loadtest.analysis.strategies import build_strategies_result
from loadtest.output.charts.bars import WIDTH, Bar, Column, Row, bars_picture
from loadtest.output.charts.palette import DARK, LIGHT, in_light
from loadtest.output.charts.rendering import to_svg, write_in_both
from loadtest.output.charts.strategies import strategies_picture

BARS = (
    Bar("ours", 40.0, "40 each", 30.0, 50.0, is_ours=True),
    Bar("a library with a name that takes more than one line", 10.0, "10 each"),
    Bar("none", None, "not measured"),
)


def svg_of(specification: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(in_light(specification)))


def texts_of(svg: ElementTree.Element) -> list[str]:
    return [text for element in svg.iter() if (text := (element.text or "").strip())]


def layers_of(specification: dict[str, Any]) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = specification["vconcat"][0]["hconcat"][0]["layer"]
    return found


def test_a_picture_of_bars_says_what_they_are() -> None:
    picture = bars_picture("Title", [Row("Rates", "Longer is better.", [Column("now", "rate (1/s)", BARS)])])
    texts = texts_of(svg_of(picture))
    for part in ("Title", "Rates", "Longer is better.", "now", "rate (1/s)", "ours", "40 each", "not measured"):
        assert part in texts, part
    assert not any("more than one line" in text and "a library" in text for text in texts), "its name is broken"


def test_bars_begin_at_nought_and_leave_room_for_what_is_told() -> None:
    picture = bars_picture("", [Row("", "", [Column("", "x", BARS)])])
    domain = layers_of(picture)[0]["encoding"]["x"]["scale"]["domain"]
    assert domain[0] == 0
    told = 50.0 / domain[1] * WIDTH + 6.4 * len("40 each")
    assert told <= WIDTH


def test_columns_have_scales_of_their_own_unless_told() -> None:
    small = [Bar("ours", 1.0, "1")]
    for has_one_scale in (False, True):
        columns = [Column("a", "x", small), Column("b", "x", [Bar("ours", 1000.0, "1,000")])]
        picture = bars_picture("", [Row("", "", columns, has_one_scale)])
        domains = [chart["layer"][0]["encoding"]["x"]["scale"]["domain"] for chart in picture["vconcat"][0]["hconcat"]]
        assert (domains[0] == domains[1]) == has_one_scale


def test_all_bars_at_nought_can_be_drawn() -> None:
    texts = texts_of(svg_of(bars_picture("", [Row("", "", [Column("", "x", [Bar("a", 0.0, "nothing")])])])))
    assert "nothing" in texts


def test_text_of_others_is_only_text() -> None:
    bars = [Bar('<b>\'; "x" \\ {{datum}}', 1.0, "</text><script>")]
    svg = svg_of(bars_picture("", [Row("", "", [Column("", "x", bars)])]))
    assert "</text><script>" in texts_of(svg)


def test_light_and_dark_files(tmp_path: Path) -> None:
    picture = bars_picture("Title", [Row("", "", [Column("", "x", BARS)])])
    light, dark = write_in_both(picture, tmp_path / "rates.svg")
    assert (light.name, dark.name) == ("rates.svg", "rates-dark.svg")
    for path, colours, others in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
        text = path.read_text()
        assert colours["ink"] in text and colours["paper"] in text and colours["line0"] in text
        assert others["ink"] not in text and "var(" not in text


# --- ways to serve many clients ---------------------------------------------------------------------------------------


def cell(strategy: str, clients: int, rate: float, gave_up: str = "") -> dict[str, Any]:
    latency = {"mean": 1.0, "p50": 1.0, "p99": None if clients == 10 else 5.0, "max": 9.0}
    return {
        "strategy": strategy,
        "clients": clients,
        "trial": 1,
        "order": 1,
        "measured_seconds": 6.0,
        "gave_up": {"reason": "memory", "text": gave_up, "number": 1} if gave_up else None,
        "connect": {"seconds": 1.0},
        "publish": {"rate": rate, "fairness": 1.0, "confirm_latency_ms": latency},
        "consume": None,
        "resources": {"client_rss_bytes": 2**26, "client_cpu_seconds": 0},
        "errors": {},
    }


def strategies_result() -> dict[str, Any]:
    ways = {
        name: {"title": f"way {name}", "driver": driver, "way": "pools", "source": "here"}
        for name, driver in (("a", "rabbitry"), ("b", "pika"))
    }
    cells = [cell("a", 10, 500), cell("b", 10, 400), cell("a", 100, 900), cell("b", 100, 1, "its process took it all")]
    return build_strategies_result(
        started_at="2026-01-01",
        plan={"clients": [10, 100], "trials": 1, "seconds": 6.0, "size": 128, "prefetch": 100, "seed": 1},
        rule="It is given up.",
        strategies=ways,
        environment={"python": "3", "cores": 2},
        broker={},
        cells=cells,
        not_tried=[],
        is_finished=True,
    )


def test_the_picture_of_ways() -> None:
    texts = texts_of(svg_of(strategies_picture(strategies_result())))
    for part in ("10 clients", "100 clients", "way a", "way b", "500", "900", "p99 (ms)", "64", "memory (MiB)"):
        assert part in texts, part
    assert texts.count("✗ too much memory") == 3, "why it was given up stands where its bar would be"
    assert "1" not in texts, "the rate of what was given up is no figure"


def test_what_was_not_tried() -> None:
    result = strategies_result()
    result["cells"].pop()
    result["not_tried"] = [{"strategy": "b", "clients": 100, "because": {"clients": 10, "reason": "rate"}}]
    assert "✗ not tried" in texts_of(svg_of(strategies_picture(result)))


def test_a_reason_that_is_not_known_yet() -> None:
    result = strategies_result()
    result["cells"][-1]["gave_up"]["reason"] = "the moon"
    assert "✗ given up" in texts_of(svg_of(strategies_picture(result)))
