"""The inverse of a displacement, computed where it is asked for: a dose asks at far fewer places than a field would hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it
from numpy.typing import NDArray

from patient.geometry import Geometry
from patient.interpolation import PIECE
from patient.parallel import each
from registration.point_map import PointMap, displacement_map
from registration.transforms import Affine, Displacement, Points, Space, Transform, composed, displacements, parts_of

ROUNDS, STEPS, CLOSE = 10, 40, 0.02
"""Of the iteration and of Newton's steps behind it: how many; and mm that are near enough."""
SIDE = 0.3
"""mm to each side over which a slope is taken."""
FLAT = 0.05
"""Determinant of the slopes at which they say no direction."""
NODES = 2.0
"""mm between the nodes of the inverse as a displacement field."""
ROOM = 24.0
"""mm around a field's nodes for what it moves beyond them."""


@dataclass(frozen=True, eq=False)
class InverseDisplacement(Transform):
    """The inverse of a displacement, each point until it is there: by fixed-point iteration (Chen 2008, Med Phys 35:81), and
    by Newton's steps where that does not converge.

    Args:
        displacement: what is inverted.
    """

    displacement: Displacement

    @property
    def source(self) -> Space:  # type: ignore[override] - the other way round, so it is not kept twice
        return self.displacement.target

    @property
    def target(self) -> Space:  # type: ignore[override] - the other way round, so it is not kept twice
        return self.displacement.source

    def mapped(self, points: Points) -> Points:
        at = points.reshape(-1, 3).T
        out = np.empty(at.shape)
        moved = displacement_map(self.displacement)

        def some(first: int) -> None:
            part = np.s_[:, first : first + PIECE]
            out[part] = _fixed_point(np.ascontiguousarray(at[part]), moved)

        each(some, range(0, at.shape[1], PIECE))
        return out.T.reshape(points.shape)

    def itk(self) -> sitk.Transform:
        """At nodes of its own, as ITK knows no iteration."""
        nodes = _nodes(self.displacement.grid)
        return Displacement(displacements(self, nodes), nodes, self.source, self.target).itk()


def inverse_of(b_from_a: Transform) -> Transform:
    """`a_from_b`: each part inverted on its own, so that beyond the deformable one the inverse of a matrix is exact."""
    back: Transform | None = None
    for part in reversed(parts_of(b_from_a)):
        assert isinstance(part, Displacement | Affine)
        one = InverseDisplacement(part) if isinstance(part, Displacement) else part.inverse()
        back = one if back is None else composed(one, back)
    assert back is not None
    return back


def _fixed_point(at: Points, moved: PointMap) -> Points:
    """The points `[3, n]` that a displacement takes to those given."""
    out = at - moved(at)
    left = np.arange(at.shape[1], dtype=np.intp)
    for _ in range(ROUNDS):
        missed = out[:, left] - at[:, left] + moved(out[:, left])
        out[:, left] -= missed
        left = left[np.abs(missed).max(axis=0) > CLOSE]
        if not len(left):
            return out
    out[:, left] = _newton(at[:, left], out[:, left], moved)
    return out


def _newton(at: Points, start: Points, moved: PointMap) -> Points:
    """Newton's steps, each halved until it brings its point nearer.

    Where a displacement grows by 1 mm a mm and more (what today shows is half as wide as in the plan), the iteration leads
    nowhere.
    """
    out, missed = start.copy(), start - at + moved(start)
    left = np.arange(at.shape[1], dtype=np.intp)
    share = np.ones(at.shape[1])
    for _ in range(STEPS):
        left = left[np.abs(missed[:, left]).max(axis=0) > CLOSE]
        if not len(left):
            break
        steps = np.linalg.solve(_derivative(out[:, left], moved), missed[:, left].T[..., None])[..., 0].T
        tried = out[:, left] - share[left] * steps
        then = tried - at[:, left] + moved(tried)
        nearer = np.linalg.norm(then, axis=0) < np.linalg.norm(missed[:, left], axis=0)
        good = left[nearer]
        out[:, good], missed[:, good] = tried[:, nearer], then[:, nearer]
        share[left] = np.where(nearer, np.minimum(1.0, 2 * share[left]), share[left] / 2)
    return out


def _derivative(points: Points, moved: PointMap) -> NDArray[np.float64]:
    """`[n, 3, 3]` derivative of where a displacement takes points; made regular where it folds space."""
    sides = [moved(points + SIDE * axis[:, None]) - moved(points - SIDE * axis[:, None]) for axis in np.eye(3)]
    out = np.eye(3) + np.moveaxis(np.stack(sides, axis=1), -1, 0) / (2 * SIDE)
    out[np.abs(np.linalg.det(out)) < FLAT] += 0.5 * np.eye(3)
    return out


def _nodes(field: Geometry) -> Geometry:
    """A field's own grid, finer where it is coarse, with room for what it moves."""
    finer = [max(1, round(s / NODES)) for s in field.spacing]
    around = field.padded([int(np.ceil(ROOM / s)) for s in field.spacing])
    shape = tuple((n - 1) * f + 1 for n, f in zip(around.shape, finer, strict=True))
    return replace(around, shape=shape, spacing=tuple(s / f for s, f in zip(field.spacing, finer, strict=True)))
