"""A structure's distance pulled to another grid: exact wherever its surface is, whatever was left out far from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from hypothesis import given, settings
from hypothesis import strategies as st

from patient.geometry import Geometry
from patient.volume import Field, Level, Volume
from registration.resampling import resampled_field
from registration.transforms import Chain, Displacement, Rigid, Space, placed

PLAN = Geometry((30, 60, 60), (2.5, 1.0, 1.0), (-30.0, -30.0, -36.0), frame_of_reference="1.2.1", image="plan")
TODAY = Geometry((34, 71, 68), (2.0, 0.9, 1.1), (-31.0, -33.0, -35.0), frame_of_reference="1.2.2", image="today")
BAND = 6.0


def moved(angle: float, shift: float, bend: float) -> Chain:
    """From today to the plan: turned, shifted and bent by a wave."""
    c, s = np.cos(angle), np.sin(angle)
    rigid = Rigid.of([[c, 0, -s], [0, 1, 0], [s, 0, c]], (shift, -shift, 0.5 * shift), Space.of(TODAY), Space.of(TODAY))
    nodes = replace(TODAY, shape=(14, 14, 14), spacing=(6.0, 6.0, 6.0), origin=(-40.0, -40.0, -40.0))
    at = nodes.points(np.moveaxis(np.indices(nodes.shape), 0, -1))
    vectors = bend * np.sin(at[..., [1, 2, 0]] / 12.0)
    return Chain((rigid, Displacement(vectors.astype(np.float32), nodes, Space.of(TODAY), Space.of(PLAN))))


def two_balls_and_a_plate() -> Field:
    """Two balls near each other, and a plate as thin as one plane."""
    z, y, x = (PLAN.points(np.moveaxis(np.indices(PLAN.shape), 0, -1))[..., n] for n in (2, 1, 0))
    balls = [np.sqrt((x - a) ** 2 + y**2 + z**2) - r for a, r in ((-9.0, 8.0), (9.5, 9.0))]
    disc = np.hypot(x, y) - 20.0
    plate = np.where(np.arange(PLAN.shape[0])[:, None, None] == 24, disc, np.abs(disc) + 0.5)
    distance = np.minimum.reduce([*balls, plate])
    return Field(Volume(np.clip(distance, -BAND, BAND).astype(np.float32), PLAN), Level.DISTANCE)


def everywhere(transform: Chain, field: Field) -> np.ndarray:
    """The same by cubic splines at every voxel, by ITK."""
    source = placed(sitk.GetImageFromArray(field.volume.array), field.geometry)
    like = placed(sitk.Image([int(n) for n in TODAY.shape[::-1]], sitk.sitkUInt8), TODAY)
    return sitk.GetArrayFromImage(sitk.Resample(source, like, transform.itk(), sitk.sitkBSpline, BAND, sitk.sitkFloat32))


def between_nodes(transform: Chain) -> np.ndarray:
    """Where today's voxels lie between the plan's nodes: beyond the outermost, ITK mirrors and ours holds the value."""
    at = TODAY.points(np.moveaxis(np.indices(TODAY.shape), 0, -1))
    index = PLAN.indices(transform.points(at, Space.of(TODAY)))
    return ((index >= 0) & (index <= np.array(PLAN.shape) - 1)).all(axis=-1)


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(-6, 6), st.floats(0, 2))
def test_a_pulled_distance_is_what_every_voxel_alone_would_give_wherever_the_surface_is(angle, shift, bend):
    field, transform = two_balls_and_a_plate(), moved(angle, shift, bend)
    ours, whole = resampled_field(transform, field, TODAY).volume.array, everywhere(transform, field)
    inner = between_nodes(transform)
    assert ((ours < 0) == (whole < 0))[inner].mean() > 0.99999
    near = inner & (np.abs(whole) < 1.0)
    assert near.any()
    assert np.mean(np.abs(ours - whole)[near] < 1e-3) > 0.999


def test_images_that_were_taken_along_other_axes_are_pulled_as_well():
    turned = replace(TODAY, shape=(71, 34, 68), spacing=(0.9, 2.0, 1.1), axes=((0, 1, 0), (0, 0, 1), (1, 0, 0)))
    field, transform = two_balls_and_a_plate(), moved(0.1, 2.0, 1.0)
    upright = resampled_field(transform, field, TODAY).volume.array
    assert resampled_field(transform, field, turned).volume.array == pytest.approx(upright.transpose(1, 0, 2), abs=0.6)
    inside = upright < 0
    assert ((resampled_field(transform, field, turned).volume.array < 0) == inside.transpose(1, 0, 2)).all()
