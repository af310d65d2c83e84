"""REG: the file's matrix takes moving points to fixed. Deformable: the file's vectors take fixed points to moving."""

import os
import random
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from scipy.spatial.transform import Rotation

from patient.errors import FrameMismatch, InputError, NotDicom, OutputRefused, ReferenceError, UnsupportedGeometry  # noqa: A004
from patient.geometry import Geometry
from patient.read.images import open_folder
from registration.dicom import write_deformable, write_registration
from registration.dicom_read import Side, read_deformable, read_registration, rigid_between
from registration.transforms import Affine, Displacement, Rigid, Space, composed
from tests.making import POSES, phantom, spoiled, write_ct

REFEREES = Path(os.environ.get("RECONTOUR_REFEREES", Path(__file__).resolve().parents[3] / "shared" / "referees"))
HU = phantom((6, 20, 24))
TURN = Rotation.from_euler("xyz", (4, -7, 11), degrees=True).as_matrix()
SHIFT = np.array([12.5, -33.25, 7.125])
POINTS = np.array([[-70.0, -95.0, 45.0], [-60.5, -100.0, 50.0], [13.0, 20.0, -30.0], [0.0, 0.0, 0.0]])


def _images(tmp_path, pose="HFS", **change):
    fixed = open_folder(write_ct(tmp_path / "plan", HU, pose=pose, tag="plan"))
    moving = open_folder(write_ct(tmp_path / "fraction", HU, origin=(-70, -90, 300), tag="fraction", **change))
    return fixed, moving


def _spaces(fixed, moving):
    return Space.of(fixed.geometry), Space.of(moving.geometry)


def _rigid(fixed, moving):
    return Rigid.of(TURN, SHIFT, *_spaces(fixed, moving))


@pytest.fixture
def images(tmp_path):
    return _images(tmp_path)


@pytest.fixture
def shared(tmp_path):
    """Two series of one study and frame of reference."""

    def one_frame(_k, d):
        d.FrameOfReferenceUID, d.StudyInstanceUID = "1.2.3.4", "1.2.3"

    plan = write_ct(tmp_path / "plan", HU, one_frame, tag="plan")
    return open_folder(plan), open_folder(write_ct(tmp_path / "fraction", HU, one_frame, tag="fraction"))


@pytest.fixture
def reg(images, tmp_path):
    path = tmp_path / "reg.dcm"
    write_registration(path, _rigid(*images), *images, version="1.2.3")
    return path


def _rewritten(path, change):
    d = pydicom.dcmread(path)
    change(d)
    d.save_as(path)
    return path


def _item(matrices, frame="", images=(), kind="RIGID"):
    """As another system writes it."""
    registration, item = Dataset(), Dataset()
    registration.RegistrationTypeCodeSequence = Sequence()
    registration.MatrixSequence = Sequence([Dataset() for _ in matrices])
    for part, matrix in zip(registration.MatrixSequence, matrices, strict=True):
        part.FrameOfReferenceTransformationMatrixType = kind
        part.FrameOfReferenceTransformationMatrix = [f"{v:.6f}" for v in np.ravel(matrix)]
    item.MatrixRegistrationSequence = Sequence([registration])
    if frame:
        item.FrameOfReferenceUID = frame
    if images:
        item.ReferencedImageSequence = Sequence([Dataset() for _ in images])
        for reference, instance in zip(item.ReferencedImageSequence, images, strict=True):
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2", instance.sop_instance_uid
    return item


def _theirs(reg, registered, *items):
    def change(d):
        d.FrameOfReferenceUID = registered
        d.RegistrationSequence = Sequence(items)
        d.pop("ReferencedSeriesSequence", None)
        d.pop("StudiesContainingOtherReferencedInstancesSequence", None)

    return _rewritten(reg, change)


def _frames(fixed, moving):
    return fixed.geometry.frame_of_reference, moving.geometry.frame_of_reference


# --- rigid: ours


