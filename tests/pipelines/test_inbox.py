"""What clinics put into an inbox: files that vanish, cannot be read, come late or back; the night says so and goes on."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from pipelines import night
from pipelines.configuration import Configuration
from pipelines.ledger import Ledger
from pipelines.night import run_night
from pipelines.work import run_case
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


def _one_after_the_other(client, lanes, limit, function, started, beat):
    for lane in lanes:
        for request in lane:
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
    assert '"number": 3' in course.read_text()


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
