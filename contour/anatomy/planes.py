"""Morphology with discs, plane by plane: what is asked of every plane of a stack and must cost next to nothing.

Discs are given in mm and hold every pixel whose centre lies within the radius, so that an erosion by `mm` leaves exactly the
pixels that are deeper than `mm` in the plane's distance transform. The picture's side counts as inside when eroding and as
outside when dilating.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Bools = NDArray[np.bool_]
Spacing = tuple[float, float, float]


def dilated(stack: Bools, mm: float, spacing: Spacing) -> Bools:
    """Every pixel within `mm` of one of the mask's, in its plane.

    Args:
        stack: `[z, y, x]`.
        mm: radius of the disc.
        spacing: mm of a voxel (z, y, x).
    """
    out = np.empty_like(stack)
    for plane, result in zip(stack, out, strict=True):
        _spread(plane, result, mm, spacing)
    return out


def eroded(stack: Bools, mm: float, spacing: Spacing) -> Bools:
    """Every pixel farther than `mm` from all that is not the mask's, in its plane."""
    out = np.empty_like(stack)
    for plane, result in zip(stack, out, strict=True):
        _spread(~plane, result, mm, spacing)
        np.logical_not(result, out=result)
    return out


def closed(stack: Bools, mm: float, spacing: Spacing) -> Bools:
    """Dilated and eroded: gaps up to `2 mm` wide are gone; the picture's side closes nothing."""
    (rows, columns) = (int(mm / spacing[1]) + 1, int(mm / spacing[2]) + 1)
    framed = np.pad(stack, ((0, 0), (rows, rows), (columns, columns)))
    return eroded(dilated(framed, mm, spacing), mm, spacing)[:, rows:-rows, columns:-columns]


def _spread(plane: Bools, out: Bools, mm: float, spacing: Spacing) -> None:
    """A disc's dilation as few runs: rows widened once for each half width, then combined at their heights."""
    _, dy, dx = spacing
    heights = range(int(mm / dy + 1e-9) + 1)
    reach = [int(np.sqrt(max(0.0, mm * mm - (h * dy) ** 2)) / dx + 1e-9) for h in heights]
    wide, width = plane.copy(), 0
    out[...] = False
    for h in reversed(heights):
        while width < reach[h]:
            width += 1
            wide[:, width:] |= plane[:, :-width]
            wide[:, :-width] |= plane[:, width:]
        if h == 0:
            out |= wide
        elif h < len(plane):
            out[h:] |= wide[:-h]
            out[:-h] |= wide[h:]


def holes(mask: Bools) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """What a plane's mask leaves free, in pieces, and which of them it encloses.

    Returns:
        Labels of the free pieces (0 where the mask is) and, by label, whether no side of the picture is touched.
    """
    labels, count = _labelled(~mask)
    enclosed = np.ones(count + 1, dtype=np.bool_)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        enclosed[side] = False
    enclosed[0] = False
    return labels, enclosed


def filled(mask: Bools) -> Bools:
    """A plane's mask with what it encloses."""
    labels, enclosed = holes(mask)
    return mask | enclosed[labels] if enclosed.any() else mask


def _labelled(mask: Bools) -> tuple[NDArray[np.int32], int]:
    found: Any = ndimage.label(mask)
    return found
