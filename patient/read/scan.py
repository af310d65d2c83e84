"""Folders looked through for DICOM objects, headers alone, in threads: every file counts or is a problem by name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from patient.errors import InputError, NotDicom, printable
from patient.read.headers import NEVER_CLAIMED, Header, read_header
from patient.read.index import IMAGES, Index, Problem, SeriesEntry
from patient.read.reading import reading
from patient.read.remains import remains

THREADS = 8
"""Opening files waits for disks and shares more than it computes."""


def scan(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Index:
    """Everything DICOM below `folder`, by header, in threads. Links are followed only to files; nothing is written.

    Files that are not DICOM are left out; those that claim to be and cannot be read are `problems`, as are folders that
    cannot be listed. What cannot be read is also named by the image that it may be a slice of: by its UID where its bytes
    tell, else by its folder.

    Args:
        folder: a folder, or one file.
        progress: called with files read and files there are.

    Raises:
        InputError: the folder is not there.
    """
    return scan_all((folder,), progress)


def scan_all(folders: Sequence[Path], progress: Callable[[int, int], None] = lambda done, total: None) -> Index:
    """As `scan`, of several folders or files together.

    Raises:
        InputError: one of them is not there.
    """
    problems: list[Problem] = []
    paths = [path for folder in folders for path in _files(folder, problems)]
    objects: list[_Object] = []
    unlisted: list[Problem] = []
    with ThreadPoolExecutor(THREADS) as threads:
        for done, read in enumerate(threads.map(_attempt, paths), start=1):
            if isinstance(read, _Object):
                objects.append(read)
            elif isinstance(read, Problem):
                (unlisted if read.error.what == NEVER_CLAIMED else problems).append(read)
            progress(done, len(paths))
    groups: dict[tuple[str, str], list[_Object]] = defaultdict(list)
    for one in objects:
        groups[_series_uid(one.header), one.header.text("Modality")].append(one)
    series = [_entry(uid, modality, group) for (uid, modality), group in sorted(groups.items())]
    problems += _among_slices(unlisted, series)
    known = {entry.uid for entry in series}
    return Index(tuple(_with_unreadable(entry, problems, known) for entry in series), tuple(problems))


@dataclass(frozen=True, eq=False)
class _Object:
    header: Header
    references: frozenset[str]


def _attempt(path: Path) -> _Object | Problem | None:
    """What a file holds, or why it cannot be told; None where it is no file."""
    try:
        with reading(path):
            if not path.is_file():
                return None
            header = read_header(path)
        with header.reading():
            _refuse_without_pixels(header)
            pointers = header.text("Modality") in _POINTERS
            return _Object(header, frozenset(_references(header.dataset)) if pointers else frozenset())
    except InputError as error:
        _forget_frames(error)
        return Problem(path, error, remains(path))


def _forget_frames(error: BaseException | None) -> None:
    """What an error came through holds all that was read until then, and the error is kept as long as the index."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


_IMAGE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "2.1", "4", "4.1", "128", "130"))
"""SOP classes of CT, MR and PET, single-frame and enhanced."""


def _refuse_without_pixels(header: Header) -> None:
    """A slice that ends before its pixels may end before it says which series it is of."""
    sop_class = header.text("SOPClassUID")
    is_image = sop_class in _IMAGE_CLASSES or (not sop_class and header.text("Modality") in IMAGES)
    if is_image and not header.has_pixels:
        raise NotDicom("Is an image without pixels: cut short", where=header.path.name, remedy="Send it again")


def _files(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    """Every name below a folder that may be a file's; folders that cannot be listed become problems."""
    try:
        if not folder.exists():
            raise InputError("No such file or folder", where=folder.name)
        alone = folder.is_file()
    except OSError as error:
        raise InputError(f"Cannot be looked into: {error.strerror}", where=folder.name) from error
    if alone:
        yield folder
        return

    def unlisted(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or folder))
        problems.append(Problem(path, InputError(f"Folder cannot be listed: {error.strerror}", where=path.name)))

    for root, folders, names in os.walk(folder, onerror=unlisted):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if name != "DICOMDIR" and not name.startswith("."))


def _among_slices(unlisted: Iterable[Problem], series: Iterable[SeriesEntry]) -> list[Problem]:
    """Files that do not begin like DICOM, and lie among an image's slices under a name like theirs: slices, destroyed."""
    slices = {(path.parent, _digits_left_out(path)) for entry in series if entry.modality in IMAGES for path in entry.paths}
    return [
        replace(one, error=NotDicom("Not DICOM, and named like the slices beside it", where=one.path.name))
        for one in unlisted
        if (one.path.parent, _digits_left_out(one.path)) in slices
    ]


def _digits_left_out(path: Path) -> str:
    return re.sub(r"\d+", "#", path.name)


def _with_unreadable(entry: SeriesEntry, problems: Iterable[Problem], known: Container[str]) -> SeriesEntry:
    """An image with the files that may be slices of it: by UID, or of none of the known series and in one folder with it."""
    if entry.modality not in IMAGES:
        return entry
    folders = {path.parent for path in entry.paths}
    mine = [
        problem
        for problem in problems
        if (left := problem.remains).series_uid == entry.uid
        or (left.series_uid not in known and left.modality in ("", entry.modality) and problem.path.parent in folders)
    ]
    return replace(entry, unreadable=tuple(mine))


def _series_uid(header: Header) -> str:
    """The series' UID; without one, files of one study, frame and folder are taken for a series of their own."""
    if said := header.text("SeriesInstanceUID"):
        return said
    shared = [header.text(k) for k in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "Modality")]
    return generate_uid(entropy_srcs=[*shared, printable(header.path.parent)])


def _entry(uid: str, modality: str, objects: Iterable[_Object]) -> SeriesEntry:
    ordered = sorted(objects, key=lambda one: one.header.path)
    pointed_to = frozenset[str]().union(*(one.references for one in ordered))
    return SeriesEntry(uid, modality, tuple(one.header for one in ordered), pointed_to)


_POINTERS = frozenset({"RTSTRUCT", "RTDOSE", "RTPLAN", "REG"})
_POINTING = ("ReferencedSOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
_NOT_FOLLOWED = 0x30060039


def _references(dataset: Dataset, depth: int = 0) -> set[str]:
    """UIDs that a dataset's sequences point to; nothing else is converted.

    Loops (ROI Contour Sequence) are not walked: their planes are listed once for the whole set.
    """
    found = {str(uid) for keyword in _POINTING if depth and (uid := dataset.get(keyword))}
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts every element
        vr = dataset.get_item(tag).VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
        if vr == "SQ" and tag != _NOT_FOLLOWED:
            for item in dataset[tag].value or ():
                found |= _references(item, depth + 1)
    return found
