import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patient.errors import InputError, NightBusy
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.job import State
from pipelines.outbox.ledger import Ledger
from pipelines.outbox.publish import locked
from pipelines.records.night import read_nights
from tests.making import phantom, write_ct
from tests.scenarios.waiting import hangs, until

HU = phantom((4, 16, 16))
QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=700, time_limit=60)
TRIVIAL = "tests.scenarios.trivial:succeed"


def _inbox(folder: Path, names) -> Path:
    for name in names:
        write_ct(folder / name, HU, lambda k, d: setattr(d, "PatientName", "Secret^Name"), tag=name)
    return folder


def _states(outbox: Path) -> dict[str, str]:
    with Ledger(outbox / "ledger.sqlite", read_only=True) as ledger:
        return {job.case: job.state for job in ledger.jobs()}


def test_the_same_night_twice_does_nothing_the_second_time(tmp_path):
    inbox, out = _inbox(tmp_path / "in", "ab"), tmp_path / "out"
    first = run_night(inbox, out, QUIET, function=TRIVIAL)
    second = run_night(inbox, out, QUIET, function=TRIVIAL)
    assert [c.state for c in first.cases] == ["done", "done"]
    assert (second.cases, second.unchanged) == ((), 2)
    assert len(list((out / "cases").iterdir())) == 2
    assert len(read_nights(out)) == 2


def test_changed_inputs_make_a_new_output_that_leaves_the_old(tmp_path):
    inbox, out = _inbox(tmp_path / "in", "a"), tmp_path / "out"
    run_night(inbox, out, QUIET, function=TRIVIAL)
    write_ct(inbox / "a", HU + 1, tag="a")
    again = run_night(inbox, out, QUIET, function=TRIVIAL)
    assert [c.folder.endswith("-2") for c in again.cases] == [True]
    assert len(list((out / "cases").iterdir())) == 2


def test_one_bad_case_does_not_stop_the_others(tmp_path):
    inbox, out = _inbox(tmp_path / "in", ["good", "raise", "refuse", "hang", "die", "eat", "more"]), tmp_path / "out"
    clock = hangs(out)
    record = run_night(inbox, out, QUIET, function="tests.scenarios.trivial:by_rows", now=clock)
    assert sorted(c.state for c in record.cases) == ["done", "done", "failed", "failed", "failed", "failed", "refused"]
    reasons = " ".join(r for c in record.cases for r in c.reasons)
    for word in ("longer than 60 s", "worker died", "unexpected RuntimeError", "two planes are missing"):
        assert word in reasons
    logs = [p.read_text(encoding="utf-8") for p in (out / "cases").rglob("log.txt")]
    assert any("RuntimeError" in log for log in logs)
    everything = "".join(p.read_text(errors="ignore") for p in out.rglob("*") if p.is_file() and p.parent.name != "private")
    assert "Secret" not in everything


def test_files_that_still_arrive_are_held_and_not_for_ever(tmp_path):
    inbox, out = _inbox(tmp_path / "in", "a"), tmp_path / "out"
    patient = QUIET.model_copy(update={"settle_minutes": 10.0})
    assert [c.state for c in run_night(inbox, out, patient, function=TRIVIAL).cases] == ["held"]
    impatient = patient.model_copy(update={"hold_days": 1e-9})
    assert [c.state for c in run_night(inbox, out, impatient, function=TRIVIAL).cases] == ["refused"]
    assert [c.state for c in run_night(inbox, out, QUIET, function=TRIVIAL).cases] == ["done"]


