"""Values at nodes, as tensors: between nodes, on more or fewer of them, and smoothed."""

from __future__ import annotations

import torch
import torch.nn.functional as nn

Tensor = torch.Tensor


def grown(field: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A field `[3, ...]` on nodes at cell centres, on more or fewer of them."""
    if tuple(field.shape[1:]) == tuple(shape):
        return field
    return nn.interpolate(field[None], size=tuple(shape), mode="trilinear", align_corners=False)[0]


def at_places(values: Tensor, places: Tensor) -> Tensor:
    """Values `[c, z, y, x]` at fractional indices `[3, ...]`, linear; the border's beyond it."""
    size = torch.tensor(values.shape[1:], dtype=places.dtype, device=places.device).view(3, *(1,) * (places.dim() - 1))
    unit = (2.0 * places / (size - 1).clamp(min=1) - 1.0).flip(0).movedim(0, -1)
    flat, parts = unit.reshape(-1, 3), torch.get_num_threads()
    # torch shares this work out by batches alone, so each core is given a part of the places as its own.
    each = nn.pad(flat, (0, 0, 0, -len(flat) % parts)).reshape(parts, 1, 1, -1, 3)
    every = values[None].expand(parts, *values.shape)
    found = nn.grid_sample(every, each, mode="bilinear", padding_mode="border", align_corners=True)
    return found.movedim(1, 0).reshape(values.shape[0], -1)[:, : len(flat)].reshape(values.shape[0], *places.shape[1:])


def node_indices(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32, device=device) for n in shape), indexing="ij"))


def smoothed(field: Tensor) -> Tensor:
    """Mean of each 3 x 3 x 3 block of `[..., z, y, x]`, borders repeated; one axis after the other."""
    for axis in (-3, -2, -1):
        last = field.shape[axis] - 1
        total = torch.empty_like(field)
        torch.add(field.narrow(axis, 1, last), field.narrow(axis, 0, last), out=total.narrow(axis, 1, last))
        torch.mul(field.narrow(axis, 0, 1), 2.0, out=total.narrow(axis, 0, 1))
        total.narrow(axis, 0, last).add_(field.narrow(axis, 1, last))
        total.narrow(axis, last, 1).add_(field.narrow(axis, last, 1))
        field = total
    return field.div_(27.0)
