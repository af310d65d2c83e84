"""Lungs and main airway: air inside the body, told apart by how it is distributed and where it lies.

Room air in the trachea is darker and rounder than lung; bowel gas is darker and more even. A lung holds vessels, which are
closed in; its side is the patient's side of the other lung, or of the spine where there is only one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.anatomy.body import Body
from contour.anatomy.planes import Bools, closed, eroded, filled
from patient.geometry import Box

GAS = -500.0
"""Between gas and soft tissue."""
GAS_CC = 0.1
"""Smaller pockets are specks."""
SKIN = 4.0
"""mm: what lies nearer to the skin may be the skin's own edge, folds and hair."""
TISSUE = -400.0
"""Between lung and soft tissue."""
LUNG_HU = (-930.0, -450.0)
"""Between these lies a lung's median; gas is darker."""
CUT_LUNG = -905.0
"""What leaves the picture at its sides must be denser than this: cushions are not."""
LEAST_CC = 60.0
"""What is smaller is no lung that anybody would contour without a person's eye."""
THICK = 12.0
"""mm from its surface to its depth: folds of skin and gaps between legs are thinner."""
VESSEL = 5.0
"""Vessels up to twice this (mm) are closed into the lung."""
AIRWAY_HU = -850.0
"""Air in the trachea, after averaging over pixels of 2 mm."""
AIRWAY_MM2 = (40.0, 700.0)
"""A trachea's cross-section."""
AIRWAY_LENGTH = 30.0
"""mm over which it must go on to be believed."""


@dataclass(frozen=True, eq=False)
class Chest:
    """On the body's coarse pixels; None where it is not in the image."""

    left: Bools | None
    right: Bools | None
    trachea: Bools | None
    reason: str


def find_chest(small: NDArray[np.int16], body: Body, spine: NDArray[np.float64] | None) -> Chest:
    """Lungs and trachea.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        body: found before.
        spine: `[n, 3]` coarse (plane, row, column) of the spinal canal's middle, to tell a single lung's side and to know an
            airway from bowel gas; None if unknown.
    """
    inner = eroded(body.solid, SKIN, body.spacing)
    air = inner & (small < TISSUE)
    trachea = _trachea(small, air, body, spine)
    lungs = air if trachea is None else air & ~_grown(trachea, body.spacing, 2.0)
    parts = _lung_parts(lungs, small, body.spacing)
    if not parts.any():
        return Chest(None, None, trachea, "no air-filled space inside the body has a lung's size and density")
    left, right = _sides(parts, body, None if spine is None else float(np.median(spine[:, 2])))
    airway = trachea if trachea is not None else np.zeros_like(air)
    whole = [None if lung is None else _closed(lung, inner & ~airway, body.spacing) for lung in (left, right)]
    if whole[0] is not None and whole[1] is not None:
        whole[0] &= ~whole[1]
    side = (
        "there is air as dense as lung, but nothing tells whether it is one, and on which side"
        if left is None and right is None
        else "no second lung is in the image"
    )
    return Chest(whole[0], whole[1], trachea, side)


def find_gas(small: NDArray[np.int16], body: Body, chest: Chest) -> Bools | None:
    """Airways, sinuses and bowel gas on the body's coarse pixels: what is lighter than tissue and no lung; None without any.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        body, chest: found before.
    """
    gas = eroded(body.solid, SKIN, body.spacing) & (small < GAS)
    for lung in (chest.left, chest.right):
        if lung is not None:
            gas &= ~_grown(lung, body.spacing, max(2.0, *body.spacing))
    labels = cc3d.connected_components(gas, connectivity=6)
    keep = np.bincount(labels.ravel()) * np.prod(body.spacing) / 1000.0 >= GAS_CC
    keep[0] = False
    gas = keep[labels]
    return gas if gas.any() else None


def _lung_parts(air: Bools, small: NDArray[np.int16], spacing: tuple[float, float, float]) -> NDArray[np.uint32]:
    labels = cc3d.connected_components(air, connectivity=6)
    stats = cc3d.statistics(labels)
    volumes = stats["voxel_counts"] * np.prod(spacing) / 1000.0
    keep = np.zeros(len(volumes), dtype=bool)
    for label in np.flatnonzero(volumes > LEAST_CC):
        if label:
            box = stats["bounding_boxes"][label]
            values = small[box][labels[box] == label]
            median, spread = float(np.median(values)), float(np.percentile(values, 90) - np.percentile(values, 10))
            leaves = any((labels[:, side] == label).any() for side in (0, -1)) or any(
                (labels[:, :, side] == label).any() for side in (0, -1)
            )
            darkest = LUNG_HU[0] if not leaves else CUT_LUNG
            deepest = edt.edt(np.ascontiguousarray(labels[box] == label), anisotropy=spacing, black_border=False).max()
            keep[label] = darkest < median < LUNG_HU[1] and spread > 25.0 and deepest > THICK
    return np.where(keep, np.arange(len(keep)), 0).astype(np.uint32)[labels]


