"""Dose in a structure: how its dose-volume histogram is made.

Dose is interpolated trilinearly in Gy at points in small cells on the structure's own planes (`adaptive.dose.lattice`), so
that neither voxels of the dose nor of the image decide what lies inside. Where the dose is not known (beyond the centres of
the grid's outermost voxels, or no number) nothing is made up: that part is left out, and `Dvh.covered` says how much is
left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adaptive.dose.histogram import BIN, Dvh, DvhInterval, Metric
from adaptive.dose.lattice import HALF_SLICE, End, Lattice, lattice
from patient.dose import Dose
from patient.errors import FrameMismatch, InputError
from patient.geometry import Geometry, Slices
from patient.interpolation import PIECE, Floats, interpolated
from patient.structures import Structure
from patient.volume import Volume

__all__ = ["BIN", "Dvh", "DvhInterval", "End", "Metric", "dvh", "dvh_interval"]

SMALL_CC = 2.0
"""Below this the rule for a structure's ends can be a large part of its volume, and is said."""
_ON_THE_EDGE = 1e-6
"""Voxels; so far beyond the outermost centres is rounding."""


def dvh(
    structure: Structure,
    dose: Dose,
    *,
    frame_of_reference: str,
    plane_spacing: float | None = None,
    slices: Slices | None = None,
    end: End = HALF_SLICE,
    resolution: float | None = None,
    cells: Lattice | None = None,
) -> Dvh:
    """The DVH of a structure, from its loops or its field's loops.

    Args:
        frame_of_reference: of the image the structure was drawn on; must be the dose's.
        plane_spacing: mm between that image's planes; needed for a structure on one plane, else read off its contours.
        slices: of that image, where they are unevenly spaced.
        end: what lies beyond the end contours.
        resolution: mm, edge of a cell; chosen by the structure's size if not given.
        cells: the structure's, as `lattice` gives them with the same arguments, where several doses are asked for.

    Raises:
        FrameMismatch: structure and dose are in different frames of reference.
        InputError: an uncertainty (Dose Type ERROR) instead of a dose; one contour and no plane spacing.
    """
    _admit(structure, dose, frame_of_reference)
    cells = cells or lattice(structure, plane_spacing=plane_spacing, slices=slices, end=end, resolution=resolution)
    return _sampled(structure.name, cells, end, dose.volume.geometry, [dose.volume.array])[0]


def dvh_interval(
    structure: Structure,
    dose: Dose,
    error: Volume[np.float32],
    *,
    frame_of_reference: str,
    plane_spacing: float | None = None,
    slices: Slices | None = None,
    end: End = HALF_SLICE,
    resolution: float | None = None,
    cells: Lattice | None = None,
) -> DvhInterval:
    """The DVH with the interval that an error of the dose makes of it.

    The error counts in full and in one direction everywhere at once. Errors of a registration reach over whole organs, so
    they do not average out as noise does; where they partly do, the interval is too wide rather than too narrow.

    Args:
        error: Gy on the dose's grid, not negative: half the width of the interval that holds each voxel's dose. Whoever has
            a standard deviation gives 1.96 of it for 95 %. Where it is no number nothing is known.
        cells: as `dvh`.

    Raises:
        FrameMismatch: as `dvh`; the error is on another grid.
        InputError: as `dvh`; a negative error.
    """
    _admit(structure, dose, frame_of_reference)
    if not error.geometry.same_grid(dose.volume.geometry):
        raise FrameMismatch("A dose and its error are on different grids", where=dose.sop_instance_uid)
    if float(np.nanmin(error.array, initial=0.0)) < 0:
        raise InputError("A dose's error holds negative numbers", why="It is half the width of an interval")
    cells = cells or lattice(structure, plane_spacing=plane_spacing, slices=slices, end=end, resolution=resolution)
    return DvhInterval(
        *_sampled(structure.name, cells, end, dose.volume.geometry, [dose.volume.array, error.array], _bounds)
    )


