"""Fields as shapes, finer than voxels: how much of each voxel they fill, and where their centres lie.

A field ends half a voxel outside its own array, as `patient.outline` draws it. Between voxel centres it is linear, and for
volumes bent as its neighbours say: on thick slices straight lines would cut a round structure's corners. All work goes in
slabs of a few planes, so that a body costs no floats of its own size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Box, Geometry
from patient.volume import Field, Level

Floats = NDArray[np.float32]
Points = NDArray[np.float64]
FINER = 4
"""Samples a voxel, along each axis."""
SLAB = 16
"""Planes that are looked at together."""
PIECE = 10_000
"""Cells that are looked at together, so that they stay in a core's cache."""
FULL = FINER**3
CORNERS = np.array([(k, j, i) for k in (0, 1) for j in (0, 1) for i in (0, 1)])


def inside(field: Field, grid: Geometry) -> Floats:
    """`[z, y, x]` on a grid that shares the field's voxels: positive inside, 0 at the surface, in the field's own units.

    Beyond the field's array its border's values with a negative sign: so that the surface closes half a voxel outside.

    Raises:
        FrameMismatch: the two do not share their voxels.
    """
    box = grid.box_of(field.geometry)
    held = [(max(0, -a), min(n, m - a)) for a, n, m in zip(box.start, field.geometry.shape, grid.shape, strict=True)]
    if any(a >= b for a, b in held):
        return np.full(grid.shape, -1.0, dtype=np.float32)
    values = field.volume.array[tuple(slice(a, b) for a, b in held)]
    values = values - np.float32(0.5) if field.level is Level.PROBABILITY else -values
    values[np.isnan(values)] = -1.0
    room = [(max(0, s), max(0, m - e)) for s, e, m in zip(box.start, box.stop, grid.shape, strict=True)]
    values = np.pad(values, room, mode="edge")
    for axis, (before, after) in enumerate(room):
        turned = np.moveaxis(values, axis, 0)
        for end in (turned[:before], turned[len(turned) - after :]):
            np.negative(np.abs(end), out=end)
    return values


def common(grid: Geometry, *fields: Field) -> Geometry:
    """The smallest part of a grid that holds all fields and a voxel around them; it may reach beyond the grid."""
    box = Box((0, 0, 0), (0, 0, 0))
    for field in fields:
        box = box.union(grid.box_of(field.geometry))
    start, stop = (tuple(v + by for v in side) for side, by in ((box.start, -1), (box.stop, 1)))
    return grid.cropped(Box(start, stop))  # type: ignore[arg-type]


def slabs(part: Geometry) -> Iterator[Box]:
    for k in range(0, part.shape[0], SLAB):
        yield Box((k, 0, 0), (min(part.shape[0], k + SLAB), *part.shape[1:]))


def filled(part: Geometry, *fields: Field) -> NDArray[np.uint8]:
    """How many of 64 points spread over each voxel of a grid lie inside all fields at once, `[z, y, x]`.

    Args:
        part: a grid that shares the fields' voxels.
        fields: one, or several whose intersection is asked for.
    """
    return filled_each(part, *fields)[-1]


def filled_each(part: Geometry, *fields: Field) -> tuple[NDArray[np.uint8], ...]:
    """As `filled`, of each field alone, and of all at once behind them where there are several."""
    out = tuple(np.zeros(part.shape, dtype=np.uint8) for _ in range(len(fields) + (len(fields) > 1)))
    for slab in slabs(part):
        with_room = Box(tuple(v - 2 for v in slab.start), tuple(v + 2 for v in slab.stop))  # type: ignore[arg-type]
        grid = part.cropped(with_room)
        for into, counts in zip(out, _filled([inside(field, grid) for field in fields]), strict=True):
            into[slab.slices] = counts[2:-2, 2:-2, 2:-2]
    return out


def centre(field: Field) -> Points:
    """LPS mm of a field's centroid."""
    part = common(field.geometry, field)
    return part.points(centroid(filled(part, field)))


