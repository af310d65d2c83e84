"""What a network is to look like, planned from what it shall learn: spacing, patch and depth (after nnU-Net, Isensee 2021).

Small on purpose: one resolution, one network, made for two CPU cores. The voxels are the images' own or coarser, so that a
patch shows the surroundings of the largest structure and still some voxels across the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contour.grid import Grid
from contour.patches import OpenEnd
from contour.unet import Architecture

PATCH_VOXELS = 48 * 64 * 64
"""Of a patch: half a second a step on two cores."""
SURROUNDINGS = 1.5
"""A patch is so much longer than the structures, where voxels are coarse enough for it."""
SHORTEST, LONGEST = 120.0, 180.0
"""mm: what tells left from right is farther away than a small organ is long; what is longer (a cord) is learnt in parts."""
LEAST_ACROSS = 5
"""Voxels across the smallest structure."""
FILTERS = (16, 32, 64, 128, 160)
FEWEST_LEVELS = 3
FINE_STEP = 1.05
AS_THEY_ARE = 1.25
"""An image whose voxels differ from the plan's by less than this factor is not resampled."""
OPEN_ENDED = ("SpinalCord", "SpinalCanal", "Esophagus", "Trachea", "A_Aorta", "V_Venacava_S", "V_Venacava_I", "Bowel_Bag")
"""Drawn only as far as the treated region goes: nobody knows whether they go on beyond their last contour."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fingerprint:
    """Of one case, upright.

    Args:
        spacing: mm (z, y, x).
        size: mm (z, y, x) of the image.
        extents: mm (z, y, x) of each structure that is drawn.
    """

    spacing: Triple
    size: Triple
    extents: Mapping[str, Triple]


@dataclass(frozen=True)
class Plan:
    """The network, the grids that it takes as they are, and the structures without natural ends."""

    architecture: Architecture
    finest: Triple
    coarsest: Triple
    open_ends: tuple[OpenEnd, ...]

    @property
    def grid(self) -> Grid:
        """How an image is resampled for the network."""
        return Grid(self.architecture.patch, self.architecture.spacing, self.finest, self.coarsest)


def plan(cases: Sequence[Fingerprint], structures: Sequence[str], patch_voxels: int = PATCH_VOXELS) -> Plan:
    """The plan for these cases; the same for the same ones.

    Raises:
        ValueError: no case, or no structure that any of them has.
    """
    drawn = {name: [case.extents[name] for case in cases if name in case.extents] for name in structures}
    extents = np.array([np.median(held, axis=0) for held in drawn.values() if held])
    if not extents.size:
        raise ValueError("No case has any of the structures")
    spacing, size = (np.median([getattr(case, what) for case in cases], axis=0) for what in ("spacing", "size"))
    wanted = np.minimum(np.clip(extents.max(axis=0) * SURROUNDINGS, SHORTEST, LONGEST), size)
    coarsest = np.maximum(extents.min(axis=0) / LEAST_ACROSS, spacing)
    while np.prod(wanted / spacing) > patch_voxels:
        coarser = [axis for axis in np.argsort(spacing) if spacing[axis] * FINE_STEP <= coarsest[axis]]
        if not coarser:
            break
        spacing[coarser[0]] *= FINE_STEP
    levels, patch = _patch(wanted / spacing, patch_voxels)
    k, j, i = (round(float(s), 3) for s in spacing)
    architecture = Architecture(tuple(structures), (k, j, i), patch, FILTERS[:levels])
    ends = tuple(OpenEnd(name, 1e4, 1e4) for name in structures if name in OPEN_ENDED)
    finest = (k / AS_THEY_ARE, j / AS_THEY_ARE, i / AS_THEY_ARE)
    return Plan(architecture, finest, (k * AS_THEY_ARE, j * AS_THEY_ARE, i * AS_THEY_ARE), ends)


def _patch(wanted: np.ndarray, most: int) -> tuple[int, tuple[int, int, int]]:
    """Levels, and voxels along each axis: as near to what is wanted as whole steps and the budget allow."""
    wanted = wanted * min(1.0, (most / float(np.prod(wanted))) ** (1 / 3))
    levels = next((n for n in range(len(FILTERS), FEWEST_LEVELS, -1) if wanted.min() >= 2 * 2 ** (n - 1)), FEWEST_LEVELS)
    step = 2 ** (levels - 1)
    patch = [max(2 * step, step * round(float(w) / step)) for w in wanted]
    while np.prod(patch) > most and max(patch) > 2 * step:
        patch[int(np.argmax(patch))] -= step
    return levels, (patch[0], patch[1], patch[2])
