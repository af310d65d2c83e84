"""What a person drew as a field: the distance to the surface through the loops, where a mask would round them to voxels.

In a slice, distances d to its loops become d² + 2md, m being its deepest point: a quadratic in space for any ellipsoid, and
the distance itself, times 2m, next to the loops. So slope and curvature between slices say how the surface leans, and how it
goes on beyond the first and last contour: it closes as it tapers, and midway to the empty slice where it ends bluntly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import edt
import numpy as np
import shapely
from numpy.typing import NDArray

from patient.geometry import Geometry
from patient.loop import Loop
from patient.rasterisation import mask_of_region
from patient.region import Region
from patient.slices import SliceStack
from patient.structures import Structure
from patient.volume import Field, Level, Mask, Volume

Floats = NDArray[np.float32]

NEAR = 2.0
"""Pixels from the loops up to which the distance is true; beyond, it is right to half a pixel."""
FEW = 4000
"""Pixels around a structure, up to which all distances are true."""
FAR = 3.0
"""Voxels of distance that are given at most."""
ROUND = 4.0
"""Beyond its end contours a surface bends at most so many times more or less than a sphere."""
LEAST = 0.1
"""Pixels by which a centre lies inside or outside at least, however close the loop: it must survive being drawn again."""


def field_of_structure(structure: Structure, grid: Geometry) -> Field | None:
    """The signed distance to the surface of what was drawn; inside are, on its slices, what the structure's mask gives.

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
    drawn = _field_of(Region(tuple(stack.loops(region.loops))), stack.geometry, stack.at * grid.spacing[0])
    return None if drawn is None else _signed(stack, drawn.volume, mask_of_region(region, grid))


def _field_of(region: Region, grid: Geometry, heights: NDArray[np.float64] | None = None) -> Field | None:
    """`heights`: mm along the normal of each of the grid's slices, where they are not evenly spaced."""
    mask = mask_of_region(region, grid)
    if not mask.array.any():
        return None
    box = grid.box_of(mask.geometry).padded(2, grid.shape)
    part = grid.cropped(box)
    inside = mask.placed_in(part).array
    values = np.zeros(part.shape, dtype=np.float32)
    used = np.zeros(len(values), dtype=bool)
    for k, loops in by_slice(region.loops, part).items():
        if 0 <= k < len(values) and inside[k].any():
            values[k], used[k] = near_distance(loops, np.inf, inside[k], part), True
    evenly = np.asarray(np.arange(grid.shape[0]) * grid.spacing[0], dtype=np.float64)
    mm = (evenly if heights is None else heights)[box.start[0] : box.stop[0]]
    far = np.float32(FAR * max(part.spacing))
    least = np.float32(LEAST * min(part.spacing[1:]))
    spatial = np.clip(_spatial(values, used, mm, part.spacing[1:]), least, far)
    return Field(Volume(np.where(inside, -spatial, spatial), part), Level.DISTANCE)


def _spatial(flat: Floats, used: NDArray[np.bool_], mm: NDArray[np.float64], pixel: tuple[float, float]) -> Floats:
    """Sizes of distances in space from those in slices `[z, y, x]`: to the sphere of the quadratic's value and slope."""
    quadratic = np.zeros_like(flat)
    for k in np.flatnonzero(used):
        quadratic[k] = flat[k] * (flat[k] + 2 * np.float32(deepest(-flat[k], pixel)))
    _continue(quadratic, used, mm)
    steep = np.zeros_like(quadratic)
    for axis, at in enumerate((mm, *pixel)):
        steep += np.square(_slope(quadratic, axis, at))
    both = np.sqrt(steep) + np.sqrt(np.maximum(steep - 4 * quadratic, 0))
    size = (2 * np.abs(quadratic) / np.maximum(both, np.float32(1e-3))).astype(np.float32)
    for k, gap in enumerate(np.diff(mm)):
        _limit(size[k : k + 2], quadratic[k : k + 2], np.float32(gap))
    return size


def _limit(size: Floats, quadratic: Floats, gap: np.float32) -> None:
    """No more than the way along the normal to where the surface passes between two slices, bent there as a sphere is."""
    low, high = quadratic.min(axis=0), quadratic.max(axis=0)
    pitch = (high - low) / gap - gap
    way = np.where((low < 0) & (high >= 0), (np.sqrt(pitch * pitch - 4 * np.minimum(low, 0)) - pitch) / 2, np.inf)
    for own, values in zip(size, quadratic, strict=True):
        np.minimum(own, np.where(values < 0, way, np.where(np.isinf(way), way, gap - way)), out=own)


