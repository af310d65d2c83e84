"""What of a treatment plan an adaptive pipeline needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as attribute

from pydicom.dataset import Dataset
from pydicom.uid import RTPlanStorage


@dataclass(frozen=True)
class Prescription:
    """A dose reference of the plan.

    Args:
        dose: Gy, of the whole plan (Target Prescription Dose, PS3.3 C.8.8.10).
        structure_number: ROI Number it is prescribed to; None where it is a point or a site.
        description: as the planner wrote it.
    """

    dose: float
    structure_number: int | None = None
    description: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """An RTPLAN's identity, fractions, isocentre and prescriptions.

    Args:
        sop_instance_uid: of the RTPLAN.
        label: RT Plan Label.
        date: RT Plan Date and Time as `YYYYMMDDHHMMSS`, as far as given.
        fractions: Number of Fractions Planned; None where the plan does not say.
        isocentre: (x, y, z) LPS mm, of the first treatment beam; None where none is given.
        patient_position: Patient Position of the setup (HFS, ...); empty if unknown.
        prescriptions: target dose references.
        approved: Approval Status is APPROVED.
        structure_set_uid: of the RTSTRUCT it was planned on; empty where none.
        frame_of_reference: its UID.
        study_uid: Study Instance UID.
        patient_id: as read.
        sop_class_uid: RT Plan, or RT Ion Plan.
        beams: Beam Numbers of the treatment beams; without setup and verification fields.
        header: the whole RTPLAN; None for a made one.
        notes: what was odd and tolerated in reading, in words.
    """

    sop_instance_uid: str
    label: str = ""
    date: str = ""
    fractions: int | None = None
    isocentre: tuple[float, float, float] | None = None
    patient_position: str = ""
    prescriptions: tuple[Prescription, ...] = ()
    approved: bool = False
    structure_set_uid: str = ""
    frame_of_reference: str = ""
    study_uid: str = ""
    patient_id: str = attribute(default="", repr=False)
    sop_class_uid: str = RTPlanStorage
    beams: tuple[int, ...] = ()
    header: Dataset | None = attribute(default=None, repr=False)
    notes: tuple[str, ...] = ()
