"""RTSTRUCT in: every ROI by its number, every loop with the digits it came with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from patient.errors import InputError, NotDicom, among
from patient.loop import CLOSED_PLANAR, Loop
from patient.read.attributes import Attributes
from patient.read.headers import MODALITIES, Header, read_header
from patient.structures import Structure, StructureSet

CONTOUR_DATA = 0x30060050
CONTOUR_IMAGES = 0x30060016
GEOMETRIC_TYPE = 0x30060042
_ITEM = b"\xfe\xff\x00\xe0"
_REFERENCED_UID = re.compile(rb"\x08\x00\x55\x11(?:UI..|..\x00\x00)([0-9.]{1,64})", re.DOTALL)
"""Referenced SOP Instance UID, little endian, its VR explicit or implicit: tag, VR and length, value."""


def read_structure_set(path: Path) -> StructureSet:
    """All ROIs of an RTSTRUCT (PS3.3 A.19), also those without contours.

    Items are matched by ROI Number, never by their order: some systems leave empty ROIs out of the contours. Contours of a
    ROI that stand in several items are all its own. What is malformed and not needed is ignored, with a note.

    Raises:
        NotDicom: not DICOM, or not an RTSTRUCT.
        InputError: contour data that is no list of points, a ROI without number, or two with one number.
    """
    header = read_header(path)
    attributes = Attributes.of(header)
    if (modality := attributes.text("Modality")) != "RTSTRUCT":
        raise NotDicom(f"Is {among(modality, MODALITIES)}, not RTSTRUCT", where=path.name)
    notes = attributes.notes
    rois = _numbered_rois(attributes)
    contours = _by_number(attributes.items("ROIContourSequence"), needed=True)
    observations = _by_number(attributes.items("RTROIObservationsSequence"), needed=False)
    frame, study, series, images = referenced_image(header)
    frames = {item.text("FrameOfReferenceUID") for item in attributes.items("ReferencedFrameOfReferenceSequence")}
    structures = [
        _structure(number, roi, contours.get(number, []), observations.get(number, [])) for number, roi in rois.items()
    ]
    if len(frames) > 1 and (unplaced := [s for s in structures if not s.frame_of_reference]):
        notes += [
            f"{s.name or s.number} does not say which of the set's {len(frames)} frames of reference it is in: left out"
            for s in unplaced
        ]
        structures = [s for s in structures if s.frame_of_reference]
    if orphans := sorted(set(contours) - set(rois)):
        notes.append(f"Contours of ROI numbers {orphans} belong to no ROI and were left out")
    return StructureSet(
        structures=tuple(structures),
        label=attributes.unless_malformed(attributes.text, "StructureSetLabel") or "",
        frame_of_reference=frame,
        study_uid=study,
        series_uid=series,
        image_uids=images,
        sop_instance_uid=attributes.text("SOPInstanceUID"),
        header=_without_contours(header.dataset),
        notes=tuple(dict.fromkeys(notes)),
    )


def _numbered_rois(attributes: Attributes) -> dict[int, Attributes]:
    rois: dict[int, Attributes] = {}
    for roi in attributes.items("StructureSetROISequence"):
        number = roi.integer("ROINumber")
        if number is None:
            raise InputError("ROI Number is missing", where=roi.where, why="Nobody can tell which contours are the ROI's")
        if number in rois:
            raise InputError(
                f"ROI Number {number} stands twice",
                where=f"{rois[number].where} and {roi.where}",
                why="Nobody can tell which of the two ROIs the contours belong to",
                remedy="Export the structure set again",
            )
        rois[number] = roi
    return rois


def _by_number(items: list[Attributes], *, needed: bool) -> dict[int, list[Attributes]]:
    """Items by the ROI that they are about; those about none are passed over."""
    found: dict[int, list[Attributes]] = {}
    for item in items:
        read = item.integer
        number = read("ReferencedROINumber") if needed else item.unless_malformed(read, "ReferencedROINumber")
        if number is not None:
            found.setdefault(number, []).append(item)
        elif needed and item.items("ContourSequence"):
            item.notes.append(f"Contours without a Referenced ROI Number belong to no ROI and were left out ({item.place})")
    return found


def _structure(number: int, roi: Attributes, contours: list[Attributes], observations: list[Attributes]) -> Structure:
    name = roi.unless_malformed(roi.text, "ROIName") or ""
    if len(contours) > 1:
        roi.notes.append(f"{name or number}: its contours stand in {len(contours)} items: all are taken")
    loops = tuple(loop for contour in contours for loop in _loops(contour, number))

    def said(item: Attributes | None, keyword: str) -> str:
        return (item.unless_malformed(item.text, keyword) or "") if item is not None else ""

    observation = next(iter(observations), None)
    return Structure(
        name=name,
        number=number,
        interpreted_type=said(observation, "RTROIInterpretedType"),
        color=next(filter(None, map(_color, contours)), None),
        algorithm=said(roi, "ROIGenerationAlgorithm"),
        description=said(roi, "ROIGenerationDescription"),
        remark=said(roi, "ROIDescription"),
        observation_label=said(observation, "ROIObservationLabel"),
        drawn=loops,
        frame_of_reference=said(roi, "ReferencedFrameOfReferenceUID"),
        as_read=(roi.dataset, _joined(contours), observation.dataset if observation is not None else None),
    )


def _color(contour: Attributes) -> tuple[int, int, int] | None:
    values = contour.unless_malformed(lambda keyword: contour.numbers(keyword, 3), "ROIDisplayColor")
    if not values:
        return None
    red, green, blue = (min(255, max(0, int(value))) for value in values)
    return red, green, blue


def _joined(contours: list[Attributes]) -> Dataset | None:
    """One item with the contours of all: a structure has one item in the ROI Contour Sequence (PS3.3 C.8.8.6)."""
    if len(contours) < 2:
        return contours[0].dataset if contours else None
    joined = copy(contours[0].dataset)
    joined.ContourSequence = Items([item.dataset for contour in contours for item in contour.items("ContourSequence")])
    return joined


def _loops(contour: Attributes, number: int) -> Iterator[Loop]:
    for item in contour.items("ContourSequence"):
        where = f"ROI {number}, {item.where}"
        try:
            digits, kind = _text(item.dataset, CONTOUR_DATA), _text(item.dataset, GEOMETRIC_TYPE)
        except Exception as error:
            raise InputError("Contour Data or Contour Geometric Type cannot be read", where=where) from error
        yield Loop(
            _points(digits, where), _image_uid(item), kind.decode("ascii", "replace").strip() or CLOSED_PLANAR, digits
        )


def _text(item: Dataset, tag: int) -> bytes:
    """A value as its bytes stood in the file; also where an explicit VR could not say its length and became UN.

    A structure set holds thousands of loops: pydicom's own conversion of each element costs more than all else in reading.
    """
    if tag not in item:
        return b""
    value = item.get_item(tag).value
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value.rstrip(b"\0 ")
    if isinstance(value, MultiValue):
        return "\\".join(map(str, cast("MultiValue[Any]", value))).encode("ascii", "replace")
    return str(value).encode("ascii", "replace")


def _image_uid(item: Attributes) -> str:
    """The one image that a loop names; empty where it names none or several."""
    if CONTOUR_IMAGES not in item.dataset:
        return ""
    raw = item.dataset.get_item(CONTOUR_IMAGES).value
    if isinstance(raw, bytes) and raw.count(_ITEM) == 1 and (found := _REFERENCED_UID.search(raw)) is not None:
        return found[1].decode("ascii")
    images = item.unless_malformed(item.items, "ContourImageSequence") or []
    if len(images) != 1:
        return ""
    return images[0].unless_malformed(images[0].text, "ReferencedSOPInstanceUID") or ""


def _points(digits: bytes, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.array(digits.split(b"\\"), dtype=np.float64) if digits else np.empty(0)
    except ValueError as error:
        raise InputError("Contour data holds what is no number", where=where) from error
    if numbers.size % 3 or not np.isfinite(numbers).all():
        raise InputError(f"Contour data holds {numbers.size} numbers, which makes no points in space", where=where)
    return numbers.reshape(-1, 3)


def referenced_image(header: Header) -> tuple[str, str, str, frozenset[str]]:
    """Frame of reference, study, series and planes that a set says it was drawn on.

    Where it lists several frames of reference (a CT's and an MR's), the one that most of its ROIs are in.

    Raises:
        InputError: a reference that cannot be read.
    """
    attributes = Attributes.of(header)
    rois = [roi.text("ReferencedFrameOfReferenceUID") for roi in attributes.items("StructureSetROISequence")]
    in_frame = Counter(filter(None, rois))
    listed = attributes.items("ReferencedFrameOfReferenceSequence")
    if not listed:
        return max(in_frame, key=in_frame.__getitem__, default=""), "", "", frozenset()
    frames = max(listed, key=lambda item: in_frame[item.text("FrameOfReferenceUID")])
    studies = frames.items("RTReferencedStudySequence")
    series = [one for study in studies for one in study.items("RTReferencedSeriesSequence")]
    return (
        frames.text("FrameOfReferenceUID"),
        _first(studies, "ReferencedSOPInstanceUID"),
        _first(series, "SeriesInstanceUID"),
        frozenset(i.text("ReferencedSOPInstanceUID") for one in series for i in one.items("ContourImageSequence")),
    )


def _first(items: Sequence[Attributes], keyword: str) -> str:
    return next(filter(None, (item.text(keyword) for item in items)), "")


def _without_contours(dataset: Dataset) -> Dataset:
    """The set's own attributes, without the ROIs: these travel with their structures."""
    header = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts every element
        if tag not in (0x30060039, 0x30060020, 0x30060080):
            header[tag] = dataset.get_item(tag)
    return header