def test_an_empty_inbox_and_useless_files_are_a_quiet_night(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.dcm").touch()
    (tmp_path / "in" / "text.txt").write_text("hello")
    record = run_night(tmp_path / "in", tmp_path / "out", QUIET)
    assert record.cases == ()
    assert record.problems[0].what.startswith("Empty file")
    with pytest.raises(InputError):
        run_night(tmp_path / "nowhere", tmp_path / "out", QUIET)


def test_names_crafted_as_paths_stay_inside_the_outbox(tmp_path):
    def change(k, d):
        d.PatientName = d.PatientID = "../../evil"
        d.SeriesDescription = "../../x"
        d.StudyDate = d.SeriesDate = d.AcquisitionDate = "../../.."
        d.SeriesInstanceUID = "../../../evil"

    inbox, out = write_ct(tmp_path / "in", HU, change), tmp_path / "deep" / "out"
    run_night(inbox, out, QUIET, function=TRIVIAL)
    (case,) = (out / "cases").iterdir()
    assert case.name.startswith("00000000-")
    assert {p.name for p in tmp_path.iterdir()} == {"in", "deep"}


def test_the_inbox_is_only_read(tmp_path):
    inbox, out = _inbox(tmp_path / "in", "a"), tmp_path / "out"
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in inbox.rglob("*.dcm")}
    run_night(inbox, out, QUIET, function=TRIVIAL)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in inbox.rglob("*.dcm")} == before
    assert len(list(inbox.rglob("*"))) == len(before) + 1


def test_two_nights_do_not_hold_one_outbox(tmp_path):
    with locked(tmp_path / "out"), pytest.raises(NightBusy):
        run_night(_inbox(tmp_path / "in", "a"), tmp_path / "out", QUIET, function=TRIVIAL)


NIGHT = """
import sys
from pathlib import Path
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
if __name__ == "__main__":
    run_night(Path(sys.argv[1]), Path(sys.argv[2]), Configuration(settle_minutes=0, workers=2),
              function="tests.scenarios.trivial:slow")
"""


def test_a_night_killed_at_any_moment_leaves_whole_outputs_and_goes_on(tmp_path):
    inbox, out = _inbox(tmp_path / "in", [f"p{n}" for n in range(8)]), tmp_path / "out"
    (tmp_path / "night.py").write_text(NIGHT)
    call = [sys.executable, str(tmp_path / "night.py"), str(inbox), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    chance = random.Random(7)
    for _ in range(4):
        night = subprocess.Popen(call, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        until((out / ".lock").exists, night)
        time.sleep(chance.uniform(0.5, 3.5))  # Anywhere in it, or after it; what has to hold holds at any time.
        os.killpg(night.pid, signal.SIGKILL)
        night.wait()
        for case in (out / "cases").glob("[!.]*"):
            assert {"report.html"} <= {p.name for p in case.iterdir()}
        if (out / "ledger.sqlite").exists():
            with sqlite3.connect(out / "ledger.sqlite") as db:
                assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    subprocess.run(call, env=environment, check=True, stderr=subprocess.DEVNULL)
    states = _states(out)
    assert len(states) == 8
    assert set(states.values()) <= {"done", "failed"}
    assert list(states.values()).count("done") >= 6
    assert len(list((out / "cases").iterdir())) == list(states.values()).count("done")


def test_a_whole_night_on_the_sample_patient(tmp_path):
    from data_samples.patient import write_sample

    write_sample(tmp_path / "in", slices=110, size=128)
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).with_name("recontour")),
        "nightly",
        str(tmp_path / "in"),
        "-o",
        str(out),
        "--settle-minutes",
        "0",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode in (0, 3), done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    folder = out / case["folder"]
    assert {p.name for p in folder.iterdir()} == {"rtstruct.dcm", "result.json", "report.html", "figures", "log.txt"}
    structures = read_structure_set(folder / "rtstruct.dcm")
    image = open_folder(tmp_path / "in")
    volumes = {s.name: s.mask(image.geometry).array.sum() * image.geometry.voxel_cc for s in structures.structures}
    assert {"External", "Bones", "SpinalCanal", "Lung_L", "Lung_R", "Trachea", "Skin"} <= set(volumes)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    told = {s["name"]: s["volume_cc"] for s in result["structures"] if s["volume_cc"]}
    assert all(abs(volumes[name] / told[name] - 1) < 0.03 for name in told)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Sample^Patient" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "SAMPLE" not in (out / "index.html").read_text(encoding="utf-8")


def test_a_case_in_the_ledger_has_one_of_the_designs_states(tmp_path):
    run_night(_inbox(tmp_path / "in", "a"), tmp_path / "out", QUIET, function=TRIVIAL)
    assert set(_states(tmp_path / "out").values()) <= {str(state) for state in State}
