"""A planning structure today, by its policy: its surface mapped through the registration, re-segmented, or both.

Fields are resampled, never masks: the surface is drawn where the planned one's distance is 0 after the deformation. What
today's image does not show is completed by the same map, which there is the rigid one faded out, and flagged as an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

import edt
import numpy as np
from numpy.typing import NDArray

from adaptive.alignment.alignment import Alignment
from adaptive.alignment.intensity import part_seen
from adaptive.decision.rules import Propagation, StructurePolicy, Tissue
from adaptive.propagation.planned_surface import Surface
from adaptive.propagation.resampled_surface import resampled_surface
from adaptive.propagation.shape import common, inside, slope
from adaptive.propagation.surface_distance import Ground, surfaces_apart
from adaptive.propagation.tissue import Registered, as_it_shrank, as_one_piece
from contour.derived_structures import derive
from contour.engine import Finding, Flag
from contour.recipe import ingredients, parse
from patient.geometry import Box, Geometry, Slices
from patient.loop import Loop
from patient.outline import loops_of_field
from patient.structures import Structure
from patient.trust import Trust
from patient.volume import Field, Level, Mask, Volume
from registration.transforms import Transform

ROOM = 8.0
"""mm around where a structure is expected."""
HALVED = 5.0
"""mm of the registration's error at which a propagated contour's confidence is one half: example, site to set."""
UNSAID = 0.5
"""Confidence of an engine that says none."""
CUT = 0.001
"""Part of a structure that may lie outside what is seen before it is flagged."""
DOUBTED = ("suggestion", "low_confidence")
"""Flags of an engine's contour that nothing is decided on before a person has looked at it."""
NOT_THE_PATIENT = ("SUPPORT", "FIXATION")
ELSEWHERE = "does not lie in today's image"
SAME_RECIPE = 0.75
"""mm on the mean by which a recipe on planned structures may miss the planned one."""
Floats = NDArray[np.float32]


class Made(Enum):
    """How a structure was made."""

    DEFORMED = "deformed"
    RIGID = "rigid"
    FRESH = "fresh"
    RECONCILED = "reconciled"
    REBUILT = "rebuilt"
    NONE = "none"


@dataclass(frozen=True)
class Disagreement:
    """Between a propagated and a freshly contoured surface, mm, where today's image shows them."""

    mean: float
    hd95: float


@dataclass(frozen=True, eq=False)
class Propagated:
    """A structure of the plan, today.

    Args:
        structure: the plan's.
        asked: what the policy asks for.
        made: what was done.
        trust: in the registration, and in the fresh contour, that it stands on.
        whole: today's surface on today's voxels, continued as an estimate where the structure leaves the image; a body ends
            with the image.
        field: what of it lies in today's image, as it is drawn; None where there is nothing.
        as_planned: the planned surface, placed rigidly on today's voxels, for comparison; continued as `whole`.
        basis: how it was made, in words.
        confidence: 0 to 1; None where nothing says it.
        seen: part of today's volume that today's image shows.
        disagreement: of propagation and fresh contour; None where only one is there.
        flags: what a person should know.
        reason: why there is no surface.
    """

    structure: Structure
    asked: StructurePolicy
    made: Made
    trust: Trust
    whole: Field | None = None
    field: Field | None = None
    as_planned: Field | None = None
    basis: str = ""
    confidence: float | None = None
    seen: float | None = None
    disagreement: Disagreement | None = None
    flags: tuple[Flag, ...] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        """The plan's name of it."""
        return self.structure.name

    @property
    def size(self) -> int:
        """Voxels of today's box."""
        return 0 if self.whole is None else self.whole.volume.array.size

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Of `whole`, on the planes of today's grid; none without it."""
        return loops_of_field(_drawn_on(self.whole, None)) if self.whole is not None else ()

    @property
    def drawn(self) -> tuple[Loop, ...] | None:
        """Loops of `field` where they are the same as those of `whole`; None for whoever draws them to compute them."""
        same = self.field is not None and self.field is self.whole and self.field.geometry.slices is None
        return self.loops if same else None


@dataclass(frozen=True, eq=False)
class Stage:
    """What all structures of a fraction are propagated with.

    Args:
        images: today's, its shading taken off, and the plan's; HU.
        alignment: of the two images.
        seen: where both images show the patient, on today's grid.
        patient_position: of today's image.
    """

    images: tuple[Volume[Any], Volume[Any]]
    alignment: Alignment
    seen: Mask
    patient_position: str = ""
    ground: Ground = field(init=False, repr=False)
    wide: Geometry = field(init=False, repr=False)
    """Today's voxels, continued as far as the plan's image reaches."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ground", Ground(self.seen, self.patient_position or "HFS", self.alignment.trust))
        object.__setattr__(self, "wide", _continued(self.today, self.images[1].geometry, self.alignment))

    @property
    def today(self) -> Geometry:
        """Grid of today's image."""
        return self.images[0].geometry


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
        return _rigid(nothing, stage, flagged=policy.propagate is not Propagation.RIGID)
    deformed = _deformed(nothing, *_bent(structure, surface, policy.tissue, stage, grid), stage)
    if policy.propagate is Propagation.DEFORM:
        return deformed
    if not isinstance(fresh, Finding):
        why = fresh or "no installed engine offers it"
        flag = Flag("not_afresh", f"was to be re-segmented and was propagated instead: {why}")
        flags = (flag,) if policy.propagate is Propagation.FRESH else ()
        return replace(deformed, flags=(*deformed.flags, *flags))
    if policy.propagate is Propagation.FRESH or deformed.whole is None:
        return _fresh(deformed, fresh, stage)
    return _reconciled(deformed, fresh, stage)


