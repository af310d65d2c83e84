"""RTDOSE in (PS3.3 A.18, C.8.8.3): Gy on a grid that is placed without guessing, or a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.tag import Tag

from patient.dose import Dose
from patient.errors import (
    InputError,
    NotDicom,
    PixelDataError,
    RecontourError,
    UnsupportedGeometry,
    among,
)
from patient.geometry import SAME_PLACE_MM, Geometry, Triple
from patient.made_here import made_here
from patient.read.attributes import Attributes
from patient.read.headers import MODALITIES, Header, read_header
from patient.read.pixels import stored
from patient.read.planes import Plane, plane_of
from patient.volume import Volume

KINDS = ("PHYSICAL", "EFFECTIVE", "ERROR")
IMPLAUSIBLE = 500.0
"""Gy; a plan with more is rather one in cGy."""
_OFFSETS = Tag("GridFrameOffsetVector")
_UPRIGHT = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Directions of increasing row and column index in which Grid Frame Offset Vector may hold patient z."""


def read_dose(path: Path) -> Dose:
    """One RTDOSE in Gy, its frames ordered along rows x columns whatever their order in the file.

    Raises:
        NotDicom: not DICOM, or not an RTDOSE.
        InputError: not in Gy, without scaling, or without a frame of reference.
        UnsupportedGeometry: its frames have no places, uneven ones, or there is only one.
        PixelDataError: pixels missing, cut short, not decodable; negative numbers that are no error.
    """
    header = read_header(path)
    dose = Attributes.of(header)
    notes = dose.notes
    if (modality := dose.text("Modality")) != "RTDOSE":
        raise NotDicom(f"Is {among(modality, MODALITIES)}, not RTDOSE", where=path.name)
    kind, scaling = _kind(dose), _scaling(dose)
    if not dose.integer("Rows") or not dose.integer("Columns"):
        raise PixelDataError("Has no dose grid: no pixels", where=path.name)
    plane = plane_of(header, None, (Attributes.of(header),))
    offsets = _offsets(dose, plane)
    gray = _gray(header, scaling, kind)
    if offsets[0] > offsets[-1]:
        offsets, gray = offsets[::-1], gray[::-1]
        notes.append("Frames ran against rows x columns and were put in order")
    if kind != "ERROR" and (highest := float(gray.max())) > IMPLAUSIBLE:
        notes.append(f"The highest dose is {highest:.0f} Gy: is it in cGy?")
    plans = _referenced(dose, "ReferencedRTPlanSequence")
    if (summation := dose.text("DoseSummationType")) in ("PLAN", "MULTI_PLAN") and not plans:
        notes.append("Names no plan that it belongs to")
    return Dose(
        volume=Volume(gray, _geometry(dose, plane, offsets)),
        summation=summation,
        kind=kind,
        transformed=dose.text("SpatialTransformOfDose") or "NONE",
        comment=dose.unless_malformed(dose.text, "DoseComment") or "",
        sop_instance_uid=dose.text("SOPInstanceUID"),
        plan_uid=plans[0] if len(plans) == 1 else "",
        beam=_beam(dose),
        fractions=_fractions(dose),
        structure_set_uid=next(iter(_referenced(dose, "ReferencedStructureSetSequence")), ""),
        study_uid=dose.text("StudyInstanceUID"),
        made_here=made_here(header.dataset),
        header=header.dataset,
        notes=tuple(notes),
    )


def _kind(dose: Attributes) -> str:
    if (units := dose.text("DoseUnits")) != "GY":
        raise InputError(
            f"Dose Units are {among(units, ('RELATIVE', ''), 'something else') or 'not given'}, not GY",
            where=dose.where,
            why="A relative dose has no Gray: no limit could be compared with it",
            remedy="Export the dose in Gy",
        )
    if (kind := dose.text("DoseType")) not in KINDS:
        raise InputError(
            f"Dose Type is {'something else' if kind else 'not given'}, none of {', '.join(KINDS)}", where=dose.where
        )
    return kind


def _scaling(dose: Attributes) -> float:
    scaling = dose.number("DoseGridScaling") or 0.0
    if scaling <= 0:
        raise InputError(
            "Dose Grid Scaling is missing or not positive",
            where=dose.where,
            why="Stored numbers do not become Gy without it",
            remedy="Export the dose again",
        )
    return scaling


