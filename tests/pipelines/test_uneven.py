"""A planning CT with uneven slices, or of a tilted gantry, through the commands: drawn on its own slices and importable."""

import json

import numpy as np
import pytest
from pydicom.uid import generate_uid

from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure, StructureSet
from patient.volume import Field, Level, Volume
from patient.write.rtstruct import write_structure_set
from tests.commands import recontour
from tests.making import write_ct

PLACES = np.cumsum([0.0, *[3.0] * 15, *[6.0] * 8])
SHAPE = (len(PLACES), 64, 80)


def scan(folder, slope, tag="t", moved=0.0):
    """A body with a bright ellipsoid in it, sampled where the slices lie."""

    def change(k, d):
        d.ImagePositionPatient = [-60.0, -48.0 + slope * PLACES[k], PLACES[k]]
        rows, columns = np.meshgrid(np.arange(64) * 1.5 - 48 + slope * PLACES[k], np.arange(80) * 1.5 - 60, indexing="ij")
        body = (columns / 50) ** 2 + ((rows - slope * PLACES[k]) / 38) ** 2 < 1
        core = ((columns - 12 - moved) / 14) ** 2 + (rows / 14) ** 2 + ((PLACES[k] - 45) / 25) ** 2 < 1
        hu = np.where(body, np.where(core, 600, 40), -1000)
        d.PixelData = (hu + 1024).astype("<u2").tobytes()
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[tag, "uneven", str(k)])

    return write_ct(folder, np.zeros(SHAPE, np.int16), change, tag=tag)


def core(image):
    grid = image.geometry
    points = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    away = np.linalg.norm((points - (12, 0, 45)) / (14, 14, 25), axis=-1)
    return Structure(
        "Core", interpreted_type="CTV", field=Field(Volume(((away - 1) * 14).astype(np.float32), grid), Level.DISTANCE)
    )


GROWN_CC = 52.56
"""The ellipsoid of 14, 14 and 25 mm with 6 mm around it: volume, area, mean curvature and ball of Steiner's formula."""


@pytest.mark.parametrize("slope", [0.0, 0.25], ids=["uneven", "uneven and tilted"])
def test_a_planning_ct_is_contoured_on_its_own_slices(tmp_path, slope):
    ct = scan(tmp_path / "ct", slope)
    image = open_folder(ct)
    write_structure_set(tmp_path / "rs.dcm", StructureSet((core(image),)), image, version="0")
    template = tmp_path / "t.toml"
    template.write_text(
        'description = "t"\n[structures.External]\nengine = "anatomy"\n'
        '[structures.Core]\nengine = "existing"\ncolor = [9, 9, 9]\n'
        '[structures.PTV]\nrecipe = "Core + 6 mm"\ncolor = [9, 99, 9]\n'
    )
    call = ("contour", ct, "-o", tmp_path / "out", "--template", template)
    made = recontour(*call, "--existing", tmp_path / "rs.dcm", "--json")
    assert made.returncode in (0, 3), made.stderr
    result = json.loads(made.stdout)
    assert any("resampled to 3.00 mm" in note for note in result["image"]["notes"])
    found = {s["name"]: s for s in result["structures"]}
    assert found["PTV"]["volume_cc"] == pytest.approx(GROWN_CC, rel=0.06)  # its end contour stands for 3 mm beyond it

    assert found["External"]["volume_cc"] == pytest.approx(np.pi * 50 * 38 * (PLACES[-1] + 3) / 1000, rel=0.06)
    assert found["External"]["planes"] == len(PLACES)
    own = {i.sop_instance_uid: i.position[2] for i in image.instances}
    written = read_structure_set(tmp_path / "out" / "rtstruct.dcm")
    for structure in written.structures:
        assert structure.drawn
        for loop in structure.drawn:
            assert np.abs(loop.points[:, 2] - own[loop.image_uid]).max() < 1e-3
    kept, before = written["Core"], read_structure_set(tmp_path / "rs.dcm")["Core"]
    assert [loop.digits for loop in kept.drawn] == [loop.digits for loop in before.drawn]
    checked = recontour("check", tmp_path / "out" / "rtstruct.dcm", "--ct", ct)
    assert checked.returncode in (0, 3), checked.stderr
    deep = recontour("check", tmp_path / "out" / "rtstruct.dcm", "--ct", ct, "--deep")
    assert deep.returncode == 2
    assert "no second opinion" in deep.stderr
