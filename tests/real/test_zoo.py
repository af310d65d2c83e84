"""Odd but real files: each folder is read, or refused by name. The table stands in docs/dicom.md too."""

from pathlib import Path

import pytest

from patient import errors
from patient.read.headers import read_header
from patient.read.images import open_folder
from patient.read.pixels import stored_values
from patient.read.rtstruct import read_structure_set
from patient.read.scan import scan

pytestmark = pytest.mark.real

IMAGES = {
    "jpeg2000-ct-20-slices": (20, 512, 512),
    "enhanced-ct": (2, 512, 512),
    "ct-two-slices-with-rtstruct": (2, 512, 512),
}
REFUSED = {
    "enhanced-mr": errors.UnsupportedGeometry,
    "enhanced-mr-big-endian": errors.UnsupportedGeometry,
    "enhanced-mr-rle": errors.UnsupportedGeometry,
    "enhanced-mr-jpeg-ls": errors.UnsupportedGeometry,
    "enhanced-mr-jpeg2000": errors.UnsupportedGeometry,
    "enhanced-mr-jpeg2000-cut-short": errors.UnsupportedGeometry,
    "ct-one-small-slice": errors.IncompleteSeries,
    "ct-one-slice-simpleitk": errors.IncompleteSeries,
    "ct-three-slices-turned": errors.InputError,
    "mr-cut-short": errors.IncompleteSeries,
    "mr-small-many-encodings": errors.DuplicateSlices,
    "deflated": errors.InputError,
    "jpeg-lossless": errors.InputError,
    "names-in-many-alphabets": errors.InputError,
    "not-images": errors.InputError,
    "no-preamble": errors.InputError,
    "rt-objects": errors.InputError,
    "rtstruct-without-its-ct": errors.InputError,
    "rtstruct-breast-one-empty-roi": errors.IncompleteSeries,
    "broken": errors.InputError,
}


@pytest.mark.parametrize("folder", IMAGES)
def test_an_odd_image_is_read(real_data, folder):
    image = open_folder(real_data / "dicom-zoo" / folder)
    array = image.load().array
    assert array.shape == IMAGES[folder]
    assert array.min() < array.max()


def _pixels(path):
    return stored_values(read_header(path))


def test_every_encoding_of_one_image_gives_the_same_pixels(real_data):
    zoo = real_data / "dicom-zoo"
    plain = _pixels(zoo / "enhanced-mr" / "emri_small.dcm")
    assert plain.shape == (10, 64, 64)
    for folder in ("enhanced-mr-big-endian", "enhanced-mr-rle", "enhanced-mr-jpeg-ls", "enhanced-mr-jpeg2000"):
        assert (_pixels(next((zoo / folder).iterdir())) == plain).all()
    small = _pixels(zoo / "mr-small-many-encodings" / "MR_small.dcm")
    for path in (zoo / "mr-small-many-encodings").glob("MR_small_*.dcm"):
        assert (_pixels(path) == small).all(), path.name
    assert _pixels(zoo / "jpeg-lossless" / "JPEG-LL.dcm").size


@pytest.mark.parametrize(
    "file", ["mr-cut-short/MR_truncated.dcm", "enhanced-mr-jpeg2000-cut-short/emri_small_jpeg_2k_lossless_too_short.dcm"]
)
def test_pixels_that_were_cut_short_are_told(real_data, file):
    with pytest.raises(errors.PixelDataError):
        _pixels(real_data / "dicom-zoo" / file)


@pytest.mark.parametrize("folder", REFUSED)
def test_what_makes_no_image_is_refused_by_name(real_data, folder):
    with pytest.raises(REFUSED[folder]) as caught:
        open_folder(real_data / "dicom-zoo" / folder).load()
    assert str(caught.value)


def test_every_folder_of_the_zoo_is_in_one_of_the_tables(real_data):
    folders = {p.name for p in (real_data / "dicom-zoo").iterdir() if p.is_dir()}
    assert folders == set(IMAGES) | set(REFUSED)


def test_files_without_preamble_are_found(real_data):
    found = scan(real_data / "dicom-zoo" / "no-preamble")
    assert {p.name for entry in found.series for p in entry.paths} >= {"ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm"}


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("rtstruct-breast-one-empty-roi/rtss.dcm", {"BODY", "Areola", "Heart"}),
        ("rtstruct-without-its-ct/1-1.dcm", {"LUNG_L", "Stomach_duo_planCT"}),
        ("ct-two-slices-with-rtstruct/non_existent_reference_rt.dcm", {"ROI-1"}),
        ("../dvh-prostate/RS.dcm", {"PTV", "Rectum"}),
    ],
)
def test_a_clinics_structure_set_is_read_also_without_its_image(real_data, file, names):
    structures = read_structure_set(real_data / "dicom-zoo" / file)
    assert names <= {s.name for s in structures.structures}


def test_an_empty_structure_stays(real_data):
    structures = read_structure_set(real_data / "dicom-zoo" / "rtstruct-breast-one-empty-roi" / "rtss.dcm")
    assert structures["Areola"].loops == ()
    assert len(structures.structures) == 10


def test_a_clinics_lungs_are_filled_with_several_loops_a_plane(real_data):
    folder = Path(real_data) / "lung-nsclc-001"
    image = open_folder(folder / "CT")
    structures = read_structure_set(next((folder / "RTSTRUCT").iterdir()))
    volume = structures["Lung-Right"].mask(image.geometry).array.sum() * image.geometry.voxel_cc
    assert volume == pytest.approx(2966, rel=0.01)
