"""Compressed pictures: their own size and their header's are one, or nothing is decoded."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1

from patient.errors import PixelDataError
from patient.read.codestream import coded_size
from patient.read.headers import read_header
from patient.read.pixels import stored_values
from tests.making import write_ct

SIZE = (8, 10)


def _coded(kind: str, shape=SIZE, mode="L") -> bytes:
    out = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {"comment": b"\xff\xc0 before the frame"}
    Image.new(mode, (shape[1], shape[0])).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(("mode", "components"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_codestream_says_its_size(kind, mode, components):
    assert coded_size(_coded(kind, mode=mode)) == (*SIZE, components)


def test_a_jpeg_2000_file_with_its_boxes_says_its_size():
    out = io.BytesIO()
    Image.new("L", (SIZE[1], SIZE[0])).save(out, "JPEG2000")
    assert coded_size(out.getvalue()) == (*SIZE, 1)


@pytest.mark.parametrize("marker", [b"\xff\xc3", b"\xff\xf7"], ids=["lossless", "JPEG-LS"])
def test_frame_headers_of_the_lossless_kinds_are_known(marker):
    head = b"\xff\xd8\xff\xff\xe0\x00\x04ab" + marker + b"\x00\x0b\x0c" + b"\x02\x00\x01\x00\x01" + bytes(4)
    assert coded_size(head) == (512, 256, 1)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 3, b"\x00" * 64])
def test_what_says_no_size_gives_none(data):
    assert coded_size(data) is None


@pytest.mark.parametrize(
    ("syntax", "kind"), [(JPEGBaseline8Bit, "JPEG"), (JPEGLosslessSV1, "JPEG"), (JPEG2000Lossless, "JPEG2000")]
)
def test_a_picture_of_another_size_than_its_header_says_is_never_decoded(tmp_path, monkeypatch, syntax, kind):
    folder = write_ct(tmp_path / "ct", np.zeros((3, *SIZE), np.int16))
    path = sorted(folder.iterdir())[0]
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([_coded(kind, (4000, 4000))])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    decoded = []
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: decoded.append(self)))
    with pytest.raises(PixelDataError, match="the header says"):
        stored_values(read_header(path))
    assert not decoded
