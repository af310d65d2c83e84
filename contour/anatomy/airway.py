"""The main airway: one round dark spot, followed from slice to slice from the larynx to the main bronchi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.anatomy.body import Body
from contour.anatomy.planes import Bools

AIRWAY_HU = -850.0
"""Air in the trachea, after averaging over pixels of 2 mm."""
AIRWAY_MM2 = (40.0, 700.0)
"""A trachea's cross-section."""
AIRWAY_LENGTH = 30.0
"""mm over which it must go on to be believed."""


@dataclass(frozen=True, eq=False)
class _Spots:
    """The dark spots of one plane."""

    labels: NDArray[np.int32]
    counts: NDArray[np.intp]
    hu: NDArray[np.int16]

    def median(self, label: int) -> float:
        return float(np.median(self.hu[self.labels == label]))


Chain = list[tuple[int, NDArray[np.intp]]]
"""(plane, labels of its spots), downward."""


def find_airway(small: NDArray[np.int16], air: Bools, body: Body, spine: NDArray[np.float64] | None) -> Bools | None:
    """The main airway from the larynx to the main bronchi: followed from slice to slice as one round dark spot.

    Below the carina it is two spots; where a spot's area jumps, it has leaked into lung and is given up.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        air: what is lighter than tissue inside the body.
        body: found before.
        spine: `[n, 3]` coarse (plane, row, column) of the spinal canal's middle; None if unknown.
    """
    area = body.spacing[1] * body.spacing[2]
    planes = [_spots(plane & (hu < AIRWAY_HU), hu) for plane, hu in zip(air, small, strict=True)]
    best: Chain = []
    started: set[tuple[int, int]] = set()
    for k in range(len(planes) - 1, -1, -1):
        sizes = planes[k].counts * area
        for label in np.flatnonzero((sizes >= AIRWAY_MM2[0]) & (sizes <= AIRWAY_MM2[1])):
            if (k, int(label)) in started or not _is_lumen(planes[k], int(label), k, body, spine):
                continue
            chain = _followed(planes, k, int(label), area, started)
            if len(chain) * body.spacing[0] >= AIRWAY_LENGTH and len(chain) > len(best):
                best = chain
    if not best:
        return None
    out = np.zeros_like(air)
    for k, labels in best:
        out[k] = ndimage.binary_dilation(np.isin(planes[k].labels, labels)) & air[k]
    return out


def _spots(dark: Bools, hu: NDArray[np.int16]) -> _Spots:
    found: Any = ndimage.label(dark)
    counts = np.bincount(found[0].ravel())
    counts[0] = 0
    return _Spots(found[0], counts, hu)


def _is_lumen(spots: _Spots, label: int, k: int, body: Body, spine: NDArray[np.float64] | None) -> bool:
    """Round, dark, in the middle third of the body, and where a trachea runs.

    That is 15 to 85 mm in front of the spinal canal, no more than 35 mm to its side.
    """
    rows, columns = np.nonzero(spots.labels == label)
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    across = np.flatnonzero(body.solid[k].any(axis=0))
    place = (columns.mean() - across[0]) / max(1.0, float(np.ptp(across)))
    if not (len(rows) / box > 0.5 and 0.3 < place < 0.7 and spots.median(label) < -900.0):
        return False
    if spine is None or not spine[0, 0] <= k <= spine[-1, 0]:
        return True
    _, dy, dx = body.spacing
    row, column = (np.interp(k, spine[:, 0], spine[:, c]) for c in (1, 2))
    return bool(15.0 < (row - rows.mean()) * dy < 85.0 and abs(columns.mean() - column) * dx < 35.0)


def _followed(planes: list[_Spots], k: int, label: int, area: float, started: set[tuple[int, int]]) -> Chain:
    """The spot and what it overlaps in the planes below, until it ends, leaks or loses its shape."""
    chain: Chain = [(k, np.array([label]))]
    usual = float(planes[k].counts[label]) * area
    while k > 0:
        above = np.isin(planes[k].labels, chain[-1][1])
        k -= 1
        touched = np.unique(planes[k].labels[above])
        narrow = touched[(touched > 0) & (planes[k].counts[touched] * area < max(1.8 * usual, 150.0))]
        dark = np.array([n for n in narrow if planes[k].median(int(n)) < -880.0], dtype=np.intp)
        if not dark.size:
            break
        started.update((k, int(n)) for n in dark)
        chain.append((k, dark))
        usual = 0.7 * usual + 0.3 * float(planes[k].counts[dark].sum()) * area
    return chain