@pytest.mark.parametrize("pose", POSES)
def test_landmarks_go_there_and_come_back_in_every_position(tmp_path, pose):
    fixed, moving = _images(tmp_path, pose)
    given = _rigid(fixed, moving)
    write_registration(tmp_path / "reg.dcm", given, fixed, moving, version="0")
    read = rigid_between(tmp_path / "reg.dcm", fixed, moving)
    a, b = _spaces(fixed, moving)
    there = read.points(POINTS, a)
    np.testing.assert_allclose(there, given.points(POINTS, a), atol=1e-6)
    back = rigid_between(tmp_path / "reg.dcm", moving, fixed)
    np.testing.assert_allclose(back.points(there, b), POINTS, atol=1e-6)


def test_the_matrix_in_the_file_takes_moving_points_to_fixed_ones(images, reg):
    identity, moving_item = pydicom.dcmread(reg).RegistrationSequence
    assert identity.FrameOfReferenceUID == pydicom.dcmread(reg).FrameOfReferenceUID == _frames(*images)[0]
    assert moving_item.FrameOfReferenceUID == _frames(*images)[1]
    matrix = moving_item.MatrixRegistrationSequence[0].MatrixSequence[0]
    assert matrix.FrameOfReferenceTransformationMatrixType == "RIGID"
    m = np.array(matrix.FrameOfReferenceTransformationMatrix, float).reshape(4, 4)
    in_moving = POINTS @ TURN.T + SHIFT
    np.testing.assert_allclose(in_moving @ m[:3, :3].T + m[:3, 3], POINTS, atol=1e-6)
    np.testing.assert_allclose(m[:3, :3] @ m[:3, :3].T, np.eye(3), atol=1e-9)


def test_decimal_strings_are_short_and_plain(images, tmp_path):
    tiny = Rigid.of(Rotation.from_rotvec([1e-9, -1e-9, 0]).as_matrix(), (-2345.123456789012, 1e-15, -0.0), *_spaces(*images))
    write_registration(tmp_path / "reg.dcm", tiny, *images, version="0")
    item = pydicom.dcmread(tmp_path / "reg.dcm").RegistrationSequence[1]
    raw = item.MatrixRegistrationSequence[0].MatrixSequence[0].get_item("FrameOfReferenceTransformationMatrix").value
    texts = raw.decode().split("\\")
    assert len(texts) == 16
    assert max(map(len, texts)) <= 16
    assert not any("e" in t.lower() or t == "-0" for t in texts)
    np.testing.assert_allclose(rigid_between(tmp_path / "reg.dcm", *images).translation, tiny.translation, atol=1e-6)


def test_what_cannot_be_written_as_a_decimal_string_is_refused(images, tmp_path):
    with pytest.raises(OutputRefused):
        write_registration(tmp_path / "x.dcm", Rigid.of(np.eye(3), (1e12, 0, 0), *_spaces(*images)), *images, version="0")
    assert not (tmp_path / "x.dcm").exists()


def test_the_object_belongs_to_the_plan_and_names_all_images_of_both_studies(images, reg):
    fixed, moving = images
    d = pydicom.dcmread(reg)
    assert (d.PatientID, d.StudyInstanceUID, d.Modality) == (fixed.patient_id, fixed.study_uid, "REG")
    for item, image in zip(d.RegistrationSequence, images, strict=True):
        named = {r.ReferencedSOPInstanceUID for r in item.ReferencedImageSequence}
        assert named == {i.sop_instance_uid for i in image.instances}
    (other,) = d.StudiesContainingOtherReferencedInstancesSequence
    assert d.ReferencedSeriesSequence[0].SeriesInstanceUID == fixed.series_uid
    assert (other.StudyInstanceUID, other.ReferencedSeriesSequence[0].SeriesInstanceUID) == (
        moving.study_uid,
        moving.series_uid,
    )
    assert (d.Manufacturer, d.SoftwareVersions) == ("recontour", "1.2.3")


