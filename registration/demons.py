"""Deformable registration by diffeomorphic demons, as SimpleITK has it: the plain second method.

It compares numbers, not structure: after histogram matching it serves CT to CT and a well-behaved CBCT, and is what the
first method (`registration.deformable`) is measured against. It knows neither sliding organs nor other modalities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody writes it

from patient.volume import Volume
from registration.method import Evidence, Fit, RegistrationContext
from registration.rigid import rigid_start
from registration.transforms import Displacement, Space, composed, placed
from registration.working import Working, working_pair

VOXEL = 2.0
"""mm of the grid on which images are compared, where memory allows."""
MOST_VOXELS = 9_000_000
LEVELS = ((4, 100), (2, 80), (1, 40))
"""(voxels made one, rounds)."""
SMOOTH = 1.5
"""Voxels: Gaussian by which the field is smoothed after each round; Vercauteren 2009, NeuroImage 45:S61."""


class Demons:
    """Rigid start, then diffeomorphic demons on three levels."""

    name = "demons"
    version = "1"

    def fit(self, fixed: Volume[Any], moving: Volume[Any], context: RegistrationContext) -> Fit:
        """As `Method.fit`. Without `context.start` it makes its own rigid one; `weight` and `rigid` are not heeded."""
        start = context.start if context.start is not None else rigid_start(fixed, moving, context)
        pair = working_pair(fixed, moving, start, context, VOXEL, MOST_VOXELS)
        still, moved = _alike(pair)
        field = sitk.Image()
        for shrink, rounds in LEVELS:
            context.check_cancelled()
            context.progress(1.0 - shrink / 5, "demons")
            small = [
                sitk.Shrink(sitk.SmoothingRecursiveGaussian(v, [0.5 * shrink * VOXEL] * 3), [shrink] * 3)
                for v in (still, moved)
            ]
            demons = sitk.DiffeomorphicDemonsRegistrationFilter()
            demons.SetNumberOfIterations(rounds)
            demons.SetStandardDeviations(SMOOTH)
            demons.SetSmoothDisplacementField(True)
            demons.AddCommand(sitk.sitkIterationEvent, lambda d=demons: d.Abort() if context.cancelled.is_set() else None)
            field = demons.Execute(*small, *([sitk.Resample(field, small[0])] if field.GetDimension() == 3 else []))
        vectors = sitk.GetArrayFromImage(sitk.Resample(field, still)).astype(np.float32)
        space = Space.of(fixed.geometry)
        return Fit(composed(start, Displacement(vectors, pair.grid, space, space)), Evidence(notes=pair.notes))


def _alike(pair: Working) -> tuple[sitk.Image, sitk.Image]:
    """Both images with one histogram; where one of them was not measured, the same, so that there is no force there."""
    seen = pair.moving_valid & pair.fixed_valid
    empty = float(pair.fixed.min())
    still, moved = (
        placed(sitk.GetImageFromArray(np.where(seen, v, empty).astype(np.float32)), pair.grid)
        for v in (pair.fixed, pair.moving)
    )
    return still, sitk.HistogramMatching(moved, still, 256, 15, True)
