"""Margins: a structure grown or shrunk, by as much on every side or by side of the patient.

A margin is the Minkowski sum of the structure with a kernel: a ball of its radius or, where sides differ, a body of eight
octants of ellipsoids whose half-axes are the margins of the octant's three sides. Shrinking is the same done to what lies
outside (erosion), with the kernel mirrored. Both are taken from the surface, between pixels and between slices, not from
voxel centres: values are interpolated between slices, the surface is put down as points with normals, and the distance of a
voxel is that to the nearest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from patient.geometry import Triple
from patient.manual_contours import deepest
from patient.parallel import threads

Distance = NDArray[np.float32]
Points = NDArray[np.float64]
Nodes = NDArray[np.intp]
TRUE = 1.25
"""Largest voxel edges around a surface within which distances are true; beyond, only their sign counts."""
FINE, FINEST = 3.0, 1.0
"""mm; the surface is known between slices at least as closely, and of a small structure in every direction."""
BENDS = 8.0
"""mm; a usual radius of a small organ's surface."""
SMALL = 400_000
"""Voxels up to which a structure is small."""
PITCH, PITCHES = 5.0, 24
"""mm between nodes at which distances are measured; of less than so many to a structure's edge fewer mm."""
BENT = 0.4
"""Difference of two nodes' gradients beyond which nothing is interpolated between them."""
MANY, COARSER = 100_000, 3
"""Voxels of which all are measured; of more, those at the new surface, and every third pixel elsewhere."""
NEXT = 1.5
"""Pixels from the new surface within which a margin by side is measured at every voxel."""
ROUNDS = 6
"""Halvings of the step with which the kernel's best point is searched for."""


def shifted(values: Distance, spacing: Triple, mm: float) -> Distance:
    """The signed distance to a surface that lies `mm` outside of the zero level of `values` (inside where `mm` is negative).

    It is measured at nodes `PITCH` apart around the new surface, with its gradient, and interpolated between them to second
    order; where the gradients do not agree (an edge, the middle between two surfaces) it is measured at each voxel.

    Args:
        values: `[z, y, x]`, negative inside.

    Returns:
        mm, true within `TRUE` voxel edges of the new surface; clipped there.
    """
    band, inside = TRUE * max(spacing), values < 0
    near, cells = _Surface.of(values, spacing), _Cells.of(inside, spacing)
    if near is None:
        return np.where(inside, np.float32(-band), np.float32(band))
    far = cells.apart(inside)
    at = np.argwhere(np.abs(far - np.float32(mm)) < band + np.linalg.norm(cells.step))
    found, bent = cells.between(at, near, inside)
    found -= np.float32(mm)
    blocks = np.repeat((np.sign(far - mm) * band).astype(np.float32)[:, None], cells.by[0], axis=1)
    out = np.empty(np.multiply(far.shape, cells.by), dtype=np.float32)
    view = out.reshape([n for pair in zip(far.shape, cells.by, strict=True) for n in pair])
    view[:] = blocks[:, :, :, None, :, None]
    k, j, i = at.T
    view[k, :, j, :, i, :] = np.clip(found, -band, band).reshape(-1, *cells.by)
    out = np.ascontiguousarray(out[tuple(slice(n) for n in values.shape)])
    again = cells.voxels(at[bent], out, max(spacing[1:]) * TRUE)
    sign = np.where(inside[tuple(again.T)], np.float32(-1.0), np.float32(1.0))
    out[tuple(again.T)] = np.clip(sign * near.apart(again * cells.spacing) - np.float32(mm), -band, band)
    return out


