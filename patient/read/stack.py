"""Planes in order along their normal, and the regular grid they are worked on.

Evenly spaced planes, within rounding, are that grid. Unevenly spaced ones and those of a tilted gantry stay the image's own
slices (`Geometry.slices`), and the grid is placed beside them: parallel to them, as fine as their finest block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patient.errors import DuplicateSlices, IncompleteSeries, UnsupportedGeometry
from patient.geometry import Geometry, Slices, Triple
from patient.read.planes import Plane

SAME_MM = 0.01
UNEVEN = 0.05
"""A step that differs by more than this part of the usual one is no jitter of the table."""
OFF_GRID = 0.095
"""Planes that lie further off an even stack, in parts of its step, are placed one by one."""
SHEAR_MM = 0.01
"""A plane may lie this far beside the normal through the first one, for each step."""
TILT_MM = 0.2
"""Planes of a tilted gantry lie on one slanting line within this."""
STEEPEST = 1.0
"""mm beside the normal for each mm along it; no gantry tilts by 45 degrees."""
ROUNDED = 0.35
"""Rounding of more than this part of a step could hide a missing slice."""
BLOCK = 3
"""So many equal steps in a row were meant; fewer that are a whole multiple of their neighbours are gaps."""
WHOLE = 0.1
"""A step is a whole multiple of another within this, and within rounding."""
LARGEST_STEP = 4.0
"""A single step larger than so many of its neighbours is a gap, whole multiple or not."""
FINEST = 4
"""The grid has at most this many planes for each slice."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stack:
    """Planes in order, the grid they are worked on, and what is odd about them in words."""

    planes: list[Plane]
    geometry: Geometry
    notes: tuple[str, ...]


def stacked(planes: Sequence[Plane], frame_of_reference: str, image: str) -> Stack:
    """Order planes of one orientation, spacing and size by Image Position along the normal, and place them.

    Args:
        frame_of_reference, image: UIDs for the geometry.

    Raises:
        DuplicateSlices: two planes at one place.
        IncompleteSeries: one plane, or slices are missing: a step that is a whole multiple of its neighbours.
        UnsupportedGeometry: planes beside each other that no tilted gantry makes.
    """
    ordered, places = _in_order(planes)
    slope = _tilt(ordered, places)
    even = _even(ordered, places)
    if even is None:
        _refuse_gaps(ordered, np.diff(places))
    first, step = even if even is not None else _finest(places)
    off = float(np.abs(places - first - step * np.arange(len(places))).max())
    regular = Geometry(
        shape=(len(ordered), ordered[0].rows, ordered[0].columns),
        spacing=(step, *ordered[0].spacing),
        origin=_triple(ordered[0].position + (first - places[0]) * ordered[0].normal),
        axes=(_triple(ordered[0].normal), _triple(ordered[0].axes[0]), _triple(ordered[0].axes[1])),
        frame_of_reference=frame_of_reference,
        image=image,
    )
    notes = (f"Slice positions jitter by up to {off:.3f} mm",) if even is not None and off > SAME_MM else ()
    if slope is None and even is not None and off <= OFF_GRID * step:
        return Stack(ordered, regular, notes)
    return Stack(ordered, _around(ordered, places, slope, regular), (*notes, *_said(places, slope, step, even is not None)))


def _triple(vector: Floats) -> Triple:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _in_order(planes: Sequence[Plane]) -> tuple[list[Plane], Floats]:
    """Sorted along the normal, with their places (mm) on it. Raises where there are too few, or two at one place."""
    if len(planes) < 2:
        raise IncompleteSeries(
            "The series has one slice",
            where=planes[0].name,
            why="One slice has no thickness and makes no volume",
            remedy="Send the whole series",
        )
    normal = planes[0].normal
    ordered = sorted(planes, key=lambda plane: float(plane.position @ normal))
    places = np.array([plane.position @ normal for plane in ordered])
    same: list[int] = np.flatnonzero(np.diff(places) < SAME_MM).tolist()
    if same:
        raise DuplicateSlices(
            f"Two slices lie at one position ({len(same)} such pairs)",
            where=f"{ordered[same[0]].name}, {ordered[same[0] + 1].name}",
            why="Two acquisitions, reconstructions or phases are mixed, and nobody can tell which is meant",
            remedy="Separate them into series of their own",
        )
    return ordered, places


