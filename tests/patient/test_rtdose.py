"""RTDOSE in and out: every voxel where it was, in Gy, or a refusal that says why."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from patient.dose import Dose
from patient.errors import FrameMismatch, InputError, NotDicom, OutputRefused, PixelDataError, UnsupportedGeometry
from patient.errors import ReferenceError as Unreferenced
from patient.geometry import Geometry
from patient.plan import Plan
from patient.read.images import open_folder
from patient.read.plan_dose import plan_dose
from patient.read.rtdose import read_dose
from patient.trust import GIVEN, Estimated, Trust
from patient.volume import Volume
from patient.write.rtdose import Registration, accumulated_label, write_dose
from tests.making import POSES, phantom, write_ct
from tests.referees import errors_of

HU = phantom((5, 20, 24))
SHAPE = (4, 5, 6)
GRAY = np.random.default_rng(7).uniform(0, 70, SHAPE).astype(np.float32)
PLAN_UID = "1.2.3.99"
LABEL = accumulated_label(3, 30, GIVEN)


def _grid(image, **change):
    """Another lattice than the image's, in its directions."""
    x, y, z = (float(v) for v in image.geometry.points((0.5, 1, 2)))
    return replace(image.geometry, shape=SHAPE, spacing=(2.0, 2.5, 3.5), origin=(x, y, z), **change)


def _dose(image, gray=GRAY, **what):
    return Dose(Volume(gray, _grid(image)), **{"plan_uid": PLAN_UID, **what})


def _write(path, dose, image, **how):
    return write_dose(path, Estimated(dose, GIVEN), image, **how)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ct(tmp_path_factory.mktemp("dose") / "ct", HU)


@pytest.fixture(scope="module")
def image(folder):
    return open_folder(folder)


@pytest.fixture
def written(image, tmp_path):
    path = tmp_path / "dose.dcm"
    _write(path, _dose(image), image, version="1.2.3", label=LABEL, derivation="test")
    return path


def _changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def _with(**attributes):
    def change(dataset):
        for keyword, value in attributes.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize("pose", POSES)
def test_a_dose_comes_back_in_its_place_and_value_in_every_orientation(tmp_path, pose):
    image = open_folder(write_ct(tmp_path / "ct", HU, pose=pose))
    _write(tmp_path / "d.dcm", _dose(image), image, version="0", label=LABEL, derivation="test")
    read = read_dose(tmp_path / "d.dcm")
    assert read.volume.geometry.same_grid(_grid(image))
    np.testing.assert_allclose(read.volume.array, GRAY, atol=1e-6)
    assert (read.plan_uid, read.summation, read.kind, read.transformed) == (PLAN_UID, "PLAN", "PHYSICAL", "NONE")
    assert read.comment.startswith("Accumulated 3 of 30 fractions")


def test_a_left_handed_grid_is_written_from_its_other_end(image, tmp_path):
    grid = _grid(image)
    left = replace(grid, axes=(tuple(-v for v in grid.axes[0]), *grid.axes[1:]))
    dose = replace(_dose(image), volume=Volume(GRAY, left))
    _write(tmp_path / "d.dcm", dose, image, version="0", label=LABEL, derivation="test")
    read = read_dose(tmp_path / "d.dcm").volume
    np.testing.assert_allclose(read.array[::-1], GRAY, atol=1e-6)
    np.testing.assert_allclose(read.geometry.points((3, 1, 2)), left.points((0, 1, 2)), atol=1e-4)


def test_an_error_keeps_its_sign(image, tmp_path):
    error = GRAY - 35
    _write(tmp_path / "d.dcm", _dose(image, error, kind="ERROR"), image, version="0", label="Error", derivation="test")
    assert pydicom.dcmread(tmp_path / "d.dcm").PixelRepresentation == 1
    np.testing.assert_allclose(read_dose(tmp_path / "d.dcm").volume.array, error, atol=1e-6)


def test_pydicom_and_simpleitk_read_the_same_gray(written, image):
    dataset = pydicom.dcmread(written)
    assert len(dataset["DoseGridScaling"].value.original_string) <= 16
    np.testing.assert_allclose(dataset.pixel_array * float(dataset.DoseGridScaling), GRAY, atol=1e-6)
    other = SimpleITK.ReadImage(str(written))
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(other) * float(dataset.DoseGridScaling), GRAY, atol=1e-6)
    np.testing.assert_allclose(other.GetOrigin(), _grid(image).origin, atol=1e-4)


