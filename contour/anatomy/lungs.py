"""Lungs and main airway: air inside the body, told apart by how it is distributed and where it lies.

Room air in the trachea is darker and rounder than lung; bowel gas is darker and more even. A lung holds vessels, which are
closed in; its side is the patient's side of the other lung, or of the spine where there is only one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

from contour.anatomy.airway import find_airway
from contour.anatomy.body import Body
from contour.anatomy.gas import PURE, SKIN, grown, without_pockets
from contour.anatomy.planes import Bools, Spacing, closed, eroded, filled
from patient.geometry import Box

TISSUE = -400.0
"""Between lung and soft tissue."""
DENSEST = -450.0
"""A lung's median lies below."""
TEXTURE = 0.2
"""Share of a lung's inside that is denser than gas: emphysema measures 0.3 and more, bowel at most 0.1."""
INSIDE = 6.0
"""mm from its surface, from which on it is looked at."""
CUT_LUNG = -905.0
"""What leaves the picture at its back is lung from this median on: cushions and the air under the patient are not."""
LEAST_CC = 60.0
"""What is smaller is no lung by itself."""
THICK = 12.0
"""mm from its surface to its depth: folds of skin and gaps between legs are thinner."""
PIECE_CC = 1.0
"""Of a lung that tumour or collapse parts: smaller pieces are not looked for."""
PIECE_THICK = 4.0
"""mm from a piece's surface to its depth."""
MEDIASTINUM = 20.0
"""mm to either side of the spine within which a piece is oesophagus or bronchus rather than lung."""
VESSEL = 5.0
"""Vessels up to twice this (mm) are closed into the lung."""


@dataclass(frozen=True, eq=False)
class Chest:
    """On the body's coarse pixels; None where it is not in the image."""

    left: Bools | None
    right: Bools | None
    trachea: Bools | None
    reason: str
    doubtful: bool = False
    """There is something like a lung, and nobody knows which."""

    @property
    def lungs(self) -> tuple[Bools, ...]:
        """Those that there are."""
        return tuple(lung for lung in (self.left, self.right) if lung is not None)


def find_chest(small: NDArray[np.int16], body: Body, spine: NDArray[np.float64] | None) -> Chest:
    """Lungs and trachea.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        body: found before.
        spine: `[n, 3]` coarse (plane, row, column) of the spinal canal's middle, to tell a single lung's side and to know an
            airway from bowel gas; None if unknown.
    """
    box = body.coarse_box
    part = replace(body, solid=np.ascontiguousarray(body.solid[box.slices]))
    seen = None if spine is None else spine - box.start
    chest = _chest(np.ascontiguousarray(small[box.slices]), part, seen)

    def whole(found: Bools | None) -> Bools | None:
        if found is None:
            return None
        out = np.zeros(small.shape, dtype=bool)
        out[box.slices] = found
        return out

    return replace(chest, left=whole(chest.left), right=whole(chest.right), trachea=whole(chest.trachea))


def _chest(small: NDArray[np.int16], body: Body, spine: NDArray[np.float64] | None) -> Chest:
    """As `find_chest`, of the part of the image that shows the body."""
    inner = eroded(body.solid, SKIN, body.spacing)
    air = inner & (small < TISSUE)
    trachea = find_airway(small, air, body, spine)
    lungs = air if trachea is None else air & ~grown(trachea, body.spacing, 2.0)
    lungs = without_pockets(lungs, small, body)
    labels = cc3d.connected_components(lungs, connectivity=6)
    parts = _lung_parts(labels, small, body.spacing)
    if not parts.any():
        return Chest(None, None, trachea, "no air-filled space inside the body has a lung's size and density")
    middle = None if spine is None else float(np.median(spine[:, 2]))
    found = _sides(parts, body, middle)
    if middle is not None:
        found = _with_pieces(found, np.where(parts > 0, 0, labels), small, body.spacing, middle)
    gas = air & ~lungs
    left, right = (None if lung is None else _closed(lung, inner & ~gas, body.spacing) for lung in found)
    if left is not None and right is not None:
        left &= ~right
    if left is None and right is None:
        said = "there is air as dense as lung, but nothing tells whether it is one, and on which side"
        return Chest(None, None, trachea, said, doubtful=True)
    return Chest(left, right, trachea, "no second lung is in the image")


