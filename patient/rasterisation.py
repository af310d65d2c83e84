"""The voxels inside closed planar contours, by the crossings of their edges with rows of pixels.

An even-odd count makes holes of nested loops; a winding count unites loops that overlap or nest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray

from patient.errors import FrameMismatch
from patient.geometry import Box, Geometry
from patient.loop import Loop
from patient.region import Region, region_of
from patient.slices import SliceStack
from patient.volume import Mask, Volume

OFF_PLANE = 0.1
"""A loop further from a plane than this part of the slice spacing lies on no plane."""
Points = NDArray[np.float64]


def mask_of_loops(loops: Sequence[Loop], grid: Geometry) -> Mask:
    """The voxels of `grid` whose centre is inside the loops' region: nested loops are holes, crossing ones are united.

    Loops that are alike count once; points and open lines enclose nothing. What is outside the grid is cut off.

    Args:
        loops: on planes of `grid`; on its slices where it has such: each then stands for half the way to its neighbours.
        grid: any grid with those planes.

    Returns:
        bool, cropped to the loops' box in `grid`; one False voxel where there is nothing.

    Raises:
        FrameMismatch: a loop lies on no plane of the grid, or across its planes.
    """
    return mask_of_region(region_of(loops), grid)


def mask_of_region(region: Region, grid: Geometry) -> Mask:
    """As `mask_of_loops`, of loops that were compared already."""
    return _filled(region.loops, grid, unite=False)


def mask_of_united_loops(loops: Sequence[Loop], grid: Geometry) -> Mask:
    """As `mask_of_loops`, but loops of a plane that overlap or nest are united; only keyholes make holes."""
    return _filled(loops, grid, unite=True)


@dataclass(frozen=True)
class _Edges:
    """All edges of all loops, in indices: plane, start and end (row, column), direction of winding of their loop."""

    plane: NDArray[np.intp]
    start: Points
    end: Points
    winding: NDArray[np.int8]


def _filled(loops: Sequence[Loop], grid: Geometry, *, unite: bool) -> Mask:
    nothing = Volume(np.zeros((1, 1, 1), dtype=bool), grid.cropped(Box((0, 0, 0), (1, 1, 1))))
    if grid.slices is not None:
        stack = SliceStack.of(grid)
        drawn = stack.back(_signed(_filled(stack.loops(loops), stack.geometry, unite=unite)))
        inside = Volume(drawn.array < 0, drawn.geometry)
        box = inside.geometry.box_of(grid).padded(0, inside.array.shape)
        if box.empty or (held := Box.of(inside.array[box.slices])).empty:
            return nothing
        return inside.cropped(box).cropped(held)
    edges = _edges(loops, grid)
    if edges is None:
        return nothing
    box = _box_of(edges, grid)
    if box.empty:
        return nothing
    (k0, j0, i0), (nk, nj, ni) = box.start, box.shape

    first, last = edges.start[:, 0], edges.end[:, 0]
    top = np.ceil(np.minimum(first, last)).astype(np.intp).clip(j0, j0 + nj)
    bottom = np.ceil(np.maximum(first, last)).astype(np.intp).clip(j0, j0 + nj)
    rows = bottom - top
    rows[(edges.plane < k0) | (edges.plane >= k0 + nk)] = 0
    edge = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(int(rows.sum())) - np.repeat(np.cumsum(rows) - rows, rows) + np.repeat(top, rows)
    slope = (edges.end[edge, 1] - edges.start[edge, 1]) / (last[edge] - first[edge])
    column = edges.start[edge, 1] + (row - first[edge]) * slope
    column = np.ceil(column).clip(i0, i0 + ni).astype(np.intp)

    crossings = np.zeros((nk, nj, ni + 1), dtype=np.int8)
    at = ((edges.plane[edge] - k0) * nj + (row - j0)) * (ni + 1) + (column - i0)
    downwards = np.where(last[edge] > first[edge], 1, -1).astype(np.int8) * edges.winding[edge]
    np.add.at(crossings.reshape(-1), at, downwards if unite else np.int8(1))
    np.add.accumulate(crossings, axis=2, out=crossings)
    inside = crossings[:, :, :ni] != 0 if unite else (crossings[:, :, :ni] & 1).astype(bool)
    return Volume(inside, grid.cropped(box))


def _signed(mask: Mask) -> Volume[np.float32]:
    """Distance in each plane to the nearest pixel of the other kind, negative inside; a pixel wider than the mask."""
    planes, rows, columns = mask.array.shape
    part = mask.geometry.cropped(Box((0, -1, -1), (planes, rows + 1, columns + 1)))
    array = np.pad(mask.array, ((0, 0), (1, 1), (1, 1)))
    values = np.empty(array.shape, np.float32)
    for plane, out in zip(array, values, strict=True):
        inside = edt.edt(plane, anisotropy=part.spacing[1:])
        out[...] = edt.edt(~plane, anisotropy=part.spacing[1:]) - inside if plane.any() else np.inf
    return Volume(values, part)


def _edges(loops: Sequence[Loop], grid: Geometry) -> _Edges | None:
    closed = [loop.points for loop in loops if len(loop.points) >= 3 and loop.kind.startswith("CLOSED")]
    distinct = {points.tobytes(): points for points in closed}
    if not distinct:
        return None
    lengths = np.array([len(points) for points in distinct.values()])
    indices = grid.indices(np.concatenate(list(distinct.values())))
    plane = np.rint(indices[:, 0])
    off = np.abs(indices[:, 0] - plane)
    if off.max() > OFF_PLANE:
        raise FrameMismatch(
            f"A contour lies {off.max() * grid.spacing[0]:.2f} mm from the nearest slice",
            why="It was drawn on other slices than this image's",
            remedy="Give the image it was drawn on",
        )
    firsts = np.cumsum(lengths) - lengths
    following = np.arange(len(indices)) + 1
    following[firsts + lengths - 1] = firsts
    start, end = indices[:, 1:], indices[following, 1:]
    twice = np.add.reduceat(start[:, 1] * end[:, 0] - end[:, 1] * start[:, 0], firsts)
    winding = np.where(twice < 0, -1, 1).astype(np.int8)
    return _Edges(plane.astype(np.intp), start, end, np.repeat(winding, lengths))


def _box_of(edges: _Edges, grid: Geometry) -> Box:
    low, high = np.ceil(edges.start.min(axis=0)).astype(int), np.floor(edges.start.max(axis=0)).astype(int) + 1
    box = Box((int(edges.plane.min()), int(low[0]), int(low[1])), (int(edges.plane.max()) + 1, int(high[0]), int(high[1])))
    return box.padded(0, grid.shape)
