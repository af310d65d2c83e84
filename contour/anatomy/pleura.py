"""Where a lung ends towards its wall: the recess that is too thin to be drawn, and tissue between lung and ribs.

A healthy lung reaches its ribs to within pleura and muscle. Fluid, collapse and tumour at the wall lie in between; they are
as dense as the wall itself, and only the ribs tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.anatomy.planes import Bools, Spacing, dilated, eroded
from patient.volume import Field, Volume

RECESS = 2.6
"""mm, half of what a rim of lung is thick that clinics leave out: the costophrenic recess, below the lung's widest slice."""
RIB = 150.0
"""HU of a rib on coarse pixels."""
ALONG = 9.0
"""mm up and down within which a rib stands for the wall: ribs slant, and a slice shows only parts of them."""
ANGLE = 4.0
ANGLES = np.radians(np.arange(-20.0, 81.0, ANGLE))
"""From the patient's side: to the front, where cartilage and heart begin, and to the back, where the spine does."""
WALL, FAR = 12.0, 50.0
"""mm from a lung to its ribs, the first beyond one and a half pixels: a healthy wall measures 1 to 9."""
STEP = 1.5
"""mm along a ray."""
EVERY = 6.0
"""mm between slices looked at."""
LEAST_LENGTH = 120.0
"""mm of lung in the image, from which on its wall is looked at: of less, the widest slices are cut off."""
BODY = 0.4
"""Of a lung's largest cross-section: slices with less are apex and recess, whose wall is no rib's."""


def without_recess(lung: Field) -> Field:
    """A lung, upright, without the rims of its base that are thinner than twice `RECESS` in plane."""
    mask = lung.mask().array
    widest = int(np.argmax(mask.sum(axis=(1, 2))))
    spacing = lung.geometry.spacing
    drawn = dilated(eroded(mask[:widest], RECESS, spacing), RECESS + max(spacing[1:]), spacing)
    values = lung.volume.array.copy()
    values[:widest][~drawn] = 0.0
    return Field(Volume(values, lung.geometry), lung.level)


def wall_cc(lung: Bools, small: NDArray[np.int16], spacing: Spacing, side: int) -> float:
    """The largest coherent space between a lung's outer surface and the ribs that is no mere wall.

    Args:
        lung: `[z, y, x]`, upright, coarse.
        small: HU of the same pixels.
        spacing: mm of them.
        side: +1 for the left lung, -1 for the right.

    Returns:
        cc of it; 0 where lung lies on its ribs everywhere.
    """
    dz, *pixel = spacing
    step = max(1, int(EVERY / dz))
    areas = lung.sum(axis=(1, 2))
    if np.count_nonzero(areas) * dz < LEAST_LENGTH:
        return 0.0
    slices = np.flatnonzero(areas > BODY * areas.max())[::step]
    wall = WALL + 1.5 * max(pixel)
    volumes = np.stack([_beyond(lung[k], small, int(k), spacing, side, wall) for k in slices]) * dz * step / 1000.0
    found: Any = ndimage.label(volumes, np.ones((3, 3)))
    labels, count = found
    return float(max(ndimage.sum_labels(volumes, labels, np.arange(1, count + 1)), default=0.0))


def _beyond(plane: Bools, small: NDArray[np.int16], k: int, spacing: Spacing, side: int, wall: float) -> NDArray[np.float64]:
    """mm2 by angle of what lies between a slice's lung and ribs, where they are farther apart than `wall`."""
    dz, dy, dx = spacing
    at = np.argwhere(plane)
    j, i = np.median(at, axis=0)
    far = np.arange(0.0, float(np.hypot(*(np.ptp(at, axis=0) * (dy, dx)))) + FAR, STEP)
    rows = np.rint(j + np.sin(ANGLES)[:, None] * far / dy).astype(np.intp)
    columns = np.rint(i + side * np.cos(ANGLES)[:, None] * far / dx).astype(np.intp)
    seen = (rows >= 0) & (rows < plane.shape[0]) & (columns >= 0) & (columns < plane.shape[1])
    rows, columns = np.where(seen, rows, 0), np.where(seen, columns, 0)
    air = plane[rows, columns] & seen
    last = len(far) - 1 - np.argmax(air[:, ::-1], axis=1)
    reach = int(ALONG / dz)
    ribs = small[max(0, k - reach) : k + reach + 1, rows, columns].max(axis=0) > RIB
    ribs &= seen & (np.arange(len(far)) > last[:, None])
    first = np.argmax(ribs, axis=1)
    gap = (first - last) * STEP
    there = air.any(axis=1) & ribs.any(axis=1) & (gap > wall) & (gap < FAR)
    middle = (first + last) / 2 * STEP
    return np.where(there, gap * middle * np.radians(ANGLE), 0.0)
