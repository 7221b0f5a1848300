"""The colours and the looks of all charts.

Colours are told apart by people who see fewer of them (they are Okabe and Ito's), and none stands alone: lines have
dashes or shapes besides. In a page each is a variable of its style sheet, which knows a dark and a light form; a
picture has one of these forms itself, and there may be two of it.
"""

from __future__ import annotations

import json
from typing import Any

LIGHT = {
    "ink": "#1f2328",
    "soft": "#59636e",
    "grid": "#e3e6ea",
    "paper": "#ffffff",
    "alarm": "#b3261e",
    "line0": "#0072b2",
    "line1": "#c04f00",
    "line2": "#00795a",
    "line3": "#a8508a",
    "line4": "#6b5800",
    "line5": "#2b8fc9",
    "line6": "#444c56",
    "line7": "#8a63d2",
    "phase0": "#dfe9f3",
    "phase1": "#f5ecd7",
    "phase2": "#ececec",
    "phase3": "#dddddd",
    "phase4": "#e6efe2",
    "phase5": "#f6d5d5",
}
DARK = {
    "ink": "#e6edf3",
    "soft": "#9aa4af",
    "grid": "#30363d",
    "paper": "#0d1117",
    "alarm": "#ff7b72",
    "line0": "#56b4e9",
    "line1": "#f0883e",
    "line2": "#3fcf9f",
    "line3": "#e08fc4",
    "line4": "#e5c94b",
    "line5": "#9ecbff",
    "line6": "#b1bac4",
    "line7": "#b392f0",
    "phase0": "#14253a",
    "phase1": "#2b2413",
    "phase2": "#1d2126",
    "phase3": "#262b31",
    "phase4": "#16281c",
    "phase5": "#4a1d1d",
}
LINES = tuple(f"var(--line{number})" for number in range(8))
INK, SOFT, GRID, PAPER, ALARM = (f"var(--{name})" for name in ("ink", "soft", "grid", "paper", "alarm"))

PHASES = {
    "connect": "var(--phase0)",
    "warmup": "var(--phase1)",
    "measure": "transparent",
    "drain": "var(--phase2)",
    "close": "var(--phase3)",
    "search": "var(--phase4)",
    "closed": "var(--phase4)",
    "missing": "var(--phase5)",
}
"""A phase that is not among them has the search's."""
OTHER_PHASE = "var(--phase4)"

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
LOOKS: dict[str, Any] = {
    "background": "transparent",
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "gridColor": GRID,
        "labelColor": SOFT,
        "labelFontSize": 11,
        "labelOverlap": True,
        "tickColor": GRID,
        "titleColor": SOFT,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "legend": {
        "orient": "top",
        "columns": 4,
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 260,
        "symbolStrokeWidth": 2.5,
        "symbolSize": 140,
        "title": None,
        "offset": 8,
    },
    "title": {
        "anchor": "start",
        "color": INK,
        "fontSize": 15,
        "subtitleColor": SOFT,
        "subtitleFontSize": 12,
        "subtitlePadding": 4,
        "offset": 10,
    },
}


def in_light(specification: dict[str, Any]) -> dict[str, Any]:
    """The specification with the light colours themselves: for pictures, which have no style sheet."""
    return in_colours(specification, LIGHT)


def in_colours(specification: dict[str, Any], colours: dict[str, str]) -> dict[str, Any]:
    """The specification with these colours themselves, `LIGHT` or `DARK`."""
    text = json.dumps(specification)
    for name, colour in colours.items():
        text = text.replace(f"var(--{name})", colour)
    found: dict[str, Any] = json.loads(text)
    return found


def style_sheet(colours: dict[str, str]) -> str:
    """The declarations of the colours' variables."""
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())
