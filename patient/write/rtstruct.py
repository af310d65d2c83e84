"""RTSTRUCT out (PS3.3 A.19): a new, unapproved instance; what was read and not touched goes out as it came."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from pydicom.uid import RTStructureSetStorage

from patient.errors import FrameMismatch
from patient.loop import Loop
from patient.series import ImageSeries
from patient.structures import Code, Structure, StructureSet
from patient.write.contour_data import contour_sequence, digits, image_items
from patient.write.identity import frame_of_reference, new_object, write_new
from patient.write.series_number import Kind, series_number

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management (retired): what every system writes here
_TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
_CONTOUR_SEQUENCE = Tag(0x3006, 0x0040)
UNREVIEWED = "by software, not approved"
"""Ends the Series Description of every structure set."""


def write_structure_set(
    path: Path,
    structures: StructureSet,
    image: ImageSeries,
    *,
    version: str,
    predecessors: Iterable[str] = (),
    fraction: int | None = None,
) -> str:
    """Write a structure set on an image as a new RTSTRUCT, whole and synced to disk.

    Loops without digits are ours: each goes to the plane it lies on, on that plane's own position. Structures that were read
    keep their numbers and every attribute; ours get free numbers.

    Args:
        path: of the file; must not exist.
        structures: names unique without regard to case (the gate looks).
        image: what they are drawn on.
        version: of the software.
        predecessors: SOP Instance UIDs of the structure sets that this one was derived from.
        fraction: whose structures they are, for the Series Number; None for a planning image's.

    Returns:
        The new SOP Instance UID.

    Raises:
        FrameMismatch: a structure lies on none of the image's planes.
        OutputRefused: a coordinate cannot be written.
    """
    dataset = new_object(
        image,
        RTStructureSetStorage,
        "RTSTRUCT",
        series_description=_series_description(structures.name),
        number=series_number(image, Kind.STRUCTURES, fraction),
        version=version,
    )
    _one_character_set(dataset, structures)
    dataset.StructureSetLabel = structures.label[:16] or "recontour"
    dataset.StructureSetName = (structures.name or structures.label)[:64] or "recontour"
    made = f"Made by recontour {version}; not reviewed by a person"
    dataset.StructureSetDescription = ". ".join(filter(None, (made, structures.description)))[:1024]
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.ApprovalStatus = "UNAPPROVED"
    if before := [_reference(RTStructureSetStorage, uid) for uid in predecessors if uid]:
        dataset.PredecessorStructureSetSequence = Items(before)
    dataset.ReferencedFrameOfReferenceSequence = Items([_referenced_image(image, dataset.StudyInstanceUID)])

    numbered = _numbered(structures.structures)
    frame, drawing = frame_of_reference(image), _Drawing(image)
    dataset.StructureSetROISequence = Items([_roi(s, number, frame) for number, s in numbered])
    dataset.ROIContourSequence = Items([drawing.contour_item(s, number) for number, s in numbered])
    dataset.RTROIObservationsSequence = Items([_observation(s, number, k) for k, (number, s) in enumerate(numbered, 1)])
    return write_new(path, dataset)


def _series_description(name: str) -> str:
    return f"{name[: 64 - len(UNREVIEWED) - 2]}; {UNREVIEWED}" if name else f"Automatic contours {UNREVIEWED}"


def _numbered(structures: Sequence[Structure]) -> list[tuple[int, Structure]]:
    taken = {structure.number for structure in structures}
    free = (number for number in count(1) if number not in taken)
    return [(structure.number or next(free), structure) for structure in structures]


def _one_character_set(dataset: Dataset, structures: StructureSet) -> None:
    """Where the set that was read has another character set than the image, both become UTF-8."""
    read = [item for s in structures.structures for item in s.as_read or () if item is not None]
    if structures.header is None or not read:
        return
    theirs = structures.header.get("SpecificCharacterSet")
    if theirs == dataset.get("SpecificCharacterSet"):
        return
    for item in [dataset, *read]:
        _decode_texts(item)
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _decode_texts(dataset: Dataset) -> None:
    """Make text of what is written in a character set. Numbers stay the bytes that were read: they may be malformed."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        vr = element.VR if element.VR not in (None, "UN") else dictionary_VR(tag) if dictionary_has_tag(tag) else "UN"
        if vr in _TEXTS:
            _ = dataset[tag]
        elif vr == "SQ" and tag != _CONTOUR_SEQUENCE:
            for item in dataset[tag].value:
                _decode_texts(item)


