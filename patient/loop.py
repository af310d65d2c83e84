"""A closed planar contour, as a person drew it or an engine made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLOSED_PLANAR = "CLOSED_PLANAR"


@dataclass(frozen=True, eq=False)
class Loop:
    """One closed loop on one plane (the last point joins the first; the first is not repeated).

    Args:
        points: `[n, 3]` float64, LPS mm.
        image_uid: SOP Instance UID of the plane it lies on; empty where nobody said.
        kind: Contour Geometric Type (PS3.3 C.8.8.6.1).
        digits: the Contour Data as it was read, to be written back digit for digit; empty for a loop that we made.
        tolerance: mm within which a loop that we made follows the surface it was made from.
    """

    points: NDArray[np.float64]
    image_uid: str = ""
    kind: str = CLOSED_PLANAR
    digits: bytes = b""
    tolerance: float = 0.0
