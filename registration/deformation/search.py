"""The discrete search: every displacement of a window at once, neighbours coupled convexly.

Heinrich 2014, MICCAI 8674:57; Siebert 2022, LNCS 13166:174.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nn

from registration.deformation.nodes import Tensor, at_places, grown, node_indices, smoothed

SEARCHES = ((12, 4), (12, 2), (6, 4), (4, 3), (3, 2), (2, 1))
"""(pixels of a cell, steps to either side) of the discrete searches: 96 mm in cells of 24, and so on down to 4 in 4."""
COUPLINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""How strongly a cell is held to its neighbours' mean, from round to round."""
INERTIA = 0.03
"""What a displacement costs by itself, times its square in cells: where nothing is to be seen, noise moves nothing."""


@dataclass(frozen=True)
class Cells:
    """An image's descriptors by cells.

    Args:
        values: `[12, z, y, x]`, means of what is valid.
        share: `[z, y, x]`, which part of a cell is.
    """

    values: Tensor
    share: Tensor

    @staticmethod
    def of(values: Tensor, valid: Tensor) -> dict[int, Cells]:
        """Cells of every size that is searched, larger ones from smaller ones.

        Args:
            values: `[12, z, y, x]` by pixels.
            valid: bool `[z, y, x]`.
        """
        sizes = sorted({cell for cell, _ in SEARCHES})
        totals, shares = {1: values * valid}, {1: valid.float()[None]}
        for cell in sizes:
            part = max(size for size in totals if cell % size == 0)
            for known in (totals, shares):
                known[cell] = nn.avg_pool3d(known[part][None], cell // part)[0]
        return {cell: Cells(totals[cell] / shares[cell].clamp(min=0.01), shares[cell][0]) for cell in sizes}


def searched(here: Cells, there: Cells, field: Tensor, cell: int, reach: int) -> Tensor:
    """The field (pixels, by cells) after a discrete search around it in cells, in both directions, made consistent."""
    a, b, seen_share = here.values, there.values, there.share
    places = node_indices(a.shape[1:], a.device)
    so_far = grown(field, a.shape[1:]) / cell
    if bool(so_far.any()):
        b, seen_share = at_places(b, places + so_far), at_places(seen_share[None], places + so_far)[0]
    forth = _coupled(a, b, here.share, seen_share, reach)
    back = _coupled(b, a, seen_share, here.share, reach)
    forth, _ = _consistent(forth, back)
    # p is found at q = p + forth(p) in the warped image, which is the moving one at q + so_far(q).
    return cell * (forth + at_places(so_far, places + forth))


def _coupled(a: Tensor, b: Tensor, known: Tensor, seen: Tensor, reach: int) -> Tensor:
    """Displacements `[3, ...]` in cells: the best of a window for every cell, held to its neighbours' ever more strongly."""
    shape, side = a.shape[1:], 2 * reach + 1
    padded = nn.pad(b[None], (reach,) * 6, mode="replicate")[0]
    present = nn.pad(seen[None, None], (reach,) * 6)[0, 0]
    steps = node_indices((side,) * 3, a.device).reshape(3, -1) - reach
    cost = torch.empty(steps.shape[1], *shape, device=a.device)
    parts = [tuple(slice(o, o + s) for o, s in zip(offset, shape, strict=True)) for offset in np.ndindex(side, side, side)]
    apart, total, held = torch.empty_like(a), torch.zeros(shape, device=a.device), torch.zeros(shape, device=a.device)
    for row, part in zip(cost, parts, strict=True):
        torch.sub(a, padded[(slice(None), *part)], out=apart).abs_()
        torch.sum(apart, dim=0, out=row)
        total.addcmul_(row, present[part])
        held.add_(present[part])
    usual = total / held.clamp(min=1e-6)
    # What leads out of sight costs what a cell's displacements cost on the average: nothing is gained by leaving.
    for row, part in zip(cost, parts, strict=True):
        row.copy_(smoothed((row - usual) * known * present[part]))
    cost += INERTIA * steps.square().sum(dim=0)[:, None, None, None]
    mean = smoothed(steps[:, cost.min(dim=0).indices])
    for strength in COUPLINGS:
        mean = smoothed(_held(cost, steps, mean, strength))
    return mean


def _held(cost: Tensor, steps: Tensor, mean: Tensor, strength: float) -> Tensor:
    """For every cell the displacement of least cost plus squared distance to its neighbours' mean; by planes, for memory."""
    out = torch.empty_like(mean)
    # |step - mean|^2 without |mean|^2, which is the same for all steps: one product of matrices.
    factors = strength * torch.cat([-2.0 * steps, steps.square().sum(dim=0, keepdim=True)]).T
    ones = torch.ones_like(mean[:1])
    for k in range(mean.shape[1]):
        held = torch.cat([mean[:, k], ones[:, k]]).reshape(4, -1)
        best = torch.addmm(cost[:, k].reshape(len(cost), -1), factors, held).min(dim=0).indices
        out[:, k] = steps[:, best].reshape(mean[:, k].shape)
    return out


def _consistent(forth: Tensor, back: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Two fields (cells) made each other's inverse (Christensen 2001, IEEE TMI 20:568)."""
    places = node_indices(forth.shape[1:], forth.device)
    for _ in range(rounds):
        forth, back = 0.5 * (forth - at_places(back, places + forth)), 0.5 * (back - at_places(forth, places + back))
    return forth, back
