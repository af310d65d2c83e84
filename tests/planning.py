"""A patient's plans and fraction images as DICOM that takes no time to write: for pairing and nights, not for measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SpatialRegistrationStorage

from data_samples.dicom import Identity, write_ct, write_dose, write_plan
from patient.geometry import Geometry
from patient.volume import Volume

ISOCENTRE = (0.0, 0.0, 0.0)


def identity(name: str, date: str, description: str = "Planning CT") -> Identity:
    return Identity((name,), date, description)


def image(folder: Path, who: Identity, patient: str = "P1", planes: int = 2, hu: int = 0) -> Identity:
    """A CT series of a patient."""
    grid = Geometry((planes, 8, 8), (3.0, 2.0, 2.0), (-8.0, -8.0, 0.0))
    write_ct(folder, Volume(np.full(grid.shape, hu, np.int16), grid), who)
    _belongs(folder.glob("*.dcm"), patient)
    return who


def plan(
    folder: Path,
    who: Identity,
    patient: str = "P1",
    *,
    name: str = "plan",
    approved: bool = True,
    date: str = "",
    replaces: str = "",
    structures: bool = True,
    planned: int = 35,
) -> str:
    """Structure set, plan and dose on a planning CT; SOP Instance UID of the plan."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Identity((*who.entropy, name), who.date)
    drawn = str(own.uid("structures"))
    d = who.dataset(RTStructureSetStorage, "structures")
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = drawn
    d.Modality, d.SeriesInstanceUID, d.StructureSetLabel = "RTSTRUCT", own.uid("structures", "series"), "S"
    series = _item(SeriesInstanceUID=who.series, ContourImageSequence=[_item(ReferencedSOPInstanceUID=who.uid("plane", 0))])
    study = _item(ReferencedSOPInstanceUID=who.study, RTReferencedSeriesSequence=[series])
    d.ReferencedFrameOfReferenceSequence = [_item(FrameOfReferenceUID=who.frame, RTReferencedStudySequence=[study])]
    if structures:
        d.save_as(folder / f"{name}-structures.dcm", enforce_file_format=True)
    path = folder / f"{name}.dcm"
    write_plan(path, who, drawn, ISOCENTRE, planned, {1: ("PTV", 70.0)})
    p = pydicom.dcmread(path)
    p.SOPInstanceUID = p.file_meta.MediaStorageSOPInstanceUID = own.uid("plan")
    p.SeriesInstanceUID, p.RTPlanLabel = own.uid("plan", "series"), name
    p.ApprovalStatus, p.RTPlanDate = "APPROVED" if approved else "UNAPPROVED", date or who.date
    if replaces:
        p.ReferencedRTPlanSequence = [_item(ReferencedSOPInstanceUID=replaces, RTPlanRelationship="PREDECESSOR")]
    p.save_as(path, enforce_file_format=True)
    grid = Geometry((2, 4, 4), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    write_dose(folder / f"{name}-dose.dcm", Volume(np.ones(grid.shape, np.float32), grid), own, str(p.SOPInstanceUID))
    dose = pydicom.dcmread(folder / f"{name}-dose.dcm")
    dose.FrameOfReferenceUID = who.frame
    dose.save_as(folder / f"{name}-dose.dcm", enforce_file_format=True)
    _belongs(folder.glob("*.dcm"), patient)
    return str(p.SOPInstanceUID)


def registration(path: Path, one: Identity, other: Identity, patient: str = "P1") -> None:
    """A REG that joins two images (headers only: pairing reads no matrix)."""
    d = one.dataset(SpatialRegistrationStorage, "reg", other.entropy)
    d.Modality, d.SeriesInstanceUID, d.PatientID = "REG", one.uid("reg", "series", other.entropy), patient
    d.RegistrationSequence = [_item(FrameOfReferenceUID=who.frame) for who in (one, other)]
    d.save_as(path, enforce_file_format=True)


def _item(**attributes: object) -> Dataset:
    d = Dataset()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    return d


def _belongs(paths, patient: str) -> None:
    for path in paths:
        d = pydicom.dcmread(path)
        d.PatientID = patient
        d.save_as(path, enforce_file_format=True)
