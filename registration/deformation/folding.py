"""Where a field folds, and how it is kept from it: volumes of the cells between its nodes."""

from __future__ import annotations

import torch
import torch.nn.functional as nn

from registration.deformation.nodes import Tensor, smoothed

LEAST_VOLUME = 0.05
"""No cell of the field that is given back shrinks below this part."""


def unfolded(nodes: Tensor, spacing: int, rounds: int = 100) -> Tensor:
    """The field (pixels) smoothed where a cell's volume, measured at any of its corners, falls below `LEAST_VOLUME`."""
    for _ in range(rounds):
        low = _least_volume(nodes / spacing) < LEAST_VOLUME
        if not bool(low.any()):
            break
        near = nn.max_pool3d(low.float()[None, None], 3, stride=1, padding=1)[0]
        nodes = nodes + near * (smoothed(nodes) - nodes)
    return nodes


def _least_volume(field: Tensor) -> Tensor:
    """Of each node, the least volume of the eight cells around it (field in node distances)."""
    least = volumes(field, 0)
    for corner in range(1, 8):
        least = torch.minimum(least, volumes(field, corner))
    return least


def volumes(field: Tensor, corner: int) -> Tensor:
    """Determinants of the map's derivative at each node, by differences to its neighbours on the side of a corner (0-7)."""
    framed = nn.pad(field[None], (1,) * 6, mode="replicate")[0]
    inner = slice(1, -1)
    middle = framed[(slice(None), inner, inner, inner)]
    slopes: list[Tensor] = []
    for axis in range(3):
        side = [inner] * 3
        ahead = bool(corner >> axis & 1)
        side[axis] = slice(None, -2) if ahead else slice(2, None)
        beside = framed[(slice(None), *side)]
        unit = torch.zeros(3, 1, 1, 1, device=field.device)
        unit[axis] = 1.0
        slopes.append((middle - beside if ahead else beside - middle) + unit)
    a, b, c = slopes
    return (a * torch.cross(b, c, dim=0)).sum(dim=0)
