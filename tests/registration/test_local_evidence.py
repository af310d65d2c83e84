"""Evidence by region: what matched points say of a result where it is right, where it is wrong, and where there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patient.geometry import Geometry
from registration.local_evidence import LocalEvidence, local_evidence
from registration.method import Matches
from registration.transforms import Points, Rigid, Space
from registration.working import Working

GRID = Geometry((60, 60, 60), (4.0, 4.0, 4.0), (-118.0, -118.0, -118.0), image="planning")
OTHER = replace(GRID, image="today")
STILL = Rigid.identity(Space.of(GRID), Space.of(OTHER))
Z = GRID.points(np.moveaxis(np.indices(GRID.shape), 0, -1))[..., 2]


def body(lung_below: float = -60.0) -> Working:
    """A cube of tissue, and of lung below a height (LPS z, mm)."""
    hu = np.where(lung_below > Z, -850.0, 40.0).astype(np.float32)
    everywhere = np.ones(GRID.shape, bool)
    return Working(GRID, hu, hu, everywhere, everywhere, ())


def places(count: int, seed: int = 0) -> Points:
    return np.random.default_rng(seed).uniform(-115, 115, (count, 3))


def matches(at: Points, apart: Points, wrong: float = 0.0, seed: int = 1) -> Matches:
    """Points with a little noise; a part of them points anywhere within 50 mm."""
    rng = np.random.default_rng(seed)
    there = at + apart + rng.normal(0, 0.5, at.shape)
    chance = rng.random(len(at)) < wrong
    there[chance] = at[chance] + rng.uniform(-29, 29, (int(chance.sum()), 3))
    return Matches(at, there, np.ones(len(at)))


def said(found: Matches) -> LocalEvidence:
    return local_evidence(found, STILL, body())


def test_where_all_points_lie_where_the_result_puts_them_it_is_confirmed_everywhere() -> None:
    at = places(1500)
    found = said(matches(at, 0 * at))
    assert found.worst_mm is not None
    assert found.worst_mm < 2.0
    assert found.unconfirmed is not None
    assert found.unconfirmed < 0.05


@settings(max_examples=20, deadline=None)
@given(st.floats(7.0, 40.0), st.floats(0.0, 0.4), st.integers(0, 1000))
def test_a_region_that_is_wrong_is_found_and_named_whatever_the_chance_matches_say(
    mm: float, wrong: float, seed: int
) -> None:
    """The lowest 60 mm are off; a part of all matches is nonsense."""
    at = places(700, seed)
    apart = np.where(at[:, 2:] < -60, [[0.0, 0.0, -mm]], 0.0)
    found = said(matches(at, apart, wrong, seed))
    assert found.worst_mm is not None
    assert abs(found.worst_mm - mm) < 2.0
    assert found.worst_where is not None
    assert found.worst_where.startswith("lung, lower")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_matches_by_chance_say_nothing_and_confirm_nothing(seed: int) -> None:
    at = places(500, seed)
    found = said(matches(at, 0 * at, wrong=1.0, seed=seed))
    assert found.worst_mm is None
    assert found.unconfirmed == 1.0


def test_a_lung_without_points_is_told_apart_from_a_body_that_has_many() -> None:
    at = places(900)
    at = at[at[:, 2] > -60]
    found = said(matches(at, 0 * at))
    assert found.unconfirmed is not None
    assert found.unconfirmed < 0.3
    assert found.unconfirmed_lung is not None
    assert found.unconfirmed_lung > 0.4


def test_without_any_match_nothing_is_confirmed() -> None:
    found = said(matches(np.zeros((0, 3)), np.zeros((0, 3))))
    assert (found.worst_mm, found.worst_matches, found.worst_where) == (None, None, None)
    assert found.unconfirmed == 1.0


def test_of_a_body_without_air_no_lung_is_asked_about() -> None:
    at = places(300)
    assert local_evidence(matches(at, 0 * at), STILL, body(lung_below=-200.0)).unconfirmed_lung is None
