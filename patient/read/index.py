"""What lies in a folder: patients, studies and series of a tree that may hold anything. Headers only."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from patient.errors import InputError, MixedSeries
from patient.read.headers import Header
from patient.read.remains import Remains

IMAGES = ("CT", "MR", "PT")


@dataclass(frozen=True)
class Problem:
    """A file or folder that could not be used, and why; files that never claimed to be DICOM are no problem.

    `remains` is what the bytes of an unreadable file still tell.
    """

    path: Path
    error: InputError
    remains: Remains = field(default_factory=Remains)


@dataclass(frozen=True, eq=False)
class SeriesEntry:
    """The files of one series as their headers say; whether they make an image is asked by `open_image`.

    Args:
        uid: Series Instance UID; where the files have none, one made from what they share.
        headers: in order of file name.
        references: SOP, series and frame of reference UIDs that its objects point to (of RTSTRUCT, RTDOSE, RTPLAN, REG).
        unreadable: files that belong to it, or may, and could not be read: a slice of it may be missing.
    """

    uid: str
    modality: str
    headers: tuple[Header, ...] = field(repr=False)
    references: frozenset[str] = field(default=frozenset(), repr=False)
    unreadable: tuple[Problem, ...] = field(default=(), repr=False)

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

    @property
    def told(self) -> str:
        """What a person tells it by, without a word of the patient: UID, number, slices, when and how it was made."""
        first = self.headers[0]
        said = (
            ("series", first.text("SeriesNumber")),
            ("acquired", f"{first.text('AcquisitionDate')} {first.text('AcquisitionTime').partition('.')[0]}".strip()),
            ("kernel", first.text("ConvolutionKernel")),
        )
        words = [f"{what} {value}" for what, value in said if value]
        return f"{self.uid} ({', '.join([*words, f'{len(self.headers)} files'])})"


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

    def one(self, *modalities: str, uid: str = "", where: str = "", choice: str = "") -> SeriesEntry:
        """The one series that is meant: of the first modality that is there, or of a given UID.

        Args:
            modalities: that may be meant, the preferred one first.
            uid: Series Instance UID; empty where there shall be no more than one.
            where: the folder's name, for messages.
            choice: option of the command by which one can be named, for messages; empty where there is none.

        Raises:
            MixedSeries: several, each named.
            InputError: none.
        """
        found = [entry for entry in self.of(*modalities) if uid in ("", entry.uid)]
        found = next(filter(None, ([e for e in found if e.modality == modality] for modality in modalities)), found[:0])
        if len(found) > 1:
            raise MixedSeries(
                f"{len(found)} {found[0].modality} series where one is asked for",
                where=": ".join(filter(None, (where, "; ".join(e.told for e in found)))),
                remedy=f"{f'Name one by its UID ({choice}), or give' if choice else 'Give'} a folder that holds it alone",
            )
        if not found:
            broken = f"; {len(self.problems)} unreadable, as {self.problems[0].error.what}" if self.problems else ""
            raise InputError(f"No {' or '.join(modalities)}{f' series {uid}' if uid else ''} found{broken}", where=where)
        return found[0]
