"""Nights on disks that are full, read-only, or another one: real filesystems, mounted for the test."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from patient.errors import OutOfResources
from pipelines.configuration import Configuration
from pipelines.night.run import run_night
from pipelines.outbox.ledger import Ledger
from tests.making import phantom, write_ct

RECONTOUR = str(Path(sys.executable).with_name("recontour"))
QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=700, time_limit=60)
LARGE = "tests.scenarios.trivial:large"


@pytest.fixture
def disk(tmp_path):
    """Mounts small filesystems; they go when the test does."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"NO DISK WAS FILLED: mounting is not permitted here ({done.stderr.decode().strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def _fill_but(folder: Path, room: int) -> Path:
    """Leave so many bytes."""
    about = os.statvfs(folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(max(0, about.f_bavail * about.f_frsize - room)))
    return filler


def _reason_of_a_night_that_fails(inbox: Path, out: Path) -> str:
    try:
        (case,) = run_night(inbox, out, QUIET, function=LARGE).cases
    except OutOfResources as error:
        return str(error)
    return case.reasons[0] if case.state == "failed" else ""


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def _nightly(inbox, out):
    command = [RECONTOUR, "nightly", str(inbox), "-o", str(out), "--settle-minutes", "0", "--workers", "1", "--json"]
    return subprocess.run(command, capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("room", [0, 50 << 10, 140 << 10, 350 << 10])
def test_however_full_the_disk_is_no_half_case_is_left_and_with_room_the_next_night_does_it(tmp_path, disk, room):
    inbox, out = write_ct(tmp_path / "in" / "a", phantom((4, 16, 16))).parent, disk(tmp_path / "out", "4m")
    (out / "cases").mkdir()
    (out / ".work").mkdir()
    (out / ".lock").touch()
    before, filler = _digest(inbox), _fill_but(out, room)
    assert "disk is full" in _reason_of_a_night_that_fails(inbox, out)
    assert [p for p in (out / "cases").iterdir() if not p.name.endswith("-failed")] == []
    assert _digest(inbox) == before
    filler.unlink()
    (case,) = run_night(inbox, out, QUIET, function=LARGE).cases
    assert case.state == "done"
    assert len(list((out / case.folder).iterdir())) == 5
    assert not any((out / ".work").iterdir())


def test_a_patients_case_for_which_there_is_no_room_is_failed_with_the_reason_and_done_the_next_night(tmp_path, disk):
    inbox, out = write_ct(tmp_path / "in" / "a", phantom()).parent, disk(tmp_path / "out", "6m")
    filler = _fill_but(out, 300 << 10)
    done = _nightly(inbox, out)
    assert done.returncode == 4, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    assert (case["state"], case["folder"]) == ("failed", "")
    assert "disk is full" in case["reasons"][0]
    assert "disk is full" in (out / "index.html").read_text(encoding="utf-8")
    filler.unlink()
    done = _nightly(inbox, out)
    assert done.returncode == 3, done.stderr
    assert (out / json.loads(done.stdout)["cases"][0]["folder"] / "rtstruct.dcm").is_file()


def test_a_night_without_room_for_its_ledger_stops_with_a_sentence(tmp_path, disk):
    inbox, out = write_ct(tmp_path / "in" / "a", phantom()).parent, disk(tmp_path / "out", "4m")
    _fill_but(out, 16 << 10)
    done = _nightly(inbox, out)
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_one_patient_for_whom_there_is_no_room_gets_a_sentence_and_no_folder(tmp_path, disk):
    ct, small = write_ct(tmp_path / "ct", phantom()), disk(tmp_path / "small", "64k")
    done = subprocess.run([RECONTOUR, "contour", str(ct), "-o", str(small / "out")], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(small.iterdir()) == []


def test_cases_on_another_disk_than_the_work_are_copied_beside_and_then_appear(tmp_path, disk):
    inbox, out = write_ct(tmp_path / "in" / "a", phantom((4, 16, 16))).parent, tmp_path / "out"
    cases = disk(out / "cases", "600k")
    filler = _fill_but(cases, 250 << 10)
    (cases / ".dead-night.part").mkdir()
    (case,) = run_night(inbox, out, QUIET, function=LARGE).cases
    assert (case.state, [p.name for p in cases.iterdir()]) == ("failed", ["filler"])
    assert "disk is full" in case.reasons[0]
    filler.unlink()
    (case,) = run_night(inbox, out, QUIET, function=LARGE).cases
    assert case.state == "done"
    assert [f"cases/{p.name}" for p in cases.iterdir()] == [case.folder]
    assert len(list((out / case.folder).iterdir())) == 5


def test_an_outbox_that_is_read_only_is_a_wrong_call_and_can_still_be_read(tmp_path, disk):
    inbox, out = write_ct(tmp_path / "in" / "a", phantom((4, 16, 16))).parent, disk(tmp_path / "out", "8m")
    run_night(inbox, out, QUIET, function=LARGE)
    _read_only(out)
    before = _digest(out)
    done = _nightly(inbox, out)
    assert done.returncode == 2
    assert "The outbox cannot be written: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert _digest(out) == before
    said = subprocess.run([RECONTOUR, "status", str(out), "--json"], capture_output=True, encoding="utf-8")
    assert said.returncode == 0, said.stderr
    assert [job["state"] for job in json.loads(said.stdout)] == ["done"]


def test_a_disk_on_which_nothing_can_be_made_is_told_before_anything_is_done(tmp_path, disk):
    inbox, root = write_ct(tmp_path / "in" / "a", phantom((4, 16, 16))).parent, disk(tmp_path / "root", "1m")
    _read_only(root)
    for command in (["nightly", inbox, "-o", root / "out"], ["contour", inbox / "a", "-o", root / "out"]):
        done = subprocess.run([RECONTOUR, *map(str, command)], capture_output=True, encoding="utf-8")
        assert done.returncode == 2, done.stderr
        assert "Read-only file system" in done.stderr


def test_a_full_disk_does_not_leave_the_ledger_in_the_middle_of_a_step(tmp_path, disk):
    out = disk(tmp_path / "out", "1m")
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.move("i", "ready", case="c", key="k")
        filler = _fill_but(out, 0)
        with pytest.raises(sqlite3.OperationalError, match="full"):
            ledger.move("more", "ready", case="c", key="k", reasons=["x" * 500_000])
        filler.unlink()
        ledger.move("i", "running")
        assert ledger.job("i").state == "running"
