"""What tells that a slice is missing, and what becomes of files and folders that cannot be read."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from patient.errors import InputError, MixedSeries
from patient.read.completeness import UNTOLD, lacking, remarks, stated_completeness
from patient.read.images import open_folder, open_image
from patient.read.scan import scan
from tests.making import phantom, write_ct
from tests.pipelines.fractions import changed

HU = phantom()


def _slices(folder):
    """The files in the order of their slices."""
    return sorted(folder.iterdir(), key=lambda path: int(path.stem.partition("-")[2]))


def _entry(folder):
    (entry,) = scan(folder).of("CT")
    return entry


def _cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x20\x00\x32\x00DS") + 20])


def _without_uid(path):
    path.write_bytes(path.read_bytes()[:200])


def _zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [_cut, _without_uid, _zeroed, _empty])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_slice_that_cannot_be_read_is_missed_by_its_series(ct_folder, spoil, place):
    spoil(_slices(ct_folder)[place])
    entry = _entry(ct_folder)
    assert len(entry.unreadable) == 1
    (said,) = lacking(entry)
    assert "1 file" in said
    if place != 5:
        assert open_image(entry).doubts == (said,)


def test_a_slice_cut_anywhere_is_refused_or_missed_by_its_series(ct_folder):
    path = _slices(ct_folder)[-1]
    whole = path.read_bytes()
    for length in range(140, len(whole), 61):
        path.write_bytes(whole[:length])
        with suppress(InputError):
            image = open_image(_entry(ct_folder))
            image.load()
            assert image.doubts


def test_a_slice_that_may_not_be_opened_is_missed_by_its_series(ct_folder, monkeypatch):
    path, plain = _slices(ct_folder)[-1], Path.open

    def opened(self, *how, **more):
        if self == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(self, *how, **more)

    monkeypatch.setattr(Path, "open", opened)
    index = scan(ct_folder)
    assert [problem.error.what for problem in index.problems] == ["Cannot be read: Input/output error"]
    assert lacking(index.of("CT")[0])


def test_of_two_series_in_a_folder_a_broken_file_is_missed_by_the_one_it_names(tmp_path):
    folder = write_ct(tmp_path / "ct", HU, tag="a")
    _cut(_slices(folder)[-1])
    for path in write_ct(tmp_path / "other", HU, tag="b").iterdir():
        path.rename(folder / f"b{path.name}")
    one, other = sorted(scan(folder).of("CT"), key=lambda entry: len(entry.headers))
    assert len(one.unreadable) == 1
    assert not other.unreadable


def test_other_peoples_files_beside_the_slices_are_no_slices(ct_folder):
    (ct_folder / "notes.txt").write_text("nothing")
    (ct_folder / "thumbs.db").write_bytes(bytes(500))
    assert not lacking(_entry(ct_folder))


def test_a_series_that_is_told_to_be_whole_misses_no_strange_file(tmp_path):
    folder = write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "ImagesInAcquisition", 12))
    (folder / "empty.dcm").touch()
    entry = _entry(folder)
    assert stated_completeness(entry)
    assert not lacking(entry)


@pytest.mark.parametrize("keyword", ["ImagesInAcquisition", "NumberOfSeriesRelatedInstances"])
def test_fewer_slices_than_the_headers_say_are_told(tmp_path, keyword):
    folder = write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, keyword, 12))
    assert not lacking(_entry(folder))
    for path in _slices(folder)[7:]:
        path.unlink()
    (said,) = lacking(_entry(folder))
    assert said.startswith("7 of 12 slices are there")
    assert open_folder(folder).doubts == (said,)


def test_where_no_header_says_how_many_slices_there_are_this_is_said_and_no_doubt(ct_folder):
    image = open_folder(ct_folder)
    assert (UNTOLD in image.notes, image.doubts) == (True, ())
    for path in _slices(ct_folder):
        changed(path, NumberOfSeriesRelatedInstances=12)
    assert UNTOLD not in open_folder(ct_folder).notes


def test_images_of_each_acquisition_are_counted_by_themselves(tmp_path):
    def change(k, dataset):
        dataset.AcquisitionNumber, dataset.ImagesInAcquisition = (1, 5) if k < 5 else (2, 7)

    folder = write_ct(tmp_path / "ct", HU, change)
    assert stated_completeness(_entry(folder))
    _slices(folder)[-1].unlink()
    assert lacking(_entry(folder)) == ("6 of 7 slices are there (Images in Acquisition, acquisition 2)",)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (lambda k: k + 1, ()),
        (lambda k: k, ()),
        (lambda k: 3 * k + 1, ()),
        (lambda k: k + 45, ("Instance Numbers begin with 45: slices before it may be missing",)),
        (lambda k: k + 1 + (k > 6), ("Instance Numbers 1 to 13 have 1 gaps",)),
        (lambda k: 1, ()),
    ],
)
def test_instance_numbers_are_remarked_upon_and_no_more(tmp_path, number, said):
    folder = write_ct(tmp_path / "ct", HU, lambda k, d: setattr(d, "InstanceNumber", number(k)))
    entry = _entry(folder)
    assert remarks(entry) == (UNTOLD, *said)
    image = open_image(entry)
    assert set(said) <= set(image.notes)
    assert not image.doubts


def test_a_folder_that_may_not_be_listed_is_a_problem_and_the_others_are_read(tmp_path, monkeypatch):
    write_ct(tmp_path / "a", HU)
    (tmp_path / "closed").mkdir()
    plain = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    index = scan(tmp_path)
    assert len(index.of("CT")) == 1
    assert [(p.path.name, p.error.what) for p in index.problems] == [
        ("closed", "Folder cannot be listed: Permission denied")
    ]


def test_a_path_that_is_too_long_is_a_problem_and_the_others_are_read(tmp_path):
    write_ct(tmp_path / "a", HU[:2])
    here, deep = Path.cwd(), "d" * 250
    os.chdir(tmp_path)
    try:
        for _ in range(17):
            Path(deep).mkdir()
            os.chdir(deep)
        Path("slice.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 40)
    finally:
        os.chdir(here)
    index = scan(tmp_path)
    assert len(index.of("CT")) == 1
    assert "too long" in index.problems[0].error.what


def test_a_name_that_is_no_utf8_is_read_and_written_down(tmp_path):
    folder = write_ct(tmp_path / "ct", HU)
    first, last = _slices(folder)[0], _slices(folder)[-1]
    first.rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9-0.dcm"))
    last.rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9-99.dcm"))
    assert len(open_folder(folder).instances) == 12
    _cut(next(path for path in folder.iterdir() if "-99" in path.name))
    (problem,) = scan(folder).problems
    assert str(problem.error).encode("utf-8")


def test_several_series_are_named_with_what_tells_them_apart_and_one_can_be_chosen(tmp_path):
    write_ct(tmp_path / "a", HU, lambda k, d: setattr(d, "SeriesNumber", 3), tag="a")
    write_ct(tmp_path / "b", HU[:5], lambda k, d: setattr(d, "SeriesNumber", 4), tag="b")
    with pytest.raises(MixedSeries, match=r"2 CT series.*series \d, acquired 20260101, \d+ files.*series \d") as caught:
        open_folder(tmp_path)
    assert "Test" not in str(caught.value)
    chosen = scan(tmp_path).of("CT")[1]
    assert open_folder(tmp_path, chosen.uid).series_uid == chosen.uid
    with pytest.raises(InputError, match=r"No CT or MR or PT series 1\.2\.3 found"):
        open_folder(tmp_path, "1.2.3")
