"""May this RTSTRUCT be imported? What the standard and a planning system ask, each remark with its place.

Types of attributes from PS3.3 A.19 and C.8.8.5 to C.8.8.8; lengths and characters from PS3.5 6.2.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from patient.conformance.profile import Profile, load_profile
from patient.errors import InputError, NotDicom
from patient.loop import Loop
from patient.read.attributes import Attributes
from patient.read.headers import Header, read_header
from patient.read.rtstruct import read_structure_set
from patient.series import ImageSeries
from patient.structures import Structure
from patient.write.identity import COPIED

PLANE_MM = 0.05
"""A loop lies on a plane within this."""
_TYPE_1 = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "StructureSetLabel",
    "StructureSetROISequence",
    "ROIContourSequence",
    "RTROIObservationsSequence",
)
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
    "SeriesNumber",
    "OperatorsName",
    "Manufacturer",
    "StructureSetDate",
    "StructureSetTime",
)
_ITEM_TYPE_1 = {
    "StructureSetROISequence": ("ROINumber", "ReferencedFrameOfReferenceUID"),
    "ROIContourSequence": ("ReferencedROINumber",),
    "RTROIObservationsSequence": ("ObservationNumber", "ReferencedROINumber"),
}
_ITEM_TYPE_2 = {
    "StructureSetROISequence": ("ROIName", "ROIGenerationAlgorithm"),
    "ROIContourSequence": (),
    "RTROIObservationsSequence": ("RTROIInterpretedType", "ROIInterpreter"),
}
_LENGTHS = {
    "AccessionNumber": 16,
    "StudyID": 16,
    "StructureSetName": 64,
    "SeriesDescription": 64,
    "StudyDescription": 64,
    "PatientID": 64,
}
_ONE = rb" {0,14}[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[Ee][+-]?\d+)? {0,14}"
_DECIMALS = re.compile(_ONE + rb"(?:\\" + _ONE + rb")*")


@dataclass(frozen=True)
class Remark:
    """One thing that is wrong: a word for scripts, a sentence, and where (a structure, an attribute)."""

    code: str
    what: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


@dataclass(frozen=True)
class Report:
    """What a check came to. With an error the file must not be imported; warnings want a look."""

    errors: tuple[Remark, ...]
    warnings: tuple[Remark, ...]


def check_file(path: Path, *, image: ImageSeries | None = None, profile: str = "standard") -> Report:
    """Check one RTSTRUCT; against its image where that is given.

    Args:
        path: of the file.
        image: what it was drawn on: references and planes are compared.
        profile: a planning system's name.

    Raises:
        NotDicom: not DICOM, or not an RTSTRUCT.
        PolicyError: no such profile.
    """
    header = read_header(path)
    rules = load_profile(profile)
    errors: list[Remark] = []
    warnings: list[Remark] = []
    try:
        attributes = Attributes.of(header)
        for remark, severe in _attributes(attributes, rules):
            (errors if severe else warnings).append(remark)
        errors += [*_items(attributes), *_references(attributes, image)]
        structures = read_structure_set(path)
    except NotDicom:
        raise
    except InputError as error:
        return Report((*errors, Remark("unreadable", error.what, error.where)), tuple(warnings))
    for remark, severe in named(structures.structures, rules):
        (errors if severe else warnings).append(remark)
    for structure in structures.structures:
        for remark, severe in _drawn(structure, rules, image, header):
            (errors if severe else warnings).append(remark)
    warnings += [Remark("note", note) for note in structures.notes]
    if (approval := _approval(Attributes.of(header))) not in ("", "UNAPPROVED"):
        warnings.append(Remark("approved", f"Approval Status is {approval}", "ApprovalStatus"))
    return Report(tuple(errors), tuple(warnings))


def _approval(dataset: Attributes) -> str:
    return dataset.unless_malformed(dataset.text, "ApprovalStatus") or ""


def _attributes(dataset: Attributes, rules: Profile) -> Iterator[tuple[Remark, bool]]:
    """The set's own attributes. What it took over from its image is the image's fault, and the same in all of its study."""
    for keyword in _TYPE_1:
        if not dataset.has(keyword):
            yield Remark("missing", "is required and absent or empty (type 1)", keyword), True
    for keyword in _TYPE_2:
        if keyword not in dataset.dataset:
            yield Remark("missing", "must be there, empty if unknown (type 2)", keyword), True
    if (sop_class := dataset.text("SOPClassUID")) != RTStructureSetStorage:
        yield Remark("class", f"is {sop_class}, not RT Structure Set Storage", "SOPClassUID"), True
    for keyword, longest in (_LENGTHS | {"StructureSetLabel": rules.label_length}).items():
        if (length := len(dataset.text(keyword))) > longest:
            remark = Remark("too_long", f"has {length} characters of at most {longest}{_shared(keyword)}", keyword)
            yield remark, keyword not in COPIED
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if (uid := dataset.text(keyword)) and not UID(uid).is_valid:
            yield Remark("uid", f"is no valid UID{_shared(keyword)}", keyword), not _shared(keyword)


def _shared(keyword: str) -> str:
    return ", as in its image" if keyword in (*COPIED, "FrameOfReferenceUID") else ""


def _items(dataset: Attributes) -> Iterator[Remark]:
    """Attributes of the three sequences' items, and that their numbers agree."""
    numbers: dict[str, list[int | None]] = {}
    for sequence, required in _ITEM_TYPE_1.items():
        items = dataset.items(sequence)
        key = "ROINumber" if sequence == "StructureSetROISequence" else "ReferencedROINumber"
        numbers[sequence] = [item.integer(key) for item in items]
        for n, item in enumerate(items, start=1):
            for keyword in required:
                if not item.text(keyword):
                    yield Remark("missing", f"item {n} lacks {keyword} (type 1)", sequence)
            for keyword in _ITEM_TYPE_2[sequence]:
                if keyword not in item.dataset:
                    yield Remark("missing", f"item {n} lacks {keyword} (type 2)", sequence)
        for number, count in Counter(numbers[sequence]).items():
            if count > 1 and number is not None:
                yield Remark("duplicate_number", f"ROI number {number} stands {count} times", sequence)
    known = set(numbers["StructureSetROISequence"])
    for sequence in ("ROIContourSequence", "RTROIObservationsSequence"):
        if stray := sorted(number for number in set(numbers[sequence]) - known if number is not None):
            yield Remark("reference", f"refers to ROI numbers {stray} that do not exist", sequence)
    observed = Counter(item.integer("ObservationNumber") for item in dataset.items("RTROIObservationsSequence"))
    if any(count > 1 for number, count in observed.items() if number is not None):
        yield Remark("duplicate_number", "Observation Numbers are not unique", "RTROIObservationsSequence")


