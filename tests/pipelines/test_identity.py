"""Nothing but DICOM and the private look-up says who a patient is or what a file is called: real cases, one search."""

from __future__ import annotations

import base64
import io
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from pipelines.app import app
from pipelines.configuration import Configuration
from pipelines.course.case import read_fraction
from pipelines.night import run as night
from pipelines.night.run import run_night
from pipelines.night.work import run_case
from pipelines.outbox.job_key import patient_key
from pipelines.records.case import CaseResult
from tests.fractions import fraction_result, write_case
from tests.making import phantom, write_ct
from tests.pipelines.fractions import write_pair

NAME, ID, BORN = "Xu^Li", "MRN4711", "19570312"
WORDS = re.compile(rf"(?<![0-9A-Za-z])(?:Xu|XU|Li|LI|{ID}|{BORN}|1957-03-12)(?![0-9A-Za-z])")
"""The name's parts as words: among other letters, as in a hash, they are no name."""
_DATA = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=]+)")
QUIET = Configuration(settle_minutes=0, workers=1)


def _christened(folder: Path) -> None:
    """Let every file say who the patient is wherever a clinic writes it, also by its name and its folder's."""
    for path in sorted(folder.rglob("*.dcm")):
        d = pydicom.dcmread(path)
        d.PatientName, d.PatientID, d.PatientBirthDate = NAME, ID, BORN
        d.StudyDescription = d.SeriesDescription = d.ImageComments = f"Xu Li {ID}"
        d.StationName, d.AccessionNumber, d.BodyPartExamined = "XU", ID, "LI"
        d.ReferringPhysicianName = d.InstitutionName = d.OtherPatientNames = d.StudyID = NAME
        if d.Modality == "RTPLAN":
            d.RTPlanDescription, d.BeamSequence[0].BeamName = NAME, ID
            d.PatientSetupSequence = [pydicom.Dataset(), pydicom.Dataset()]
            for setup, position in zip(d.PatientSetupSequence, ("HFS", NAME), strict=True):
                setup.PatientPosition = position
        d.save_as(path.parent / f"Xu_Li_{ID}_{path.name}")
        path.unlink()


def _said(file: Path) -> Iterator[str]:
    """Everything that a file says in words: its text, a database's rows, an archive's names, a picture's remarks."""
    yield file.name.replace("_", " ")
    content = file.read_bytes()
    if file.suffix == ".png":
        yield from _remarks(content)
    elif file.suffix == ".npz":
        with np.load(file) as held:
            yield from (f"{name} {held[name] if held[name].dtype.kind in 'USO' else ''}" for name in held.files)
    elif content.startswith(b"SQLite"):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            yield from db.iterdump()
        assert ID.encode() not in content, "in a page that the database has given up"
    else:
        for picture in _DATA.findall(content):
            yield from _remarks(base64.b64decode(picture))
        yield _DATA.sub(b"", content).decode("utf-8").replace("_", " ")


def _remarks(png: bytes) -> Iterator[str]:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        yield str(picture.info)


def _search(folder: Path) -> set[str]:
    """Kinds of file that were searched; the test fails at the first word about the patient."""
    kinds = set()
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".dcm" and "private" not in file.relative_to(folder).parts:
            kinds.add(file.suffix)
            for text in _said(file):
                found = WORDS.search(text)
                assert not found, (file.relative_to(folder), text[max(0, found.start() - 80) : found.end() + 80])
    return kinds


@pytest.fixture
def _in_this_process(monkeypatch):
    def one_after_the_other(client, queues, limit, function, started, *clock):
        for queue in queues:
            for request in queue:
                started(request.case)
                yield run_case(request, function)

    monkeypatch.setattr(night, "cluster", lambda *settings: nullcontext())
    monkeypatch.setattr(night, "run_all", one_after_the_other)


@pytest.mark.usefixtures("_in_this_process")
def test_a_night_of_real_cases_says_nowhere_who_the_patient_is(tmp_path):
    inbox, out = tmp_path / "in" / f"Xu_Li_{ID}", tmp_path / "out"
    write_pair(inbox)
    write_ct(inbox / "ct", phantom(), tag="another")
    broken = write_ct(inbox / "broken", phantom((6, 16, 16)), lambda k, d: setattr(d, "RescaleType", "XU LI"), tag="broken")
    _christened(inbox)
    next(broken.iterdir()).with_name(f"Xu_Li_{ID}.dcm").write_bytes(b"DICM")
    record = run_night(tmp_path / "in", out, QUIET)
    assert sorted(c.state for c in record.cases) == ["refused", "review", "review"], [c.reasons for c in record.cases]
    assert _search(out) >= {".json", ".html", ".txt", ".png", ".npz", ".sqlite", ".svg"}
    assert ID in "".join(path.read_text(encoding="utf-8") for path in (out / "private").glob("*.json"))
    (course,) = out.glob("courses/*/course.json")
    (case,) = (c for c in record.cases if c.course)
    assert json.loads(course.read_text(encoding="utf-8"))["patient"] == case.label.patient != ""
    assert f"Patient {case.label.patient}" in (out / case.folder / "report.html").read_text(encoding="utf-8")


def test_one_case_at_a_time_says_no_more(tmp_path, capsys):
    write_ct(tmp_path / "in", phantom())
    _christened(tmp_path / "in")
    app(["contour", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"], standalone_mode=False)
    assert _search(tmp_path) == {".json", ".html", ".txt", ".png"}
    assert not WORDS.search(capsys.readouterr().out)
    image = CaseResult.model_validate_json((tmp_path / "out" / "result.json").read_text(encoding="utf-8")).image
    assert image is not None
    assert (image.patient, image.patient_hash) == (patient_key(ID)[:8], patient_key(ID))


def test_a_result_of_an_earlier_version_finds_its_patient_and_is_not_told_on_with_the_id(tmp_path):
    said = json.loads(fraction_result("20260101-0000000001", 1, patient=ID).model_dump_json())
    for image in (said["image"], said["plan"]["image"]):
        del image["patient"], image["patient_hash"]
        image["patient_id"] = ID
    folder = write_case(tmp_path / "c", fraction_result("20260101-0000000001", 1))
    (folder / "result.json").write_text(json.dumps(said | {"schema": "1.0"}))
    read = read_fraction(folder)
    assert read.image.patient_hash == patient_key(ID)
    assert not WORDS.search(read.model_dump_json())