def _sides(parts: NDArray[np.uint32], body: Body, spine_x: float | None) -> tuple[Bools | None, Bools | None]:
    """Left and right lung: the largest parts on either side, split where they touch."""
    by_column = {int(n): (parts == n).sum(axis=(0, 1)) for n in np.unique(parts) if n}
    columns = np.flatnonzero(np.add.reduce(list(by_column.values())))
    middle = spine_x if spine_x is not None else (columns[0] + columns[-1]) / 2.0
    width = (columns[-1] - columns[0]) * body.spacing[2]
    whole = not (body.solid[:, :, 0].any() or body.solid[:, :, -1].any())
    centres = {n: float(np.average(np.arange(len(counts)), weights=counts)) for n, counts in by_column.items()}
    # Two lungs that touch are one part, of which at least a fifth lies on either side of the middle.
    astride = any(0.2 < counts[: int(round(middle))].sum() / counts.sum() < 0.8 for counts in by_column.values())
    both = astride or len({c > middle for c in centres.values()}) == 2
    if spine_x is None and not (both and whole and width > 180.0):
        return None, None
    if astride:
        return _split(parts, middle, body.spacing)
    left = np.isin(parts, [n for n, c in centres.items() if c > middle])
    right = np.isin(parts, [n for n, c in centres.items() if c <= middle])
    return (left if left.any() else None), (right if right.any() else None)


def _split(parts: NDArray[np.uint32], middle: float, spacing: tuple[float, float, float]) -> tuple[Bools, Bools]:
    """Lungs that touch, told apart: shrunk until they separate, then each voxel to the nearer core."""
    lungs = parts > 0
    depth = edt.edt(np.ascontiguousarray(lungs), anisotropy=spacing, black_border=False)
    for radius in (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0):
        cores = cc3d.connected_components(depth > radius, connectivity=6)
        counts = np.bincount(cores.ravel())
        counts[0] = 0
        big = [n for n in np.argsort(-counts)[:4] if counts[n] * np.prod(spacing) / 1000.0 > LEAST_CC]
        centre = {n: float(np.mean(np.nonzero(cores == n)[2])) for n in big}
        left, right = [n for n in big if centre[n] > middle], [n for n in big if centre[n] <= middle]
        straddles = any(0.2 < float((np.nonzero(cores == n)[2] < middle).mean()) < 0.8 for n in big)
        if left and right and not straddles:
            to_left = edt.edt(~np.isin(cores, left), anisotropy=spacing)
            to_right = edt.edt(~np.isin(cores, right), anisotropy=spacing)
            return lungs & (to_left < to_right), lungs & (to_left >= to_right)
    columns = np.arange(lungs.shape[2]) > middle
    return lungs & columns, lungs & ~columns


def _grown(mask: Bools, spacing: tuple[float, float, float], mm: float) -> Bools:
    box = Box.of(mask).padded([int(mm / s) + 1 for s in spacing], mask.shape).slices
    out = np.zeros_like(mask)
    out[box] = edt.edt(np.ascontiguousarray(~mask[box]), anisotropy=spacing) <= mm
    return out


def _closed(lung: Bools, within: Bools, spacing: tuple[float, float, float]) -> Bools:
    """Vessels and small consolidations enclosed, plane by plane; specks dropped."""
    out = closed(lung, VESSEL, spacing)
    for k in np.flatnonzero(lung.any(axis=(1, 2))):
        out[k] = (filled(out[k]) | lung[k]) & within[k]
    labels = cc3d.connected_components(out, connectivity=6)
    counts = np.bincount(labels.ravel()) * np.prod(spacing) / 1000.0
    keep = counts > max(1.0, 0.005 * counts[1:].sum())
    keep[0] = False
    return keep[labels]


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


def _trachea(small: NDArray[np.int16], air: Bools, body: Body, spine: NDArray[np.float64] | None) -> Bools | None:
    """The main airway from the larynx to the main bronchi: followed from plane to plane as one round dark spot.

    Below the carina it is two spots; where a spot's area jumps, it has leaked into lung and is given up.
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