def centroid(counts: NDArray[np.uint8]) -> Points:
    """Index (k, j, i) of the centroid of what `filled` gave."""
    sums = [counts.sum(axis=others, dtype=np.int64) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([along @ np.arange(len(along)) / along.sum() for along in sums])


def _filled(values: Sequence[Floats]) -> list[NDArray[np.uint8]]:
    """By the cells between eight neighbouring centres; each gives an eighth of itself to each of the eight voxels."""
    touched, whole = zip(*(_cells(v > 0) for v in values), strict=True)
    if len(values) > 1:
        touched, whole = (*touched, np.logical_and.reduce(touched)), (*whole, np.logical_and.reduce(whole))
    out = [_spread(cells) for cells in whole]
    mixed = touched[0] & ~whole[0]
    for some, every in zip(touched[1:-1], whole[1:-1], strict=True):
        mixed |= some & ~every
    mixed = where_true(mixed[1:-1, 1:-1, 1:-1]) + 1
    for at in np.array_split(mixed, max(1, len(mixed) // PIECE)):
        places = tuple(at.T)
        hits = []
        for v, some, every in zip(values, touched, whole, strict=False):
            hit = np.concatenate(_corners_and_bends(v, at), axis=1) @ _SAMPLES > 0
            hit &= some[places][:, None]
            hit |= every[places][:, None]
            hits.append(hit)
        if len(values) > 1:
            hits.append(np.logical_and.reduce(hits))
        for counts, hit, every in zip(out, hits, whole, strict=True):
            # of a cell that is full all is there already
            in_octants = np.bitwise_count(hit.view(np.uint64)) * ~every[places][:, None]
            for n, corner in enumerate(CORNERS):
                # a cell has each of its corners once, so that no voxel is met twice here
                counts[tuple((at + corner).T)] += in_octants[:, n]
    return out


def _cells(within: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cells of which one corner and more lies inside, and those of which all do."""
    some = every = within
    for axis in range(3):
        ahead, behind = (tuple(cut if n == axis else slice(None) for n in range(3)) for cut in (slice(1, None), slice(-1)))
        some, every = some[ahead] | some[behind], every[ahead] & every[behind]
    return some, every


def _spread(whole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """What full cells give to the voxels at their corners."""
    out = whole.astype(np.uint8) * np.uint8(FULL // 8)
    for axis in range(3):
        room = [(0, 0)] * 3
        room[axis] = (1, 1)
        padded = np.pad(out, room)
        ahead, behind = (tuple(cut if n == axis else slice(None) for n in range(3)) for cut in (slice(1, None), slice(-1)))
        out = padded[ahead] + padded[behind]
    return out


def _corners_and_bends(values: Floats, at: NDArray[np.int_]) -> tuple[Floats, Floats]:
    """A field at the corners `[n, 8]` of cells, and its second differences `[n, 3]` along k, j, i: the mean over four edges.

    Of an edge's two ends the smaller, and none where they differ in sign: a field that has kinks there (a mask, a
    probability that is 0 or 1 beyond its ramp) stays linear.
    """
    strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
    flat, first = values.ravel(), at @ strides
    corners = np.stack([flat.take(first + c @ strides) for c in CORNERS], axis=1)
    bends = np.zeros((len(at), 3), dtype=np.float32)
    for axis, step in enumerate(strides):
        for n in np.flatnonzero(CORNERS[:, axis] == 0):
            edge = first + CORNERS[n] @ strides
            here, there = corners[:, n], corners[:, n + (4, 2, 1)[axis]]
            low = flat.take(edge - step) - 2 * here + there
            high = here - 2 * there + flat.take(edge + 2 * step)
            smaller = np.copysign(np.minimum(np.abs(low), np.abs(high)), low)
            bends[:, axis] += np.where(low * high > 0, smaller, np.float32(0)) / 4
    return corners, bends


def where_true(mask: NDArray[np.bool_]) -> NDArray[np.int_]:
    """As `np.argwhere`, several times faster on masks that are nearly empty."""
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=-1)


_EVEN = (np.stack(np.meshgrid(*[np.arange(FINER)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) + 0.5) / FINER
_AT = _EVEN[np.argsort((_EVEN > 0.5).astype(int) @ np.array([4, 2, 1]), kind="stable")]
"""Samples `[64, 3]` in a cell, by eights: those nearest to its first corner, to its second, ..."""
_WEIGHTS = np.prod(np.where(CORNERS[:, None, :] == 1, _AT, 1.0 - _AT), axis=-1)
"""`[8, 64]` of a cell's corners at the samples in it."""
_BULGE = (0.5 * _AT * (1.0 - _AT)).T
"""`[3, 64]` what linear interpolation misses of a second difference of 1 along k, j, i."""
_SAMPLES = np.concatenate([_WEIGHTS, -_BULGE]).astype(np.float32)
"""`[11, 64]` of a cell's corners and second differences."""
