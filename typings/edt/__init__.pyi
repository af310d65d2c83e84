from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def edt(
    data: NDArray[Any],
    anisotropy: Sequence[float] | None = ...,
    black_border: bool = ...,
    parallel: int = ...,
) -> NDArray[np.float32]: ...
def sdf(
    data: NDArray[Any],
    anisotropy: Sequence[float] | None = ...,
    black_border: bool = ...,
    parallel: int = ...,
) -> NDArray[np.float32]: ...
