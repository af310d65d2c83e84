"""Arrays that know where they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Box, Geometry

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Volume(Generic[Scalar]):
    """An array `[z, y, x]` on a Geometry: HU, mask (bool), labels, probability or Gy.

    Raises:
        ValueError: the array's shape is not the geometry's.
    """

    array: NDArray[Scalar]
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array of shape {self.array.shape} on a geometry of {self.geometry.shape}")

    def cropped(self, box: Box) -> Volume[Scalar]:
        """A view of the voxels in `box` (cut to the array), on the geometry that places them where they were."""
        inside = box.padded(0, self.geometry.shape)
        return Volume(self.array[inside.slices], self.geometry.cropped(inside))

    def placed_in(self, whole: Geometry, outside: float = 0) -> Volume[Scalar]:
        """This volume on another grid of the same voxels: `outside` where it does not reach, which may be everywhere.

        Raises:
            FrameMismatch: the two grids do not share their voxels.
        """
        box = whole.box_of(self.geometry)
        array = np.zeros(whole.shape, dtype=self.array.dtype)
        if outside:
            array.fill(outside)
        inside = box.padded(0, whole.shape)
        own = tuple(slice(a - b, c - b) for a, b, c in zip(inside.start, box.start, inside.stop, strict=True))
        array[inside.slices] = self.array[own]
        return Volume(array, whole)


Mask = Volume[np.bool_]


def mask_at(mask: Mask, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask at points, by the nearest voxel; False beyond its grid, and where a point is no number.

    Args:
        mask: bool.
        points: LPS mm, `[..., 3]`.

    Returns:
        bool `[...]`.
    """
    nearest = np.rint(mask.geometry.indices(points))
    within = ((nearest >= 0) & (nearest < mask.geometry.shape)).all(axis=-1)
    out = np.zeros(within.shape, dtype=bool)
    out[within] = mask.array[tuple(nearest[within].astype(np.intp).T)]
    return out


class Level(Enum):
    """What a field's numbers mean, and at which of them the surface lies."""

    PROBABILITY = 0.5
    """0 to 1, inside above 0.5."""
    DISTANCE = 0.0
    """mm to the surface, negative inside."""


@dataclass(frozen=True, eq=False)
class Field:
    """A float32 volume of which one level is a surface: smoother and finer than its grid.

    Args:
        volume: values `[z, y, x]`, cropped to the structure's own box.
        level: what they mean.
    """

    volume: Volume[np.float32]
    level: Level = Level.PROBABILITY

    @property
    def geometry(self) -> Geometry:
        """The grid of its values."""
        return self.volume.geometry

    def mask(self) -> Mask:
        """The voxels whose centre is inside the surface (bool, on the field's own grid)."""
        values = self.volume.array
        inside = values > 0.5 if self.level is Level.PROBABILITY else values < 0.0
        return Volume(inside, self.geometry)

    @staticmethod
    def of_mask(mask: Mask) -> Field:
        """The field whose surface runs midway between the mask's voxels and their neighbours."""
        return Field(Volume(mask.array.astype(np.float32), mask.geometry))
