import copy
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from patient.conformance.check import check_file
from patient.errors import FrameMismatch, NotDicom, OutputRefused, PolicyError
from patient.loop import Loop
from patient.outline import loops_of_mask
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.structures import Code, Structure, StructureSet
from patient.volume import Volume
from patient.write.contour_data import digits
from patient.write.rtstruct import write_structure_set
from tests.making import POSES, phantom, write_ct

HU = phantom()


def _set(image):
    body = HU > -500
    ring = body & ~(HU > 500)
    code = Code("39607008", "SCT", "Lung", Code("7771000", "SCT", "Left"))
    made = [
        Structure(
            "External",
            interpreted_type="EXTERNAL",
            color=(0, 255, 0),
            algorithm="AUTOMATIC",
            drawn=loops_of_mask(Volume(body, image.geometry)),
        ),
        Structure(
            "Ring",
            interpreted_type="ORGAN",
            color=(1, 2, 3),
            algorithm="AUTOMATIC",
            description="d" * 70,
            code=code,
            drawn=loops_of_mask(Volume(ring, image.geometry)),
        ),
        Structure("Nothing", drawn=()),
    ]
    return StructureSet(tuple(made), label="a label that is too long"), {"External": body, "Ring": ring}


@pytest.fixture
def written(ct_folder, tmp_path):
    image = open_folder(ct_folder)
    path = tmp_path / "rs.dcm"
    write_structure_set(path, _set(image)[0], image, version="1.2.3")
    return image, path


@pytest.mark.parametrize("pose", POSES)
def test_masks_come_back_from_the_file_in_every_position(tmp_path, pose):
    image = open_folder(write_ct(tmp_path / "ct", HU, pose=pose))
    structures, masks = _set(image)
    write_structure_set(tmp_path / "rs.dcm", structures, image, version="0")
    read = read_structure_set(tmp_path / "rs.dcm")
    for name, mask in masks.items():
        assert (read[name].mask(image.geometry).placed_in(image.geometry).array == mask).all()


def test_identity_is_copied_and_approval_is_not_claimed(written):
    image, path = written
    d = pydicom.dcmread(path)
    assert (d.PatientName, d.PatientID, d.StudyInstanceUID) == ("Test^Person", "T1", image.study_uid)
    assert d.ApprovalStatus == "UNAPPROVED"
    assert d.Manufacturer == "recontour"
    assert d.SoftwareVersions == "1.2.3"
    series = d.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(series.ContourImageSequence) == len(image.instances)
    code = d.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert len(d.StructureSetLabel) <= 16


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Ωμέγα^山田"),
        ("GB18030", "王^小东"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
    ],
)
def test_names_in_any_alphabet_pass_byte_for_byte(tmp_path, charset, name):
    def change(k, d):
        d.SpecificCharacterSet = charset
        d.PatientName = name

    folder = write_ct(tmp_path / "ct", HU, change)
    image = open_folder(folder)
    write_structure_set(tmp_path / "rs.dcm", _set(image)[0], image, version="0")
    before, after = pydicom.dcmread(next(folder.iterdir())), pydicom.dcmread(tmp_path / "rs.dcm")
    assert before.get_item("PatientName").value.strip() == after.get_item("PatientName").value.strip()
    assert str(after.PatientName) == str(before.PatientName)


def test_untouched_loops_go_out_digit_for_digit_and_numbers_stay(written, tmp_path):
    image, path = written
    d = pydicom.dcmread(path)
    item = d.ROIContourSequence[0].ContourSequence[0]
    item.ContourData = ["+1.50", "-2.", "4E1", "20.0000000001", "-2.000", "40", "20", "30", "40.000"]
    item.NumberOfContourPoints = 3
    d.StructureSetROISequence[0].ROINumber = d.ROIContourSequence[0].ReferencedROINumber = 77
    d.RTROIObservationsSequence[0].ReferencedROINumber = 77
    d.save_as(tmp_path / "clinic.dcm")
    clinic = read_structure_set(tmp_path / "clinic.dcm")
    more = Structure("New", drawn=tuple(replace(loop, digits=b"") for loop in clinic["Ring"].loops))
    uid = write_structure_set(
        tmp_path / "again.dcm", clinic.with_added(more), image, version="0", predecessors=[clinic.sop_instance_uid]
    )
    again = pydicom.dcmread(tmp_path / "again.dcm")
    raw = again.ROIContourSequence[0].ContourSequence[0].get_item(0x30060050).value
    assert raw.strip() == b"+1.50\\-2.\\4E1\\20.0000000001\\-2.000\\40\\20\\30\\40.000"
    assert [r.ROINumber for r in again.StructureSetROISequence] == [77, 2, 3, 1]
    assert again.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == clinic.sop_instance_uid != uid


