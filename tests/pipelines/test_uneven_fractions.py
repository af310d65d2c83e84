"""Images of unevenly spaced slices, or of several phases, where two images meet, and in a night."""

import json

import numpy as np
import pydicom
import pytest

from patient.conformance.check import check_file
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from pipelines.configuration import Configuration
from pipelines.fraction.case import adapt_case
from pipelines.fraction.inputs import FractionRequest
from pipelines.night.run import run_night
from tests.commands import recontour
from tests.patient.test_phases import phases
from tests.pipelines.fractions import SHIFT, write_pair

QUIET = Configuration(settle_minutes=0, workers=1, memory_limit_mib=900)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A plan, and a fraction whose lower half has every second slice only: 6 mm there, 3 mm above."""
    plan, fraction = write_pair(tmp_path_factory.mktemp("uneven"))
    found = sorted(
        (float(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]), p) for p in fraction.rglob("*.dcm")
    )
    kept = 0
    for n, (_, path) in enumerate(found):
        if n < len(found) // 2 and n % 2:
            path.unlink()
            continue
        kept += 1
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = kept
        dataset.save_as(path)
    return plan, fraction


def test_a_fraction_of_unevenly_spaced_slices_is_registered_and_its_structures_lie_on_its_own_slices(pair, tmp_path):
    plan, fraction = pair
    image = open_folder(fraction)
    result = adapt_case(FractionRequest("c", str(plan), str(fraction), str(tmp_path), policy="prostate", number=1))
    planned = {s.name: s for s in read_structure_set(plan / "rtstruct.dcm").structures}
    today = read_structure_set(tmp_path / "rtstruct.dcm")
    assert {s.name for s in today.structures} == set(planned)
    own = {one.sop_instance_uid: one.position[2] for one in image.instances}
    for structure in today.structures:
        for loop in structure.drawn or ():
            assert loop.points[0, 2] == pytest.approx(own[loop.image_uid], abs=0.01)
        on = sorted({round(float(loop.points[0, 2]), 2) for loop in structure.drawn})
        between = [z for z in own.values() if on[0] <= z <= on[-1] + 0.01]
        assert len(on) == len(between)  # none left out
    middle = [np.concatenate([loop.points for loop in s.drawn]) for s in (planned["CTV"], today["CTV"])]
    centres = [(p.min(axis=0) + p.max(axis=0)) / 2 for p in middle]
    assert (np.abs(centres[1] - centres[0] - SHIFT) < (1.5, 1.5, 4.0)).all()  # its slices are 3 and 6 mm apart
    whole = planned["CTV"].mask(open_folder(plan / "CT").geometry)
    ctv = next(s for s in result.structures if s.name == "CTV")
    assert ctv.drawn_cc == pytest.approx(float(whole.array.sum()) * whole.geometry.voxel_cc, rel=0.08)
    assert check_file(tmp_path / "rtstruct.dcm", image=image).errors == ()
    assert result.registration.trusted, result.registration.reasons
    assert result.dose.trusted
    assert any("resampled to 3.00 mm" in note for note in result.notes)


def test_unevenly_spaced_slices_are_registered_rigidly_where_they_lie(pair, tmp_path):
    plan, fraction = pair
    assert open_folder(fraction).geometry.slices is not None
    done = recontour("register", fraction, plan / "CT", "-o", tmp_path / "out", "--rigid", "--json")
    assert done.returncode in (0, 3), done.stderr
    matrix = np.array(json.loads(done.stdout)["matrix_moving_from_fixed"])
    np.testing.assert_allclose(matrix[:3, 3], -SHIFT, atol=1.0)


def test_a_night_refuses_a_series_of_several_phases_and_names_the_choice(tmp_path):
    phases(tmp_path / "in")
    record = run_night(tmp_path / "in", tmp_path / "out", QUIET)
    assert [case.state for case in record.cases] == ["refused"]
    said = " ".join(record.cases[0].reasons)
    assert "3 images of one region" in said
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "3 images of one region" in page
