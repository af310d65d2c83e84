"""Organs that end where they should not are told from their shape and their twin alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contour.truncation import Extent, abrupt_ends, uneven_pairs
from patient.geometry import Geometry
from patient.volume import Field, Volume

SHAPE, SPACING = (60, 64, 64), (3.0, 2.0, 2.0)
UPRIGHT = Geometry(SHAPE, SPACING, (-64.0, -64.0, 0.0))
FEET_FIRST = Geometry(SHAPE, SPACING, (64.0, -64.0, 0.0), ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)))


def _field(mask, geometry=UPRIGHT):
    return Field.of_mask(Volume(mask, geometry))


def _ball(centre=30, radius=24.0, first=0, last=SHAPE[0]):
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    inside = ((z - centre) * SPACING[0]) ** 2 + ((y - 32) * SPACING[1]) ** 2 + ((x - 32) * SPACING[2]) ** 2 < radius**2
    inside[:first] = inside[last:] = False
    return inside


def _said(name, mask, geometry=UPRIGHT):
    return [flag.detail for flag in abrupt_ends(name, Extent.of(_field(mask, geometry), geometry))]


def test_a_whole_organ_tapers():
    assert _said("Parotid_L", _ball()) == []
    assert _said("Lung_L", _ball(radius=60.0)) == []


@pytest.mark.parametrize(("geometry", "end"), [(UPRIGHT, "superior"), (FEET_FIRST, "inferior")])
def test_an_organ_cut_through_its_middle_is_flagged_at_that_end(geometry, end):
    (said,) = _said("Parotid_L", _ball(last=31), geometry)
    assert f"does not taper at the {end} end" in said


def test_a_lung_has_to_taper_more_than_other_organs():
    cut = _ball(radius=60.0, last=47)
    assert _said("Kidney_L", cut) == []
    assert len(_said("Lung_L", cut)) == 1


def test_what_the_image_cuts_is_another_flags_business():
    assert _said("Lung_L", _ball(centre=59, radius=60.0)) == []


def test_a_cord_that_ends_in_mid_image_is_flagged_and_one_that_reaches_the_foot_end_is_not():
    cord = np.zeros(SHAPE, bool)
    cord[20:50, 30:34, 30:34] = True
    (said,) = _said("SpinalCord", cord)
    assert said == "ends 60 mm above the image's last slice at the inferior end, 87 mm long"
    cord[3:] |= cord[25]
    assert _said("SpinalCord", cord) == []


def _extents(left, right):
    return {"Lung_L": Extent.of(_field(left), UPRIGHT), "Lung_R": Extent.of(_field(right), UPRIGHT)}


def test_a_lung_whose_apex_ends_short_of_its_twins_is_named():
    (first, second) = uneven_pairs(_extents(_ball(radius=60.0), _ball(centre=22, radius=36.0)))
    assert first[0] == second[0] == "Lung_R"
    assert first[1].detail == "ends 48 mm short of Lung_L at the superior end"
    assert "cc, where Lung_L has" in second[1].detail


@given(st.integers(0, 6), st.integers(0, 6))
def test_ends_that_are_nearly_level_are_no_surprise(higher, lower):
    assert not list(uneven_pairs(_extents(_ball(centre=24 + higher, radius=60.0), _ball(centre=24 + lower, radius=60.0))))


def test_a_twin_that_the_image_cuts_says_nothing():
    assert not list(uneven_pairs(_extents(_ball(centre=50, radius=60.0), _ball(centre=42, radius=36.0))))
