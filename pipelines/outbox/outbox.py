"""The outbox as a place: known by its mark, and without links, so that nothing is ever written anywhere else."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from patient.errors import InputError, OutOfResources, file_token
from patient.read.index import SeriesEntry
from pipelines.outbox.job_key import Whose
from pipelines.outbox.publish import CASES, COURSES, KEPT, WORK, unwritable, write_whole

MARK = ".recontour"
PRIVATE = "private"
_OURS = (WORK, CASES, KEPT, COURSES, PRIVATE)


@dataclass(frozen=True)
class Outbox:
    """One outbox, while a night works on it.

    Args:
        folder: of it.
        secret: what its mark holds: made at random with the outbox, and the same as long as it lives.
    """

    folder: Path
    secret: str

    def is_there(self) -> bool:
        """False where it was removed or its share unmounted: what stands at its path now is another folder."""
        try:
            return bool(self.secret) and (self.folder / MARK).read_text(encoding="ascii").strip() == self.secret
        except (OSError, ValueError):
            return False

    def must_be_there(self) -> None:
        """Raises OutOfResources where it has gone: nothing may be made at its path."""
        if not self.is_there():
            raise OutOfResources(
                "The outbox is no longer there",
                where=self.folder.name,
                why="Its mark is gone: it was removed, or its share unmounted, and nothing was made in its place",
                remedy="Bring it back and start again: the run resumes from its ledger",
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say in a sentence that the outbox has gone, whoever came upon it. Raises as `must_be_there`."""
        try:
            yield
        except (OSError, sqlite3.Error):
            self.must_be_there()
            raise

    def called(self, patient_id: str, key: Literal["none", "hash", "id"]) -> str:
        """What pages call a patient, as the site's settings say; empty for nothing, and without Patient ID."""
        return {"none": "", "hash": self.hashed(patient_id) if patient_id else "", "id": patient_id}[key]

    def hashed(self, text: str) -> str:
        """Groups what has one value in common; nobody without the mark can tell whether a value is behind it."""
        return self._keyed(text)[:8]

    def whose(self, patient_id: str, key: Literal["none", "hash", "id"]) -> Whose:
        """What documents of this outbox say of a patient; nobody without the mark can try Patient IDs until one fits."""
        return Whose(self.called(patient_id, key), self._keyed(f"recontour course {patient_id}"))

    def _keyed(self, text: str) -> str:
        return hmac.new(self.secret.encode(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def look_up(self, case: str, entry: SeriesEntry) -> None:
        """Keep what a case's hashes stand for, for the site alone: its patient, series and files."""
        said = {
            "case": case,
            "patient_id": entry.headers[0].text("PatientID"),
            "study_uid": entry.study_uid,
            "series_uid": entry.uid,
            "files": _tokens(entry.paths),
        }
        self._keep(f"{case}.json", json.dumps(said, indent=1))

    def look_up_files(self, paths: Iterator[Path]) -> None:
        """Keep what the hashes of files stand for that belong to no case."""
        self._keep("files.json", json.dumps(_tokens(paths), indent=1))

    def keep_log(self, case: str, text: str) -> None:
        """Keep what an error said in full, with names of files and values of headers."""
        self._keep(f"{case}.log", text)

    def _keep(self, name: str, text: str) -> None:
        path, content = self.folder / PRIVATE / name, text.encode("utf-8", "backslashreplace")
        with suppress(OSError):  # A help for people: no case fails for want of it.
            if path.is_file() and path.read_bytes() == content:
                return
            beside = path.with_name(f".{name}")
            beside.unlink(missing_ok=True)
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            beside.replace(path)


def refuse_links(folder: Path) -> None:
    """Before anything is opened.

    Raises:
        InputError: something of the outbox's own is a symbolic link; whoever follows it writes or deletes elsewhere.
    """
    if not folder.is_dir():
        return
    for inside in (folder, *(folder / name for name in _OURS)):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(inside) as entries:
            link = next((entry.name for entry in entries if entry.is_symlink()), None)
            if link is not None:
                raise InputError(
                    f"{link} in the outbox is a symbolic link",
                    where=folder.name,
                    why="Nothing is written or removed outside the outbox",
                    remedy="Remove the link; a folder on another disk can be mounted there",
                )


def opened(folder: Path) -> Outbox:
    """The outbox of a folder that is locked; it gets its mark where it is new.

    Raises:
        InputError: it cannot be written.
        OutOfResources: there is no room for its mark.
    """
    path = folder / MARK
    try:
        for name in (KEPT, COURSES):
            (folder / name).mkdir(exist_ok=True)
        (folder / PRIVATE).mkdir(mode=0o700, exist_ok=True)
        if not (path.is_file() and path.stat().st_size):  # An empty secret would let anybody make the hashes of patients.
            write_whole(path, secrets.token_hex(16) + "\n")
            path.chmod(0o600)
        return Outbox(folder, path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise unwritable(folder, error) from error


def _tokens(paths: Iterator[Path] | tuple[Path, ...]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(file_token(path), []).append(str(path))
    return found