def _tilt(planes: Sequence[Plane], places: Floats) -> Floats | None:
    """mm down the rows and along the columns for each mm along the normal; None for an upright stack.

    Raises:
        UnsupportedGeometry: planes lie beside each other, and not on one line.
    """
    beside = np.array([plane.position - planes[0].position for plane in planes]) @ planes[0].axes.T
    far = float(np.hypot(*beside.T).max())
    if far <= max(SHEAR_MM * (len(planes) - 1), SAME_MM * 2):
        return None
    along = places - places[0]
    slope = along @ beside / (along @ along)
    off = np.hypot(*(beside - np.outer(along, slope)).T)
    if off.max() > TILT_MM or np.hypot(*slope) > STEEPEST:
        raise UnsupportedGeometry(
            f"Planes lie up to {far:.2f} mm beside the first one's normal, {off.max():.2f} mm off any tilt of a gantry",
            where=f"{planes[0].name}, {planes[int(np.argmax(off))].name}",
            why="They make no stack that was scanned at once",
            remedy="Separate the acquisitions, or reconstruct them as one on the scanner",
        )
    return slope


def _last_digit(planes: Sequence[Plane]) -> float:
    """mm of the last digit with which the positions were written; 0 for anything finer than a hundredth."""
    positions = np.array([plane.position for plane in planes])
    return next((d for d in (1.0, 0.1, 0.01) if np.allclose(positions / d, np.rint(positions / d), rtol=0, atol=1e-6)), 0.0)


def _rounding(planes: Sequence[Plane], steps: Floats) -> float:
    """mm by which a step differs by rounding alone; 0 where that could hide a missing slice beside the smallest step.

    The smallest, because it alone is surely no gap: the median of 4 and 2 mm is neither.
    """
    rounding = _last_digit(planes) * float(np.abs(planes[0].normal).sum())
    return rounding if rounding <= ROUNDED * float(steps.min()) else 0.0


def _even(planes: Sequence[Plane], places: Floats) -> tuple[float, float] | None:
    """First place and step (mm) of the even stack that the planes make; None where they make none.

    Jitter of the table counts for nothing, nor does rounding to the last digit that was written.
    """
    steps, count = np.diff(places), np.arange(len(places))
    usual = float(np.median(steps))
    step = float(places[-1] - places[0]) / (len(places) - 1)
    drift = np.abs(places - places[0] - step * count).max()
    if np.abs(steps - usual).max() <= UNEVEN * usual and drift <= 2 * UNEVEN * usual:
        return float(places[0]), step
    if not (rounding := _rounding(planes, steps)):
        return None
    # a line that meets every place within half a digit is one whose slope fits every pair within a whole one
    apart, over = (np.subtract.outer(v, v)[np.tril_indices(len(places), -1)] for v in (places, count))
    least, largest = float(((apart - rounding) / over).max()), float(((apart + rounding) / over).min())
    if least > largest + 1e-9:
        return None
    step = (least + largest) / 2
    beside = places - step * count
    return float(beside.min() + beside.max()) / 2, step


def _runs(steps: Floats, tolerance: float) -> list[slice]:
    """Equal steps in a row."""
    starts = [0]
    for k in range(1, len(steps)):
        if abs(steps[k] - steps[starts[-1]]) > max(tolerance, UNEVEN * steps[starts[-1]]) + SAME_MM:
            starts.append(k)
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(steps)], strict=True)]


