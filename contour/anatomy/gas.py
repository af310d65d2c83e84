"""Gas that is no lung: airways, sinuses, oesophagus, stomach and bowel.

Gas is darker and more even than lung, and has a wall of tissue all around; a bulla or an emphysematous part of a lung has
lung around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from contour.anatomy.body import Body
from contour.anatomy.planes import Bools, Spacing, eroded
from patient.geometry import Box

GAS = -500.0
"""Between gas and soft tissue."""
GAS_CC = 0.1
"""Smaller pockets are specks."""
SKIN = 4.0
"""mm: what lies nearer to the skin may be the skin's own edge, folds and hair."""
PURE = -930.0
"""HU below which a pixel with all its neighbours in plane is gas and nothing else, or emphysema."""
CORE_CC = 0.3
"""Of such pixels, from which on a pocket is looked at."""
WALL = (2.0, 8.0)
"""Where a pocket's wall is looked for: from so many pixels off its core, over so many mm."""
SOFT = -200.0
"""HU from which on what lies around is tissue."""
WALLED = 0.5
"""Share of tissue around from which on a pocket is no part of a lung: bowel, stomach, oesophagus and bronchi measure 0.51 to
0.88, emphysema at most 0.32."""
LIKE_LUNG = (-900.0, -500.0)
ROOM = 3
"""Planes between a pocket and lung above or below it."""


def find_gas(small: NDArray[np.int16], body: Body, lungs: Sequence[Bools]) -> Bools | None:
    """Airways, sinuses and bowel gas on the body's coarse pixels: what is lighter than tissue and no lung; None without any.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        body: found before.
        lungs: those that there are.
    """
    gas = eroded(body.solid, SKIN, body.spacing) & (small < GAS)
    for lung in lungs:
        gas &= ~grown(lung, body.spacing, max(2.0, *body.spacing))
    labels = cc3d.connected_components(gas, connectivity=6)
    keep = np.bincount(labels.ravel()) * np.prod(body.spacing) / 1000.0 >= GAS_CC
    keep[0] = False
    gas = keep[labels]
    return gas if gas.any() else None


def without_pockets(air: Bools, small: NDArray[np.int16], body: Body) -> Bools:
    """Air without the gas in airways, stomach and bowel, cut where HU are highest between it and lung.

    A diaphragm and a bowel's wall of 2 mm are, on coarse pixels and between two kinds of air, no more than a ridge.

    Args:
        air: what is lighter than tissue inside the body.
        small: HU `[z, y, x]`, upright, coarse.
        body: found before.
    """
    pockets = _pockets(air, small, body)
    if pockets is None:
        return air
    labels = cc3d.connected_components(air, connectivity=6)
    held = np.zeros(int(labels.max()) + 1, dtype=bool)
    held[labels[pockets]] = True
    mixed = held[labels]
    radius = 1.01 * body.spacing[1]
    margin = (0, *(int(radius / s) + 1 for s in body.spacing[1:]))  # a box's sides would erode nothing
    box = Box.of(mixed).padded(margin, air.shape).slices
    far = ~grown(pockets, body.spacing, WALL[0] * max(body.spacing[1:]))[box]
    cores = eroded(air[box] & far, radius, body.spacing) & mixed[box]
    markers = _large(cores, body.spacing).astype(np.int32)
    markers[pockets[box]] = 2
    basins = watershed(small[box], markers, mask=mixed[box])
    out = air & ~mixed
    out[box] |= basins == 1
    return out


def grown(mask: Bools, spacing: Spacing, mm: float) -> Bools:
    """All voxels within `mm` of the mask's."""
    box = Box.of(mask).padded([int(mm / s) + 1 for s in spacing], mask.shape).slices
    out = np.zeros_like(mask)
    out[box] = edt.edt(np.ascontiguousarray(~mask[box]), anisotropy=spacing) <= mm
    return out


def _large(mask: Bools, spacing: Spacing, cc: float = 20.0) -> Bools:
    labels = cc3d.connected_components(mask, connectivity=6)
    keep = np.bincount(labels.ravel()) * np.prod(spacing) / 1000.0 > cc
    keep[0] = False
    return keep[labels]


def _pockets(air: Bools, small: NDArray[np.int16], body: Body) -> Bools | None:
    """The cores of gas with a wall around; None without any."""
    pure = ndimage.binary_erosion(air & (small < PURE), np.ones((1, 3, 3)))
    labels = cc3d.connected_components(pure, connectivity=6)
    stats = cc3d.statistics(labels)
    volumes = stats["voxel_counts"] * np.prod(body.spacing) / 1000.0
    volumes[0] = 0.0
    keep = np.zeros(len(volumes), dtype=bool)
    like = air & (small > LIKE_LUNG[0]) & (small < LIKE_LUNG[1])
    for label in np.flatnonzero(volumes > CORE_CC):
        box = Box(*zip(*((s.start, s.stop) for s in stats["bounding_boxes"][label]), strict=True))
        keep[label] = _walled(labels, int(label), box, small, body) and not _on_top(labels, int(label), box, like)
    return keep[labels] if keep.any() else None


def _walled(labels: NDArray[Any], label: int, box: Box, small: NDArray[np.int16], body: Body) -> bool:
    """There is tissue around more than half of it."""
    pixel = WALL[0] * max(body.spacing[1:])
    around = box.padded([int((pixel + WALL[1]) / s) + 1 for s in body.spacing], small.shape).slices
    away = edt.edt(np.ascontiguousarray(labels[around] != label), anisotropy=body.spacing)
    shell = small[around][(away > pixel) & (away < pixel + WALL[1]) & body.solid[around]]
    return bool(shell.size) and float((shell > SOFT).mean()) > WALLED


def _on_top(labels: NDArray[Any], label: int, box: Box, like: Bools) -> bool:
    """It lies on lung and under none: a bulla of the apex, which has the chest's wall around most of it."""
    (k0, _, _), (k1, _, _) = box.start, box.stop
    part = box.slices
    columns = np.any(labels[part] == label, axis=0)
    below = np.any(like[: max(0, k0 - ROOM), part[1], part[2]], axis=0, where=columns)
    above = np.any(like[k1 + ROOM :, part[1], part[2]], axis=0, where=columns)
    return bool(below.sum() > 0.8 * columns.sum() and above.sum() < 0.2 * columns.sum())
