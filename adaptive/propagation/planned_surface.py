"""A planned structure's surface from its loops, as a signed distance that can be resampled to another image.

In each plane the distance to the polygons themselves, not to pixels; between planes linear (shape-based interpolation, Raya
and Udupa 1990, IEEE Trans Med Imaging 9:32).

Beyond its end contours a structure reaches half a slice, whatever rule a DVH has for its ends
(`adaptive.dose.lattice.End`): that rule says what contours stand for, and today's contours are counted by it again. Slices
that meet a surface at any height find as many contours as there were, on the average, only if it reaches half a slice
beyond them; a surface that stopped at its last contour would lose a slice each time it is carried over. Where today's
slices are h' apart and the plan's h, and the rule adds a part r of a slice, a DVH's length of today is longer by (h - h')(1
- 2r): 2 mm for 3 and 1 mm and nothing beyond.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Box, Geometry
from patient.loop import Loop
from patient.rasterisation import mask_of_region
from patient.region import Region
from patient.slices import SliceStack
from patient.structures import Structure
from patient.volume import Field, Level, Volume
from registration.distance import Distance

NODES = 1_500_000
"""Aimed at for a structure; within the two limits below."""
FINEST, COARSEST = 0.5, 2.0
"""mm between nodes in plane."""
BAND = 6.0
"""mm around a contour within which its distance is exact; beyond it is no more than that."""
PIECE = 4
"""Nodes; the longest piece of an edge that is looked at as one."""
TOGETHER = 100_000
"""Pairs of pieces and nodes that are looked at together, so that they stay in a core's cache."""
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Surface:
    """A structure's field, and the planes between its contours that have none.

    Args:
        field: signed distance in mm, negative inside, at most `BAND` large; on the planes of the structure's image, midway
            between them and one beyond each end, finer or coarser than its pixels.
        gaps: planes without contour between others.
    """

    field: Field
    gaps: int

    @cached_property
    def distance(self) -> Distance:
        """The field as it is resampled to other images."""
        return Distance(self.field)


def surface_of(structure: Structure, image: Geometry) -> Surface | None:
    """The surface of a structure that was drawn on an image; None where it encloses nothing.

    Loops of a plane are holes where they nest and united where they cross; channels of no width that join a hole with its
    outside count for nothing. Slices that were left out in drawing are interpolated (`patient.skipped_slices`).

    Args:
        structure: by its loops.
        image: whose planes they lie on.

    Raises:
        FrameMismatch: a loop lies on no plane of the image.
    """
    loops = list(structure.region_on(image).loops)
    if not loops:
        return None
    stack = SliceStack.of(image) if image.slices is not None else None
    if stack is not None:
        loops, image = stack.loops(loops), stack.geometry
    grid = _lattice(loops, image)
    filled = mask_of_region(Region(tuple(loops)), grid)
    inside = np.zeros(grid.shape, dtype=bool)
    inside[grid.box_of(filled.geometry).slices] = filled.array
    used = np.asarray(inside.any(axis=(1, 2)), dtype=bool)
    if not used.any():
        return None
    distance = np.full(grid.shape, BAND, dtype=np.float32)
    _splat(distance, _pieces(loops, grid), grid.spacing[1])
    np.negative(distance, out=distance, where=inside)
    first, last = int(used.argmax()), len(used) - 1 - int(used[::-1].argmax())
    _close(distance, used)
    gaps = int((~used[first : last + 1]).sum())
    box = Box((first - 1, 0, 0), (last + 2, *grid.shape[1:]))
    field = Volume(distance, grid).cropped(box)
    return Surface(Field(_halved(field if stack is None else stack.back(field)), Level.DISTANCE), gaps)


def _lattice(loops: list[Loop], image: Geometry) -> Geometry:
    """Nodes on the image's planes around all loops, with a plane and more than the band as margin."""
    at = image.indices(np.concatenate([loop.points for loop in loops]))
    low, high = at.min(axis=0), at.max(axis=0)
    first, last = round(low[0]) - 1, round(high[0]) + 1
    extent = (high - low)[1:] * image.spacing[1:]
    pitch = float(np.clip(np.sqrt(np.prod(extent + 2.0) * (last - first + 1) / NODES), FINEST, COARSEST))
    room = _room(pitch) + 1
    counts = np.ceil(extent / pitch).astype(int) + 1 + 2 * room
    start = low[1:] - room * pitch / np.asarray(image.spacing[1:])
    x, y, z = (float(v) for v in image.points((first, *start)))
    shape = (last - first + 1, int(counts[0]), int(counts[1]))
    return replace(image, shape=shape, spacing=(image.spacing[0], pitch, pitch), origin=(x, y, z))


