import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from contour.small_contours import area
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from tests.commands import recontour
from tests.making import phantom, write_ct

TEMPLATE = """
description = "The larger of two bones"
structures.External = { engine = "anatomy" }
structures.Bones = { engine = "anatomy", required = true, volume_cc = [0.1, 50], clean = { CLEAN } }
structures.Bones_PRV = { recipe = "Bones + 3 mm", color = [1, 2, 3] }
"""


def _two_bones():
    hu = phantom((20, 80, 80))
    hu[:, 38:48, 52:60] = 900
    return hu


@pytest.fixture
def ct(tmp_path):
    return write_ct(tmp_path / "ct", _two_bones())


def _contoured(image, out, clean, *how):
    template = out.with_suffix(".toml")
    template.write_text(TEMPLATE.replace("CLEAN", clean))
    done = recontour("contour", image, "-o", out, "--template", template, "--json", *how)
    assert done.returncode in (0, 3), done.stderr
    result = json.loads(done.stdout)
    return result, {s["name"]: s for s in result["structures"]}


def test_what_a_template_cleans_is_clean_in_the_file_and_in_what_is_derived_from_it_and_flagged(ct, tmp_path):
    _, as_found = _contoured(ct, tmp_path / "as-found", "")
    result, cleaned = _contoured(ct, tmp_path / "cleaned", "keep_largest = 1")
    assert 0 < cleaned["Bones"]["volume_cc"] < 0.95 * as_found["Bones"]["volume_cc"]
    assert cleaned["Bones_PRV"]["volume_cc"] < 0.95 * as_found["Bones_PRV"]["volume_cc"]
    assert [flag["code"] for flag in cleaned["Bones"]["flags"] if flag["code"] == "cleaned"] == ["cleaned"]
    assert any(reason.startswith("Bones: postprocessing removed") for reason in result["reasons"])
    grid = open_folder(ct).geometry
    mask = read_structure_set(tmp_path / "cleaned" / "rtstruct.dcm")["Bones"].mask(grid)
    assert mask.array.sum() * grid.voxel_cc == pytest.approx(cleaned["Bones"]["volume_cc"], rel=0.03)


def test_what_a_clean_up_leaves_nothing_of_is_not_in_the_image_and_asked_for_where_it_is_required(ct, tmp_path):
    result, structures = _contoured(ct, tmp_path / "out", "drop_below_cc = 1000")
    assert structures["Bones"]["state"] == structures["Bones_PRV"]["state"] == "not_in_image"
    assert (
        "Bones is required and not there (not in the field of view): nothing is left of it after the postprocessing"
        in result["reasons"][0]
    )


def test_what_a_person_drew_is_never_cleaned(ct, tmp_path):
    _contoured(ct, tmp_path / "first", "")
    drawn = pydicom.dcmread(tmp_path / "first" / "rtstruct.dcm")
    _, structures = _contoured(
        ct, tmp_path / "second", "drop_below_cc = 1000", "--existing", tmp_path / "first" / "rtstruct.dcm"
    )
    assert structures["Bones"]["state"] == "kept"
    again = pydicom.dcmread(tmp_path / "second" / "rtstruct.dcm")
    assert again.ROIContourSequence[1].ContourSequence == drawn.ROIContourSequence[1].ContourSequence


def test_labels_of_an_image_without_identity_are_cleaned_too(tmp_path):
    image = sitk.GetImageFromArray(_two_bones())
    image.SetSpacing((1.5, 1.5, 2.5))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    volumes = []
    for name, how in (("a", ""), ("b", "keep_largest = 1"), ("c", "drop_below_cc = 1000")):
        _, structures = _contoured(tmp_path / "ct.nii.gz", tmp_path / name, how)
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "labels.nii.gz")))
        numbers = json.loads((tmp_path / name / "labels.json").read_text(encoding="utf-8"))
        volumes.append(int(np.isin(labels, [numbers.get(n, -1) for n in ("Bones", "Bones_PRV")]).sum()))
        assert structures["Bones_PRV"]["state"] == ("not_in_image" if name == "c" else "contoured")
    assert volumes[0] > volumes[1] > volumes[2] == 0


def test_contours_below_a_templates_least_area_are_not_in_the_file_and_the_page_says_so(ct, tmp_path):
    _contoured(ct, tmp_path / "as-found", "")
    areas = sorted(area(loop) for loop in read_structure_set(tmp_path / "as-found" / "rtstruct.dcm")["Bones"].loops)
    least = (areas[0] + areas[-1]) / 2
    result, structures = _contoured(ct, tmp_path / "out", f" }}, least_area_mm2 = {least:.3f}, confidence = {{")
    written = read_structure_set(tmp_path / "out" / "rtstruct.dcm")["Bones"].loops
    assert sorted(map(area, written)) == pytest.approx([a for a in areas if a >= least])
    assert structures["Bones"]["loops"] == len(written) < len(areas)
    assert any(f"of {len(areas)} contours smaller than" in reason for reason in result["reasons"])