def _offsets(dose: Attributes, plane: Plane) -> NDArray[np.float64]:
    """Each frame's distance from Image Position along rows x columns, mm, in file order (PS3.3 C.8.8.3.2)."""
    where, frames = dose.where, dose.integer("NumberOfFrames") or 1
    why, remedy = "Its frames cannot be placed in the patient", "Export the dose again"
    if frames < 2:
        raise UnsupportedGeometry("Is a dose plane, not a volume: one frame", where=where)
    offsets = np.array(dose.numbers("GridFrameOffsetVector"))
    if len(offsets) != frames:
        raise UnsupportedGeometry(
            f"Grid Frame Offset Vector has {len(offsets)} values for {frames} frames", where=where, why=why, remedy=remedy
        )
    if abs(offsets[0]) > SAME_PLACE_MM:
        upright = np.abs(plane.axes - _UPRIGHT).max() < 1e-3
        if not upright or abs(offsets[0] - plane.position[2]) > SAME_PLACE_MM:
            raise UnsupportedGeometry(
                f"Grid Frame Offset Vector begins with {offsets[0]:g}: neither 0 nor Image Position's z of an upright grid",
                where=where,
                why=why,
                remedy=remedy,
            )
        dose.notes.append("Grid Frame Offset Vector holds patient z, not offsets")
    offsets = offsets - offsets[0]
    steps = np.diff(offsets)
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise UnsupportedGeometry("Grid Frame Offset Vector is not monotonic", where=where, why=why, remedy=remedy)
    regular = offsets[-1] / (frames - 1) * np.arange(frames)
    if (off := np.abs(offsets - regular).max()) > max(SAME_PLACE_MM, 1e-3 * abs(regular[1])):
        raise UnsupportedGeometry(
            f"Frames are unevenly spaced: {np.abs(steps).min():.3f} to {np.abs(steps).max():.3f} mm ({off:.3f} mm off)",
            where=where,
            why="A frame may be missing",
            remedy="Export the dose on a regular grid",
        )
    if dose.unless_malformed(dose.text, "FrameIncrementPointer") != str(_OFFSETS):
        dose.notes.append("Frame Increment Pointer does not name Grid Frame Offset Vector")
    return regular


def _gray(header: Header, scaling: float, kind: str) -> NDArray[np.float32]:
    try:
        read = stored(header)
    except RecontourError:
        raise
    except Exception as error:  # decoders raise whatever they do on malformed sizes
        raise PixelDataError("Its pixels cannot be decoded", where=header.path.name) from error
    if read.beyond:
        raise PixelDataError(
            f"{read.beyond} values need more bits than Bits Stored says",
            where=header.path.name,
            why="Dose would be cut off where it is highest",
            remedy="Export the dose again",
        )
    values = read.values
    if kind != "ERROR" and values.dtype.kind == "i" and int(values.min()) < 0:
        raise PixelDataError(
            f"A {kind} dose holds negative numbers",
            where=header.path.name,
            why="It may be a difference of doses, or unsigned numbers declared as signed",
            remedy="Export the dose itself",
        )
    gray = np.empty(values.shape, dtype=np.float32)
    for frame, numbers in zip(gray, values, strict=True):
        frame[:] = numbers * scaling
    return gray


def _geometry(dose: Attributes, plane: Plane, offsets: NDArray[np.float64]) -> Geometry:
    """The grid whose first plane is that with the lowest offset."""
    frame = dose.text("FrameOfReferenceUID")
    if not frame:
        raise InputError(
            "Has no Frame of Reference UID",
            where=dose.where,
            why="Nobody can tell which image its places belong to",
            remedy="Export the dose with its frame of reference",
        )
    return Geometry(
        (len(offsets), plane.rows, plane.columns),
        (float(offsets[1] - offsets[0]), *plane.spacing),
        _triple(plane.position + offsets[0] * plane.normal),
        (_triple(plane.normal), _triple(plane.axes[0]), _triple(plane.axes[1])),
        frame_of_reference=frame,
    )


def _triple(vector: NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in vector)
    return x, y, z


def _referenced(dose: Attributes, keyword: str) -> list[str]:
    return [uid for item in dose.items(keyword) if (uid := item.text("ReferencedSOPInstanceUID"))]


def _fractions(dose: Attributes) -> int | None:
    """Of the one plan that a plan overview is of; None where there is none, or several."""
    overviews = dose.items("PlanOverviewSequence")
    return overviews[0].integer("NumberOfFractionsIncluded") if len(overviews) == 1 else None


def _beam(dose: Attributes) -> int | None:
    """The one beam that it says it is of; None where it names none or several."""
    numbers = {
        beam.integer("ReferencedBeamNumber")
        for plan in dose.items("ReferencedRTPlanSequence")
        for group in plan.items("ReferencedFractionGroupSequence")
        for beam in group.items("ReferencedBeamSequence")
    } - {None}
    return numbers.pop() if len(numbers) == 1 else None