@pytest.mark.parametrize("kind", ["PHYSICAL", "ERROR"])
@pytest.mark.parametrize("sum_", [{}, {"summation": "PLAN_OVERVIEW", "fractions": 3, "structure_set_uid": "1.2.3.98"}])
def test_the_referees_find_no_error(image, folder, tmp_path, kind, sum_):
    path = tmp_path / "d.dcm"
    dose = _dose(image, kind=kind, transformed="NON_RIGID", **sum_)
    used = (Registration("1.2.3.4"), Registration("1.2.3.5", deformable=True))
    _write(path, dose, image, version="0", label=LABEL, derivation="test", registrations=used)
    assert errors_of([path], folder, tmp_path) == ""


def test_a_sum_of_some_fractions_says_how_many_and_is_never_read_back_as_the_plans_dose(image, tmp_path):
    path = tmp_path / "d.dcm"
    some = _dose(image, summation="PLAN_OVERVIEW", fractions=12, structure_set_uid="1.2.3.98")
    _write(path, some, image, version="0", label=LABEL, derivation="test", plan_label="HN 70 Gy")
    dataset = pydicom.dcmread(path)
    assert dataset.DoseSummationType == "PLAN_OVERVIEW"
    (overview,), (named,) = dataset.PlanOverviewSequence, dataset.ReferencedRTPlanSequence
    assert (overview.NumberOfFractionsIncluded, overview.RTPlanLabel) == (12, "HN 70 Gy")
    assert named.ReferencedPlanOverviewIndex == overview.PlanOverviewIndex
    read = read_dose(path)
    assert (read.summation, read.fractions, read.plan_uid, read.made_here) == ("PLAN_OVERVIEW", 12, PLAN_UID, True)
    with pytest.raises(Unreferenced):
        plan_dose([read])
    with pytest.raises(Unreferenced):
        plan_dose([replace(read, made_here=False)])
    whole = _dose(image, sop_instance_uid="1.6")
    assert plan_dose([read, whole]) is whole


def test_a_dose_that_is_not_trusted_says_so_and_why_where_a_person_looks_or_is_not_written(image, tmp_path):
    doubted = Estimated(_dose(image), Trust(("Fraction 2: the field folds",)))
    with pytest.raises(OutputRefused, match="not trusted"):
        write_dose(tmp_path / "d.dcm", doubted, image, version="0", label=LABEL, derivation="test")
    label = accumulated_label(30, 35, doubted.trust)
    assert len(label) <= 64
    write_dose(tmp_path / "d.dcm", doubted, image, version="0", label=label, derivation="test")
    dataset = pydicom.dcmread(tmp_path / "d.dcm")
    for said in (dataset.SeriesDescription, dataset.DoseComment, dataset.DerivationDescription):
        assert said.startswith("NOT TRUSTED")
    assert "Fraction 2: the field folds" in dataset.DerivationDescription


def test_a_plan_dose_that_this_software_once_wrote_is_not_taken_for_the_planning_systems(written, image):
    ours, whole = read_dose(written), _dose(image, sop_instance_uid="1.6")
    assert (ours.summation, ours.made_here) == ("PLAN", True)
    assert plan_dose([ours, whole]) is whole
    with pytest.raises(Unreferenced, match="planning system"):
        plan_dose([ours])


def test_a_mapped_dose_names_its_registrations_and_is_labelled(image, tmp_path):
    dose = _dose(image, transformed="NON_RIGID")
    with pytest.raises(OutputRefused, match="names no registration"):
        _write(tmp_path / "d.dcm", dose, image, version="0", label=LABEL, derivation="test")
    used = (Registration("1.2.3.4"), Registration("1.2.3.5", deformable=True))
    _write(tmp_path / "d.dcm", dose, image, version="0", label=LABEL, derivation="test", registrations=used)
    dataset = pydicom.dcmread(tmp_path / "d.dcm")
    assert dataset.SpatialTransformOfDose == "NON_RIGID"
    named = [
        (r.ReferencedSOPClassUID.name, r.ReferencedSOPInstanceUID) for r in dataset.ReferencedSpatialRegistrationSequence
    ]
    assert named == [("Spatial Registration Storage", "1.2.3.4"), ("Deformable Spatial Registration Storage", "1.2.3.5")]
    assert "not delivered" in dataset.SeriesDescription


