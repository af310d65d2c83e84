"""The spinal canal: soft tissue that sees bone all around at close range, with a vertebral body in front of it.

A path is found through the planes along which that holds best; around it, rays measure where bone begins. Long bones have a
canal too, but no vertebral body in front; the skull is too wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Box, Geometry
from patient.volume import Field, Level, Volume

BONE = 160.0
"""HU from which a ray has met bone: the thin rim of a coarse grid included."""
SOFT = (-80.0, 140.0)
"""HU of cord, fluid and fat in the canal, noise included."""
GRID = 2.5
"""mm of the grid, in plane, on which the path is sought."""
PLANES = 5.0
"""mm between the planes on which it is sought."""
SIGHT = 17.5
"""mm within which bone must be met."""
VERTEBRA = (45.0, 85.0)
"""Mean HU in front, bodies and discs together: below the first certainly no vertebra, above the second like one."""
WALL = 220.0
"""HU at which the canal's wall lies, between fluid and cortical bone of which a coarse pixel holds a part."""
NEAR_WALL, FAR_WALL = 6.5, 11.5
"""mm from the middle to the wall: no canal is narrower, and where bone is missing (between arches) none is wider."""
SIDE_WALL = 13.0
"""mm to the wall at the sides, where a canal is widest."""
LEAST_SCORE = 0.5
"""Of the directions in which bone is met, weighted: below it a plane is no part of a spine."""
ENCLOSED = 0.35
"""Share of rays that meet bone, over neighbouring planes: less is the skull or the open sacrum."""
LEAST_LENGTH = 30.0
"""mm of spine below which nothing is said."""
LEAST_LIKENESS = 0.7
"""Spines measure 0.78 and more, a femur 0.65."""
STEP = 4.0
"""mm by which the path may move aside from one sought plane to the next."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Spine:
    """The middle of the canal.

    Args:
        planes: indices of the upright image's planes, rising.
        middle: `[n, 2]` fractional (row, column) on each.
        score: `[n]` share of directions that meet bone.
    """

    planes: NDArray[np.intp]
    middle: NDArray[np.float64]
    score: NDArray[np.float64]


def find_spine(hu: NDArray[Any], geometry: Geometry, columns: tuple[int, int], rows: tuple[int, int]) -> Spine | None:
    """The path of the canal through an upright image; None where there is no spine.

    Args:
        hu: `[z, y, x]`, upright.
        geometry: of it.
        columns, rows: the body's extent, to look within.
    """
    dz, dy, dx = geometry.spacing
    stride = max(1, int(round(PLANES / dz)))
    planes = np.arange(0, len(hu), stride)
    seen, ahead = (
        np.stack(maps)
        for maps in zip(*(_evidence(_plane(hu, int(k), stride, rows, columns, dy, dx)) for k in planes), strict=True)
    )
    # Arches and discs leave gaps of a few mm in what is around; bodies and discs alternate over some 30 mm in front.
    around: Floats = ndimage.gaussian_filter1d(seen, 5.0 / (stride * dz), axis=0, mode="nearest")
    ahead = ndimage.gaussian_filter1d(ahead, 12.0 / (stride * dz), axis=0, mode="nearest")
    scores = around * np.clip((ahead - VERTEBRA[0]) / (VERTEBRA[1] - VERTEBRA[0]), 0.0, 1.0)
    # Where every direction meets bone over some width, the path is to run in the middle of it.
    centred = ndimage.gaussian_filter(scores, (0.0, 1.0, 1.0))
    path = _best_path(centred, max(1, int(round(STEP * stride * dz / PLANES / GRID))))
    values = ndimage.maximum_filter(scores, (1, 3, 3))[np.arange(len(path)), path[:, 0], path[:, 1]]
    run = _longest_run(values > LEAST_SCORE, gap=2)
    if run is None or (run[1] - run[0]) * stride * dz < LEAST_LENGTH:
        return None
    found = slice(run[0], run[1])
    middle = path[found].astype(np.float64)
    middle = ndimage.gaussian_filter1d(middle, 1.0, axis=0, mode="nearest") * GRID / np.array([dy, dx])
    middle += np.array([rows[0], columns[0]]) + 0.5 * (GRID / np.array([dy, dx]) - 1.0)
    wanted = np.arange(planes[found][0], min(len(hu), planes[found][-1] + 1))
    at = np.column_stack([np.interp(wanted, planes[found], middle[:, c]) for c in range(2)])
    spine = Spine(wanted, at, np.interp(wanted, planes[found], values[found]))
    return spine if _likeness(hu, geometry, spine) > LEAST_LIKENESS else None


def _likeness(hu: NDArray[Any], geometry: Geometry, spine: Spine) -> float:
    """How much what lies around the path is a spine and no long bone: its planes are mirror images of themselves, and there
    is cancellous bone in front. Correlation with the mirror image plus 0.3 times the share of cancellous HU, medians."""
    _, dy, dx = geometry.spacing
    across, front, width = np.arange(-30.0, 31.0, 2.5), -np.arange(12.0, 28.0, 2.0), np.arange(-8.0, 9.0, 2.0)
    alike: list[float] = []
    cancellous: list[float] = []
    for k, (y, x) in zip(spine.planes, spine.middle, strict=True):
        within = across[np.abs(across) <= min(x, geometry.shape[2] - 1 - x) * dx]
        window = _sampled(hu[k], y + (across - 8.0) / dy, x + within / dx).clip(-100.0, 400.0)
        even = not window.size or window.std() == 0
        alike.append(0.0 if even else float(np.corrcoef(window.ravel(), window[:, ::-1].ravel())[0, 1]))
        block = _sampled(hu[k], y + front / dy, x + width / dx)
        cancellous.append(float(((block > 80) & (block < 400)).mean()))
    return float(np.median(alike) + 0.3 * np.median(cancellous))


def _sampled(plane: NDArray[Any], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Floats:
    places = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(plane, places, order=1, mode="nearest", output=np.float32)


def _plane(
    hu: NDArray[Any], k: int, stride: int, rows: tuple[int, int], columns: tuple[int, int], dy: float, dx: float
) -> Floats:
    """One sought plane on the search grid, averaged over the planes that it stands for."""
    stack = hu[max(0, k - stride // 2) : k + stride // 2 + 1, rows[0] : rows[1], columns[0] : columns[1]]
    plane = np.clip(stack, -300, 800).mean(axis=0, dtype=np.float32)
    shape = (max(4, int(plane.shape[0] * dy / GRID)), max(4, int(plane.shape[1] * dx / GRID)))
    y = (np.arange(shape[0]) + 0.5) * GRID / dy - 0.5
    x = (np.arange(shape[1]) + 0.5) * GRID / dx - 0.5
    smooth = ndimage.gaussian_filter(plane, [max(0.0, 0.4 * GRID / dy - 0.3), max(0.0, 0.4 * GRID / dx - 0.3)])
    return ndimage.map_coordinates(smooth, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


_DIRECTIONS = [(np.sin(a), np.cos(a)) for a in np.arange(16) * np.pi / 8]
_TOWARD = {"left": [14, 15, 0, 1, 2], "right": [6, 7, 8, 9, 10], "front": [10, 11, 12, 13, 14]}


def _evidence(plane: Floats) -> tuple[Floats, Floats]:
    """For each pixel how far it sees bone around, 0 to 1 (0 where it is bone or air itself), and the HU in front."""
    bone = plane > BONE
    reach = int(SIGHT / GRID)
    padded = np.pad(bone, reach)
    ny, nx = plane.shape
    met = np.zeros((len(_DIRECTIONS), ny, nx), dtype=bool)
    for seen, (down, right) in zip(met, _DIRECTIONS, strict=True):
        for r in range(1, reach + 1):
            j, i = reach + int(round(down * r)), reach + int(round(right * r))
            seen |= padded[j : j + ny, i : i + nx]
    sides = np.stack([met[_TOWARD[side]].mean(axis=0, dtype=np.float32) for side in ("left", "right", "front")])
    around = 0.5 * met.mean(axis=0, dtype=np.float32) + 0.5 * sides.min(axis=0)
    soft = (plane > SOFT[0]) & (plane < SOFT[1])
    open_core = ndimage.uniform_filter((~bone).astype(np.float32), 3) > 0.85
    return around * (soft & open_core), _mean_ahead(np.clip(plane, 0, 200))


def _mean_ahead(plane: Floats) -> Floats:
    """Mean HU of a block 20 mm wide from 10 to 25 mm in front: the vertebral body, or a disc.

    Dense bone counts no more than 200 HU, so that the thick wall of a long bone does not pass for a body.
    """
    wide, deep = 2 * int(10.0 / GRID) + 1, int(15.0 / GRID)
    mean = ndimage.uniform_filter(plane, (deep, wide), mode="nearest")
    back = int(17.5 / GRID)
    return np.pad(mean, ((back, 0), (0, 0)), mode="edge")[: len(plane)]


def _best_path(scores: Floats, reach: int) -> NDArray[np.intp]:
    """`[planes, 2]`: the path of greatest total score that moves at most `reach` pixels a plane (dynamic programming)."""
    total, window = scores[0].copy(), 2 * reach + 1
    totals = [total]
    for plane in scores[1:]:
        total = ndimage.maximum_filter(total, window, mode="constant", cval=-1.0) + plane
        totals.append(total)
    at = np.array(np.unravel_index(int(np.argmax(totals[-1])), totals[-1].shape))
    path = [at]
    for total in totals[-2::-1]:
        (j0, i0), (j1, i1) = np.maximum(at - reach, 0), at + reach + 1
        window_at = total[j0:j1, i0:i1] - 1e-6 * _distance(at, j0, i0, total[j0:j1, i0:i1].shape)
        at = np.array(np.unravel_index(int(np.argmax(window_at)), window_at.shape)) + (j0, i0)
        path.append(at)
    return np.array(path[::-1])


def _distance(at: NDArray[Any], j0: int, i0: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    j, i = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(j + j0 - at[0], i + i0 - at[1])


def _longest_run(good: NDArray[np.bool_], gap: int) -> tuple[int, int] | None:
    """The longest run of True, gaps of up to `gap` bridged; start and stop."""
    bridged = ndimage.binary_closing(np.pad(good, gap + 1), np.ones(2 * gap + 1))[gap + 1 : -(gap + 1)] | good
    labels, count = ndimage.label(bridged)
    if not count:
        return None
    largest = int(np.argmax(np.bincount(labels)[1:])) + 1
    run = np.flatnonzero(labels == largest)
    return int(run[0]), int(run[-1]) + 1


def canal_field(hu: NDArray[Any], geometry: Geometry, spine: Spine) -> Field:
    """The canal around its middle as a signed distance, its wall where rays meet bone.

    Args:
        hu: `[z, y, x]`, upright.
        geometry: of it.
        spine: from `find_spine`.
    """
    dz, dy, dx = geometry.spacing
    angles = np.arange(32) * np.pi / 16
    measured = [_walls(hu[k], middle, angles, dy, dx) for k, middle in zip(spine.planes, spine.middle, strict=True)]
    radii = np.stack([walls for walls, _ in measured])
    spine, radii = _ends_trimmed(spine, radii, np.array([met for _, met in measured]), dz)
    # Between arches there is no bone behind: neighbours along the spine know where the wall goes on.
    size = (max(3, int(round(12.0 / dz)) | 1), 3)
    smooth = ndimage.median_filter(np.pad(radii, ((0, 0), (1, 1)), mode="wrap"), size=size, mode="nearest")[:, 1:-1]
    smooth = ndimage.gaussian_filter(smooth, (2.0 / dz, 1.0), mode=("nearest", "wrap"))
    return _star_field(geometry, spine, smooth, angles)


def _ends_trimmed(spine: Spine, radii: Floats, met: NDArray[np.float64], dz: float) -> tuple[Spine, Floats]:
    """Without the planes at either end where few rays meet bone: above the foramen magnum, below the sacrum."""
    enclosed = np.flatnonzero(ndimage.gaussian_filter1d(met, 6.0 / dz, mode="nearest") > ENCLOSED)
    kept = slice(int(enclosed[0]), int(enclosed[-1]) + 1) if enclosed.size else slice(0, len(met))
    return Spine(spine.planes[kept], spine.middle[kept], spine.score[kept]), radii[kept]


def _walls(
    plane: NDArray[Any], middle: NDArray[np.float64], angles: NDArray[np.float64], dy: float, dx: float
) -> tuple[Floats, float]:
    """mm to the first bone along rays from the middle, within what a canal can be, and the share of rays that meet any."""
    steps = np.arange(1.0, SIDE_WALL + 3.0, 0.5)
    j = middle[0] + np.outer(np.sin(angles), steps) / dy
    i = middle[1] + np.outer(np.cos(angles), steps) / dx
    values = ndimage.map_coordinates(plane, [j, i], order=1, mode="nearest", output=np.float32)
    dense = values > WALL
    first = np.where(dense.any(axis=1), steps[np.argmax(dense, axis=1)], np.inf)
    limit = np.hypot(SIDE_WALL * np.cos(angles), FAR_WALL * np.sin(angles))
    return np.clip(np.minimum(first, limit), NEAR_WALL, None).astype(np.float32), float((first < limit + 2.0).mean())


def _star_field(geometry: Geometry, spine: Spine, radii: Floats, angles: NDArray[np.float64]) -> Field:
    """Signed distance (along rays) of a shape given by radii around its middle on each plane."""
    dz, dy, dx = geometry.spacing
    pad = SIDE_WALL + 6.0
    j0, i0 = (max(0, int(v)) for v in (spine.middle.min(axis=0) - (pad / dy, pad / dx)))
    j1, i1 = (int(v) for v in np.minimum(spine.middle.max(axis=0) + (pad / dy + 1, pad / dx + 1), geometry.shape[1:]))
    j, i = np.mgrid[j0:j1, i0:i1].astype(np.float32)
    k0, k1 = max(0, int(spine.planes[0]) - 1), min(geometry.shape[0], int(spine.planes[-1]) + 2)
    values = np.full((k1 - k0, j1 - j0, i1 - i0), dz, dtype=np.float32)
    closed = np.concatenate([radii, radii[:, :1]], axis=1)
    for n, (k, (y, x)) in enumerate(zip(spine.planes, spine.middle, strict=True)):
        down, right = (j - y) * dy, (i - x) * dx
        turn = np.mod(np.arctan2(down, right), 2 * np.pi)
        values[k - k0] = np.hypot(down, right) - np.interp(turn, np.append(angles, 2 * np.pi), closed[n])

    return Field(Volume(values, geometry.cropped(Box((k0, j0, i0), (k1, j1, i1)))), Level.DISTANCE)
