"""What differs from the plan: structures, outline, separation, air and setup, as measurements.

All fields and masks lie on voxels of today's image; the planned ones were placed there by the couch registration, rigidly.
What `seen` does not hold is counted on neither side, and the measurement's basis says so: a structure that the field of
view truncates is compared where both images show it, and its shift is not given at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adaptive.decision.measurement import Figure, Measurement
from adaptive.propagation.field_surface import Surface
from adaptive.propagation.shape import FULL, Points, centroid, common, filled, filled_each
from adaptive.propagation.surface_distance import Ground, _apart, _both_directions
from patient.geometry import Geometry
from patient.trust import Estimated, Trust
from patient.volume import Field
from registration.couch import CouchCorrection, iec_from_lps

CUT = 0.05
"""Part of a structure outside the field of view from which on its shift says nothing."""
SIDES = {
    "left": (1, 0, 0),
    "right": (-1, 0, 0),
    "anterior": (0, -1, 0),
    "posterior": (0, 1, 0),
    "superior": (0, 0, 1),
    "inferior": (0, 0, -1),
}
"""The patient's sides in LPS."""


@dataclass(frozen=True)
class Directions:
    """How far a surface moved outward (positive: it grew there), in mm: the mean over what faces each side of the patient.

    None where nothing of the surface that today shows faces that side.
    """

    left: float | None = None
    right: float | None = None
    anterior: float | None = None
    posterior: float | None = None
    superior: float | None = None
    inferior: float | None = None


@dataclass(frozen=True, eq=False)
class SurfaceMap:
    """Where the planned surface went.

    Args:
        points: `[n, 3]` LPS mm, on the planned surface, where today shows it.
        outward: `[n]` mm to today's surface, positive where today's lies outside.
        area: `[n]` mm², each point's share of the surface.
        towards: means by side.
    """

    points: Points
    outward: NDArray[np.float64]
    area: NDArray[np.float64]
    towards: Directions


@dataclass(frozen=True, eq=False)
class Change:
    """What became of one structure.

    Args:
        structure: its name.
        measurements: what could be measured.
        map: where its surface went; None where nothing of it can be compared.
        notes: what could not be measured, and why, in sentences.
    """

    structure: str
    measurements: tuple[Measurement, ...]
    map: SurfaceMap | None = None
    notes: tuple[str, ...] = ()


def structure_change(name: str, planned: Field, today: Field, ground: Ground) -> Change:
    """Volume, shift, Dice and surface distances of one structure.

    - "volume": cc, finer than voxels: of a signed distance on slices of 3 mm to 0.3 % of a ball of 7 cc and more, and to
      1.5 % of one of 1 cc. Of a mask no better than its voxels. What resampling a field cost is not in this.
    - "shift", "shift_lateral", "shift_longitudinal", "shift_vertical": mm, the structure's own movement by its centroid
      along IEC 61217's axes; a couch that brings it back goes the other way.
    - "dice": a ratio.
    - "mean_surface_distance": mm, by area, the mean of both directions.
    - "hd95": mm, the greater of both directions' 95th percentiles by area.

    Args:
        name: in the plan's structure set.
        planned, today: on voxels of today's image.
        ground: of the fraction.

    Raises:
        FrameMismatch: a field does not lie on voxels of today's image.
        InputError: the patient's position is unknown.
    """
    part = common(ground.seen.geometry, planned, today)
    seen = ground.on(part)
    *counts, shared = filled_each(part, planned, today)
    (before, before_all), (now, now_all) = (_volumes(c, seen, part) for c in counts)
    if not before or not now:
        which = "as planned" if not before else "as of today"
        return Change(name, (), notes=(f"{name} {which} is not in what both images show",))
    cut = max(1 - before / before_all, 1 - now / now_all)
    said = _left_out(1 - before / before_all, 1 - now / now_all)
    both = _volumes(shared, seen, part)[0]
    there, back = _both_directions(planned, today, part, seen)
    (moved, kept_old), (_, kept_new) = there, back
    error, notes = ground.surface_error, list(filter(None, [said]))

    def of(quantity: str, unit: str, value: float, planned: float, error: float | None = None) -> Measurement:
        return ground.measured(name, quantity, unit, value, planned, error, said)

    measured = [
        of("volume", "cc", now, before, error and error * float(kept_new.area.sum()) / 1000),
        of("dice", "", 2 * both / (before + now), 1.0),
    ]
    if cut > CUT:
        notes.append(f"No shift of {name} is given: it is truncated by the field of view")
    else:
        at = [part.points(centroid(c * seen)) for c in counts]
        shift = iec_from_lps(ground.patient_position) @ (at[1] - at[0])
        measured.append(of("shift", "mm", float(np.linalg.norm(shift)), 0.0, error))
        for axis, mm in zip(("lateral", "longitudinal", "vertical"), shift, strict=True):
            measured.append(of(f"shift_{axis}", "mm", float(mm), 0.0, error))
    if (apart := _apart(there, back)) is None:
        return Change(name, tuple(measured), notes=(*notes, f"No surface of {name} is seen"))
    mean, far = apart
    measured += [of("mean_surface_distance", "mm", mean, 0.0, error), of("hd95", "mm", far, 0.0, error)]
    where = SurfaceMap(kept_old.points, moved, kept_old.area, _towards(kept_old, moved))
    return Change(name, tuple(measured), where, tuple(notes))


