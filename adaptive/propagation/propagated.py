"""A planning structure today: how it was made, what of it is drawn, and how much of it the image shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from adaptive.alignment.alignment import Alignment
from adaptive.alignment.intensity import part_seen
from adaptive.decision.rules import StructurePolicy
from adaptive.propagation.surface_distance import Ground, surfaces_apart
from contour.engine import Flag
from patient.geometry import Box, Geometry, Slices
from patient.loop import Loop
from patient.outline import loops_of_field
from patient.structures import Structure
from patient.trust import Trust
from patient.volume import Field, Mask, Volume

CUT = 0.001
"""Part of a structure that may lie outside what is seen before it is flagged."""
ELSEWHERE = "does not lie in today's image"


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


def _continued(today: Geometry, planned: Geometry, alignment: Alignment) -> Geometry:
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in planned.shape]), axis=-1).reshape(-1, 3)
    back = alignment.rigid.inverse()
    at = today.indices(back.points(planned.points(corners), back.source))
    first = np.minimum(np.floor(at.min(axis=0)).astype(int), 0)
    last = np.maximum(np.ceil(at.max(axis=0)).astype(int) + 1, today.shape)
    return today.cropped(Box(tuple(int(v) for v in first), tuple(int(v) for v in last)))  # type: ignore[arg-type]


def finished(of: Propagated, stage: Stage) -> Propagated:
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


def cropped(found: Field) -> Field | None:
    """A field on the box of its structure and a voxel around it; None where it holds nothing."""
    within = found.mask().array
    if not within.any():
        return None
    box = Box.of(within).padded(1, found.geometry.shape)
    return Field(Volume(np.ascontiguousarray(found.volume.array[box.slices]), found.geometry.cropped(box)), found.level)


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
        else cropped(Field(whole.volume.cropped(whole.geometry.box_of(today.cropped(inner))), whole.level))
    )


def _drawn_on(field: Field, slices: Slices | None) -> Field:
    """A field whose contours go to these slices, or to the planes of its grid."""
    if field.geometry.slices == slices:
        return field
    return Field(Volume(field.volume.array, replace(field.geometry, slices=slices)), field.level)


def disagreement_of(one: Field, other: Field, stage: Stage) -> Disagreement | None:
    """How far two surfaces lie apart; None where today's image shows nothing of one of them."""
    found = surfaces_apart(one, other, stage.ground)
    return Disagreement(*found) if found is not None else None
