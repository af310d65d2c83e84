"""Contours too small to be worth importing, as a template says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contour.engine import Flag
from patient.structures import Loop

CODE = "small_contours"


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
    lost = float(areas[small].sum()) * slice_mm / 1000
    said = f"{int(small.sum())} of {len(loops)} contours smaller than {least_mm2:g} mm2 were left out ({lost:.2f} cc)"
    return tuple(loop for loop, gone in zip(loops, small, strict=True) if not gone), (Flag(CODE, said),)
