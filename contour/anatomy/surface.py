"""From a decision on coarse pixels to a surface on the image's own: where HU pass a threshold, finer than a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.anatomy.planes import Bools, dilated, eroded
from patient.geometry import Box, Geometry
from patient.parallel import each
from patient.volume import Field, Volume

RAMP = 700.0
"""HU over which a field goes from 0 to 1 about its threshold: a pixel cut by a sharp edge falls on it."""
CONTRARY = 150.0
"""HU beyond the edge from which on a pixel was enclosed by a decision, and is no mere part of the edge."""
SMOOTH = 0.7
"""Pixels of in-plane smoothing: a contour should not follow noise."""


@dataclass(frozen=True)
class Edge:
    """What a structure's surface is.

    Args:
        level: HU where it lies; one number, or one for every coarse pixel `[z, y, x]`.
        sign: +1 if the structure is denser than what is around it, -1 if lighter.
    """

    level: float | NDArray[np.int16]
    sign: int

    def on(self, k: int, rows: slice, columns: slice) -> NDArray[np.float32]:
        """HU on a part of a coarse plane."""
        level = self.level
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        part = level[k, rows, columns] if isinstance(level, np.ndarray) else level
        return np.broadcast_to(np.asarray(part, dtype=np.float32), shape)


def refined(hu: NDArray[Any], geometry: Geometry, mask: Bools, small: NDArray[np.int16], step: int, edge: Edge) -> Field:
    """The field of a structure that was decided on coarse pixels.

    Well inside the coarse mask it is 1, well outside 0; in between it follows HU. Where the mask holds what HU alone would
    leave out (vessels in a lung, air in a body), the mask is followed.

    Args:
        hu: `[z, y, x]`, upright.
        geometry: of it.
        mask: coarse decision, every `step`-th pixel in plane.
        small: coarse HU.
        step: pixels of the image a coarse pixel.
        edge: where the surface lies.
    """
    part = Box.of(mask)
    (k0, j0, i0), (k1, j1, i1) = part.start, part.stop
    box = Box((k0, j0 * step, i0 * step), (k1, j1 * step, i1 * step)).padded((1, 4, 4), geometry.shape)
    # Coarse pixels that the box touches; what the picture has beyond the last coarse pixel follows that one.
    _, rows, columns = (
        slice(a // step, min(n, -(-b // step))) for a, b, n in zip(box.start, box.stop, mask.shape, strict=True)
    )
    pixel = (1.0, 1.0, 1.0)
    values = np.zeros(box.shape, dtype=np.float32)

    def fill(k: int) -> None:
        decided = mask[k : k + 1, rows, columns]
        if not decided.any():
            return
        core = eroded(decided, 2.0 if step == 1 else 1.0, pixel)[0]
        level = edge.on(k, rows, columns)
        core |= decided[0] & (edge.sign * (small[k, rows, columns] - level) < -CONTRARY)
        near = dilated(decided, 1.0, pixel)[0]
        contrast = edge.sign * (hu[k][box.slices[1:]].astype(np.float32) - _enlarged(level, step, box))
        plane = np.clip(np.float32(0.5) + contrast / np.float32(RAMP), 0.0, 1.0)
        plane *= _enlarged(near, step, box)
        np.maximum(plane, _enlarged(core, step, box), out=plane)
        ndimage.gaussian_filter(plane, SMOOTH, mode="nearest", output=values[k - box.start[0]])

    each(fill, range(k0, k1))
    return Field(Volume(values, geometry.cropped(box)))


def _enlarged(coarse: NDArray[Any], step: int, box: Box) -> NDArray[Any]:
    """Coarse pixels as the image's own, within the box."""
    j, i = (
        np.minimum(np.arange(a, b) // step - a // step, n - 1)
        for a, b, n in zip(box.start[1:], box.stop[1:], coarse.shape, strict=True)
    )
    return coarse[j][:, i]
