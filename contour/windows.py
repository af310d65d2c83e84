"""Where a network's windows lie on an image, and how what they say is put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contour.grid import AIR, BODY, Grid

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Run:
    """The windows along one axis: evenly spread, no more than are needed.

    Args:
        spans: the voxels of each.
        shares: `[window, voxel]`, how much each has to say of a voxel: falling towards its ends where it meets a neighbour;
            they add up to 1.
    """

    spans: tuple[slice, ...]
    shares: Floats

    @staticmethod
    def over(size: int, patch: int, overlap: float) -> Run:
        """Windows of `patch` over `size` voxels; an axis shorter than a window has one that reaches beyond it."""
        common = min(patch - 1, round(overlap * patch))
        needed = 1 if size <= patch else -(-(size - common) // (patch - common))
        starts = np.rint(np.linspace(0, max(0, size - patch), needed)).astype(int)
        voxels = np.arange(max(size, patch))[None]
        inside = np.minimum(voxels - starts[:, None], starts[:, None] + patch - 1 - voxels) + 0.5
        shares = np.clip(inside / max(1, common), 0.0, 1.0)
        spans = tuple(slice(int(s), int(s) + patch) for s in starts)
        return Run(spans, (shares / shares.sum(axis=0)).astype(np.float32))


def probabilities(
    hu: Floats,
    grid: Grid,
    prepare: Callable[[Floats], Floats],
    forward: Callable[[Tensor], Tensor],
    channels: Sequence[int],
    device: str = "cpu",
    before_each: Callable[[float], None] = lambda done: None,
    whole: bool = False,
) -> Floats:
    """What a network says of an image that is on its grid: `[channel, ...]`, 0 to 1.

    Args:
        hu: on the network's grid.
        channels: of the network's outputs, those that are wanted.
        before_each: called with the share that is done, before each window.
        whole: the image is prepared at once, not window by window.
    """
    runs = [Run.over(n, p, grid.overlap) for n, p in zip(hu.shape, grid.patch, strict=True)]
    frame = [(0, max(0, p - n)) for n, p in zip(hu.shape, grid.patch, strict=True)]
    framed = np.pad(hu, frame, constant_values=AIR)
    prepared = np.pad(prepare(hu), [(0, 0), *frame], mode="edge") if whole else None
    out = torch.zeros((len(channels), *framed.shape), dtype=torch.float32)
    picked = torch.tensor(list(channels))
    places = [place for place in product(*(range(len(run.spans)) for run in runs)) if _shows_something(framed, runs, place)]
    with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=_fast_bf16(device)):
        for n, place in enumerate(places):
            before_each(n / len(places))
            at = _window(runs, place)
            shown = prepare(framed[at]) if prepared is None else prepared[(slice(None), *at)]
            inputs = torch.from_numpy(np.ascontiguousarray(shown, dtype=np.float32))[None].to(device)
            found = forward(inputs)[0].cpu()[picked].float()
            for axis, (run, p, span) in enumerate(zip(runs, place, at, strict=True)):
                shape = [1, 1, 1, 1]
                shape[axis + 1] = -1
                found = found * torch.from_numpy(run.shares[p, span].copy()).reshape(shape)
            out[(slice(None), *at)] += found
    return out.numpy()[(slice(None), *(slice(0, n) for n in hu.shape))]


def _window(runs: Sequence[Run], place: Sequence[int]) -> tuple[slice, ...]:
    return tuple(run.spans[p] for run, p in zip(runs, place, strict=True))


def _shows_something(framed: Floats, runs: Sequence[Run], place: Sequence[int]) -> bool:
    """Whether there is more than air in a window."""
    return bool((framed[_window(runs, place)] > BODY).any())


def _fast_bf16(device: str) -> bool:
    """Whether 16-bit floats are faster there: only where the processor multiplies them itself."""
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
