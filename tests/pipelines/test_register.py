import json
import shutil
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from patient.errors import InputError, MixedSeries
from patient.geometry import Geometry
from patient.read.images import open_folder
from patient.volume import Volume
from pipelines.fraction.registration_case import Kind, open_either, register_case
from registration.dicom_read import read_deformable, rigid_between
from registration.resampling import resampled
from registration.transforms import Rigid, Space
from tests.commands import recontour
from tests.making import write_ct
from tests.pipelines.fractions import changed

GRID = Geometry((36, 72, 72), (3.0, 3.0, 3.0), origin=(-106.5, -106.5, -50.0), image="fixed", frame_of_reference="1.2.3")
SHIFT = np.array([6.0, -4.0, 5.0])
HALF_A_VOXEL = 1.5


def _run(*arguments):
    return recontour("register", *arguments)


def _patient(seed=0):
    """A body with texture enough to tell its places apart."""
    rng = np.random.default_rng(seed)
    _, j, i = np.indices(GRID.shape)
    inside = ((j - 36) / 26) ** 2 + ((i - 36) / 30) ** 2 < 1
    texture = sum(ndimage.gaussian_filter(rng.normal(size=GRID.shape), s) * s**1.5 * a for s, a in ((1.2, 260), (3.0, 300)))
    return np.where(inside, np.clip(40 + texture, -300, 900), -1000.0).astype(np.int16)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two DICOM folders; what lies at p in the first lies at p + SHIFT in the second."""
    folder = tmp_path_factory.mktemp("pair")
    fixed = _patient()
    moved = replace(GRID, image="moving", frame_of_reference="1.2.4")
    back = Rigid.of(np.eye(3), -SHIFT, Space.of(moved), Space.of(GRID))
    moving = resampled(back, Volume(fixed, GRID), moved, -1000.0).array
    moving = np.rint(moving + np.random.default_rng(5).normal(0, 15, GRID.shape)).clip(-1024, 3000).astype(np.int16)
    paths = []
    for name, hu in (("fixed", fixed), ("moving", moving)):
        image = sitk.GetImageFromArray(hu)
        image.SetSpacing((3.0, 3.0, 3.0))
        image.SetOrigin(GRID.origin)
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        paths.append(write_ct(folder / name, hu, spacing=GRID.spacing, origin=GRID.origin, tag=name))
    return folder, *paths


@pytest.fixture(scope="module")
def points(pair):
    folder = pair[0]
    at = np.array([[0.0, 0.0, 0.0], [30.0, -20.0, 15.0], [-25.0, 25.0, -10.0]])
    path = folder / "points.txt"
    path.write_text("point\n3\n" + "\n".join(" ".join(map(str, p)) for p in at) + "\n")
    return path, at


def _written(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "point"
    found = np.array([[float(v) for v in line.split()] for line in lines[2:] if line])
    assert len(found) == int(lines[1])
    return found


@pytest.fixture(scope="module")
def registered(pair, points):
    """What the command says without a choice, and its folder."""
    folder, fixed, moving = pair
    done = _run(fixed, moving, "-o", folder / "out", "--points", points[0], "--seed", 3, "--json")
    assert done.returncode in (0, 3), done.stderr
    return done, folder / "out"


def test_without_a_choice_it_is_rigid_then_deformable_and_everything_is_written(registered, points):
    done, out = registered
    result = json.loads(done.stdout)
    wanted = {"reg.dcm", "dreg.dcm", "displacement.mha", "warped.mha", "quality.json", "report.html", "points.txt"}
    assert wanted <= {p.name for p in out.iterdir()}
    assert json.loads((out / "quality.json").read_text(encoding="utf-8")) == result
    assert np.abs(_written(out / "points.txt") - points[1] - SHIFT).max() < HALF_A_VOXEL
    assert result["quality"]["folded"] == 0
    assert (done.returncode == 0) == result["trusted"] == (not result["reasons"])


def test_the_field_and_both_objects_say_the_same_as_the_points(pair, registered, points):
    _, fixed, moving = pair
    _, out = registered
    said = _written(out / "points.txt")
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(out / "displacement.mha"), sitk.sitkVectorFloat64))
    by_field = np.array([field.TransformPoint(p) for p in points[1].tolist()])
    assert np.abs(by_field - said).max() < 0.2
    a, b = (Space.of(open_folder(folder).geometry) for folder in (fixed, moving))
    by_object = read_deformable(out / "dreg.dcm", a, b).points(points[1], a)
    assert np.abs(by_object - said).max() < 0.2
    matrix = np.array(json.loads((out / "quality.json").read_text(encoding="utf-8"))["matrix_moving_from_fixed"])
    rigid = rigid_between(out / "reg.dcm", a, b)
    assert np.abs(rigid.points(points[1], a) - (points[1] @ matrix[:3, :3].T + matrix[:3, 3])).max() < 0.01
    assert np.abs(rigid.points(points[1], a) - points[1] - SHIFT).max() < HALF_A_VOXEL
    assert pydicom.dcmread(out / "reg.dcm").Modality == "REG"


@pytest.mark.parametrize("choice", ["--rigid", "--features"])
def test_rigid_alone_from_image_files_writes_no_dicom(pair, points, tmp_path, choice):
    folder, *_ = pair
    done = _run(
        folder / "fixed.nii.gz", folder / "moving.nii.gz", "-o", tmp_path / "out", choice, "--points", points[0], "--json"
    )
    assert done.returncode in (0, 3), done.stderr
    # NIfTI counts x and y the other way; read as LPS the file is the same place.
    assert np.abs(_written(tmp_path / "out" / "points.txt") - points[1] - SHIFT).max() < HALF_A_VOXEL
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_the_same_seed_gives_the_same_points(pair, registered, points, tmp_path):
    _, fixed, moving = pair
    _, out = registered
    assert _run(fixed, moving, "-o", tmp_path / "again", "--points", points[0], "--seed", 3).returncode in (0, 3)
    assert (tmp_path / "again" / "points.txt").read_bytes() == (out / "points.txt").read_bytes()


def test_another_patient_is_not_trusted_and_still_written_down(pair, tmp_path):
    folder, *_ = pair
    other = sitk.GetImageFromArray(_patient(seed=7))
    other.CopyInformation(sitk.ReadImage(str(folder / "fixed.nii.gz")))
    sitk.WriteImage(other, str(tmp_path / "other.nii.gz"))
    done = _run(folder / "fixed.nii.gz", tmp_path / "other.nii.gz", "-o", tmp_path / "out", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["reasons"]
    assert (tmp_path / "out" / "quality.json").is_file()


def test_wrong_calls_exit_with_2_and_write_nothing(pair, tmp_path):
    folder, fixed, moving = pair
    constant = sitk.GetImageFromArray(np.zeros((8, 8, 8), np.int16))
    sitk.WriteImage(constant, str(tmp_path / "constant.mha"))
    (tmp_path / "bad.txt").write_text("point\n2\n1 2 3\n")
    for arguments in (
        [fixed, tmp_path / "nowhere"],
        [fixed, moving, "--rigid", "--features"],
        [folder / "fixed.nii.gz", tmp_path / "constant.mha"],
        [folder / "fixed.nii.gz", folder / "moving.nii.gz", "--points", tmp_path / "bad.txt"],
        [folder / "fixed.nii.gz", folder / "moving.nii.gz", "--fixed-mask", tmp_path / "constant.mha"],
    ):
        done = _run(*arguments, "-o", tmp_path / "out")
        assert done.returncode == 2, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()


def test_a_folder_of_several_images_is_refused_and_names_them(tmp_path):
    for tag in ("a", "b"):
        write_ct(tmp_path / "two" / tag, np.zeros((3, 8, 8), np.int16), tag=tag)
    with pytest.raises(MixedSeries, match=r"2 CT series where one is asked for \[\w+: \S+ \(.*files\); \S+ \("):
        open_either(tmp_path / "two")
    write_ct(tmp_path / "kinds" / "ct", np.zeros((3, 8, 8), np.int16))
    write_ct(tmp_path / "kinds" / "mr", np.zeros((3, 8, 8), np.int16), lambda k, d: setattr(d, "Modality", "MR"), tag="mr")
    with pytest.raises(MixedSeries, match="2 kinds where one image is asked for: CT, MR"):
        open_either(tmp_path / "kinds")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="No CT or MR or PT found"):
        open_either(tmp_path / "none")


def test_a_registration_of_an_image_that_lacks_slices_is_to_be_looked_at(pair, tmp_path):
    _, fixed, moving = pair
    short = shutil.copytree(moving, tmp_path / "short")
    for path in short.iterdir():
        changed(path, ImagesInAcquisition=40)
    (tmp_path / "out").mkdir()
    result = register_case(open_either(fixed), open_either(short), tmp_path / "out", Kind.RIGID)
    assert not result.trusted
    assert result.reasons == ("Moving image: 36 of 40 slices are there (Images in Acquisition)",)
    assert "NOT TRUSTED" in pydicom.dcmread(tmp_path / "out" / "reg.dcm").ContentDescription
    assert result.reasons[0] in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