def test_contour_data_that_became_unknown_is_read(written, tmp_path):
    _, path = written
    d = pydicom.dcmread(path)
    points = np.random.default_rng(0).uniform(-99, 99, (3000, 3)).round(9)
    item = d.ROIContourSequence[0].ContourSequence[0]
    item.ContourData, item.NumberOfContourPoints = [f"{v:.9f}" for v in points.ravel()], 3000
    d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    with pytest.warns(UserWarning, match="UN"):
        d.save_as(tmp_path / "un.dcm", implicit_vr=False, little_endian=True)
    read = read_structure_set(tmp_path / "un.dcm")
    assert np.allclose(read["External"].loops[0].points, points)
    assert any(remark.code == "overflow" for remark in check_file(tmp_path / "un.dcm").errors)


@pytest.mark.parametrize(
    ("syntax", "undefined"),
    [
        ("1.2.840.10008.1.2", False),
        ("1.2.840.10008.1.2", True),
        ("1.2.840.10008.1.2.1", True),
        ("1.2.840.10008.1.2.2", False),
    ],
)
def test_loops_and_the_planes_they_name_are_read_in_every_encoding(written, tmp_path, syntax, undefined):
    _, path = written
    dataset = pydicom.dcmread(path)
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
    dataset.file_meta.TransferSyntaxUID = syntax
    implicit, little = syntax == "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2"
    pydicom.dcmwrite(tmp_path / "other.dcm", dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    as_written, other = read_structure_set(path), read_structure_set(tmp_path / "other.dcm")
    for one, two in zip(as_written.structures, other.structures, strict=True):
        assert [loop.image_uid for loop in one.loops] == [loop.image_uid for loop in two.loops]
        assert [loop.digits for loop in one.loops] == [loop.digits for loop in two.loops]
        assert {loop.kind for loop in two.loops} <= {"CLOSED_PLANAR"}
    assert all(loop.image_uid for loop in as_written["Ring"].loops)


def test_contours_of_a_roi_that_stand_in_two_items_are_all_read_and_written_digit_for_digit(written, tmp_path):
    image, path = written
    d = pydicom.dcmread(path)
    first = d.ROIContourSequence[0]
    second = copy.deepcopy(first)
    whole = [loop.digits for loop in read_structure_set(path)["External"].loops]
    first.ContourSequence, second.ContourSequence = first.ContourSequence[:5], second.ContourSequence[5:]
    d.ROIContourSequence.append(second)
    d.save_as(tmp_path / "two.dcm")
    read = read_structure_set(tmp_path / "two.dcm")
    assert [loop.digits for loop in read["External"].loops] == whole
    assert any("External: its contours stand in 2 items" in note for note in read.notes)
    write_structure_set(tmp_path / "again.dcm", read, image, version="0")
    again = read_structure_set(tmp_path / "again.dcm")
    assert [loop.digits for loop in again["External"].loops] == whole
    assert check_file(tmp_path / "again.dcm", image=image).errors == ()


def test_a_roi_in_another_frame_of_reference_is_left_out_by_name_and_the_others_are_kept(written, tmp_path):
    image, path = written
    d = pydicom.dcmread(path)
    other = copy.deepcopy(d.ReferencedFrameOfReferenceSequence[0])
    other.FrameOfReferenceUID = "1.9"
    other.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.8"
    d.ReferencedFrameOfReferenceSequence.insert(0, other)
    d.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.9"
    for item in d.ROIContourSequence[1].ContourSequence:
        del item.ContourImageSequence
    d.save_as(tmp_path / "ct and mr.dcm")
    read = read_structure_set(tmp_path / "ct and mr.dcm")
    assert (read.frame_of_reference, read.series_uid) == (image.geometry.frame_of_reference, image.series_uid)
    kept = read.on(image.geometry)
    assert [s.name for s in kept.structures] == ["External", "Nothing"]
    assert kept.notes == ("Ring is in another frame of reference than the image and was left out",)
    d.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.9"
    d.save_as(tmp_path / "mr.dcm")
    with pytest.raises(FrameMismatch, match="another frame"):
        read_structure_set(tmp_path / "mr.dcm").on(image.geometry)


def test_a_roi_that_names_no_frame_where_the_set_has_two_is_left_out(written, tmp_path):
    _, path = written
    d = pydicom.dcmread(path)
    other = copy.deepcopy(d.ReferencedFrameOfReferenceSequence[0])
    other.FrameOfReferenceUID = "1.9"
    d.ReferencedFrameOfReferenceSequence.append(other)
    del d.StructureSetROISequence[1].ReferencedFrameOfReferenceUID
    d.save_as(tmp_path / "two.dcm")
    read = read_structure_set(tmp_path / "two.dcm")
    assert [s.name for s in read.structures] == ["External", "Nothing"]
    assert read.notes == ("Ring does not say which of the set's 2 frames of reference it is in: left out",)


def test_a_loop_on_no_plane_is_not_written(written, tmp_path):
    image, _ = written
    off = Loop(image.geometry.points([(0.5, 1, 1), (0.5, 9, 1), (0.5, 9, 9)]))
    with pytest.raises(FrameMismatch):
        write_structure_set(tmp_path / "x.dcm", StructureSet((Structure("A", drawn=(off,)),)), image, version="0")
    assert not (tmp_path / "x.dcm").exists()


def test_loops_lie_on_the_planes_own_positions_where_these_jitter(tmp_path):
    def change(k, d):
        d.ImagePositionPatient = [*d.ImagePositionPatient[:2], float(d.ImagePositionPatient[2]) + 0.05 * (k % 2)]

    image = open_folder(write_ct(tmp_path / "ct", HU, change))
    write_structure_set(tmp_path / "rs.dcm", _set(image)[0], image, version="0")
    heights = {i.sop_instance_uid: i.position[2] for i in image.instances}
    for item in pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence:
        uid = item.ContourImageSequence[0].ReferencedSOPInstanceUID
        assert np.allclose(np.array(item.ContourData, float)[2::3], heights[uid], atol=6e-4)


def test_digits_are_short_fixed_and_never_minus_zero():
    points = np.array([[0.0001, -0.0004, -1234.5678], [9999.999, -9999.9994, 12.3]])
    assert digits(points, [2]) == [b"0.000\\0.000\\-1234.568\\9999.999\\-9999.999\\12.300"]
    for bad in (np.nan, np.inf, 1e5):
        with pytest.raises(OutputRefused):
            digits(np.array([[bad, 0, 0]]), [1])


def test_what_is_no_structure_set_is_told(ct_folder, tmp_path):
    with pytest.raises(NotDicom, match="CT"):
        read_structure_set(next(ct_folder.iterdir()))
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(NotDicom):
        read_structure_set(tmp_path / "x")


def test_what_we_write_passes_our_own_check(written):
    image, path = written
    report = check_file(path, image=image)
    assert report.errors == ()
    assert [remark.code for remark in report.warnings] == ["empty"]


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda d: d.__delattr__("StructureSetLabel"), "missing"),
        (lambda d: d.__delattr__("OperatorsName"), "missing"),
        (lambda d: d.StructureSetROISequence[0].__delattr__("ROIGenerationAlgorithm"), "missing"),
        (lambda d: setattr(d.StructureSetROISequence[1], "ROIName", "EXTERNAL"), "duplicate_name"),
        (lambda d: setattr(d.RTROIObservationsSequence[1], "RTROIInterpretedType", "EXTERNAL"), "external"),
        (lambda d: setattr(d.StructureSetROISequence[1], "ROINumber", 1), "duplicate_number"),
        (lambda d: setattr(d.ROIContourSequence[1], "ReferencedROINumber", 9), "reference"),
        (lambda d: setattr(d.ReferencedFrameOfReferenceSequence[0], "FrameOfReferenceUID", "1.2"), "frame"),
        (
            lambda d: (
                d.ReferencedFrameOfReferenceSequence[0]
                .RTReferencedStudySequence[0]
                .RTReferencedSeriesSequence[0]
                .ContourImageSequence.pop()
            ),
            "reference",
        ),
        (lambda d: setattr(_loop(d), "NumberOfContourPoints", 5000), "count"),
        (lambda d: setattr(_loop(d), "ContourData", [*[1, 1, 40] * 2, 2, 2, 40]), "points"),
        (lambda d: setattr(_loop(d), "ContourData", [1, 1, 41, 9, 1, 41, 9, 9, 41]), "off_plane"),
        (lambda d: setattr(_loop(d).ContourImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"), "reference"),
        (lambda d: d.ROIContourSequence[0].ContourSequence.append(_loop(d)), "duplicate_loop"),
        (lambda d: setattr(_loop(d), "ContourGeometricType", "CLOSEDPLANAR_XOR"), "xor"),
    ],
)
def test_each_fault_is_found(written, tmp_path, spoil, code):
    image, path = written
    d = pydicom.dcmread(path)
    spoil(d)
    d.save_as(tmp_path / "bad.dcm")
    profile = "eclipse" if code == "xor" else "standard"
    assert code in {remark.code for remark in check_file(tmp_path / "bad.dcm", image=image, profile=profile).errors}


def _loop(d):
    return d.ROIContourSequence[0].ContourSequence[0]


def test_a_planning_system_may_ask_for_more(written, tmp_path):
    _, path = written
    d = pydicom.dcmread(path)
    d.StructureSetROISequence[0].ROIName = "A_name_of_more_than_16"
    d.save_as(tmp_path / "long.dcm")
    assert not check_file(tmp_path / "long.dcm").errors
    assert [r.code for r in check_file(tmp_path / "long.dcm", profile="eclipse").errors] == ["too_long"]
    with pytest.raises(PolicyError):
        check_file(path, profile="nobody")
