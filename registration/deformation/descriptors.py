"""How alike each voxel's neighbours are to each other: MIND-SSC (Heinrich 2013, MICCAI 8149:187)."""

from __future__ import annotations

import torch
import torch.nn.functional as nn

from registration.deformation.nodes import Tensor, smoothed

_NEIGHBOURS = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1))
_PAIRS = ((0, 1), (0, 2), (0, 3), (0, 5), (1, 2), (1, 3), (1, 4), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5))
"""The twelve pairs of the six neighbours that are not opposite each other: at a distance of a face's diagonal."""


def descriptors(image: Tensor, apart: int = 2) -> Tensor:
    """MIND-SSC `[12, z, y, x]`, 0 to 1, float32, of an image `[z, y, x]`; neighbours lie `apart` voxels off."""
    shape = image.shape
    padded = nn.pad(image[None, None], (apart,) * 6, mode="replicate")[0, 0]
    around = [
        padded[tuple(slice(o * apart, o * apart + n) for o, n in zip(offset, shape, strict=True))] for offset in _NEIGHBOURS
    ]
    distances = torch.empty(len(_PAIRS), *shape, dtype=torch.float32, device=image.device)
    for row, (a, b) in zip(distances, _PAIRS, strict=True):
        square = (around[a] - around[b]).square_()
        row.copy_(smoothed(square))
    distances -= distances.amin(dim=0, keepdim=True)
    noise = distances.mean(dim=0, keepdim=True)
    middle = float(noise.mean())
    distances /= noise.clamp_(0.001 * middle, 1000.0 * middle)
    return distances.neg_().exp_()