def _references(dataset: Attributes, image: ImageSeries | None) -> Iterator[Remark]:
    """Frames of reference, and that the whole image is referenced."""
    listed = dataset.items("ReferencedFrameOfReferenceSequence")
    frames = [item.text("FrameOfReferenceUID") for item in listed]
    for item in dataset.items("StructureSetROISequence"):
        if frames and item.text("ReferencedFrameOfReferenceUID") not in frames:
            number = item.text("ROINumber")
            yield Remark("reference", f"ROI {number} is in a frame of reference that is not listed", "ROI")
    if not frames:
        yield Remark("missing", "no frame of reference is named", "ReferencedFrameOfReferenceSequence")
    if image is None:
        return
    if image.geometry.frame_of_reference and image.geometry.frame_of_reference not in frames:
        yield Remark("frame", "the image's frame of reference is not referenced", "ReferencedFrameOfReferenceSequence")
    missing = {i.sop_instance_uid for i in image.instances} - _listed_images(listed)
    if missing:
        yield Remark(
            "reference",
            f"{len(missing)} of the image's {len(image.instances)} instances are not referenced",
            "ContourImageSequence",
        )


def _listed_images(frames: list[Attributes]) -> set[str]:
    return {
        instance.text("ReferencedSOPInstanceUID")
        for frame in frames
        for study in frame.items("RTReferencedStudySequence")
        for series in study.items("RTReferencedSeriesSequence")
        for instance in series.items("ContourImageSequence")
    }


def named(structures: tuple[Structure, ...], rules: Profile) -> Iterator[tuple[Remark, bool]]:
    """What is wrong with what structures are called, and whether that is an error."""
    for name, count in Counter(s.name.casefold() for s in structures).items():
        if count > 1:
            yield Remark("duplicate_name", f"{count} structures are called so, without regard to case", name), True
    for structure in structures:
        if not structure.name:
            yield Remark("name", "a structure has no name", f"ROI {structure.number}"), False
        if len(structure.name) > rules.name_length:
            yield Remark("too_long", f"name has more than {rules.name_length} characters", structure.name), True
        if not re.fullmatch(rules.name_pattern, structure.name):
            yield Remark("characters", "name has characters that the system refuses", structure.name), True
    externals = sum(s.interpreted_type == "EXTERNAL" for s in structures)
    if externals > rules.externals:
        yield Remark("external", f"{externals} structures are EXTERNAL, {rules.externals} allowed"), True


