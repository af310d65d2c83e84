"""Whether numbers are Hounsfield units: refused where they cannot be, flagged where they seem to be off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

SOFT = (-30.0, 140.0)
"""HU between which soft tissue peaks: in 109 CTs of heads and necks between 12 and 63, in four others up to 108."""
SEARCHED = (-350.0, 450.0)
BIN, SMOOTH = 5.0, 15.0
"""HU of a bin of the histogram, and standard deviation of what smooths it."""
PEAK = 0.3
"""Of the highest peak: what is lower is none. In a patient of much fat muscle is the lower one."""


def no_hounsfield(hu: Floats) -> str | None:
    """Why an image cannot be a CT in HU; None where it may be one."""
    low, middle, high = (float(v) for v in np.percentile(hu, (0.5, 50, 99.5)))
    if float(hu.max()) - float(hu.min()) < 1:
        return f"the image is constant ({low:.0f})"
    if low > -50:
        return f"the numbers are no Hounsfield units: neither air nor fat (lowest {low:.0f}, median {middle:.0f})"
    if high < -300:
        return f"nothing in the image is as dense as a body (99.5 % are below {high:.0f} HU)"
    return None


def shifted(hu: Floats) -> str | None:
    """What is odd about where soft tissue lies: a cone beam's drift, a wrong rescale; None where nothing is."""
    peak = soft_tissue(hu)
    if peak is None or SOFT[0] <= peak <= SOFT[1]:
        return None
    return (
        f"soft tissue lies at {peak:.0f} HU where {SOFT[0]:.0f} to {SOFT[1]:.0f} are usual: the numbers seem to be shifted"
    )


def soft_tissue(hu: Floats) -> float | None:
    """HU of the densest peak between fat and bone; None where there is too little to tell."""
    low, high = SEARCHED
    values = hu[(hu > low) & (hu < high)]
    if values.size < 1000:
        return None
    counts, edges = np.histogram(values, np.arange(low, high + BIN, BIN))
    smooth = ndimage.gaussian_filter1d(counts.astype(np.float64), SMOOTH / BIN)
    inner = smooth[1:-1]
    peaks = (inner >= smooth[:-2]) & (inner > smooth[2:]) & (inner >= PEAK * smooth.max())
    found = np.flatnonzero(peaks)
    return float(edges[found[-1] + 1] + BIN / 2) if len(found) else None
