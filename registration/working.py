"""Two images on one coarse grid, the moving one through a start, and where each of them is to be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cc3d
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.errors import InputError, NotTrusted
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.air import above_air, with_hollows
from registration.method import RegistrationContext
from registration.resampling import resampled, resampled_mask
from registration.transforms import Affine, Rigid, Space

MARGIN = 20.0
"""mm of grid around the fixed image's mask: where it may have moved to."""
DIVISIBLE = 12
"""Voxels along each axis are a multiple of this, so that cells of 2, 3, 4 and 6 fill the grid."""
LEAST_SHARED = 0.1
"""Part of the fixed mask that the moving image must hold after the start."""
MEASURED = 2.0
"""mm between the voxels that are asked whether anything was measured there."""
OVERVIEW = 4.0
"""mm of the grid on which an image as a whole is looked at."""
AIR = -500.0
"""HU below which there is more air than tissue."""
SAME = 0.02
"""Part of an image that holds one and the same number where nothing was measured."""


@dataclass(frozen=True, eq=False)
class Working:
    """Arrays `[z, y, x]` on one grid in the fixed image's space.

    Args:
        grid: isotropic, along the fixed image's axes.
        fixed, moving: float32; the moving image through the start.
        fixed_valid, moving_valid: where there is something to compare.
        notes: what a person should know.
    """

    grid: Geometry
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    fixed_valid: NDArray[np.bool_]
    moving_valid: NDArray[np.bool_]
    notes: tuple[str, ...]


def working_pair(
    fixed: Volume[Any],
    moving: Volume[Any],
    start: Affine,
    context: RegistrationContext,
    voxel: float,
    most: int,
    rim: int = 0,
    boundary: int = 0,
) -> Working:
    """Both images on a grid of about `voxel` mm around the fixed image's mask, of about `most` voxels at most.

    Args:
        fixed, moving, start, context: as a method gets them.
        voxel: mm.
        most: voxels.
        rim: voxels inward from where an image ends that are not believed: what is computed there looks beyond the end.
            A mask's edge is no end of the image, and is left as it is.
        boundary: voxels of air outward from the fixed image's mask that are compared as well: a skin is seen from both its
            sides. Other tissue next to a mask may slide along it, and is left out; an image that is no CT has no such air.

    Raises:
        InputError: an image is constant or holds no numbers, or a mask is empty or of another image.
        NotTrusted: after the start the moving image holds hardly anything of the fixed one.
    """
    fixed, moving = (numbers(image, name) for image, name in ((fixed, "fixed"), (moving, "moving")))
    fixed_mask = checked_mask(context.fixed_mask, fixed.geometry, "fixed")
    moving_mask = checked_mask(context.moving_mask, moving.geometry, "moving")
    small = reduced(fixed, voxel)
    known = foreground(small) if fixed_mask is None else fixed_mask
    extent = np.asarray(Box.of(known.array).shape) * known.geometry.spacing + 2 * MARGIN
    side = max(voxel, float(np.cbrt(np.prod(extent) / most)))
    grid = _around(known, side)
    identity = Rigid.identity(Space.of(fixed.geometry), Space.of(fixed.geometry))
    other = reduced(moving, side)
    here = resampled(identity, small if side == voxel else reduced(fixed, side), grid, float(small.array.min())).array
    there = resampled(start, other, grid, float(other.array.min())).array
    held = _inner(resampled(identity, measured(fixed), grid, 0.0).array > 0.5, rim)
    seen = _inner(resampled(start, measured(moving), grid, 0.0).array > 0.5, rim)
    body = resampled_mask(identity, known, grid).array
    if boundary:
        body |= ndimage.binary_dilation(body, iterations=boundary) & (here < AIR)
    held &= body
    if moving_mask is not None:
        seen &= resampled_mask(start, moving_mask, grid).array
    if not held.any():
        raise InputError("The fixed image has nothing to register: its mask is empty, or no body is in it")
    shared = float((held & seen).sum() / held.sum())
    if shared < LEAST_SHARED:
        raise NotTrusted(
            f"After the start the moving image holds {100 * shared:.0f} % of the fixed one",
            why="Two images that hardly overlap cannot be registered",
            remedy="Look whether they are of one patient and one part of the body",
        )
    notes = () if shared > 0.98 else (f"{100 * (1 - shared):.0f} % of the fixed image lies outside the moving one",)
    return Working(grid, here, there, held, seen, notes)


def numbers(image: Volume[Any], name: str) -> Volume[Any]:
    """The image without NaN, and nothing below air. Raises InputError where it is constant or mostly no numbers."""
    array = image.array
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        finite = np.isfinite(array)
        if finite.mean() < 0.5:
            raise InputError(f"The {name} image holds hardly any numbers", why="Nothing can be compared")
        array = np.where(finite, array, array[finite].min()).astype(np.float32)
    if array.min() == array.max():
        raise InputError(f"The {name} image is constant", why="Nothing can be compared")
    return above_air(Volume(array, image.geometry))


def checked_mask(mask: Mask | None, grid: Geometry, name: str) -> Mask | None:
    """Raises InputError where a mask is empty or of another image."""
    if mask is None:
        return None
    if not mask.array.any():
        raise InputError(f"The mask of the {name} image is empty", remedy="Leave it out to use the whole body")
    if mask.geometry.image != grid.image or mask.geometry.frame_of_reference != grid.frame_of_reference:
        raise InputError(f"The mask of the {name} image belongs to another image")
    return mask


