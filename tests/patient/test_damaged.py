"""Images that are damaged or wrong in one attribute: each file is its own problem, by name, and never a traceback."""

import random
import struct
import warnings
from contextlib import suppress

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from patient.errors import InputError
from patient.read.headers import read_header
from patient.read.images import open_folder, open_image
from patient.read.pixels import stored
from patient.read.planes import planes_of
from patient.read.scan import scan
from tests.making import phantom, spoiled, write_ct

HU = phantom((4, 24, 28))


def _replace(path, tag, vr, value):
    """Put raw bytes into an element of an explicit little endian file."""
    data = path.read_bytes()
    lead = struct.pack("<HH", *tag) + vr
    at = data.index(lead)
    length = struct.unpack_from("<H", data, at + 6)[0]
    path.write_bytes(data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + length :])


@pytest.mark.parametrize(
    ("tag", "vr", "keyword"),
    [
        ((0x0028, 0x1052), b"DS", "Rescale Intercept"),
        ((0x0028, 0x1053), b"DS", "Rescale Slope"),
        ((0x0028, 0x0030), b"DS", "Pixel Spacing"),
        ((0x0020, 0x0032), b"DS", r"Image Position \(Patient\)"),
        ((0x0020, 0x0037), b"DS", r"Image Orientation \(Patient\)"),
    ],
)
def test_a_decimal_comma_is_refused_by_the_name_of_its_attribute(tmp_path, tag, vr, keyword):
    folder = write_ct(tmp_path / "ct", HU)
    path = sorted(folder.iterdir())[2]
    _replace(path, tag, vr, b"-1,5\\2\\3 ")
    with pytest.raises(InputError, match=rf"{keyword} holds .*-1,5.*, which is no number") as caught:
        open_folder(folder).load()
    assert path.name in caught.value.where


@pytest.mark.parametrize("value", [b"abc", b"abcd", b""])
def test_a_number_of_a_wrong_length_is_refused_by_the_name_of_its_attribute(tmp_path, value):
    folder = write_ct(tmp_path / "ct", HU)
    _replace(next(folder.iterdir()), (0x0028, 0x0010), b"US", value)
    with pytest.raises(InputError, match=r"Rows|no pixels"):
        open_folder(folder).load()


def test_an_attribute_that_is_not_needed_spoils_nothing(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    for path in folder.iterdir():
        _replace(path, (0x0018, 0x0050), b"DS", b"2,5 ")
        _replace(path, (0x0020, 0x0013), b"IS", b"one ")
        _replace(path, (0x0018, 0x0060), b"DS", b"120 kV")
    assert (open_folder(folder).load().array == HU).all()
    assert read_header(path).text("KVP") == "120 kV"


def test_a_file_that_ends_in_its_header_is_told_to_be_cut(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:700])
    (problem,) = scan(folder).problems
    assert problem.error.what == "Cut short within its header"


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_whatever_is_done_to_a_header_it_is_read_or_refused(tmp_path, syntax):
    folder = write_ct(tmp_path / "ct", HU)
    path = sorted(folder.iterdir())[1]
    if syntax is not None:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    whole = path.read_bytes()
    header_bytes = len(whole) if syntax is DeflatedExplicitVRLittleEndian else len(whole) - HU[0].size * 2
    rng, read = random.Random(11), 0
    warnings.simplefilter("ignore")
    for _ in range(100):
        path.write_bytes(spoiled(whole[:header_bytes], rng) + whole[header_bytes:])
        index = scan(folder)
        assert len(index.of("CT")) + len(index.problems) > 0
        for entry in index.series:
            with suppress(InputError):
                _ = entry.told, entry.study_uid, [(list(planes_of(h)), stored(h)) for h in entry.headers]
                read += np.isfinite(open_image(entry).load().array).all()
    assert read > 10
