import json
import re

import pydicom

from contour.template import load_template
from patient.read.images import open_folder
from pipelines.planning.case import CaseRequest, contour_case
from tests.making import phantom, write_ct

TEMPLATE = """
description = "Neither by engine nor by kind"
structures.Lung_L = { engine = "anatomy" }
structures.External = { engine = "anatomy" }
structures.Skin = { recipe = "External - (External - 5 mm)" }
structures.Heart = { engine = "any" }
structures.Bones = { engine = "anatomy" }
"""


def _contoured(ct, folder, template, existing=""):
    folder.mkdir()
    uid = open_folder(ct).series_uid
    files = tuple(str(path) for path in ct.iterdir())
    contour_case(CaseRequest("c", files, uid, str(folder), template=str(template), existing=str(existing)))
    page = (folder / "report.html").read_text(encoding="utf-8")
    return (
        [s["name"] for s in json.loads((folder / "result.json").read_text(encoding="utf-8"))["structures"]],
        re.findall(r'class="swatch"[^>]*></span>([^<\s]+)', page),
        [str(roi.ROIName) for roi in pydicom.dcmread(folder / "rtstruct.dcm").StructureSetROISequence],
    )


def test_structures_stand_in_the_templates_order_everywhere_and_kept_ones_before_them(tmp_path):
    ct, template = write_ct(tmp_path / "ct", phantom()), tmp_path / "mine.toml"
    template.write_text(TEMPLATE)
    order = [wanted.name for wanted in load_template(str(template)).structures]
    result, page, file = _contoured(ct, tmp_path / "first", template)
    assert result == page == order
    assert file == ["External", "Skin", "Bones"]
    clinic = pydicom.dcmread(tmp_path / "first" / "rtstruct.dcm")
    for n, name in ((0, "Zone"), (1, "Skin"), (2, "Area")):
        clinic.StructureSetROISequence[n].ROIName = name
    clinic.RTROIObservationsSequence[0].RTROIInterpretedType = "ORGAN"
    clinic.save_as(tmp_path / "clinic.dcm")
    result, page, file = _contoured(ct, tmp_path / "second", template, tmp_path / "clinic.dcm")
    assert result == page == ["Zone", "Skin", "Area", "Lung_L", "External", "Heart", "Bones"]
    assert file == ["Zone", "Skin", "Area", "External", "Bones"]
