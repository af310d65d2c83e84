"""What clinics put into an inbox: files that vanish, cannot be read, come late or back; the night says so and goes on."""

import hashlib
import json
import os
import re
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from patient.dose import Dose
from patient.errors import InputError, OutOfResources
from patient.loop import Loop
from patient.read.images import open_folder
from patient.structures import Structure, StructureSet
from patient.trust import GIVEN, Estimated
from patient.volume import Volume
from patient.write.rtdose import Registration, write_dose
from patient.write.rtstruct import write_structure_set
from pipelines.configuration import Configuration
from pipelines.course.case import read_fraction
from pipelines.night import run as night
from pipelines.night.run import run_night
from pipelines.night.work import run_case
from pipelines.outbox.job_key import patient_key
from pipelines.outbox.ledger import Ledger
from pipelines.records.night import labels, read_nights
from registration.dicom import write_deformable, write_registration
from registration.transforms import Rigid, Space
from tests.making import phantom, write_ct
from tests.planning import identity, image, plan

HU = phantom((4, 16, 16))
QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=900, time_limit=60)
FORMULA = "tests.scenarios.trivial:fraction"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """What comes before and after the workers is looked at here: cases are made one after the other, without them."""
    monkeypatch.setattr(night, "cluster", lambda *settings: nullcontext())
    monkeypatch.setattr(night, "run_all", _one_after_the_other)


def _one_after_the_other(client, queues, limit, function, started, *clock):
    for queue in queues:
        for request in queue:
            started(request.case)
            yield run_case(request, function)


def _ct(inbox: Path, name: str) -> Path:
    return write_ct(inbox / name, HU, lambda k, d: setattr(d, "PatientID", name), tag=name)


def _planned(inbox: Path, patient: str = "P1") -> None:
    who = image(inbox / patient / "ct", identity(f"plan {patient}", "20260102"), patient)
    plan(inbox / patient / "plan", who, patient, date="20260105")


def _fraction(inbox: Path, day: int, patient: str = "P1", description: str = "CBCT") -> Path:
    folder = inbox / patient / f"fraction{day}"
    image(folder, identity(f"{day} {patient}", f"202601{day:02d}", description), patient)
    return folder


def _night(inbox: Path, outbox: Path, settings: Configuration = QUIET):
    return run_night(inbox, outbox, settings, function=FORMULA)


def test_a_planning_ct_of_which_a_file_vanishes_while_the_night_looks_waits_and_the_others_are_done(tmp_path, monkeypatch):
    inbox = tmp_path / "in"
    gone = next(_ct(inbox, "a").iterdir())
    _ct(inbox, "b")
    digests = Ledger.digests
    monkeypatch.setattr(Ledger, "digests", lambda ledger, paths: (gone.unlink(missing_ok=True), digests(ledger, paths))[1])
    record = _night(inbox, tmp_path / "out")
    assert sorted(c.state for c in record.cases) == ["done", "held"]
    assert "cannot be read: No such file" in next(c for c in record.cases if c.state == "held").reasons[0]


def test_a_plan_that_cannot_be_read_holds_its_patients_fractions_and_nobody_elses(tmp_path):
    inbox = tmp_path / "in"
    for patient in ("P1", "P2"):
        _planned(inbox, patient)
        _fraction(inbox, 7, patient)
    path = inbox / "P1" / "plan" / "plan.dcm"
    spoilt = path.read_bytes().replace(b"\x0a\x30\x78\x00\x02\x00\x00\x0035", b"\x0a\x30\x78\x00\x02\x00\x00\x003,")
    path.write_bytes(spoilt)
    record = _night(inbox, tmp_path / "out")
    assert sorted(c.state for c in record.cases) == ["held", "held", "review"]
    assert all("a plan of this patient cannot be read" in c.reasons[0] for c in record.cases if c.state == "held")
    assert len(record.problems) == 1