def test_label_and_note_are_made_valid(images, tmp_path):
    note = "Größe\\line\n" + "x" * 99
    write_registration(tmp_path / "a", _rigid(*images), *images, version="0", label="bone match/äöü rather long", note=note)
    d = pydicom.dcmread(tmp_path / "a")
    assert d.ContentLabel == "BONE MATCH____ R"
    assert len(d.ContentDescription) <= 64
    assert "\\" not in d.ContentDescription


def test_an_image_without_frame_of_reference_cannot_be_referred_to(tmp_path):
    def without(_k, d):
        del d.FrameOfReferenceUID

    fixed, moving = _images(tmp_path, change=without)
    with pytest.raises(InputError, match="no Frame of Reference"):
        write_registration(tmp_path / "reg.dcm", _rigid(fixed, moving), fixed, moving, version="0")


def test_a_transform_of_other_images_is_refused(images, tmp_path):
    fixed, moving = images
    with pytest.raises(FrameMismatch):
        write_registration(tmp_path / "reg.dcm", _rigid(moving, fixed), fixed, moving, version="0")
    with pytest.raises(InputError, match="one series"):
        write_registration(tmp_path / "reg.dcm", _rigid(fixed, fixed), fixed, fixed, version="0")


def test_both_series_of_one_study_are_named_under_it(shared, tmp_path):
    write_registration(tmp_path / "reg.dcm", _rigid(*shared), *shared, version="0")
    d = pydicom.dcmread(tmp_path / "reg.dcm")
    assert [s.SeriesInstanceUID for s in d.ReferencedSeriesSequence] == [image.series_uid for image in shared]
    assert "StudiesContainingOtherReferencedInstancesSequence" not in d


# --- rigid: others'


def test_whichever_image_is_the_registered_one_in_either_order(images, reg):
    fixed, moving = images
    f, m = _frames(*images)
    given = _rigid(*images)
    to_moving, to_fixed = _item([given.matrix], f), _item([given.inverse().matrix], m)
    still = {frame: _item([np.eye(4)], frame) for frame in (f, m)}
    for registered, items in (
        (f, (still[f], to_fixed)),
        (f, (to_fixed, still[f])),
        (f, (to_fixed,)),
        (m, (still[m], to_moving)),
        (m, (to_moving, still[m])),
        (m, (to_moving,)),
    ):
        _theirs(reg, registered, *items)
        read = rigid_between(reg, fixed, moving)
        np.testing.assert_allclose(read.matrix, given.matrix, atol=2e-4)
        assert (read.source, read.target) == _spaces(*images)


def test_two_images_that_are_both_registered_to_a_third(images, reg):
    f, m = _frames(*images)
    a, b = Affine(np.eye(4), Space(""), Space("")).matrix.copy(), _rigid(*images).matrix
    a[:3, 3] = 1, 2, 3
    _theirs(reg, "9.9.9", _item([b], f), _item([a], m))
    np.testing.assert_allclose(rigid_between(reg, *images).matrix, np.linalg.inv(a) @ b, atol=2e-4)


def test_several_matrices_multiply_in_their_order(images, reg):
    f, m = _frames(*images)
    turn, shift = np.eye(4), np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    shift[0, 3] = 10
    _theirs(reg, f, _item([turn, shift], m))
    (item,) = read_registration(reg)
    np.testing.assert_allclose(item.matrix @ (0, 0, 0, 1), (0, 10, 0, 1), atol=1e-6)
    assert (item.kind, item.source_frame, item.registered_frame) == ("RIGID", m, f)


def test_images_tell_two_series_of_one_frame_apart(shared, tmp_path):
    path = tmp_path / "reg.dcm"
    fixed, moving = shared
    given = _rigid(*shared)
    write_registration(path, given, *shared, version="0")
    np.testing.assert_allclose(rigid_between(path, fixed, moving).matrix, given.matrix, atol=1e-6)
    np.testing.assert_allclose(rigid_between(path, moving, fixed).matrix, given.inverse().matrix, atol=1e-6)
    by_series = rigid_between(path, *_spaces(*shared))
    np.testing.assert_allclose(by_series.matrix, given.matrix, atol=1e-6)

    _theirs(path, "1.2.3.4", _item([given.inverse().matrix], images=moving.instances[:2]))
    sides = [Side(Space.of(i.geometry), frozenset(n.sop_instance_uid for n in i.instances)) for i in shared]
    np.testing.assert_allclose(rigid_between(path, *sides).matrix, given.matrix, atol=2e-4)


