"""What lies in a folder: patients, studies and series of a tree that may hold anything. Headers only."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from patient.errors import InputError, NotDicom
from patient.read.headers import Header, read_header

THREADS = 8
"""Opening files waits for disks and shares more than it computes."""


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why; files that never claimed to be DICOM are no problem."""

    path: Path
    error: InputError


@dataclass(frozen=True, eq=False)
class SeriesEntry:
    """The files of one series as their headers say; whether they make an image is asked by `open_image`.

    Args:
        uid: Series Instance UID; where the files have none, one made from what they share.
        headers: in order of file name.
        references: SOP, series and frame of reference UIDs that its objects point to (of RTSTRUCT, RTDOSE, RTPLAN, REG).
    """

    uid: str
    modality: str
    headers: tuple[Header, ...] = field(repr=False)
    references: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def study_uid(self) -> str:
        return self.headers[0].text("StudyInstanceUID")

    @property
    def frame_of_reference(self) -> str:
        return self.headers[0].text("FrameOfReferenceUID")

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        return tuple(sorted({header.text("SOPInstanceUID") for header in self.headers}))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(header.path for header in self.headers)


@dataclass(frozen=True)
class Study:
    uid: str
    series: tuple[SeriesEntry, ...]


@dataclass(frozen=True)
class Patient:
    """Grouped by Patient ID, which is for grouping and a case's own folder: never for a log or a path."""

    patient_id: str = field(repr=False)
    studies: tuple[Study, ...]


@dataclass(frozen=True)
class Index:
    """All that was found in a folder."""

    series: tuple[SeriesEntry, ...]
    problems: tuple[Problem, ...]

    @property
    def patients(self) -> tuple[Patient, ...]:
        """Patients -> studies -> series, each sorted by its id."""
        tree: dict[str, dict[str, list[SeriesEntry]]] = defaultdict(lambda: defaultdict(list))
        for entry in self.series:
            tree[entry.headers[0].text("PatientID")][entry.study_uid].append(entry)
        return tuple(
            Patient(patient, tuple(Study(uid, tuple(series)) for uid, series in sorted(studies.items())))
            for patient, studies in sorted(tree.items())
        )

    def of(self, *modalities: str) -> tuple[SeriesEntry, ...]:
        """The series of these modalities."""
        return tuple(entry for entry in self.series if entry.modality in modalities)


def scan(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> Index:
    """Everything DICOM below `folder`, by header, in threads. Links are followed only to files; nothing is written.

    Files that are not DICOM are left out; those that claim to be and cannot be read are `problems`.

    Args:
        folder: a folder, or one file.
        progress: called with files read and files there are.

    Raises:
        InputError: the folder is not there.
    """
    if not folder.exists():
        raise InputError("No such file or folder", where=folder.name)
    paths = [folder] if folder.is_file() else list(_files(folder))
    headers: list[Header] = []
    problems: list[Problem] = []
    with ThreadPoolExecutor(THREADS) as threads:
        for done, (path, read) in enumerate(zip(paths, threads.map(_attempt, paths), strict=True), start=1):
            if isinstance(read, Header):
                headers.append(read)
            elif read.what != NEVER_CLAIMED:
                problems.append(Problem(path, read))
            progress(done, len(paths))
    groups: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for header in headers:
        groups[_series_uid(header), header.text("Modality")].append(header)
    series = [_entry(uid, modality, group) for (uid, modality), group in sorted(groups.items())]
    return Index(tuple(series), tuple(problems))


NEVER_CLAIMED = "Not a DICOM file"


def _attempt(path: Path) -> Header | NotDicom:
    try:
        return read_header(path)
    except NotDicom as error:
        return error


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and name != "DICOMDIR" and not name.startswith("."):
                yield path


def _series_uid(header: Header) -> str:
    """The series' UID; without one, files of one study, frame and folder are taken for a series of their own."""
    said = header.text("SeriesInstanceUID")
    shared = [header.text(k) for k in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "Modality")]
    return said or generate_uid(entropy_srcs=[*shared, str(header.path.parent)])


def _entry(uid: str, modality: str, headers: Iterable[Header]) -> SeriesEntry:
    ordered = tuple(sorted(headers, key=lambda header: header.path))
    pointed_to: set[str] = set()
    if modality in _POINTERS:
        pointed_to.update(*(_references(header.dataset) for header in ordered))
    return SeriesEntry(uid, modality, ordered, frozenset(pointed_to))


_POINTERS = frozenset({"RTSTRUCT", "RTDOSE", "RTPLAN", "REG"})
_POINTING = ("ReferencedSOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
_NOT_FOLLOWED = "ROIContourSequence"


def _references(dataset: Dataset, depth: int = 0) -> set[str]:
    """UIDs that a dataset's sequences point to. Loops are not walked: their planes are listed once for the whole set."""
    found: set[str] = set()
    for element in dataset:
        if element.VR == "SQ" and element.keyword != _NOT_FOLLOWED:
            for item in element.value:
                found |= _references(item, depth + 1)
        elif depth and element.keyword in _POINTING and element.value:
            found.add(str(element.value))
    return found
