"""Where many points of one image lie in another: what that needs is prepared once, for who asks often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from patient.interpolation import interpolated
from registration.transforms import Affine, Displacement, Points, Transform, parts_of

PointMap = Callable[[Points], Points]
"""From places `[3, n]`, LPS mm or indices, to as many."""


def point_map(b_from_a: Transform) -> PointMap:
    """Where points `[3, n]` of a lie in b; what it needs is prepared once, for who asks often."""
    maps = [_point_map(part) for part in parts_of(b_from_a)]

    def go(points: Points) -> Points:
        for one in maps:
            points = one(points)
        return points

    return go


def _point_map(part: Transform) -> PointMap:
    if isinstance(part, Displacement):
        moved = displacement_map(part)
        return lambda points: points + moved(points)
    if isinstance(part, Affine):
        return lambda points: part.rotation @ points + part.translation[:, None]
    return lambda points: part.points(points.T, part.source).T


def displacement_map(displacement: Displacement) -> PointMap:
    """mm `[3, n]` at points `[3, n]`, as a displacement has it: nothing more than half a step beyond its outermost nodes."""
    vectors = [np.ascontiguousarray(displacement.vectors[..., n]) for n in range(3)]
    product, origin = np.linalg.inv(displacement.grid.steps).T, np.asarray(displacement.grid.origin)[:, None]
    top = np.asarray(displacement.grid.shape)[:, None] - 1

    def moved(points: Points) -> Points:
        indices = product @ (points - origin)
        inside = np.asarray(((indices >= -0.5) & (indices <= top + 0.5)).all(axis=0))
        out = np.zeros(points.shape)
        if inside.all():
            out[:] = interpolated(vectors, np.clip(indices, 0, top))
        elif inside.any():
            out[:, inside] = interpolated(vectors, np.clip(indices[:, inside], 0, top))
        return out

    return moved
