"""A structure with a margin: all places that some point of its surface reaches, exact to a fraction of a voxel.

The surface is known where it crosses the grid's lines. A place p is reached from a crossing s if its gauge
((p-s)_k / m_k)^2 + ((p-s)_j / m_j)^2 + ((p-s)_i / m_i)^2 <= 1, where each m is the margin on the side on which p lies of s:
a ball for one margin, an ellipsoid's octants for six. Each axis adds its own term, so the least sum over all crossings is
found one axis after the other (Felzenszwalb and Huttenlocher 2012, Theory of Computing 8:415), as far as the margin reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from patient.geometry import Box, Geometry
from patient.volume import Field, Level, Volume

Floats = NDArray[np.float32]
FAR = 3.0
"""Voxels from the surface beyond which a distance only says inside or outside."""
_LEAST = 1e-3
"""mm: no margin at all still has a size to divide by."""
_BLOCK = 48
"""Voxels along an axis that are worked on at once: few enough to stay in a processor's cache."""
_DIRECTIONS = ((1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1))
"""L, R, A, P, S, I in LPS."""


def grown(field: Field, whole: Geometry, mm: Sequence[float]) -> Field:
    """A structure with a margin, its surface exact between voxels.

    Where the surface leaves the image nothing is known of it: a margin is measured from the surface inside the image alone.

    Args:
        field: what is grown or shrunk, cropped with a voxel of room.
        whole: the image's grid; nothing is grown beyond it.
        mm: toward L, R, A, P, S, I of the patient, all positive to grow or all negative to shrink.

    Returns:
        A signed distance: in mm where there is one margin; where margins differ, in units of the smallest one's side.
    """
    shrinks = min(mm) < 0
    reach = _per_axis(whole, [-v if shrinks else v for v in mm], against=shrinks)
    pad = [1 if shrinks else int(np.ceil(max(both) / s)) + 2 for both, s in zip(reach, whole.spacing, strict=True)]
    part = whole.cropped(whole.box_of(field.geometry).padded(pad, whole.shape))
    inside_out = shrinks != (field.level is Level.PROBABILITY)
    outside = 0.0 if field.level is Level.PROBABILITY else FAR * max(whole.spacing)
    values = field.volume.placed_in(part, outside).array
    out = np.empty(part.shape, dtype=np.float32)
    work = _Margin(part.spacing, reach, field.level.value, -1.0 if inside_out else 1.0, -1.0 if shrinks else 1.0)
    with ThreadPoolExecutor(2) as threads:
        for box, block in threads.map(lambda box: (box, work.block(values, box)), _blocks(part.shape, work.halo)):
            out[box.slices] = block
    return Field(Volume(out, part), Level.DISTANCE)


def _per_axis(whole: Geometry, mm: Sequence[float], *, against: bool) -> list[tuple[float, float]]:
    """Margins with and against each array axis; `against` turns them round, for growing what is around a structure."""
    sides = [[_LEAST, _LEAST] for _ in range(3)]
    for direction, margin in zip(_DIRECTIONS, mm, strict=True):
        axis, sign = whole.nearest_axis(direction)
        sides[axis][0 if (sign > 0) != against else 1] = max(margin, _LEAST)
    return [(with_it, against_it) for with_it, against_it in sides]


def _blocks(shape: tuple[int, int, int], halo: Sequence[int]) -> Iterator[Box]:
    """The grid in blocks, larger where a wide margin would have each look far beyond itself."""
    size = [max(_BLOCK, 2 * around) for around in halo]
    for k, j, i in product(*(range(0, n, step) for n, step in zip(shape, size, strict=True))):
        yield Box((k, j, i), (k + size[0], j + size[1], i + size[2])).padded(0, shape)


