"""Where a grid lies in the patient.

Everything that is indexed by an array axis is in array order (k, j, i): `shape`, `spacing`, rows of `axes`, indices, boxes.
Everything that is a place or a vector in the patient is (x, y, z) in mm, DICOM's LPS: x to the left, y to posterior, z to
the head. The only bridge between the two is `points` and `indices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patient.errors import FrameMismatch, UnsupportedGeometry

Triple = tuple[float, float, float]
SAME_PLACE_MM = 0.01
MEETS = 0.02
"""A slice that lies this near to a plane of the grid, in voxels, lies on it."""


@dataclass(frozen=True)
class Box:
    """A block of voxels: `start` inclusive, `stop` exclusive, both (k, j, i)."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along k, j, i; 0 where nothing is in it."""
        k, j, i = (max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))
        return k, j, i

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To index an array `[z, y, x]` with."""
        k, j, i = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return k, j, i

    @property
    def empty(self) -> bool:
        """Whether it holds no voxel."""
        return 0 in self.shape

    def padded(self, voxels: int | Sequence[int], within: Sequence[int]) -> Box:
        """Grown by `voxels` on every side (one number, or one an axis) and cut to an array of shape `within`.

        A box that lies outside becomes an empty one at the border.
        """
        pad = (voxels,) * 3 if isinstance(voxels, int) else tuple(voxels)
        start = tuple(min(n, max(0, a - p)) for a, p, n in zip(self.start, pad, within, strict=True))
        stop = tuple(max(a, min(n, b + p)) for a, b, p, n in zip(start, self.stop, pad, within, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def union(self, other: Box) -> Box:
        """The smallest box that holds both; an empty box adds nothing."""
        if self.empty or other.empty:
            return other if self.empty else self
        start = tuple(map(min, self.start, other.start))
        stop = tuple(map(max, self.stop, other.stop))
        return Box(start, stop)  # type: ignore[arg-type]

    @staticmethod
    def of(mask: NDArray[np.bool_]) -> Box:
        """The smallest box that holds every True of `mask` `[z, y, x]`; an empty box where there is none."""
        planes = np.flatnonzero(mask.any(axis=(1, 2)))
        if not planes.size:
            return Box((0, 0, 0), (0, 0, 0))
        k0, k1 = int(planes[0]), int(planes[-1]) + 1
        shadow = mask[k0:k1].any(axis=0)
        rows, columns = np.flatnonzero(shadow.any(axis=-1)), np.flatnonzero(shadow.any(axis=0))
        return Box((k0, int(rows[0]), int(columns[0])), (k1, int(rows[-1]) + 1, int(columns[-1]) + 1))


@dataclass(frozen=True)
class Slices:
    """An image's own slices where they are not the planes of its grid: unevenly spaced, or sheared by a tilted gantry.

    Args:
        positions: LPS mm of the centre of each slice's first pixel, in order along the normal.
        shape: rows and columns of every slice.
    """

    positions: tuple[Triple, ...] = field(repr=False)
    shape: tuple[int, int]

    def on(self, grid: Geometry) -> NDArray[np.float64]:
        """Fractional indices `[n, 3]` of their first pixels in a grid parallel to them; whole planes where they meet one."""
        at = grid.indices(self.positions)
        whole = np.rint(at)
        return np.where(np.abs(at - whole) < MEETS, whole, at)


@dataclass(frozen=True)
class Geometry:
    """A regular grid of voxel centres in the patient.

    Args:
        shape: number of voxels (k, j, i).
        spacing: mm between neighbours along k, j, i.
        origin: LPS mm of the centre of voxel (0, 0, 0).
        axes: unit vectors (x, y, z), one row an array axis k, j, i; orthonormal, of either handedness.
        frame_of_reference: DICOM UID, empty where the image has none.
        image: whose grid it is (Series Instance UID, or a file's name); empty where nobody said. Two images may share a
            frame of reference because somebody registered them: that does not make them one.
        slices: the image's own slices, parallel to the planes of the grid, where they are not those planes; contours are
            drawn on them. They stay the same in every crop.

    Raises:
        UnsupportedGeometry: axes are not orthonormal (within 1e-3), or a size or spacing is not positive.
    """

    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple = (0.0, 0.0, 0.0)
    axes: tuple[Triple, Triple, Triple] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    frame_of_reference: str = ""
    image: str = ""
    slices: Slices | None = None

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not min(self.spacing) > 0:
            raise UnsupportedGeometry(f"A grid of {self.shape} voxels of {self.spacing} mm is no volume")
        gram = self._axes @ self._axes.T
        if not np.allclose(gram, np.eye(3), atol=1e-3):
            raise UnsupportedGeometry(
                f"The grid's axes are not perpendicular (largest deviation {np.abs(gram - np.eye(3)).max():.4f})",
                why="Distances and margins would be wrong",
                remedy="Resample the image to an upright grid in the scanner's own software",
            )

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        return np.asarray(self.axes, dtype=np.float64)

    @cached_property
    def steps(self) -> NDArray[np.float64]:
        """The vectors (x, y, z) in mm from a voxel to its next neighbour, `[3, 3]`; one row an array axis k, j, i."""
        return self._axes * np.asarray(self.spacing)[:, None]

    @property
    def voxel_cc(self) -> float:
        """Volume of one voxel in cc."""
        return float(np.prod(self.spacing)) / 1000.0

    def points(self, indices: ArrayLike) -> NDArray[np.float64]:
        """LPS mm `[..., 3]` (x, y, z) of fractional indices `[..., 3]` (k, j, i)."""
        return np.asarray(indices, dtype=np.float64) @ self.steps + np.asarray(self.origin)

    def indices(self, points: ArrayLike) -> NDArray[np.float64]:
        """Fractional indices `[..., 3]` (k, j, i) of LPS points `[..., 3]` (x, y, z) in mm."""
        return (np.asarray(points, dtype=np.float64) - np.asarray(self.origin)) @ np.linalg.inv(self.steps)

    def cropped(self, box: Box) -> Geometry:
        """The grid of the voxels in `box`, at the same places. The box may reach outside."""
        x, y, z = (float(v) for v in self.points(box.start))
        return replace(self, shape=box.shape, origin=(x, y, z))

    def padded(self, voxels: int | Sequence[int]) -> Geometry:
        """The grid with more voxels beyond every side: one number, or one an axis (k, j, i)."""
        a, b, c = (voxels,) * 3 if isinstance(voxels, int) else voxels
        k, j, i = self.shape
        return self.cropped(Box((-a, -b, -c), (k + a, j + b, i + c)))

    @property
    def box(self) -> Box:
        """The whole grid as a box."""
        return Box((0, 0, 0), self.shape)

    def box_of(self, part: Geometry) -> Box:
        """Where a grid that was cropped from this one lies in it.

        Raises:
            FrameMismatch: `part` is of another frame of reference or its voxels are not voxels of this grid.
        """
        if part.frame_of_reference != self.frame_of_reference:
            raise FrameMismatch(f"Frame of reference {part.frame_of_reference!r} is not {self.frame_of_reference!r}")
        start = self.indices(part.origin)
        whole = np.rint(start)
        off = float(np.abs((start - whole) * self.spacing).max())
        if off > SAME_PLACE_MM or not np.allclose(part.steps, self.steps, atol=1e-4):
            steps = f"{part.spacing} and {self.spacing}"
            raise FrameMismatch(f"Grids do not share their voxels: {off:.3f} mm apart, steps {steps}")
        k, j, i = (int(v) for v in whole)
        return Box((k, j, i), (k + part.shape[0], j + part.shape[1], i + part.shape[2]))

    def same_grid(self, other: Geometry) -> bool:
        """Same voxels at the same places in the same frame."""
        try:
            return self.box_of(other) == self.box
        except FrameMismatch:
            return False

    def nearest_axis(self, direction: ArrayLike) -> tuple[int, int]:
        """The array axis that runs most along the LPS `direction` `[3]` (x, y, z), and +1 or -1 for with or against it."""
        along = self._axes @ np.asarray(direction, dtype=np.float64)
        axis = int(np.argmax(np.abs(along)))
        return axis, 1 if along[axis] > 0 else -1
