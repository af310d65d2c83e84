"""Where a network's windows lie on an image, and how what they say is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contour.grid import AIR, BODY, Grid

Floats = NDArray[np.float32]
LARGEST = 1.5
"""Of a patch: a network that was trained on patches sees hardly worse in windows so much longer."""


@dataclass(frozen=True, eq=False)
class Run:
    """The windows along one axis: all of one length, evenly spread, no more than are needed.

    Args:
        length: voxels of a window.
        starts: where each begins.
        shares: `[window, voxel]`, how much each has to say of a voxel: falling towards its ends where it meets a neighbour;
            they add up to 1.
    """

    length: int
    starts: tuple[int, ...]
    shares: Floats

    @staticmethod
    def over(size: int, patch: int, overlap: float, step: int) -> Run:
        """Windows over `size` voxels; an axis shorter than a window has one that reaches beyond it."""
        common = min(patch - 1, round(overlap * patch))
        lengths = range(patch, int(LARGEST * patch) + 1, step) if step else (patch,)

        def needed(length: int) -> int:
            return 1 if size <= length else -(-(size - common) // (length - common))

        length = min(lengths, key=lambda n: (n * needed(n), n))
        starts = np.rint(np.linspace(0, max(0, size - length), needed(length))).astype(int)
        voxels = np.arange(max(size, length))[None]
        inside = np.minimum(voxels - starts[:, None], starts[:, None] + length - 1 - voxels) + 0.5
        shares = np.clip(inside / max(1, common), 0.0, 1.0)
        return Run(length, tuple(int(s) for s in starts), (shares / shares.sum(axis=0)).astype(np.float32))


def probabilities(
    hu: Floats,
    grid: Grid,
    prepare: Callable[[Floats], Floats],
    forward: Callable[[Tensor], Tensor],
    channels: Sequence[int],
    device: str = "cpu",
    before_each: Callable[[float], None] = lambda done: None,
) -> Floats:
    """What a network says of an image that is on its grid: `[channel, ...]`, 0 to 1.

    Args:
        hu: on the network's grid.
        channels: of the network's outputs, those that are wanted.
        before_each: called with the share that is done, before each window.
    """
    runs = [Run.over(n, p, grid.overlap, grid.step) for n, p in zip(hu.shape, grid.patch, strict=True)]
    framed = np.pad(hu, [(0, max(0, run.length - n)) for run, n in zip(runs, hu.shape, strict=True)], constant_values=AIR)
    out = torch.zeros((len(channels), *framed.shape), dtype=torch.float32)
    places = list(_places(runs, framed))
    picked = torch.tensor(list(channels))
    with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=_fast_bf16(device)):
        for n, place in enumerate(places):
            before_each(n / len(places))
            at = tuple(slice(run.starts[p], run.starts[p] + run.length) for run, p in zip(runs, place, strict=True))
            inputs = torch.from_numpy(np.ascontiguousarray(prepare(framed[at]), dtype=np.float32))[None].to(device)
            found = forward(inputs)[0].cpu()[picked].float()
            for axis, (run, p, span) in enumerate(zip(runs, place, at, strict=True)):
                shape = [1, 1, 1, 1]
                shape[axis + 1] = run.length
                found = found * torch.from_numpy(run.shares[p, span].copy()).reshape(shape)
            out[(slice(None), *at)] += found
    return out.numpy()[(slice(None), *(slice(0, n) for n in hu.shape))]


def _places(runs: Sequence[Run], framed: Floats) -> Iterator[tuple[int, ...]]:
    """The windows that show something besides air."""
    for place in product(*(range(len(run.starts)) for run in runs)):
        at = tuple(slice(run.starts[p], run.starts[p] + run.length) for run, p in zip(runs, place, strict=True))
        if (framed[at] > BODY).any():
            yield place


def _fast_bf16(device: str) -> bool:
    """Whether 16-bit floats are faster there: only where the processor multiplies them itself."""
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
