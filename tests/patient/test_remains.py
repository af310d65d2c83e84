"""What the bytes of a file that cannot be parsed still tell of it."""

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from patient.read.remains import Remains, remains
from patient.read.scan import scan


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_cut_file_still_tells_whose_it_is_in_every_encoding(tmp_path, syntax):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.5", "1.2.9", "RTPLAN"
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "odd(1", "1.2.3", "1.2.34"
    dataset.RTPlanLabel = "a plan"
    path = tmp_path / "plan.dcm"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-2])
    assert remains(path) == Remains("RTPLAN", "odd(1", "1.2.3", "1.2.34")
    (problem,) = scan(tmp_path).problems
    assert problem.remains == remains(path)
    assert "odd" not in repr(problem)


def test_a_file_that_holds_nothing_of_dicom_tells_nothing(tmp_path):
    (tmp_path / "junk").write_bytes(bytes(range(256)) * 9)
    assert remains(tmp_path / "junk") == remains(tmp_path / "not there") == Remains()
