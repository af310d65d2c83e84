import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, generate_uid

from patient import errors
from patient.read.images import open_folder, open_image
from patient.read.scan import scan
from tests.making import POSES, phantom, write_ct

HU = phantom()


@pytest.mark.parametrize("pose", POSES)
def test_every_voxel_lies_where_its_header_puts_it(tmp_path, pose):
    image = open_folder(write_ct(tmp_path / "ct", HU, pose=pose))
    assert (image.load().array == HU).all()
    for k, instance in enumerate(image.instances):
        assert np.allclose(image.geometry.points((k, 0, 0)), instance.position, atol=1e-4)
    row, column = POSES[pose]
    step = image.geometry.points((0, 1, 2)) - image.geometry.points((0, 0, 0))
    assert np.allclose(step, np.array(column) * 1.5 + np.array(row) * 3.0)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_compressed_pixels_are_the_same_pixels(tmp_path, syntax):
    folder = write_ct(tmp_path / "ct", HU)
    for path in folder.iterdir():
        d = dcmread(path)
        d.compress(syntax, generate_instance_uid=False)
        d.save_as(path)
    assert (open_folder(folder).load().array == HU).all()


def test_a_deflated_file_is_read(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    for path in folder.iterdir():
        d = dcmread(path)
        d.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        d.save_as(path)
    assert (open_folder(folder).load().array == HU).all()


def test_signed_pixels_slopes_that_differ_and_padding_become_hu(tmp_path):
    def change(k, d):
        d.PixelRepresentation, d.RescaleSlope, d.RescaleIntercept = 1, 2 if k % 2 else 1, 0
        d.PixelData = (HU[k] // int(d.RescaleSlope)).astype("<i2").tobytes()
        d.add_new(0x00280120, "SS", -1000 // int(d.RescaleSlope))

    read = open_folder(write_ct(tmp_path / "ct", HU, change)).load().array
    assert (read[HU > -1000] == HU[HU > -1000]).all()
    assert (read[HU == -1000] == -1024).all()


def test_a_header_that_lies_about_thickness_and_number_is_not_believed(tmp_path):
    def change(k, d):
        d.SliceThickness, d.InstanceNumber, d.SliceLocation, d.SpacingBetweenSlices = 9, 1, "0", -3

    assert open_folder(write_ct(tmp_path / "ct", HU, change)).geometry.spacing[0] == pytest.approx(2.5)


def _shift(step):
    def change(k, d):
        d.ImagePositionPatient = [float(v) + s * k for v, s in zip(d.ImagePositionPatient, step, strict=True)]

    return change


def _from(k0, **attributes):
    def change(k, d):
        for name, value in attributes.items():
            if k >= k0:
                setattr(d, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_from(6, FrameOfReferenceUID="1.2.3"), errors.MixedSeries),
        (_from(6, PatientID="T2"), errors.MixedSeries),
        (_from(6, PixelSpacing=[1.6, 1.5]), errors.MixedSeries),
        (_from(6, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), errors.MixedSeries),
        (_shift((0, 3.0, 0)), errors.UnsupportedGeometry),
        (_from(0, ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]), errors.UnsupportedGeometry),
        (lambda k, d: d.__delattr__("ImagePositionPatient"), errors.UnsupportedGeometry),
        (
            lambda k, d: setattr(d, "ImagePositionPatient", [0, 0, k * 2.5 + (10.2 if k > 5 else 0)]),
            errors.IncompleteSeries,
        ),
    ],
)
def test_what_makes_no_image_is_refused_by_name(tmp_path, change, error):
    with pytest.raises(error) as caught:
        open_folder(write_ct(tmp_path / "ct", HU, change))
    assert "Test" not in str(caught.value)
    assert caught.value.where