def _admit(structure: Structure, dose: Dose, frame_of_reference: str) -> None:
    if dose.kind == "ERROR":
        raise InputError("Is the uncertainty of a dose, not a dose", where=dose.sop_instance_uid)
    frames = {frame_of_reference, dose.volume.geometry.frame_of_reference}
    if structure.drawn is None and structure.field is not None:
        frames.add(structure.field.geometry.frame_of_reference)
    if len(frames) > 1:
        raise FrameMismatch(
            f"{structure.name or 'A structure'} and the dose are in different frames of reference",
            where=dose.sop_instance_uid,
            why="Its dose would be read at the wrong place",
            remedy="Register the two images, and map the dose or the structure",
        )


def _sampled(
    name: str,
    cells: Lattice,
    end: End,
    grid: Geometry,
    arrays: Sequence[Floats],
    doses: Callable[[Sequence[Floats]], Sequence[Floats]] = lambda values: values,
) -> list[Dvh]:
    """One DVH for each of the `doses` that the values of all arrays on `grid` make at a point."""
    arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
    collected: list[_Collected] = []
    for slab in cells.slabs:
        points = np.ascontiguousarray(grid.indices(slab.points).T)
        steps = grid.indices(slab.offsets + np.asarray(grid.origin))
        for first in range(0, points.shape[1], PIECE):
            for step in steps:
                at = _known(points[:, first : first + PIECE] + step[:, None], grid)
                found = doses(interpolated(arrays, at))
                collected = collected or [_Collected() for _ in found]
                for gray, into in zip(found, collected, strict=True):
                    into.add(gray, slab.cell_cc)
    volume = sum(slab.cc for slab in cells.slabs)
    collected = collected or [_Collected() for _ in doses(arrays)]
    return [into.dvh(name, volume, cells, end) for into in collected]


def _known(at: NDArray[np.float64], grid: Geometry) -> NDArray[np.float64]:
    """Of indices `[3, n]` those within the outermost centres; what rounding alone put beyond them is clipped."""
    last = np.array(grid.shape)[:, None] - 1.0
    if (at.min(axis=1, initial=0) >= 0).all() and (at.max(axis=1, initial=0) <= last[:, 0]).all():
        return at
    inside = np.clip(at, 0, last)
    return np.ascontiguousarray(inside[:, (np.abs(at - inside) < _ON_THE_EDGE).all(axis=0)])


def _bounds(values: Sequence[Floats]) -> list[Floats]:
    """A dose, it less its error, and it with its error."""
    gray, error = values
    return [gray, np.maximum(gray - error, 0), gray + error]


class _Collected:
    """Volume by dose, as it comes piece by piece."""

    def __init__(self) -> None:
        self.cc = np.zeros(1)
        self.low, self.high, self.dose_cc = np.inf, -np.inf, 0.0

    def add(self, gray: Floats, cell_cc: float) -> None:
        """Cells of one volume; those without a number are left out."""
        if np.isnan(total := float(gray.sum(dtype=np.float64))):
            gray = gray[~np.isnan(gray)]
            total = float(gray.sum(dtype=np.float64))
        if not len(gray):
            return
        cells = np.bincount(np.divide(gray, BIN, dtype=np.float64).astype(np.intp), minlength=len(self.cc))
        self.cc = np.pad(self.cc, (0, len(cells) - len(self.cc))) + cells.astype(np.float64) * cell_cc
        self.low, self.high = min(self.low, float(gray.min())), max(self.high, float(gray.max()))
        self.dose_cc += total * cell_cc

    def dvh(self, name: str, volume_cc: float, cells: Lattice, end: End) -> Dvh:
        known = float(self.cc.sum())
        covered = min(1.0, known / volume_cc) if volume_cc else 0.0
        notes = []
        if volume_cc and covered < 1 - 1e-4:
            notes.append(f"{100 * (1 - covered):.2g} % of its volume lies where the dose is not known, and is left out")
        if cells.gaps:
            notes.append(f"Contours are missing at {cells.gaps} places between its slices: not interpolated")
        if 0 < volume_cc < SMALL_CC:
            notes.append(
                f"Its volume depends on what lies beyond its end contours: {cells.between_cc:.2f} cc with nothing there, "
                f"{cells.half_cc:.2f} cc with half a slice; here {volume_cc:.2f} cc, {end}"
            )
        low, high, mean = (self.low, self.high, self.dose_cc / known) if known else (None, None, None)
        return Dvh(
            name, volume_cc, covered, self.cc, low, high, mean, cells.resolution, cells.spacing, end, notes=tuple(notes)
        )
