"""What one image holds, seen on another's grid: volumes, masks, and structures whose surfaces stay finer than voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from patient.geometry import Geometry
from patient.volume import Field, Level, Mask, Volume
from registration.distance import Distance
from registration.transforms import Space, Transform, placed


def resampled(b_from_a: Transform, volume: Volume[Any], onto: Geometry, outside: float) -> Volume[np.float32]:
    """b's values on a grid of a (linear between voxels), float32: HU, probabilities, Gy.

    Args:
        b_from_a: from the grid's image to the volume's.
        volume: of b.
        onto: a grid of a.
        outside: value where b has none.

    Raises:
        FrameMismatch: the volume is not of b, or the grid not of a.
    """
    b_from_a.target.admit(Space.of(volume.geometry), "The volume")
    b_from_a.source.admit(Space.of(onto), "The grid")
    image = sitk.GetImageFromArray(volume.array.astype(np.float32))
    placed(image, volume.geometry)
    resampler = sitk.ResampleImageFilter()
    resampler.SetTransform(b_from_a.itk())
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetDefaultPixelValue(float(outside))
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.SetReferenceImage(_empty(onto))
    return Volume(sitk.GetArrayFromImage(resampler.Execute(image)), onto)


def resampled_field(b_from_a: Transform, field: Field, onto: Geometry) -> Field:
    """A structure of b on a grid of a, as a field: its surface stays finer than voxels. Raises as `resampled`.

    A distance is bent between voxels as its neighbours say (`registration.distance`); a probability stays between 0 and 1
    (linear).
    """
    if field.level is Level.PROBABILITY:
        return Field(resampled(b_from_a, field.volume, onto, 0.0), field.level)
    return Distance(field).resampled(b_from_a, onto)


def resampled_mask(b_from_a: Transform, mask: Mask, onto: Geometry) -> Mask:
    """A mask of b on a grid of a: voxels of which half or more lies inside. Raises as `resampled`."""
    return resampled_field(b_from_a, Field.of_mask(mask), onto).mask()


def _empty(grid: Geometry) -> sitk.Image:
    i, j, k = grid.shape[::-1]
    return placed(sitk.Image([i, j, k], sitk.sitkUInt8), grid)
