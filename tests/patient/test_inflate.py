"""Deflated files: read like any other, and never expanded beyond measure."""

import io
import tracemalloc
import zlib

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from patient.errors import InputError
from patient.read.headers import read_header
from patient.read.images import open_folder, open_image
from patient.read.inflate import ALWAYS, MIB, MOST, RATIO, Inflating, most_expanded
from patient.read.scan import scan
from tests.making import phantom, write_ct

HU = phantom((4, 24, 28))


def _deflated(path, change=lambda dataset: None):
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    change(dataset)
    dataset.save_as(path)
    return path


def test_a_stream_reads_seeks_and_ends_like_the_file_it_was(tmp_path):
    whole = np.random.default_rng(2).integers(0, 50, 300_000, dtype=np.uint8).tobytes()
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    (path := tmp_path / "z").write_bytes(squeezer.compress(whole) + squeezer.flush())
    with path.open("rb") as file:
        stream, plain = Inflating(file, "z"), io.BytesIO(whole)
        for seek, size in [
            ((100, 0), 7),
            ((-5, 1), 70_000),
            ((250_000, 0), 60_000),
            ((3, 0), 1),
            ((299_999, 0), 5),
            ((0, 0), -1),
        ]:
            assert stream.seek(*seek) == plain.seek(*seek)
            assert stream.read(size) == plain.read(size)
            assert stream.tell() == plain.tell()


def test_pixels_and_padding_of_a_deflated_series_are_the_same(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    for path in folder.iterdir():
        _deflated(path)
    assert (open_folder(folder).load().array == HU).all()


def test_a_header_is_read_without_inflating_the_pixels(tmp_path):
    def grow(dataset):
        dataset.Rows = dataset.Columns = 4000
        dataset.PixelData = bytes(2 * 4000 * 4000)

    path = _deflated(next(write_ct(tmp_path / "ct", HU).iterdir()), grow)
    tracemalloc.start()
    header = read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert header.dataset.Rows == 4000
    assert peak < 2 * MIB


def _bomb(path, tag, size=200 * MIB):
    """A deflated file in which one element, first of all or the pixels, holds nothing but zeros."""
    explicit = path.read_bytes()
    dataset = explicit[144 + int.from_bytes(explicit[140:144], "little") : explicit.index(b"\xe0\x7f\x10\x00OW")]
    deflated = _deflated(path).read_bytes()
    lead = tag + b"OB\0\0" + size.to_bytes(4, "little")
    squeezer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [deflated[: 144 + int.from_bytes(deflated[140:144], "little")]]
    parts.append(squeezer.compress(dataset + lead if tag == PIXELS else lead))
    parts += [squeezer.compress(bytes(MIB)) for _ in range(size // MIB)]
    parts += [squeezer.compress(b"" if tag == PIXELS else dataset), squeezer.flush()]
    path.write_bytes(b"".join(parts))
    return path


PIXELS, PRIVATE = b"\xe0\x7f\x10\x00", b"\x09\x00\x01\x10"


def test_what_expands_beyond_measure_is_its_files_problem_and_takes_no_memory(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    path = _bomb(sorted(folder.iterdir())[0], PRIVATE)
    assert path.stat().st_size < MIB
    tracemalloc.start()
    (problem,) = scan(folder).problems
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.path == path
    assert "Expands to more than" in problem.error.what
    assert peak < 3 * most_expanded(path.stat().st_size)


def test_pixels_that_expand_beyond_measure_are_never_inflated(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    path = _bomb(sorted(folder.iterdir())[0], PIXELS)
    tracemalloc.start()
    index = scan(folder)
    image = open_image(index.of("CT")[0])
    assert (image.load().array[:, 0, 0] == HU[:, 0, 0]).sum() >= 3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < 2 * MIB
    assert peak < 8 * MIB


def test_limits_grow_with_the_file_and_end():
    assert most_expanded(1000) == ALWAYS
    assert most_expanded(10 * MIB) == RATIO * 10 * MIB
    assert most_expanded(1000 * MIB) == MOST


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_taken(tmp_path):
    def grow(k, dataset):
        dataset.Rows = dataset.Columns = 60000

    folder = write_ct(tmp_path / "ct", HU, grow)
    image = open_folder(folder)
    with pytest.raises(InputError, match="cut short"):
        image.load()


def test_files_that_cannot_be_read_leave_nothing_of_what_was_read_of_them_in_memory(tmp_path):
    (tmp_path / "cut.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    (problem,) = scan(tmp_path).problems
    assert problem.error.__traceback__ is None