def test_one_frame_and_nothing_that_tells_the_images_apart_is_refused(shared, tmp_path):
    path = tmp_path / "reg.dcm"
    write_registration(path, _rigid(*shared), *shared, version="0")
    _theirs(path, "1.2.3.4", _item([np.eye(4)], "1.2.3.4"), _item([_rigid(*shared).matrix], "1.2.3.4"))
    with pytest.raises(ReferenceError, match="share a frame"):
        rigid_between(path, *shared)
    both = [*shared[0].instances, *shared[1].instances]
    _theirs(path, "1.2.3.4", _item([_rigid(*shared).matrix], images=both))
    with pytest.raises(ReferenceError, match="both images"):
        rigid_between(path, *shared)


def test_other_images_moved_within_the_frame_say_nothing_of_this_one(images, shared, reg):
    f, m = _frames(*images)
    _theirs(reg, f, _item([_rigid(*images).matrix], f, shared[0].instances), _item([np.eye(4)], m))
    stranger = Side(Space("another series", f))
    with pytest.raises(ReferenceError, match="within its own frame"):
        rigid_between(reg, stranger, images[1])


def test_a_registration_that_contradicts_itself_is_refused(images, reg):
    f, m = _frames(*images)
    given = _rigid(*images)
    _theirs(reg, f, _item([given.inverse().matrix], m), _item([given.matrix], m))
    with pytest.raises(ReferenceError, match="twice"):
        rigid_between(reg, *images)
    _theirs(reg, f, _item([given.matrix], "9.9", images[1].instances))
    with pytest.raises(ReferenceError, match="calls it another"):
        rigid_between(reg, *images)


def test_a_registration_of_other_images_is_refused(images, reg):
    f, _ = _frames(*images)
    _theirs(reg, f, _item([np.eye(4)], f), _item([np.eye(4)], "9.9"))
    with pytest.raises(FrameMismatch):
        rigid_between(reg, *images)


def test_decimals_are_given_back_but_scaling_is_not_rigid(images, reg):
    f, m = _frames(*images)
    rounded = np.round(_rigid(*images).matrix, 4)
    (item,) = read_registration(_theirs(reg, f, _item([rounded], m)))
    np.testing.assert_allclose(item.matrix[:3, :3] @ item.matrix[:3, :3].T, np.eye(3), atol=1e-12)
    for wrong in (np.diag([1.01, 1.01, 1.01, 1.0]), np.diag([-1.0, 1, 1, 1]), np.diag([1.0, 1, 1, 2])):
        with pytest.raises(UnsupportedGeometry):
            read_registration(_theirs(reg, f, _item([wrong], m)))
    scaled = np.diag([1.01, 1.01, 1.01, 1.0])
    (item,) = read_registration(_theirs(reg, f, _item([scaled], m, kind="RIGID_SCALE")))
    assert item.kind == "RIGID_SCALE"
    with pytest.raises(UnsupportedGeometry):
        rigid_between(reg, *images)


def test_broken_matrices_and_other_objects_are_refused(images, reg, tmp_path):
    f, m = _frames(*images)
    with pytest.raises(InputError, match="holds 15 numbers where 16 are asked for") as caught:
        read_registration(_theirs(reg, f, _item([np.ones(15)], m)))
    assert caught.value.where.startswith("reg.dcm, Registration Sequence item 1, ")
    with pytest.raises(InputError, match="no matrix"):
        read_registration(_theirs(reg, f, _item([], m)))
    with pytest.raises(NotDicom, match="CT"):
        read_registration(images[0].instances[0].path)
    with pytest.raises(NotDicom):
        read_deformable(reg, *images)


