import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from adaptive.dose.fraction_dose import recomputed
from patient.errors import FrameMismatch, InputError, MixedSeries, PixelDataError, ReferenceError  # noqa: A004
from patient.read.images import open_folder
from patient.read.rtdose import read_dose
from patient.read.rtstruct import read_structure_set
from patient.trust import Trust
from pipelines.fraction.case import KEPT, adapt_case
from pipelines.fraction.fraction_dose_file import read_fraction_dose, write_fraction_dose
from pipelines.fraction.inputs import FractionRequest
from pipelines.fraction.plan_folder import read_fraction_folder, read_plan_folder
from pipelines.fraction.record import EXPECTED
from pipelines.records.fraction import FractionResult
from registration.dicom_read import rigid_between
from tests.commands import recontour
from tests.pipelines.fractions import FRACTIONS, SHIFT, changed, write_pair
from tests.pipelines.test_schemas import _follows_its_schema
from tests.referees import errors_of

POLICY = """
schema = 1
version = "t"
description = "for tests"
[structures.PTV]
recipe = "CTV + 5 mm"
metrics = ["D95%"]
source = "example, site to set"
[structures.CTV]
propagate = "fresh"
source = "example, site to set"
[rules.coverage]
structures = ["PTV"]
quantity = "D95%"
unit = "% of prescription"
compare = "value"
falls_below = 10.0
consequence = "replan"
source = "example, site to set"
[rules.setup_shift]
quantity = "setup"
unit = "mm"
compare = "value"
rises_above = 3.0
consequence = "review"
source = "example, site to set"
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "site.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def done(pair, policy, tmp_path_factory):
    """One whole case, its folder and the folder in which its steps were kept."""
    folder, kept = tmp_path_factory.mktemp("case"), tmp_path_factory.mktemp("kept")
    request = FractionRequest("c", *map(str, pair), str(folder), policy=str(policy), number=3, kept=str(kept))
    return adapt_case(request), folder, kept


def _value(result: FractionResult, structure: str, quantity: str):
    return next(m for m in result.measurements if (m.structure, m.quantity) == (structure, quantity))


def test_everything_is_written_and_the_result_follows_its_schema(done):
    result, folder, _ = done
    files = {path.name for path in folder.iterdir()}
    dicom = {"rtstruct.dcm", "reg.dcm", "dreg.dcm", "dose.dcm", "dose_error.dcm"}
    assert files == dicom | {"day.npz", "result.json", "report.html", "figures", "log.txt"}
    text = (folder / "result.json").read_text(encoding="utf-8")
    _follows_its_schema(text, "fraction")
    assert FractionResult.model_validate_json(text) == result
    assert {o.file for o in result.outputs} == dicom
    for output in result.outputs:
        assert pydicom.dcmread(folder / output.file, stop_before_pixels=True).SOPInstanceUID == output.sop_instance_uid


def test_the_setup_error_is_found_and_the_couch_undoes_it(done):
    couch = done[0].couch
    # HFS: IEC x is LPS x, IEC y is LPS z, IEC z is -LPS y
    assert (couch.lateral, couch.longitudinal, couch.vertical) == pytest.approx((-SHIFT[0], -SHIFT[2], SHIFT[1]), abs=0.6)


def test_structures_come_to_todays_image_with_number_name_and_colour(done, pair):
    planned = {s.name: s for s in read_structure_set(pair[0] / "rtstruct.dcm").structures}
    today = read_structure_set(done[1] / "rtstruct.dcm")
    image = open_folder(pair[1])
    assert today.series_uid == image.series_uid
    assert {s.name for s in today.structures} == set(planned)
    for structure in today.structures:
        before = planned[structure.name]
        assert (structure.number, structure.color, structure.interpreted_type) == (
            before.number,
            before.color,
            before.interpreted_type,
        )
        middles = [
            np.average(m.geometry.points(np.argwhere(m.array)), axis=0)
            for m in (before.mask(open_folder(pair[0] / "CT").geometry), structure.mask(image.geometry))
        ]
        assert middles[1] - middles[0] == pytest.approx(SHIFT, abs=1.0)
    header = pydicom.dcmread(done[1] / "rtstruct.dcm")
    assert header.ApprovalStatus == "UNAPPROVED"
    assert header.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == done[0].plan.structure_set_uid


def test_a_fractions_objects_say_which_fraction_they_are_of_and_sort_apart(done, pair):
    header = pydicom.dcmread(done[1] / "rtstruct.dcm")
    day, plan = done[0].image.acquired, done[0].plan.label
    assert header.StructureSetLabel == f"HN {day} F3"
    for said in (header.StructureSetName, header.SeriesDescription, header.StructureSetDescription):
        assert f"Fraction 3 of {plan}" in said.replace("of plan ", "of ")
    assert header.SeriesDescription.endswith("by software, not approved")
    assert "not reviewed by a person" in header.StructureSetDescription
    made = [pydicom.dcmread(done[1] / output.file, stop_before_pixels=True) for output in done[0].outputs]
    images = [pydicom.dcmread(open_folder(folder).instances[0].path) for folder in (pair[0] / "CT", pair[1])]
    numbers = [d.SeriesNumber for d in made]
    assert len(set(numbers)) == len(made) == 5
    assert not {d.SeriesNumber for d in images} & set(numbers)
    assert next(d for d in made if d.Modality == "REG").SeriesDescription.startswith("Fraction 3: rigid")


def test_the_volume_that_a_planning_system_will_show_stands_beside_the_one_that_is_compared(done, pair):
    today, image = read_structure_set(done[1] / "rtstruct.dcm"), open_folder(pair[1])
    drawn = {s.name: float(s.mask(image.geometry).array.sum()) * image.geometry.voxel_cc for s in today.structures}
    for record in done[0].structures:
        assert record.drawn_cc == pytest.approx(drawn[record.name], rel=0.001)
    assert "in the file (cc)" in (done[1] / "report.html").read_text(encoding="utf-8")


def test_the_registration_object_says_where_todays_points_lie_in_the_plan(done, pair):
    plan, today = open_folder(pair[0] / "CT"), open_folder(pair[1])
    plan_from_today = rigid_between(done[1] / "reg.dcm", today, plan)
    assert plan_from_today.points(SHIFT, plan_from_today.source) == pytest.approx(np.zeros(3), abs=0.6)


def test_the_accumulated_dose_lies_on_the_plan_and_cannot_be_taken_for_a_delivered_one(done, pair):
    dose, plan = read_dose(done[1] / "dose.dcm"), read_dose(pair[0] / "rtdose.dcm")
    assert dose.volume.geometry.frame_of_reference == plan.volume.geometry.frame_of_reference
    high = plan.volume.array > 35
    inner = np.s_[6:-6, 20:-20, 20:-20]
    ratio = (dose.volume.array[inner] / plan.volume.array[inner])[high[inner]]
    assert np.median(ratio) == pytest.approx(3 / FRACTIONS, rel=0.02)
    assert (dose.transformed, dose.summation, dose.fractions) == ("NON_RIGID", "PLAN_OVERVIEW", 3)
    header = pydicom.dcmread(done[1] / "dose.dcm", stop_before_pixels=True)
    assert header.SeriesDescription == f"Accumulated 3 of {FRACTIONS} fractions, research, not delivered dose"
    referenced = {item.ReferencedSOPInstanceUID for item in header.ReferencedSpatialRegistrationSequence}
    assert referenced == {o.sop_instance_uid for o in done[0].outputs if o.file in ("reg.dcm", "dreg.dcm")}
    assert read_dose(done[1] / "dose_error.dcm").kind == "ERROR"
    assert done[0].dose.accounting[0] == "Fractions 1 to 2 as planned, before the first image"


def test_dose_today_is_the_plans_where_nothing_but_setup_changed(done):
    for name in ("PTV", "Parotid_L"):
        mean = _value(done[0], name, "Dmean")
        assert mean.value == pytest.approx(mean.planned, abs=1.5)
        assert mean.interval[0] < mean.value < mean.interval[1]


def test_the_decision_names_every_rule_and_a_shift_beyond_its_limit_asks_for_review(done):
    decision = done[0].decision
    states = {rule.rule: rule.state for rule in decision.rules}
    assert states["setup_shift"] == "tripped"
    assert states["coverage"] == "not tripped"
    assert decision.verdict == done[0].verdict == "review"
    assert any(reason.startswith("setup_shift") for reason in done[0].reasons)


def test_what_a_structure_is_flagged_for_is_said_with_its_name(done):
    flagged = [(s.name, flag.detail) for s in done[0].structures for flag in s.flags if flag.code not in EXPECTED]
    assert flagged
    assert {f"{name}: {detail}" for name, detail in flagged} <= set(done[0].reasons)


def test_the_report_says_the_decision_first_and_shows_pictures(done):
    page = (done[1] / "report.html").read_text(encoding="utf-8")
    assert page.index("Requires clinical review") < page.index("<h2>Structures today</h2>")
    assert page.count("<img") == len(list((done[1] / "figures").iterdir())) >= 3


def test_a_case_that_is_tried_again_goes_on_behind_its_registration(done, pair, policy, tmp_path):
    _, _, kept = done
    assert (kept / KEPT).is_file()
    request = FractionRequest("c", *map(str, pair), str(tmp_path), policy=str(policy), number=3, kept=str(kept))
    again = adapt_case(request)
    assert "deformable" not in again.timing.steps_s
    assert [m.value for m in again.measurements] == pytest.approx([m.value for m in done[0].measurements], abs=1e-6)


def test_an_earlier_fraction_counts_for_the_fractions_up_to_this_one(done, pair, policy, tmp_path):
    _, folder, kept = done
    request = FractionRequest(
        "d", *map(str, pair), str(tmp_path), policy=str(policy), earlier=(str(folder),), kept=str(kept)
    )
    result = adapt_case(request)
    assert result.number == 4
    assert result.dose.accounting[1:] == ("Fraction 3 by the image of fraction 3", "Fraction 4 by the image of fraction 4")
    header = pydicom.dcmread(tmp_path / "dose.dcm", stop_before_pixels=True)
    assert len(header.ReferencedSpatialRegistrationSequence) == 4
    assert read_fraction_dose(tmp_path, done[0].plan.dose_uid).number == 4
    with pytest.raises(InputError, match="among the earlier"):
        adapt_case(
            FractionRequest("e", *map(str, pair), str(tmp_path), policy=str(policy), number=3, earlier=(str(folder),))
        )


def _copied(done, to: Path) -> Path:
    shutil.copytree(done[1], to)
    return to


def _next(done, pair, policy, folder: Path, earlier: Path) -> FractionResult:
    kept = str(done[2])
    return adapt_case(
        FractionRequest("d", *map(str, pair), str(folder), policy=str(policy), earlier=(str(earlier),), kept=kept)
    )


def test_an_earlier_fraction_that_was_not_trusted_marks_every_accumulated_figure_on_page_and_in_the_dose(
    done, pair, policy, tmp_path
):
    uid, earlier = done[0].plan.dose_uid, _copied(done, tmp_path / "earlier")
    day = read_fraction_dose(earlier, uid)
    write_fraction_dose(earlier, replace(day, dose=day.dose.given(Trust(("the field folds",)))), uid)
    (tmp_path / "out").mkdir()
    result = _next(done, pair, policy, tmp_path / "out", earlier)
    said = "Fraction 3: the field folds"
    assert (result.dose.trusted, result.dose.doubts) == (False, (said,))
    for m in result.measurements:
        assert m.trusted == (not m.quantity.endswith("accumulated")), m
    assert said in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for name in ("dose.dcm", "dose_error.dcm"):
        header = pydicom.dcmread(tmp_path / "out" / name, stop_before_pixels=True)
        assert header.SeriesDescription.startswith("NOT TRUSTED")
        assert said in header.DerivationDescription
    assert read_fraction_dose(tmp_path / "out", uid).dose.trust  # today's own stands on no other day


def test_a_fraction_from_before_trust_was_recorded_is_read_and_marked(done, pair, policy, tmp_path):
    earlier = _copied(done, tmp_path / "earlier")
    with np.load(earlier / "day.npz") as file:
        arrays = {name: file[name] for name in ("dose", "half_width")}
        said = json.loads(str(file["said"])) | {"form": 1}
    del said["doubts"]
    np.savez_compressed(earlier / "day.npz", said=np.array(json.dumps(said)), **arrays)
    old = json.loads((earlier / "result.json").read_text(encoding="utf-8"))
    for record in (*old["measurements"], *old["decision"]["rules"], *old["structures"], old["dose"], old["decision"]):
        record.pop("doubts", None)
        record.pop("registration_doubts", None)
    (earlier / "result.json").write_text(json.dumps(old))
    for m in FractionResult.model_validate(old).measured().measurements:
        assert bool(m.trust) == (not m.quantity.endswith("accumulated"))
    (tmp_path / "out").mkdir()
    result = _next(done, pair, policy, tmp_path / "out", earlier)
    assert not result.dose.trusted
    assert "before it was recorded" in result.dose.doubts[0]


def test_images_of_which_slices_are_missing_are_never_green(done, copy, pair, policy, tmp_path):
    for folder, count in ((copy[0] / "CT", 38), (copy[1], 37)):
        for path in folder.iterdir():
            changed(path, ImagesInAcquisition=count)
    request = FractionRequest("c", *map(str, copy), str(tmp_path / "case"), policy=str(policy))
    (tmp_path / "case").mkdir()
    result = adapt_case(request)
    said = ("Plan's image: 36 of 38 slices are there (Images in Acquisition)",)
    said = (*said, "Today's image: 36 of 37 slices are there (Images in Acquisition)")
    assert (result.verdict, result.decision.verdict) == ("review", "review")
    assert result.reasons[:2] == result.decision.reasons[:2] == said
    assert not done[0].reasons[0].startswith("Plan's image")
    assert said[0] in (tmp_path / "case" / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    header = pydicom.dcmread(tmp_path / "case" / "dose.dcm", stop_before_pixels=True)
    assert header.SeriesDescription.startswith("NOT TRUSTED")
    assert said[1] in header.DerivationDescription
    assert "NOT TRUSTED" in pydicom.dcmread(tmp_path / "case" / "reg.dcm").ContentDescription
    assert not _value(result, "PTV", "D95%").trusted
    assert read_fraction_dose(tmp_path / "case", result.plan.dose_uid).dose.trust.doubts == said  # so that later sums say it


def test_a_planning_ct_that_is_not_in_hu_is_refused(copy, policy, tmp_path):
    for path in (copy[0] / "CT").iterdir():
        changed(path, RescaleIntercept="2000", PixelRepresentation=1)
    with pytest.raises(PixelDataError, match="no Hounsfield units") as caught:
        adapt_case(FractionRequest("c", *map(str, copy), str(tmp_path / "case"), policy=str(policy)))
    assert caught.value.where == copy[0].name


def test_the_validators_find_no_error(done, pair, tmp_path):
    for ct, files in ((pair[1], ("rtstruct.dcm", "dreg.dcm")), (pair[0] / "CT", ("reg.dcm", "dose.dcm", "dose_error.dcm"))):
        assert errors_of([done[1] / name for name in files], ct, tmp_path) == ""


def test_our_own_dose_beside_the_plans_is_passed_over_and_is_no_dose_of_today(done, copy, pair):
    for name in ("dose.dcm", "dose_error.dcm"):
        shutil.copy(done[1] / name, copy[0] / name)
    plan = read_plan_folder(copy[0])
    assert plan.dose.sop_instance_uid == read_plan_folder(pair[0]).dose.sop_instance_uid
    assert copy[0] / "dose.dcm" not in plan.files
    assert any("2 RTDOSE that this software accumulated passed over" in note for note in plan.notes)
    (copy[0] / "rtdose.dcm").unlink()
    assert read_plan_folder(copy[0]).dose is None
    ours = read_dose(done[1] / "dose.dcm")
    for one in (ours, replace(ours, summation="PLAN")):
        with pytest.raises(InputError):
            recomputed(one, read_plan_folder(pair[0]).image.geometry, FRACTIONS)


def test_the_command_publishes_whole_or_nothing(pair, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pair[1], other)
    for path in other.iterdir():
        changed(path, PatientID="SOMEBODY")
    done = recontour("adapt", pair[0], other, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "another patient" in done.stderr
    assert "SOMEBODY" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


# ---- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(pair, tmp_path):
    """A plan and a fraction that may be spoiled."""
    for path in pair:
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path / "plan", tmp_path / "fraction"


def test_a_fraction_from_before_the_plan_is_refused(copy):
    for path in copy[1].iterdir():
        changed(path, AcquisitionDate="20251231")
    with pytest.raises(InputError, match="before the plan"):
        read_fraction_folder(copy[1], read_plan_folder(copy[0]))


def test_the_planning_ct_is_no_fraction(copy):
    with pytest.raises(InputError, match="planning CT itself"):
        read_fraction_folder(copy[0] / "CT", read_plan_folder(copy[0]))


def test_two_images_in_a_fractions_folder_are_refused(copy):
    shutil.copytree(copy[1], copy[1] / "again")
    uid = generate_uid()
    for path in (copy[1] / "again").iterdir():
        changed(path, SeriesInstanceUID=uid, SOPInstanceUID=generate_uid())
    with pytest.raises(MixedSeries, match=r"2 CT series where one is asked for \[\w+: \S+ \(.*files\); \S+ \(") as caught:
        read_fraction_folder(copy[1], read_plan_folder(copy[0]))
    assert "--series" not in str(caught.value)


def test_two_plans_are_refused_unless_one_is_named(copy):
    shutil.copy(copy[0] / "rtplan.dcm", copy[0] / "second.dcm")
    changed(copy[0] / "second.dcm", SOPInstanceUID=generate_uid(), RTPlanLabel="BOOST")
    with pytest.raises(ReferenceError, match="2 plans"):
        read_plan_folder(copy[0])
    label = pydicom.dcmread(copy[0] / "rtplan.dcm").RTPlanLabel
    assert read_plan_folder(copy[0], label).dose is not None
    with pytest.raises(ReferenceError):
        read_plan_folder(copy[0], "NONE OF THEM")


def test_a_structure_set_on_another_ct_is_refused(copy):
    uid = generate_uid()
    for path in (copy[0] / "CT").iterdir():
        changed(path, SeriesInstanceUID=uid, SOPInstanceUID=generate_uid())
    with pytest.raises(ReferenceError, match="not there"):
        read_plan_folder(copy[0])


def test_a_structure_set_in_another_frame_is_refused(copy):
    uid = generate_uid()
    for path in (copy[0] / "CT").iterdir():
        changed(path, FrameOfReferenceUID=uid)
    with pytest.raises(FrameMismatch):
        read_plan_folder(copy[0])


@pytest.mark.parametrize(
    ("attributes", "what"),
    [({"FrameOfReferenceUID": "1.2.3.4"}, "frame of reference"), ({"DoseUnits": "RELATIVE"}, "RELATIVE")],
)
def test_a_dose_elsewhere_or_without_gray_is_refused(copy, attributes, what):
    changed(copy[0] / "rtdose.dcm", **attributes)
    with pytest.raises(InputError, match=what):
        read_plan_folder(copy[0])


def test_a_plan_without_rtplan_and_dose_is_read_and_its_isocentre_is_the_targets_middle(copy):
    (copy[0] / "rtdose.dcm").unlink()
    (copy[0] / "rtplan.dcm").unlink()
    plan = read_plan_folder(copy[0])
    assert plan.dose is None
    assert plan.isocentre == pytest.approx((15.0, 0.0, 0.0), abs=1.5)
    assert "PTV" in plan.isocentre_from


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError):
        read_plan_folder(tmp_path)


def test_what_is_printed_as_json_is_the_result(done):
    assert json.loads(done[0].model_dump_json())["kind"] == "fraction"
