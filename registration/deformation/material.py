"""What holds neighbouring points together: stiffness by tissue, and what the caller wants kept rigid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nn

from patient.geometry import Geometry
from registration.deformation.nodes import Tensor
from registration.method import RegistrationContext
from registration.resampling import resampled_mask
from registration.transforms import Rigid, Space
from registration.working import Working, checked_mask

SLIDING = 0.2
"""Of the way from air to soft tissue: neighbours that differ by more may slide along each other."""
LOOSE = 0.02
"""What holds them still."""
FIRM = 200.0
"""How much stiffer than tissue is what the caller wants kept rigid."""


@dataclass(frozen=True)
class Material:
    """What holds neighbouring points together, on the working grid.

    Args:
        tissue: 0 (air) to 1 (soft tissue and denser); by its own range in an image that is no CT.
        rigid: 1 in what the caller wants kept rigid.
    """

    tissue: Tensor
    rigid: Tensor

    @staticmethod
    def of(pair: Working, whole: Geometry, context: RegistrationContext) -> Material:
        inside = pair.fixed[pair.fixed_valid]
        low, high = (-1000.0, 0.0) if pair.fixed.min() < -700 else (float(v) for v in np.percentile(inside, (0.5, 50.0)))
        tissue = np.clip((pair.fixed - low) / max(high - low, 1.0), 0.0, 1.0).astype(np.float32)
        rigid = np.zeros_like(tissue)
        mask = checked_mask(context.rigid, whole, "rigid structures'")
        if mask is not None:
            space = Space.of(whole)
            rigid = resampled_mask(Rigid.identity(space, space), mask, pair.grid).array.astype(np.float32)
        return Material(*(torch.as_tensor(v, device=context.device) for v in (tissue, rigid)))

    def links(self, shape: tuple[int, ...]) -> list[Tensor]:
        """Along each axis how firmly neighbouring control points hold to each other.

        Hardly, where air or lung meets tissue: there organs slide. Differences among tissues do not count: muscle, fat and
        bone move together. Very firmly inside what is rigid.

        Args:
            shape: of the control points.
        """
        tissue, rigid = (nn.interpolate(v[None, None], size=shape, mode="area")[0, 0] for v in (self.tissue, self.rigid))
        firm: list[Tensor] = []
        for axis in range(3):
            loose = (-(tissue.diff(dim=axis) / SLIDING).square()).exp().clamp(min=LOOSE)
            last = shape[axis] - 1
            both = torch.minimum(rigid.narrow(axis, 0, last), rigid.narrow(axis, 1, last))
            firm.append(torch.maximum(loose, FIRM * both))
        return firm
