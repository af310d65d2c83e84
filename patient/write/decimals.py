"""Numbers as Decimal Strings (PS3.5 6.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from patient.errors import OutputRefused

DS_CHARACTERS = 16


def decimals(values: ArrayLike) -> list[str]:
    """Decimal Strings: fixed point, no exponent, no minus zero, as many digits as 16 characters hold.

    Raises:
        OutputRefused: that leaves fewer than 5 decimals.
    """
    out: list[str] = []
    for value in np.asarray(values, dtype=np.float64).ravel().tolist():
        places = DS_CHARACTERS - len(f"{value:.0f}.")
        if not np.isfinite(value) or places < 5:
            raise OutputRefused(f"{value} cannot be written as a Decimal String")
        text = f"{value:.{places}f}".rstrip("0").rstrip(".")
        out.append("0" if text == "-0" else text)
    return out
