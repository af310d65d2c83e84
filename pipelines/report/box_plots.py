"""A measure over cases as SVG: a row a structure, a dot in its colour for each case, and a box where there are enough.

Drawn in the page's own ink, as `trends` draws courses, so that it follows the choice of light or dark without a script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from contour.summary import FEWEST

WIDTH, ROW = 560.0, 26.0
LEFT, RIGHT, TOP, BOTTOM = 118.0, 12.0, 4.0, 30.0
WHISKER = 1.5
"""Boxes (Tukey 1977)."""


@dataclass(frozen=True)
class Row:
    """A structure's values; `limit` is drawn where there is one."""

    name: str
    color: tuple[int, int, int]
    values: tuple[float, ...]
    limit: float | None = None


def box_plot(rows: Sequence[Row], title: str, unit: str, ends: tuple[float, float] | None = None) -> Markup:
    """The picture; what it shows is its title, for those who cannot see it.

    Args:
        rows: at least one value among them.
        unit: what stands under the axis.
        ends: the least that the axis shows.
    """
    return _Plot([row for row in rows if row.values], title, unit, ends).svg()


@dataclass
class _Plot:
    rows: Sequence[Row]
    title: str
    unit: str
    ends: tuple[float, float] | None
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = [v for row in self.rows for v in (*row.values, *([row.limit] if row.limit is not None else []))]
        low, high = min([*values, *(self.ends or ())]), max([*values, *(self.ends or ())])
        room = 0.03 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high = low - room, high + room
        self.height = TOP + ROW * len(self.rows) + BOTTOM

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def svg(self) -> Markup:
        self._axis()
        for number, row in enumerate(self.rows):
            self._row(row, TOP + ROW * (number + 0.5))
        return Markup(
            f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {self.height:g}" role="img">'
            f"<title>{escape(self.title)}</title>{''.join(self.parts)}</svg>"
        )

    def _axis(self) -> None:
        floor = self.height - BOTTOM
        for value in MaxNLocator(6).tick_values(self.low, self.high):
            if self.low <= value <= self.high:
                self._line("grid", self.x(value), TOP, self.x(value), floor)
                self._text("tick", self.x(value), floor + 13, f"{value:g}", "middle")
        self._line("axis", LEFT, floor, WIDTH - RIGHT, floor)
        self._text("tick", (LEFT + WIDTH - RIGHT) / 2, self.height - 4, self.unit, "middle")

    def _row(self, row: Row, y: float) -> None:
        red, green, blue = row.color
        self.parts.append(f'<g style="--c: rgb({red},{green},{blue})">')
        self._text("label", LEFT - 8, y + 3.5, row.name, "end")
        values = np.sort(np.asarray(row.values, dtype=np.float64))
        if len(values) >= FEWEST:
            first, middle, third = (float(v) for v in np.percentile(values, (25, 50, 75)))
            reach = WHISKER * (third - first)
            inside = values[(values >= first - reach) & (values <= third + reach)]
            self._line("whisker", self.x(float(inside[0])), y, self.x(float(inside[-1])), y)
            left, width = self.x(first), self.x(third) - self.x(first)
            self.parts.append(
                f'<rect class="box" x="{left:.1f}" y="{y - 8:.1f}" width="{max(width, 1):.1f}" height="16" rx="2"/>'
            )
            self._line("median", self.x(middle), y - 8, self.x(middle), y + 8)
        for n, value in enumerate(row.values):
            # A fixed pattern keeps dots of equal value apart, and the page the same for the same result.
            self.parts.append(f'<circle class="case" cx="{self.x(value):.1f}" cy="{y + (n * 7 % 11 - 5):.1f}" r="2.2"/>')
        if row.limit is not None:
            self._line("mark review", self.x(row.limit), y - 11, self.x(row.limit), y + 11)
        self.parts.append("</g>")

    def _line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, kind: str, x: float, y: float, said: str, anchor: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>')
