"""A structure that is known in both images: how well a registration lays one on the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from patient.volume import Field, Mask
from registration.resampling import resampled_field
from registration.transforms import Rigid, Transform

FINE = 1.0
"""mm of the cubes on which structures are compared, or the fixed image's smallest spacing."""
ROOM = 25.0
"""mm around a structure within which the other image's is looked for."""


@dataclass(frozen=True)
class Pair:
    """A structure that the caller knows in both images, each as a mask (bool) on its own image's grid or a crop of it."""

    name: str
    fixed: Mask
    moving: Mask


@dataclass(frozen=True)
class Agreement:
    """A structure of the moving image, mapped through the result, beside the fixed image's own.

    Args:
        name: of the structure.
        volume_cc: of the fixed image's.
        dice: overlap, 0 to 1.
        mean_surface_distance, hd95: mm, symmetric.
    """

    name: str
    volume_cc: float
    dice: float
    mean_surface_distance: float
    hd95: float


def agreement(pair: Pair, transform: Transform) -> Agreement:
    """Dice on the fixed image's voxels; surface distances on cubes, since thick slices make terraces of a surface."""
    still = Rigid.identity(transform.source, transform.source)
    whole = _with_room(pair.fixed.geometry, ROOM)
    mine = pair.fixed.placed_in(whole).array
    theirs = resampled_field(transform, Field.of_mask(pair.moving), whole).mask().array
    together = float(mine.sum() + theirs.sum())
    dice = 2 * float((mine & theirs).sum()) / together if together else 0.0
    cc = float(mine.sum()) * whole.voxel_cc
    if not mine.any() or not theirs.any():
        return Agreement(pair.name, cc, dice, float("inf"), float("inf"))
    cubes = _with_room(_cubes(pair.fixed.geometry, max(FINE, min(pair.fixed.geometry.spacing))), ROOM)
    a, b = (
        resampled_field(by, Field.of_mask(mask), cubes).mask().array
        for by, mask in ((still, pair.fixed), (transform, pair.moving))
    )
    both = np.concatenate([_distances(a, b, cubes.spacing), _distances(b, a, cubes.spacing)])
    if not both.size:
        return Agreement(pair.name, cc, dice, float("inf"), float("inf"))
    return Agreement(pair.name, cc, dice, float(both.mean()), float(np.percentile(both, 95)))


def _cubes(grid: Geometry, side: float) -> Geometry:
    """The same place in cubes of a side (mm)."""
    shape = tuple(max(1, int(np.ceil(n * s / side))) for n, s in zip(grid.shape, grid.spacing, strict=True))
    x, y, z = (float(v) for v in grid.points([0.5 * (side / s - 1.0) for s in grid.spacing]))
    return replace(grid, shape=shape, spacing=(side, side, side), origin=(x, y, z))


def _with_room(grid: Geometry, mm: float) -> Geometry:
    return grid.padded([int(np.ceil(mm / s)) for s in grid.spacing])


def _distances(of: NDArray[np.bool_], to: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """mm from the surface voxels of one mask (those with a neighbour outside) to the nearest of the other's."""
    edge, surface = (mask & ~ndimage.binary_erosion(mask) for mask in (of, to))
    return edt.edt(np.ascontiguousarray(~surface), anisotropy=spacing)[edge]
