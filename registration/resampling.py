"""What one image holds, seen on another's grid: volumes, masks, and structures whose surfaces stay finer than voxels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from patient.parallel import each
from patient.volume import Field, Level, Mask, Volume
from registration.transforms import Affine, Space, Transform, linear_part, placed

STRIDE = 4
"""Voxels of a plane from one first look at a distance to the next; a power of two."""
ACROSS = 0.25
"""Cosine to the normal of a structure's planes below which an axis counts as lying in them."""
STRETCH = 1.5
"""How many mm a resampled distance may change on a mm: a deformation stretches, and planes are tilted."""
CLAMPED = 0.999
"""Of a field's greatest distance: what is farther is only known to be far."""
PART = 200_000
"""Points looked at together."""


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

    A distance is bent between voxels as its neighbours say (cubic): linear, a round structure of 2 cc on slices of 3 mm
    would lose a twentieth of its volume. Far from the surface it is linear between every fourth voxel of a plane: there
    only its sign counts. A probability stays between 0 and 1 (linear).
    """
    if field.level is Level.PROBABILITY:
        return Field(resampled(b_from_a, field.volume, onto, 0.0), field.level)
    b_from_a.target.admit(Space.of(field.geometry), "The field")
    b_from_a.source.admit(Space.of(onto), "The grid")
    return Field(Volume(_near_surface(b_from_a, field, onto), onto), field.level)


def _near_surface(b_from_a: Transform, field: Field, onto: Geometry) -> NDArray[np.float32]:
    """A distance on a grid, exact wherever its surface can be: coarse in plane, then finer where it is near.

    Along the normal of the field's planes every voxel is looked at: a structure may be as thin as one plane, and between
    planes a distance changes by more than 1 mm a mm.
    """
    source = field.volume.array
    outside = np.float32(max(float(source.max()), 1.0))
    bent = ndimage.spline_filter(source, order=3, output=np.float32, mode="mirror") if min(source.shape) > 1 else source
    top = np.asarray(source.shape)[:, None] - 1
    in_field = _indices(b_from_a, field.geometry, onto)

    def exactly(indices: NDArray[np.intp]) -> NDArray[np.float32]:
        out = np.full(len(indices), outside, dtype=np.float32)

        def some(part: slice) -> None:
            at = in_field(indices[part])
            held = ((at >= -0.5) & (at <= top + 0.5)).all(axis=0)
            at = np.clip(at[:, held], 0, top)
            out[part][held] = ndimage.map_coordinates(bent, at, order=3, mode="mirror", prefilter=False)

        each(some, [slice(n, n + PART) for n in range(0, len(indices), PART)])
        return out

    there = linear_part(b_from_a).rotation @ np.asarray(onto.axes).T
    along = np.abs(np.asarray(field.geometry.axes[0]) @ (there / np.linalg.norm(there, axis=0)))
    across = [bool(cosine < ACROSS) for cosine in along]
    steps = [STRIDE if free else 1 for free in across]
    nodes = tuple(-(-(n - 1) // s) + 1 for n, s in zip(onto.shape, steps, strict=True))
    every = np.stack(np.unravel_index(np.arange(int(np.prod(nodes))), nodes), axis=-1) * steps
    values = exactly(every).reshape(nodes)
    while max(steps) > 1:
        cell = np.linalg.norm([s * mm for s, mm, free in zip(steps, onto.spacing, across, strict=True) if free])
        reach = STRETCH * float(cell) / 2 + max(mm for mm, free in zip(onto.spacing, across, strict=True) if free)
        reach = min(reach, CLAMPED * float(outside))
        for axis, free in enumerate(across):
            if free:
                values, steps[axis] = _halved(values, axis), steps[axis] // 2
        near = np.flatnonzero((np.abs(values) < reach) | _ends(values, int(np.argmax(along))))
        at = np.stack(np.unravel_index(near, values.shape), axis=-1)
        # nodes that were there before are exact already
        at = at[np.any([at[:, axis] % 2 == 1 for axis, free in enumerate(across) if free], axis=0)]
        values[tuple(at.T)] = exactly(at * steps)
    return np.ascontiguousarray(values[tuple(slice(n) for n in onto.shape)])


def _indices(b_from_a: Transform, there: Geometry, onto: Geometry) -> Callable[[NDArray[np.intp]], NDArray[np.float64]]:
    """Indices `[3, n]` on a grid of b of voxels `[n, 3]` of a grid of a; through a matrix in one product."""
    if not isinstance(b_from_a, Affine):
        return lambda at: np.ascontiguousarray(there.indices(b_from_a.points(onto.points(at), b_from_a.source)).T)
    product = (onto.steps @ b_from_a.rotation.T @ np.linalg.inv(there.steps)).T
    origin = there.indices(b_from_a.points(onto.origin, b_from_a.source))[:, None]
    return lambda at: product @ at.T.astype(np.float64) + origin


def _ends(values: NDArray[np.float32], axis: int) -> NDArray[np.bool_]:
    """Where the next or the last node along an axis lies on the other side of the surface."""
    inside = np.moveaxis(values < 0, axis, 0)
    out = np.zeros(inside.shape, dtype=bool)
    change = inside[1:] != inside[:-1]
    out[1:] |= change
    out[:-1] |= change
    return np.moveaxis(out, 0, axis)


def _halved(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """With a node midway between each two along an axis."""
    before = np.moveaxis(values, axis, 0)
    out = np.empty((2 * len(before) - 1, *before.shape[1:]), dtype=np.float32)
    out[::2] = before
    np.add(before[:-1], before[1:], out=out[1::2])
    out[1::2] *= np.float32(0.5)
    return np.moveaxis(out, 0, axis)


def resampled_mask(b_from_a: Transform, mask: Mask, onto: Geometry) -> Mask:
    """A mask of b on a grid of a: voxels of which half or more lies inside. Raises as `resampled`."""
    return resampled_field(b_from_a, Field.of_mask(mask), onto).mask()


def _empty(grid: Geometry) -> sitk.Image:
    i, j, k = grid.shape[::-1]
    return placed(sitk.Image([i, j, k], sitk.sitkUInt8), grid)
