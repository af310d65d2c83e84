import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import recontour
from tests.making import phantom, write_ct

COMMANDS = ("contour", "register", "nightly", "status", "check", "evaluate", "commission", "train", "sample")


def _process(*arguments, **how):
    """As a user starts it."""
    command = [Path(sys.executable).with_name("recontour"), *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", **how)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_guide(command):
    said = recontour(command, "--help")
    assert said.returncode == 0
    assert f"recontour {command}" in said.stdout.split("Example:")[1]
    assert f"### {command}" in Path(__file__).parents[2].joinpath("docs/user-guide.md").read_text(encoding="utf-8")


def test_a_wrong_call_exits_with_2_and_a_sentence(tmp_path):
    for arguments in (
        ["contour", tmp_path / "nowhere", "-o", tmp_path / "o"],
        ["nonsense"],
        ["status", tmp_path],
        ["contour", write_ct(tmp_path / "one", phantom()[:1]), "-o", tmp_path / "o"],
        ["nightly", tmp_path, "-o", tmp_path / "o", "--config", tmp_path / "none.toml"],
    ):
        done = recontour(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_wrong_call_names_all_that_is_wrong_before_any_work(tmp_path):
    done = recontour("evaluate", tmp_path / "made", tmp_path / "clinic", "-o", tmp_path / "o", "--limits", "hed_neck")
    assert done.returncode == 2
    assert "PREDICTED: no such file or folder" in done.stderr
    assert "REFERENCE: no such file or folder" in done.stderr
    assert "did you mean 'head_neck'?" in done.stderr


def test_an_unknown_profile_is_refused_before_any_work(tmp_path, ct_folder):
    for call in (
        ("contour", ct_folder, "-o", tmp_path / "o", "--profile", "aria"),
        ("adapt", ct_folder, ct_folder, "-o", tmp_path / "o", "--profile", "aria"),
        ("check", ct_folder / "0.dcm", "--profile", "aria"),
    ):
        done = recontour(*call)
        assert done.returncode == 2
        assert "No profile 'aria'" in done.stderr
        assert "reading" not in done.stderr


def test_a_plan_and_a_fraction_that_were_exchanged_are_told(tmp_path, ct_folder):
    recontour("contour", ct_folder, "-o", tmp_path / "made")
    fraction = write_ct(tmp_path / "fraction", phantom(), tag="fraction")
    plan = tmp_path / "plan"
    plan.mkdir()
    for path in (*ct_folder.iterdir(), tmp_path / "made" / "rtstruct.dcm"):
        (plan / path.name).write_bytes(path.read_bytes())
    done = recontour("adapt", fraction, plan, "-o", tmp_path / "o")
    assert done.returncode == 2, done.stderr
    assert "exchanged" in " ".join(done.stderr.split())


def test_the_version_is_said():
    done = recontour("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("recontour 0.")


def test_an_image_of_air_is_refused_before_anything_is_looked_for(tmp_path):
    air = np.full((12, 40, 48), -1000, dtype=np.int16)
    air[:, :2] = -900
    done = recontour("contour", write_ct(tmp_path / "air", air), "-o", tmp_path / "o")
    assert done.returncode == 2
    assert "nothing in the image is" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_night_keeps_its_own_files_in_its_outbox(tmp_path, ct_folder):
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    done = _process(
        "nightly", ct_folder, "-o", tmp_path / "out", "--settle-minutes", "0", env={**os.environ, "TMPDIR": str(elsewhere)}
    )
    assert done.returncode == 3, done.stderr
    assert list(elsewhere.iterdir()) == []
    assert list((tmp_path / "out" / ".work").iterdir()) == []


def test_one_patient_is_contoured_with_json_on_stdout_and_nothing_else(tmp_path, ct_folder):
    done = _process("contour", ct_folder, "-o", tmp_path / "out", "--json")
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "review"
    assert {"rtstruct.dcm", "report.html", "result.json", "log.txt"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert recontour("contour", ct_folder, "-o", tmp_path / "out").returncode == 2
    checked = recontour("check", tmp_path / "out" / "rtstruct.dcm", "--ct", ct_folder, "--json")
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout)[0]["errors"] == []


def test_a_clinics_structures_are_kept_and_no_second_external_is_made(tmp_path, ct_folder):
    import pydicom

    recontour("contour", ct_folder, "-o", tmp_path / "first")
    d = pydicom.dcmread(tmp_path / "first" / "rtstruct.dcm")
    d.StructureSetROISequence[0].ROIName = "Patient outline"
    d.save_as(tmp_path / "clinic.dcm")
    done = recontour("contour", ct_folder, "-o", tmp_path / "second", "--existing", tmp_path / "clinic.dcm")
    assert done.returncode in (0, 3), done.stderr
    again = pydicom.dcmread(tmp_path / "second" / "rtstruct.dcm")
    assert [o.RTROIInterpretedType for o in again.RTROIObservationsSequence].count("EXTERNAL") == 1
    names = [r.ROIName.casefold() for r in again.StructureSetROISequence]
    assert len(set(names)) == len(names)
    assert names[0] == "patient outline"
    assert again.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == d.SOPInstanceUID


def test_a_structure_set_of_another_frame_is_refused(tmp_path, ct_folder):
    other = write_ct(tmp_path / "other", phantom(), tag="other")
    recontour("contour", other, "-o", tmp_path / "made")
    done = recontour("contour", ct_folder, "-o", tmp_path / "out", "--existing", tmp_path / "made" / "rtstruct.dcm")
    assert done.returncode == 2
    assert "frame of reference" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_image_without_identity_gives_labels(tmp_path):
    import numpy as np
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(phantom((20, 60, 64)))
    image.SetSpacing((3, 3, 3))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    done = recontour("contour", tmp_path / "ct.nii.gz", "-o", tmp_path / "out", "--json")
    assert done.returncode in (0, 3), done.stderr
    labels = sitk.ReadImage(str(tmp_path / "out" / "labels.nii.gz"))
    assert labels.GetSize() == image.GetSize()
    numbers = json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8"))
    assert (sitk.GetArrayFromImage(labels) == numbers["Skin"]).any()
    assert np.allclose(labels.GetSpacing(), image.GetSpacing())
    assert not (tmp_path / "out" / "rtstruct.dcm").exists()
