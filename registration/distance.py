"""A surface resampled to another image's voxels: its distance through a registration, exact wherever the surface can be.

The grid is looked at coarsely in plane, then finer where the surface is near. Along the normal of the structure's
planes every voxel is looked at: a structure may be as thin as one plane, and between planes a distance changes by more than
1 mm a mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.geometry import Geometry
from patient.interpolation import PIECE, Floats, interpolated
from patient.parallel import each
from patient.volume import Field, Level, Volume
from registration.point_map import PointMap, point_map
from registration.transforms import Affine, Points, Space, Transform, linear_part

STRIDE = 4
"""Voxels of a plane from one first look at a distance to the next; a power of two."""
ACROSS = 0.25
"""Cosine to the normal of a structure's planes below which an axis counts as lying in them."""
STRETCH = 1.5
"""How many mm a resampled distance may change on a mm: a deformation stretches, and planes are tilted."""
LINEAR = 0.5
"""mm that a first look may err, being linear between the surface's nodes."""
CLAMPED = 0.999
"""Of a field's greatest distance: what is farther is only known to be far."""
SLAB = 16
"""Planes that are looked at together."""


@dataclass(frozen=True, eq=False)
class Distance:
    """A signed distance to a surface, that can be resampled to another image.

    Args:
        field: mm, negative inside, on nodes of its own.
    """

    field: Field

    @cached_property
    def spline(self) -> Floats:
        """Coefficients of the cubic spline through the field `[z, y, x]`; its values where it is one node wide."""
        values = self.field.volume.array
        if min(values.shape) == 1:
            return values
        return ndimage.spline_filter(values, order=3, output=np.float32, mode="mirror")

    def resampled(self, b_from_a: Transform, onto: Geometry) -> Field:
        """The same surface on a grid of another image.

        A distance is bent between voxels as its neighbours say (cubic): linear, a round structure of 2 cc on slices of 3 mm
        would lose a twentieth of its volume. Far from the surface it is linear between every fourth voxel of a plane: there
        only its sign counts.

        Args:
            b_from_a: from the grid's image to the surface's.
            onto: a grid of a.

        Raises:
            FrameMismatch: the surface is not of b, or the grid not of a.
        """
        there = self.field.geometry
        b_from_a.target.admit(Space.of(there), "The surface")
        b_from_a.source.admit(Space.of(onto), "The grid")
        turned = linear_part(b_from_a).rotation @ np.asarray(onto.axes).T
        along = np.abs(np.asarray(there.axes[0]) @ (turned / np.linalg.norm(turned, axis=0)))
        normal = int(np.argmax(along))
        order = (normal, *(axis for axis in range(3) if axis != normal))
        source = np.ascontiguousarray(self.field.volume.array, dtype=np.float32)
        look = _Look(
            source,
            self.spline,
            max(float(source.max()), 1.0),
            _indices(b_from_a, there, onto, order),
            tuple(STRIDE if along[axis] < ACROSS else 1 for axis in order[1:]),
            tuple(onto.spacing[axis] for axis in order[1:]),
        )
        out = np.empty(onto.shape, dtype=np.float32)
        upright = out.transpose(order)

        def some(first: int) -> None:
            last = min(first + SLAB, len(upright))
            upright[first:last] = look.planes(first, last, upright.shape)

        each(some, range(0, len(upright), SLAB))
        return Field(Volume(out, onto), Level.DISTANCE)


def _indices(b_from_a: Transform, there: Geometry, onto: Geometry, order: tuple[int, ...]) -> PointMap:
    """Indices `[3, n]` of the surface's nodes at indices `[3, n]` of a's grid, its axes in `order`."""
    steps = onto.steps[list(order)]
    if isinstance(b_from_a, Affine):
        product = (steps @ b_from_a.rotation.T @ np.linalg.inv(there.steps)).T
        origin = there.indices(b_from_a.points(onto.origin, b_from_a.source))[:, None]
        return lambda at: product @ at + origin
    mapped, first, last = point_map(b_from_a), np.asarray(onto.origin)[:, None], np.asarray(there.origin)[:, None]
    back = np.linalg.inv(there.steps).T
    return lambda at: back @ (mapped(steps.T @ at + first) - last)


