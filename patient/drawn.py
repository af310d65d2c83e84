"""What a person drew as a field: the distance to the loops themselves, where a mask would round them to voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import edt
import numpy as np
import shapely
from numpy.typing import NDArray

from patient.geometry import Geometry
from patient.outline import mask_of_region
from patient.region import Region
from patient.slices import SliceStack
from patient.structures import Loop, Structure
from patient.volume import Field, Level, Mask, Volume

NEAR = 2.0
"""Pixels from the loops up to which the distance is true; beyond, it is right to half a pixel."""
FAR = 3.0
"""Voxels of distance that are given at most."""
LEAST = 0.1
"""Pixels by which a centre lies inside or outside at least, however close the loop: it must survive being drawn again."""


def field_of_structure(structure: Structure, grid: Geometry) -> Field | None:
    """The signed distance in each slice to what was drawn on it; inside are the voxels that the structure's mask gives.

    Args:
        structure: by its loops, on planes of `grid`, or on its slices where it has its own.
        grid: of the image it was drawn on.

    Returns:
        mm, negative inside, cropped to the loops' box in `grid` with two voxels around; None where no voxel is inside.

    Raises:
        FrameMismatch: a loop lies on no plane of the grid, or across its planes.
    """
    region = structure.region_on(grid)
    if grid.slices is None:
        return _field_of(region, grid)
    stack = SliceStack.of(grid)
    drawn = _field_of(Region(tuple(stack.loops(region.loops))), stack.geometry)
    return None if drawn is None else _signed(stack.back(drawn.volume), mask_of_region(region, grid), grid)


def _field_of(region: Region, grid: Geometry) -> Field | None:
    mask = mask_of_region(region, grid)
    if not mask.array.any():
        return None
    box = grid.box_of(mask.geometry).padded(2, grid.shape)
    part = grid.cropped(box)
    inside = mask.placed_in(part).array
    far = np.float32(FAR * max(part.spacing))
    values = np.where(inside, -far, far)
    for k, loops in by_slice(region.loops, part).items():
        if 0 <= k < part.shape[0]:
            values[k] = near_distance(loops, float(far), inside[k], part)
    return Field(Volume(values, part), Level.DISTANCE)


def _signed(distance: Volume[np.float32], mask: Mask, grid: Geometry) -> Field | None:
    """What of a field lies in a grid, negative inside a mask; None where that holds nothing."""
    if not mask.array.any():
        return None
    part = distance.cropped(distance.geometry.box_of(grid).padded(0, distance.array.shape))
    size = np.maximum(np.abs(part.array), np.float32(LEAST * min(part.geometry.spacing[1:])))
    return Field(Volume(np.where(mask.placed_in(part.geometry).array, -size, size), part.geometry), Level.DISTANCE)


def by_slice(loops: Sequence[Loop], grid: Geometry) -> dict[int, list[Loop]]:
    """Loops by the slice of the grid that they lie on."""
    found: dict[int, list[Loop]] = {}
    for loop in loops:
        found.setdefault(round(float(grid.indices(loop.points[0])[0])), []).append(loop)
    return found


def near_distance(loops: Sequence[Loop], most: float, inside: NDArray[np.bool_], part: Geometry) -> NDArray[np.float32]:
    """Signed distance in a slice `[y, x]`: the true one near its loops, that between pixels elsewhere, at most `most` mm."""
    at = [part.indices(loop.points)[:, 1:] * part.spacing[1:] for loop in loops]
    edges = np.concatenate([np.stack([points, np.roll(points, -1, axis=0)], axis=1) for points in at])
    pixel = part.spacing[1:]
    from_here = edt.edt(inside, anisotropy=pixel) + edt.edt(~inside, anisotropy=pixel)
    beyond = np.minimum(from_here - np.float32(0.5 * min(pixel)), np.float32(most))
    values = np.where(inside, -beyond, beyond)
    j, i = np.nonzero(from_here <= NEAR * max(pixel))
    if not len(j):
        return values
    tree = shapely.STRtree(cast("NDArray[np.object_]", shapely.linestrings(edges)))
    centres = shapely.points(np.column_stack([j, i]) * np.asarray(pixel))
    of, distance = tree.query_nearest(centres, return_distance=True, all_matches=False)
    mm = np.empty(len(j), dtype=np.float32)
    mm[of[0]] = distance
    mm = np.maximum(mm, np.float32(LEAST * min(pixel)))
    values[j, i] = np.where(inside[j, i], -mm, mm)
    return values
