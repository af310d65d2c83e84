"""All that is compared between the plan and today but dose: structures, overlaps, outline, separation, air, setup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptive.alignment.alignment import Alignment
from adaptive.change.body import air_change, outline_change, separations
from adaptive.change.structures import Change, overlap_change, setup, structure_change
from adaptive.decision.measurement import Figure, Measured, Measurement
from adaptive.decision.rules import Policy, Separation, matches
from adaptive.propagation.propagated import Propagated
from adaptive.propagation.shape import centre
from adaptive.propagation.surface_distance import Ground
from adaptive.scheduling import largest_first
from patient.errors import InputError
from patient.geometry import Box, Geometry, Triple
from patient.structures import Structure
from patient.trust import Estimated, Trust
from patient.volume import Field, Mask, Volume
from registration.couch import CouchCorrection, couch_correction
from registration.resampling import resampled
from registration.transforms import Rigid

WHOLE = 0.5
"""Of the error of a point: how far a whole surface lies off together. What moves a surface in one place and back in another
leaves its volume alone: example, site to set."""
BODY = ("external", "body")
LUNGS = "Lung*"
TARGETS = ("PTV", "CTV", "GTV")
MEAN_OF = 3
"""Fractions over which couch corrections are averaged, so that a single day says nothing of their drift."""
SLAB = 16
"""Planes of the plan's image that are resampled to today's at once."""


@dataclass(frozen=True, eq=False)
class Compared:
    """What was found.

    Args:
        measurements: all figures.
        changes: by structure, with the maps of their surfaces.
        notes: what could not be measured and why.
    """

    measurements: tuple[Measurement, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def body_of(structures: Sequence[Propagated]) -> Propagated | None:
    """The patient's outline among structures; None where there is none."""
    typed = [s for s in structures if s.structure.interpreted_type == "EXTERNAL"]
    named = [s for s in structures if s.name.casefold() in BODY]
    return next(iter((*typed, *named)), None)


def compared(
    structures: Sequence[Propagated],
    images: tuple[Volume[Any], Volume[Any]],
    alignment: Alignment,
    seen: Mask,
    policy: Policy,
    *,
    isocentre: Triple,
    patient_position: str,
) -> Compared:
    """Every figure of change that can be had.

    Args:
        structures: of the fraction.
        images: today's (corrected) and the plan's, HU.
        alignment: of the two.
        seen: where both show the patient, on today's grid.
        policy: which separations and overlaps are asked for.
        isocentre: LPS mm in the plan's image.
        patient_position: of today's image.
    """
    basis = "as planned, placed rigidly, against today's"
    ground = Ground(seen, patient_position or "HFS", alignment.trust, WHOLE * alignment.error, basis)
    both = [s for s in structures if s.whole is not None and s.as_planned is not None]
    body = body_of(both)
    more: list[Measurement] = []

    def changed(one: Propagated) -> Change:
        assert one.whole is not None and one.as_planned is not None  # noqa: PT018
        change = outline_change if one is body else structure_change
        return change(one.name, one.as_planned, one.whole, ground)

    changes = largest_first(changed, both, lambda one: one.size)
    more += _overlaps(both, policy, ground)
    if body is not None and body.whole is not None and body.as_planned is not None:
        changes += _separations((body.as_planned, body.whole), both, policy.separation, alignment, isocentre, ground)
        more += _air((body.as_planned, body.whole), both, images, alignment, policy, ground)
    notes = [
        f"{c.structure}: {note}" if c.structure and c.structure not in note else note for c in changes for note in c.notes
    ]
    if not patient_position:
        notes.append("Today's image does not say how the patient lay: shifts are given as if head first, supine")
    measured = [m for change in changes for m in change.measurements]
    return Compared((*measured, *more), tuple(changes), tuple(notes))


def couch_of(alignment: Alignment, isocentre: Triple, patient_position: str) -> CouchCorrection | None:
    """The move that inverts the setup error, about the isocentre; None where nobody knows how the patient lay."""
    try:
        return couch_correction(alignment.rigid.inverse(), patient_position, isocentre)  # type: ignore[arg-type]
    except InputError:
        return None


def setup_of(correction: CouchCorrection | None, alignment: Alignment) -> tuple[Measurement, ...]:
    """The correction as figures."""
    if correction is None:
        return ()
    return setup(correction, _setup_trust(alignment), error=max(alignment.apart or 0.0, alignment.error))


def residual_of(
    correction: CouchCorrection | None, alignment: Alignment, isocentre: Triple, structures: Sequence[Structure]
) -> tuple[Measurement, ...]:
    """What a couch that corrects shifts alone leaves of the setup error: "setup_residual" (mm), at the farthest point of a
    target from the isocentre. None without a target."""
    drawn = [loop.points for s in structures if s.interpreted_type in TARGETS for loop in s.loops]
    if correction is None or not drawn:
        return ()
    away = np.concatenate(drawn) - np.asarray(isocentre)
    left = float(np.linalg.norm(away @ alignment.rigid.rotation.T - away, axis=1).max())
    basis = (
        "what the rotation moves the farthest point of a target about the isocentre, where the couch corrects shifts alone"
    )
    return (Measurement("", "setup_residual", "mm", Estimated(Figure(left, 0.0), _setup_trust(alignment)), basis),)


