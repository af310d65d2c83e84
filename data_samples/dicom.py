"""What the samples write: CT planes, structure set, dose and plan, each the same for the same identity, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    generate_uid,
)

from patient.geometry import Geometry
from patient.read.images import open_folder
from patient.structures import Structure, StructureSet
from patient.volume import Volume
from patient.write.rtstruct import write_structure_set

TIME = "083000"
DOSE_SCALING = "0.00125"
"""Gy a stored unit: 16 bits hold 80 Gy, and every checker reads 16 bits."""
GANTRY = tuple(range(0, 360, 40))
"""Degrees of the plan's beams."""


@dataclass(frozen=True)
class Identity:
    """To which study, series and frame of reference an image belongs, and what it says of itself.

    Args:
        entropy: what its UIDs are made from; the same gives the same.
        date: YYYYMMDD.
        description: of the series, at most 64 characters.
        number: of the study and series.
    """

    entropy: tuple[str, ...]
    date: str = "20260102"
    description: str = "Synthetic planning CT"
    number: int = 1

    def uid(self, *what: object) -> UID:
        """One that depends on the entropy and on `what` alone."""
        return generate_uid(entropy_srcs=["recontour sample", *self.entropy, *map(str, what)])

    @property
    def study(self) -> UID:
        return self.uid("study")

    @property
    def series(self) -> UID:
        return self.uid("series")

    @property
    def frame(self) -> UID:
        return self.uid("frame")

    def dataset(self, sop_class: UID, *what: object) -> Dataset:
        """An object of this patient and study, not yet of any series."""
        d, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian if sop_class == CTImageStorage else ImplicitVRLittleEndian
        d.file_meta = meta
        d.SpecificCharacterSet = "ISO_IR 192"
        d.SOPClassUID = meta.MediaStorageSOPClassUID = sop_class
        d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = self.uid(*what)
        d.StudyInstanceUID, d.FrameOfReferenceUID = self.study, self.frame
        d.StudyDate = d.SeriesDate = self.date
        d.StudyTime = d.SeriesTime = TIME
        d.AccessionNumber = d.ReferringPhysicianName = d.PatientBirthDate = d.PositionReferenceIndicator = ""
        d.PatientName, d.PatientID, d.PatientSex = "Sample^Patient", "SAMPLE", "O"
        d.Manufacturer, d.StudyID, d.SeriesNumber = "recontour sample", str(self.number), self.number
        return d


def ct_plane(hu: NDArray[np.integer], geometry: Geometry, k: int, identity: Identity) -> Dataset:
    """One plane of an upright CT (CT Image IOD, PS3.3 A.3).

    Args:
        hu: `[y, x]`, at least -1024.
        geometry: of the whole series.
        k: which plane.
        identity: of the series.
    """
    d = identity.dataset(CTImageStorage, "plane", k)
    d.SeriesInstanceUID = identity.series
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.AcquisitionDate = d.ContentDate = identity.date
    d.AcquisitionTime = d.ContentTime = TIME
    d.Modality, d.SeriesDescription = "CT", identity.description
    d.BodyPartExamined, d.PatientPosition = "HEADNECK", "HFS"
    d.AcquisitionNumber, d.InstanceNumber, d.KVP = 1, k + 1, 120
    x, y, z = geometry.points((k, 0, 0))
    d.ImagePositionPatient = [f"{x:.4f}", f"{y:.4f}", f"{z:.4f}"]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PixelSpacing = [f"{v:.6f}" for v in geometry.spacing[1:]]
    d.SliceThickness = f"{geometry.spacing[0]:.4f}"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = geometry.shape[1:]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = -1024, 1, "HU"
    d.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    return d


def write_ct(folder: Path, image: Volume[np.int16], identity: Identity) -> None:
    """A series, one file a plane."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(image.array):
        ct_plane(plane, image.geometry, k, identity).save_as(folder / f"CT{k:04d}.dcm", enforce_file_format=True)


def write_structures(path: Path, ct_folder: Path, structures: Sequence[Structure], identity: Identity) -> str:
    """A structure set on a CT that was written before, with the identity's UIDs and dates; its SOP Instance UID."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "made.dcm"
        write_structure_set(made, StructureSet(tuple(structures), "Sample"), open_folder(ct_folder), version="sample")
        d = pydicom.dcmread(made)
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = identity.uid("structures")
    d.SeriesInstanceUID, d.SeriesDescription = identity.uid("structures", "series"), "Synthetic structures, known exactly"
    d.StructureSetDescription = "Synthetic: surfaces of the sample patient's anatomy"
    d.InstanceCreationDate = d.SeriesDate = d.StructureSetDate = identity.date
    d.InstanceCreationTime = d.SeriesTime = d.StructureSetTime = TIME
    d.Manufacturer = d.ManufacturerModelName = "recontour sample"
    d.save_as(path, enforce_file_format=True)
    return str(d.SOPInstanceUID)


