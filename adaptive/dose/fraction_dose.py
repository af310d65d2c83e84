"""Dose of one fraction: today's, on the plan's grid, and how far off it may be.

Today's dose is the plan's placed by the couch correction (the beam stays with the isocentre, and what the changed patient
does to it is left out: an approximation for photons), or one that a planning system computed on today's image. It is mapped
by interpolation, D_plan(x) = D_today(today_from_plan(x)), trilinear in Gy: right where tissue moves and keeps its mass,
wrong where tissue appears or vanishes (Nenoff 2023, Phys Med Biol 68:24TR01).

**The uncertainty.** A point that the registration misplaces by up to u (95 %, along any one direction) gets a dose within
|grad D| u of the right one, joined with a little for where dose is flat. Of a registration that is not trusted u is taken as
unknown, and how far its dose is from the planned one is joined to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adaptive.alignment.alignment import UNKNOWN, Alignment
from patient.dose import Dose
from patient.errors import InputError
from patient.geometry import Geometry, Triple
from patient.interpolation import interpolated
from patient.parallel import each
from patient.trust import Estimated
from patient.volume import Mask, Volume, mask_at
from registration.transforms import Rigid, Space

FLAT = 0.002
"""Of the highest dose: the least half-width, for what a slope does not say."""
Floats = NDArray[np.float32]
PLACED = "plan's dose placed by the couch correction (approximation for photons)"
RECOMPUTED = "dose that a planning system computed on today's image"


@dataclass(frozen=True, eq=False)
class TodayDose:
    """Dose in today's image.

    Args:
        whole: Gy of all the plan's fractions as if each were given as today's, in today's frame of reference.
        placed: the plan's own, placed; else computed on today's image.
        basis: in words.
    """

    whole: Dose
    placed: bool
    basis: str


@dataclass(frozen=True, eq=False)
class UncertainDose:
    """A dose and within what it lies.

    Args:
        gray: Gy.
        half_width: Gy, 95 %, on the same grid.
    """

    gray: Volume[np.float32]
    half_width: Volume[np.float32]


@dataclass(frozen=True, eq=False)
class FractionDose:
    """What one fraction image says about dose, on the plan's grid.

    Args:
        number: of the fraction, from 1.
        dose: of one fraction; as much to be trusted as the registration that mapped it.
        shown: bool on the same grid: what lies there is shown by the image.
        unmapped: part of the grid that leads to where today's dose is not known; it keeps the plan's own dose.
    """

    number: int
    dose: Estimated[UncertainDose]
    shown: Mask
    unmapped: float = 0.0


def placed(dose: Dose, plan_from_today: Rigid) -> TodayDose:
    """The plan's dose where the couch correction puts it in today's image: the same voxels on a turned grid.

    Args:
        dose: of the plan, on a grid of the plan's image.
        plan_from_today: the couch correction's rigid map.

    Raises:
        FrameMismatch: the dose is not of the transform's target.
    """
    grid = dose.volume.geometry
    plan_from_today.target.admit(Space.of(grid), "The dose")
    back = plan_from_today.inverse()
    turned = np.asarray(grid.axes) @ back.rotation.T
    moved = replace(
        grid,
        origin=_triple(back.points(np.asarray(grid.origin), back.source)),
        axes=(_triple(turned[0]), _triple(turned[1]), _triple(turned[2])),
        frame_of_reference=plan_from_today.source.frame_of_reference,
        image=plan_from_today.source.image,
    )
    made = replace(dose, volume=Volume(dose.volume.array, moved), transformed="RIGID", sop_instance_uid="", header=None)
    return TodayDose(made, True, PLACED)


def recomputed(dose: Dose, today: Geometry, fractions: int) -> TodayDose:
    """A dose that was computed on today's image.

    Args:
        dose: of one fraction (Dose Summation Type FRACTION), or of all (PLAN).
        today: grid of today's image.
        fractions: planned.

    Raises:
        FrameMismatch: it is of another frame of reference.
        InputError: an error of a dose, one that this software made, or of neither one fraction nor a whole plan.
    """
    if dose.made_here:
        raise InputError(
            "Today's dose was made by this software",
            where=dose.sop_instance_uid,
            why="It is accumulated or mapped, and no planning system computed it on today's image",
            remedy="Give the planning system's own",
        )
    if dose.kind == "ERROR" or dose.summation not in ("PLAN", "FRACTION"):
        raise InputError(
            f"Today's dose is of summation {dose.summation} and type {dose.kind}",
            where=dose.sop_instance_uid,
            why="It must be one fraction's or the whole plan's",
            remedy="Export it as PLAN or FRACTION",
        )
    here = dose.on(today)
    if dose.summation == "PLAN":
        return TodayDose(here, False, f"{RECOMPUTED}, taken as that of all {fractions} fractions")
    whole = Volume(here.volume.array * np.float32(fractions), here.volume.geometry)
    return TodayDose(replace(here, volume=whole), False, f"{RECOMPUTED}, of one fraction, times {fractions}")


def mapped(today: TodayDose, plan: Dose, alignment: Alignment, number: int, fractions: int, seen: Mask) -> FractionDose:
    """Today's dose on the plan's grid, one fraction, with its half-width and the registration's trust.

    Args:
        today: in today's image.
        plan: the plan's own dose, whose grid it becomes and which stands in where today's is not known.
        alignment: of the two images.
        number: of the fraction.
        fractions: planned.
        seen: where both images show the patient, on today's grid.

    Raises:
        FrameMismatch: the doses are not of the two images.
    """
    grid = plan.volume.geometry
    found, shown, deviation = _resampled(today.whole.volume, alignment, grid, seen)
    known = found >= 0
    np.copyto(found, plan.volume.array, where=~known)
    one = np.float32(1.0 / fractions)
    # Where nothing is seen, what the deformation says is a guess: it is off by as much as it departs from the rigid map.
    guessed = np.hypot(np.float32(max(UNKNOWN, alignment.error)), deviation)
    sure = shown if alignment.trust else np.zeros_like(shown)
    off = np.where(sure, np.float32(np.hypot(alignment.error, alignment.inverse_left)), guessed)
    half_width = _half_width(Volume(found, grid), off)
    if not alignment.trust:
        half_width = np.hypot(half_width, found - plan.volume.array)
    uncertain = UncertainDose(Volume(found * one, grid), Volume(half_width * one, grid))
    return FractionDose(number, Estimated(uncertain, alignment.trust), Volume(shown, grid), float((~known).mean()))


def gradient_magnitude(gray: Volume[np.float32]) -> Floats:
    """Gy per mm at each voxel: the steeper of both one-sided slopes along each axis, joined over the axes."""
    out = np.zeros(gray.array.shape, dtype=np.float32)
    for axis, spacing in enumerate(gray.geometry.spacing):
        slope = np.abs(np.diff(gray.array, axis=axis)) / np.float32(spacing)
        room = [(0, 0)] * 3
        room[axis] = (1, 1)
        both = np.pad(slope, room)
        low, high = (
            tuple(slice(a, both.shape[axis] - 1 + a) if n == axis else slice(None) for n in range(3)) for a in (0, 1)
        )
        out += np.square(np.maximum(both[low], both[high]))
    return np.sqrt(out, out=out)


def today_half_width(today: TodayDose, alignment: Alignment) -> Volume[np.float32]:
    """Gy, 95 %, on the grid of today's dose: what an error of today's contours and of the couch correction may do to it."""
    grid = today.whole.volume
    return Volume(_half_width(grid, np.float32(alignment.error)), grid.geometry)


def _half_width(gray: Volume[np.float32], off: Floats | np.float32) -> Floats:
    """Gy that an error of `off` mm may do; where dose is flat, what interpolation and its curvature do."""
    return np.hypot(gradient_magnitude(gray) * off, np.float32(FLAT) * gray.array.max()).astype(np.float32)


def _resampled(
    gray: Volume[np.float32], alignment: Alignment, grid: Geometry, seen: Mask
) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Today's dose at voxels of the plan's grid, -1 where it is not known; where both images show what lies there; and how
    many mm the deformation departs from the rigid map.

    Raises:
        FrameMismatch: the dose is not of the transform's target, or the grid not of its source.
    """
    today_from_plan, rigid = alignment.today_from_plan, alignment.rigid.inverse()
    today_from_plan.target.admit(Space.of(gray.geometry), "The dose")
    space = Space.of(grid)
    today_from_plan.source.admit(space, "The grid")
    out, shown = np.full(grid.shape, -1.0, dtype=np.float32), np.zeros(grid.shape, dtype=bool)
    deviation = np.zeros(grid.shape, dtype=np.float32)
    values = np.ascontiguousarray(gray.array, dtype=np.float32)
    inner = np.moveaxis(np.indices(grid.shape[1:], dtype=np.float64), 0, -1)
    ends = np.asarray(gray.geometry.shape) - 0.5

    def plane(k: int) -> None:
        at = grid.points(np.concatenate([np.full((*grid.shape[1:], 1), float(k)), inner], axis=-1))
        there = today_from_plan.points(at, space)
        deviation[k] = np.linalg.norm(there - rigid.points(at, rigid.source), axis=-1)
        indices = gray.geometry.indices(there)
        known = ((indices >= -0.5) & (indices <= ends)).all(axis=-1)
        out[k][known] = interpolated([values], np.clip(indices[known], 0, ends - 0.5).T)[0]
        shown[k] = mask_at(seen, there)

    each(plane, range(grid.shape[0]))
    return out, shown, deviation


def _triple(vector: NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in vector)
    return x, y, z
