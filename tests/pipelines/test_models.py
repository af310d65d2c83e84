"""`recontour models`, and the store's models where a template asks for them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from contour.engine import Finding, Offer
from patient.errors import InputError
from patient.geometry import Box
from patient.read.scan import scan
from patient.volume import Field, Volume
from pipelines.app import app, main
from pipelines.planning.case import CaseRequest, contour_case
from pipelines.planning.engines import installed_engines
from tests import models
from tests.making import phantom, write_ct


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RECONTOUR_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def _run(*arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recontour", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_a_model_is_added_listed_and_verified(tmp_path, monkeypatch, capsys):
    source = models.torchscript(tmp_path / "made")
    assert _run("models", "add", source, monkeypatch=monkeypatch) == 0
    assert "Added dense 3" in capsys.readouterr().err
    assert _run("models", "list", "--json", monkeypatch=monkeypatch) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["card"]["name"], listed["card"]["structures"]) == ("dense", ["Bones"])
    assert _run("models", "list", monkeypatch=monkeypatch) == 0
    assert "CC-BY-4.0" in capsys.readouterr().err
    assert _run("models", "verify", "dense", monkeypatch=monkeypatch) == 0


def test_a_refused_model_exits_with_2_and_a_sentence(tmp_path, monkeypatch, capsys):
    assert _run("models", "add", tmp_path / "nowhere", monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    assert "No such file or folder" in said
    assert "Traceback" not in said
    assert _run("models", "add", models.monai_bundle(tmp_path / "bundle"), monkeypatch=monkeypatch) == 2
    assert "--licence" in capsys.readouterr().err
    assert _run("models", "verify", "nothing", monkeypatch=monkeypatch) == 2


def test_a_changed_model_is_named_and_verify_exits_with_2(tmp_path, store, monkeypatch, capsys):
    _run("models", "add", models.torchscript(tmp_path / "made"), monkeypatch=monkeypatch)
    (store / "dense" / "files" / "about.toml").write_text("")
    capsys.readouterr()
    assert _run("models", "verify", "--json", monkeypatch=monkeypatch) == 2
    (check,) = json.loads(capsys.readouterr().out)
    assert check["name"] == "dense"
    assert "about.toml was changed" in check["problems"][0]


def test_every_command_has_help_with_an_example_and_stands_in_the_guide():
    guide = (Path(__file__).parents[2] / "docs" / "user-guide.md").read_text(encoding="utf-8")
    for command in ("list", "add", "verify"):
        said = CliRunner().invoke(app, ["models", command, "--help"])
        assert said.exit_code == 0
        assert f"recontour models {command}" in said.stdout.split("Example:")[1]
    assert "### models" in guide


TEMPLATE = """
description = "Bones by a network"
[structures.External]
engine = "anatomy"
[structures.Bones]
engine = "dense"
required = true
"""


def _contoured(tmp_path, text):
    """A case of a phantom by a template."""
    image = write_ct(tmp_path / "ct", phantom((24, 60, 72)))
    template, out = tmp_path / "bones.toml", tmp_path / "out"
    template.write_text(text)
    out.mkdir()
    (entry,) = scan(image).of("CT")
    files = tuple(str(path) for path in entry.paths)
    result = contour_case(CaseRequest(case="c", files=files, series_uid=entry.uid, folder=str(out), template=str(template)))
    return result, next(s for s in result.structures if s.name == "Bones")


def test_a_template_asks_a_stored_model_by_its_name(tmp_path, monkeypatch):
    _run("models", "add", models.torchscript(tmp_path / "made"), monkeypatch=monkeypatch)
    result, bones = _contoured(tmp_path, TEMPLATE)
    assert bones.state == "contoured"
    assert bones.engine.startswith("dense 3+")
    assert result.provenance is not None
    assert result.provenance.engines["dense"].startswith("3+")


def test_a_template_that_asks_for_confidence_has_a_person_look_at_what_gives_none(tmp_path, monkeypatch):
    _run("models", "add", models.torchscript(tmp_path / "made"), monkeypatch=monkeypatch)
    result, bones = _contoured(tmp_path, TEMPLATE.replace("required = true", "confidence = { withhold_below = 0.5 }"))
    assert bones.state == "contoured"
    assert "low_confidence" in [flag.code for flag in bones.flags]
    assert any("does not say how sure it is" in reason for reason in result.reasons)


class Doubtful:
    """An engine that draws a block and hardly believes it."""

    name, version = "doubtful", "1"

    def offers(self):
        return {"Bones": Offer("a block")}

    def contour(self, image, wanted, context):
        box = Box((4, 20, 20), (16, 40, 40))
        block = np.zeros(box.shape, np.float32)
        block[1:-1, 1:-1, 1:-1] = 1
        yield Finding("Bones", Field(Volume(block, image.geometry.cropped(box))), 0.2)


def test_what_its_engine_is_not_sure_enough_of_is_withheld_and_a_person_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.planning.case.installed_engines", lambda: {**installed_engines(), "doubtful": Doubtful()})
    text = TEMPLATE.replace('"dense"', '"doubtful"').replace("required = true", "confidence = { withhold_below = 0.5 }")
    result, bones = _contoured(tmp_path, text)
    assert bones.state == "not_confident"
    assert bones.reason == "predicted Dice 0.20; the template withholds what is below 0.50"
    assert f"Bones is not there (model not confident): {bones.reason}" in result.reasons
    assert "Bones" not in {str(roi.ROIName) for roi in dcmread(tmp_path / "out" / "rtstruct.dcm").StructureSetROISequence}


def test_a_model_with_the_name_of_an_engine_is_refused(tmp_path, monkeypatch):
    _run("models", "add", models.torchscript(tmp_path / "made"), "--name", "anatomy", monkeypatch=monkeypatch)
    with pytest.raises(InputError, match="name of an installed engine"):
        installed_engines()
