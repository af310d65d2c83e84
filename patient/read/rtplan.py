"""RTPLAN in (PS3.3 A.20, A.49): what of a plan an adaptive pipeline needs; photons, electrons and ions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from patient.errors import InputError, NotDicom
from patient.plan import Plan, Prescription
from patient.read.headers import read_header


def read_plan(path: Path) -> Plan:
    """One RT Plan or RT Ion Plan.

    What the plan leaves open stays None: fractions of several fraction groups are not added, as groups may be alternatives
    as well as phases.

    Raises:
        NotDicom: not DICOM, or no RT Plan.
        InputError: without a SOP Instance UID, so that nothing can refer to it.
    """
    header = read_header(path)
    dataset = header.dataset
    sop_class = header.text("SOPClassUID") or RTPlanStorage
    if header.text("Modality") != "RTPLAN" or sop_class not in (RTPlanStorage, RTIonPlanStorage):
        raise NotDicom(f"Is {header.text('Modality') or 'something'} of class {sop_class}, not RT Plan", where=path.name)
    if not header.text("SOPInstanceUID"):
        raise InputError("Has no SOP Instance UID", where=path.name, remedy="Export the plan again")
    notes: list[str] = []
    treatment = [beam for beam in _beams(dataset) if (beam.get("TreatmentDeliveryType") or "TREATMENT") == "TREATMENT"]
    if not treatment:
        notes.append("Has no treatment beam")
    references = dataset.get("ReferencedStructureSetSequence") or []
    return Plan(
        sop_instance_uid=header.text("SOPInstanceUID"),
        label=header.text("RTPlanLabel"),
        date=header.text("RTPlanDate") + header.text("RTPlanTime").partition(".")[0],
        fractions=_fractions(dataset, notes),
        isocentre=_isocentre(treatment, notes),
        patient_position=_patient_position(dataset, notes),
        prescriptions=tuple(_prescriptions(dataset)),
        approved=header.text("ApprovalStatus") == "APPROVED",
        structure_set_uid=str(references[0].get("ReferencedSOPInstanceUID", "")) if references else "",
        frame_of_reference=header.text("FrameOfReferenceUID"),
        study_uid=header.text("StudyInstanceUID"),
        patient_id=header.text("PatientID"),
        sop_class_uid=sop_class,
        beams=tuple(int(beam.BeamNumber) for beam in treatment if beam.get("BeamNumber") is not None),
        header=dataset,
        notes=tuple(notes),
    )


def _beams(dataset: Dataset) -> list[Dataset]:
    return list(dataset.get("BeamSequence") or dataset.get("IonBeamSequence") or [])


def _fractions(dataset: Dataset, notes: list[str]) -> int | None:
    planned = [group.get("NumberOfFractionsPlanned") for group in dataset.get("FractionGroupSequence") or []]
    if len(planned) > 1:
        notes.append(f"Has {len(planned)} fraction groups of {planned} fractions: their number is left open")
    return int(planned[0]) if len(planned) == 1 and planned[0] else None


def _isocentre(beams: list[Dataset], notes: list[str]) -> tuple[float, float, float] | None:
    found = []
    for beam in beams:
        points = beam.get("ControlPointSequence") or beam.get("IonControlPointSequence") or []
        place = points[0].get("IsocenterPosition") if points else None
        if place is not None and len(place) == 3:
            found.append([float(v) for v in place])
    if not found:
        return None
    if (apart := float(np.linalg.norm(np.ptp(found, axis=0)))) > 0.1:
        notes.append(f"Its beams have isocentres {apart:.1f} mm apart: the first is taken")
    x, y, z = found[0]
    return x, y, z


def _patient_position(dataset: Dataset, notes: list[str]) -> str:
    positions = [str(setup.get("PatientPosition") or "") for setup in dataset.get("PatientSetupSequence") or []]
    if len(distinct := sorted(set(filter(None, positions)))) > 1:
        notes.append(f"Has setups in several positions ({', '.join(distinct)}): the first is taken")
    return next(filter(None, positions), "")


def _prescriptions(dataset: Dataset) -> Iterator[Prescription]:
    for reference in dataset.get("DoseReferenceSequence") or []:
        dose, number = reference.get("TargetPrescriptionDose"), reference.get("ReferencedROINumber")
        if reference.get("DoseReferenceType") == "TARGET" and dose is not None:
            description = str(reference.get("DoseReferenceDescription") or "")
            yield Prescription(float(dose), int(number) if number is not None else None, description)
