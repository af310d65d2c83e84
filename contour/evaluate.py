"""How far a contour agrees with another one: the measures that a commissioning report asks for, with unit and source.

Both sides are masks on voxels of one grid. Where a side is empty there is nothing to measure, and that is said: a structure
that was missed is neither a Dice of 0 nor a distance of some large number.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contour.surface import apart
from patient.geometry import Box, Geometry
from patient.volume import Mask, Volume

HEAD = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Slices:
    """Agreement slice by slice along the grid's axis that runs most to the head: what a high Dice hides at an organ's ends.

    Args:
        missing: slices on which the reference has something and nothing is predicted; `missing_superior` and
            `missing_inferior` of them lie beyond the predicted structure's own end, the others are gaps in it.
        extra: slices on which something is predicted and the reference has nothing; likewise by end.
        worst: mm, of all slices on which both are, the largest in-plane distance of the two outlines (the larger of both
            directions' 95th percentiles over outline pixels); None where they share no slice.
        worst_at: mm, where that slice lies: its centre's LPS coordinate along the patient's long axis.
    """

    missing: int
    missing_superior: int
    missing_inferior: int
    extra: int
    extra_superior: int
    extra_inferior: int
    worst: float | None = None
    worst_at: float | None = None


@dataclass(frozen=True)
class Agreement:
    """A predicted mask against its reference; mm unless the name says cc or percent.

    Args:
        dice: 2 |P ∩ R| / (|P| + |R|) (Dice, Ecology 26 (1945) 297).
        surface_dice: part of both surfaces that lies within `tolerance` of the other one (Nikolov et al., JMIR 23
            (2021) e26151).
        tolerance: of the surface Dice.
        hd95: the larger of both directions' 95th percentiles of surface distance, by area (ibid., robust Hausdorff).
        mean_surface_distance: mean of the two directions below.
        to_reference: mean distance from the predicted surface to the reference's, by area.
        to_predicted: the other way.
        added_path: length of reference contour that would have to be drawn, because none was predicted on these pixels
            (Vaassen et al., PhiRO 13 (2020) 1): pixels of its outline, plane by plane, times the root of a pixel's area.
        reference_path: length of the whole reference contour, measured alike.
        predicted_cc, reference_cc: volumes.
        centroid_distance: between the two centres of volume.
        slices: missing and extra slices at either end, and the worst slice.
    """

    dice: float
    surface_dice: float
    tolerance: float
    hd95: float
    mean_surface_distance: float
    to_reference: float
    to_predicted: float
    added_path: float
    reference_path: float
    predicted_cc: float
    reference_cc: float
    centroid_distance: float
    slices: Slices

    @property
    def volume_bias_cc(self) -> float:
        """Predicted minus reference volume."""
        return self.predicted_cc - self.reference_cc

    @property
    def volume_bias_percent(self) -> float:
        """The same in percent of the reference volume."""
        return 100.0 * self.volume_bias_cc / self.reference_cc


class Absence(StrEnum):
    """Which side has nothing."""

    MISSED = "missed"
    """Drawn in the reference, not predicted."""
    SPURIOUS = "spurious"
    """Predicted, and not in the reference: unknown there, or really absent."""
    NEITHER = "neither"


@dataclass(frozen=True)
class NotCompared:
    """Nothing could be measured, and why; the volumes (cc) that there are."""

    absence: Absence
    reason: str
    predicted_cc: float
    reference_cc: float


def compare(predicted: Mask, reference: Mask, tolerance: float) -> Agreement | NotCompared:
    """Every measure of two masks, or why there are none.

    Args:
        predicted, reference: bool, each cropped as it pleases from one grid.
        tolerance: mm, of the surface Dice.

    Raises:
        FrameMismatch: the two do not share their voxels.
    """
    a, b, grid = _together(predicted, reference)
    volumes = float(a.sum()) * grid.voxel_cc, float(b.sum()) * grid.voxel_cc
    if not volumes[0] or not volumes[1]:
        absence = Absence.NEITHER if not any(volumes) else Absence.SPURIOUS if volumes[0] else Absence.MISSED
        return NotCompared(absence, _REASONS[absence], *volumes)
    there, back = apart(a, b, grid.spacing)
    return Agreement(
        dice=2.0 * float((a & b).sum()) / float(a.sum() + b.sum()),
        surface_dice=(there.within(tolerance) + back.within(tolerance)) / (there.area + back.area),
        tolerance=tolerance,
        hd95=max(there.percentile(95), back.percentile(95)),
        mean_surface_distance=(there.mean + back.mean) / 2,
        to_reference=there.mean,
        to_predicted=back.mean,
        added_path=added_path(a, b, grid),
        reference_path=_outline(b).sum() * _pixel(grid),
        predicted_cc=volumes[0],
        reference_cc=volumes[1],
        centroid_distance=float(np.linalg.norm(_centre(a, grid) - _centre(b, grid))),
        slices=_slices(a, b, grid),
    )


_REASONS = {
    Absence.MISSED: "not predicted",
    Absence.SPURIOUS: "not in the reference",
    Absence.NEITHER: "empty on both sides",
}


def by_slice(predicted: Mask, reference: Mask) -> Slices:
    """Missing, extra and worst slices of two masks, each cropped as it pleases from one grid; either may be empty.

    Raises:
        FrameMismatch: the two do not share their voxels.
    """
    return _slices(*_together(predicted, reference))


def _slices(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], grid: Geometry) -> Slices:
    axis, along = grid.nearest_axis(HEAD)
    a, b = (np.moveaxis(mask, axis, 0)[::along] for mask in (predicted, reference))
    drawn, wanted = (np.flatnonzero(mask.any(axis=(1, 2))) for mask in (a, b))
    missing, extra = np.setdiff1d(wanted, drawn), np.setdiff1d(drawn, wanted)
    pixel = tuple(np.delete(np.asarray(grid.spacing), axis))
    apart_on = [(_outlines_apart(a[k], b[k], pixel), int(k)) for k in np.intersect1d(drawn, wanted)]
    worst, k = max(apart_on, default=(None, 0))
    at = np.zeros(3)
    at[axis] = k if along > 0 else a.shape[0] - 1 - k
    return Slices(
        len(missing),
        *_beyond(missing, drawn),
        len(extra),
        *_beyond(extra, wanted),
        worst=worst,
        worst_at=None if worst is None else float(grid.points(at) @ np.asarray(HEAD)),
    )


def _beyond(slices: NDArray[np.intp], of: NDArray[np.intp]) -> tuple[int, int]:
    """How many of `slices` lie superior and inferior to all of `of`; neither where there are none of those."""
    return (int((slices > of[-1]).sum()), int((slices < of[0]).sum())) if len(of) else (0, 0)


def _outlines_apart(one: NDArray[np.bool_], other: NDArray[np.bool_], pixel: tuple[float, ...]) -> float:
    """mm in plane between two outlines: the larger of both directions' 95th percentiles."""
    box = _square(one | other)
    drawn, wanted = (_outline(np.pad(mask[box], 1)[None])[0] for mask in (one, other))
    there, back = (
        np.percentile(edt.edt(np.ascontiguousarray(~far), anisotropy=pixel)[near], 95)
        for near, far in ((drawn, wanted), (wanted, drawn))
    )
    return float(max(there, back))


def _square(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The rows and columns that hold every True of a plane."""
    rows, columns = Box.of(mask[None]).slices[1:]
    return rows, columns


def added_path(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], grid: Geometry, tolerance: float = 0.0) -> float:
    """mm of reference outline that no predicted outline of its plane comes within `tolerance` mm of (Vaassen et al. 2020).

    What was predicted and has to be deleted costs nothing.
    """
    drawn, wanted = _outline(predicted), _outline(reference)
    if tolerance <= 0:
        return float((wanted & ~drawn).sum()) * _pixel(grid)
    missing = 0
    for plane, other in zip(wanted, drawn, strict=True):
        if not other.any():
            missing += int(plane.sum())
        elif plane.any():
            missing += int((edt.edt(np.ascontiguousarray(~other), anisotropy=grid.spacing[1:])[plane] > tolerance).sum())
    return missing * _pixel(grid)


def between_ends(predicted: Mask, reference: Mask) -> Mask:
    """The predicted mask between the reference's first and last plane, along the grid's axis that runs most to the head.

    For organs that the clinic draws only as far as the treated region goes. An empty reference leaves it as it is.
    """
    axis, _ = reference.geometry.nearest_axis(HEAD)
    there = np.flatnonzero(reference.array.any(axis=tuple(a for a in range(3) if a != axis)))
    if not len(there):
        return predicted
    offset = reference.geometry.box_of(predicted.geometry).start[axis]
    kept = predicted.array.copy()
    planes = np.arange(kept.shape[axis]) + offset
    np.moveaxis(kept, axis, 0)[(planes < there[0]) | (planes > there[-1])] = False
    return Volume(kept, predicted.geometry)


def _together(one: Mask, other: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Geometry]:
    """Both in the smallest common box of what they hold."""
    box = Box((0, 0, 0), (0, 0, 0))
    for mask in (one, other):
        inside = Box.of(mask.array)
        if not inside.empty:
            box = box.union(other.geometry.box_of(mask.geometry.cropped(inside)))
    if box.empty:
        box = Box((0, 0, 0), (1, 1, 1))
    whole = other.geometry.cropped(box)
    return one.placed_in(whole).array, other.placed_in(whole).array, whole


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of each plane that have one of their four neighbours outside."""
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return mask & ~ndimage.binary_erosion(mask, cross)


def _pixel(grid: Geometry) -> float:
    return float(np.sqrt(grid.spacing[1] * grid.spacing[2]))


def _centre(mask: NDArray[np.bool_], grid: Geometry) -> NDArray[np.float64]:
    """LPS mm."""
    return grid.points(np.argwhere(mask).mean(axis=0))
