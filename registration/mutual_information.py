"""How much the numbers of one image tell of another's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normalised_mutual_information(counts: NDArray[np.generic], nothing: float) -> float:
    """(H(a) + H(b)) / H(a, b), 1 to 2 (Studholme 1999, Pattern Recogn 32:71).

    Args:
        counts: `[classes of a, classes of b]`, how many samples fall into each pair; some do.
        nothing: what is said where all samples are of one pair.
    """
    share = counts / counts.sum()
    both = _entropy(share.ravel())
    return (_entropy(share.sum(axis=0)) + _entropy(share.sum(axis=1))) / both if both > 0 else nothing


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