def _lung_parts(labels: NDArray[Any], small: NDArray[np.int16], spacing: Spacing) -> NDArray[np.uint32]:
    """Of pieces of air those that are a lung, or both, by themselves."""
    stats = cc3d.statistics(labels)
    volumes = stats["voxel_counts"] * np.prod(spacing) / 1000.0
    volumes[0] = 0.0
    keep = np.zeros(len(volumes), dtype=bool)
    for label in np.flatnonzero(volumes > LEAST_CC):
        box = stats["bounding_boxes"][label]
        mask = np.ascontiguousarray(labels[box] == label)
        median = float(np.median(small[box][mask]))
        depth = edt.edt(mask, anisotropy=spacing, black_border=False)
        under = median < CUT_LUNG and box[1].stop == labels.shape[1]
        keep[label] = median < DENSEST and not under and depth.max() > THICK and _texture(small[box], depth) > TEXTURE
    return np.where(keep, np.arange(len(keep)), 0).astype(np.uint32)[labels]


def _texture(small: NDArray[np.int16], depth: NDArray[np.float32]) -> float:
    """Share of what lies deep inside that is denser than gas."""
    return float((small[depth > min(INSIDE, 0.5 * float(depth.max()))] > PURE).mean())


def _with_pieces(
    found: tuple[Bools | None, Bools | None],
    labels: NDArray[Any],
    small: NDArray[np.int16],
    spacing: Spacing,
    middle: float,
) -> tuple[Bools | None, Bools | None]:
    """Lungs with what tumour or collapse has parted from them: pieces as light as lung that lie on top of one.

    What lies under a lung may be bowel as well, and is left to a person.
    """
    stats = cc3d.statistics(labels)
    volumes = stats["voxel_counts"] * np.prod(spacing) / 1000.0
    volumes[0] = 0.0
    left, right = (None if lung is None else lung.copy() for lung in found)
    for label in np.flatnonzero(volumes > PIECE_CC):
        box, (_, _, x) = stats["bounding_boxes"][label], stats["centroids"][label]
        own = left if x > middle else right
        cut = box[1].stop == labels.shape[1] or box[2].start == 0 or box[2].stop == labels.shape[2]
        if own is None or cut or abs(x - middle) * spacing[2] < MEDIASTINUM:
            continue
        mask = np.ascontiguousarray(labels[box] == label)
        depth = edt.edt(mask, anisotropy=spacing, black_border=False)
        columns = np.any(mask, axis=0)
        below = np.any(own[: box[0].start + 1, box[1], box[2]], axis=0) & columns
        on_top = below.sum() > 0.5 * columns.sum()
        if on_top and depth.max() > PIECE_THICK and _texture(small[box], depth) > TEXTURE:
            own[box] |= mask
    return left, right


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


def _split(parts: NDArray[np.uint32], middle: float, spacing: Spacing) -> tuple[Bools, Bools]:
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


def _closed(lung: Bools, within: Bools, spacing: Spacing) -> Bools:
    """Vessels and small consolidations enclosed, plane by plane; specks dropped."""
    box = Box.of(lung).slices
    own, inside = lung[box], within[box]
    part = closed(own, VESSEL, spacing)
    for k in np.flatnonzero(own.any(axis=(1, 2))):
        part[k] = (filled(part[k]) | own[k]) & inside[k]
    labels = cc3d.connected_components(part, connectivity=6)
    counts = np.bincount(labels.ravel()) * np.prod(spacing) / 1000.0
    keep = counts > max(1.0, 0.005 * counts[1:].sum())
    keep[0] = False
    out = np.zeros_like(lung)
    out[box] = keep[labels]
    return out
