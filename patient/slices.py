"""Between an image's own slices and the planes of the grid it is worked on, where the two are not the same.

`Geometry.slices` says which slices those are. Values go both ways by linear interpolation along the normal; from a tilted
gantry's slices to the grid, along their rows and columns as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Geometry

Floats = NDArray[np.floating[Any]]


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
    fill = native.min() if outside is None else outside
    whole = np.issubdtype(native.dtype, np.integer)
    out = np.empty(grid.shape, native.dtype)
    moved = _Moved(native, at[:, 1:], grid.shape[1:], float(fill))
    for k in range(grid.shape[0]):
        below, above, share = neighbours(at[:, 0], k)
        plane = moved.slice(below)
        if share:
            plane = (1 - share) * plane + share * moved.slice(above)
        out[k] = np.rint(plane) if whole else plane
    return out


def neighbours(at: Floats, place: float) -> tuple[int, int, float]:
    """Two neighbouring places of ascending `at` around `place`, and its share of the way between them; ends are repeated."""
    above = int(np.clip(np.searchsorted(at, place), 1, len(at) - 1))
    share = float(np.clip((place - at[above - 1]) / (at[above] - at[above - 1]), 0.0, 1.0))
    if share in (0.0, 1.0):
        only = above if share else above - 1
        return only, only, 0.0
    return above - 1, above, share


class _Moved:
    """Slices moved by parts of pixels to where they lie on a grid; the last two are kept."""

    def __init__(self, native: NDArray[Any], starts: Floats, shape: tuple[int, ...], outside: float) -> None:
        self._native, self._starts, self._shape, self._outside = native, starts, shape, outside
        self._kept: dict[int, NDArray[np.float32]] = {}

    def slice(self, n: int) -> NDArray[np.float32]:
        if n not in self._kept:
            made = self._native[n].astype(np.float32)
            for axis, start in enumerate(self._starts[n]):
                made = _shifted(made, axis, float(start), self._shape[axis], self._outside)
            self._kept = {m: plane for m, plane in self._kept.items() if m == n - 1} | {n: made}
        return self._kept[n]


def _shifted(plane: NDArray[np.float32], axis: int, start: float, count: int, outside: float) -> NDArray[np.float32]:
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
    made[~inside] = outside
    return np.moveaxis(made.astype(np.float32, copy=False), 0, axis)
