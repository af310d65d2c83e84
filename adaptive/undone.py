"""The way back of a displacement, found where it is asked for: a dose asks at far fewer places than a field would hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from adaptive.between import PIECE, Floats, between
from patient.geometry import Box, Geometry
from patient.parallel import each
from registration.transforms import Affine, Chain, Displacement, Points, Space, Transform, composed, displacements

ROUNDS, CLOSE = 30, 0.02
"""Of the iteration: how often, and mm that are near enough."""
NODES = 2.0
"""mm between the nodes at which others are given the way back."""
ROOM = 24.0
"""mm around a field's nodes for what it moves beyond them."""


@dataclass(frozen=True, eq=False)
class Undone(Transform):
    """The inverse of a displacement, by fixed-point iteration (Chen 2008, Med Phys 35:81), each point until it is there.

    Args:
        bent: what is undone.
    """

    bent: Displacement

    @property
    def source(self) -> Space:  # type: ignore[override]
        return self.bent.target

    @property
    def target(self) -> Space:  # type: ignore[override]
        return self.bent.source

    def _mapped(self, points: Points) -> Points:
        flat = points.reshape(-1, 3)
        out = np.empty(flat.shape)
        vectors = _components(self.bent)
        each(
            lambda part: self._some(flat[part], vectors, out[part]),
            [slice(n, n + PIECE) for n in range(0, len(flat), PIECE)],
        )
        return out.reshape(points.shape)

    def _some(self, at: Points, vectors: list[Floats], out: Points) -> None:
        out[:] = at
        left = np.arange(len(at))
        for _ in range(ROUNDS):
            missed = out[left] - at[left] + _moved(vectors, self.bent.grid, out[left])
            out[left] -= missed
            left = left[np.abs(missed).max(axis=1) > CLOSE]
            if not len(left):
                return

    def itk(self) -> sitk.Transform:
        """At nodes of its own, as ITK knows no iteration."""
        nodes = _nodes(self.bent.grid)
        return Displacement(displacements(self, nodes), nodes, self.source, self.target).itk()


def undone(b_from_a: Transform) -> Transform:
    """`a_from_b`: each part inverted on its own, so that beyond the bent one the way back of a matrix is exact."""
    back: Transform | None = None
    for part in reversed(b_from_a.parts if isinstance(b_from_a, Chain) else (b_from_a,)):
        assert isinstance(part, Displacement | Affine)
        one = Undone(part) if isinstance(part, Displacement) else part.inverse()
        back = one if back is None else composed(one, back)
    assert back is not None
    return back


def through(b_from_a: Transform) -> Callable[[Points], Points]:
    """Where points `[n, 3]` of a lie in b; what it needs is laid out once, for who asks often."""
    ways = [_way(part) for part in (b_from_a.parts if isinstance(b_from_a, Chain) else (b_from_a,))]

    def go(points: Points) -> Points:
        for way in ways:
            points = way(points)
        return points

    return go


def _way(part: Transform) -> Callable[[Points], Points]:
    if isinstance(part, Displacement):
        vectors = _components(part)
        return lambda points: points + _moved(vectors, part.grid, points)
    return lambda points: part.points(points, part.source)


def _components(bent: Displacement) -> list[Floats]:
    return [np.ascontiguousarray(bent.vectors[..., n]) for n in range(3)]


def _moved(vectors: list[Floats], grid: Geometry, points: Points) -> Points:
    """mm `[n, 3]` at points, as `Displacement` has it: nothing more than half a step beyond the outermost nodes."""
    indices = grid.indices(points)
    top = np.asarray(grid.shape) - 1
    inside = ((indices >= -0.5) & (indices <= top + 0.5)).all(axis=1)
    out = np.zeros(points.shape)
    if inside.any():
        at = np.clip(indices[inside], 0, top).T
        out[inside] = np.stack(between(vectors, at), axis=-1)
    return out


def _nodes(field: Geometry) -> Geometry:
    """A field's own grid, finer where it is coarse, with room for what it moves."""
    finer = [max(1, round(s / NODES)) for s in field.spacing]
    room = [int(np.ceil(ROOM / s)) for s in field.spacing]
    around = field.cropped(Box(tuple(-r for r in room), tuple(n + r for n, r in zip(field.shape, room, strict=True))))  # type: ignore[arg-type]
    shape = tuple((n - 1) * f + 1 for n, f in zip(around.shape, finer, strict=True))
    k, j, i = (s / f for s, f in zip(field.spacing, finer, strict=True))
    return replace(around, shape=shape, spacing=(k, j, i))  # type: ignore[arg-type]
