"""Deformable registration by self-similarity: a coupled discrete search, then gradient refinement.

Descriptors are MIND-SSC (Heinrich 2013, MICCAI 8149:187): each voxel says how alike its neighbours are to each other, which
survives other scanners, noise, shading and contrast. Large motion is found by testing every displacement of a window at once
and coupling neighbours convexly (Heinrich 2014, MICCAI 8674:57; Siebert 2022, LNCS 13166:174); what is left, to a fraction
of a voxel, by gradient descent on control points. Folding is excluded by construction of the last step: where a cell of the
control grid would come near it, the field is smoothed there until none does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nn

from patient.geometry import Geometry
from patient.volume import Volume
from registration.deformation.descent import landmarks_in, refined
from registration.deformation.descriptors import descriptors
from registration.deformation.folding import unfolded
from registration.deformation.material import Material
from registration.deformation.nodes import Tensor
from registration.deformation.search import SEARCHES, Cells, searched
from registration.method import Evidence, Fit, RegistrationContext
from registration.rigid import rigid_start
from registration.transforms import Displacement, Space, Transform, composed, linear_part
from registration.working import working_pair

VOXEL = 2.0
"""mm of the grid on which descriptors are compared, where memory allows."""
INVERSE_SPACING = 4.0
"""mm of that grid for the inverse registration, which only measures inverse consistency."""
FINEST = 0.55
"""Of the fixed image's own voxels: a finer grid would compare its noise."""
MOST_VOXELS = 9_000_000
"""Of that grid: 12 descriptors of either image must stay within a gigabyte."""
LARGEST_CELL = 30.0
"""mm: larger ones would hold nothing that is like itself elsewhere."""
REFINEMENTS = ((4, 60), (3, 60))
"""(pixels between control points, steps) of the descent."""
RIM = 3
"""Voxels at the end of an image whose descriptors would look beyond it."""
BOUNDARY = 2
"""Voxels of air beyond the fixed image's mask that are compared too: where only the inside is, a skin slips along itself."""


class Deformable:
    """Rigid start, then a displacement field on the fixed image's grid.

    Args:
        voxel: mm of the grid on which descriptors are compared; coarser is faster and less exact.
    """

    name = "deformable"
    version = "1.0"

    def __init__(self, voxel: float = VOXEL) -> None:
        self._voxel = voxel

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """As `Method.fit`. Without `context.start` it makes its own rigid one.

        The field covers the fixed image's body and fades out beyond what both masks hold.
        """
        start = context.start if context.start is not None else rigid_start(fixed, moving, context)
        voxel = max(self._voxel, FINEST * float(np.cbrt(np.prod(fixed.geometry.spacing))))
        pair = working_pair(fixed, moving, start, context, voxel, MOST_VOXELS, RIM, BOUNDARY)
        context.progress(0.3, "descriptors")
        with torch.no_grad():
            here, there = (descriptors(torch.as_tensor(v, device=context.device)) for v in (pair.fixed, pair.moving))
            known, seen = (torch.as_tensor(v, device=context.device) for v in (pair.fixed_valid, pair.moving_valid))
            searches = [search for search in SEARCHES if search[0] * pair.grid.spacing[0] <= LARGEST_CELL]
            a, b = (Cells.of(values, valid) for values, valid in ((here, known), (there, seen)))
            field = torch.zeros(3, 1, 1, 1, device=context.device)
            for cell, reach in searches:
                context.check_cancelled()
                field = searched(a[cell], b[cell], field, cell, reach)
            del a, b
        context.progress(0.6, "refining")
        material = Material.of(pair, fixed.geometry, context)
        landmarks = landmarks_in(pair, start, context)
        here, there = (v.flatten(1).T.contiguous().half() for v in (here, there))
        for spacing, steps in REFINEMENTS:
            field = refined(here, there, known, seen, material, landmarks, field, spacing, steps, context)
        spacing = REFINEMENTS[-1][0]
        nodes, grid = _faded(field, _control_grid(field, pair.grid), spacing)
        vectors = unfolded(nodes, spacing).cpu().numpy()
        millimetres = np.moveaxis(vectors, 0, -1) @ pair.grid.steps
        warp = Displacement(millimetres.astype(np.float32), grid, Space.of(fixed.geometry), Space.of(fixed.geometry))
        return Fit(composed(start, warp), Evidence(notes=pair.notes))


def inverse_registration(
    fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext, there: Transform
) -> Transform:
    """`fixed_from_moving`, coarse and registered independently: what inverse consistency is measured with.

    Args:
        fixed, moving, context: with which `there` was found.
        there: `moving_from_fixed`; its linear part, turned round, is the start.

    Raises:
        NotTrusted: there is no answer that way.
        Cancelled: asked to stop.
    """
    start = linear_part(there).inverse()
    back = replace(context, fixed_mask=context.moving_mask, moving_mask=context.fixed_mask, start=start)
    return Deformable(voxel=INVERSE_SPACING).fit(moving, fixed, back).moving_from_fixed


def _control_grid(nodes: Tensor, grid: Geometry) -> Geometry:
    """Where control points lie that fill the working grid: the transform is stored coarse."""
    shape = tuple(nodes.shape[1:])
    steps = [s * n / m for s, n, m in zip(grid.spacing, grid.shape, shape, strict=True)]
    first = [0.5 * n / m - 0.5 for n, m in zip(grid.shape, shape, strict=True)]
    x, y, z = (float(v) for v in grid.points(first))
    return replace(grid, shape=shape, spacing=tuple(steps), origin=(x, y, z))


def _faded(nodes: Tensor, grid: Geometry, spacing: int) -> tuple[Tensor, Geometry]:
    """The field with a border in which it dies away, so wide that nothing folds there: beyond it nothing is known."""
    border = 2 + int(np.ceil(2.0 * float(nodes.square().sum(dim=0).amax().sqrt()) / spacing))
    wide = nn.pad(nodes[None], (border,) * 6, mode="replicate")[0]
    for axis in (1, 2, 3):
        n = wide.shape[axis]
        near = torch.minimum(torch.arange(n), n - 1 - torch.arange(n)).div(border).clamp(max=1.0).to(wide)
        wide = wide * near.view([n if a == axis else 1 for a in range(4)])
    return wide, grid.padded(border)
