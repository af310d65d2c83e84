"""Margins: a structure grown or shrunk by as much on every side (by side of the patient: `contour.margin_by_side`).

A margin is the Minkowski sum of the structure with a kernel: a ball of its radius or, where sides differ, a body of eight
octants of ellipsoids. Shrinking is the same done to what lies outside (erosion), with the kernel mirrored. Both are taken
from the surface, between pixels and between slices, not from voxel centres: values are interpolated between slices, the
surface is put down as points with normals (`contour.surface_points`), and the distance of a voxel is that to the nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import edt
import numpy as np
from numpy.typing import NDArray

from contour.surface_points import TRUE, Distance, Nodes, Points, SurfacePoints
from patient.geometry import Triple
from patient.parallel import threads

PITCH, PITCHES = 5.0, 24
"""mm between nodes at which distances are measured; of less than so many to a structure's edge fewer mm."""
BENT = 0.4
"""Difference of two nodes' gradients beyond which nothing is interpolated between them."""


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
    near, cells = SurfacePoints.of(values, spacing), _Cells.of(inside, spacing)
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

    def between(self, at: Nodes, near: SurfacePoints, inside: NDArray[np.bool_]) -> tuple[Distance, NDArray[np.bool_]]:
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
