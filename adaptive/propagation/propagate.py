"""A planning structure today, by its policy: its surface mapped through the registration, re-segmented, or both.

Fields are resampled, never masks: the surface is drawn where the planned one's distance is 0 after the deformation. What
today's image does not show is completed by the same map, which there is the rigid one faded out, and flagged as an estimate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adaptive.decision.rules import Propagation, StructurePolicy, Tissue
from adaptive.propagation.planned_surface import Surface
from adaptive.propagation.propagated import ELSEWHERE, Made, Propagated, Stage, cropped, finished
from adaptive.propagation.reconcile import reconciled, resegmented
from adaptive.propagation.tissue import Registered, as_it_shrank, as_one_piece
from contour.engine import Finding, Flag
from patient.geometry import Box, Geometry
from patient.structures import Structure
from patient.volume import Field
from registration.transforms import Transform

ROOM = 8.0
"""mm around where a structure is expected."""
HALVED = 5.0
"""mm of the registration's error at which a propagated contour's confidence is one half: example, site to set."""
NOT_THE_PATIENT = ("SUPPORT", "FIXATION")


def propagated(
    structure: Structure, surface: Surface | None, policy: StructurePolicy, stage: Stage, fresh: Finding | str | None = None
) -> Propagated:
    """One structure, by deform, rigid, fresh or reconcile; one with a recipe is made by `rebuilt`, later.

    Args:
        structure: of the plan.
        surface: as `adaptive.propagation.planned_surface.surface_of` gives it.
        policy: what is asked for it.
        stage: of the fraction.
        fresh: as an engine found it in today's image, or why it did not; None where none was asked or offers it.
    """
    nothing = Propagated(structure, policy, Made.NONE, stage.alignment.trust)
    if structure.interpreted_type in NOT_THE_PATIENT:
        return replace(nothing, reason="belongs to the couch, which does not move with the patient")
    if surface is None:
        return replace(nothing, reason="the plan has no closed contour of it")
    flags = ()
    if surface.gaps:
        flags = (Flag("gaps", f"no contour on {surface.gaps} slices between others: not interpolated"),)
    grid = stage.today if structure.interpreted_type == "EXTERNAL" else stage.wide
    rigid = _resampled(stage.alignment.rigid, stage.alignment.rigid.inverse(), structure, surface, grid)
    nothing = replace(nothing, as_planned=rigid, flags=flags)
    if policy.recipe:
        return nothing
    if policy.propagate is Propagation.RIGID or structure.interpreted_type == "PTV":
        return rigidly_propagated(nothing, stage, flagged=policy.propagate is not Propagation.RIGID)
    deformed = _deformed(nothing, *_bent(structure, surface, policy.tissue, stage, grid), stage)
    if policy.propagate is Propagation.DEFORM:
        return deformed
    if not isinstance(fresh, Finding):
        why = fresh or "no installed engine offers it"
        flag = Flag("not_afresh", f"was to be re-segmented and was propagated instead: {why}")
        flags = (flag,) if policy.propagate is Propagation.FRESH else ()
        return replace(deformed, flags=(*deformed.flags, *flags))
    if policy.propagate is Propagation.FRESH or deformed.whole is None:
        return resegmented(deformed, fresh, stage)
    return reconciled(deformed, fresh, stage)


def rigidly_propagated(of: Propagated, stage: Stage, *, flagged: bool) -> Propagated:
    """The planned surface where the rigid registration places it; `flagged` where that is the last resort of a PTV."""
    if of.as_planned is None:
        return replace(of, reason=ELSEWHERE)
    flags = of.flags
    if flagged:
        said = "a PTV without a CTV or recipe that it could be rebuilt from: rigidly propagated"
        flags = (*flags, Flag("ptv_without_recipe", said))
    made = replace(of, made=Made.RIGID, whole=of.as_planned, basis="rigidly propagated", flags=flags)
    return finished(replace(made, trust=stage.alignment.trust), stage)


def _resampled(
    plan_from_today: Transform, back: Transform, structure: Structure, surface: Surface, today: Geometry
) -> Field | None:
    """The planned surface on today's voxels, cropped; None where it does not lie on the grid."""
    points = np.concatenate([loop.points for loop in structure.loops])
    points = points[:: max(1, len(points) // 4000)]
    at = today.indices(back.points(points, back.source))
    margin = np.ceil(ROOM / np.asarray(today.spacing)).astype(int)
    thick = int(np.ceil(2 * surface.field.geometry.spacing[0] / min(today.spacing)))
    first = np.floor(at.min(axis=0)).astype(int) - margin - (thick, 0, 0)
    last = np.ceil(at.max(axis=0)).astype(int) + margin + 1 + (thick, 0, 0)
    box = Box(tuple(int(v) for v in first), tuple(int(v) for v in last)).padded(0, today.shape)  # type: ignore[arg-type]
    if box.empty:
        return None
    found = surface.distance.resampled(plan_from_today, today.cropped(box))
    return cropped(found)


def _bent(structure: Structure, surface: Surface, tissue: Tissue, stage: Stage, grid: Geometry) -> tuple[Field | None, str]:
    """A structure as the deformation and its own tissue have it, and in words what the latter did."""
    of, (today, plan) = stage.alignment, stage.images
    bent = _resampled(of.plan_from_today, of.today_from_plan, structure, surface, grid)
    if bent is None or tissue is Tissue.FREE or not of.deformable:
        return bent, ""
    registered = Registered(today, plan, of.plan_from_today, of.today_from_plan, stage.seen)
    own = as_one_piece(surface, bent, registered) if tissue is Tissue.RIGID else as_it_shrank(bent, registered)
    if own.plan_from_today is of.plan_from_today:
        return bent, own.said
    return _resampled(own.plan_from_today, of.today_from_plan, structure, surface, grid), own.said


def _deformed(of: Propagated, bent: Field | None, own: str, stage: Stage) -> Propagated:
    if bent is None:
        return replace(of, reason=ELSEWHERE)
    alignment = stage.alignment
    confidence = 1.0 / (1.0 + alignment.error / HALVED)
    made = Made.DEFORMED if alignment.deformable else Made.RIGID
    basis = (
        "propagated through the deformation"
        if alignment.deformable
        else "rigidly propagated, as there is no deformable registration"
    )
    basis = f"{basis}, {own}" if own else basis
    made_so = replace(of, made=made, whole=bent, basis=basis, trust=alignment.trust)
    return finished(replace(made_so, confidence=confidence if alignment.trust else confidence / 2), stage)