def write_plan(
    path: Path,
    identity: Identity,
    structures_uid: str,
    isocentre: tuple[float, float, float],
    fractions: int,
    prescriptions: Mapping[int, tuple[str, float]],
) -> str:
    """A plan of nine open fields, not approved, intended for research; its SOP Instance UID (RT Plan IOD, PS3.3 A.20).

    Args:
        path: of the file.
        identity: of the planning CT.
        structures_uid: SOP Instance UID of the structure set.
        isocentre: LPS mm.
        fractions: planned.
        prescriptions: ROI Number -> description and Gy.
    """
    d = identity.dataset(RTPlanStorage, "plan")
    d.Modality, d.SeriesInstanceUID, d.SeriesDescription = "RTPLAN", identity.uid("plan", "series"), "Synthetic plan"
    d.OperatorsName, d.InstanceCreationDate, d.InstanceCreationTime = "", identity.date, TIME
    d.RTPlanLabel, d.RTPlanDate, d.RTPlanTime = "Sample", identity.date, TIME
    d.RTPlanGeometry, d.PlanIntent, d.ApprovalStatus = "PATIENT", "RESEARCH", "UNAPPROVED"
    d.ReferencedStructureSetSequence = [_reference(RTStructureSetStorage, structures_uid)]
    d.DoseReferenceSequence = [
        _item(
            DoseReferenceNumber=n,
            DoseReferenceStructureType="VOLUME",
            ReferencedROINumber=roi,
            DoseReferenceDescription=name,
            DoseReferenceType="TARGET",
            TargetPrescriptionDose=f"{gray:g}",
        )
        for n, (roi, (name, gray)) in enumerate(prescriptions.items(), 1)
    ]
    beams = [
        _item(ReferencedBeamNumber=n, BeamDose=f"{max(g for _, g in prescriptions.values()) / fractions / len(GANTRY):.6f}",
              BeamMeterset="60")
        for n in range(1, len(GANTRY) + 1)
    ]  # fmt: skip
    d.FractionGroupSequence = [
        _item(
            FractionGroupNumber=1,
            NumberOfFractionsPlanned=fractions,
            NumberOfBeams=len(beams),
            NumberOfBrachyApplicationSetups=0,
            ReferencedBeamSequence=beams,
        )
    ]
    d.PatientSetupSequence = [_item(PatientSetupNumber=1, PatientPosition="HFS")]
    d.BeamSequence = [_beam(n, angle, isocentre) for n, angle in enumerate(GANTRY, 1)]
    d.save_as(path, enforce_file_format=True)
    return str(d.SOPInstanceUID)


def _beam(number: int, gantry: float, isocentre: tuple[float, float, float]) -> Dataset:
    jaws = [_item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs=1) for kind in ("ASYMX", "ASYMY")]
    first = _item(
        ControlPointIndex=0,
        NominalBeamEnergy="6",
        BeamLimitingDevicePositionSequence=[
            _item(RTBeamLimitingDeviceType=kind, LeafJawPositions=["-80", "80"]) for kind in ("ASYMX", "ASYMY")
        ],
        GantryAngle=str(gantry),
        GantryRotationDirection="NONE",
        BeamLimitingDeviceAngle="0",
        BeamLimitingDeviceRotationDirection="NONE",
        PatientSupportAngle="0",
        PatientSupportRotationDirection="NONE",
        TableTopEccentricAngle="0",
        TableTopEccentricRotationDirection="NONE",
        TableTopVerticalPosition="",
        TableTopLongitudinalPosition="",
        TableTopLateralPosition="",
        IsocenterPosition=[f"{v:.1f}" for v in isocentre],
        CumulativeMetersetWeight="0",
    )
    return _item(
        TreatmentMachineName="SAMPLE",
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance="1000",
        BeamLimitingDeviceSequence=jaws,
        BeamNumber=number,
        BeamName=f"G{gantry:03d}",
        BeamType="STATIC",
        RadiationType="PHOTON",
        TreatmentDeliveryType="TREATMENT",
        NumberOfWedges=0,
        NumberOfCompensators=0,
        NumberOfBoli=0,
        NumberOfBlocks=0,
        FinalCumulativeMetersetWeight="1",
        NumberOfControlPoints=2,
        ReferencedPatientSetupNumber=1,
        ControlPointSequence=[first, _item(ControlPointIndex=1, CumulativeMetersetWeight="1")],
    )


def write_dose(path: Path, dose: Volume[np.float32], identity: Identity, plan_uid: str) -> str:
    """The whole plan's dose (RT Dose IOD, PS3.3 A.18.3); its SOP Instance UID."""
    d = identity.dataset(RTDoseStorage, "dose")
    d.Modality, d.SeriesInstanceUID, d.SeriesDescription = "RTDOSE", identity.uid("dose", "series"), "Synthetic dose"
    d.OperatorsName, d.InstanceNumber = "", 1
    x, y, z = dose.geometry.origin
    d.ImagePositionPatient = [f"{v:.4f}" for v in (x, y, z)]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness = [f"{v:.6f}" for v in dose.geometry.spacing[1:]], ""
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.NumberOfFrames, d.Rows, d.Columns = dose.geometry.shape
    d.FrameIncrementPointer = Tag("GridFrameOffsetVector")
    d.GridFrameOffsetVector = [f"{k * dose.geometry.spacing[0]:.4f}" for k in range(dose.geometry.shape[0])]
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.DoseUnits, d.DoseType, d.DoseSummationType, d.DoseGridScaling = "GY", "PHYSICAL", "PLAN", DOSE_SCALING
    d.TissueHeterogeneityCorrection = "IMAGE"
    d.DoseComment = "Synthetic, from distances to targets; no beam was calculated"
    d.ReferencedRTPlanSequence = [_reference(RTPlanStorage, plan_uid)]
    d.PixelData = np.rint(dose.array / np.float64(DOSE_SCALING)).astype("<u2").tobytes()
    d.save_as(path, enforce_file_format=True)
    return str(d.SOPInstanceUID)


def _reference(sop_class: UID, sop_instance: str) -> Dataset:
    return _item(ReferencedSOPClassUID=sop_class, ReferencedSOPInstanceUID=sop_instance)


def _item(**attributes: object) -> Dataset:
    d = Dataset()
    for keyword, value in attributes.items():
        setattr(d, keyword, value)
    return d
