"""RTPLAN in: fractions, isocentre, prescriptions; what the plan leaves open stays open."""

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTIonPlanStorage, RTPlanStorage

from patient.errors import NotDicom
from patient.read.rtplan import read_plan


def _item(**attributes):
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _written(path, *, ion=False, change=lambda d: None):
    d = _item(SOPClassUID=RTIonPlanStorage if ion else RTPlanStorage, SOPInstanceUID="1.2.3", Modality="RTPLAN")
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    d.RTPlanLabel, d.RTPlanDate, d.RTPlanTime, d.ApprovalStatus = "HN70", "20260102", "080910.123", "APPROVED"
    d.PatientID, d.StudyInstanceUID, d.FrameOfReferenceUID = "T1", "1.2.4", "1.2.5"
    points = "IonControlPointSequence" if ion else "ControlPointSequence"

    def beam(number, kind, place):
        return _item(
            BeamNumber=number, TreatmentDeliveryType=kind, **{points: Sequence([_item(IsocenterPosition=place), _item()])}
        )

    beams = Sequence([beam(9, "SETUP", [0, 0, 0]), beam(1, "TREATMENT", [1.5, -2, 3]), beam(2, "TREATMENT", [1.5, -2, 3])])
    setattr(d, "IonBeamSequence" if ion else "BeamSequence", beams)
    d.FractionGroupSequence = Sequence([_item(FractionGroupNumber=1, NumberOfFractionsPlanned=35)])
    d.PatientSetupSequence = Sequence([_item(PatientPosition="HFS")])
    d.ReferencedStructureSetSequence = Sequence([_item(ReferencedSOPInstanceUID="1.2.6")])
    d.DoseReferenceSequence = Sequence(
        [
            _item(
                DoseReferenceType="TARGET", TargetPrescriptionDose=70, ReferencedROINumber=5, DoseReferenceDescription="PTV"
            ),
            _item(DoseReferenceType="ORGAN_AT_RISK", DoseReferenceDescription="cord"),
        ]
    )
    change(d)
    d.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("ion", [False, True])
def test_a_plan_says_its_fractions_isocentre_and_prescription(tmp_path, ion):
    plan = read_plan(_written(tmp_path / "p.dcm", ion=ion))
    assert (plan.label, plan.date, plan.fractions, plan.approved) == ("HN70", "20260102080910", 35, True)
    assert plan.isocentre == (1.5, -2.0, 3.0)
    assert plan.beams == (1, 2)
    assert plan.patient_position == "HFS"
    assert [(p.dose, p.structure_number) for p in plan.prescriptions] == [(70.0, 5)]
    assert (plan.structure_set_uid, plan.frame_of_reference, plan.study_uid) == ("1.2.6", "1.2.5", "1.2.4")
    assert plan.sop_class_uid == (RTIonPlanStorage if ion else RTPlanStorage)
    assert plan.notes == ()
    assert "T1" not in repr(plan)


def test_what_several_groups_or_isocentres_leave_open_is_said(tmp_path):
    def change(d):
        d.FractionGroupSequence.append(_item(FractionGroupNumber=2, NumberOfFractionsPlanned=5))
        d.BeamSequence[2].ControlPointSequence[0].IsocenterPosition = [1.5, -2, 43]

    plan = read_plan(_written(tmp_path / "p.dcm", change=change))
    assert plan.fractions is None
    assert plan.isocentre == (1.5, -2.0, 3.0)
    assert len(plan.notes) == 2


def test_a_plan_without_beams_or_fractions_is_read_with_what_it_says(tmp_path):
    def change(d):
        del d.BeamSequence, d.FractionGroupSequence, d.PatientSetupSequence, d.DoseReferenceSequence

    plan = read_plan(_written(tmp_path / "p.dcm", change=change))
    assert (plan.fractions, plan.isocentre, plan.prescriptions, plan.beams) == (None, None, (), ())


def test_a_real_plan_is_read(real_data):
    plan = read_plan(real_data / "dicom-zoo" / "rt-objects" / "rtplan.dcm")
    header = pydicom.dcmread(real_data / "dicom-zoo" / "rt-objects" / "rtplan.dcm")
    assert plan.fractions == header.FractionGroupSequence[0].NumberOfFractionsPlanned
    assert len(plan.beams) == 1
    assert not plan.approved


def test_an_rtdose_is_no_plan(real_data):
    with pytest.raises(NotDicom):
        read_plan(real_data / "dicom-zoo" / "rt-objects" / "rtdose.dcm")