@dataclass(frozen=True, eq=False)
class _Cells:
    """A grid's voxels in equal blocks, with a node at the first voxel of each.

    Args:
        by: voxels along each axis.
        spacing: mm, of voxels.
    """

    by: tuple[int, ...]
    spacing: Points

    @staticmethod
    def of(inside: NDArray[np.bool_], spacing: Triple) -> _Cells:
        pitch = min(PITCH, float(np.cbrt(inside.size * np.prod(spacing))) / PITCHES)
        return _Cells(tuple(max(1, int(pitch / s + 0.1)) for s in spacing), np.asarray(spacing, dtype=np.float64))

    @property
    def step(self) -> Points:
        return self.spacing * self.by

    def apart(self, inside: NDArray[np.bool_]) -> Distance:
        """mm from each cell to the nearest that is not wholly on its side; right to a cell's diagonal, negative inside."""
        more = [-n % by for n, by in zip(inside.shape, self.by, strict=True)]
        inside = np.pad(inside, [(0, n) for n in more], mode="edge") if any(more) else inside
        some, whole = self._reduced(inside, np.logical_or), self._reduced(inside, np.logical_and)
        sides = (~some).astype(np.uint8) + np.uint8(2) * whole
        step = tuple(float(s) for s in self.step)
        far = np.minimum(edt.edt(sides, anisotropy=step, black_border=False, parallel=threads()), np.float32(1e4))
        return np.where(whole, -far, far)

    def _reduced(self, values: NDArray[np.bool_], by: np.ufunc) -> NDArray[np.bool_]:
        for axis, n in enumerate(self.by):
            along = np.moveaxis(values, axis, 0)
            values = np.moveaxis(reduce(by, [along[m::n] for m in range(n)]), 0, axis)
        return values

    def between(self, at: Nodes, near: _Surface, inside: NDArray[np.bool_]) -> tuple[Distance, NDArray[np.bool_]]:
        """The distance at the voxels of cells `[n, 3]`, `[n, voxels]`, and of which cells the gradients do not agree.

        Each corner says its distance and half of what its gradient adds on the way from it: exact to second order.
        """
        corners = np.stack(np.meshgrid(*[(0, 1)[: min(n, 2)] for n in self.by], indexing="ij"), -1).reshape(-1, 3)
        shape = np.array(np.ceil(np.array(inside.shape) / self.by), dtype=np.intp) + 1
        wanted = np.ravel_multi_index(tuple((at[:, None] + corners).reshape(-1, 3).T), tuple(shape))
        used = np.zeros(int(np.prod(shape)), dtype=bool)
        used[wanted] = True
        nodes = np.stack(np.unravel_index(np.flatnonzero(used), tuple(shape)), axis=-1) * self.by
        own = tuple(np.minimum(nodes, np.array(inside.shape) - 1).T)
        sign = np.where(inside[own], np.float32(-1.0), np.float32(1.0))
        number = (np.cumsum(used) - 1)[wanted].reshape(-1, len(corners))
        said = near.measured(nodes * self.spacing, sign)[number]
        bent = np.ptp(said[:, :, 1:], axis=1).max(axis=1, initial=0) > BENT
        return said.reshape(len(at), 4 * len(corners)) @ self._weights(corners), bent

    def _weights(self, corners: Nodes) -> Distance:
        """What distance and gradient of each corner add to each voxel of a cell, `[corners * 4, voxels]`."""
        at = np.stack(np.meshgrid(*[np.arange(n) for n in self.by], indexing="ij"), -1).reshape(-1, 3)
        share = np.where(corners[:, None] == 1, at / self.by, 1 - at / self.by).prod(axis=2)
        way = (at - corners[:, None] * self.by) * self.spacing / 2
        return (
            np.concatenate([share[:, None], share[:, None] * way.transpose(0, 2, 1)], axis=1)
            .reshape(-1, len(at))
            .astype(np.float32)
        )

    def voxels(self, at: Nodes, values: Distance, within: float) -> Nodes:
        """Those of cells `[n, 3]` whose value lies within so much of 0, `[m, 3]`."""
        each = np.stack(np.meshgrid(*[np.arange(n) for n in self.by], indexing="ij"), -1).reshape(-1, 3)
        found = (at[:, None] * self.by + each).reshape(-1, 3)
        found = found[(found < values.shape).all(axis=1)]
        return found[np.abs(values[tuple(found.T)]) < within]