def rebuilt(of: Propagated, known: Sequence[Propagated], stage: Stage) -> Propagated | None:
    """A structure with a recipe, computed again from today's structures; None where an ingredient is not there (yet).

    The same recipe on the planned structures must give the planned one: where it does not, that is flagged, since what then
    changed is partly the recipe's doing.

    Args:
        of: as `propagated` left it.
        known: structures that are there today.
        stage: of the fraction.
    """
    recipe = parse(of.asked.recipe)
    by_name = {one.name.casefold(): one for one in known if one.whole is not None and one.as_planned is not None}
    if any(name.casefold() not in by_name for name in ingredients(recipe)):
        return None
    found = {name: by_name[name.casefold()] for name in ingredients(recipe)}
    made = derive(recipe, {name: one.whole for name, one in found.items() if one.whole}, stage.wide)
    if isinstance(made, str):
        return replace(of, reason=made)
    again = derive(recipe, {name: one.as_planned for name, one in found.items() if one.as_planned}, stage.wide)
    flags = of.flags
    if isinstance(again, Field) and of.as_planned is not None:
        apart = _apart(of.as_planned, again, stage)
        if apart is not None and apart.mean > SAME_RECIPE:
            said = f"{apart.mean:.1f} mm on the mean (95 %: {apart.hd95:.1f} mm) from the plan's own"
            words = f"{of.asked.recipe} on the planned structures is {said}: what changed is partly its doing"
            flags = (*flags, Flag("recipe_differs", words))
    basis = f"{of.name} = {of.asked.recipe} ({of.asked.source})"
    trust = stage.alignment.trust
    for one in found.values():
        trust &= one.trust
    return _finished(replace(of, made=Made.REBUILT, whole=made, basis=basis, trust=trust, flags=flags), stage)


def without_ingredients(of: Propagated, stage: Stage) -> Propagated:
    """A structure whose recipe cannot be followed: rigidly propagated, and flagged."""
    missing = ", ".join(dict.fromkeys(ingredients(parse(of.asked.recipe))))
    flag = Flag("not_rebuilt", f"cannot be rebuilt ({of.asked.recipe}: {missing}) and was rigidly propagated")
    return replace(_rigid(of, stage, flagged=False), flags=(*of.flags, flag))


def _continued(today: Geometry, planned: Geometry, alignment: Alignment) -> Geometry:
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in planned.shape]), axis=-1).reshape(-1, 3)
    back = alignment.rigid.inverse()
    at = today.indices(back.points(planned.points(corners), back.source))
    first = np.minimum(np.floor(at.min(axis=0)).astype(int), 0)
    last = np.maximum(np.ceil(at.max(axis=0)).astype(int) + 1, today.shape)
    return today.cropped(Box(tuple(int(v) for v in first), tuple(int(v) for v in last)))  # type: ignore[arg-type]


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
    found = resampled_surface(surface, plan_from_today, today.cropped(box))
    return _cropped(found)


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


def _cropped(found: Field) -> Field | None:
    within = found.volume.array < 0 if found.level is Level.DISTANCE else found.volume.array > 0.5
    if not within.any():
        return None
    box = Box.of(within).padded(1, found.geometry.shape)
    return Field(Volume(np.ascontiguousarray(found.volume.array[box.slices]), found.geometry.cropped(box)), found.level)


def _rigid(of: Propagated, stage: Stage, *, flagged: bool) -> Propagated:
    if of.as_planned is None:
        return replace(of, reason=ELSEWHERE)
    flags = of.flags
    if flagged:
        said = "a PTV without a CTV or recipe that it could be rebuilt from: rigidly propagated"
        flags = (*flags, Flag("ptv_without_recipe", said))
    made = replace(of, made=Made.RIGID, whole=of.as_planned, basis="rigidly propagated", flags=flags)
    return _finished(replace(made, trust=stage.alignment.trust), stage)


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
    return _finished(replace(made_so, confidence=confidence if alignment.trust else confidence / 2), stage)