@pytest.mark.parametrize(
    ("what", "gray", "label"),
    [
        ({"plan_uid": ""}, GRAY, LABEL),
        ({}, GRAY - 35, LABEL),
        ({}, np.where(GRAY > 60, np.nan, GRAY), LABEL),
        ({}, GRAY, ""),
        ({}, GRAY, "x" * 65),
        ({"kind": "EFFECTIVE"}, GRAY, "RBE"),
        ({"summation": "MULTI_PLAN"}, GRAY, LABEL),
        ({"summation": "BEAM"}, GRAY, LABEL),
        ({"summation": "PLAN_OVERVIEW"}, GRAY, LABEL),
    ],
)
def test_a_dose_that_could_mislead_is_not_written(image, tmp_path, what, gray, label):
    with pytest.raises(OutputRefused):
        _write(tmp_path / "d.dcm", _dose(image, gray, **what), image, version="0", label=label, derivation="test")
    assert not (tmp_path / "d.dcm").exists()


def test_a_dose_of_another_frame_is_not_written_on_an_image(image, tmp_path):
    dose = replace(_dose(image), volume=Volume(GRAY, _grid(image, frame_of_reference="1.9")))
    with pytest.raises(FrameMismatch):
        _write(tmp_path / "d.dcm", dose, image, version="0", label=LABEL, derivation="test")
    with pytest.raises(FrameMismatch):
        dose.on(image.geometry)


def test_descending_frames_are_put_in_order(written, image):
    def descend(dataset):
        stored = dataset.pixel_array[::-1].copy()
        z = float(dataset.ImagePositionPatient[2]) + 2.0 * (SHAPE[0] - 1)
        dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], z]
        dataset.GridFrameOffsetVector = [-2.0 * k for k in range(SHAPE[0])]
        dataset.PixelData = stored.tobytes()

    read = read_dose(_changed(written, descend))
    assert read.volume.geometry.same_grid(_grid(image))
    np.testing.assert_allclose(read.volume.array, GRAY, atol=1e-6)


def test_absolute_offsets_are_read_as_patient_z_on_an_upright_grid(written, image):
    z = _grid(image).origin[2]
    read = read_dose(_changed(written, _with(GridFrameOffsetVector=[z + 2.0 * k for k in range(SHAPE[0])])))
    assert read.volume.geometry.same_grid(_grid(image))
    assert any("patient z" in note for note in read.notes)


def test_absolute_offsets_on_a_turned_grid_are_refused(tmp_path):
    image = open_folder(write_ct(tmp_path / "ct", HU, pose="HFP"))
    _write(tmp_path / "d.dcm", _dose(image), image, version="0", label=LABEL, derivation="test")
    z = _grid(image).origin[2]
    with pytest.raises(UnsupportedGeometry, match="neither 0 nor"):
        read_dose(_changed(tmp_path / "d.dcm", _with(GridFrameOffsetVector=[z + 2.0 * k for k in range(SHAPE[0])])))


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"GridFrameOffsetVector": None}, UnsupportedGeometry),
        ({"GridFrameOffsetVector": [0, 2, 4]}, UnsupportedGeometry),
        ({"GridFrameOffsetVector": [0, 2, 4, 9]}, UnsupportedGeometry),
        ({"GridFrameOffsetVector": [0, 2, 2, 4]}, UnsupportedGeometry),
        ({"GridFrameOffsetVector": [7, 9, 11, 13]}, UnsupportedGeometry),
        ({"NumberOfFrames": 1, "GridFrameOffsetVector": [0]}, UnsupportedGeometry),
        ({"ImagePositionPatient": None}, UnsupportedGeometry),
        ({"DoseUnits": "RELATIVE"}, InputError),
        ({"DoseGridScaling": None}, InputError),
        ({"DoseGridScaling": 0}, InputError),
        ({"DoseType": "GUESSED"}, InputError),
        ({"FrameOfReferenceUID": None}, InputError),
        ({"PixelRepresentation": 1}, PixelDataError),
        ({"PixelData": b"\0\0\0\0"}, PixelDataError),
        ({"Modality": "CT"}, NotDicom),
    ],
)
def test_what_cannot_be_placed_or_scaled_is_refused(written, attributes, error):
    with pytest.raises(error):
        read_dose(_changed(written, _with(**attributes)))