def _drawn(structure: Structure, rules: Profile, image: ImageSeries | None, header: Header) -> Iterator[tuple[Remark, bool]]:
    """A structure's loops: numbers, points, planes, references."""
    where = structure.name
    loops = structure.drawn or ()
    if not loops:
        yield Remark("empty", "has no contours", where), False
        return
    counted = _counts(structure)
    for n, loop in enumerate(loops):
        if not _DECIMALS.fullmatch(loop.digits) or max(map(len, loop.digits.split(b"\\"))) > 16:
            yield Remark("number", f"contour {n + 1} has what is no decimal string of 16 characters", where), True
            break
        if loop.kind.startswith("CLOSED") and _too_few(loop):
            yield Remark("points", f"contour {n + 1} has fewer than three different points", where), True
        if len(loop.points) > rules.most_points:
            yield (
                Remark("points", f"contour {n + 1} has {len(loop.points)} points of at most {rules.most_points}", where),
                True,
            )
        if counted and counted[n] != len(loop.points):
            yield Remark("count", f"contour {n + 1} says {counted[n]} points and has {len(loop.points)}", where), True
        if loop.kind == "CLOSEDPLANAR_XOR" and not rules.xor_allowed:
            yield Remark("xor", "CLOSEDPLANAR_XOR is not read by the system", where), True
        if len(loop.digits) > 65534 and not header.transfer_syntax.is_implicit_VR:
            yield Remark("overflow", f"contour {n + 1} is longer than an explicit VR can say, and stands as UN", where), True
    region = structure.region
    if region.loops and region.empty:
        yield Remark("no_area", "has contours, and they enclose nothing", where), True
    if said := region.remark(image.geometry.spacing[0] if image is not None else None):
        yield Remark("duplicate_loop" if region.repeated else "crossing_loops", said, where), bool(region.repeated)
    if image is not None:
        yield from ((remark, True) for remark in _on_planes(loops, where, image))


def _too_few(loop: Loop) -> bool:
    return len(loop.points) < 3 or (len(loop.points) < 8 and len(np.unique(loop.points, axis=0)) < 3)


def _counts(structure: Structure) -> list[int]:
    contour = structure.as_read[1] if structure.as_read else None
    items: Iterable[Dataset] = (contour.get("ContourSequence") if contour is not None else None) or ()
    counts = [Attributes(item, structure.name, []) for item in items]
    return [count.unless_malformed(count.integer, "NumberOfContourPoints") or -1 for count in counts]


def _on_planes(loops: tuple[Loop, ...], where: str, image: ImageSeries) -> Iterator[Remark]:
    """Every closed loop on a plane of the image, flat, and referring to that plane."""
    closed = [loop for loop in loops if loop.kind.startswith("CLOSED") and len(loop.points)]
    if not closed:
        return
    normal = np.asarray(image.geometry.axes[0])
    places = np.array([i.position for i in image.instances]) @ normal
    lengths = [len(loop.points) for loop in closed]
    firsts = np.cumsum(lengths) - np.asarray(lengths)
    heights = np.concatenate([loop.points for loop in closed]) @ normal
    low, high = np.minimum.reduceat(heights, firsts), np.maximum.reduceat(heights, firsts)
    nearest = np.argmin(np.abs(places[None] - ((low + high) / 2)[:, None]), axis=1)
    off = np.maximum(np.abs(low - places[nearest]), np.abs(high - places[nearest]))
    if (off > PLANE_MM).any():
        worst = int(np.argmax(off))
        count = int((off > PLANE_MM).sum())
        yield Remark("off_plane", f"{count} contours lie on no slice of the image, the worst {off[worst]:.2f} mm off", where)
    uids = [i.sop_instance_uid for i in image.instances]
    known = set(uids)
    named = [(loop, int(k)) for loop, k, far in zip(closed, nearest, off, strict=True) if loop.image_uid and far <= PLANE_MM]
    wrong = sum(loop.image_uid != uids[k] for loop, k in named)
    unknown = sum(bool(loop.image_uid) and loop.image_uid not in known for loop in closed)
    if wrong or unknown:
        yield Remark("reference", f"{max(wrong, unknown)} contours refer to another image than the slice they lie on", where)
