"""Margins that differ by side of the patient.

The kernel is a body of eight octants of ellipsoids, whose half-axes are the margins of the octant's three sides. How
far a voxel lies from the new surface is the least that the kernel's points reach from it in the structure's signed distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.surface_points import TRUE, Distance, Nodes, Points, SurfacePoints, refined
from patient.geometry import Triple
from patient.parallel import threads

NEXT = 1.5
"""Pixels from the new surface within which a margin by side is measured at every voxel."""
MANY, COARSER = 100_000, 3
"""Voxels of which all are measured; of more, those at the new surface, and every third pixel elsewhere."""
ROUNDS = 6
"""Halvings of the step with which the kernel's best point is searched for."""


def by_side(values: Distance, spacing: Triple, toward: tuple[tuple[float, float], ...]) -> Distance:
    """As `contour.margin.shifted`, by other margins toward each side.

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


def _signed_distance(fine: Distance, step: Points, reach: float) -> Distance:
    """The signed distance on a refined grid, true within `reach` mm of its zero level."""
    sign = np.where(fine < 0, np.float32(-1.0), np.float32(1.0))
    out = sign * _coarse(fine < 0, step)
    if (near := SurfacePoints.at(fine, step)) is not None:
        _measure(out, np.abs(out) < reach, lambda at: sign[tuple(at.T)] * near.apart(at * step))
    return np.clip(out, -reach, reach)


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


def _coarse(inside: NDArray[np.bool_], spacing: Triple | Points) -> Distance:
    """mm from each voxel to the surface, right to a voxel's diagonal: to the centre of the nearest on the other side."""
    step = tuple(float(s) for s in spacing)
    sides = inside.astype(np.uint8) + np.uint8(1)
    far = edt.edt(sides, anisotropy=step, black_border=False, parallel=threads())
    return np.minimum(far - np.float32(0.5 * min(step)), np.float32(1e4))
