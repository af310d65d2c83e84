"""Closed curves traced through a grid of values: their points where the values bend, few of them, the area kept.

Straight lines between points of a round curve lie inside of it: by 0.02 mm, or half a percent of the volume of a ball of
15 mm. So crossings are found on the cubic between pixels, and a simplified ring is put outward by what its chords cut off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
ROUNDING = 1e-6
"""Pixels."""
SHARP = 1.0
"""1 + the cosine of the turn at a point, from which on it is a corner."""


def at_bends(ring: Points, plane: Points) -> Points:
    """A ring (x, y) of linear crossings of pixel edges, moved along these to where the cubic through four pixels is 0.

    Where second differences of both sides differ in sign (an edge of a probability) nothing bends, and nowhere so much that
    the values would turn between two pixels.

    Args:
        plane: values `[y, x]` that it was traced through, with a frame that says nothing.
    """
    moved = ring.copy()
    for axis, values in ((0, plane), (1, plane.T)):
        along, line = ring[:, axis], np.rint(ring[:, 1 - axis]).astype(np.intp)
        first = np.floor(along).astype(np.intp)
        between = np.abs(along - np.rint(along)) > np.abs(ring[:, 1 - axis] - line) + ROUNDING
        at = np.flatnonzero(between & (first >= 2) & (first < values.shape[1] - 3))
        i, j, share = first[at], line[at], along[at] - first[at]
        before, a, b, after = (values[j, i + n] for n in (-1, 0, 1, 2))
        low, high = before - 2 * a + b, a - 2 * b + after
        least = np.minimum.reduce([np.abs(low), np.abs(high), np.abs(b - a)])
        bend = np.where(low * high > 0, np.sign(low) * least, 0) / 2
        way = bend * share * (1 - share) / (b - a - bend * (1 - 2 * share))
        moved[at, axis] = i + np.clip(share + way, 0.5 * share, 0.5 + 0.5 * share)
    return moved


def area(ring: Points) -> float:
    """Signed area (shoelace) of a ring `[n, 2]`, first point not repeated."""
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1])


def smooth_area(ring: Points) -> float:
    """Signed area of a curve through a closed ring's points: over an edge of length L it holds L³/12 of its curvature."""
    edges = np.diff(ring, axis=0)
    length = np.hypot(*edges.T)
    edges, length = edges[length > 0], length[length > 0]
    before, shorter = np.roll(edges, 1, axis=0), np.roll(length, 1)
    turn = np.arctan2(before[:, 0] * edges[:, 1] - before[:, 1] * edges[:, 0], (before * edges).sum(axis=1))
    bent = 2 * turn / (length + shorter)
    return area(ring[:-1]) + float((length**3 * (bent + np.roll(bent, -1))).sum()) / 24


def enclosing(ring: Points, wanted: float, most: float) -> Points:
    """A closed ring with all edges put outward, in parallel, until it has the area that is wanted; by `most` at most."""
    edges = np.diff(ring, axis=0)
    length = np.hypot(*edges.T)
    normals = np.column_stack([edges[:, 1], -edges[:, 0]]) / np.maximum(length, 1e-9)[:, None]
    both = normals + np.roll(normals, 1, axis=0)
    opening = np.maximum((both * both).sum(axis=1) / 2, SHARP)
    outward = float(np.clip((wanted - area(ring[:-1])) / length.sum(), -most, most))
    moved = ring[:-1] + outward * both / opening[:, None]
    return np.concatenate([moved, moved[:1]])
