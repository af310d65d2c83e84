"""An image on the voxels that a rigid registration works on: binned, cropped to its body, with where to look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import edt
import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray
from scipy import ndimage

from patient.errors import InputError
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume
from registration.air import above_air, with_hollows
from registration.transforms import placed

FINE, MIDDLE, COARSE = 2.0, 4.0, 7.0
"""mm: about what a voxel measures on each level; never finer than the image."""
ROOM = 24.0
"""mm around the body that belong to its picture: without air there is no skin."""
SMOOTH = {COARSE: 1.0, MIDDLE: 1.5, FINE: 1.0}
"""Blur of both images, in voxels of the level: unblurred, there is a false optimum every half voxel."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """An image on one level: float32 numbers, where to look, and which voxels are no filling beyond a field of view."""

    image: Volume[np.float32]
    mask: Mask

    def smooth(self, mm: float) -> Level:
        """Blurred: else places half a voxel off, where interpolation blurs, seem to agree better."""
        grid = self.image.geometry
        array = ndimage.gaussian_filter(self.image.array, [SMOOTH[mm] * mm / s for s in grid.spacing], mode="nearest")
        return replace(self, image=Volume(array, grid))

    def itk(self) -> tuple[sitk.Image, sitk.Image]:
        grid = self.image.geometry
        mask = sitk.GetImageFromArray(self.mask.array.astype(np.uint8))
        return placed(sitk.GetImageFromArray(self.image.array), grid), placed(mask, grid)


@dataclass(frozen=True)
class Pyramid:
    """An image binned to working grids and cropped to its body.

    Args:
        fine: numbers on about 2 mm.
        body: on the fine grid.
        valid: on the fine grid: not filling, not NaN.
        given: whether somebody else drew the body.
    """

    fine: Volume[np.float32]
    body: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    given: bool

    @staticmethod
    def of(volume: Volume[Any], mask: Mask | None, which: str) -> Pyramid:
        _numbers(volume, which)
        volume = above_air(volume)
        fine = _binned(volume, _factors(volume.geometry, FINE))
        values = fine.array
        known = np.isfinite(values)
        low, high = np.percentile(values[known], (0.1, 99.9))
        if not high > low:
            low, high = values[known].min(), values[known].max()
        if not high > low:
            raise InputError(f"The {which} image is constant", why="There is nothing in it to register")
        values[~known] = low
        np.clip(values, low, high, out=values)
        body = _body(fine) if mask is None else on_grid(mask, fine.geometry)
        if not body.any():
            raise InputError(f"The mask of the {which} image is empty", why="Nothing of the image would be looked at")
        box = Box.of(body).padded([int(np.ceil(ROOM / mm)) for mm in fine.geometry.spacing], fine.geometry.shape)
        valid = known & ~_filling(values)
        return Pyramid(fine.cropped(box), body[box.slices], valid[box.slices], mask is not None)

    def centre(self) -> Vector:
        """LPS mm of the body's centroid."""
        return self.fine.geometry.points(ndimage.center_of_mass(self.body))

    def halves(self) -> Iterator[Pyramid]:
        """The body halved at its median along each axis: six bodies, with the same image."""
        for axis in range(3):
            along = np.arange(self.body.shape[axis], dtype=np.intp).reshape([-1 if n == axis else 1 for n in range(3)])
            middle = np.median(np.nonzero(self.body)[axis])
            for side in (along < middle, along >= middle):
                yield replace(self, body=self.body & side)

    def level(self, mm: float, room: float) -> Level:
        """Binned to about `mm`, looked at in the body and `room` mm around it."""
        grid = self.fine.geometry
        factors = _factors(grid, mm)
        image = _binned(self.fine, factors)
        body = _binned(Volume(self.body.astype(np.float32), grid), factors).array >= 0.5
        look = body if self.given else _away(~body, image.geometry) <= room
        return Level(image, Volume(look, image.geometry))

    def sharp(self, mm: float, room: float) -> Level:
        """As `level`, without what lies beyond a field of view."""
        level = self.level(mm, room)
        valid = _binned(Volume(self.valid.astype(np.float32), self.fine.geometry), _factors(self.fine.geometry, mm)).array
        return replace(level, mask=Volume(level.mask.array & (valid > 0.999), level.mask.geometry))


