"""From specifications to files: the one place that knows vl-convert."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

_VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Vega-Lite's version as vl-convert names it: of `v6.4.1` the first two numbers."""


def to_svg(specification: dict[str, Any]) -> str:
    """The chart as the text of an SVG file."""
    return str(vl_convert.vegalite_to_svg(specification, vl_version=_VERSION))


def to_png(specification: dict[str, Any]) -> bytes:
    """The chart as a PNG, twice as fine as its size says."""
    return bytes(vl_convert.vegalite_to_png(specification, vl_version=_VERSION, scale=2))


def library() -> str:
    """The script that draws charts in a page: Vega, Vega-Lite and Vega-Embed, which it defines as `vegaEmbed`."""
    bundle: Any = vl_convert.javascript_bundle  # its types want what its documentation does not
    return str(bundle(vl_version=_VERSION))