def _refuse_gaps(planes: Sequence[Plane], steps: Floats) -> None:
    """Raises IncompleteSeries where slices are missing between others."""
    rounding = _rounding(planes, steps)
    runs = _runs(steps, rounding)
    sizes = [float(steps[run].mean()) for run in runs]
    numbers = [plane.header.text("InstanceNumber") for plane in planes]
    gaps: list[tuple[int, float]] = []
    for n, run in enumerate(runs):
        beside = min(sizes[max(0, n - 1) : n] + sizes[n + 1 : n + 2], default=sizes[n])
        ratio = sizes[n] / beside
        whole = ratio > 1.5 and abs(ratio - round(ratio)) < WHOLE + 2 * rounding / beside
        few = run.stop - run.start < BLOCK
        if (few and (whole or ratio > LARGEST_STEP)) or (whole and _leaps(numbers[run.start : run.stop + 1], round(ratio))):
            gaps += [(k, beside) for k in range(run.start, run.stop)]
    if not gaps:
        return
    count = sum(round(steps[k] / usual) - 1 for k, usual in gaps)
    missing = "1 slice is missing" if count == 1 else f"{count} slices are missing"
    at, usual = gaps[0]
    places = f" in {len(gaps)} places, the first" if len(gaps) > 1 else ":"
    raise IncompleteSeries(
        f"{missing}{places} a step of {steps[at]:.2f} mm where others are {usual:.2f} mm",
        where=f"{planes[at].name}, {planes[at + 1].name}",
        why="A contour would be stretched over the gap",
        remedy="Send the missing slices",
    )


def _leaps(numbers: Sequence[str], by: int) -> bool:
    """Whether Instance Numbers leave out as many as would be missing: the slices were there once."""
    if not all(number.isdigit() for number in numbers):
        return False
    return bool((np.abs(np.diff([int(number) for number in numbers])) == by).all())


def _finest(places: Floats) -> tuple[float, float]:
    """Where the grid's planes meet the slices, and their step: those of the finest block."""
    steps = np.diff(places)
    runs = _runs(steps, 0.0)
    run = min([run for run in runs if run.stop - run.start >= BLOCK] or runs, key=lambda run: steps[run].mean())
    least = float(places[-1] - places[0]) / (FINEST * len(places))
    return float(places[run.start]), max(float(steps[run].mean()), least)


def _around(planes: Sequence[Plane], places: Floats, slope: Floats | None, through: Geometry) -> Geometry:
    """The smallest grid that holds every slice, with planes and pixels where `through` would have them, continued."""
    step, dy, dx = through.spacing
    along = (places - places[0] - (np.asarray(through.origin) - planes[0].position) @ planes[0].normal) / step
    beside = np.outer(places - places[0], slope if slope is not None else np.zeros(2)) / (dy, dx)
    at = np.column_stack([along, beside])
    low, high = np.floor(at.min(axis=0) + 1e-3).astype(int), np.ceil(at.max(axis=0) - 1e-3).astype(int)
    k, j, i = (int(v) for v in high - low)
    whole = Geometry(
        shape=(k + 1, j + planes[0].rows, i + planes[0].columns),
        spacing=through.spacing,
        origin=_triple(through.points(low)),
        axes=through.axes,
        frame_of_reference=through.frame_of_reference,
        image=through.image,
        slices=Slices(tuple(_triple(p.position) for p in planes), (planes[0].rows, planes[0].columns)),
    )
    return whole


def _said(places: Floats, slope: Floats | None, step: float, even: bool) -> tuple[str, ...]:
    steps = np.diff(places)
    said: list[str] = []
    if slope is not None:
        said.append(f"Gantry tilted by {np.degrees(np.arctan(np.hypot(*slope))):.1f} degrees")
    if not even:
        said.append(f"Slices are unevenly spaced, {steps.min():.2f} to {steps.max():.2f} mm")
    return (f"{'; '.join(said) or 'Slices lie off even spacing'}: resampled to {step:.2f} mm, drawn on the image's slices",)
