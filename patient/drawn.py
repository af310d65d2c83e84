"""What a person drew as a field: the distance to the loops themselves, where a mask would round them to voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import edt
import numpy as np
import shapely
from numpy.typing import NDArray

from patient.geometry import Geometry
from patient.outline import mask_of_loops
from patient.slices import SliceStack
from patient.structures import Loop
from patient.volume import Field, Level, Mask, Volume

NEAR = 2.0
"""Pixels from the loops up to which the distance is true; beyond, it is right to half a pixel."""
FAR = 3.0
"""Voxels of distance that are given at most."""
LEAST = 0.1
"""Pixels by which a centre lies inside or outside at least, however close the loop: it must survive being drawn again."""


def field_of_loops(loops: Sequence[Loop], grid: Geometry) -> Field | None:
    """The signed distance in each plane to the loops drawn on it; inside are the voxels that `mask_of_loops` gives.

    Args:
        loops: on planes of `grid`, or on its slices where it has its own.
        grid: any grid with those planes.

    Returns:
        mm, negative inside, cropped to the loops' box in `grid` with two voxels around; None where no voxel is inside.

    Raises:
        FrameMismatch: a loop lies on no plane of the grid, or across its planes.
    """
    if grid.slices is not None:
        stack = SliceStack.of(grid)
        drawn = field_of_loops(stack.loops(loops), stack.geometry)
        return None if drawn is None else _signed(stack.back(drawn.volume), mask_of_loops(loops, grid), grid)
    mask = mask_of_loops(loops, grid)
    if not mask.array.any():
        return None
    box = grid.box_of(mask.geometry).padded(2, grid.shape)
    part = grid.cropped(box)
    inside = mask.placed_in(part).array
    far = np.float32(FAR * max(part.spacing))
    values = np.where(inside, -far, far)
    for k, segments in enumerate(_segments(loops, part)):
        if segments:
            _measure(values[k], inside[k], np.concatenate(segments), part)
    return Field(Volume(values, part), Level.DISTANCE)


def _signed(distance: Volume[np.float32], mask: Mask, grid: Geometry) -> Field | None:
    """What of a field lies in a grid, negative inside a mask; None where that holds nothing."""
    if not mask.array.any():
        return None
    part = distance.cropped(distance.geometry.box_of(grid).padded(0, distance.array.shape))
    size = np.maximum(np.abs(part.array), np.float32(LEAST * min(part.geometry.spacing[1:])))
    return Field(Volume(np.where(mask.placed_in(part.geometry).array, -size, size), part.geometry), Level.DISTANCE)


def _segments(loops: Sequence[Loop], part: Geometry) -> list[list[NDArray[np.float64]]]:
    """By plane: edges `[n, 2, 2]` of its loops, start and end, (row, column) in mm from the first voxel."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in range(part.shape[0])]
    for loop in loops:
        if len(loop.points) < 3 or not loop.kind.startswith("CLOSED"):
            continue
        indices = part.indices(loop.points)
        k = int(np.rint(indices[0, 0]))
        if 0 <= k < part.shape[0]:
            at = indices[:, 1:] * part.spacing[1:]
            found[k].append(np.stack([at, np.roll(at, -1, axis=0)], axis=1))
    return found


def _measure(values: NDArray[np.float32], inside: NDArray[np.bool_], edges: NDArray[np.float64], part: Geometry) -> None:
    """Put the distances into the pixels of one plane: the true ones near its loops, those between pixels elsewhere."""
    pixel = part.spacing[1:]
    from_here = edt.edt(inside, anisotropy=pixel) + edt.edt(~inside, anisotropy=pixel)
    beyond = np.minimum(from_here - np.float32(0.5 * min(pixel)), np.abs(values))
    values[:] = np.where(inside, -beyond, beyond)
    j, i = np.nonzero(from_here <= NEAR * max(pixel))
    if not len(j):
        return
    tree = shapely.STRtree(cast("NDArray[np.object_]", shapely.linestrings(edges)))
    centres = shapely.points(np.column_stack([j, i]) * np.asarray(pixel))
    of, distance = tree.query_nearest(centres, return_distance=True, all_matches=False)
    mm = np.empty(len(j), dtype=np.float32)
    mm[of[0]] = distance
    mm = np.maximum(mm, np.float32(LEAST * min(pixel)))
    values[j, i] = np.where(inside[j, i], -mm, mm)
