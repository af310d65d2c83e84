"""Which image is a fraction of which plan: by patient, references and dates."""

import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from patient.read.scan import scan
from pipelines.course.numbering import Counting
from pipelines.night.image_headers import acquired
from pipelines.night.pairing import PairedFraction, Pairing, pair
from tests.pipelines.fractions import changed
from tests.planning import identity, image, plan, registration

CONE_BEAM = "CBCT"


def _day(n: int) -> str:
    return f"202601{n:02d}"


def _planned(folder: Path, patient: str = "P1", **how) -> tuple:
    """A planning CT of day 1 with its plan of day 5."""
    who = image(folder / "ct", identity(f"plan {patient}", _day(1)), patient)
    return who, plan(folder / "plan", who, patient, date=_day(5), **how)


def _fraction(folder: Path, day: int, patient: str = "P1", description: str = CONE_BEAM):
    return image(folder / f"fraction {day} {description}", identity(f"{day} {patient}", _day(day), description), patient)


def _fractions(pairing: Pairing) -> list[PairedFraction]:
    return [f for course in pairing.courses for f in course]


def test_a_plan_and_its_fractions_are_found_in_order_with_every_object_of_the_plan(tmp_path):
    _planned(tmp_path)
    for day in (9, 8):
        _fraction(tmp_path, day)
    found = pair(scan(tmp_path))
    assert (len(found.to_contour), len(found.planned), found.unusable) == (0, 1, ())
    (course,) = found.courses
    assert [(f.number, f.waits, acquired(f.image)[:8]) for f in course] == [(1, "", _day(8)), (2, "", _day(9))]
    for f in course:
        assert f.plan is not None
        assert [p.name for p in f.plan.paths] == ["plan.dcm", "plan-structures.dcm", "plan-dose.dcm"]


