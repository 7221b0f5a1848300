"""From specifications to files: the one place that knows vl-convert."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from loadtest.output.charts.palette import DARK, LIGHT, in_colours

_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Vega-Lite's version as vl-convert names it: of `v6.4.1` the first two numbers."""
_CLIP = re.compile(r"\bclip\d+\b")


def to_svg(specification: dict[str, Any]) -> str:
    """The chart as the text of an SVG file: the same whenever the chart is."""
    text = str(vl_convert.vegalite_to_svg(specification, vl_version=_VERSION))
    # its names of clip paths count on from one picture to the next
    numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(_CLIP.findall(text)))}
    return _CLIP.sub(lambda found: f"clip{numbers[found[0]]}", text)


def write_in_both(specification: dict[str, Any], path: Path) -> list[Path]:
    """Writes a picture that is in the palette's variables for light pages, as `path`, and for dark ones beside it, as
    `…-dark.svg`; returns both. Each has its own background, so that it can also be read alone.
    """
    paths = [path, path.with_name(f"{path.stem}-dark{path.suffix}")]
    for each, colours in zip(paths, (LIGHT, DARK), strict=True):
        each.write_text(to_svg(in_colours(specification, colours)), encoding="utf-8")
    return paths


def to_png(specification: dict[str, Any]) -> bytes:
    """The chart as a PNG, twice as fine as its size says."""
    return bytes(vl_convert.vegalite_to_png(specification, vl_version=_VERSION, scale=2))


def library() -> str:
    """The script that draws charts in a page: Vega, Vega-Lite and Vega-Embed, which it defines as `vegaEmbed`."""
    bundle: Any = vl_convert.javascript_bundle  # its types want what its documentation does not
    return str(bundle(vl_version=_VERSION))