def overlap_change(
    organ: str, target: str, planned: tuple[Field, Field], today: tuple[Field, Field], ground: Ground
) -> Measurement:
    """How much of an organ lies in a target: "overlap_TARGET" (cc), of the organ.

    Args:
        organ, target: names.
        planned, today: the fields of both, organ first.
        ground: of the fraction.
    """
    values = []
    for pair in (planned, today):
        box = [ground.seen.geometry.box_of(f.geometry) for f in pair]
        start = tuple(max(v) - 1 for v in zip(*(b.start for b in box), strict=True))
        stop = tuple(min(v) + 1 for v in zip(*(b.stop for b in box), strict=True))
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            values.append((0.0, 0.0))
            continue
        part = ground.seen.geometry.cropped(replace(box[0], start=start, stop=stop))
        values.append(_volumes(filled(part, *pair), ground.on(part), part))
    (before, before_all), (now, now_all) = values
    said = _left_out(1 - before / before_all if before_all else 0.0, 1 - now / now_all if now_all else 0.0)
    return ground.measured(organ, f"overlap_{target}", "cc", now, before, None, said)


def setup(correction: CouchCorrection, trust: Trust, *, error: float | None = None) -> tuple[Measurement, ...]:
    """The couch's correction as measurements: "setup" (mm, its length), "setup_lateral", "setup_longitudinal",
    "setup_vertical" (mm), "setup_rotation" (degrees, the whole angle), "setup_pitch", "setup_roll", "setup_yaw" (degrees).

    Args:
        correction: IEC 61217, about its centre.
        trust: in the rigid registration.
        error: mm within which each shift lies with 95 % confidence; None where unknown.
    """
    shifts = (correction.lateral, correction.longitudinal, correction.vertical)
    turns = (correction.pitch, correction.roll, correction.yaw)
    a, b, c = np.cos(np.radians(turns) / 2)
    u, v, w = np.sin(np.radians(turns) / 2)
    whole = float(np.degrees(2 * np.arccos(np.clip(abs(a * b * c + u * v * w), 0.0, 1.0))))
    basis = "couch correction, IEC 61217 deltas, shift first, about ({:.1f}, {:.1f}, {:.1f})".format(*correction.centre)
    values = [("setup", "mm", float(np.linalg.norm(shifts)))]
    values += [(f"setup_{n}", "mm", v) for n, v in zip(("lateral", "longitudinal", "vertical"), shifts, strict=True)]
    values += [("setup_rotation", "degrees", whole)]
    values += [(f"setup_{n}", "degrees", v) for n, v in zip(("pitch", "roll", "yaw"), turns, strict=True)]

    def interval(quantity: str, unit: str, value: float) -> tuple[float, float] | None:
        if error is None or unit != "mm":
            return None
        return (max(0.0, value - error) if quantity == "setup" else value - error), value + error

    figures = ((q, u, Figure(value, 0.0, interval(q, u, value))) for q, u, value in values)
    return tuple(Measurement("", q, u, Estimated(figure, trust), basis) for q, u, figure in figures)


def _volumes(counts: NDArray[np.uint8], seen: NDArray[np.bool_], part: Geometry) -> tuple[float, float]:
    """cc of what is seen, and of all."""
    cc = part.voxel_cc / FULL
    # several times faster than a sum of only where it is seen
    return float((counts * seen).sum(dtype=np.int64)) * cc, float(counts.sum(dtype=np.int64)) * cc


def _left_out(before: float, now: float) -> str:
    if max(before, now) < 0.001:
        return ""
    return f"left out as not seen today: {before:.1%} of the planned volume, {now:.1%} of today's"


def _towards(of: Surface, moved: NDArray[np.float64]) -> Directions:
    """Each point belongs to the side that its normal points to most."""
    facing = np.argmax(of.normals @ np.array(list(SIDES.values())).T, axis=1)
    means: dict[str, float | None] = {}
    for n, side in enumerate(SIDES):
        area = of.area * (facing == n)
        means[side] = float(np.average(moved, weights=area)) if area.sum() > 0 else None
    return Directions(**means)
