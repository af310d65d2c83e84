"""Arrays between the nodes of their grid: several of one grid at once, as finding where a point lies is half of the work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PIECE = 40_000
"""Points that callers give at once: what they need then stays in a core's cache."""


def interpolated(arrays: Sequence[Floats], at: NDArray[np.float64]) -> list[Floats]:
    """Trilinear values of each array, `[n]` float32.

    Args:
        arrays: `[z, y, x]`, all of one shape; contiguous, or each is copied.
        at: indices `[3, n]` (k, j, i), none beyond the outermost nodes.
    """
    shape = arrays[0].shape
    top = np.maximum(np.array(shape) - 2, 0)[:, None]
    low = np.minimum(at.astype(np.int32), top.astype(np.int32))
    part = (at - low).astype(np.float32)
    flat = ((low[0] * shape[1] + low[1]) * shape[2] + low[2]).astype(np.intp)
    k, j, i = (step if size > 1 else 0 for step, size in zip((shape[1] * shape[2], shape[2], 1), shape, strict=True))
    corners = [flat + (a + b + c) for a in (0, k) for b in (0, j) for c in (0, i)]
    return [_joined([array.ravel().take(corner) for corner in corners], part[::-1]) for array in arrays]


def _joined(values: list[Floats], parts: Floats) -> Floats:
    """Neighbours two by two along one axis after the other, the fastest first."""
    for part in parts:
        pairs = list(zip(values[::2], values[1::2], strict=True))
        for low, high in pairs:
            high -= low
            high *= part
            high += low
        values = [high for _, high in pairs]
    return values[0]


def gradient_at(values: Floats, at: NDArray[np.intp], spacing: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivative `[n, 3]` per mm along k, j, i at nodes, by central differences; one-sided at the border.

    Args:
        values: `[z, y, x]`.
        at: indices `[n, 3]` (k, j, i).
        spacing: mm between nodes along each axis.
    """
    strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
    flat, index = values.ravel(), at @ strides
    out = np.empty(at.shape)
    for axis, stride in enumerate(strides):
        before, after = at[:, axis] > 0, at[:, axis] < values.shape[axis] - 1
        step = (before.astype(np.int8) + after) * spacing[axis]
        out[:, axis] = (flat.take(index + after * stride) - flat.take(index - before * stride)) / np.maximum(step, 1e-9)
    return out
