"""One figure over the fractions: its trend, its noise, and the fraction at which a rule is forecast to be exceeded.

The line is Theil's and Sen's (Sen 1968, J Am Stat Assoc 63:1379), which a few wild days do not turn. A forecast is made by
going on many times: with lines as uncertain as this one, and days as noisy as those seen. It holds while the patient goes on
as before; what has not shown yet (a response, a tube, a holiday) is in no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from adaptive.decision.rules import Rule

FEWEST = 5
"""Fractions without which no line is drawn."""
DRAWS = 2000
EFFICIENCY = 0.85
"""Of the line's variance, against least squares', on normal noise and few points."""
WILD = 3.0
"""Standard deviations (of many days) beyond which a day's distance from the line counts as so many in the noise."""


@dataclass(frozen=True)
class Trend:
    """A line through a figure over the fractions.

    Args:
        slope: change a fraction, in the figure's unit.
        slope_interval: 95 %.
        intercept: the line's value at fraction 0.
        noise: standard deviation of single days about it.
        fractions: numbers of the fractions it stands on.
        values: their figures.
    """

    slope: float
    slope_interval: tuple[float, float]
    intercept: float
    noise: float
    fractions: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, fraction: float) -> float:
        """The line's value."""
        return self.intercept + self.slope * fraction


@dataclass(frozen=True)
class Forecast:
    """When a rule is forecast to be exceeded.

    Args:
        said: in words.
        fraction: the median; None where it lies beyond the course or nothing can be said.
        earliest, latest: between which it lies with 95 %; None where that is beyond the course or nothing can be said.
        probability: that it is exceeded within the course; None where nothing can be said.
    """

    said: str
    fraction: int | None = None
    earliest: int | None = None
    latest: int | None = None
    probability: float | None = None


def trend(points: Sequence[tuple[int, float]]) -> Trend | None:
    """The line through (fraction, value); None of fewer than five fractions."""
    if len({f for f, _ in points}) < FEWEST:
        return None
    x, y = np.array(points, dtype=np.float64).T
    slope, intercept, _, _ = stats.theilslopes(y, x)
    noise = _noise(y - intercept - slope * x)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * noise * math.sqrt(1 / EFFICIENCY) / math.sqrt(((x - x.mean()) ** 2).sum())
    slope = float(slope)
    fractions, values = tuple(int(f) for f in x), tuple(float(v) for v in y)
    return Trend(slope, (slope - half, slope + half), float(intercept), noise, fractions, values)


def forecast(rule: Rule, points: Sequence[tuple[int, float]], last: int) -> Forecast:
    """When a rule will be exceeded by a value that goes on as it did.

    Args:
        rule: with its limit and how many fractions in a row it wants.
        points: (fraction, value) so far, in the rule's terms (`series`).
        last: number of the course's last fraction.
    """
    points = sorted(points)
    row = 0
    for _, value in reversed(points):
        if not rule.beyond(value):
            break
        row += 1
    if row >= rule.consecutive:
        return Forecast("is exceeded", probability=1.0)
    line = trend(points)
    if line is None:
        return Forecast("not enough fractions")
    now = line.fractions[-1]
    if now >= last:
        return Forecast("the course is over", probability=0.0)
    days = _went_on(line, np.arange(now + 1, last + 1))
    exceeded = _first_exceeded(days > rule.limit if rule.rises else days < rule.limit, rule.consecutive, row)
    at = np.sort(np.where(exceeded < 0, np.inf, now + 1 + exceeded))
    low, middle, high = (_whole(at[int(q * (len(at) - 1))]) for q in (0.025, 0.5, 0.975))
    share = float(np.isfinite(at).mean())
    if low is None:
        return Forecast("not within the course", probability=share)
    if middle is None:
        said = f"rather not within the course, not before fraction {low}"
    elif high is None:
        said = f"at fraction {middle}, not before {low}, and perhaps not within the course"
    else:
        said = f"at fraction {middle} ({low} to {high})"
    return Forecast(said, middle, low, high, share)


def _noise(off: NDArray[np.float64]) -> float:
    """Standard deviation about a line of two parameters. What is wild is told by the median distance, which of few days is
    itself so uncertain that more must be allowed."""
    most = WILD * len(off) / (len(off) - 3) * float(stats.median_abs_deviation(off, scale="normal"))
    held = np.clip(off, -most, most) if most > 0 else off
    return float(np.sqrt((held**2).sum() / (len(off) - 2)))


def _went_on(line: Trend, fractions: NDArray[np.int_]) -> NDArray[np.float64]:
    """`[draw, fraction]` values to come. The same trend gives the same draws."""
    rng = np.random.default_rng(0)
    x = np.asarray(line.fractions, dtype=np.float64)
    free, spread = len(x) - 2, ((x - x.mean()) ** 2).sum()
    noise = line.noise * np.sqrt(free / rng.chisquare(free, (DRAWS, 1)))
    unsure = noise / math.sqrt(EFFICIENCY)
    middle = line.at(float(x.mean())) + unsure / math.sqrt(len(x)) * rng.standard_normal((DRAWS, 1))
    slope = line.slope + unsure / math.sqrt(spread) * rng.standard_normal((DRAWS, 1))
    return middle + slope * (fractions - x.mean()) + noise * rng.standard_normal((DRAWS, len(fractions)))


def _first_exceeded(beyond: NDArray[np.bool_], consecutive: int, row: int) -> NDArray[np.int_]:
    """Index of the fraction that completes the row, by draw; -1 for none. `row` fractions before were beyond already."""
    run = np.full(len(beyond), row)
    out = np.full(len(beyond), -1)
    for n, day in enumerate(beyond.T):
        run = np.where(day, run + 1, 0)
        out[(out < 0) & (run >= consecutive)] = n
    return out


def _whole(fraction: float) -> int | None:
    return int(fraction) if math.isfinite(fraction) else None