def _numbers(volume: Volume[Any], which: str) -> None:
    """Raises InputError where an image cannot say anything."""
    if min(volume.geometry.shape) < 4:
        raise InputError(f"The {which} image has {volume.geometry.shape} voxels", why="Too few to be registered")
    if np.issubdtype(volume.array.dtype, np.floating) and not np.isfinite(volume.array).any():
        raise InputError(f"The {which} image holds no number", why="There is nothing in it to register")
    if np.nanmin(volume.array) == np.nanmax(volume.array):
        raise InputError(f"The {which} image is constant", why="There is nothing in it to register")


def _factors(grid: Geometry, mm: float) -> tuple[int, int, int]:
    """How many voxels along k, j, i make one of about `mm`."""
    k, j, i = (max(1, min(int(mm / s + 0.65), n // 4)) for s, n in zip(grid.spacing, grid.shape, strict=True))
    return k, j, i


def _binned(volume: Volume[Any], factors: tuple[int, int, int]) -> Volume[np.float32]:
    """Means of whole blocks of voxels, a slab at a time; what is left over at the far ends is dropped."""
    grid = volume.geometry
    shape = tuple(n // f for n, f in zip(grid.shape, factors, strict=True))
    (f, g, h), (depth, rows, columns) = factors, shape
    out = np.empty(shape, dtype=np.float32)
    for k in range(depth):
        slab = volume.array[k * f : (k + 1) * f, : rows * g, : columns * h]
        out[k] = slab.reshape(f, rows, g, columns, h).mean(axis=(0, 2, 4), dtype=np.float32)
    x, y, z = (float(v) for v in grid.points((np.asarray(factors) - 1) / 2))
    a, b, c = (s * n for s, n in zip(grid.spacing, factors, strict=True))
    return Volume(out, replace(grid, shape=(depth, rows, columns), spacing=(a, b, c), origin=(x, y, z)))


def on_grid(mask: Mask, grid: Geometry) -> NDArray[np.bool_]:
    """A mask at the voxels of another grid of the same image, nearest."""
    image = placed(sitk.GetImageFromArray(mask.array.astype(np.uint8)), mask.geometry)
    i, j, k = grid.shape[::-1]
    reference = placed(sitk.Image([i, j, k], sitk.sitkUInt8), grid)
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0


def _body(fine: Volume[np.float32]) -> NDArray[np.bool_]:
    """What is no air, in one piece, without a couch: on the fine grid."""
    factors = _factors(fine.geometry, MIDDLE)
    image = _binned(fine, factors)
    values = image.array
    if values.min() < -800:
        threshold = -350.0
    else:
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(sitk.GetImageFromArray(values))
        threshold = 0.5 * (otsu.GetThreshold() + float(np.percentile(values, 1)))
    foreground = values > threshold
    core = _away(foreground, image.geometry) > 10.0
    if not core.any():
        core = foreground
    pieces, count = ndimage.label(core)
    if count > 1:
        core = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    body = foreground & (_away(~core, image.geometry) <= 12.0)
    body = with_hollows(body, image)
    whole = np.repeat(np.repeat(np.repeat(body, factors[0], 0), factors[1], 1), factors[2], 2)
    short = [(0, n - m) for n, m in zip(fine.geometry.shape, whole.shape, strict=True)]
    return np.pad(whole, short, mode="edge")


def _away(inside: NDArray[np.bool_], grid: Geometry) -> NDArray[np.float32]:
    """mm from each voxel inside to the nearest outside; the image's own edge is no outside."""
    return edt.edt(np.ascontiguousarray(inside), anisotropy=grid.spacing, black_border=False, parallel=1)


def _filling(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels of one value exactly that reach in from the corners: what a scanner writes where it did not look."""
    corners = values[:: values.shape[0] - 1, :: values.shape[1] - 1, :: values.shape[2] - 1]
    found, counts = np.unique(corners, return_counts=True)
    value = found[np.argmax(counts)]
    return values == value if counts.max() >= 4 else np.zeros(values.shape, dtype=bool)
