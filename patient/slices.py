"""Between an image's own slices and the planes of the grid it is worked on, where the two are not the same.

`Geometry.slices` says which slices those are. Values go both ways by linear interpolation along the normal; from a tilted
gantry's slices to the grid, along their rows and columns as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Geometry
from patient.loop import Loop
from patient.volume import Volume

TIE = 1e-3
"""A plane midway between two slices, within this part of the way, belongs to the lower one: both of a structure's ends then
lie as far from where they are drawn, and its volume is right."""
Floats = NDArray[np.float64]


def on_grid(native: NDArray[Any], grid: Geometry, outside: float | None) -> NDArray[Any]:
    """An image's own slices `[n, rows, columns]` on its grid; as they are where they are the grid's planes.

    Args:
        outside: where the slices show nothing; None for their lowest value.

    Returns:
        `[z, y, x]` of the same type, whole numbers rounded.
    """
    if grid.slices is None:
        return native
    at = grid.slices.on(grid)
    fill = np.float32(native.min() if outside is None else outside)
    out = np.empty(grid.shape, native.dtype)
    moved = _Moved(native, at[:, 1:], grid.shape[1:])
    for k in range(grid.shape[0]):
        below, above, share = neighbours(at[:, 0], k)
        plane = moved.slice(below)
        if share:
            plane = _mixed(plane, moved.slice(above), np.float32(share))
        plane = np.where(np.isnan(plane), fill, plane)
        out[k] = np.rint(plane) if np.issubdtype(native.dtype, np.integer) else plane
    return out


def _mixed(below: NDArray[np.float32], above: NDArray[np.float32], share: np.float32) -> NDArray[np.float32]:
    """Part of the way from one slice to the next; where only one of them shows anything, that."""
    mixed = (1 - share) * below + share * above
    return np.where(np.isnan(mixed), np.where(np.isnan(below), above, below), mixed)


def neighbours(at: Floats, place: float) -> tuple[int, int, float]:
    """Two neighbouring places of ascending `at` around `place`, and its share of the way between them; ends are repeated."""
    if len(at) == 1:
        return 0, 0, 0.0
    above = int(np.clip(np.searchsorted(at, place), 1, len(at) - 1))
    share = float(np.clip((place - at[above - 1]) / (at[above] - at[above - 1]), 0.0, 1.0))
    if share in (0.0, 1.0):
        only = above if share else above - 1
        return only, only, 0.0
    return above - 1, above, share


class _Moved:
    """Slices moved by parts of pixels to where they lie on a grid, NaN where they show nothing; the last two are kept."""

    def __init__(self, native: NDArray[Any], starts: Floats, shape: tuple[int, ...]) -> None:
        self._native, self._starts, self._shape = native, starts, shape
        self._kept: dict[int, NDArray[np.float32]] = {}

    def slice(self, n: int) -> NDArray[np.float32]:
        if n not in self._kept:
            made = self._native[n].astype(np.float32)
            for axis, start in enumerate(self._starts[n]):
                made = _shifted(made, axis, float(start), self._shape[axis])
            self._kept = {m: plane for m, plane in self._kept.items() if m == n - 1} | {n: made}
        return self._kept[n]


def _shifted(plane: NDArray[np.float32], axis: int, start: float, count: int) -> NDArray[np.float32]:
    """With its first line at `start` among `count` lines, linear between lines; half a pixel beyond its ends they go on."""
    lines = np.moveaxis(plane, axis, 0)
    at = np.arange(count) - start
    if start == 0 and count == len(lines):
        return plane
    inside = (at > -0.5 - 1e-6) & (at < len(lines) - 0.5 - 1e-6)
    clipped = np.clip(at, 0, len(lines) - 1)
    low = np.minimum(clipped.astype(int), max(0, len(lines) - 2))
    share = (clipped - low).astype(np.float32)[:, None]
    high = np.minimum(low + 1, len(lines) - 1)
    made = lines[low] if not share.any() else (1 - share) * lines[low] + share * lines[high]
    made[~inside] = np.nan
    return np.moveaxis(made.astype(np.float32, copy=False), 0, axis)


@dataclass(frozen=True, eq=False)
class SliceStack:
    """What is drawn on an image's own slices, where these are not the planes of its grid.

    Args:
        grid: of the image, or a part of it; has `slices`.
        geometry: the same pixels with one plane a slice, as if these were evenly spaced: what works on the planes of a grid
            alone (filling of loops, distances in plane) works on it.
        at: the slices' places among the planes of `grid`.
    """

    grid: Geometry
    geometry: Geometry
    at: Floats

    @staticmethod
    def of(grid: Geometry) -> SliceStack:
        if grid.slices is None:
            raise ValueError("the grid's planes are the image's slices")
        at = grid.slices.on(grid)[:, 0]
        spacing = (float(np.median(np.diff(at))) * grid.spacing[0], *grid.spacing[1:])
        return SliceStack(grid, replace(grid, shape=(len(at), *grid.shape[1:]), spacing=spacing, slices=None), at)

    def loops(self, loops: Iterable[Loop]) -> list[Loop]:
        """Loops at the places where they lie in `geometry`."""
        return [self._moved(loop, self.grid, self.geometry, self.at, self._numbers) for loop in loops]

    def own(self, loops: Iterable[Loop]) -> list[Loop]:
        """Loops in `geometry` where they lie in the image: `loops` backwards."""
        return [self._moved(loop, self.geometry, self.grid, self._numbers, self.at) for loop in loops]

    @property
    def _numbers(self) -> Floats:
        return np.arange(len(self.at), dtype=np.float64)

    @staticmethod
    def _moved(loop: Loop, of: Geometry, to: Geometry, known: Floats, values: Floats) -> Loop:
        indices = of.indices(loop.points)
        indices[:, 0] = _continued(indices[:, 0], known, values)
        return replace(loop, points=to.points(indices))

    def back(self, values: Volume[np.float32]) -> Volume[np.float32]:
        """Signed distances in plane, one plane a slice, on the planes of the grid that they reach.

        Linear between slices (shape-based interpolation, Raya and Udupa 1990, IEEE Trans Med Imaging 9:32). Beyond its
        first and last contour a structure reaches half the way to the next slice, as everywhere here.

        Args:
            values: mm, negative inside, on `geometry` or a part of it, any pixels; infinite in slices that say nothing.
        """
        first = round(float(self.geometry.indices(values.geometry.origin)[0]))
        at = _continued(np.arange(len(values.array) + 2, dtype=np.float64) + (first - 1), self._numbers, self.at)
        closed = _closed(values.array)
        low, high = int(np.ceil(at[0])), int(np.floor(at[-1]))
        out = np.empty((high - low + 1, *values.array.shape[1:]), np.float32)
        for n, place in enumerate(range(low, high + 1)):
            below, above, share = neighbours(at, place)
            share -= 2 * TIE * (abs(share - 0.5) < TIE)
            out[n] = closed[below] if not share else (1 - share) * closed[below] + share * closed[above]
        start = self.geometry.indices(values.geometry.origin)
        x, y, z = (float(v) for v in self.grid.points((low, *start[1:])))
        spacing = (self.grid.spacing[0], *values.geometry.spacing[1:])
        return Volume(
            out, replace(values.geometry, shape=out.shape, spacing=spacing, origin=(x, y, z), slices=self.grid.slices)
        )


def _continued(places: Floats, known: Floats, values: Floats) -> Floats:
    """Linear between known places, and beyond them as between the last two."""
    part = np.clip(np.searchsorted(known, places) - 1, 0, len(known) - 2)
    slope = (values[part + 1] - values[part]) / (known[part + 1] - known[part])
    return values[part] + (places - known[part]) * slope


def _closed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """With an empty slice before and behind; those that say nothing (infinite) as far outside as their neighbours reach."""
    framed = np.pad(values, ((1, 1), (0, 0), (0, 0)), constant_values=np.inf)
    used = np.asarray((framed < 0).any(axis=(1, 2)), dtype=bool)
    for k in np.flatnonzero(np.isinf(framed).all(axis=(1, 2))):
        if beside := [np.abs(framed[n]) for n in (k - 1, k + 1) if 0 <= n < len(used) and used[n]]:
            framed[k] = np.minimum.reduce(beside)
        elif k in (0, len(used) - 1):
            framed[k] = framed[1 if k == 0 else -2]
    return framed