def _reference(sop_class: str, sop_instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
    return item


def _referenced_image(image: ImageSeries, study_uid: str) -> Dataset:
    """Every plane of the image, not only those with contours: importers look for the whole series."""
    instances = {i.sop_instance_uid: i.sop_class_uid for i in image.instances}
    series = Dataset()
    series.SeriesInstanceUID = image.series_uid
    series.ContourImageSequence = Items([_reference(sop_class, uid) for uid, sop_class in instances.items()])
    study = _reference(_STUDY_CLASS, study_uid)
    study.RTReferencedSeriesSequence = Items([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = frame_of_reference(image)
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _kept(item: Dataset | None) -> Dataset:
    return copy.copy(item) if item is not None else Dataset()


def _roi(structure: Structure, number: int, frame: str) -> Dataset:
    item = _kept(structure.as_read[0] if structure.as_read else None)
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame
    if structure.as_read is None:
        item.ROIName = structure.name
        item.ROIGenerationAlgorithm = structure.algorithm
        if structure.description:
            item.ROIGenerationDescription = structure.description[:64]
        if structure.remark:
            item.ROIDescription = structure.remark[:1024]
    elif "ROIGenerationAlgorithm" not in item:
        item.ROIGenerationAlgorithm = ""
    return item


def _observation(structure: Structure, number: int, observation: int) -> Dataset:
    item = _kept(structure.as_read[2] if structure.as_read else None)
    item.ObservationNumber = observation
    item.ReferencedROINumber = number
    for keyword, value in (("RTROIInterpretedType", structure.interpreted_type), ("ROIInterpreter", "")):
        if keyword not in item:
            setattr(item, keyword, value)
    if structure.as_read is None:
        if structure.observation_label:
            item.ROIObservationLabel = structure.observation_label[:16]
        if structure.code is not None:
            item.RTROIIdentificationCodeSequence = Items([_coded(structure.code)])
    return item


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    if code.modifier is not None:
        item.SegmentedPropertyTypeModifierCodeSequence = Items([_coded(code.modifier)])
    return item


class _Drawing:
    """Puts loops on an image's planes."""

    def __init__(self, image: ImageSeries) -> None:
        self._geometry = image.geometry
        own = image.geometry.indices([instance.position for instance in image.instances])[:, 0]
        self._places = own if image.geometry.slices is not None else np.arange(len(own), dtype=np.float64)
        self._own = own
        self._keys = [f"{i.sop_instance_uid}#{i.frame or ''}" for i in image.instances]
        named = list(zip(self._keys, image.instances, strict=True))
        self._items = image_items({key: (i.sop_class_uid, i.frame) for key, i in named})
        self._key_of = {i.sop_instance_uid: key for key, i in named if i.frame is None}

    def contour_item(self, structure: Structure, number: int) -> Dataset:
        """The ROI's item of the ROI Contour Sequence; its loops already as bytes."""
        untouched = _untouched(structure)
        item = _kept(untouched) if untouched is not None else Dataset()
        item.ReferencedROINumber = number
        if untouched is not None:
            return item
        if structure.color is not None:
            item.ROIDisplayColor = list(structure.color)
        if structure.loops:
            value = contour_sequence(self._written(structure.name, structure.loops))
            item[_CONTOUR_SEQUENCE] = RawDataElement(_CONTOUR_SEQUENCE, None, len(value), value, 0, True, True)
        return item

    def _written(self, name: str, loops: Sequence[Loop]) -> list[tuple[str, bytes, bytes]]:
        drawn = [loop for loop in loops if not loop.digits]
        made = dict(zip(map(id, drawn), self._placed(name, drawn), strict=True)) if drawn else {}
        return [
            made.get(id(loop)) or (loop.kind, self._items.get(self._key_of.get(loop.image_uid, ""), b""), loop.digits)
            for loop in loops
        ]

    def _placed(self, name: str, loops: Sequence[Loop]) -> list[tuple[str, bytes, bytes]]:
        lengths = [len(loop.points) for loop in loops]
        points = np.concatenate([loop.points for loop in loops])
        firsts = np.cumsum(lengths) - np.asarray(lengths)
        places = self._geometry.indices(points[firsts])[:, 0]
        planes = np.searchsorted((self._places[:-1] + self._places[1:]) / 2, places)
        if np.abs(places - self._places[planes]).max() > 0.01:
            raise FrameMismatch(f"A contour of {name} lies on no slice of the image")
        shift = (self._own[planes] - places)[:, None] * self._geometry.steps[0]
        data = digits(points + np.repeat(shift, lengths, axis=0), lengths)
        return [(loop.kind, self._items[self._keys[k]], text) for loop, k, text in zip(loops, planes, data, strict=True)]


def _untouched(structure: Structure) -> Dataset | None:
    """The contour item it was read from, where its loops are still those."""
    if structure.as_read is None or structure.drawn is None:
        return None
    contour = structure.as_read[1]
    if contour is None:
        return None if structure.drawn else Dataset()
    same = len(contour.get("ContourSequence") or []) == len(structure.drawn) and all(loop.digits for loop in structure.drawn)
    return contour if same else None
