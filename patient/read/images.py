"""From the files of a series to an image whose planes are known, complete, parallel and in order; or a refusal by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patient.errors import (
    DuplicateSlices,
    IncompleteSeries,
    InputError,
    MixedSeries,
    PixelDataError,
    UnsupportedGeometry,
)
from patient.geometry import Geometry
from patient.read.headers import Header
from patient.read.index import SeriesEntry, scan
from patient.read.pixels import read_pixels
from patient.read.planes import Plane, planes_of
from patient.series import ImageSeries, Instance

SAME_MM = 0.01
UNEVEN = 0.05
"""A step that differs by more than this part of the usual one is a gap; less is rounding or jitter of the table."""
SHEAR_MM = 0.01
"""A plane may lie this far beside the normal through the first one, for each step."""
IMAGES = ("CT", "MR", "PT")


def open_folder(folder: Path, series_uid: str | None = None) -> ImageSeries:
    """The one image in a folder (CT before MR before PET), or the one of a given UID.

    Raises:
        InputError: none, or several that cannot all be meant; or as `open_image`.
    """
    index = scan(folder)
    wanted = [entry for entry in index.series if series_uid in (None, entry.uid)]
    for modality in IMAGES:
        entries = [entry for entry in wanted if entry.modality == modality]
        if len(entries) > 1:
            raise MixedSeries(
                f"{len(entries)} {modality} series where one is asked for: {', '.join(entry.uid for entry in entries)}",
                where=folder.name,
                remedy="Name the series, or give its folder",
            )
        if entries:
            return open_image(entries[0])
    broken = f"; unreadable: {len(index.problems)} files, as {index.problems[0].error}" if index.problems else ""
    raise InputError(f"No CT, MR or PET image found{broken}", where=folder.name)


def open_image(entry: SeriesEntry) -> ImageSeries:
    """Check a series and place its planes; pixels are read when asked.

    Order and spacing come from Image Position along the normal alone (never Slice Location, Instance Number or Slice
    Thickness). Localizers are left out and noted, as are repeated copies of one file.

    Raises:
        MixedSeries: two patients, frames of reference, orientations, pixel spacings or sizes.
        DuplicateSlices: one plane twice with different instances.
        IncompleteSeries: fewer than two planes, or a gap.
        UnsupportedGeometry: no position, a sheared stack (gantry tilt), an uneven one.
        PixelDataError: no pixels.
    """
    upright = _without_localizers(entry.headers)
    headers = _distinct(upright)
    left_out = {"localizers": len(entry.headers) - len(upright), "repeated copies of files": len(upright) - len(headers)}
    notes = [f"{count} {what} left out" for what, count in left_out.items() if count]
    if not headers[0].text("SeriesInstanceUID"):
        notes.append("Has no Series Instance UID: one was made up, which no other system will know")
    planes = [plane for header in headers for plane in planes_of(header)]
    _all_alike(planes)
    planes, places = _in_order(planes)
    notes += _uneven(planes, places)
    first = planes[0]
    step = (places[-1] - places[0]) / (len(planes) - 1)
    geometry = Geometry(
        shape=(len(planes), first.rows, first.columns),
        spacing=(float(step), *first.spacing),
        origin=_triple(first.position),
        axes=(_triple(first.normal), _triple(first.axes[0]), _triple(first.axes[1])),
        frame_of_reference=entry.frame_of_reference,
        image=entry.uid,
    )
    instances = tuple(
        Instance(p.header.path, p.header.text("SOPClassUID"), p.header.text("SOPInstanceUID"), _triple(p.position), p.frame)
        for p in planes
    )
    pixels = partial(read_pixels, planes, is_ct=entry.modality == "CT")
    return ImageSeries(instances, geometry, first.header.dataset, first.header.identity, entry.uid, pixels, tuple(notes))


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _without_localizers(headers: Sequence[Header]) -> list[Header]:
    kept = [header for header in headers if "LOCALIZER" not in header.text("ImageType").upper()]
    return kept or list(headers)


def _distinct(headers: Sequence[Header]) -> list[Header]:
    """Copies of one file count once.

    Raises:
        DuplicateSlices: one SOP Instance UID with two contents.
    """
    by_uid: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        by_uid[header.text("SOPInstanceUID") or str(header.path)].append(header)
    for same in by_uid.values():
        contents = same[0].path.read_bytes() if len(same) > 1 else b""
        for other in same[1:]:
            if other.path.read_bytes() != contents:
                raise DuplicateSlices(
                    "Two different files carry one SOP Instance UID",
                    where=f"{same[0].path.name}, {other.path.name}",
                    why="Nobody can tell which is meant",
                    remedy="Remove the wrong one, or send the series again",
                )
    return [same[0] for same in by_uid.values()]


_ALIKE: tuple[tuple[str, Callable[[Plane], str]], ...] = (
    ("two patients", lambda p: p.header.text("PatientID") + "\n" + p.header.text("PatientName")),
    ("two studies", lambda p: p.header.text("StudyInstanceUID")),
    ("two frames of reference", lambda p: p.header.text("FrameOfReferenceUID")),
    ("pictures of two sizes", lambda p: f"{p.rows} x {p.columns}"),
    ("kinds of object", lambda p: p.header.text("SOPClassUID")),
)


def _all_alike(planes: Sequence[Plane]) -> None:
    """Raises MixedSeries, naming two files but never what their headers say of the patient."""
    if not planes:
        raise PixelDataError("No plane with pixels")
    first = planes[0]
    for what, of in _ALIKE:
        other = next((plane for plane in planes if of(plane) != of(first)), None)
        if other is not None:
            raise _mixed(f"One series holds {what}", first, other)
    for plane in planes:
        if np.abs(plane.axes - first.axes).max() > 1e-3:
            raise _mixed("One series holds planes of two orientations", first, plane)
        if not np.allclose(plane.spacing, first.spacing, rtol=1e-3, atol=1e-4):
            raise _mixed(f"One series holds two pixel spacings, {first.spacing} and {plane.spacing} mm", first, plane)


def _mixed(what: str, first: Plane, other: Plane) -> MixedSeries:
    return MixedSeries(
        what,
        where=f"{first.name}, {other.name}",
        why="They do not make one image",
        remedy="Separate them, or send the series again",
    )


def _in_order(planes: list[Plane]) -> tuple[list[Plane], NDArray[np.float64]]:
    """Sorted along the normal, with their places (mm) on it. Raises where there are too few, or two at one place."""
    if len(planes) < 2:
        raise IncompleteSeries(
            "The series has one plane",
            where=planes[0].name,
            why="One plane has no thickness and makes no volume",
            remedy="Send the whole series",
        )
    normal = planes[0].normal
    planes = sorted(planes, key=lambda plane: float(plane.position @ normal))
    places = np.array([plane.position @ normal for plane in planes])
    same = np.flatnonzero(np.diff(places) < SAME_MM)
    if same.size:
        raise DuplicateSlices(
            f"Two planes lie at one place ({len(same)} such pairs)",
            where=f"{planes[same[0]].name}, {planes[same[0] + 1].name}",
            why="Two acquisitions, reconstructions or phases are mixed, and nobody can tell which is meant",
            remedy="Separate them into series of their own",
        )
    return planes, places


def _uneven(planes: Sequence[Plane], places: NDArray[np.float64]) -> tuple[str, ...]:
    """Notes on small unevenness. Raises on gaps, uneven spacing and shear."""
    first, normal = planes[0], planes[0].normal
    beside = np.array([p.position - first.position for p in planes])
    beside = np.linalg.norm(beside - np.outer(beside @ normal, normal), axis=1)
    if beside.max() > max(SHEAR_MM * (len(planes) - 1), SAME_MM * 2):
        raise UnsupportedGeometry(
            f"The stack is sheared (tilted gantry): planes lie up to {beside.max():.2f} mm beside the first one's normal",
            where=f"{first.name}, {planes[-1].name}",
            why="Margins and distances would be wrong",
            remedy="Reformat it to upright planes on the scanner",
        )
    steps = np.diff(places)
    usual = float(np.median(steps))
    worst = int(np.argmax(np.abs(steps - usual)))
    where = f"{planes[worst].name}, {planes[worst + 1].name}"
    off = abs(steps[worst] - usual) / usual
    if off > UNEVEN:
        missing = steps[worst] / usual
        if missing > 1.5 and abs(missing - round(missing)) < 0.1:
            raise IncompleteSeries(
                f"{round(missing) - 1} planes are missing: a step of {steps[worst]:.2f} mm where others are {usual:.2f} mm",
                where=where,
                why="A contour would be stretched over the gap",
                remedy="Send the missing slices",
            )
        raise UnsupportedGeometry(
            f"Planes are unevenly spaced: a step of {steps[worst]:.2f} mm where others are {usual:.2f} mm",
            where=where,
            why="Slices may be missing",
            remedy="Send the missing slices, or reconstruct at one spacing",
        )
    drift = np.abs(places - np.linspace(places[0], places[-1], len(places))).max()
    if drift > UNEVEN * 2 * usual:
        raise UnsupportedGeometry(
            f"Planes drift up to {drift:.2f} mm from even spacing", where=where, why="Slices may be missing"
        )
    return (f"Slice positions jitter by up to {drift:.3f} mm",) if drift > SAME_MM else ()
