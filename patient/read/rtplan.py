"""RTPLAN in (PS3.3 A.20, A.49): what of a plan an adaptive pipeline needs; photons, electrons and ions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydicom.uid import RTIonPlanStorage, RTPlanStorage

from patient.errors import InputError, NotDicom, among
from patient.plan import Plan, Prescription
from patient.read.attributes import Attributes
from patient.read.headers import MODALITIES, read_header
from patient.series import PATIENT_POSITIONS


def read_plan(path: Path) -> Plan:
    """One RT Plan or RT Ion Plan.

    What the plan leaves open stays None: fractions of several fraction groups are not added, as groups may be alternatives
    as well as phases.

    Raises:
        NotDicom: not DICOM, or no RT Plan.
        InputError: without a SOP Instance UID, so that nothing can refer to it; or with a malformed number or reference.
    """
    header = read_header(path)
    plan = Attributes.of(header)
    notes, modality = plan.notes, plan.text("Modality")
    sop_class = plan.text("SOPClassUID") or RTPlanStorage
    if modality != "RTPLAN" or sop_class not in (RTPlanStorage, RTIonPlanStorage):
        what = "RTPLAN of another SOP class" if modality == "RTPLAN" else among(modality, MODALITIES)
        raise NotDicom(f"Is {what}, not RT Plan", where=path.name)
    if not plan.text("SOPInstanceUID"):
        raise InputError("Has no SOP Instance UID", where=path.name, remedy="Export the plan again")
    treatment = [beam for beam in _beams(plan) if (beam.text("TreatmentDeliveryType") or "TREATMENT") == "TREATMENT"]
    if not treatment:
        notes.append("Has no treatment beam")
    references = plan.items("ReferencedStructureSetSequence")
    return Plan(
        sop_instance_uid=plan.text("SOPInstanceUID"),
        label=_spared(plan, "RTPlanLabel"),
        date=_spared(plan, "RTPlanDate") + _spared(plan, "RTPlanTime").partition(".")[0],
        fractions=_fractions(plan),
        isocentre=_isocentre(treatment, notes),
        patient_position=_patient_position(plan),
        prescriptions=tuple(_prescriptions(plan)),
        approved=_spared(plan, "ApprovalStatus") == "APPROVED",
        structure_set_uid=references[0].text("ReferencedSOPInstanceUID") if references else "",
        frame_of_reference=plan.text("FrameOfReferenceUID"),
        study_uid=plan.text("StudyInstanceUID"),
        patient_id=plan.text("PatientID"),
        sop_class_uid=sop_class,
        beams=tuple(number for beam in treatment if (number := beam.integer("BeamNumber")) is not None),
        header=header.dataset,
        notes=tuple(notes),
    )


def _spared(item: Attributes, keyword: str) -> str:
    return item.unless_malformed(item.text, keyword) or ""


def _beams(plan: Attributes) -> list[Attributes]:
    return plan.items("BeamSequence") or plan.items("IonBeamSequence")


def _fractions(plan: Attributes) -> int | None:
    planned = [group.integer("NumberOfFractionsPlanned") for group in plan.items("FractionGroupSequence")]
    if len(planned) > 1:
        plan.notes.append(f"Has {len(planned)} fraction groups of {planned} fractions: their number is left open")
    return planned[0] or None if len(planned) == 1 else None


def _isocentre(beams: list[Attributes], notes: list[str]) -> tuple[float, float, float] | None:
    found: list[list[float]] = []
    for beam in beams:
        points = beam.items("ControlPointSequence") or beam.items("IonControlPointSequence")
        if points and (place := points[0].numbers("IsocenterPosition", 3)):
            found.append(place)
    if not found:
        return None
    if (apart := float(np.linalg.norm(np.ptp(found, axis=0)))) > 0.1:
        notes.append(f"Its beams have isocentres {apart:.1f} mm apart: the first is taken")
    x, y, z = found[0]
    return x, y, z


def _patient_position(plan: Attributes) -> str:
    setups = plan.unless_malformed(plan.items, "PatientSetupSequence") or []
    positions = [_spared(setup, "PatientPosition") for setup in setups]
    if len(distinct := sorted(set(filter(None, positions)))) > 1:
        known = [among(position, PATIENT_POSITIONS) for position in distinct]
        plan.notes.append(f"Has setups in several positions ({', '.join(known)}): the first is taken")
    return next(filter(None, positions), "")


def _prescriptions(plan: Attributes) -> Iterator[Prescription]:
    for reference in plan.items("DoseReferenceSequence"):
        if reference.text("DoseReferenceType") != "TARGET":
            continue
        dose, number = reference.number("TargetPrescriptionDose"), reference.integer("ReferencedROINumber")
        if dose is not None:
            yield Prescription(dose, number, _spared(reference, "DoseReferenceDescription"))
