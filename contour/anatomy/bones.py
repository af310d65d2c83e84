"""Bones: dense, connected, with a dense rim somewhere; contrast in vessels and bowel has none."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from contour.anatomy.body import Body

DENSE = 180.0
RIM = 400.0
"""HU that cortical bone reaches and contrast in veins, kidneys and bowel seldom does."""
LEAST_CC = 1.0
RIM_SHARE = 0.03


def find_bones(small: NDArray[np.int16], body: Body) -> NDArray[np.bool_] | None:
    """Bones on the body's coarse pixels; None where there are none.

    Args:
        small: HU `[z, y, x]`, upright, coarse.
        body: found before.
    """
    dense = body.solid & (small > DENSE)
    labels = cc3d.connected_components(dense, connectivity=18)
    counts = np.bincount(labels.ravel())
    rim = np.bincount(labels.ravel(), weights=(small > RIM).ravel(), minlength=len(counts))
    keep = (counts * np.prod(body.spacing) / 1000.0 >= LEAST_CC) & (rim >= RIM_SHARE * counts)
    keep[0] = False
    bones = keep[labels]
    return bones if bones.any() else None
