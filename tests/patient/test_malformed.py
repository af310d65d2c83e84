"""Objects with malformed values: each is read, or refused by an error that names the file."""

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from data_samples.dicom import Identity, write_dose, write_plan
from patient.conformance.check import check_file
from patient.errors import InputError
from patient.geometry import Geometry
from patient.outline import loops_of_mask
from patient.read.images import open_folder
from patient.read.rtdose import read_dose
from patient.read.rtplan import read_plan
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure, StructureSet
from patient.volume import Volume
from patient.write.rtstruct import write_structure_set
from tests.making import phantom, write_ct

WRONG = (b"A1", b"1,5 ", b"\\", b"1e999 ", b"nan ", b"\xff\xfe\x00\x01", b"12.5", b"9" * 40, b"")
"""Letters, a decimal comma, too many values, no finite number, no text, no whole number, too long, nothing."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    image = open_folder(write_ct(folder / "ct", phantom((4, 12, 12))))
    mask = Volume(phantom((4, 12, 12)) > 0, image.geometry)
    made = Structure("Body", interpreted_type="EXTERNAL", color=(1, 2, 3), drawn=loops_of_mask(mask))
    write_structure_set(folder / "rtstruct.dcm", StructureSet((made,)), image, version="0")
    who = Identity(("malformed",), "20260101", "Planning CT")
    write_plan(folder / "rtplan.dcm", who, "1.2.3", (0.0, 0.0, 0.0), 30, {1: ("PTV", 60.0)})
    grid = Geometry((3, 4, 5), (3.0, 3.0, 3.0))
    write_dose(folder / "rtdose.dcm", Volume(np.ones(grid.shape, np.float32), grid), who, "1.2.4")
    return {"rtstruct": folder / "rtstruct.dcm", "rtplan": folder / "rtplan.dcm", "rtdose": folder / "rtdose.dcm"}


READERS = {"rtstruct": read_structure_set, "rtplan": read_plan, "rtdose": read_dose}


def _elements(dataset):
    for tag in list(dataset.keys()):
        yield dataset, tag
        if dataset[tag].VR == "SQ":
            for item in dataset[tag].value[:2]:
                yield from _elements(item)


def _read_or_refused(read, path):
    try:
        read(path)
    except InputError as error:
        return error if path.name in error.where else pytest.fail(f"The error does not name the file: {error}")
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_value_in_any_attribute_is_read_or_refused_by_file(files, tmp_path, kind):
    places = len(list(_elements(pydicom.dcmread(files[kind]))))
    assert places > 30
    for place in range(places):
        for n, wrong in enumerate(WRONG):
            dataset = pydicom.dcmread(files[kind])
            holder, tag = list(_elements(dataset))[place]
            if tag == 0x7FE00010 or (place + n) % 3:
                continue
            holder._dict[Tag(tag)] = RawDataElement(Tag(tag), None, len(wrong), wrong, 0, True, True)
            path = tmp_path / f"{place}-{n}.dcm"
            try:
                dataset.save_as(path)
            except Exception:  # pydicom itself cannot write such a file
                continue
            _read_or_refused(READERS[kind], path)
            if kind == "rtstruct":
                _read_or_refused(check_file, path)
            path.unlink()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_flipped_bytes_and_cut_files_are_read_or_refused_by_file(files, tmp_path, kind):
    whole, rng = files[kind].read_bytes(), np.random.default_rng(7)
    for n in range(120):
        spoilt = bytearray(whole if n % 4 else whole[: rng.integers(1, len(whole))])
        for at in rng.integers(0, len(spoilt), size=rng.integers(1, 12)):
            spoilt[at] = rng.integers(256)
        path = tmp_path / f"{n}.dcm"
        path.write_bytes(spoilt)
        _read_or_refused(READERS[kind], path)
        if kind == "rtstruct":
            _read_or_refused(check_file, path)


def _spoilt(path, tmp_path, spoil):
    dataset = pydicom.dcmread(path)
    spoil(dataset)
    dataset.save_as(tmp_path / "spoilt.dcm")
    return tmp_path / "spoilt.dcm"


def _raw(item, keyword, value):
    item._dict[Tag(keyword)] = RawDataElement(Tag(keyword), None, len(value), value, 0, True, True)


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_is_needed_is_refused_with_attribute_and_item_and_text_is_not_shown(files, tmp_path):
    path = _spoilt(files["rtstruct"], tmp_path, lambda d: _raw(d.StructureSetROISequence[0], "ROINumber", b"A1"))
    error = _read_or_refused(read_structure_set, path)
    assert error is not None
    assert "ROI Number holds a value, which is no number" in error.what
    assert error.where == "spoilt.dcm, Structure Set ROI Sequence item 1"


@pytest.mark.filterwarnings("ignore")
def test_a_number_that_is_not_needed_is_ignored_with_a_note(files, tmp_path):
    path = _spoilt(files["rtstruct"], tmp_path, lambda d: _raw(d.ROIContourSequence[0], "ROIDisplayColor", b"red "))
    read = read_structure_set(path)
    assert read["Body"].color is None
    assert read["Body"].loops
    assert any("ROI Display Color holds a value" in note and "item 1" in note for note in read.notes)
    assert path.name not in " ".join(read.notes)


@pytest.mark.filterwarnings("ignore")
def test_a_plan_whose_prescription_is_no_number_is_refused_by_name(files, tmp_path):
    path = _spoilt(files["rtplan"], tmp_path, lambda d: _raw(d.DoseReferenceSequence[0], "TargetPrescriptionDose", b"60,0"))
    error = _read_or_refused(read_plan, path)
    assert error is not None
    assert "Target Prescription Dose holds '60,0'" in error.what
