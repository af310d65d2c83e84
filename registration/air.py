"""Air: how it is written, and which of it lies inside a body although an image's edge cuts it open."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from patient.read.pixels import AIR
from patient.volume import Volume

LUNG = -960.0
"""HU: the median of a lung lies above, also of a wide one at full breath; that of air outside below."""
OPEN = 0.5
"""Part of a hollow's surface that an image's edge may be: air around a body has more of it, a lung that is cut less."""
LEAST_CC = 20.0
"""Of a hollow that the edge cuts: less is noise beside a skin."""


def above_air(image: Volume[Any]) -> Volume[Any]:
    """The image with nothing below -1024 HU, as a DICOM CT is read: what lies beyond the scanned circle is air.

    Some scanners and files write -2048 or -3024 there, and a step of a thousand HU that no patient has would be registered.
    """
    if not np.nanmin(image.array) < AIR:
        return image
    return Volume(np.maximum(image.array, np.asarray(AIR, image.array.dtype)), image.geometry)


def with_hollows(body: NDArray[np.bool_], image: Volume[np.float32]) -> NDArray[np.bool_]:
    """A body with what it encloses in each plane, and with lungs that the image's edge cuts open.

    Args:
        body: `[z, y, x]`, what is dense; changed in place.
        image: HU on the same grid; of another modality no lung is known.
    """
    for plane in body:
        plane |= ndimage.binary_fill_holes(plane)
    if image.array.min() < -700.0:
        body |= _cut_lungs(body, image)
    return body


def _cut_lungs(body: NDArray[np.bool_], image: Volume[np.float32]) -> NDArray[np.bool_]:
    """Gas at the image's edge that is too dense for air, and is bounded by the body rather than by the edge."""
    pieces = cc3d.connected_components(~body, connectivity=6)
    counts = np.bincount(pieces.ravel())
    lungs = np.zeros(len(counts), dtype=np.bool_)
    for piece in np.flatnonzero(counts * image.geometry.voxel_cc > LEAST_CC):
        there = pieces == piece
        if piece and np.median(image.array[there][::17]) > LUNG:
            lungs[piece] = _open_part(there) < OPEN
    return lungs[pieces]


def _open_part(piece: NDArray[np.bool_]) -> float:
    """Part of a piece's surface that lies on the image's side faces; its first and last plane are no side."""
    beside = sum(int(np.diff(piece, axis=axis).sum()) for axis in range(3))
    edge = sum(int(np.take(piece, side, axis=axis).sum()) for axis in (1, 2) for side in (0, -1))
    return edge / max(1, edge + beside)
