"""A planned surface on today's voxels: what every voxel alone would give, wherever the surface is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive.propagation.planned_surface import Surface, surface_of
from adaptive.propagation.resampled_surface import resampled_surface
from patient.errors import FrameMismatch
from patient.loop import Loop
from patient.structures import Structure
from registration.transforms import Rigid, Space
from tests.registration.test_resampling import PLAN, TODAY, between_nodes, everywhere, moved, two_balls_and_a_plate

TURNED = replace(TODAY, shape=(71, 34, 68), spacing=(0.9, 2.0, 1.1), axes=((0, 1, 0), (0, 0, 1), (1, 0, 0)))


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(-6, 6), st.floats(0, 2))
def test_a_laid_distance_is_what_every_voxel_alone_would_give_wherever_the_surface_is(angle, shift, bend):
    field, transform = two_balls_and_a_plate(), moved(angle, shift, bend)
    ours, whole = resampled_surface(Surface(field, 0), transform, TODAY).volume.array, everywhere(transform, field)
    inner = between_nodes(transform)
    assert ((ours < 0) == (whole < 0))[inner].mean() > 0.99999
    near = inner & (np.abs(whole) < 1.0)
    assert near.any()
    assert np.mean(np.abs(ours - whole)[near] < 1e-3) > 0.999


def test_a_surface_of_thin_planes_is_the_same_however_todays_image_was_taken():
    surface, transform = Surface(two_balls_and_a_plate(), 0), moved(0.1, 2.0, 1.0)
    upright, turned = (resampled_surface(surface, transform, grid).volume.array for grid in (TODAY, TURNED))
    assert ((turned < 0) == (upright < 0).transpose(1, 0, 2)).all()


def test_a_copy_by_a_shift_of_whole_voxels_is_the_surface_itself():
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    loops = [Loop(np.column_stack([12 * np.cos(angle), 9 * np.sin(angle), np.full(90, z)])) for z in (-1.0, 1.5, 4.0)]
    surface = surface_of(Structure("A", drawn=tuple(loops)), PLAN)
    grid = surface.field.geometry
    today = replace(grid, origin=tuple(np.add(grid.origin, (5.0, 0.0, 0.0))), image="today")
    shift = Rigid.of(np.eye(3), (-5.0, 0.0, 0.0), Space.of(today), Space.of(grid))
    found, true = resampled_surface(surface, shift, today).volume.array, surface.field.volume.array
    assert np.abs(found - true)[np.abs(true) < 1].max() < 1e-4


def test_a_surface_of_a_third_image_is_refused():
    other = replace(TODAY, image="another")
    with pytest.raises(FrameMismatch):
        resampled_surface(Surface(two_balls_and_a_plate(), 0), moved(0.0, 0.0, 0.0), other)