def test_a_dose_that_this_software_accumulated_belongs_to_no_plan_and_is_no_dose_of_today(tmp_path):
    _planned(tmp_path)
    today = _fraction(tmp_path, 9)
    before = _fractions(pair(scan(tmp_path)))
    (dose,) = tmp_path.rglob("plan-dose.dcm")
    for name, more in (("sum", {}), ("of today", {"FrameOfReferenceUID": str(today.frame)})):
        ours = shutil.copy(dose, tmp_path / f"{name}.dcm")
        said = {"SOPInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        changed(ours, Manufacturer="recontour", ManufacturerModelName="recontour", **said, **more)
    (fraction,), (one,) = _fractions(pair(scan(tmp_path))), before
    assert (fraction.plan.doses, fraction.recomputed) == (one.plan.doses, ()) != ((), ())


def test_a_ct_that_no_plan_was_made_on_is_to_be_contoured_as_ever(tmp_path):
    image(tmp_path, identity("alone", _day(1)))
    assert [len(v) for v in (pair(scan(tmp_path)).to_contour, pair(scan(tmp_path)).courses)] == [1, 0]


def test_a_later_ct_of_the_room_that_says_nothing_of_itself_is_a_fraction_and_an_earlier_one_is_not(tmp_path):
    _planned(tmp_path)
    _fraction(tmp_path, 8, description="Neck")
    for before in (1, 3):
        _fraction(tmp_path, before, description="Diagnostic")
    found = pair(scan(tmp_path))
    assert [acquired(f.image)[:8] for f in _fractions(found)] == [_day(8)]
    assert sorted(acquired(e)[:8] for e in found.to_contour) == [_day(1), _day(3)]


@pytest.mark.parametrize("words", ["CBCT", "kV_CBCT pelvis", "Cone Beam CT", "XVI", "MVCT", "On-Board Imager"])
def test_an_image_that_says_it_is_of_the_treatment_room_waits_for_a_plan_and_is_never_contoured_as_a_planning_ct(
    tmp_path, words
):
    _fraction(tmp_path, 8, description=words)
    found = pair(scan(tmp_path))
    assert found.to_contour == ()
    assert "there is none of this patient" in _fractions(found)[0].waits


def test_a_fraction_of_another_patient_is_not_paired(tmp_path):
    _planned(tmp_path)
    _fraction(tmp_path, 8, patient="P2")
    (other,) = _fractions(pair(scan(tmp_path)))
    assert other.plan is None
    assert "none of this patient" in other.waits


def test_images_without_a_patient_id_belong_to_nobodys_plan(tmp_path):
    _planned(tmp_path, patient="")
    _fraction(tmp_path, 8, patient="", description="Neck")
    found = pair(scan(tmp_path))
    assert (found.courses, len(found.to_contour)) == ((), 2)


def test_a_fraction_before_the_plan_waits_and_says_so(tmp_path):
    _planned(tmp_path)
    _fraction(tmp_path, 3)
    (early,) = _fractions(pair(scan(tmp_path)))
    assert early.plan is None
    assert "before every plan" in early.waits


def test_a_cone_beam_long_after_a_plan_is_not_of_its_course(tmp_path):
    _planned(tmp_path)
    image(tmp_path / "late", identity("late", "20261001", CONE_BEAM))
    image(tmp_path / "new", identity("new", "20261001", "Neck"))
    found = pair(scan(tmp_path))
    assert "in no plan's time" in _fractions(found)[0].waits
    assert len(found.to_contour) == 1


def test_a_plan_whose_structure_set_is_on_another_ct_or_missing_holds_its_fractions(tmp_path):
    who = identity("elsewhere", _day(1))
    plan(tmp_path / "plan", who, date=_day(5))
    _fraction(tmp_path, 8)
    (held,) = _fractions(pair(scan(tmp_path)))
    assert "the CT that its structure set was drawn on is not there" in held.waits
    image(tmp_path / "ct", who)
    (tmp_path / "plan" / "plan-structures.dcm").unlink()
    (held,) = _fractions(pair(scan(tmp_path)))
    assert "its structure set is not there" in held.waits


def test_a_plan_in_another_frame_of_reference_than_its_ct_is_not_used(tmp_path):
    _planned(tmp_path)
    path = tmp_path / "plan" / "plan.dcm"
    d = pydicom.dcmread(path)
    d.FrameOfReferenceUID = "1.2.3"
    d.save_as(path)
    _fraction(tmp_path, 8)
    assert "another frame of reference" in _fractions(pair(scan(tmp_path)))[0].waits


def test_a_plan_replaced_in_mid_course_holds_from_its_day_on(tmp_path):
    _, first = _planned(tmp_path / "a")
    again = image(tmp_path / "b" / "ct", identity("again", _day(10)))
    second = plan(tmp_path / "b" / "plan", again, date=_day(14))
    for day in (8, 13, 15, 16):
        _fraction(tmp_path, day)
    found = _fractions(pair(scan(tmp_path)))
    assert [(f.plan.plan.sop_instance_uid, f.number) for f in found if f.plan] == [
        (first, 1),
        (first, 2),
        (second, 1),
        (second, 2),
    ]


def test_of_two_plans_the_approved_one_is_taken_and_the_newer_one_named(tmp_path):
    _, first = _planned(tmp_path / "a")
    again = image(tmp_path / "b" / "ct", identity("again", _day(6)))
    plan(tmp_path / "b" / "plan", again, date=_day(7), approved=False)
    _fraction(tmp_path, 8)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert f.plan is not None
    assert f.plan.plan.sop_instance_uid == first
    assert "not approved" in f.notes[0]


def test_two_plans_that_nobody_can_tell_apart_hold_the_fraction_until_one_names_the_other(tmp_path):
    who, first = _planned(tmp_path)
    plan(tmp_path / "plan", who, name="second", date=_day(6))
    _fraction(tmp_path, 8)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert f.plan is None
    assert "2 plans on one planning CT" in f.waits
    second = plan(tmp_path / "plan", who, name="second", date=_day(6), replaces=first)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert f.plan is not None
    assert f.plan.plan.sop_instance_uid == second


def test_of_plans_that_nobody_approved_a_registration_tells_which(tmp_path):
    _planned(tmp_path / "a", approved=False)
    again = image(tmp_path / "b" / "ct", identity("again", _day(6)))
    second = plan(tmp_path / "b" / "plan", again, date=_day(7), approved=False)
    today = _fraction(tmp_path, 8)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert "none is approved" in f.waits
    registration(tmp_path / "reg.dcm", today, again)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert f.plan is not None
    assert f.plan.plan.sop_instance_uid == second
    assert len(f.registrations) == 1


def test_a_newer_plan_that_is_not_whole_yet_holds_what_comes_after_it(tmp_path):
    _planned(tmp_path / "a")
    plan(tmp_path / "b", identity("not there", _day(9)), date=_day(10))
    for day in (8, 12):
        _fraction(tmp_path, day)
    before, after = _fractions(pair(scan(tmp_path)))
    assert before.plan is not None
    assert "waits for its plan" in after.waits


def test_a_registration_between_the_two_images_is_noted(tmp_path):
    who, _ = _planned(tmp_path)
    today = _fraction(tmp_path, 8)
    registration(tmp_path / "reg.dcm", today, who)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert [p.name for p in f.registrations] == ["reg.dcm"]
    assert "1 REG" in f.notes[0]


def test_images_of_one_day_are_one_fraction_and_weekdays_count_where_the_site_says_so(tmp_path):
    _planned(tmp_path)
    image(tmp_path / "again", identity("again", _day(8), CONE_BEAM))
    for day in (8, 9, 12):  # Thursday, Friday, Monday
        _fraction(tmp_path, day)
    assert [f.number for f in _fractions(pair(scan(tmp_path)))] == [1, 1, 2, 3]
    _fraction(tmp_path, 15)
    assert [f.number for f in _fractions(pair(scan(tmp_path), counting=Counting(weekdays=True)))] == [1, 1, 2, 3, 6]


def test_a_fraction_without_a_date_waits(tmp_path):
    _planned(tmp_path)
    _fraction(tmp_path, 8)
    for path in (tmp_path / "fraction 8 CBCT").glob("*.dcm"):
        d = pydicom.dcmread(path)
        d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = "20269901"
        d.save_as(path)
    (f,) = _fractions(pair(scan(tmp_path)))
    assert "does not say when" in f.waits
