"""RTSTRUCT in: every ROI by its number, every loop with the digits it came with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from patient.errors import InputError, NotDicom
from patient.read.headers import read_header
from patient.structures import CLOSED_PLANAR, Loop, Structure, StructureSet

CONTOUR_DATA = 0x30060050
CONTOUR_SEQUENCE = 0x30060040
CONTOUR_IMAGES = 0x30060016
GEOMETRIC_TYPE = 0x30060042
_ITEM = b"\xfe\xff\x00\xe0"
_REFERENCED_UID = re.compile(rb"\x08\x00\x55\x11(?:UI..|..\x00\x00)([0-9.]{1,64})", re.DOTALL)
"""Referenced SOP Instance UID, little endian, its VR explicit or implicit: tag, VR and length, value."""


def read_structure_set(path: Path) -> StructureSet:
    """All ROIs of an RTSTRUCT (PS3.3 A.19), also those without contours.

    Items are matched by ROI Number, never by their order: some systems leave empty ROIs out of the contours.

    Raises:
        NotDicom: not DICOM, or not an RTSTRUCT.
        InputError: contour data that is no list of points.
    """
    header = read_header(path)
    dataset = header.dataset
    if header.text("Modality") != "RTSTRUCT":
        raise NotDicom(f"Is {header.text('Modality') or 'something'}, not RTSTRUCT", where=path.name)
    contours = {
        int(item.ReferencedROINumber): item
        for item in _items(dataset, "ROIContourSequence")
        if item.get("ReferencedROINumber") is not None
    }
    observations = {
        int(item.ReferencedROINumber): item
        for item in _items(dataset, "RTROIObservationsSequence")
        if item.get("ReferencedROINumber") is not None
    }
    rois = _items(dataset, "StructureSetROISequence")
    structures = tuple(
        _structure(roi, contours.get(int(roi.ROINumber)), observations.get(int(roi.ROINumber)), path.name) for roi in rois
    )
    orphans = sorted(set(contours) - {structure.number for structure in structures})
    notes = (f"Contours of ROI numbers {orphans} belong to no ROI and were left out",) if orphans else ()
    frame, study, series, images = referenced_image(dataset)
    if not frame:
        frame = next((str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in rois), "")
    return StructureSet(
        structures=structures,
        label=header.text("StructureSetLabel"),
        frame_of_reference=frame,
        study_uid=study,
        series_uid=series,
        image_uids=images,
        sop_instance_uid=header.text("SOPInstanceUID"),
        header=_without_contours(dataset),
        notes=notes,
    )


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or [])


def _structure(roi: Dataset, contour: Dataset | None, observation: Dataset | None, file: str) -> Structure:
    name = str(roi.get("ROIName", "") or "")
    color = contour.get("ROIDisplayColor") if contour is not None else None
    red_green_blue = tuple(int(v) for v in color) if color is not None and len(color) == 3 else None
    loops = tuple(_loops(contour, f"{file}, ROI {roi.ROINumber}")) if contour is not None else ()
    return Structure(
        name=name,
        number=int(roi.ROINumber),
        interpreted_type=str(observation.get("RTROIInterpretedType") or "") if observation is not None else "",
        color=red_green_blue,  # type: ignore[arg-type]
        algorithm=str(roi.get("ROIGenerationAlgorithm") or ""),
        description=str(roi.get("ROIGenerationDescription") or ""),
        remark=str(roi.get("ROIDescription") or ""),
        observation_label=str(observation.get("ROIObservationLabel") or "") if observation is not None else "",
        drawn=loops,
        as_read=(roi, contour, observation),
    )


def _loops(contour: Dataset, where: str) -> Iterator[Loop]:
    for item in _items(contour, "ContourSequence"):
        digits = _text(item, CONTOUR_DATA)
        kind = _text(item, GEOMETRIC_TYPE).decode("ascii", "replace").strip()
        yield Loop(_points(digits, where), _image_uid(item), kind or CLOSED_PLANAR, digits)


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
    return ("\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)).encode("ascii", "replace")


def _image_uid(item: Dataset) -> str:
    """The one image that a loop names; empty where it names none or several."""
    if CONTOUR_IMAGES not in item:
        return ""
    raw = item.get_item(CONTOUR_IMAGES).value
    if isinstance(raw, bytes) and raw.count(_ITEM) == 1 and (found := _REFERENCED_UID.search(raw)) is not None:
        return found[1].decode("ascii")
    images = item.get("ContourImageSequence") or []
    return str(images[0].get("ReferencedSOPInstanceUID", "")) if len(images) == 1 else ""


def _points(digits: bytes, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.array(digits.split(b"\\"), dtype=np.float64) if digits else np.empty(0)
    except ValueError as error:
        raise InputError("Contour data holds what is no number", where=where) from error
    if numbers.size % 3 or not np.isfinite(numbers).all():
        raise InputError(f"Contour data holds {numbers.size} numbers, which makes no points in space", where=where)
    return numbers.reshape(-1, 3)


def referenced_image(dataset: Dataset) -> tuple[str, str, str, frozenset[str]]:
    """Frame of reference, study, series and planes that the set says it was drawn on; the first where it names several."""
    frame = study = series = ""
    images: set[str] = set()
    for frames in _items(dataset, "ReferencedFrameOfReferenceSequence"):
        frame = frame or str(frames.get("FrameOfReferenceUID", ""))
        for studies in _items(frames, "RTReferencedStudySequence"):
            study = study or str(studies.get("ReferencedSOPInstanceUID", ""))
            for one in _items(studies, "RTReferencedSeriesSequence"):
                series = series or str(one.get("SeriesInstanceUID", ""))
                images.update(str(i.get("ReferencedSOPInstanceUID", "")) for i in _items(one, "ContourImageSequence"))
    return frame, study, series, frozenset(images)


def _without_contours(dataset: Dataset) -> Dataset:
    """The set's own attributes, without the ROIs: these travel with their structures."""
    header = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts every element
        if tag not in (0x30060039, 0x30060020, 0x30060080):
            header[tag] = dataset.get_item(tag)
    return header