def by_side(values: Distance, spacing: Triple, toward: tuple[tuple[float, float], ...]) -> Distance:
    """As `shifted`, by other margins toward each side.

    Args:
        toward: of each array axis the margins toward its end and toward its beginning, mm; each 0 or less to shrink.
    """
    fine, step = refined(values, spacing)
    if min(min(pair) for pair in toward) < 0:
        return -_by_side(-values, spacing, -fine, step, Kernel.of(tuple((-start, -end) for end, start in toward)))
    return _by_side(values, spacing, fine, step, Kernel.of(toward))


def _by_side(values: Distance, spacing: Triple, fine: Distance, step: Points, kernel: Kernel) -> Distance:
    """`fine`: the same, refined to steps of `step` mm."""
    band = np.float32(TRUE * max(spacing))
    field = _signed_distance(fine, step, float(band) + kernel.pitch)
    coarse, inside = _coarse(values < 0, spacing), values < 0
    out = np.where(inside, -coarse, coarse - np.float32(kernel.largest))
    asked = np.where(inside, coarse < band, coarse < kernel.largest + band)
    scale, thin = np.asarray(spacing) / step, np.array((1, COARSER, COARSER))
    some = _every(asked)
    at = np.argwhere(some)
    least, best = np.zeros(some.shape, dtype=np.float32), np.zeros((*some.shape, 3))
    least[some], best[some] = _least(field, (at * thin * scale).T, kernel, step, band)
    _fill(out, asked, least)
    near = np.argwhere(asked & ((np.abs(out) < NEXT * max(spacing[1:])) | _at_an_edge(out < 0)))
    out[tuple(near.T)] = _nearby(field, (near * scale).T, kernel, step, _around(best, near // thin))
    return np.clip(out, -band, band)


def _around(best: Points, at: Nodes) -> list[Points]:
    """What the four coarser nodes around each found, `[n, 3]` of each."""
    last = np.array(best.shape[1:3]) - 1
    return [best[(at[:, 0], *np.minimum(at[:, 1:] + aside, last).T)] for aside in ((0, 0), (0, 1), (1, 0), (1, 1))]


def _nearby(field: Distance, places: Points, kernel: Kernel, step: Points, starts: list[Points]) -> Distance:
    """As `_least`, from the best of a few points of the kernel on."""
    said = np.stack([_at(field, places - (kernel.offsets(start) / step).T) for start in starts])
    first = said.argmin(axis=0)
    best = np.stack(starts)[first, np.arange(len(first))]
    _, best = _searched(field, places, kernel, step, said.min(axis=0), best)
    return _smoothly(field, places - (kernel.offsets(best) / step).T)


def _measure(values: Distance, asked: NDArray[np.bool_], measured: Callable[[Nodes], Distance]) -> None:
    """Put what is `measured` at nodes `[n, 3]` into those that are asked for.

    Of many, exactly into those next to the zero level; elsewhere what lies between every `COARSER`th pixel.
    """
    if int(asked.sum()) <= MANY:
        at = np.argwhere(asked)
        values[asked] = measured(at) if len(at) else 0
        return
    some = _every(asked)
    coarser = values[:, ::COARSER, ::COARSER].copy()
    at = np.argwhere(some)
    coarser[some] = measured(at * np.array((1, COARSER, COARSER)))
    _fill(values, asked, coarser)
    beside = asked & _at_an_edge(values < 0)
    if beside.any():
        values[beside] = measured(np.argwhere(beside))


def _fill(values: Distance, asked: NDArray[np.bool_], coarser: Distance) -> None:
    """Put what lies between every `COARSER`th pixel into those that are asked for."""
    for k, plane in enumerate(coarser):
        if asked[k].any():
            j, i = np.nonzero(asked[k])
            values[k, j, i] = _at(plane, np.stack((j, i)) / COARSER)


def _every(asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of every `COARSER`th pixels are needed to interpolate those that are asked for."""
    k, j, i = asked.shape
    corners = -(-j // COARSER), -(-i // COARSER)
    blocks = np.zeros((k, corners[0] * COARSER, corners[1] * COARSER), dtype=bool)
    blocks[:, :j, :i] = asked
    some = np.asarray(blocks.reshape(k, corners[0], COARSER, corners[1], COARSER).any(axis=(2, 4)), dtype=bool)
    some[:, 1:] |= some[:, :-1].copy()
    some[:, :, 1:] |= some[:, :, :-1].copy()
    return some


def _at_an_edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of which a neighbour is on the other side."""
    out = np.zeros_like(inside)
    for axis in range(3):
        plane, edge = np.moveaxis(inside, axis, 0), np.moveaxis(out, axis, 0)
        changes = plane[1:] != plane[:-1]
        edge[1:] |= changes
        edge[:-1] |= changes
    return out


@dataclass(frozen=True, eq=False)
class Kernel:
    """Octants of ellipsoids: the unit ball, each of its points stretched by the half-axes of its octant.

    Args:
        half_axes: mm, `[2, 3]`: toward the end and toward the beginning of each array axis.
        ball: points of the unit ball `[n, 3]`, in no order, on its surface and in shells within.
        pitch: mm between neighbours of them, at most.
    """

    half_axes: Points
    ball: Points
    pitch: float

    @staticmethod
    def of(toward: tuple[tuple[float, float], ...]) -> Kernel:
        largest = max(max(pair) for pair in toward)
        pitch = float(np.clip(largest / 3, 0.5, 3.0))
        radii = np.arange(1.0, 0.0, -min(0.34, pitch / max(largest, pitch)))
        ball = np.concatenate([r * _sphere(max(12, int(4 * np.pi * (r * largest / pitch) ** 2))) for r in radii])
        mixed = np.argsort(np.arange(len(ball)) * 0.618034 % 1)
        return Kernel(np.asarray(toward, dtype=np.float64).T, ball[mixed], pitch)

    @property
    def largest(self) -> float:
        return float(self.half_axes.max())

    def offsets(self, ball: Points) -> Points:
        """mm from the kernel's middle, of points of the unit ball `[..., 3]`."""
        return ball * np.where(ball > 0, self.half_axes[0], self.half_axes[1])


def _sphere(n: int) -> Points:
    """`n` unit vectors, spread evenly (Fibonacci's spiral)."""
    at = np.arange(n) + 0.5
    height, turn = 1 - 2 * at / n, np.pi * (1 + np.sqrt(5)) * at
    flat = np.sqrt(1 - height**2)
    return np.column_stack([height, flat * np.cos(turn), flat * np.sin(turn)])


def _least(field: Distance, places: Points, kernel: Kernel, step: Points, band: np.float32) -> tuple[Distance, Points]:
    """The least distance that the kernel's points reach from each place `[3, n]`: exactly how far the grown surface is.
    And from which point of the unit ball, `[n, 3]`.

    Args:
        field: signed distance; `places` are indices of it.
        band: what is further inside than this is not looked at any more.
    """
    least = _at(field, places)
    best = np.zeros((places.shape[1], 3))
    active = np.flatnonzero(least > -band)
    for n, point in enumerate(kernel.ball):
        found = _at(field, places[:, active] - (kernel.offsets(point) / step)[:, None])
        lower = active[found < least[active]]
        least[lower] = found[found < least[active]]
        best[lower] = point
        if n % 8 == 0:
            active = active[least[active] > -band]
    active = active[(least[active] > -band) & (least[active] < band + kernel.pitch)]
    least[active], best[active] = _searched(field, places[:, active], kernel, step, least[active], best[active])
    return least, best


def _searched(
    field: Distance, places: Points, kernel: Kernel, step: Points, least: Distance, best: Points
) -> tuple[Distance, Points]:
    """Each place's best point of the kernel, from where it is least among few on, in steps that halve."""
    stride = kernel.pitch / kernel.largest
    for _ in range(ROUNDS):
        for move in (*np.eye(3), *-np.eye(3)):
            tried = best + stride * move
            tried /= np.maximum(1.0, np.linalg.norm(tried, axis=1, keepdims=True))
            found = _at(field, places - (kernel.offsets(tried) / step).T)
            lower = found < least
            least[lower], best[lower] = found[lower], tried[lower]
        stride /= 2
    return least, best


def _at(field: Distance, places: Points) -> Distance:
    return ndimage.map_coordinates(field, places, order=1, mode="nearest", output=np.float32)


def _smoothly(field: Distance, places: Points) -> Distance:
    """By cubic splines: a distance bends, and what is linear between nodes lies above it."""
    return ndimage.map_coordinates(field, places, order=3, mode="nearest", output=np.float32)


@dataclass(frozen=True, eq=False)
class _Surface:
    """A surface as points with unit normals `[n, 3]`, (k, j, i) in mm from a grid's first voxel.

    Args:
        pitch: mm; about how far the surface reaches aside of its points.
        bends: mm; a usual radius of it.
    """

    points: Points
    normals: Points
    tree: KDTree
    pitch: float
    bends: float

    @staticmethod
    def of(values: Distance, spacing: Triple) -> _Surface | None:
        """The zero level of values; None where there is none."""
        small = values.size < SMALL
        fine, step = refined(values, spacing)
        return _Surface.at(fine, step, every=1 if small else 2, bends=BENDS if small else 4 * BENDS)

    @staticmethod
    def at(fine: Distance, step: Points, *, every: int = 1, bends: float = BENDS) -> _Surface | None:
        """The zero level on a grid that is fine enough, from every so many rows and columns."""
        points, normals = _crossings(fine, step, every)
        pitch = float(np.linalg.norm(step * (1, every, every))) / 2
        tree = KDTree(points, leafsize=16, balanced_tree=False)
        return _Surface(points, normals, tree, pitch, bends) if len(points) else None

    def apart(self, places: Points) -> Distance:
        """mm from places `[m, 3]`."""
        return self.measured(places, np.ones(len(places), dtype=np.float32))[:, 0]

    def measured(self, places: Points, sign: Distance) -> Distance:
        """mm from places `[m, 3]`, times the sign of each, and the gradient: `[m, 4]`.

        Where the nearest point lies t aside of the true foot, the way to it is t²/2D too long and the way along its normal
        about t²/2R too short (D the distance, R the surface's radius); weighted so that a surface of `bends` gets D itself.
        Nothing is taken for further aside than `pitch`: there the surface has an edge, not a foot between points.
        """
        away, nearest = self.tree.query(places, workers=threads())
        away = np.maximum(away, 1e-6)
        way, normal = (places - self.points[nearest]) * sign[:, None], self.normals[nearest]
        along = np.abs(np.einsum("ij,ij->i", way, normal))
        least = np.sqrt(np.maximum(away * away - self.pitch**2, 0))
        share = away / (away + self.bends)
        out = np.empty((len(places), 4), dtype=np.float32)
        out[:, 0] = sign * (share * away + (1 - share) * np.maximum(along, least))
        share[along < least] = 1.0
        out[:, 1:] = (share / away)[:, None] * way + (1 - share)[:, None] * normal
        return out


def _crossings(fine: Distance, step: Points, every: int = 1) -> tuple[Points, Points]:
    """A point and its normal on edges between nodes of which one is inside, of every so many rows and columns."""
    inside = fine < 0
    points, normals = [], []
    for axis in range(3):
        some = [1 if n in (0, axis) else every for n in range(3)]
        thin = inside[tuple(slice(None, None, n) for n in some)]
        low, high = (thin[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))
        changes = low != high
        at = np.stack(np.unravel_index(np.flatnonzero(changes), changes.shape), axis=1) * some
        there = at + (np.arange(3) == axis)
        a, b = fine[tuple(at.T)], fine[tuple(there.T)]
        share = (a / (a - b))[:, None].astype(np.float64)
        points.append((at + share * (there - at)) * step)
        normals.append((1 - share) * _slopes(fine, at, step) + share * _slopes(fine, there, step))
    normal = np.concatenate(normals)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.concatenate(points), normal / np.maximum(length, 1e-6)


def _slopes(fine: Distance, at: Nodes, step: Points) -> Points:
    """The gradient at nodes `[n, 3]`."""
    last = np.array(fine.shape) - 1
    out = np.empty(at.shape)
    for axis in range(3):
        along = (np.arange(3) == axis).astype(np.intp)
        low, high = np.maximum(at - along, 0), np.minimum(at + along, last)
        apart = np.maximum(high[:, axis] - low[:, axis], 1) * step[axis]
        out[:, axis] = (fine[tuple(high.T)] - fine[tuple(low.T)]) / apart
    return out


def _signed_distance(fine: Distance, step: Points, reach: float) -> Distance:
    """The signed distance on a refined grid, true within `reach` mm of its zero level."""
    sign = np.where(fine < 0, np.float32(-1.0), np.float32(1.0))
    out = sign * _coarse(fine < 0, step)
    if (near := _Surface.at(fine, step)) is not None:
        _measure(out, np.abs(out) < reach, lambda at: sign[tuple(at.T)] * near.apart(at * step))
    return np.clip(out, -reach, reach)


def refined(values: Distance, spacing: Triple, *, small: bool | None = None) -> tuple[Distance, Points]:
    """The same with values between its slices, and between its pixels where it is small; and the new steps, mm.

    Of a ball of radius r the distance bends as its surface does, and (distance + r)² as little as can be: that is
    interpolated, with the radius of the largest ball inside.
    """
    step = np.asarray(spacing, dtype=np.float64)
    small = values.size < SMALL if small is None else small
    limits = (FINEST, FINEST, FINEST) if small else (FINE, np.inf, np.inf)
    if not any(s > limit * 1.01 and n > 1 for s, limit, n in zip(step, limits, values.shape, strict=True)):
        return values, step
    radius = np.float32(max(deepest(-values, spacing), 0.0))
    fine = np.square(values + radius)
    for axis, limit in enumerate(limits):
        while step[axis] > limit * 1.01 and fine.shape[axis] > 1:
            fine, step = _halved(fine, axis), np.where(np.arange(3) == axis, step / 2, step)
    return np.sqrt(np.maximum(fine, 0)) - radius, step


def _halved(values: Distance, axis: int) -> Distance:
    """With values midway between neighbours along an axis: on the cubic through four of them where it bends one way."""
    old = np.moveaxis(values, axis, 0)
    out = np.empty((2 * len(old) - 1, *old.shape[1:]), dtype=np.float32)
    out[::2], out[1::2] = old, 0.5 * (old[:-1] + old[1:])
    if len(old) > 3:
        low, high = old[:-3] - 2 * old[1:-2] + old[2:-1], old[1:-2] - 2 * old[2:-1] + old[3:]
        least = np.minimum(np.abs(low), np.abs(high))
        bend = np.sign(low) * np.minimum(0.5 * (np.abs(low) + np.abs(high)), 2 * least)
        out[3:-3:2] -= np.where(low * high > 0, bend, 0) / 8
    return np.ascontiguousarray(np.moveaxis(out, 0, axis))


def _coarse(inside: NDArray[np.bool_], spacing: Triple | Points) -> Distance:
    """mm from each voxel to the surface, right to a voxel's diagonal: to the centre of the nearest on the other side."""
    step = tuple(float(s) for s in spacing)
    sides = inside.astype(np.uint8) + np.uint8(1)
    far = edt.edt(sides, anisotropy=step, black_border=False, parallel=threads())
    return np.minimum(far - np.float32(0.5 * min(step)), np.float32(1e4))
