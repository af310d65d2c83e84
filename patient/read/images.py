"""From the files of a series to an image whose planes are known, complete, parallel and in order; or a refusal by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patient.errors import DuplicateSlices, MixedSeries, PixelDataError
from patient.read.completeness import lacking, remarks
from patient.read.headers import Header
from patient.read.index import IMAGES, SeriesEntry
from patient.read.phases import one_phase
from patient.read.pixels import AIR, read_pixels
from patient.read.planes import Plane, planes_of
from patient.read.scan import scan
from patient.read.stack import stacked
from patient.series import ImageSeries, Instance, Pixels
from patient.slices import on_grid


def open_folder(
    folder: Path, series_uid: str | None = None, *, phase: str = "", drawn_on: frozenset[str] = frozenset()
) -> ImageSeries:
    """The one image in a folder (CT before MR before PET), or the one of a given UID; phases as `open_image` tells them.

    Raises:
        InputError: none, or several that cannot all be meant; or as `open_image`.
    """
    entry = scan(folder).one(*IMAGES, uid=series_uid or "", where=folder.name)
    return open_image(entry, phase=phase, drawn_on=drawn_on)


def open_image(entry: SeriesEntry, *, phase: str = "", drawn_on: frozenset[str] = frozenset()) -> ImageSeries:
    """Check a series and place its planes; pixels are read when asked.

    Order and spacing come from Image Position along the normal alone (never Slice Location, Instance Number or Slice
    Thickness). Localizers are left out and noted, as are repeated copies of one file. Unevenly spaced slices and those of a
    tilted gantry are resampled to a regular grid when loaded, and stay the image's `geometry.slices`.

    Args:
        entry: the series.
        phase: which of several images of the series is meant (a 4D CT, say), as the refusal names them.
        drawn_on: SOP Instance UIDs that a structure set was drawn on: tells the phase where nobody said it.

    Raises:
        MixedSeries: two patients, frames of reference, orientations, pixel spacings or sizes; several phases or interleaved
            acquisitions and no choice.
        DuplicateSlices: one plane twice with different instances, and nothing that tells them apart.
        IncompleteSeries: fewer than two planes, or missing slices.
        UnsupportedGeometry: no position, planes that lie beside each other.
        PixelDataError: no pixels.
    """
    upright = _without_localizers(entry.headers)
    headers = _distinct(upright)
    left_out = {"localizers": len(entry.headers) - len(upright), "repeated copies of files": len(upright) - len(headers)}
    notes = [f"{count} {what} left out" for what, count in left_out.items() if count]
    notes += remarks(entry)
    if not headers[0].text("SeriesInstanceUID"):
        notes.append("Has no Series Instance UID: one was made up, which no other system will know")
    planes = [plane for header in headers for plane in planes_of(header)]
    notes += _all_alike(planes)
    planes, said = one_phase(planes, phase, drawn_on)
    stack = stacked(planes, entry.frame_of_reference, entry.uid)
    instances = tuple(
        Instance(p.header.path, p.header.text("SOPClassUID"), p.header.text("SOPInstanceUID"), _triple(p.position), p.frame)
        for p in stack.planes
    )
    first, is_ct = stack.planes[0].header, entry.modality == "CT"

    def pixels() -> Pixels:
        read = read_pixels(stack.planes, is_ct=is_ct)
        return replace(read, array=on_grid(read.array, stack.geometry, AIR if is_ct else None))

    notes += [*said, *stack.notes]
    return ImageSeries(
        instances, stack.geometry, first.dataset, first.identity, entry.uid, pixels, tuple(notes), lacking(entry)
    )


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
    ("two patients", lambda p: p.header.text("PatientID") + "\n" + _plain_name(p)),
    ("two studies", lambda p: p.header.text("StudyInstanceUID")),
    ("two frames of reference", lambda p: p.header.text("FrameOfReferenceUID")),
    ("pictures of two sizes", lambda p: f"{p.rows} x {p.columns}"),
    ("kinds of object", lambda p: p.header.text("SOPClassUID")),
)


def _plain_name(plane: Plane) -> str:
    """A name as people mean it: without case, padding, empty components and the kinds of space between its parts."""
    return " ".join(re.split(r"[\s^=,_]+", plane.header.text("PatientName").casefold())).strip()


def _all_alike(planes: Sequence[Plane]) -> tuple[str, ...]:
    """Notes on what differs without a meaning. Raises MixedSeries, naming two files but never what their headers say."""
    if not planes:
        raise PixelDataError("No slice with pixels")
    first = planes[0]
    for what, of in _ALIKE:
        usual = of(first)
        other = next((plane for plane in planes if of(plane) != usual), None)
        if other is not None:
            raise _mixed(f"One series holds {what}", first, other)
    turned = np.abs(np.array([plane.axes for plane in planes]) - first.axes).max(axis=(1, 2)) > 1e-3
    if turned.any():
        raise _mixed("One series holds slices of two orientations", first, planes[int(np.argmax(turned))])
    scaled = ~np.isclose([plane.spacing for plane in planes], first.spacing, rtol=1e-3, atol=1e-4).all(axis=1)
    if scaled.any():
        other = planes[int(np.argmax(scaled))]
        raise _mixed(f"One series holds two pixel spacings, {first.spacing} and {other.spacing} mm", first, other)
    written = len({plane.header.text("PatientName") for plane in planes})
    return (f"The patient's name is written in {written} ways, which differ by case or padding",) if written > 1 else ()


def _mixed(what: str, first: Plane, other: Plane) -> MixedSeries:
    return MixedSeries(
        what,
        where=f"{first.name}, {other.name}",
        why="They do not make one image",
        remedy="Separate them, or send the series again",
    )