def test_a_decimal_comma_in_a_matrix_is_refused_by_attribute_and_item(images, reg):
    lead, found, values = reg.read_bytes().rpartition(b"\x06\x30\xc6\x00")
    reg.write_bytes(lead + found + values.replace(b".", b",", 1))
    with pytest.raises(InputError, match=r"Frame of Reference Transformation Matrix holds .*, which is no number") as caught:
        read_registration(reg)
    assert "Registration Sequence item" in caught.value.where
    assert "Matrix Sequence item 1" in caught.value.where


def test_matrices_whose_product_has_no_end_are_refused(images, reg):
    f, m = _frames(*images)
    huge = np.diag([1e200, 1e200, 1e200, 1.0])
    item = _item([np.eye(4)] * 2, m, kind="AFFINE")
    for part in item.MatrixRegistrationSequence[0].MatrixSequence:
        part.FrameOfReferenceTransformationMatrix = [f"{v:g}" for v in huge.ravel()]
    with pytest.raises(InputError, match="matrix"):
        read_registration(_theirs(reg, f, item))


def test_whatever_is_done_to_a_registration_it_is_read_or_refused(images, reg, tmp_path):
    bent = tmp_path / "dreg.dcm"
    write_deformable(bent, _bent(*images)[0], images[0].geometry, *images, version="1.2.3")
    warnings.simplefilter("ignore")
    rng, read = random.Random(5), 0
    for path, reader in ((reg, rigid_between), (bent, read_deformable)):
        whole = path.read_bytes()
        for _ in range(150):
            path.write_bytes(spoiled(whole, rng))
            with suppress(InputError):
                read += np.isfinite(reader(path, *images).points(POINTS, Space.of(images[0].geometry))).all()
    assert read > 10


# --- deformable


def _bent(fixed, moving):
    """A rigid part and a smooth bend: the whole map of a fraction."""
    a, b = _spaces(fixed, moving)
    box = fixed.geometry.box.padded(4, (99, 99, 99))
    grid = fixed.geometry.cropped(box)
    at = grid.points(np.moveaxis(np.indices(grid.shape), 0, -1))
    bend = np.stack([3 * np.sin(at[..., 1] / 20), 0.05 * at[..., 0], 2 * np.cos(at[..., 2] / 15)], -1).astype(np.float32)
    return composed(_rigid(fixed, moving), Displacement(bend, grid, a, a)), a, b


def _within(geometry, count=50):
    indices = np.random.default_rng(0).random((count, 3)) * (np.asarray(geometry.shape) - 1)
    return geometry.points(indices)


@pytest.mark.parametrize("pose", POSES)
def test_a_bend_comes_back_in_every_position(tmp_path, pose):
    fixed, moving = _images(tmp_path, pose)
    given, a, _ = _bent(fixed, moving)
    write_deformable(tmp_path / "dreg.dcm", given, fixed.geometry, fixed, moving, version="0")
    read = read_deformable(tmp_path / "dreg.dcm", fixed, moving)
    nodes = fixed.geometry.points(np.argwhere(np.ones(fixed.geometry.shape)))
    np.testing.assert_allclose(read.points(nodes, a), given.points(nodes, a), atol=1e-4)
    between = _within(fixed.geometry)
    np.testing.assert_allclose(read.points(between, a), given.points(between, a), atol=1e-3)
    assert (read.source, read.target) == _spaces(fixed, moving)


def test_a_left_handed_grid_is_written_from_its_other_end(images, tmp_path):
    fixed, moving = images
    given, a, b = _bent(fixed, moving)
    g = fixed.geometry
    far = g.points((g.shape[0] - 1, 0, 0))
    mirrored = Geometry(g.shape, g.spacing, tuple(far), ((0, 0, -1), (0, 1, 0), (1, 0, 0)), g.frame_of_reference, g.image)
    write_deformable(tmp_path / "dreg.dcm", given, mirrored, fixed, moving, version="0")
    grid = pydicom.dcmread(tmp_path / "dreg.dcm").DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
    assert np.allclose(grid.ImagePositionPatient, g.origin)
    points = _within(g)
    np.testing.assert_allclose(
        read_deformable(tmp_path / "dreg.dcm", a, b).points(points, a), given.points(points, a), atol=1e-3
    )


