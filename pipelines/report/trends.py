"""A figure over the fractions as SVG: days with their intervals, the line through them, limits, and when one is reached.

Drawn in the page's own ink, so that it is legible on paper, on a screen and in the dark; a structure has the colour that it
has in every picture and table. No library draws plots that follow the reader's choice of light or dark without a script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from pipelines.records.course import DoseTrackRecord, LimitRecord, TrackRecord, TrendRecord

WIDTH, HEIGHT = 370.0, 214.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 10.0, 34.0
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Dot:
    """A day: `interval` is 95 %; an untrusted one is hollow."""

    fraction: int
    value: float
    interval: tuple[float, float] | None
    trusted: bool


@dataclass(frozen=True)
class Mark:
    """A horizontal line: what it says, in whose colour, and where along it a forecast lies."""

    value: float
    said: str
    kind: Literal["plan", "review", "replan"]
    ahead: tuple[int, int | None, int | None] | None = None
    """Earliest, median and latest fraction; None for beyond the course."""


def track_plot(track: TrackRecord, last: int | None) -> Markup:
    """A track with its trend, its limits and their forecasts.

    Args:
        track: of a part.
        last: number of the plan's last fraction; None where nobody says.
    """
    dots = [Dot(p.fraction, p.value, p.interval, p.trusted) for p in track.points]
    marks = [_limit(limit, track.unit) for limit in track.limits]
    planned = track.planned if track.compare == "value" else 0.0
    if planned is not None:
        marks.insert(0, Mark(planned, "plan", "plan"))
    title = f"{track.structure} {track.quantity} over the fractions, {track.unit or 'ratio'}"
    return _Plot(dots, marks, track.trend, last, track.color or GREY, title).svg()


def dose_plot(track: DoseTrackRecord, last: int | None) -> Markup:
    """The accumulated dose over the fractions with its interval."""
    dots = [Dot(f.fraction, f.value, f.interval, f.trusted) for f in track.figures]
    title = f"Accumulated {track.quantity} of {track.structure} over the fractions, {track.unit}"
    return _Plot(dots, [], None, last, track.color or GREY, title).svg()


def _limit(limit: LimitRecord, unit: str) -> Mark:
    ahead = limit.forecast
    place = (ahead.earliest, ahead.fraction, ahead.latest) if ahead.earliest is not None else None
    words = f"limit {limit.limit:g} {unit}".strip()
    return Mark(limit.limit, words, limit.consequence, place)  # type: ignore[arg-type]


@dataclass
class _Plot:
    dots: Sequence[Dot]
    marks: Sequence[Mark]
    trend: TrendRecord | None
    last: int | None
    colour: tuple[int, int, int]
    title: str
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        newest = max((dot.fraction for dot in self.dots), default=1)
        self.end = float(max(self.last or newest, newest, 5)) + 0.5
        values = [v for d in self.dots for v in (d.value, *(d.interval or ()))] + [mark.value for mark in self.marks]
        low, high = min(values, default=0.0), max(values, default=1.0)
        room = 0.12 * (high - low) or abs(high) * 0.1 or 1.0
        self.low, self.high = low - room, high + room

    def x(self, fraction: float) -> float:
        return LEFT + (fraction - 0.5) / (self.end - 0.5) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def svg(self) -> Markup:
        """The picture; what it shows is its title, for those who cannot see it."""
        self._axes()
        box = f"{LEFT:g} {TOP:g} {WIDTH - LEFT - RIGHT:g} {HEIGHT - TOP - BOTTOM:g}"
        x, y, width, height = box.split()
        self.parts.append(f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}" class="inside">')
        self._line()
        self.parts.append("</svg>")
        for mark in self.marks:
            self._mark(mark)
        for dot in self.dots:
            self._dot(dot)
        inside = "".join(self.parts)
        return Markup(
            f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
            f'style="--c: rgb({",".join(map(str, self.colour))})"><title>{escape(self.title)}</title>{inside}</svg>'
        )

    def _axes(self) -> None:
        for value in MaxNLocator(5).tick_values(self.low, self.high):
            if self.low <= value <= self.high:
                self._rule("grid", (LEFT, self.y(value)), (WIDTH - RIGHT, self.y(value)))
                self._text("tick", LEFT - 5, self.y(value) + 3.5, f"{value:g}", "end")
        for fraction in MaxNLocator(8, integer=True, min_n_ticks=2).tick_values(1, self.end - 0.5):
            if 1 <= fraction <= self.end - 0.5:
                self._text("tick", self.x(fraction), HEIGHT - BOTTOM + 14, f"{fraction:g}", "middle")
        self._rule("axis", (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM))
        self._text("tick", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, "fraction", "middle")

    def _line(self) -> None:
        """The trend, its day's noise as a band (95 %), and where it leads."""
        line = self.trend
        if line is None:
            return
        first, now, end = line.fractions[0], line.fractions[-1], self.end - 0.5
        middle = sum(line.fractions) / len(line.fractions)
        half = (line.slope_interval[1] - line.slope_interval[0]) / 2

        def at(fraction: float) -> float:
            return line.intercept + line.slope * fraction

        def wide(fraction: float) -> float:
            return math.hypot(1.96 * line.noise, half * (fraction - middle))

        steps = [first + (end - first) * n / 24 for n in range(25)]
        edge = [(f, at(f) + wide(f)) for f in steps] + [(f, at(f) - wide(f)) for f in reversed(steps)]
        points = " ".join(f"{self.x(f):.1f},{self.y(v):.1f}" for f, v in edge)
        self.parts.append(f'<polygon class="band" points="{points}"/>')
        self._rule("trend", (self.x(first), self.y(at(first))), (self.x(now), self.y(at(now))))
        if end > now:
            self._rule("ahead", (self.x(now), self.y(at(now))), (self.x(end), self.y(at(end))))

    def _mark(self, mark: Mark) -> None:
        y = self.y(mark.value)
        self._rule(f"mark {mark.kind}", (LEFT, y), (WIDTH - RIGHT, y))
        above = y - TOP > 16
        side, place = ("end", WIDTH - RIGHT - 2) if mark.kind == "plan" else ("start", LEFT + 4)
        self._text(f"said {mark.kind}", place, y - 4 if above else y + 11, mark.said, side)
        if mark.ahead is None:
            return
        earliest, median, latest = mark.ahead
        end = self.end - 0.5
        self._rule(f"reach {mark.kind}", (self.x(earliest), y), (self.x(latest if latest is not None else end), y))
        if median is not None:
            self.parts.append(f'<circle class="reach {mark.kind}" cx="{self.x(median):.1f}" cy="{y:.1f}" r="4.5"/>')
        said = f"{earliest}–{latest if latest is not None else 'end or later'}"
        place = min(max(self.x(median if median is not None else earliest), LEFT + 60), WIDTH - RIGHT - 26)
        self._text(f"said {mark.kind}", place, y + 15 if HEIGHT - BOTTOM - y > 22 else y - 8, said, "middle")

    def _dot(self, dot: Dot) -> None:
        x = self.x(dot.fraction)
        if dot.interval is not None:
            self._rule("whisker", (x, self.y(dot.interval[0])), (x, self.y(dot.interval[1])))
        kind = "dot" if dot.trusted else "dot doubt"
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{self.y(dot.value):.1f}" r="3.4"/>')

    def _rule(self, kind: str, one: tuple[float, float], other: tuple[float, float]) -> None:
        (x1, y1), (x2, y2) = one, other
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def _text(self, kind: str, x: float, y: float, said: str, anchor: str) -> None:
        self.parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>')
