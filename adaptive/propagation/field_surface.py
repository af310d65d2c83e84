"""The surface of a field as points with normals and areas, and how far one such surface lies from another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from adaptive.propagation.shape import CORNERS, Points, inside, slabs, where_true
from patient.geometry import Box, Geometry
from patient.interpolation import gradient_at, interpolated
from patient.volume import Field, Level


@dataclass(frozen=True, eq=False)
class Surface:
    """A field's surface as points.

    Args:
        points: `[n, 3]` LPS mm, where the field crosses its level between neighbouring voxels.
        normals: `[n, 3]` unit vectors (x, y, z), outward.
        area: `[n]` mm², each point's share of the surface.
        voxels: `[n, 2, 3]` the two voxels (k, j, i) it lies between, in the grid it was asked for on.
    """

    points: Points
    normals: Points
    area: NDArray[np.float64]
    voxels: NDArray[np.int_]

    def part(self, keep: NDArray[np.bool_]) -> Surface:
        """Some of its points."""
        return Surface(self.points[keep], self.normals[keep], self.area[keep], self.voxels[keep])

    def thinned(self, most: int) -> Surface:
        """Every so many-th point, standing for those left out, where there are more than `most`."""
        step = -(-len(self.points) // most)
        if step <= 1:
            return self
        return Surface(self.points[::step], self.normals[::step], self.area[::step] * step, self.voxels[::step])


def surface(field: Field, part: Geometry) -> Surface:
    """The points at which a field's surface crosses the lines between neighbouring voxels of a grid.

    Lines along three axes meet a surface in proportion to how it faces them (Cauchy and Crofton), hence each point's area
    is 1 / sum(|n_a| / A_a), A_a being the area of a voxel's face across axis a.
    """
    spacing = np.asarray(part.spacing)
    faces = np.prod(spacing) / spacing
    places, normals, voxels = [], [], []
    for slab in slabs(part):
        start = slab.start[0] - 1
        values = inside(field, part.cropped(Box((start, 0, 0), (slab.stop[0] + 2, *part.shape[1:]))))
        positive = values > 0
        for axis in range(3):
            own = [slice(1, -2), slice(None), slice(None)]  # a crossing belongs to the slab of its first voxel
            ahead = list(own)
            if axis == 0:
                ahead[0] = slice(2, -1)
            else:
                own[axis], ahead[axis] = slice(None, -1), slice(1, None)
            first = where_true(positive[tuple(own)] != positive[tuple(ahead)]) + (1, 0, 0)
            second = first + np.eye(3, dtype=int)[axis]
            a, b = values[tuple(first.T)], values[tuple(second.T)]
            along = (a / (a - b)).astype(np.float64)[:, None]
            places.append(first + along * np.eye(3)[axis] + (start, 0, 0))
            normals.append(
                -((1 - along) * gradient_at(values, first, spacing) + along * gradient_at(values, second, spacing))
            )
            voxels.append(np.stack([first, second], axis=1) + (start, 0, 0))
    normal = np.concatenate(normals)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    area = 1.0 / np.maximum((np.abs(normal) / faces).sum(axis=1), 1e-12)
    area[~normal.any(axis=1)] = 0.0
    return Surface(part.points(np.concatenate(places)), normal @ np.asarray(part.axes), area, np.concatenate(voxels))


def level_at(field: Field, points: Points) -> NDArray[np.float64]:
    """The field between its voxels at LPS points `[n, 3]`: positive inside; negative where it has no values."""
    grid = field.geometry
    at = grid.indices(points)
    top = np.asarray(grid.shape) - 1
    out = np.full(len(points), -1.0)
    inner = np.asarray(((at >= 0) & (at <= top)).all(axis=1))
    if inner.any():
        value = interpolated([field.volume.array], at[inner].T)[0].astype(np.float64)
        out[inner] = np.nan_to_num(value - 0.5 if field.level is Level.PROBABILITY else -value, nan=-1.0)
    beside = np.flatnonzero(((at > -1) & (at < top + 1)).all(axis=1) & ~inner)
    if len(beside):
        out[beside] = _beside(field, at[beside])
    return out


def _beside(field: Field, at: Points) -> NDArray[np.float64]:
    """As `level_at`, at indices less than a voxel outside the array: its border's values there, negative."""
    low = np.floor(at).astype(int)
    part, top = at - low, np.asarray(field.geometry.shape) - 1
    total = np.zeros(len(low))
    for corner in CORNERS:
        where = low + corner
        near = np.clip(where, 0, top)
        value = field.volume.array[tuple(near.T)].astype(np.float64)
        value = value - 0.5 if field.level is Level.PROBABILITY else -value
        value = np.where((where != near).any(axis=1), -np.abs(value), value)
        total += value * np.prod(np.where(corner == 1, part, 1 - part), axis=1)
    return np.nan_to_num(total, nan=-1.0)


def outward(of: Surface, to: Surface, field: Field) -> NDArray[np.float64]:
    """mm from each point of one surface to the other, positive where the other lies outside (it grew).

    Args:
        of: where the distances are taken.
        to: all of the other surface.
        field: whose surface `to` is; says on which side of it a point lies.

    Returns:
        `[n]`. To the nearest point of the other; where that lies less aside than points are apart, to the plane through it,
        since a surface runs on between its points.
    """
    tree = KDTree(to.points, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(of.points)
    apart = of.points - to.points[nearest]
    across = np.abs((apart * to.normals[nearest]).sum(axis=1))
    length = np.linalg.norm(apart, axis=1)
    aside = np.sqrt(np.maximum(length**2 - across**2, 0.0))
    mm = np.where(aside <= np.sqrt(to.area[nearest]), across, length)
    return np.where(level_at(field, of.points) > 0, mm, -mm)
