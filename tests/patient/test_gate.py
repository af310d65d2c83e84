import copy

import pydicom
import pytest

from patient.conformance.check import check_file
from patient.conformance.gate import admit_names, passed
from patient.errors import InputError, OutputRefused
from patient.outline import loops_of_mask
from patient.read.images import open_folder
from patient.read.rtstruct import read_structure_set
from patient.structures import Structure, StructureSet
from patient.volume import Volume
from patient.write.rtstruct import write_structure_set
from tests.making import phantom, write_ct

HU = phantom((6, 16, 20))


def _body(image, name="Body"):
    return Structure(name, algorithm="MANUAL", drawn=loops_of_mask(Volume(HU > -500, image.geometry)))


def _clinic(image, path, spoil):
    """A set that a person drew, with a fault."""
    write_structure_set(path, StructureSet((_body(image, "Theirs"), _body(image, "Also theirs"))), image, version="0")
    dataset = pydicom.dcmread(path)
    spoil(dataset.ROIContourSequence[0].ContourSequence)
    dataset.save_as(path)
    return read_structure_set(path).on(image.geometry)


def test_a_contour_twice_in_the_clinics_own_structure_is_named_and_does_not_stop_ours(tmp_path):
    image = open_folder(write_ct(tmp_path / "small", HU))
    kept = _clinic(image, tmp_path / "rs.dcm", lambda loops: loops.append(copy.deepcopy(loops[0])))
    out = tmp_path / "out.dcm"
    write_structure_set(out, kept.with_added(_body(image, "Ours")), image, version="0")
    report = passed(out, image, "standard", kept=kept, source=tmp_path / "rs.dcm")
    assert report.errors == ()
    assert any(r.code == "duplicate_loop" and r.where == "Theirs" and "existing" in r.what for r in report.warnings)


def test_the_same_fault_in_a_structure_of_ours_is_refused(tmp_path):
    image = open_folder(write_ct(tmp_path / "small", HU))
    kept = _clinic(image, tmp_path / "rs.dcm", lambda loops: None)
    body = _body(image, "Ours")
    twice = Structure("Ours", drawn=((body.drawn or ()) * 2))
    write_structure_set(tmp_path / "out.dcm", kept.with_added(twice), image, version="0")
    with pytest.raises(OutputRefused, match="Ours"):
        passed(tmp_path / "out.dcm", image, "standard", kept=kept, source=tmp_path / "rs.dcm")


def test_a_kept_contour_that_was_not_written_is_refused(tmp_path):
    image = open_folder(write_ct(tmp_path / "small", HU))
    kept = _clinic(image, tmp_path / "rs.dcm", lambda loops: None)
    write_structure_set(tmp_path / "out.dcm", kept, image, version="0")
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    dataset.ROIContourSequence[1].ContourSequence.pop()
    dataset.save_as(tmp_path / "out.dcm")
    with pytest.raises(OutputRefused, match="Also theirs: 6 contours were kept, and 5 were written"):
        passed(tmp_path / "out.dcm", image, "standard", kept=kept, source=tmp_path / "rs.dcm")


@pytest.mark.filterwarnings("ignore")
def test_a_fault_of_the_images_own_header_is_warned_of_and_refuses_nothing(tmp_path):
    def long_id(k, d):
        d.StudyID, d.AccessionNumber = "12345678901234567", "A" * 20

    image = open_folder(write_ct(tmp_path / "ct", HU, long_id))
    write_structure_set(tmp_path / "out.dcm", StructureSet((_body(image),)), image, version="0")
    report = passed(tmp_path / "out.dcm", image, "standard")
    assert {r.where for r in report.warnings if "as in its image" in r.what} == {"StudyID", "AccessionNumber"}


def test_contours_that_enclose_nothing_are_an_error(tmp_path):
    image = open_folder(write_ct(tmp_path / "ct", HU))

    def flat(loops):
        for loop in loops:
            x, y, z = (float(v) for v in loop.ContourData[:3])
            loop.ContourData, loop.NumberOfContourPoints = [x, y, z, x + 5, y, z, x + 9, y, z], 3

    _clinic(image, tmp_path / "rs.dcm", flat)
    assert ("no_area", "Theirs") in {(r.code, r.where) for r in check_file(tmp_path / "rs.dcm", image=image).errors}


def test_names_that_the_gate_would_refuse_are_told_before_work():
    with pytest.raises(InputError, match="more than 64 characters"):
        admit_names([Structure("A" * 65)], "standard")
    with pytest.raises(InputError, match="called so"):
        admit_names([Structure("Heart"), Structure("HEART")], "standard")
    admit_names([Structure("A" * 64)], "standard")