def test_vectors_are_from_fixed_to_moving_with_x_fastest(images, tmp_path):
    fixed, moving = images
    given, a, _ = _bent(fixed, moving)
    uid = write_deformable(tmp_path / "dreg.dcm", given, fixed.geometry, fixed, moving, version="0", note="CBCT 3")
    d = pydicom.dcmread(tmp_path / "dreg.dcm")
    (item,) = d.DeformableRegistrationSequence
    (grid,) = item.DeformableRegistrationGridSequence
    assert (d.SOPInstanceUID, d.FrameOfReferenceUID, item.SourceFrameOfReferenceUID) == (uid, *_frames(fixed, moving))
    assert list(grid.GridDimensions) == [24, 20, 6]
    assert list(grid.GridResolution) == [1.5, 1.5, 2.5]
    vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(6, 20, 24, 3)
    node = fixed.geometry.points((5, 3, 17))
    np.testing.assert_allclose(node + vectors[5, 3, 17], given.points(node, a), atol=1e-4)
    assert "PreDeformationMatrixRegistrationSequence" not in item
    assert "PostDeformationMatrixRegistrationSequence" not in item


def test_matrices_before_and_after_the_grid_of_another_system(images, tmp_path):
    fixed, moving = images
    bent, a, b = _bent(fixed, moving)
    bend = bent.parts[0]
    path = tmp_path / "dreg.dcm"
    write_deformable(path, Displacement(bend.vectors, bend.grid, a, b), bend.grid, fixed, moving, version="0")
    before, after = np.eye(4), _rigid(fixed, moving).matrix
    before[:3, :3], before[:3, 3] = Rotation.from_euler("z", 30, degrees=True).as_matrix(), (5, 6, 7)

    def change(d):
        item = d.DeformableRegistrationSequence[0]
        for keyword, matrix in (("Pre", before), ("Post", after)):
            (part,) = _item([matrix]).MatrixRegistrationSequence[0].MatrixSequence
            setattr(item, f"{keyword}DeformationMatrixRegistrationSequence", Sequence([part]))

    _rewritten(path, change)
    points = _within(fixed.geometry)
    resampled = points @ before[:3, :3].T + before[:3, 3] + (bend.points(points, a) - points)
    np.testing.assert_allclose(
        read_deformable(path, fixed, moving).points(points, a), resampled @ after[:3, :3].T + after[:3, 3], atol=1e-3
    )


def test_undefined_margins_are_cut_off_and_holes_refused(images, tmp_path):
    fixed, moving = images
    given, a, _ = _bent(fixed, moving)
    path = tmp_path / "dreg.dcm"
    write_deformable(path, given, fixed.geometry, fixed, moving, version="0")
    as_written = path.read_bytes()

    def undefined(where):
        def change(d):
            grid = d.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0]
            vectors = np.frombuffer(grid.VectorGridData, "<f4").reshape(6, 20, 24, 3).copy()
            vectors[where] = np.nan
            grid.VectorGridData = vectors.tobytes()

        path.write_bytes(as_written)
        return _rewritten(path, change)

    node = fixed.geometry.points((3, 10, 10))
    read = read_deformable(undefined(np.s_[0]), fixed, moving)
    np.testing.assert_allclose(read.points(node, a), given.points(node, a), atol=1e-4)
    with pytest.raises(UnsupportedGeometry, match="NaN"):
        read_deformable(undefined(np.s_[3, 10, 10]), fixed, moving)


