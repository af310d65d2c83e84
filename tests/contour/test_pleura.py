"""A lung's wall: the thin rim of its base is left out, and what lies between it and its ribs is measured."""

import numpy as np
import pytest

from contour.anatomy.pleura import wall_cc, without_recess
from patient.geometry import Geometry
from patient.volume import Field, Volume

SPACING = (3.0, 2.0, 2.0)
SHAPE = (60, 120, 120)
Y, X = np.meshgrid(np.arange(120) - 60, np.arange(120) - 60, indexing="ij")


def _chest(side: int, radius: float = 60.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A round lung within a ring of ribs 6 mm beyond it, and how far (mm) each pixel is from the middle."""
    far = np.broadcast_to(np.hypot(Y, X) * 2.0, SHAPE)
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[(far > radius + 6.0) & (far < radius + 14.0)] = 600
    return far < radius, hu, far


@pytest.mark.parametrize("side", [1, -1])
def test_a_lung_that_lies_on_its_ribs_has_nothing_beside_it(side):
    lung, hu, _ = _chest(side)
    assert wall_cc(lung, hu, SPACING, side) == 0.0


@pytest.mark.parametrize("side", [1, -1])
def test_fluid_behind_a_lung_is_measured_on_either_side(side):
    lung, hu, _ = _chest(side)
    fluid = lung & (Y > 12)
    volume = wall_cc(lung & ~fluid, hu, SPACING, side)
    assert volume > 20.0


def test_a_tumour_of_30_mm_at_the_lateral_wall_is_seen_and_one_away_from_the_wall_is_not():
    lung, hu, _ = _chest(1)
    z = (np.arange(SHAPE[0]) - 30)[:, None, None] * 3.0
    at_wall, inside = (z**2 + (Y * 2.0) ** 2 + (X * 2.0 - x) ** 2 < 15.0**2 for x in (48.0, 0.0))
    assert wall_cc(lung & ~at_wall, hu, SPACING, 1) > 5.0
    assert wall_cc(lung & ~inside, hu, SPACING, 1) == 0.0


def test_a_lung_of_which_the_image_shows_little_is_not_judged():
    lung, hu, _ = _chest(1)
    lung = lung & (Y < 12)
    lung[30:] = False
    assert wall_cc(lung, hu, SPACING, 1) == 0.0


def test_a_rim_of_recess_is_left_out_at_the_base_and_kept_where_lung_is_thick():
    far = np.broadcast_to(np.hypot(Y, X) * 1.0, SHAPE)
    lung = far < 40.0
    lung[:10] &= far[:10] > 36.0
    lung[10:20] &= far[10:20] > 28.0
    found = without_recess(Field.of_mask(Volume(lung, Geometry(SHAPE, (3.0, 1.0, 1.0))))).mask().array
    assert not found[:10].any()
    assert found[20:].sum() == lung[20:].sum()
    assert found[10:20].sum() > 0.97 * lung[10:20].sum()
