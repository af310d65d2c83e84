import json

import pydicom
import pytest

from data_samples.patient import write_sample
from patient.read.images import open_folder
from tests.commands import recontour
from tests.making import phantom, write_ct

pytest.importorskip("rt_utils", reason="RT-UTILS IS NOT INSTALLED")

CHEST = """
description = "A chest, without a network"
structures.External = { engine = "anatomy" }
structures.Lung_L = { engine = "anatomy" }
structures.Lung_R = { engine = "anatomy" }
structures.Skin = { recipe = "External - (External - 5 mm)" }
"""


def _deep(rtstruct, ct):
    done = recontour("check", rtstruct, "--ct", ct, "--deep", "--json")
    return done.returncode, json.loads(done.stdout)[0]


@pytest.fixture(scope="module")
def contoured(tmp_path_factory):
    """The sample patient's chest, and the structure set that was made of it."""
    folder = tmp_path_factory.mktemp("chest")
    write_sample(folder / "ct", slices=30, size=96)
    (folder / "chest.toml").write_text(CHEST)
    done = recontour("contour", folder / "ct", "-o", folder / "out", "--template", folder / "chest.toml")
    assert done.returncode in (0, 3)
    return folder / "ct", folder / "out" / "rtstruct.dcm"


def _spoilt(path, to, change):
    dataset = pydicom.dcmread(path)
    numbers = {item.ROIName: item.ROINumber for item in dataset.StructureSetROISequence}
    lung = next(item for item in dataset.ROIContourSequence if item.ReferencedROINumber == numbers["Lung_L"])
    for contour in lung.ContourSequence:
        change(contour)
    dataset.save_as(to)
    return to


def _moved_to_the_head(contour, mm):
    points = [float(v) for v in contour.ContourData]
    contour.ContourData = [f"{v + mm * (n % 3 == 2):.3f}" for n, v in enumerate(points)]


def test_another_reader_has_the_same_masks_of_what_we_write(contoured):
    ct, rtstruct = contoured
    code, said = _deep(rtstruct, ct)
    assert (code, said["errors"], said["warnings"]) == (0, [], [])
    assert {"External", "Lung_L", "Lung_R", "Skin"} <= set(said["rt_utils_dice"])
    assert said["rt_utils_dice"]["External"] > 0.97


def test_contours_moved_by_a_plane_are_read_otherwise_by_readers_that_follow_references(contoured, tmp_path):
    ct, rtstruct = contoured
    plane = open_folder(ct).geometry.spacing[0]
    code, said = _deep(_spoilt(rtstruct, tmp_path / "moved.dcm", lambda c: _moved_to_the_head(c, plane)), ct)
    assert code == 4
    assert ("reference", "Lung_L") in [(e["code"], e["where"]) for e in said["errors"]]
    assert [(w["code"], w["where"]) for w in said["warnings"]] == [("second_opinion", "Lung_L")]
    assert "voxels otherwise" in said["warnings"][0]["what"]


@pytest.mark.parametrize("mm", [1.0, 400.0])
def test_contours_moved_off_their_planes_are_told_and_the_other_structures_still_compared(contoured, tmp_path, mm):
    ct, rtstruct = contoured
    code, said = _deep(_spoilt(rtstruct, tmp_path / "moved.dcm", lambda c: _moved_to_the_head(c, mm)), ct)
    assert code == 4
    assert [(e["code"], e["where"]) for e in said["errors"]] == [("off_plane", "Lung_L")]
    assert said["rt_utils_dice"]["Lung_R"] > 0.9


def test_a_structure_that_the_other_reader_cannot_read_is_told(contoured, tmp_path):
    ct, rtstruct = contoured
    code, said = _deep(_spoilt(rtstruct, tmp_path / "bare.dcm", lambda c: c.__delattr__("ContourImageSequence")), ct)
    assert (code, said["errors"]) == (3, [])
    assert [w["what"] for w in said["warnings"]] == ["rt-utils cannot read it: AttributeError"]


def test_pictures_that_are_not_square_get_no_second_opinion_and_a_sentence(tmp_path):
    ct = write_ct(tmp_path / "ct", phantom())
    recontour("contour", ct, "-o", tmp_path / "out")
    done = recontour("check", tmp_path / "out" / "rtstruct.dcm", "--ct", ct, "--deep")
    assert done.returncode == 2
    assert "40 x 48 pixels" in done.stderr
    assert "Traceback" not in done.stderr
