"""Files of researchers: where they leave open how large they are or where, nobody guesses."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patient.errors import InputError, UnsupportedGeometry
from pipelines.planning.image_file import read_image

UNITS, CODES, QFAC, SROW = 123, 252, 76, 280
"""Offsets in a NIfTI-1 header (nifti1.h)."""


def _image(shape=(3, 4, 5), direction=None):
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def _written(path: Path, image=None, compressed=False) -> Path:
    sitk.WriteImage(image if image is not None else _image(), str(path), compressed)
    return path


def _patched(path: Path, offset: int, data: bytes) -> Path:
    held = bytearray(path.read_bytes())
    held[offset : offset + len(data)] = data
    path.write_bytes(held)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.hdr", "a.img"])
def test_an_image_is_where_its_file_says(tmp_path, name):
    volume = read_image(_written(tmp_path / name))
    assert volume.array.shape == (3, 4, 5)
    assert volume.geometry.spacing == pytest.approx((3.0, 2.0, 1.0))
    assert volume.geometry.origin == pytest.approx((10.0, 20.0, 30.0))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1), st.booleans())
def test_oblique_and_mirrored_nifti_files_are_read(tmp_path, quaternion, mirrored):
    a, b, c, d = np.array(quaternion) / np.linalg.norm(quaternion)
    turn = np.array(
        [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
    )
    image = _image(direction=turn * (1, 1, -1 if mirrored else 1))
    volume = read_image(_written(tmp_path / "a.nii", image))
    assert volume.geometry.points(np.array([2, 3, 4])) == pytest.approx(
        image.TransformIndexToPhysicalPoint((4, 3, 2)), abs=0.01
    )


@pytest.mark.parametrize(("unit", "said"), [(1, "metres"), (3, "micrometres"), (9, "metres")])
def test_nifti_in_other_units_than_mm_is_refused(tmp_path, unit, said):
    path = _patched(_written(tmp_path / "a.nii"), UNITS, bytes([unit]))
    with pytest.raises(UnsupportedGeometry, match=said):
        read_image(path)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UnsupportedGeometry, match=said):
        read_image(packed)


def test_nifti_that_names_no_unit_is_in_mm_as_everybody_takes_it(tmp_path):
    assert read_image(_patched(_written(tmp_path / "a.nii"), UNITS, b"\0")).geometry.spacing == (3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (SROW + 12, struct.pack("<f", -99.0)),
        (SROW, struct.pack("<f", 1.0)),
        (SROW + 4, struct.pack("<f", 0.8)),
        (SROW, struct.pack("<f", float("nan"))),
        (QFAC, struct.pack("<f", 1.0)),
    ],
    ids=["elsewhere", "mirrored", "sheared", "no number", "qfac"],
)
def test_nifti_whose_qform_and_sform_disagree_is_refused(tmp_path, offset, data):
    image = _image(direction=np.diag([1, 1, -1])) if offset == QFAC else _image()
    path = _patched(_written(tmp_path / "a.nii", image), offset, data)
    with pytest.raises(InputError, match=r"disagree|no number"):
        read_image(path)


def test_nifti_without_a_place_is_refused(tmp_path):
    path = _patched(_written(tmp_path / "a.nii"), CODES, b"\0" * 4)
    with pytest.raises(UnsupportedGeometry, match="neither a qform nor an sform"):
        read_image(path)


@pytest.mark.parametrize("code", [b"\1\0\0\0", b"\0\0\1\0"], ids=["qform", "sform"])
def test_nifti_with_one_form_is_read(tmp_path, code):
    volume = read_image(_patched(_written(tmp_path / "a.nii"), CODES, code))
    assert volume.geometry.origin == pytest.approx((10.0, 20.0, 30.0))


def _nrrd(tmp_path, said: bytes) -> Path:
    path = _written(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior", said, 1))
    return path


@pytest.mark.parametrize(
    "said",
    [
        b"space: 3D-left-handed",
        b"space: scanner-xyz",
        b"space dimension: 3",
        b'space: LPS\nspace units: "m" "m" "m"',
        b'space: LPS\nspace units: "mm" "mm" "cm"',
    ],
)
def test_nrrd_that_leaves_its_place_or_size_open_is_refused(tmp_path, said):
    with pytest.raises(UnsupportedGeometry):
        read_image(_nrrd(tmp_path, said))


@pytest.mark.parametrize(("space", "origin"), [("LPS", (10, 20, 30)), ("RAS", (-10, -20, 30)), ("LAS", (10, -20, 30))])
def test_nrrd_in_a_named_space_is_brought_to_lps(tmp_path, space, origin):
    path = _nrrd(tmp_path, f'space: {space}\nspace units: "mm" "mm" "mm"'.encode())
    assert read_image(path).geometry.origin == pytest.approx(origin)


def test_meta_image_in_metres_is_refused(tmp_path):
    path = _written(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"NDims", b"DistanceUnits = m\nNDims", 1))
    with pytest.raises(UnsupportedGeometry, match="not mm"):
        read_image(path)


def test_what_is_no_image_file_of_these_kinds_is_refused(tmp_path):
    with pytest.raises(InputError, match="no NIfTI, NRRD or MetaImage"):
        read_image(_written(tmp_path / "a.vtk"))
    (tmp_path / "b.nii").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "b.nii")


def test_a_small_file_that_says_it_is_huge_is_refused_before_memory_is_taken(tmp_path):
    path = _patched(_written(tmp_path / "a.nii"), 42, struct.pack("<3h", 2000, 2000, 400))
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="Expands to more"):
        read_image(packed)


def test_a_label_map_that_is_mostly_empty_is_read_however_small_its_file(tmp_path):
    path = _written(tmp_path / "a.nii.gz", sitk.Image([512, 512, 280], sitk.sitkUInt8), compressed=True)
    assert read_image(path).array.nbytes > 100 * path.stat().st_size