@dataclass(frozen=True)
class _Margin:
    """How to grow: by axis (mm with it, mm against it), the field's level, and the signs that make inside negative."""

    spacing: tuple[float, float, float]
    reach: list[tuple[float, float]]
    level: float
    sign: float
    result_sign: float

    @property
    def halo(self) -> list[int]:
        """How far a voxel has to look along each axis."""
        return [self._steps(axis, max(both)) for axis, both in enumerate(self.reach)]

    def block(self, values: Floats, box: Box) -> Floats:
        """The margin's signed distance in one block."""
        around = box.padded(self.halo, values.shape)
        signed = (values[around.slices] - np.float32(self.level)) * np.float32(self.sign)
        inside = signed < 0
        far = np.float32(FAR * max(self.spacing))
        if inside.all() or not inside.any():
            return np.full(box.shape, (-far if inside.all() else far) * self.result_sign, dtype=np.float32)
        k, j, i = (slice(a - b, c - b) for a, b, c in zip(box.start, around.start, box.stop, strict=True))
        (from_k, by_k), (from_j, by_j), (from_i, by_i) = (self._along(signed, inside, axis) for axis in range(3))
        in_plane = np.minimum(self._spread(from_j[:, j], 2, i), self._spread(from_i[:, :, i], 1, j))
        between = self._spread(self._spread(from_k[k], 2, i), 1, j)
        gauge = np.minimum(self._spread(in_plane, 0, k), between)
        depth = np.minimum(np.minimum(by_k[k, j, i], by_j[k, j, i]), by_i[k, j, i])
        unit = np.float32(min(min(both) for both in self.reach))
        out = np.where(inside[k, j, i], -depth - unit, unit * (np.sqrt(gauge) - 1))
        return np.clip(out, -far, far, out=out) * np.float32(self.result_sign)

    def _along(self, signed: Floats, inside: NDArray[np.bool_], axis: int) -> tuple[Floats, Floats]:
        """For every voxel the nearest crossing on its own line along an axis: squared gauge, and mm."""
        signed, inside = np.moveaxis(signed, axis, 0), np.moveaxis(inside, axis, 0)
        here = np.unravel_index(np.flatnonzero(inside[:-1] != inside[1:]), (len(inside) - 1, *inside.shape[1:]))
        there = (here[0] + 1, *here[1:])
        place = here[0] + signed[here] / (signed[here] - signed[there])
        before, after = np.full(signed.shape, -np.inf, np.float32), np.full(signed.shape, np.inf, np.float32)
        before[there], after[here] = place, place
        for _ in range(self._steps(axis, max(self.reach[axis]))):
            np.maximum(before[1:], before[:-1], out=before[1:])
            np.minimum(after[:-1], after[1:], out=after[:-1])
        index = np.arange(len(signed), dtype=np.float32)[:, None, None]
        past, ahead = np.subtract(index, before, out=before), np.subtract(after, index, out=after)
        mm = np.minimum(past, ahead) * np.float32(self.spacing[axis])
        with_it, against_it = (np.float32(self.spacing[axis] / margin) for margin in self.reach[axis])
        gauge = np.minimum(np.multiply(past, with_it, out=past), np.multiply(ahead, against_it, out=ahead), out=past)
        return np.moveaxis(np.square(gauge, out=gauge), 0, axis), np.moveaxis(mm, 0, axis)

    def _spread(self, gauge: Floats, axis: int, part: slice) -> Floats:
        """The least gauge from any voxel on the same line along an axis, as far as the margin reaches, for a part of it."""
        lines = np.ascontiguousarray(np.moveaxis(gauge, axis, 0))
        out = lines[part].copy()
        added, last = np.empty_like(out), len(lines)
        for margin, sign in zip(self.reach[axis], (1, -1), strict=True):
            for steps in range(1, self._steps(axis, margin) + 1):
                start, stop = max(part.start, sign * steps), min(part.stop, last + sign * steps)
                if start < stop:
                    onto, term = out[start - part.start : stop - part.start], (steps * self.spacing[axis] / margin) ** 2
                    more = np.add(
                        lines[start - sign * steps : stop - sign * steps], np.float32(term), out=added[: len(onto)]
                    )
                    np.minimum(onto, more, out=onto)
        return np.moveaxis(out, 0, axis)

    def _steps(self, axis: int, margin: float) -> int:
        """Voxels along an axis that a margin reaches, and one more to see where it ends."""
        return int(np.ceil(margin / self.spacing[axis])) + 1
