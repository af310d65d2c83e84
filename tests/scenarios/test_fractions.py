"""Nights in which fractions come: each once, in order, with its plan; killed or not; and the course they make."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patient.errors import PolicyError
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from tests.pipelines.fractions import changed
from tests.planning import identity, image, plan
from tests.scenarios.waiting import until

QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=900, time_limit=60)
FORMULA = "tests.scenarios.trivial:fraction"


def _planned(inbox: Path, patient: str = "P1", day: int = 5) -> str:
    who = image(inbox / patient / f"ct{day}", identity(f"plan{day} {patient}", f"202601{day - 3:02d}"), patient)
    return plan(inbox / patient / f"plan{day}", who, patient, date=f"202601{day:02d}")


def _fraction(inbox: Path, day: int, patient: str = "P1", hu: int = 0) -> None:
    image(inbox / patient / f"fraction{day}", identity(f"{day} {patient}", f"202601{day:02d}", "CBCT"), patient, hu=hu)


def _night(inbox: Path, outbox: Path, settings: Configuration = QUIET):
    return run_night(inbox, outbox, settings, function=FORMULA)


def _course(outbox: Path) -> dict:
    (path,) = (outbox / "courses").glob("*/course.json")
    return json.loads(path.read_text(encoding="utf-8"))


def _earlier(outbox: Path) -> dict[str, int]:
    """How many earlier fractions each case was given, by its folder."""
    found = {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in (outbox / "cases").glob("*/result.json")}
    return {name: len(result["provenance"]["earlier"]) for name, result in found.items()}


@pytest.fixture
def inbox(tmp_path):
    _planned(tmp_path / "in")
    for day in (9, 7, 8):
        _fraction(tmp_path / "in", day)
    return tmp_path / "in"


def test_fractions_are_treated_in_order_each_with_those_before_it_and_make_a_course(inbox, tmp_path):
    out = tmp_path / "out"
    record = _night(inbox, out)
    assert [(c.case[:8], c.fraction, c.state) for c in record.cases] == [
        ("20260107", 1, "review"),
        ("20260108", 2, "review"),
        ("20260109", 3, "review"),
    ]
    assert {name[:8]: n for name, n in _earlier(out).items()} == {"20260107": 0, "20260108": 1, "20260109": 2}
    course = _course(out)
    assert [f["number"] for f in course["fractions"]] == [1, 2, 3]
    assert {c.course for c in record.cases} == {f"courses/{course['course']}"}
    assert {c.decision for c in record.cases} == {"review"}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"courses/{course['course']}/report.html" in page
    assert "fraction 3" in page


def test_the_same_night_twice_does_nothing_the_second_time_and_a_new_fraction_only_itself(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    told = (out / "courses").glob("*/course.json").__next__().stat().st_mtime_ns
    again = _night(inbox, out)
    assert (again.cases, again.unchanged) == ((), 3)
    assert (out / "courses").glob("*/course.json").__next__().stat().st_mtime_ns == told
    _fraction(inbox, 12)
    third = _night(inbox, out)
    assert ([c.fraction for c in third.cases], third.unchanged) == ([4], 3)
    assert len(_course(out)["fractions"]) == 4


def test_a_planning_ct_with_a_plan_and_fractions_are_not_contoured_as_planning_cts(inbox, tmp_path):
    image(inbox / "P9", identity("alone", "20260101"), "P9")
    record = _night(inbox, tmp_path / "out")
    assert [c.fraction for c in record.cases if c.state == "done"] == [None]
    assert len(record.cases) == 4


def test_a_fraction_waits_for_its_plan_and_is_done_when_it_comes(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _fraction(inbox, 7)
    (held,) = _night(inbox, out).cases
    assert (held.state, held.folder) == ("held", "")
    assert "waits for its plan" in held.reasons[0]
    _planned(inbox)
    (done,) = _night(inbox, out).cases
    assert (done.state, done.fraction) == ("review", 1)


def test_a_fraction_whose_plan_never_comes_is_refused_once(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _fraction(inbox, 7)
    impatient = QUIET.model_copy(update={"hold_days": 1e-9})
    (refused,) = _night(inbox, out, impatient).cases
    assert refused.state == "refused"
    assert "waits for its plan" in refused.reasons[0]
    quiet = _night(inbox, out, impatient)
    assert (quiet.cases, quiet.unchanged) == ((), 1)


def test_a_late_image_between_two_fractions_changes_all_after_it_and_none_before(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    _planned(inbox)
    for day in (7, 9):
        _fraction(inbox, day)
    _night(inbox, out)
    _fraction(inbox, 8)
    record = _night(inbox, out)
    assert [(c.case[:8], c.fraction, c.folder[-2:]) for c in record.cases if c.fraction == 3] == [("20260109", 3, "-2")]
    assert record.unchanged == 1
    course = _course(out)
    assert [f["number"] for f in course["fractions"] if f["counts"]] == [1, 2, 3]
    assert any("out of order" in note for note in course["notes"])


@pytest.mark.parametrize(("series", "says"), [("fraction7", ""), ("ct5", "its planning CT: ")])
def test_a_fraction_of_which_slices_are_missing_or_whose_planning_ct_lacks_some_waits(tmp_path, series, says):
    out = tmp_path / "out"
    _planned(tmp_path / "in")
    _fraction(tmp_path / "in", 7)
    (folder,) = (tmp_path / "in").glob(f"*/{series}")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        changed(path, ImagesInAcquisition=len(paths) + 2)
    record = _night(tmp_path / "in", out)
    said = f"{says}{len(paths)} of {len(paths) + 2} slices are there (Images in Acquisition)"
    assert [(c.state, c.reasons) for c in record.cases] == [("held", (said,))]
    for path in paths:
        changed(path, ImagesInAcquisition=len(paths))
    assert [c.state for c in _night(tmp_path / "in", out).cases] == ["review"]


def test_a_fraction_with_a_slice_that_cannot_be_read_waits(tmp_path):
    _planned(tmp_path / "in")
    _fraction(tmp_path / "in", 7)
    (folder,) = (tmp_path / "in").glob("*/fraction7")
    last = sorted(path for path in folder.rglob("*") if path.is_file())[-1]
    last.write_bytes(last.read_bytes()[:700])
    (case,) = _night(tmp_path / "in", tmp_path / "out").cases
    assert (case.state, "cannot be read" in case.reasons[0]) == ("held", True)


def test_images_that_have_left_the_inbox_still_count(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    for gone in ("fraction7", "fraction8"):
        for path in (inbox / "P1" / gone).iterdir():
            path.unlink()
    _fraction(inbox, 12)
    record = _night(inbox, out)
    assert [(c.fraction, c.state) for c in record.cases] == [(4, "review")]
    assert [f["number"] for f in _course(out)["fractions"]] == [1, 2, 3, 4]


def test_a_plan_replaced_in_mid_course_begins_anew_and_says_so(inbox, tmp_path):
    _planned(inbox, day=12)
    for day in (14, 15):
        _fraction(inbox, day)
    record = _night(inbox, tmp_path / "out")
    assert [c.fraction for c in record.cases] == [1, 2, 3, 1, 2]
    course = _course(tmp_path / "out")
    assert [part["fractions"] for part in course["parts"]] == [[1, 2, 3], [1, 2]]
    assert "The plan was replaced" in course["notes"][0]
    assert [f["ordinal"] for f in course["fractions"]] == [1, 2, 3, 4, 5]


def test_a_fraction_keeps_the_plan_that_it_was_treated_under(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    _planned(inbox, day=8)  # comes when the fractions of its day are done
    _fraction(inbox, 12)
    record = _night(inbox, out)
    assert ([c.fraction for c in record.cases], record.unchanged) == ([1], 3)
    assert [part["fractions"] for part in _course(out)["parts"]] == [[1, 2, 3], [1]]


def test_fractions_whose_plan_has_left_the_inbox_stay_as_they_are_in_the_course(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    for path in (*(inbox / "P1" / "plan5").iterdir(), *(inbox / "P1" / "ct5").iterdir()):
        path.unlink()
    _fraction(inbox, 12)
    record = _night(inbox, out)
    assert ([c.state for c in record.cases], record.unchanged) == (["held"], 3)
    assert [f["number"] for f in _course(out)["fractions"]] == [1, 2, 3]


def test_a_policy_that_is_not_there_stops_the_night_before_its_work(inbox, tmp_path):
    wrong = QUIET.model_copy(update={"policies": {"head_neck": "nobodys"}})
    with pytest.raises(PolicyError, match="nobodys"):
        _night(inbox, tmp_path / "out", wrong)
    assert not list((tmp_path / "out" / "cases").iterdir())


def test_a_changed_plan_object_makes_all_its_fractions_anew(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    path = inbox / "P1" / "plan5" / "plan-dose.dcm"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [c.folder[-2:] for c in _night(inbox, out).cases] == ["-2", "-2", "-2"]


def test_two_patients_go_side_by_side_and_one_patients_trouble_is_not_the_others(inbox, tmp_path):
    _planned(inbox, "P2")
    for day in (7, 8):
        _fraction(inbox, day, "P2")
    _fraction(inbox, 6, "P3")
    record = _night(inbox, tmp_path / "out", QUIET.model_copy(update={"workers": 2}))
    assert sorted(c.state for c in record.cases) == ["held", *["review"] * 5]
    assert len(list((tmp_path / "out" / "courses").iterdir())) == 2


def test_a_later_night_reads_no_pixels_of_earlier_fractions_again(inbox, tmp_path, monkeypatch):
    out = tmp_path / "out"
    _night(inbox, out)
    _fraction(inbox, 12)
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: (read.append(Path(file.name)), digest(file, name))[1])
    _night(inbox, out)
    assert {path.parent.name for path in read} == {"fraction12"}


NIGHT = """
import sys
from pathlib import Path
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
if __name__ == "__main__":
    run_night(Path(sys.argv[1]), Path(sys.argv[2]), Configuration(settle_minutes=0, workers=1),
              function="tests.scenarios.trivial:fraction")