def drift_of(today: Sequence[Measurement], number: int, earlier: Sequence[Measured]) -> tuple[Measurement, ...]:
    """How far the daily couch corrections have wandered: "setup_drift" (mm), from the mean of the first three fractions of
    which they are trusted to that of the last three. None before there are six.

    Args:
        today: the couch's correction, as `setup_of` gives it.
        number: of today's fraction.
        earlier: fractions under the same plan, in any order.
    """
    now = Measured(number, tuple(today))
    days = sorted((*(day for day in earlier if day.fraction < number), now), key=lambda day: day.fraction)
    moves = [move for day in days if (move := _move(day)) is not None]
    whole = now.of("", "setup")
    if whole is None or len(moves) < 2 * MEAN_OF:
        return ()
    apart = np.mean(moves[-MEAN_OF:], axis=0) - np.mean(moves[:MEAN_OF], axis=0)
    basis = f"from the mean couch correction of the first {MEAN_OF} trusted fractions to that of the last {MEAN_OF}"
    figure = Figure(float(np.linalg.norm(apart)), 0.0)
    return (Measurement("", "setup_drift", "mm", Estimated(figure, whole.trust), basis),)


def _move(day: Measured) -> tuple[float, ...] | None:
    """The couch's shift on a day; None where it was not measured or is not trusted."""
    found = [day.of("", f"setup_{axis}") for axis in ("lateral", "longitudinal", "vertical")]
    figures = [m.figure.if_trusted for m in found if m is not None]
    values = tuple(figure.value for figure in figures if figure is not None)
    return values if len(values) == len(found) else None


def _setup_trust(alignment: Alignment) -> Trust:
    agree = alignment.agree and alignment.intensity.plan_from_today is not None
    return Trust.given_if(agree, "the two rigid registrations do not say the same")


def _overlaps(structures: Sequence[Propagated], policy: Policy, ground: Ground) -> list[Measurement]:
    """Of the organs that rules ask for, with every target."""
    rules = [rule for rule in policy.rules if rule.quantity.startswith("overlap_")]
    targets = [s for s in structures if s.structure.interpreted_type == "PTV"]
    found = []
    for organ in structures:
        if organ in targets or not any(matches(p, organ.name) for rule in rules for p in rule.structures):
            continue
        for target in targets:
            assert organ.whole and organ.as_planned and target.whole and target.as_planned  # noqa: PT018
            pairs = (organ.as_planned, target.as_planned), (organ.whole, target.whole)
            found.append(overlap_change(organ.name, target.name, *pairs, ground))
    return found


def _separations(
    body: tuple[Field, Field],
    structures: Sequence[Propagated],
    asked: Separation,
    alignment: Alignment,
    isocentre: Triple,
    ground: Ground,
) -> list[Change]:
    found = []
    for through in asked.through if asked.levels else ():
        if through == "isocentre":
            back = alignment.rigid.inverse()
            at, name = back.points(np.asarray(isocentre), back.source), ""
        else:
            one = next((s for s in structures if s.name.casefold() == through.casefold()), None)
            if one is None or one.whole is None:
                found.append(Change("", (), notes=(f"No separation through {through}: it is not there today",)))
                continue
            at, name = centre(one.whole), one.name
        found.append(separations(*body, at, asked.levels, ground, structure=name))
    return found


def _air(
    body: tuple[Field, Field],
    structures: Sequence[Propagated],
    images: tuple[Volume[Any], Volume[Any]],
    alignment: Alignment,
    policy: Policy,
    ground: Ground,
) -> list[Measurement]:
    """Where rules ask for it: in the body, or near the structures that they name."""
    rules = [rule for rule in policy.rules if rule.quantity == "air"]
    if not rules:
        return []
    today, planned = images
    mapped = resampled_image(planned, alignment.rigid, today.geometry)
    lungs = [s for s in structures if matches(LUNGS, s.name)]
    besides = [s.as_planned for s in lungs if s.as_planned], [s.whole for s in lungs if s.whole]
    pairs = (mapped, body[0]), (today, body[1])
    found = []
    if any(not rule.structures for rule in rules):
        found.append(air_change(*pairs, ground, besides=besides))
    for one in structures:
        if any(matches(p, one.name) for rule in rules for p in rule.structures):
            found.append(air_change(*pairs, ground, besides=besides, near=one.whole, name=one.name))
    return found


def resampled_image(image: Volume[Any], image_from_grid: Rigid, grid: Geometry) -> Volume[np.int16]:
    """An image on another's voxels, int16 HU, -1000 where it has nothing; in slabs, without floats of its size."""
    out: NDArray[np.int16] = np.empty(grid.shape, dtype=np.int16)
    for k in range(0, grid.shape[0], SLAB):
        box = Box((k, 0, 0), (min(grid.shape[0], k + SLAB), *grid.shape[1:]))
        slab = grid.cropped(box)
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in slab.shape]), axis=-1).reshape(-1, 3)
        at = image.geometry.indices(image_from_grid.points(slab.points(corners), image_from_grid.source))
        low, high = (tuple(int(v) for v in end) for end in (np.floor(at.min(axis=0)), np.ceil(at.max(axis=0)) + 1))
        near = Box(low, high).padded(1, image.geometry.shape)  # type: ignore[arg-type]
        if near.empty:
            out[box.slices] = -1000
        else:
            out[box.slices] = np.rint(resampled(image_from_grid, image.cropped(near), slab, -1000.0).array)
    return Volume(out, grid)
