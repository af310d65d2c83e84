"""A planned surface on today's voxels."""

from dataclasses import replace

import numpy as np
import pytest

from adaptive.propagation.planned_surface import Surface, surface_of
from patient.errors import FrameMismatch
from patient.loop import Loop
from patient.structures import Structure
from registration.transforms import Rigid, Space
from tests.registration.test_resampling import PLAN, TODAY, moved, two_balls_and_a_plate


def test_a_copy_by_a_shift_of_whole_voxels_is_the_surface_itself():
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    loops = [Loop(np.column_stack([12 * np.cos(angle), 9 * np.sin(angle), np.full(90, z)])) for z in (-1.0, 1.5, 4.0)]
    surface = surface_of(Structure("A", drawn=tuple(loops)), PLAN)
    grid = surface.field.geometry
    today = replace(grid, origin=tuple(np.add(grid.origin, (5.0, 0.0, 0.0))), image="today")
    shift = Rigid.of(np.eye(3), (-5.0, 0.0, 0.0), Space.of(today), Space.of(grid))
    found, true = surface.distance.resampled(shift, today).volume.array, surface.field.volume.array
    assert np.abs(found - true)[np.abs(true) < 1].max() < 1e-4


def test_a_surface_of_a_third_image_is_refused():
    other = replace(TODAY, image="another")
    with pytest.raises(FrameMismatch):
        Surface(two_balls_and_a_plate(), 0).distance.resampled(moved(0.0, 0.0, 0.0), other)
