"""Surfaces of masks as small elements with an area, and how far those of one mask lie from those of another.

As DeepMind's surface-distance does it (Nikolov et al., JMIR 23 (2021) e26151): an element sits where eight voxels meet
that are not all alike, and has the area of the surface that marching cubes lays between them. All in mm and mm².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import edt
import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from patient.geometry import Triple

_BITS = np.arange(8).reshape(2, 2, 2)
"""Which bit of a code stands for which of the eight voxels (k, j, i)."""
_ROUNDING = 1e-4
"""mm: a distance that is beyond a tolerance by less is rounding of float32."""


@dataclass(frozen=True, eq=False)
class Apart:
    """From each surface element of one mask to the nearest of the other (mm), nearest first, and their areas (mm²)."""

    distances: NDArray[np.float64]
    areas: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Of the whole surface, mm²."""
        return float(self.areas.sum())

    @property
    def mean(self) -> float:
        """mm, each element counting by its area."""
        return float(self.distances @ self.areas) / self.area

    def percentile(self, percent: float) -> float:
        """The distance (mm) within which so much of the surface's area lies."""
        reached = np.searchsorted(np.cumsum(self.areas) / self.area, percent / 100.0)
        return float(self.distances[min(int(reached), len(self.distances) - 1)])

    def within(self, tolerance: float) -> float:
        """Area (mm²) of the elements that are no farther than `tolerance` mm."""
        return float(self.areas[self.distances <= tolerance + _ROUNDING].sum())


def apart(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Triple) -> tuple[Apart, Apart]:
    """From the surface of `one` to that of `other`, and back.

    Args:
        one, other: masks of one shape `[z, y, x]`, neither empty; what lies beyond the arrays is outside.
        spacing: mm (z, y, x).

    Raises:
        ValueError: an empty mask, which has no surface to measure from.
    """
    if not one.any() or not other.any():
        raise ValueError("An empty mask has no surface")
    areas = _areas(spacing)
    codes = [_codes(mask) for mask in (one, other)]
    borders = [(code != 0) & (code != 255) for code in codes]
    far = [edt.edt(np.ascontiguousarray(~border), anisotropy=spacing, black_border=False, parallel=1) for border in borders]
    return (
        _sorted(far[1][borders[0]], areas[codes[0][borders[0]]]),
        _sorted(far[0][borders[1]], areas[codes[1][borders[1]]]),
    )


def _sorted(distances: NDArray[np.float32], areas: NDArray[np.float64]) -> Apart:
    order = np.argsort(distances, kind="stable")
    return Apart(distances[order].astype(np.float64), areas[order])


def _codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """One voxel more along each axis than the mask: at each corner of its voxels, which of the eight around are inside."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros(tuple(n + 1 for n in mask.shape), np.uint8)
    for bit in range(8):
        corner = (bit >> 2, bit >> 1 & 1, bit & 1)
        around = tuple(slice(a, a + n) for a, n in zip(corner, codes.shape, strict=True))
        codes |= padded[around] << np.uint8(bit)
    return codes


@lru_cache(maxsize=64)
def _areas(spacing: Triple) -> NDArray[np.float64]:
    """Area (mm²) of the surface within the cell of each of the 256 codes.

    Of two ways to join voxels across a cell, the fewer ones are kept apart, inside or outside: so a mask and its complement
    have the same surface.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        inside = (code >> _BITS) & 1
        few = inside if inside.sum() <= 4 else 1 - inside
        points, faces, _, _ = marching_cubes(few.astype(np.float32), 0.5, spacing=spacing, method="lorensen")
        a, b, c = (points[faces[:, n]].astype(np.float64) for n in range(3))
        areas[code] = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
    return areas