def _pieces(loops: list[Loop], grid: Geometry) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Edges of all polygons in pieces of at most `PIECE` nodes: plane, start and end `[n, 2]` (row, column) in nodes."""
    distinct = {loop.points.tobytes(): loop.points for loop in loops}
    planes, starts, ends = [], [], []
    for points in distinct.values():
        at = grid.indices(points)
        planes.append(np.rint(at[:, 0]).astype(np.intp))
        starts.append(at[:, 1:])
        ends.append(np.roll(at[:, 1:], -1, axis=0))
    plane, start, end = np.concatenate(planes), np.concatenate(starts), np.concatenate(ends)
    kept = _crossed_once(plane, start, end)
    plane, start, end = plane[kept], start[kept], end[kept]
    parts = np.maximum(1, np.ceil(np.linalg.norm(end - start, axis=1) / PIECE).astype(np.intp))
    which = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)
    step = ((end - start) / parts[:, None])[which]
    begin = start[which] + number[:, None] * step
    return plane[which], begin, begin + step


def _crossed_once(plane: NDArray[np.intp], start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Edges that part inside from outside: one that is traversed in both directions does not."""
    a, b = (np.rint(v * 1e4).astype(np.int64) for v in (start, end))
    swap = (a[:, 0] > b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] > b[:, 1]))
    low, high = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
    _, which, counts = np.unique(np.column_stack([plane, low, high]), axis=0, return_inverse=True, return_counts=True)
    return (counts[which.ravel()] % 2 == 1) & (low != high).any(axis=1)


def _splat(
    distance: Floats, pieces: tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]], pitch: float
) -> None:
    """Lower each node near a piece to its distance (mm) from it."""
    plane, start, end = pieces
    room = _room(pitch)
    reach = np.arange(-room, room + 1)
    near = np.stack([v.ravel() for v in np.meshgrid(reach, reach, indexing="ij")])
    near = near[:, np.hypot(*near) <= room]
    flat, (_, rows, columns) = np.square(distance.reshape(-1) / np.float32(pitch)), distance.shape
    middle = np.rint(0.5 * (start + end)).astype(np.intp)
    nodes = (plane * rows + middle[:, 0]) * columns + middle[:, 1]
    beside = near[0] * columns + near[1]
    first, along = start - middle, end - start
    length = np.maximum((along**2).sum(axis=1), 1e-9)
    # of the way from a piece's start to a node: its square, and its part along the piece, both as products
    square = np.concatenate([near, (near**2).sum(axis=0, keepdims=True), np.ones((1, near.shape[1]))])
    to_square = np.column_stack([-2 * first, np.ones(len(first)), (first**2).sum(axis=1)])
    to_share = np.column_stack([along, -(first * along).sum(axis=1)]) / length[:, None]
    for n in range(0, len(plane), some := max(1, TOGETHER // near.shape[1])):
        part = slice(n, n + some)
        ahead = to_share[part] @ square[[0, 1, 3]]
        share = np.clip(ahead, 0, 1)
        off = to_square[part] @ square
        ahead *= 2
        ahead -= share
        ahead *= share
        ahead *= length[part, None]
        off -= ahead
        np.minimum.at(flat, (nodes[part, None] + beside).ravel(), off.astype(np.float32).ravel())
    np.multiply(np.sqrt(np.maximum(flat, 0)), pitch, out=distance.reshape(-1), casting="unsafe")


def _room(pitch: float) -> int:
    """Nodes from the middle of a piece to the end of the band around it."""
    return int(np.ceil(BAND / pitch)) + PIECE // 2


def _halved(field: Volume[np.float32]) -> Volume[np.float32]:
    """With planes midway between its own, bent as their neighbours say: straight lines would cut a round thing's corners.

    Of the second differences on both sides the smaller; none where they differ in sign or a distance is out of the band.
    """
    old = field.array
    out = np.empty((2 * len(old) - 1, *old.shape[1:]), dtype=np.float32)
    out[::2], out[1::2] = old, 0.5 * (old[:-1] + old[1:])
    for k in range(1, len(old) - 2):
        a, b, c, d = (old[n] for n in range(k - 1, k + 3))
        low, high = a - 2 * b + c, b - 2 * c + d
        bend = np.where(low * high > 0, np.sign(low) * np.minimum(np.abs(low), np.abs(high)), 0)
        far = np.maximum.reduce([np.abs(v) for v in (a, b, c, d)]) > 0.99 * BAND
        out[2 * k + 1] -= np.where(far, 0, bend / 8)
    k, j, i = field.geometry.spacing
    return Volume(out, replace(field.geometry, shape=out.shape, spacing=(k / 2, j, i)))


def _close(distance: Floats, used: NDArray[np.bool_]) -> None:
    """In planes without contour the neighbours' values, outside: so that the surface closes midway."""
    for k in np.flatnonzero(~used):
        beside = [np.abs(distance[n]) for n in (k - 1, k + 1) if 0 <= n < len(used) and used[n]]
        if beside:
            distance[k] = np.minimum.reduce(beside)
