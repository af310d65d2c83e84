"""The sample course by the real thing: its plan and first fraction in one night, again in another."""

import json

from data_samples.course import write_course
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from pipelines.configuration import Configuration
from pipelines.night.run import run_night

QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=4000, time_limit=600)


def test_a_night_over_the_sample_course_pairs_it_adapts_to_it_and_does_so_once(tmp_path):
    inbox, out = tmp_path / "in", tmp_path / "out"
    write_course(inbox, fractions=1, slices=48, size=64, nodes=24.0)
    (case,) = run_night(inbox, out, QUIET).cases
    assert (case.fraction, case.state) in {(1, "review"), (1, "done")}
    assert case.decision in ("continue", "review", "replan")
    folder = out / case.folder
    names = {p.name for p in folder.iterdir()}
    assert {"rtstruct.dcm", "reg.dcm", "dose.dcm", "result.json", "report.html", "figures"} <= names
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["plan"]["dose_uid"]
    assert result["plan"]["fractions"] == 35
    planned = read_structure_set(inbox / "plan" / "rtstruct.dcm")
    today = read_structure_set(folder / "rtstruct.dcm")
    assert {s.name for s in today.structures} <= {s.name for s in planned.structures}
    assert today.frame_of_reference == open_folder(inbox / "fraction_01").geometry.frame_of_reference
    course = json.loads((out / case.course / "course.json").read_text(encoding="utf-8"))
    assert [f["case"] for f in course["fractions"]] == [folder.name]
    assert not list((out / ".work").iterdir())
    again = run_night(inbox, out, QUIET)
    assert (again.cases, again.unchanged) == ((), 1)