def test_a_deformation_is_not_read_backwards_nor_of_other_images(images, shared, tmp_path):
    fixed, moving = images
    path = tmp_path / "dreg.dcm"
    write_deformable(path, _bent(fixed, moving)[0], fixed.geometry, fixed, moving, version="0")
    with pytest.raises(FrameMismatch):
        read_deformable(path, moving, fixed)
    with pytest.raises(FrameMismatch):
        read_deformable(path, fixed, Space("x", "9.9"))
    with pytest.raises(FrameMismatch):
        write_deformable(tmp_path / "x", _bent(fixed, moving)[0], moving.geometry, fixed, moving, version="0")
    one, two = shared
    shared_path = tmp_path / "shared.dcm"
    write_deformable(shared_path, _bent(one, two)[0], one.geometry, one, two, version="0")
    assert read_deformable(shared_path, one, two).target == Space.of(two.geometry)
    with pytest.raises(ReferenceError):
        read_deformable(shared_path, two, one)


def test_a_cut_off_grid_is_refused(images, tmp_path):
    path = tmp_path / "dreg.dcm"
    write_deformable(path, _bent(*images)[0], images[0].geometry, *images, version="0")

    def cut(d):
        d.DeformableRegistrationSequence[0].DeformableRegistrationGridSequence[0].VectorGridData = bytes(12)

    with pytest.raises(InputError, match="24 x 20 x 6"):
        read_deformable(_rewritten(path, cut), *images)


# --- referees


def _ask(*command):
    said = subprocess.run([str(c) for c in command], capture_output=True, encoding="utf-8", check=False)
    if said.returncode == 2:
        pytest.skip(f"REFEREES ARE NOT SET UP: {said.stdout.strip()}{said.stderr.strip()[-200:]}")
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


@pytest.mark.skipif(not REFEREES.is_dir(), reason=f"REFEREES ARE NOT THERE ({REFEREES}): set RECONTOUR_REFEREES")
def test_validators_find_no_error(images, reg, tmp_path):
    deformable = tmp_path / "dreg.dcm"
    write_deformable(deformable, _bent(*images)[0], images[0].geometry, *images, version="1.2.3")
    assert _ask(REFEREES / "validate.sh", "--ct", tmp_path / "plan", reg, deformable) == ""


@pytest.mark.skipif(not REFEREES.is_dir(), reason=f"REFEREES ARE NOT THERE ({REFEREES}): set RECONTOUR_REFEREES")
def test_validators_find_no_error_within_one_study_and_frame(shared, tmp_path):
    rigid, deformable = tmp_path / "reg.dcm", tmp_path / "dreg.dcm"
    write_registration(rigid, _rigid(*shared), *shared, version="1.2.3", note="bone")
    write_deformable(deformable, _bent(*shared)[0], shared[0].geometry, *shared, version="1.2.3")
    assert _ask(REFEREES / "validate.sh", "--ct", tmp_path / "plan", rigid, deformable) == ""


@pytest.mark.skipif(not REFEREES.is_dir(), reason=f"REFEREES ARE NOT THERE ({REFEREES}): set RECONTOUR_REFEREES")
@pytest.mark.parametrize("pose", ["HFS", "FFP", "HFDL"])
def test_a_reader_of_the_standards_words_finds_the_landmarks(tmp_path, pose):
    fixed, moving = _images(tmp_path, pose)
    given, a, _ = _bent(fixed, moving)
    write_deformable(tmp_path / "dreg.dcm", given, fixed.geometry, fixed, moving, version="0")
    points = _within(fixed.geometry)
    lines = ["point", str(len(points)), *(" ".join(map(repr, p)) for p in points.tolist())]
    (tmp_path / "p.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "q.txt"
    _ask(
        sys.executable,
        REFEREES / "read_dreg_opentps.py",
        tmp_path / "dreg.dcm",
        "--points",
        tmp_path / "p.txt",
        "--out",
        out,
    )
    found = np.loadtxt(out, skiprows=2)
    np.testing.assert_allclose(found, given.points(points, a), atol=1e-2)