@dataclass(frozen=True, eq=False)
class _Look:
    """How a distance is looked at.

    Args:
        source, spline: the distance at its nodes `[z, y, x]`, and the coefficients of its cubic spline.
        outside: mm beyond the nodes.
        indices: of the nodes, `[3, n]`, at indices of the grid, the axis along the surface's normal first.
        strides: voxels from one first look to the next, along the two other axes.
        spacing: mm, along those.
    """

    source: Floats
    spline: Floats
    outside: float
    indices: PointMap
    strides: tuple[int, ...]
    spacing: tuple[float, ...]

    def planes(self, first: int, last: int, shape: tuple[int, ...]) -> Floats:
        """`[last - first, ...]`: some planes across the surface's normal, of the grid of `shape`."""
        low, high = max(first - 1, 0), min(last + 1, shape[0])  # one more on each side, to see where the surface ends
        strides = list(self.strides)
        nodes = (high - low, *(-(-(n - 1) // s) + 1 for n, s in zip(shape[1:], strides, strict=True)))
        values = self._everywhere(nodes, low, strides)
        if max(strides) > 1:
            near = (np.abs(values) < min(self._reach(strides) + LINEAR, CLAMPED * self.outside)) | _ends(values)
        else:
            near = np.ones(nodes, dtype=bool)
        self._exactly(values, near, low, strides)
        while max(strides) > 1:
            reach = min(self._reach(strides), CLAMPED * self.outside)
            there_before = tuple(slice(None, None, 2 if s > 1 else 1) for s in strides)
            for axis, s in enumerate(strides):
                values = values if s == 1 else _halved(values, axis + 1)
            strides = [max(1, s // 2) for s in strides]
            near = (np.abs(values) < reach) | _ends(values)
            near[:, *there_before] = False
            if max(strides) == 1:
                own = slice(first - low, last - low)
                values, near, low = values[own], near[own], first
            self._exactly(values, near, low, strides)
        return values[:, : shape[1], : shape[2]][first - low : last - low]

    def _reach(self, strides: list[int]) -> float:
        """mm from the surface within which a node halfway may turn out to be near it."""
        coarse = [s * mm for s, mm in zip(strides, self.spacing, strict=True) if s > 1]
        return STRETCH * float(np.linalg.norm(coarse)) / 2 + max(
            mm for s, mm in zip(strides, self.spacing, strict=True) if s > 1
        )

    def _everywhere(self, nodes: tuple[int, ...], low: int, strides: list[int]) -> Floats:
        """A first look, linear between the surface's nodes."""
        out = np.full(int(np.prod(nodes)), np.float32(self.outside), dtype=np.float32)
        for n in range(0, len(out), PIECE):
            at, held = self._held(np.arange(n, min(n + PIECE, len(out))), nodes, low, strides)
            out[n : n + PIECE][held] = interpolated([self.source], at)[0]
        return out.reshape(nodes)

    def _exactly(self, values: Floats, where: NDArray[np.bool_], low: int, strides: list[int]) -> None:
        """Cubic, at some nodes."""
        chosen = np.flatnonzero(where)
        for n in range(0, len(chosen), PIECE):
            some = chosen[n : n + PIECE]
            at, held = self._held(some, values.shape, low, strides)
            found = np.full(len(some), np.float32(self.outside), dtype=np.float32)
            found[held] = ndimage.map_coordinates(self.spline, at, np.float32, order=3, mode="mirror", prefilter=False)
            values[np.unravel_index(some, values.shape)] = found

    def _held(
        self, chosen: NDArray[np.intp], nodes: tuple[int, ...], low: int, strides: list[int]
    ) -> tuple[Points, NDArray[np.bool_]]:
        """Indices `[3, m]` in the surface's array of those chosen nodes that lie in it or half a step around; and which."""
        places = np.unravel_index(chosen, nodes)
        at = np.stack([places[0] + low, places[1] * strides[0], places[2] * strides[1]], dtype=np.float64)
        at = self.indices(at)
        top = np.asarray(self.source.shape)[:, None] - 1
        held = np.asarray(((at >= -0.5) & (at <= top + 0.5)).all(axis=0))
        return np.clip(at if held.all() else at[:, held], 0, top), held


def _ends(values: Floats) -> NDArray[np.bool_]:
    """Where the next or the last node along the first axis lies on the other side of the surface."""
    inside = values < 0
    out = np.zeros(inside.shape, dtype=bool)
    change = inside[1:] != inside[:-1]
    out[1:] |= change
    out[:-1] |= change
    return out


def _halved(values: Floats, axis: int) -> Floats:
    """With a node midway between each two along an axis."""
    before = np.moveaxis(values, axis, 0)
    shape = list(values.shape)
    shape[axis] = 2 * shape[axis] - 1
    out = np.empty(shape, dtype=np.float32)
    after = np.moveaxis(out, axis, 0)
    after[::2] = before
    np.add(before[:-1], before[1:], out=after[1::2])
    after[1::2] *= np.float32(0.5)
    return out