def _slope(values: Floats, axis: int, at: NDArray[np.float64] | float) -> Floats:
    """Of a quadratic exact, at both ends too."""
    if values.shape[axis] == 1:
        return np.zeros_like(values)
    return np.gradient(values, at, axis=axis, edge_order=2 if values.shape[axis] > 2 else 1).astype(np.float32, copy=False)


def deepest(depth: Floats, spacing: Sequence[float]) -> float:
    """Radius of the ball that fits in: the greatest depth, between nodes too.

    Beside the middle of a ball of radius r, (r - depth)² bends by 2 a mm² along each axis.

    Args:
        depth: mm from the surface at nodes, positive inside; of any number of dimensions.
    """
    middle = np.array(np.unravel_index(int(depth.argmax()), depth.shape))
    most = float(depth.max())
    found: list[float] = []
    for axis, step in enumerate(spacing):
        if 0 < middle[axis] < depth.shape[axis] - 1:
            low, here, high = (float(depth[tuple(middle + n * (np.arange(depth.ndim) == axis))]) for n in (-1, 0, 1))
            if (bend := low - 2 * here + high) < -0.1 * step:
                found.append((low * low - 2 * here * here + high * high - 2 * step * step) / (2 * bend))
    return float(np.clip(np.mean(found), most, most + max(spacing) / 2)) if found else most


def _continue(values: Floats, used: NDArray[np.bool_], mm: NDArray[np.float64]) -> None:
    """Put into empty slices what the quadratics of those beside them go on to: outside, whatever they say."""
    known = used.copy()
    for _ in range(len(used)):
        beside = np.pad(known, 1)
        sides = {k: [n for n in (-1, 1) if beside[k + 1 + n]] for k in np.flatnonzero(~known)}
        made = {k: [_ahead(values, known, mm, int(k), n) for n in found] for k, found in sides.items() if found}
        for k, found in made.items():
            values[k] = np.minimum.reduce(found)
            known[k] = True


def _ahead(values: Floats, known: NDArray[np.bool_], mm: NDArray[np.float64], k: int, side: int) -> Floats:
    """A quadratic's size on slice `k`, from the known ones on one side: its curvature is a sphere's within `ROUND` times."""
    there = [n for n in (k + side, k + 2 * side, k + 3 * side) if 0 <= n < len(known)]
    there = there[: next((n for n, at in enumerate(there) if not known[at]), len(there))]
    way = [float(abs(mm[n] - mm[k])) for n in there]
    bend: Floats | np.float32 = np.float32(1.0)
    if len(there) == 1:
        return np.abs(values[there[0]] + bend * np.float32(way[0] ** 2))
    slope = (values[there[0]] - values[there[1]]) / np.float32(way[1] - way[0])
    if len(there) == 3:
        before = (values[there[1]] - values[there[2]]) / np.float32(way[2] - way[1])
        bend = np.clip((slope - before) / np.float32(way[2] - way[0]), 1 / ROUND, ROUND)
    return np.abs(values[there[0]] + slope * np.float32(way[0]) + bend * np.float32(way[0] * way[1]))


def _signed(stack: SliceStack, drawn: Volume[np.float32], mask: Mask) -> Field | None:
    """Distances between slices on the planes of their grid; where a plane is a slice, negative inside a mask."""
    if not mask.array.any():
        return None
    distance = stack.back(drawn)
    part = distance.cropped(distance.geometry.box_of(stack.grid).padded(0, distance.array.shape))
    values, inside = part.array.copy(), mask.placed_in(part.geometry).array
    least = np.float32(LEAST * min(part.geometry.spacing[1:]))
    first = stack.grid.box_of(part.geometry).start[0]
    for k in np.rint(stack.at[stack.at == np.rint(stack.at)]).astype(int) - first:
        if 0 <= k < len(values):
            size = np.maximum(np.abs(values[k]), least)
            values[k] = np.where(inside[k], -size, size)
    return Field(Volume(values, part.geometry), Level.DISTANCE) if (values < 0).any() else None


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
    near = NEAR if inside.size > FEW else np.inf
    j, i = np.nonzero(from_here <= near * max(pixel))
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
