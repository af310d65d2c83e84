"""A planning system's own DVH table of a real plan."""

import pytest

from adaptive.dose.dvh import dvh
from benchmarks.dvh import CASE, eclipse, of
from patient.read.rtdose import read_dose
from patient.read.rtstruct import read_structure_set


@pytest.mark.parametrize("name", ["Bladder", "Femoral Head Lt", "Femoral Head RT", "PTV", "Rectum", "BODY"])
def test_every_structure_has_the_dvh_that_the_planning_system_gave_it(real_data, name):
    structures = read_structure_set(CASE / "RS.dcm")
    volume, reference = eclipse()[name.replace(" ", "").lower()]
    found = dvh(structures[name], read_dose(CASE / "RD.dcm"), frame_of_reference=structures.frame_of_reference)
    figures = of(found, reference)
    assert figures["within_1_percent"] >= 0.99
    assert max(map(abs, figures["off_gy"].values())) < 0.3
    assert found.covered_cc == pytest.approx(volume, rel=0.015)