def _fresh(of: Propagated, fresh: Finding, stage: Stage) -> Propagated:
    """As the engine found it where today's image shows it, else as propagated."""
    sure = Trust.given_if(not _doubted(fresh), "its re-segmented contour requires clinical review")
    made = replace(of, made=Made.FRESH, basis="re-segmented", confidence=fresh.confidence, flags=(*of.flags, *fresh.flags))
    if of.whole is not None:
        made = replace(made, disagreement=_apart(of.whole, fresh.field, stage))
        if part_seen(of.whole.mask(), stage.seen) < 1 - CUT:
            part = common(stage.today, of.whole, fresh.field)
            values = np.where(stage.ground.on(part), _distance(fresh.field, part), _distance(of.whole, part))
            whole = _cropped(Field(Volume(values, part), Level.DISTANCE))
            basis = "re-segmented, and propagated outside the field of view"
            return _finished(replace(made, whole=whole, basis=basis, trust=of.trust & sure), stage)
    return _finished(replace(made, whole=fresh.field, trust=sure), stage)


def _doubted(fresh: Finding) -> bool:
    return any(flag.code in DOUBTED for flag in fresh.flags)


def _reconciled(of: Propagated, fresh: Finding, stage: Stage) -> Propagated:
    """Both signed distances, each weighing its confidence; the propagated one alone where today's image shows nothing.

    A re-segmented contour that requires review moves nothing: it is compared, and said to be.
    """
    assert of.whole is not None
    if _doubted(fresh):
        apart = _apart(of.whole, fresh.field, stage)
        told = (
            "nowhere comparable" if apart is None else f"{apart.mean:.1f} mm apart on the mean (95 %: {apart.hd95:.1f} mm)"
        )
        said = f"re-segmented for comparison only, as that requires clinical review: {told}"
        return replace(of, disagreement=apart, flags=(*of.flags, Flag("compared_only", said)))
    part = common(stage.today, of.whole, fresh.field)
    a, b = _distance(of.whole, part), _distance(fresh.field, part)
    mine, theirs = of.confidence or UNSAID, UNSAID if fresh.confidence is None else fresh.confidence
    share = np.float32(theirs / max(mine + theirs, 1e-6))
    blended = np.where(stage.ground.on(part), (1 - share) * a + share * b, a).astype(np.float32)
    whole = _cropped(Field(Volume(blended, part), Level.DISTANCE))
    basis = f"propagated ({1 - share:.0%}) and re-segmented ({share:.0%})"
    made = replace(of, made=Made.RECONCILED, whole=whole, basis=basis, confidence=max(mine, theirs))
    made = replace(made, flags=(*of.flags, *fresh.flags), disagreement=_apart(of.whole, fresh.field, stage))
    if whole is None:
        return replace(made, made=of.made, whole=of.whole, field=of.field, basis=of.basis, confidence=of.confidence)
    return _finished(made, stage)


def _finished(of: Propagated, stage: Stage) -> Propagated:
    """With what of it is drawn and seen; what is cut is flagged once."""
    drawn = None if of.whole is None else _within(of.whole, stage.today)
    if of.whole is None or drawn is None:
        return replace(of, made=Made.NONE, field=None, reason=ELSEWHERE)
    seen = part_seen(of.whole.mask(), stage.seen)
    flags = tuple(flag for flag in of.flags if flag.code != "completed")
    if seen < 1 - CUT:
        said = f"{1 - seen:.1%} of it lies outside the field of view of today's image: extrapolated"
        flags = (*flags, Flag("completed", said))
    return replace(of, field=drawn, seen=seen, flags=flags)


def _within(whole: Field, today: Geometry) -> Field | None:
    """What of a field lies in the image, to be drawn on the image's own slices."""
    whole = _drawn_on(whole, today.slices)
    box = today.box_of(whole.geometry)
    inner = box.padded(0, today.shape)
    if inner == box:
        return whole
    return (
        None
        if inner.empty
        else _cropped(Field(whole.volume.cropped(whole.geometry.box_of(today.cropped(inner))), whole.level))
    )


def _drawn_on(field: Field, slices: Slices | None) -> Field:
    """A field whose contours go to these slices, or to the planes of its grid."""
    if field.geometry.slices == slices:
        return field
    return Field(Volume(field.volume.array, replace(field.geometry, slices=slices)), field.level)


def _apart(one: Field, other: Field, stage: Stage) -> Disagreement | None:
    found = surfaces_apart(one, other, stage.ground)
    return Disagreement(*found) if found is not None else None


def _distance(field: Field, part: Geometry) -> Floats:
    """Signed distance in mm on a part of the grid: next to the surface by the field's own slope, further by voxels."""
    values = inside(field, part)
    within = values > 0
    spacing = part.spacing
    out = edt.sdf(within, anisotropy=spacing)
    half = np.float32(0.5 * min(spacing))
    np.subtract(np.where(within, half, -half), out, out=out)
    limit = np.float32(max(spacing[1:]))
    near = np.flatnonzero(np.abs(out) < np.float32(1.05) * limit)
    gradient_magnitude = np.linalg.norm(
        slope(values, np.stack(np.unravel_index(near, values.shape), axis=-1), spacing), axis=1
    )
    own = values.ravel().take(near) / np.maximum(gradient_magnitude, 1e-3)
    np.put(out, near, np.clip(-own, -limit, limit))
    return out
