"""Contours too small to be worth importing, as a template says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contour.engine import Flag
from patient.loop import Loop

LEFT_OUT = "small_left_out"
"""What the template asks for happened, and took next to nothing of the structure: told, and no reason to look."""
CODE = "small_contours"
"""More than that went, or nothing could: a person should look."""
NOTABLE = 0.001
"""Of a structure's volume."""


def area(loop: Loop) -> float:
    """mm2 that a planar loop encloses, in whatever direction its plane faces; what a keyhole leaves out is not counted."""
    points = loop.points - loop.points[0]
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0))) / 2


def without_small(loops: Sequence[Loop], least_mm2: float, slice_mm: float) -> tuple[tuple[Loop, ...], tuple[Flag, ...]]:
    """The contours of at least so many mm2, and what was left out in words.

    A structure of small contours alone keeps them all.

    Args:
        slice_mm: spacing of the slices, for the volume that is said.
    """
    areas = np.array([area(loop) for loop in loops])
    small = areas < least_mm2
    if not small.any():
        return tuple(loops), ()
    if small.all():
        return tuple(loops), (Flag(CODE, f"every contour is smaller than {least_mm2:g} mm2: all of them were kept"),)
    lost, whole = float(areas[small].sum()), float(areas.sum())
    said = f"{int(small.sum())} of {len(loops)} contours smaller than {least_mm2:g} mm2 were left out"
    cc = f"{lost * slice_mm / 1000:.2f} cc, {100 * lost / whole:.2g} %" if lost else "0 cc"
    flag = Flag(CODE if lost > NOTABLE * whole else LEFT_OUT, f"{said} ({cc})")
    return tuple(loop for loop, gone in zip(loops, small, strict=True) if not gone), (flag,)
