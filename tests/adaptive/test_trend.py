"""Trends and forecasts, held to simulated courses whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptive.course.trend import forecast, trend
from adaptive.decision.rules import Compare, Rule

RULE = Rule("x", (), "Dmean", "Gy", Compare.CHANGE, 3.0, True, 2, "review", False, False, "example, site to set")
LAST = 35


def course(slope: float, noise: float, seed: int, last: int = LAST, start: float = 0.0) -> np.ndarray:
    return start + slope * np.arange(1, last + 1) + np.random.default_rng(seed).normal(0, noise, last)


def so_far(values: np.ndarray, n: int) -> list[tuple[int, float]]:
    return [(k + 1, float(v)) for k, v in enumerate(values[:n])]


def exceeded(values: np.ndarray, consecutive: int = 2) -> int | None:
    row = 0
    for fraction, value in enumerate(values, start=1):
        row = row + 1 if value > 3.0 else 0
        if row == consecutive:
            return fraction
    return None


@given(st.floats(-2, 2), st.floats(-20, 20), st.integers(5, 20))
def test_a_line_without_noise_is_found_exactly(slope: float, start: float, n: int) -> None:
    line = trend([(f, start + slope * f) for f in range(1, n + 1)])
    assert line is not None
    assert line.slope == pytest.approx(slope, abs=1e-9)
    assert line.at(30) == pytest.approx(start + 30 * slope, abs=1e-6)
    assert line.noise == pytest.approx(0, abs=1e-6)


def test_wild_days_do_not_turn_the_line() -> None:
    values = course(0.1, 0.05, 1)
    clean = trend(so_far(values, 15))
    values[[3, 9, 14]] += (20, -30, 25)
    wild = trend(so_far(values, 15))
    assert clean is not None
    assert wild is not None
    assert wild.slope == pytest.approx(clean.slope, abs=0.03)
    assert wild.noise < 0.3


def test_noise_is_the_scatter_about_the_line() -> None:
    found = [t.noise for s in range(200) if (t := trend(so_far(course(0.1, 0.8, s), 12))) is not None]
    assert np.mean(found) == pytest.approx(0.8, rel=0.06)


@pytest.mark.parametrize("n", [5, 8, 15, 30])
def test_the_slopes_interval_holds_the_slope_in_95_percent(n: int) -> None:
    held = []
    for seed in range(400):
        line = trend(so_far(course(0.1, 0.8, seed), n))
        assert line is not None
        held.append(line.slope_interval[0] <= 0.1 <= line.slope_interval[1])
    assert 0.93 <= np.mean(held) <= 0.985


@pytest.mark.parametrize(
    ("n", "slope", "noise"), [(6, 0.15, 0.3), (10, 0.12, 0.5), (15, 0.12, 1.0), (8, 0.3, 0.6), (10, 0.06, 0.3)]
)
def test_the_forecasts_interval_holds_the_fraction_at_which_it_trips(n: int, slope: float, noise: float) -> None:
    held, widths = [], []
    for seed in range(150):
        values = course(slope, noise, 1000 + seed)
        true = exceeded(values)
        if true is not None and true <= n:
            continue
        got = forecast(RULE, so_far(values, n), LAST)
        assert got.probability is not None
        truth, low, high = (LAST + 1 if v is None else v for v in (true, got.earliest, got.latest))
        held.append(low <= truth <= high)
        widths.append(high - low)
    assert len(held) > 60
    assert np.mean(held) >= 0.92
    assert np.median(widths) < LAST - n, "an interval that is all of the course says nothing"


def test_what_is_forecast_to_trip_with_a_probability_does_so_as_often() -> None:
    rng = np.random.default_rng(11)
    said, happened = [], []
    for seed in range(400):
        values = course(rng.uniform(-0.1, 0.25), 0.5, 5000 + seed)
        got = forecast(RULE, so_far(values, 12), LAST)
        if got.said != "is exceeded":
            assert got.probability is not None
            said.append(got.probability)
            happened.append(exceeded(values) is not None)
    of = np.digitize(said, (0.1, 0.5, 0.9))
    for group in range(4):
        assert np.mean(np.array(said)[of == group]) == pytest.approx(np.mean(np.array(happened)[of == group]), abs=0.12)


def test_a_steady_figure_is_not_forecast_to_trip() -> None:
    got = forecast(RULE, so_far(course(0.0, 0.1, 3), 12), LAST)
    assert got.said == "not within the course"
    assert got.fraction is got.earliest is got.latest is None


def test_a_figure_that_falls_away_from_the_limit_is_not_forecast_to_trip() -> None:
    assert forecast(RULE, so_far(course(-0.2, 0.3, 3), 12), LAST).said == "not within the course"


def test_a_rule_that_falls_is_forecast_as_one_that_rises() -> None:
    values = course(0.12, 0.3, 7)
    up, down = (
        forecast(RULE, so_far(values, 10), LAST),
        forecast(replace(RULE, limit=-3.0, rises=False), so_far(-values, 10), LAST),
    )
    assert up.fraction is not None
    assert down.fraction == pytest.approx(up.fraction, abs=1)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_few_fractions_are_not_enough(n: int) -> None:
    assert forecast(RULE, so_far(course(0.1, 0.1, 0), n), LAST).said == "not enough fractions"
    assert trend(so_far(course(0.1, 0.1, 0), n)) is None


def test_what_has_tripped_is_said_even_of_few_fractions() -> None:
    assert forecast(RULE, [(1, 5.0), (2, 5.0)], LAST).said == "is exceeded"


def test_a_first_day_beyond_counts_toward_the_row() -> None:
    """Noiseless: beyond since today for the first time, so that tomorrow completes the row of two."""
    points = [(f, 3.0 + 0.2 * (f - 9.5)) for f in range(1, 11)]
    assert forecast(RULE, points, LAST).fraction == 11


def test_the_same_course_gives_the_same_forecast() -> None:
    points = so_far(course(0.1, 0.5, 2), 10)
    assert forecast(RULE, points, LAST) == forecast(RULE, points[::-1], LAST)


def test_a_course_that_is_over_has_no_forecast() -> None:
    assert forecast(RULE, so_far(course(0.0, 0.1, 2), 10), 10).said == "the course is over"
