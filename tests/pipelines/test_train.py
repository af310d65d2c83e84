"""`recontour train`: an archive as clinics have them becomes a model, whatever interrupts it, and says what it left out."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contour import planning
from contour.model import read_model
from contour.planning import OPEN_ENDED, PATCH_VOXELS, Fingerprint, plan
from patient.errors import Cancelled, InputError
from patient.naming import Naming
from patient.structures import Structure
from pipelines.app import app
from pipelines.evaluation.drawings import find_drawings
from pipelines.records.training import TrainingRecord
from pipelines.training.archive import split
from pipelines.training.train import TrainingRequest, prepared, train
from tests.clinic import NAMES, anatomy, archive, draw, patient

STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def tiny_networks():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "FILTERS", (2, 4, 4, 4, 4))
        yield


@pytest.fixture(scope="module")
def clinic(tmp_path_factory) -> Path:
    return archive(tmp_path_factory.mktemp("archive"), 4)


def _request(archive: Path, folder: Path, **more) -> TrainingRequest:
    made = folder / "model"
    made.mkdir(parents=True, exist_ok=True)
    return TrainingRequest(archive, folder / "work", made, "ours", **{"steps": STEPS, **more})


@pytest.fixture(scope="module")
def trained(clinic, tmp_path_factory):
    request = _request(clinic, tmp_path_factory.mktemp("trained"))
    return request, *train(request)


def test_an_archive_becomes_a_model_folder_that_is_measured_on_patients_held_back(trained):
    request, record, result = trained
    network, card = read_model(request.folder)
    assert card.structures == ("Parotid_L", "Parotid_R", "SpinalCord")
    assert not network.training
    parts = [case.part for case in record.cases]
    assert parts.count("validation") >= 1
    assert len(parts) == 4
    assert result is not None
    assert result.kind == "commission"
    assert len(result.cases) == parts.count("validation")
    assert {s.structure for s in record.structures} == set(NAMES)
    assert all(s.train + s.validation == 4 for s in record.structures)
    assert record.plan.open_ends == ("SpinalCord",)
    written = {p.name for p in request.folder.iterdir()}
    assert {
        "model.toml",
        "weights.safetensors",
        "training.json",
        "training.log",
        "evaluation.json",
        "report.html",
    } <= written
    assert TrainingRecord.model_validate_json((request.folder / "training.json").read_text(encoding="utf-8")) == record
    assert all(f"P{n}" not in (request.folder / "training.json").read_text(encoding="utf-8").split('"') for n in range(4))


def test_what_is_learnt_from_is_what_was_drawn(clinic, trained):
    _, record, _ = trained
    case = record.cases[0]
    drawing = next(d for d in find_drawings(clinic).drawings if d.case == case.case)
    made = prepared(case, drawing, record)
    drawn = drawing.open()
    names = [s.structure for s in record.structures]
    for name, written in case.names.items():
        cc = float(drawn.mask(written).array.sum()) * drawn.grid.voxel_cc
        assert float(made.mask(name, names).sum()) * np.prod(made.spacing) / 1000 == pytest.approx(cc, rel=0.05)
    left, right = (np.argwhere(made.mask(name, names))[:, 2].mean() for name in ("Parotid_L", "Parotid_R"))
    assert left > right + 10, "columns run to the patient's left"
    assert made.hu[made.mask("Parotid_L", names)].mean() == pytest.approx(180, abs=15)
    assert set(made.known) == set(NAMES)


class Killed(BaseException):
    """As a signal would end it: nothing catches it."""


def test_a_run_killed_anywhere_goes_on_to_the_same_model(clinic, trained, tmp_path):
    """In the survey, while cases are prepared, in training, and when it is measured: always by the next word of progress."""
    request = _request(clinic, tmp_path)
    for place in (0.05, 0.12, 0.3, 0.9):

        def kill(done: float, what: str, place: float = place) -> None:
            if done >= place:
                raise Killed(what)

        with pytest.raises(Killed):
            train(request, kill)
    record, _ = train(request)
    whole = trained[0]
    assert record.key == trained[1].key
    ours, theirs = (read_model(folder)[0].state_dict() for folder in (request.folder, whole.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stopped_run_keeps_its_last_step(clinic, tmp_path):
    request, stop = _request(clinic, tmp_path, steps=50), threading.Event()

    def stop_in_training(done: float, what: str) -> None:
        if what.startswith("step 2,"):
            stop.set()

    with pytest.raises(Cancelled):
        train(request, stop_in_training, stop)
    assert torch.load(request.work / "run" / "checkpoint.pt", weights_only=True)["step"] == 2


def test_a_work_folder_of_another_archive_or_schedule_is_not_gone_on_from(clinic, trained, tmp_path):
    request, _, _ = trained
    with pytest.raises(InputError, match="other settings"):
        train(_request(clinic, request.work.parent, steps=STEPS + 1))
    with pytest.raises(InputError, match="another archive"):
        train(_request(clinic, request.work.parent, structures=("Parotid_L",)))


def test_odd_archives_are_told_of_and_used_as_far_as_they_go(tmp_path):
    folder = tmp_path / "archive"
    for seed in range(3):
        patient(folder / f"p{seed}", seed)
    german = {"Parotid_L": "Parotis li", "Parotid_R": "Parotis re", "SpinalCord": "Myelon"}
    patient(folder / "p3", 3, german, without=["SpinalCord"])
    draw(folder / "p0" / "CT", anatomy(0)[1], folder / "p0" / "old.dcm", when="20200101")
    empty, odd = Structure("Brainstem", drawn=()), Structure("Hals links dorsal", drawn=())
    masks = anatomy(1)[1]
    (folder / "p1" / "RS.dcm").unlink()
    draw(folder / "p1" / "CT", masks, folder / "p1" / "RS.dcm", more=[empty, odd])
    draw(folder / "p2" / "CT", anatomy(2)[1], folder / "p2" / "same-day.dcm")
    record, _ = train(_request(folder, tmp_path))
    assert len(record.cases) == 3
    assert {(s.structure, s.train + s.validation) for s in record.structures} == {("Parotid_L", 3), ("Parotid_R", 3)}
    assert record.not_learnt == ("SpinalCord: only 2 patients have it, and 3 are needed",)
    assert [u.name for u in record.unknown] == ["Hals links dorsal"]
    assert any(line.endswith(": Brainstem") for line in record.empty)
    assert any("newest was taken" in said for said in record.left_out)
    assert any("do not say which is the newest" in said for said in record.left_out)


def test_an_archive_without_anything_to_learn_is_refused(clinic, tmp_path):
    with pytest.raises(InputError, match="No case with structures"):
        train(_request(clinic / "p0" / "CT", tmp_path))
    with pytest.raises(InputError, match="No patient of the archive has Larynx"):
        train(_request(clinic, tmp_path, structures=("Larynx",)))
    with pytest.raises(InputError, match="nothing to learn"):
        train(_request(clinic, tmp_path, naming=Naming({name.casefold(): "" for name in NAMES.values()})))


def test_the_command_makes_the_model_whole_and_removes_the_patients_images(clinic, tmp_path, capsys):
    out = tmp_path / "model"
    code = app(
        [*map(str, ["train", clinic, "-o", out, "--steps", 1, "--structures", "Parotid_L", "--json"])], standalone_mode=False
    )
    assert code in (0, 3)
    assert json.loads(capsys.readouterr().out) == json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert read_model(out)[1].structures == ("Parotid_L",)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@given(st.sets(st.text("0123456789abcdef", min_size=8, max_size=8), min_size=2, max_size=30))
def test_patients_are_held_back_by_themselves_and_at_least_one_on_either_side(patients):
    parts = split(patients)
    assert set(parts) == patients
    assert set(parts.values()) == {"train", "validation"}
    if len(patients) > 20:
        assert parts == {**parts, **{p: part for p, part in split(patients | {"ffffffff0"}).items() if p in patients}}


def test_the_only_patient_is_trained_on():
    assert split({"one"}) == {"one": "train"}


@given(
    st.tuples(st.floats(1, 5), st.floats(0.6, 2)),
    st.lists(st.tuples(*[st.floats(5, 300)] * 3), min_size=1, max_size=5),
    st.tuples(*[st.floats(100, 500)] * 3),
)
def test_a_plan_keeps_its_budget_and_never_makes_voxels_finer(spacing, extents, size):
    names = tuple(f"Organ{n}" for n in range(len(extents)))
    own = (spacing[0], spacing[1], spacing[1])
    made = plan([Fingerprint(own, size, dict(zip(names, extents, strict=True)))], names)
    shape = made.architecture
    assert np.prod(shape.patch) <= PATCH_VOXELS
    assert all(now >= before - 1e-3 for now, before in zip(shape.spacing, own, strict=True))
    assert all(low < s < high for low, s, high in zip(made.finest, shape.spacing, made.coarsest, strict=True))


def test_a_small_organ_keeps_fine_voxels_and_a_cord_has_open_ends():
    own = (2.0, 1.0, 1.0)
    lens = plan([Fingerprint(own, (300, 400, 400), {"Lens_L": (8, 8, 8)})], ["Lens_L"])
    large = plan([Fingerprint(own, (300, 400, 400), {"Liver": (180, 150, 200)})], ["Liver"])
    assert max(lens.architecture.spacing) <= 2.0
    assert min(large.architecture.spacing) > 2.0
    cord = plan([Fingerprint(own, (300, 400, 400), {"SpinalCord": (300, 20, 20)})], ["SpinalCord"])
    assert [end.structure for end in cord.open_ends] == ["SpinalCord"]
    assert "Parotid_L" not in OPEN_ENDED
    with pytest.raises(ValueError, match="No case"):
        plan([Fingerprint(own, (300, 400, 400), {})], ["Liver"])