"""


def test_a_night_of_fractions_killed_in_the_middle_goes_on_where_it_was(inbox, tmp_path):
    out = tmp_path / "out"
    for day in (12, 13):
        _fraction(inbox, day)
    (tmp_path / "night.py").write_text(NIGHT)
    call = [sys.executable, str(tmp_path / "night.py"), str(inbox), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    hanging = {**environment, "TRIVIAL_HANGS_AT": "3"}
    night = subprocess.Popen(call, env=hanging, stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: any((out / ".work").glob("*/hangs")), night)
    os.killpg(night.pid, signal.SIGKILL)
    night.wait()
    whole = {p.name for p in (out / "cases").glob("[!.]*")}
    assert len(whole) == 2
    subprocess.run(call, env=environment, check=True, stderr=subprocess.DEVNULL)
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert [job.state for job in ledger.jobs()] == [State.REVIEW] * 5
    assert sorted(_earlier(out).values()) == [0, 1, 2, 3, 4]
    assert whole <= {p.name for p in (out / "cases").iterdir()}
    assert [f["number"] for f in _course(out)["fractions"]] == [1, 2, 3, 4, 5]


def test_files_that_are_touched_but_not_changed_make_nothing_anew(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    for path in inbox.rglob("*.dcm"):
        path.touch()
    again = _night(inbox, out, QUIET.model_copy(update={"settle_minutes": 10.0}))
    assert (again.cases, again.unchanged) == ((), 3)
    assert len(list((out / "cases").iterdir())) == 3


def test_a_day_whose_image_is_changing_goes_on_counting_for_those_after_it(inbox, tmp_path):
    out = tmp_path / "out"
    _night(inbox, out)
    _fraction(inbox, 12)
    for path in inbox.rglob("*.dcm"):
        os.utime(path, (0, 0))
    (path, *_) = (inbox / "P1" / "fraction7").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    record = _night(inbox, out, QUIET.model_copy(update={"settle_minutes": 1000.0}))
    assert {c.fraction: c.state for c in record.cases if c.state != "held"} == {4: "review"}
    assert max(_earlier(out).values()) == 3