@pytest.mark.parametrize("name", ["plan", "plan-structures", "plan-dose"])
def test_an_object_without_a_readable_header_is_named_and_holds_what_may_depend_on_it(tmp_path, name):
    inbox = tmp_path / "in"
    for patient in ("P1", "P2"):
        _planned(inbox, patient)
        _fraction(inbox, 7, patient, description="CT")
    path = inbox / "P1" / "plan" / f"{name}.dcm"
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.find(b"\xe0\x7f\x10\x00") - 3])
    record = _night(inbox, tmp_path / "out")
    held = [c for c in record.cases if c.state == "held"]
    assert held
    assert all("cannot be read" in c.reasons[0] for c in held)
    assert {c.label.patient for c in held} == {c.label.patient for c in held[:1]}
    assert [c.state for c in record.cases if c not in held] == ["review"]  # the other patient's fraction
    (problem,) = record.problems
    assert "Cut short within its header" in problem.what
    assert "Cut short within its header" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_whatever_goes_wrong_with_one_images_digests_is_that_images(tmp_path, monkeypatch):
    inbox = tmp_path / "in"
    bad = _ct(inbox, "a")
    _ct(inbox, "b")
    digests = Ledger.digests

    def digest(ledger, paths):
        if any(path.parent == bad for path in paths):
            raise ValueError("embedded null byte")
        return digests(ledger, paths)

    monkeypatch.setattr(Ledger, "digests", digest)
    record = _night(inbox, tmp_path / "out")
    assert sorted(c.state for c in record.cases) == ["done", "held"]
    assert next(c for c in record.cases if c.state == "held").reasons == ("it cannot be looked at: unexpected ValueError",)


def test_everything_that_was_made_of_a_course_changes_nothing_when_it_is_put_back_into_the_inbox(tmp_path):
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    who = image(inbox / "P1" / "ct", identity("plan P1", "20260102"))
    uid = plan(inbox / "P1" / "plan", who, date="20260105")
    days = [identity(str(day), f"202601{day:02d}", "CBCT") for day in (7, 8)]
    for n, day in enumerate(days):
        image(inbox / "P1" / f"fraction{n}", day)
    before = _night(inbox, outbox)
    assert [c.state for c in before.cases] == ["review", "review"]
    planned = open_folder(inbox / "P1" / "ct")
    for n in range(len(days)):
        today, folder = open_folder(inbox / "P1" / f"fraction{n}"), inbox / "back" / str(n)
        folder.mkdir(parents=True)
        corners = np.array([[-4.0, -4.0, 0.0], [2.0, -4.0, 0.0], [2.0, 2.0, 0.0]])
        drawn = StructureSet((Structure("CTV", interpreted_type="CTV", drawn=(Loop(corners),)),))
        write_structure_set(folder / "rtstruct.dcm", drawn, today, version="0", fraction=n + 1)
        here, there = Space.of(today.geometry), Space.of(planned.geometry)
        reg = write_registration(folder / "reg.dcm", Rigid.identity(there, here), planned, today, version="0")
        write_deformable(folder / "dreg.dcm", Rigid.identity(here, there), today.geometry, today, planned, version="0")
        dose = Dose(
            Volume(np.ones(planned.geometry.shape, np.float32), planned.geometry),
            summation="PLAN_OVERVIEW",
            transformed="RIGID",
            fractions=n + 1,
            plan_uid=uid,
        )
        said = {"derivation": "d", "registrations": [Registration(reg)], "label": "Accumulated", "version": "0"}
        write_dose(folder / "dose.dcm", Estimated(dose, GIVEN), planned, **said)
    again = _night(inbox, outbox)
    assert (again.cases, again.unchanged, again.problems) == ((), 2, ())
    told = [line for line in again.series if line.why == "made by this software: never taken for the clinic's"]
    assert sorted(line.modality for line in told) == sorted(["RTSTRUCT", "REG", "REG", "RTDOSE"] * len(days))


def test_a_file_whose_name_is_no_text_is_read_like_any_other(tmp_path):
    folder = _ct(tmp_path / "in", "a")
    for n, path in enumerate(sorted(folder.iterdir())):
        path.rename(os.fsdecode(os.fsencode(folder) + b"/M\xfcller-%d.dcm" % n))
    (case,) = _night(tmp_path / "in", tmp_path / "out").cases
    assert case.state == "done"
    assert _night(tmp_path / "in", tmp_path / "out").unchanged == 1


