"""A surface as points with normals, put down between a field's pixels and between its slices, and the distance to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from patient.geometry import Triple
from patient.interpolation import gradient_at
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
SMALL, SMALL_MM3 = 400_000, 2e6
"""Voxels and volume of the box of a structure up to which it is small."""


@dataclass(frozen=True, eq=False)
class SurfacePoints:
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
    def of(values: Distance, spacing: Triple) -> SurfacePoints | None:
        """The zero level of values; None where there is none."""
        small = is_small(values, spacing)
        fine, step = refined(values, spacing)
        return SurfacePoints.at(fine, step, every=1 if small else 2, bends=BENDS if small else 4 * BENDS)

    @staticmethod
    def at(fine: Distance, step: Points, *, every: int = 1, bends: float = BENDS) -> SurfacePoints | None:
        """The zero level on a grid that is fine enough, from every so many rows and columns."""
        points, normals = _crossings(fine, step, every)
        pitch = float(np.linalg.norm(step * (1, every, every))) / 2
        tree = KDTree(points, leafsize=16, balanced_tree=False)
        return SurfacePoints(points, normals, tree, pitch, bends) if len(points) else None

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
        normals.append((1 - share) * gradient_at(fine, at, step) + share * gradient_at(fine, there, step))
    normal = np.concatenate(normals)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.concatenate(points), normal / np.maximum(length, 1e-6)


def is_small(values: Distance, spacing: Triple) -> bool:
    """Whether a structure's box has so few voxels, and so little volume, that all of it may be refined."""
    return values.size < SMALL and values.size * float(np.prod(spacing)) < SMALL_MM3


def refined(values: Distance, spacing: Triple) -> tuple[Distance, Points]:
    """The same with values between its slices, and between its pixels where it is small; and the new steps, mm.

    Of a ball of radius r the distance bends as its surface does, and (distance + r)² as little as can be: that is
    interpolated, with the radius of the largest ball inside.
    """
    step = np.asarray(spacing, dtype=np.float64)
    limits = (FINEST, FINEST, FINEST) if is_small(values, spacing) else (FINE, np.inf, np.inf)
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
