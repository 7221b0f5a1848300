"""The frame of a picture drawn by hand as SVG: panels one above the other that share a time axis.

It owns where things stand, the gridlines, the legend and the text around them; what the lines tell is its caller's
business. There is no script in it and no font: it looks the same in a browser, in a review and in a year.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from math import floor, log10

COLOURS = ("#1b6ca8", "#c4541d", "#3a7d44", "#7b4ea3")

Points = list[tuple[float, float]]
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Measures in the picture's own units, and how many seconds the time axis has."""

    seconds: float
    panels: int
    width: int = 960
    left: int = 70
    right: int = 150
    top: int = 40
    panel: int = 200
    gap: int = 50

    def across(self, seconds: float) -> float:
        """Where a moment lies on the time axis."""
        return self.left + (self.width - self.left - self.right) * seconds / self.seconds

    def top_of(self, number: int) -> int:
        """Where a panel begins, counted from 0."""
        return self.top + number * (self.panel + self.gap)

    def document(self, title: str, parts: Iterable[str]) -> str:
        """The whole picture, as the text of an SVG file."""
        height = self.top_of(self.panels) - self.gap + 40
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}"',
            ' font-family="sans-serif" font-size="12">',
            f'<rect width="{self.width}" height="{height}" fill="white"/>',
            f'<text x="{self.left}" y="20" font-size="15" font-weight="bold">{escape(title)}</text>',
            *parts,
            *self._time_axis(),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def band(self, number: int, start: float, end: float, colour: str) -> str:
        """The background of a panel from one moment to another."""
        x, width = self.across(start), self.across(end) - self.across(start)
        return (
            f'<rect x="{x:.1f}" y="{self.top_of(number)}" width="{width:.1f}" height="{self.panel}" fill="{colour}" '
            f'stroke="#cccccc" stroke-width="0.5"/>'
        )

    def caption(self, number: int, text: str) -> str:
        """What stands above a panel: what it shows, in which unit."""
        return f'<text x="{self.left}" y="{self.top_of(number) - 6}" fill="#555555">{escape(text)}</text>'

    def gridline(self, y: float, label: str) -> Iterator[str]:
        """A line across a panel, and its value beside it."""
        end = self.width - self.right
        yield f'<line x1="{self.left}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#dddddd" stroke-width="0.5"/>'
        yield f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555555">{label}</text>'

    def line(
        self, number: int, index: int, name: str, points: Points, down: Scale, *, dashed: bool = False
    ) -> Iterator[str]:
        """Draws one of a panel's lines, and its entry in the legend."""
        if not points:
            return
        stroke = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{self.across(x):.1f},{down(y):.1f}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        y = self.top_of(number) + 14 + 18 * index
        x = self.width - self.right + 12
        yield f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.5"{dashes}/>'
        yield f'<line x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}" stroke="{stroke}" stroke-width="2"{dashes}/>'
        yield f'<text x="{x + 28}" y="{y}">{escape(name)}</text>'

    def _time_axis(self) -> Iterator[str]:
        step = round_step(self.seconds)
        y = self.top_of(self.panels) - self.gap + 16
        for number in range(int(self.seconds / step) + 1):
            x = self.across(number * step)
            yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle" fill="#555555">{number * step:g} s</text>'


def round_step(highest: float) -> float:
    """A round distance between four to ten gridlines."""
    if highest <= 0:
        return 1.0
    magnitude: float = 10.0 ** floor(log10(highest))
    return next(magnitude * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if highest / (magnitude * part) <= 8)