def test_a_missing_slice_is_named_with_its_neighbours(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    (folder / f"{(5 * 37) % 1000:03d}-5.dcm").unlink()
    with pytest.raises(errors.IncompleteSeries, match=r"1 slice is missing.*-4\.dcm.*-6\.dcm"):
        open_folder(folder)


def test_a_plane_twice_is_refused_and_a_copied_file_is_not(tmp_path, ct_folder):
    first = next(ct_folder.iterdir())
    (ct_folder / "copy.dcm").write_bytes(first.read_bytes())
    assert "1 repeated copies" in open_folder(ct_folder).notes[0]
    d = dcmread(first)
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.save_as(ct_folder / "twin.dcm")
    with pytest.raises(errors.DuplicateSlices):
        open_folder(ct_folder)


def test_one_plane_is_no_volume(tmp_path):
    with pytest.raises(errors.IncompleteSeries):
        open_folder(write_ct(tmp_path / "ct", HU[:1]))


def test_pixels_cut_short_are_told(tmp_path, ct_folder):
    path = sorted(ct_folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.PixelDataError, match="cut short"):
        open_folder(ct_folder).load()


def test_a_localizer_in_the_series_is_left_out_and_noted(tmp_path, ct_folder):
    d = dcmread(next(ct_folder.iterdir()))
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    d.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    d.save_as(ct_folder / "scout.dcm")
    assert "1 localizers left out" in open_folder(ct_folder).notes


def test_a_folder_of_anything_becomes_patients_studies_and_series(tmp_path):
    write_ct(tmp_path / "a", HU, tag="a")
    write_ct(tmp_path / "b", HU[:, :20], tag="b", change=_from(0, PatientID="T2"))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "lies.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"garbage here")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    index = scan(tmp_path)
    assert [len(entry.headers) for entry in index.of("CT")] == [12, 12]
    assert [p.patient_id for p in index.patients] == ["T1", "T2"]
    assert {problem.path.name for problem in index.problems} == {"empty.dcm", "lies.dcm"}


def test_files_without_series_uid_are_a_series_and_say_so(tmp_path):
    folder = write_ct(tmp_path / "ct", HU, lambda k, d: d.__delattr__("SeriesInstanceUID"))
    (entry,) = scan(folder).of("CT")
    assert any("no Series Instance UID" in note for note in open_image(entry).notes)


def test_an_empty_folder_holds_no_image(tmp_path):
    with pytest.raises(errors.InputError):
        open_folder(tmp_path)
    with pytest.raises(errors.InputError):
        scan(tmp_path / "nowhere")


def test_errors_travel_between_processes_whole():
    import pickle

    error = errors.MixedSeries("two", where="a, b", why="so", remedy="do")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.what, again.where, again.why, again.remedy) == (errors.MixedSeries, "two", "a, b", "so", "do")


def _named(*names):
    def change(k, d):
        d.PatientName = names[k % len(names)]

    return change


@pytest.mark.parametrize("other", ["Test^Person ", "TEST^PERSON", "Test^Person^^^", "Test^ Person", "test person"])
def test_one_patients_name_in_several_spellings_is_one_patient_and_noted(tmp_path, other):
    image = open_folder(write_ct(tmp_path / "ct", HU, _named("Test^Person", other)))
    assert (image.load().array == HU).all()
    assert [note for note in image.notes if "name" in note] == (
        [] if other == "Test^Person " else ["The patient's name is written in 2 ways, which differ by case or padding"]
    )
    assert not any("person" in note.casefold() for note in image.notes)


@pytest.mark.parametrize("other", ["Test^Persona", "Person^Test", "", "Test^Person^Jr"])
def test_another_name_is_another_patient_though_the_id_is_one(tmp_path, other):
    with pytest.raises(errors.MixedSeries, match="two patients") as caught:
        open_folder(write_ct(tmp_path / "ct", HU, _named("Test^Person", other)))
    assert "Person" not in str(caught.value)


def test_one_name_and_two_patient_ids_are_two_patients(tmp_path):
    def change(k, d):
        d.PatientID = "T1" if k % 2 else "T2"

    with pytest.raises(errors.MixedSeries, match="two patients"):
        open_folder(write_ct(tmp_path / "ct", HU, change))


def test_an_image_without_padding_is_read_without_scipy(ct_folder):
    code = "import sys; from pathlib import Path; from patient.read.images import open_folder\n"
    code += "open_folder(Path(sys.argv[1])).load(); print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, ct_folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_header_says_of_its_picture_is_asked_of_it_once(ct_folder, monkeypatch):
    asked: Counter[tuple[int, str]] = Counter()
    get = Dataset.get

    def counting(self, key, default=None):
        asked[id(self), str(key)] += 1
        return get(self, key, default)

    image = open_image(scan(ct_folder).one("CT"))
    monkeypatch.setattr(Dataset, "get", counting)
    image.load()
    assert max(asked.values()) == 1
