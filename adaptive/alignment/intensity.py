"""What today's image shows, and its numbers made comparable with the plan's: the raw image stays as it is.

A cone beam shows a cylinder, its numbers sag toward the middle (cupping) and drift from day to day. Seen through the
registration, soft tissue of the plan says by how much: the smooth part of the difference is taken off, and nothing finer, so
that what really changed stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from patient.parallel import each
from patient.volume import Mask, Volume, mask_at
from registration.resampling import resampled
from registration.transforms import Transform
from registration.working import reduced

COARSE = 4.0
"""mm of the grid on which fields of view meet and differences are smoothed."""
SAME = 0.02
"""Part of an image that holds one and the same number where nothing was measured."""
FILLED, WIDE = 0.93, 0.9
"""A field of view fills a disc or a block by this much and spans the picture by this much; what does neither is a body in
air that a scanner clipped to one number."""
SOFT = (-150.0, 200.0)
"""HU of fat to soft tissue."""
SMOOTH = 25.0
"""mm, standard deviation of the low-pass: shading is smoother, organs are not."""
PIXEL = 1.0
"""mm of the pixels that contours are made on: a distance between pixels is known far better than they are wide."""
MOST = 300.0
"""HU; what differs by more is other tissue, not shading."""


def field_of_view(image: Volume[Any]) -> Mask:
    """Where an image was measured, bool on its grid: without what was filled with one number around a disc or block."""
    step = [max(1, n // 256) for n in image.array.shape[1:]]
    part = image.array[:, :: step[0], :: step[1]]
    padding = _padding(part)
    whole = Volume(np.ones(image.array.shape, dtype=bool), image.geometry)
    if padding is None or not _is_a_window(~padding):
        return whole

    def plane(k: int) -> None:
        inner = ndimage.binary_fill_holes(~padding[k])
        rows = np.repeat(np.repeat(inner, step[0], axis=0), step[1], axis=1)
        whole.array[k] = rows[: whole.array.shape[1], : whole.array.shape[2]]

    each(plane, range(len(padding)))
    return whole


def _padding(array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """One and the same number, from the sides of the image inward; None where there is hardly any."""
    sides = [array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]]
    values, counts = np.unique(np.concatenate([side.ravel() for side in sides]), return_counts=True)
    same = array == values[int(np.argmax(counts))]
    if float(same.mean()) < SAME:
        return None
    labels = cc3d.connected_components(same, connectivity=6)
    outer = np.zeros(int(labels.max()) + 1, dtype=bool)
    for axis in range(3):
        for side in (0, -1):
            outer[np.unique(np.take(labels, side, axis=axis))] = True
    outer[0] = False
    return outer[labels]


def _is_a_window(valid: NDArray[np.bool_]) -> bool:
    """Whether what is measured in any plane makes a disc or a block across the picture."""
    shadow = np.asarray(valid.any(axis=0), dtype=bool)
    if float(shadow.mean()) > 1 - SAME:
        return not valid.any(axis=(1, 2)).all()
    rows, columns = np.flatnonzero(shadow.any(axis=1)), np.flatnonzero(shadow.any(axis=0))
    if not rows.size:
        return False
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if min(height / shadow.shape[0], width / shadow.shape[1]) < WIDE:
        return False
    full = float(shadow.sum())
    disc = np.pi / 4 * height * width
    return full > FILLED * height * width or 1.0 / FILLED > full / disc > FILLED


def seen_by_both(today: Volume[Any], planned: Volume[Any], plan_from_today: Transform) -> Mask:
    """Where today's image and the plan's both were measured, bool on today's grid.

    Args:
        today, planned: the two images, HU.
        plan_from_today: where a point of today's lies in the plan's.
    """
    view = field_of_view(today)
    plan_view = field_of_view(planned)
    steps = [max(1, round(COARSE / s)) for s in today.geometry.spacing]
    coarse = _strided(today.geometry, steps)
    at = coarse.points(np.moveaxis(np.indices(coarse.shape), 0, -1))
    shown = mask_at(plan_view, plan_from_today.points(at, plan_from_today.source))
    rows = [np.minimum(np.arange(n) // s, c - 1) for n, s, c in zip(view.array.shape, steps, coarse.shape, strict=True)]
    for k, plane in enumerate(view.array):
        plane &= shown[rows[0][k]][np.ix_(rows[1], rows[2])]
    return view


def in_pixels(image: Volume[Any], seen: Mask) -> tuple[Volume[Any], Mask]:
    """An image of very small pixels in blocks of about `PIXEL`, averaged, and what is seen of it; the same planes.

    Args:
        image: today's, HU.
        seen: on its grid; a block is seen where each of its pixels is.
    """
    rows, columns = (
        max(1, min(n, round(PIXEL / s))) for n, s in zip(image.array.shape[1:], image.geometry.spacing[1:], strict=True)
    )
    if rows == columns == 1:
        return image, seen
    planes, height, width = (n // f for n, f in zip(image.array.shape, (1, rows, columns), strict=True))
    old = image.geometry
    grid = replace(_strided(old, [1, rows, columns]), shape=(planes, height, width))
    mean, whole = np.empty(grid.shape, np.int16), np.empty(grid.shape, bool)
    parts = [np.s_[j : height * rows : rows, i : width * columns : columns] for j in range(rows) for i in range(columns)]

    def plane(k: int) -> None:
        mean[k] = _whole(np.mean([image.array[k][part] for part in parts], axis=0))
        whole[k] = np.logical_and.reduce([seen.array[k][part] for part in parts])

    each(plane, range(planes))
    return Volume(mean, grid), Volume(whole, grid)


def _strided(grid: Geometry, steps: list[int]) -> Geometry:
    """Centres of blocks of `steps` voxels."""
    shape = tuple(-(-n // s) for n, s in zip(grid.shape, steps, strict=True))
    k, j, i = (a * s for a, s in zip(grid.spacing, steps, strict=True))
    x, y, z = (float(v) for v in grid.points([(s - 1) / 2 for s in steps]))
    return replace(grid, shape=shape, spacing=(k, j, i), origin=(x, y, z))  # type: ignore[arg-type]


def corrected(today: Volume[Any], planned: Volume[Any], plan_from_today: Transform, seen: Mask) -> Volume[np.int16]:
    """Today's image with its shading and drift taken off, HU, int16.

    Args:
        today: as it was reconstructed.
        planned: the plan's image, calibrated.
        plan_from_today: where a point of today's lies in the plan's.
        seen: where both show the patient, on today's grid.
    """
    small = reduced(today, COARSE)
    there = resampled(plan_from_today, reduced(planned, COARSE), small.geometry, -1000.0).array
    at = np.rint(today.geometry.indices(small.geometry.points(np.moveaxis(np.indices(small.geometry.shape), 0, -1))))
    index = np.clip(at.astype(np.intp), 0, np.asarray(today.geometry.shape) - 1)
    difference = there - small.array
    soft = seen.array[tuple(np.moveaxis(index, -1, 0))] & (np.abs(difference) < MOST)
    soft &= (there > SOFT[0]) & (there < SOFT[1]) & ndimage.binary_erosion(there > SOFT[0])
    if not soft.any():
        return Volume(_whole(today.array), today.geometry)
    drift = float(np.median(difference[soft]))
    sigma = [SMOOTH / s for s in small.geometry.spacing]
    weight = ndimage.gaussian_filter(soft.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(soft, difference - drift, 0).astype(np.float32), sigma)
    # where hardly any soft tissue speaks, only the drift of the whole image counts
    offset = drift + smooth / (weight + np.float32(0.02))
    return _with_offset(today, Volume(offset.astype(np.float32), small.geometry), seen)


def _with_offset(today: Volume[Any], offset: Volume[np.float32], seen: Mask) -> Volume[np.int16]:
    """Plane by plane, the offset linear between its nodes."""
    grid = today.geometry
    along = [
        _weights(n, c, s / p)
        for n, c, s, p in zip(grid.shape, offset.array.shape, grid.spacing, offset.geometry.spacing, strict=True)
    ]
    out = np.empty(grid.shape, dtype=np.int16)

    def one(k: int) -> None:
        coarse = np.tensordot(along[0][k], offset.array, axes=1)
        fine = along[1] @ coarse @ along[2].T
        out[k] = _whole(np.where(seen.array[k], today.array[k] + fine, today.array[k]))

    each(one, range(len(out)))
    return Volume(out, grid)


def _weights(fine: int, coarse: int, step: float) -> NDArray[np.float32]:
    """`[fine, coarse]` of linear interpolation between averages of blocks that begin at the same edge."""
    at = np.clip((np.arange(fine) + 0.5) * step - 0.5, 0, coarse - 1)
    low = np.minimum(at.astype(np.intp), max(coarse - 2, 0))
    out = np.zeros((fine, coarse), dtype=np.float32)
    rows = np.arange(fine)
    out[rows, low] = 1 - (at - low)
    out[rows, np.minimum(low + 1, coarse - 1)] += (at - low).astype(np.float32)
    return out


def _whole(values: NDArray[Any]) -> NDArray[np.int16]:
    return np.rint(np.clip(values, -1024, 32767)).astype(np.int16)


def part_seen(inside: Mask, seen: Mask) -> float:
    """Which part of a mask, by volume, lies in what is seen; 0 for an empty one."""
    total = int(inside.array.sum())
    if not total:
        return 0.0
    return float((inside.array & seen.placed_in(inside.geometry).array).sum() / total)