@pytest.mark.parametrize("bits", [16, 32])
def test_words_of_16_and_32_bits_give_the_same_gray(written, bits):
    def narrow(dataset):
        stored = np.rint(GRAY / 0.01).astype(f"<u{bits // 8}")
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit, dataset.DoseGridScaling, dataset.PixelData = bits - 1, 0.01, stored.tobytes()
        dataset["PixelData"].VR = "OW"

    np.testing.assert_allclose(read_dose(_changed(written, narrow)).volume.array, GRAY, atol=0.006)


def _beam(image, number, gray=GRAY, **what):
    return _dose(image, gray, summation="BEAM", beam=number, sop_instance_uid=f"1.5.{number}", **what)


def test_the_sum_of_all_beams_stands_for_the_plan_and_says_so(image):
    plan = Plan(PLAN_UID, beams=(1, 2))
    total = plan_dose([_beam(image, 2, 2 * GRAY), _beam(image, 1)], plan)
    np.testing.assert_allclose(total.volume.array, 3 * GRAY, rtol=1e-6)
    assert total.summation == "PLAN"
    assert any("Sum of the doses of all 2 beams" in note for note in total.notes)


def test_the_plan_dose_is_taken_where_there_is_one(image):
    whole = _dose(image, sop_instance_uid="1.6")
    error = _dose(image, kind="ERROR", sop_instance_uid="1.7")
    assert plan_dose([_beam(image, 1), whole, error]) is whole


def test_doses_that_make_no_one_plan_are_refused(image):
    plan, one, two = Plan(PLAN_UID, beams=(1, 2)), _beam(image, 1), _beam(image, 2)
    for doses, of in (
        ([one], plan),
        ([one, one], plan),
        ([one, two], None),
        ([one, replace(two, plan_uid="1.8")], plan),
        ([one, two], Plan("1.8", beams=(1, 2))),
        ([_dose(image, sop_instance_uid="1"), _dose(image, sop_instance_uid="2")], plan),
        ([_dose(image, summation="FRACTION")], plan),
        ([], plan),
    ):
        with pytest.raises(Unreferenced):
            plan_dose(doses, of)
    with pytest.raises(InputError, match="side by side"):
        plan_dose([one, replace(two, kind="EFFECTIVE")], plan)
    for change in ({"frame_of_reference": "1.9"}, {"spacing": (2.0, 2.5, 3.0)}):
        other = replace(two, volume=Volume(GRAY, _grid(image) if not change else replace(_grid(image), **change)))
        with pytest.raises(FrameMismatch):
            plan_dose([one, other], plan)


def test_the_beam_of_a_dose_is_read_and_written(image, tmp_path):
    _write(tmp_path / "d.dcm", _beam(image, 4), image, version="0", label="Beam", derivation="test")
    assert read_dose(tmp_path / "d.dcm").beam == 4


def test_a_dose_of_several_plans_names_none_of_them(written):
    def second(dataset):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.5", "1.2.3.98"
        dataset.ReferencedRTPlanSequence = Sequence([*dataset.ReferencedRTPlanSequence, item])
        dataset.DoseSummationType = "MULTI_PLAN"

    read = read_dose(_changed(written, second))
    assert read.plan_uid == ""
    with pytest.raises(Unreferenced):
        plan_dose([read])


def test_a_real_relative_dose_is_refused(real_data):
    for name in ("rtdose.dcm", "rtdose_rle.dcm"):
        with pytest.raises(InputError, match="RELATIVE"):
            read_dose(real_data / "dicom-zoo" / "rt-objects" / name)


def test_a_compressed_dose_gives_the_same_gray(real_data, tmp_path):
    def in_gray(name):
        dataset = pydicom.dcmread(real_data / "dicom-zoo" / "rt-objects" / name)
        dataset.DoseUnits = "GY"
        dataset.save_as(tmp_path / name)
        return read_dose(tmp_path / name).volume

    plain, compressed = in_gray("rtdose.dcm"), in_gray("rtdose_rle.dcm")
    assert plain.array.max() > 0
    assert (plain.array == compressed.array).all()


def test_a_real_dose_is_read(real_data):
    dose = read_dose(real_data / "dvh-prostate" / "RD.dcm")
    assert dose.volume.array.shape == (92, 86, 136)
    assert dose.volume.array.max() == pytest.approx(47.08, abs=0.005)
    assert isinstance(dose.volume.geometry, Geometry)
