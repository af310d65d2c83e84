"""Slices that were left out in drawing: a structure with a contour on every second slice is a whole one all the same.

One rule for everybody who fills, measures or carries a structure over: where no two contours lie closer than n slices
(n > 1), it was drawn on every n-th slice, and the slices between two contours n apart are interpolated. Wider steps, and any
slice without contour in a structure that has contours on neighbouring slices, are gaps that were meant.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patient.drawn import by_slice, near_distance
from patient.geometry import Box, Geometry
from patient.outline import loops_of_field, mask_of_region
from patient.region import Region
from patient.structures import Loop
from patient.volume import Field, Level, Volume

FURTHEST_MM = 10.0
"""Contours further apart are parts of their own: nobody can tell what lies between."""
FEWEST = 3
"""Contours, so that their distance is no accident."""


def drawn_every(steps: ArrayLike, spacing: float) -> int:
    """Every how many slices a structure was drawn: 1 where neighbouring slices have contours, or where nobody can tell.

    Args:
        steps: from each slice with contours to the next one, in slices.
        spacing: mm between slices.
    """
    steps = np.asarray(steps)
    least = int(np.rint(steps.min())) if len(steps) >= FEWEST - 1 else 1
    return least if least > 1 and least * spacing <= FURTHEST_MM else 1


def completed(region: Region, grid: Geometry) -> Region:
    """A region with loops on the slices that were left out in drawing.

    Between two contours their signed distances are interpolated linearly (shape-based interpolation, Raya and Udupa 1990,
    IEEE Trans Med Imaging 9:32); beyond the first and the last nothing is added.

    Args:
        grid: of the image it was drawn on. Where its slices are not evenly spaced, nobody can tell a habit from a gap:
            nothing is added.
    """
    if len(region.loops) < FEWEST or grid.slices is not None:
        return region
    slices = by_slice(region.loops, grid)
    used = sorted(slices)
    every = drawn_every(np.diff(used), grid.spacing[0])
    if every == 1:
        return region
    part, inside = _filled(region, grid)
    first = grid.box_of(part).start[0]
    known = range(first, first + part.shape[0])
    made: dict[int, list[Loop]] = {}
    for a, b in pairwise(used):
        if b - a == every and a in known and b in known:
            low, high = (near_distance(slices[k], np.inf, inside[k - first], part) for k in (a, b))
            made |= by_slice(_between(low, high, part, a - first, b - first), grid)
    return replace(
        region, loops=(*region.loops, *(loop for loops in made.values() for loop in loops)), interpolated=len(made)
    )


def _filled(region: Region, grid: Geometry) -> tuple[Geometry, NDArray[np.bool_]]:
    """The grid around a region, with two pixels of margin, and what of it is inside."""
    mask = mask_of_region(region, grid)
    part = grid.cropped(grid.box_of(mask.geometry).padded((0, 2, 2), grid.shape))
    return part, mask.placed_in(part).array


def _between(low: NDArray[np.float32], high: NDArray[np.float32], part: Geometry, a: int, b: int) -> tuple[Loop, ...]:
    """Loops on the slices between `a` and `b`, whose distances are given."""
    share = (np.arange(a + 1, b, dtype=np.float32) - a) / (b - a)
    values = (low + share[:, None, None] * (high - low)).astype(np.float32)
    there = part.cropped(Box((a + 1, 0, 0), (b, *part.shape[1:])))
    return loops_of_field(Field(Volume(values, there), Level.DISTANCE))