def test_an_image_that_comes_late_before_one_that_has_left_the_inbox_stops_no_later_fraction(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    _fraction(inbox, 7)
    left = _fraction(inbox, 9)
    _night(inbox, out)
    for path in left.iterdir():
        path.unlink()
    for day in (8, 12):
        _fraction(inbox, day)
    record = _night(inbox, out)
    assert [(c.fraction, c.state) for c in record.cases] == [(2, "review"), (4, "review")]
    (course,) = (out / "courses").glob("*/course.json")
    assert '"number": 3' in course.read_text(encoding="utf-8")


def test_a_saturdays_fraction_does_not_stop_the_course_under_weekdays(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    settings = QUIET.model_copy(update={"fraction_numbers": "weekdays"})
    for day in (9, 10, 12):
        _fraction(inbox, day)
        last = _night(inbox, out, settings)
    assert [(c.fraction, c.state) for c in last.cases] == [(3, "review")]


def test_a_ct_long_after_a_plan_that_says_nothing_of_itself_waits_for_an_answer(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    image(inbox / "P1" / "diagnostic", identity("diagnostic", "20260316", "Neck"), "P1")
    (asked,) = _night(inbox, out).cases
    assert asked.state == "held"
    assert "a fraction of that plan, or a new planning CT?" in asked.reasons[0]
    settings = QUIET.model_copy(update={"images": {asked.case: "planning"}})
    (planning,) = _night(inbox, out, settings).cases
    assert (planning.state, planning.fraction) == ("done", None)
    settings = QUIET.model_copy(update={"images": {asked.case: "fraction"}})
    (fraction,) = _night(inbox, out, settings).cases
    assert (fraction.state, fraction.fraction) == ("review", 1)


def _told(outbox: Path) -> dict[str, bytes]:
    """Everything that an outbox holds for others to read; what is private and the DICOM objects themselves left out."""
    files = [p for p in outbox.rglob("*") if p.is_file() and p.parent.name != "private" and p.suffix != ".dcm"]
    return {str(p.relative_to(outbox)): p.read_bytes() for p in files}


def _named(patient_name: str, patient_id: str):
    def change(k: int, d: Dataset) -> None:
        d.PatientName, d.PatientID, d.PatientBirthDate = patient_name, patient_id, "19470812"
        d.StationName = d.SeriesDescription = d.StudyDescription = d.ImageComments = patient_name.upper()
        d.BodyPartExamined = patient_name.split("^")[0].upper()
        d.ReferringPhysicianName = d.InstitutionName = d.ProtocolName = d.AccessionNumber = "Qqzx"

    return change


@pytest.mark.parametrize("what", ["succeed", "raise", "refuse", "gone"])
@pytest.mark.parametrize("name", ["Xu^Li", "Ng^An", "Featherstonehaugh^Wilhelmina"])
def test_nothing_in_an_outbox_says_who_a_patient_is_or_what_a_file_is_called(tmp_path, name, what):
    family, given = name.split("^")
    folder = tmp_path / "in" / f"{family}_{given}_MRN4711" / what
    write_ct(folder, HU, _named(name, "MRN4711"), tag=name)
    for path in folder.iterdir():
        path.rename(path.with_name(f"{family}_{given}_MRN4711_{path.name}"))
    (folder / f"{family}_empty.dcm").touch()
    (folder / f"{given}_cut.dcm").write_bytes(next(folder.glob("*_MRN4711_*")).read_bytes()[:300])
    if what == "gone":
        next(folder.glob("*_MRN4711_*")).unlink()
    run_night(tmp_path / "in", tmp_path / "out", QUIET, function="tests.scenarios.trivial:by_rows")
    secrets = [family, given, family.upper(), given.upper(), "MRN4711", "19470812", "Qqzx"]
    for file, content in _told(tmp_path / "out").items():
        for secret in secrets:
            # Letters that stand among others by chance, in a hash or an English word, are no name.
            found = re.search(rb"(?<![0-9A-Za-z])" + secret.encode() + rb"(?![0-9A-Za-z])", content + b"\n" + file.encode())
            assert not found, (file, secret, content[max(0, found.start() - 60) : found.end() + 60])
    private = b"".join(p.read_bytes() for p in (tmp_path / "out" / "private").iterdir())
    assert b"MRN4711" in private
    assert (tmp_path / "out" / "private").stat().st_mode & 0o077 == 0


def test_nobody_without_the_mark_can_find_a_patient_id_by_trying_all_of_them(tmp_path):
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    _planned(inbox, "MRN4711")
    for day in (7, 8):
        _fraction(inbox, day, "MRN4711")
    _ct(inbox, "MRN4712")
    assert len(_night(inbox, outbox).cases) == 3
    assert len([*(outbox / "courses").iterdir()]) == 1
    tried = [hashlib.sha256(f"{salt}{who}".encode()).hexdigest()[:8] for salt in ("", "recontour course ") for who in
             ("MRN4711", "MRN4712")]  # fmt: skip
    for file, content in _told(outbox).items():
        for guess in tried:
            assert guess.encode() not in content + file.encode(), file


def test_a_course_from_before_hashes_were_keyed_goes_on_in_its_folder(tmp_path):
    inbox, outbox = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    _fraction(inbox, 7)
    _night(inbox, outbox)
    (course,) = (outbox / "courses").iterdir()
    (case,) = (outbox / "cases").iterdir()
    old, new = patient_key("P1"), read_fraction(case).image.patient_hash
    assert old != new
    result = case / "result.json"
    result.write_text(result.read_text(encoding="utf-8").replace(new, old), encoding="utf-8")
    course = course.rename(course.with_name(course.name.replace(new[:10], old[:10])))
    with closing(sqlite3.connect(outbox / "ledger.sqlite")) as db:
        db.execute("UPDATE fractions SET patient = ?", (old,))
        db.commit()
    for path in (inbox / "P1" / "fraction7").iterdir():
        path.unlink()
    _fraction(inbox, 8)
    assert _night(inbox, outbox).problems == ()
    assert [*(outbox / "courses").iterdir()] == [course]
    assert len(json.loads((course / "course.json").read_text(encoding="utf-8"))["cases"]) == 2
    with closing(sqlite3.connect(outbox / "ledger.sqlite")) as db:
        assert {who for (who,) in db.execute("SELECT patient FROM fractions")} == {new}


def test_the_ledger_of_an_earlier_version_forgets_the_paths_that_it_held(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.execute("CREATE TABLE digests (path TEXT PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL)")
        db.executemany("INSERT INTO digests VALUES (?, '', '')", [(f"/inbox/Xu_Li_{n}.dcm",) for n in range(500)])
        db.commit()
    with Ledger(tmp_path / "ledger.sqlite"):
        pass
    assert all(b"Xu_Li" not in path.read_bytes() for path in tmp_path.iterdir())


def test_refused_cases_of_one_day_can_be_told_apart_by_what_the_site_allows(tmp_path):
    for number, station in ((1, "CT1"), (2, "CT1"), (3, "CT2")):

        def change(k, d, number=number, station=station):
            d.SeriesNumber, d.StationName, d.BodyPartExamined, d.PatientID = number, station, "CHEST", f"P{number}"

        write_ct(tmp_path / "in" / str(number) / "refuse", HU, change, tag=str(number))
    site = QUIET.model_copy(update={"patient_key": "id", "stations": {"CT1": "simulator"}})
    record = run_night(tmp_path / "in", tmp_path / "out", site, function="tests.scenarios.trivial:by_rows")
    told = {(c.label.patient, c.label.series, c.label.station, c.label.body_part) for c in record.cases}
    assert {t for t in told if t[1] != 3} == {("P1", 1, "simulator", "CHEST"), ("P2", 2, "simulator", "CHEST")}
    assert next(t for t in told if t[1] == 3)[2].startswith("station ")
    assert "P2" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    words = {label.words for label in labels(tmp_path / "out").values()}
    assert "patient P1, 2026-01-01, series 1, simulator, CHEST" in words


def test_every_series_of_an_inbox_is_on_the_page_with_what_was_done_with_it_and_why(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    _fraction(inbox, 7)
    for modality in ("MR", "PT"):
        write_ct(inbox / modality, HU, lambda k, d, m=modality: setattr(d, "Modality", m), tag=modality)
    plan(inbox / "P2", identity("nobody's", "20260102"), "P2")
    (inbox / "P2" / "plan.dcm").unlink()
    record = _night(inbox, out)
    told = {(s.modality, s.use) for s in record.series}
    assert {("MR", "not used"), ("PT", "not used"), ("CT", "fraction"), ("CT", "planning CT"), ("RTPLAN", "used")} <= told
    assert {(s.use, s.why) for s in record.series if s.modality == "RTSTRUCT"} == {
        ("used", "of a plan that fractions here are given by"),
        ("not used", "no plan here was made on it"),
    }
    assert "10 series in the inbox" in (out / "index.html").read_text(encoding="utf-8") or len(record.series) != 10
    assert all(s.why for s in record.series)


def test_a_hundred_junk_files_are_counted_and_the_first_few_named(tmp_path):
    _ct(tmp_path / "in", "a")
    for n in range(100):
        (tmp_path / "in" / f"{n}.dcm").touch()
    record = _night(tmp_path / "in", tmp_path / "out")
    (problem,) = record.problems
    assert (problem.count, len(problem.files)) == (100, 5)
    assert (tmp_path / "out" / "night.json").stat().st_size < 10_000


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[{",
        "null",
        '[{"schema": "9.9"}]',
        '[{"schema": "1.1", "started": "x", "cases": [{"case": "20260101-0123456789", "state": "done", '
        '"folder": "javascript:alert(1)//"}]}]',
    ],
)
def test_a_damaged_record_of_nights_is_set_aside_and_begun_anew_from_the_ledger(tmp_path, damage):
    _ct(tmp_path / "in", "a")
    out = tmp_path / "out"
    _night(tmp_path / "in", out)
    (out / "night.json").write_text(damage)
    _night(tmp_path / "in", out)
    before, _ = read_nights(out)
    assert [c.state for c in before.cases] == ["done"]
    assert "set-aside" in before.problems[0].what
    assert (out / "night-set-aside-1.json").read_text(encoding="utf-8") == damage
    assert "javascript" not in (out / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("place", [".work", "cases", "courses", "night.json", ".lock", "cases/20260101-0123456789"])
def test_a_link_in_the_outbox_is_not_followed(tmp_path, place):
    _ct(tmp_path / "in", "a")
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").mkdir()
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).symlink_to(elsewhere)
    with pytest.raises(InputError, match="symbolic link"):
        _night(tmp_path / "in", out)
    assert [p.name for p in elsewhere.iterdir()] == ["precious"]


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_an_outbox_that_vanishes_in_mid_night_is_not_made_anew(tmp_path, monkeypatch, left):
    for name in "ab":
        _ct(tmp_path / "in", name)
    out = tmp_path / "out"

    made = run_case

    def vanishing(request, function=""):
        outcome = made(request, function)
        if out.exists():
            out.rename(tmp_path / "unmounted")
            if left == "an empty folder":
                out.mkdir()
        return outcome

    monkeypatch.setattr(f"{__name__}.run_case", vanishing)
    with pytest.raises(OutOfResources, match="no longer there"):
        _night(tmp_path / "in", out)
    assert not out.exists() or not any(out.iterdir())


def _purged(folder: Path, count: int) -> None:
    for path in sorted(folder.glob("*.dcm"))[:count]:
        path.unlink()


def _outputs(outbox: Path) -> int:
    return len(list((outbox / "cases").glob("[!.]*")))


def test_an_image_of_which_slices_leave_once_it_is_done_waits_by_name_and_is_never_contoured_from_fewer(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    folder, impatient = _ct(inbox, "A"), QUIET.model_copy(update={"hold_days": 1e-9})
    _night(inbox, out)
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    for gone in (1, 2):
        _purged(folder, 1)
        (case,) = _night(inbox, out, impatient).cases
        said = f"{gone} of {len(kept)} slices have left the inbox: nothing is made from fewer"
        assert (case.state, case.reasons) == ("held", (said,))
    for path, content in kept.items():
        path.write_bytes(content)
    back = _night(inbox, out)
    assert (back.cases, back.unchanged, _outputs(out)) == ((), 1, 1)


def test_an_image_that_left_slice_by_slice_is_done_as_before(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    folder = _ct(inbox, "A")
    _night(inbox, out)
    _purged(folder, 1)
    _night(inbox, out)
    _purged(folder, 99)
    assert _night(inbox, out).cases == ()
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert [job.state for job in ledger.jobs()] == ["done"]


def test_an_image_of_which_slices_left_and_others_came_is_contoured_anew(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    folder = _ct(inbox, "A")
    _night(inbox, out)
    _purged(folder, 1)
    (path, *_) = sorted(folder.glob("*.dcm"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert [case.state for case in _night(inbox, out).cases] == ["done"]
    assert _outputs(out) == 2


def test_where_slices_of_a_planning_ct_leave_its_fractions_wait_and_count_as_they_were_made(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    _fraction(inbox, 7)
    _night(inbox, out)
    _purged(inbox / "P1" / "ct", 1)
    _fraction(inbox, 8)
    record = _night(inbox, out)
    assert {case.state for case in record.cases} == {"held"}
    assert all("its planning CT: 1 of 2 slices have left the inbox" in case.reasons[0] for case in record.cases)
    assert (len(record.cases), _outputs(out)) == (2, 1)
    for folder in ("ct", "plan", "fraction8"):
        _purged(inbox / "P1" / folder, 99)
    assert _night(inbox, out).unchanged == 1
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert [job.state for job in ledger.jobs()] == ["review", "held"]
