"""Slices that were left out in drawing: a structure with a contour on every second slice is a whole one all the same.

One rule for everybody who fills, measures or carries a structure over: two contours with slices between them are as close as
this structure's contours ever are, counted in slices or in mm, and what lies between them was left out and is interpolated.
So an organ drawn on every n-th slice is whole, and so is one drawn every 6 mm on slices 3 and 6 mm apart. Wider steps, and
any slice without contour in a structure that has contours on neighbouring slices, are gaps that were meant.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patient.geometry import Box, Geometry
from patient.loop import Loop
from patient.manual_contours import by_slice, near_distance
from patient.outline import loops_of_field
from patient.rasterisation import mask_of_region
from patient.region import Region
from patient.slices import SliceStack
from patient.volume import Field, Level, Volume

FURTHEST_MM = 10.0
"""Contours further apart are parts of their own: nobody can tell what lies between."""
FEWEST = 3
"""Contours, so that their distance is no accident."""
ROUNDING_MM = 0.1
"""Two distances that differ by no more are one."""
Floats = NDArray[np.float64]


def left_out(steps: ArrayLike, mm: ArrayLike) -> NDArray[np.bool_]:
    """Between which contours slices were left out in drawing.

    Args:
        steps: from each slice with contours to the next one, in slices.
        mm: the same in mm.
    """
    steps, mm = np.rint(np.asarray(steps)), np.asarray(mm)
    if len(steps) < FEWEST - 1:
        return np.zeros(len(steps), dtype=bool)
    habit = (steps == steps.min()) | (mm <= mm.min() + ROUNDING_MM)
    return habit & (steps > 1) & (mm <= FURTHEST_MM)


def completed(region: Region, grid: Geometry) -> Region:
    """A region with loops on the slices that were left out in drawing.

    Between two contours their signed distances are interpolated linearly (shape-based interpolation, Raya and Udupa 1990,
    IEEE Trans Med Imaging 9:32); beyond the first and the last nothing is added.

    Args:
        grid: of the image it was drawn on.
    """
    if len(region.loops) < FEWEST:
        return region
    stack = SliceStack.of(grid) if grid.slices is not None else None
    flat, loops = (grid, region.loops) if stack is None else (stack.geometry, tuple(stack.loops(region.loops)))
    slices = by_slice(loops, flat)
    used = sorted(slices)
    places = np.arange(flat.shape[0], dtype=np.float64) if stack is None else stack.at
    used = [k for k in used if 0 <= k < len(places)]
    left = left_out(np.diff(used), np.diff(places[used]) * grid.spacing[0])
    if not left.any():
        return region
    part, inside = _filled(Region(loops), flat)
    first = flat.box_of(part).start[0]
    known = range(first, first + part.shape[0])
    made: dict[int, list[Loop]] = {}
    for (a, b), out in zip(pairwise(used), left, strict=True):
        if out and a in known and b in known:
            low, high = (near_distance(slices[k], np.inf, inside[k - first], part) for k in (a, b))
            share = (places[a + 1 : b] - places[a]) / (places[b] - places[a])
            made |= by_slice(_between(low, high, share, part, a - first), flat)
    new = [loop for found in made.values() for loop in found]
    return replace(region, loops=(*region.loops, *(new if stack is None else stack.own(new))), interpolated=len(made))


def _filled(region: Region, grid: Geometry) -> tuple[Geometry, NDArray[np.bool_]]:
    """The grid around a region, with two pixels of margin, and what of it is inside."""
    mask = mask_of_region(region, grid)
    part = grid.cropped(grid.box_of(mask.geometry).padded((0, 2, 2), grid.shape))
    return part, mask.placed_in(part).array


def _between(low: NDArray[np.float32], high: NDArray[np.float32], share: Floats, part: Geometry, a: int) -> tuple[Loop, ...]:
    """Loops on the slices behind `a`, each at its share of the way between two whose distances are given."""
    values = (low + share[:, None, None] * (high - low)).astype(np.float32)
    there = part.cropped(Box((a + 1, 0, 0), (a + 1 + len(share), *part.shape[1:])))
    return loops_of_field(Field(Volume(values, there), Level.DISTANCE))
