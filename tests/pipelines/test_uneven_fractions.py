"""Images of unevenly spaced slices, or of several phases, where two images meet, and in a night."""

import json

import numpy as np
import pydicom
import pytest

from patient.read.images import open_folder
from pipelines.configuration import Configuration
from pipelines.night import run_night
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