def reduced(image: Volume[Any], voxel: float) -> Volume[np.float32]:
    """Averaged over blocks, so that voxels are about `voxel` mm where they were finer: less noise than a mere sample."""
    factors = [max(1, min(n, int(round(voxel / s)))) for s, n in zip(image.geometry.spacing, image.array.shape, strict=True)]
    if image.array.dtype == np.bool_:
        raise ValueError("a mask is not averaged")
    stack = sitk.GetImageFromArray(image.array)
    small = sitk.GetArrayFromImage(sitk.BinShrink(stack, factors[::-1])).astype(np.float32)
    old = image.geometry
    at = old.points([(f - 1) / 2 for f in factors])
    k, j, i = (s * f for s, f in zip(old.spacing, factors, strict=True))
    geometry = replace(old, shape=small.shape, spacing=(k, j, i), origin=tuple(float(v) for v in at))
    return Volume(small, geometry)


def foreground(image: Volume[np.float32]) -> Mask:
    """The body, roughly: the largest thing denser than what surrounds it, with what it encloses
    (`registration.air.with_hollows`).

    Thin sheets are left out; a couch of three voxels or more that touches the body is not.
    """
    array = ndimage.uniform_filter(image.array, 3)
    low, high = np.percentile(array, (1, 99))
    dense = array > (-350.0 if low < -700 else low + 0.15 * (high - low))
    opened = ndimage.binary_opening(dense, np.ones((1, 3, 3)))
    labels = cc3d.connected_components(opened, connectivity=6)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    body = labels == int(np.argmax(counts)) if counts.any() else dense
    return Volume(with_hollows(body, image), image.geometry)


def foreground_box(image: Volume[Any]) -> Box:
    """The box of the body in an image's grid, with some room; the image in HU or any modality's numbers."""
    small = reduced(image, OVERVIEW)
    body = Box.of(foreground(small).array)
    if body.empty:
        return image.geometry.box
    ratio = [a / b for a, b in zip(small.geometry.spacing, image.geometry.spacing, strict=True)]
    k, j, i = (int(a * r) for a, r in zip(body.start, ratio, strict=True))
    above, behind, left = (int(np.ceil(b * r)) for b, r in zip(body.stop, ratio, strict=True))
    return Box((k, j, i), (above, behind, left)).padded(5, image.geometry.shape)


def measured(image: Volume[Any]) -> Volume[np.float32]:
    """1 where something was measured; 0 where an image holds its padding: one and the same number, from its sides inward.

    Padding is flat. Single voxels of its number are none: where a lung's lowest values were cut off, an eighth of its voxels
    may hold it, joined to each other and to the image's sides.

    On every second or third voxel where voxels are small: `MEASURED` mm are near enough.
    """
    steps = [max(1, int(MEASURED / s)) for s in image.geometry.spacing]
    array = image.array[tuple(slice(None, None, step) for step in steps)]
    k, j, i = (step * s for step, s in zip(steps, image.geometry.spacing, strict=True))
    grid = replace(image.geometry, shape=array.shape, spacing=(k, j, i))
    faces = [np.take(array, side, axis=axis) for axis in range(3) for side in (0, -1)]
    values, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    same = array == values[int(np.argmax(counts))]
    if float(same.mean()) < SAME:
        return Volume(np.ones(array.shape, dtype=np.float32), grid)
    labels = cc3d.connected_components(_flat(same), connectivity=6)
    outside = np.zeros(int(labels.max()) + 1, dtype=np.bool_)
    for axis in range(3):
        for side in (0, -1):
            outside[np.unique(np.take(labels, side, axis=axis))] = True
    outside[0] = False
    return Volume((~outside[labels]).astype(np.float32), grid)


def _flat(same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What of some voxels fills cubes of three by three by three; beyond the image's end all is filled."""
    for join in (np.logical_and, np.logical_or):
        for axis in range(3):
            same = _with_beside(same, axis, join)
    return same


def _with_beside(where: NDArray[np.bool_], axis: int, join: np.ufunc) -> NDArray[np.bool_]:
    """Each voxel joined with the one before and the one behind it along an axis; the end has none beyond it."""
    out = np.moveaxis(where.copy(), axis, 0)
    old = np.moveaxis(where, axis, 0)
    join(out[1:], old[:-1], out=out[1:])
    join(out[:-1], old[1:], out=out[:-1])
    return np.moveaxis(out, 0, axis)


def _inner(where: NDArray[np.bool_], rim: int) -> NDArray[np.bool_]:
    """Without its outermost voxels; the grid's own edge counts as an end."""
    return ndimage.minimum_filter(where, 2 * rim + 1, mode="constant", cval=0) if rim else where


def _around(mask: Mask, side: float) -> Geometry:
    """A grid of cubes along the mask's axes, around what it holds."""
    box, old = Box.of(mask.array), mask.geometry
    margin = [MARGIN / s for s in old.spacing]
    first = [a - m for a, m in zip(box.start, margin, strict=True)]
    length = [(b - a + 2 * m) * s for a, b, m, s in zip(box.start, box.stop, margin, old.spacing, strict=True)]
    i, j, k = (float(v) for v in old.points(first))
    shape = tuple(DIVISIBLE * max(1, int(np.ceil(v / side / DIVISIBLE))) for v in length)
    return replace(old, shape=shape, spacing=(side, side, side), origin=(i, j, k))
