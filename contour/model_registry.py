"""A site's models: a folder in which each has its files, their SHA-256, its licence and its TG-263 names.

A model enters whole or not at all, after it has answered once. It is held against its record before every use, and against
the site's policy of licences. Digests and files lie in one folder: they show damage and mistakes; against somebody who may
write there, keep what `recontour models list --json` says elsewhere and compare.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from contour.licences import read_policy, refuse_licence
from contour.model import ModelCard
from contour.model_import import READERS, described, loaded, recognised
from contour.model_import.description import ABOUT, Described
from contour.model_import.trial import must_answer
from patient.durable import sync, sync_tree
from patient.errors import ModelError

if TYPE_CHECKING:
    from contour.network import LoadedModel

RECORD, FILES, POLICY = "record.json", "files", "policy.toml"
_PASSING = ".adding-"
_BLOCK = 1 << 20


class Record(BaseModel):
    """What the store knows of a model.

    Args:
        reader: which of `contour.model_import.READERS` reads its files.
        channels: which outputs of the network make up each structure.
        digest: SHA-256 over the digests of all files.
        files: place within the model's folder to SHA-256.
        added: when, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Literal[1] = 1
    reader: str
    card: ModelCard
    channels: dict[str, tuple[int, ...]]
    digest: str
    files: dict[str, str]
    added: datetime

    @property
    def name(self) -> str:
        """Of the model, its folder and its engine."""
        return self.card.name


@dataclass(frozen=True)
class Check:
    """What a look at a model's files gave.

    Args:
        problems: a sentence each; none if it may be used.
    """

    name: str
    problems: tuple[str, ...]


def registry_folder() -> Path:
    """`RECONTOUR_MODELS`, else `recontour/models` among the user's data."""
    if told := os.environ.get("RECONTOUR_MODELS"):
        return Path(told)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 - Path.home() raises without one
    return Path(data) / "recontour" / "models"


class ModelRegistry:
    """The models in one folder.

    Args:
        folder: made when the first model is added; None for `registry_folder()`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or registry_folder()

    def names(self) -> tuple[str, ...]:
        """Of all models, in order."""
        if not self.folder.is_dir():
            return ()
        return tuple(sorted(path.parent.name for path in self.folder.glob(f"[!.]*/{RECORD}")))

    def record(self, name: str) -> Record:
        """Of one model; none of its other files is opened.

        Raises:
            ModelError: no such model, or its record cannot be read.
        """
        path = self.folder / name / RECORD
        if name not in self.names():
            raise ModelError(
                f"No model {name!r} in the store", where=self.folder.name, remedy=f"There are: {', '.join(self.names())}"
            )
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ModelError(
                "The model's record cannot be read",
                where=name,
                remedy="Move its folder out of the store and add the model again",
            ) from error
        if record.name != name or record.reader not in READERS:
            raise ModelError("The model's record is of another model", where=name)
        return record

    def add(self, source: Path, *, kind: str = "", about: Path | None = None, licence: str = "", name: str = "") -> Record:
        """Copy a model into the store, once it was read, fitted its description and answered.

        Args:
            source: a model's folder or file.
            kind: of `contour.model_import.READERS`; empty to recognise it.
            about: TOML with what its files do not say.
            licence, name: instead of what the files or `about` say.

        Raises:
            ModelError: not usable, without a licence or with one that is refused, or already there.
        """
        kind, kept = recognised(source, kind)
        if about is not None:
            kept = {**kept, ABOUT: about}
        with self._adding() as folder:
            files = {place: _copied(path, folder / FILES / place) for place, path in sorted(kept.items())}
            digest = _digest_of(files)
            said = described(kind, folder / FILES, digest)
            card = _told(said.card, licence, name)
            self._may_enter(card)
            must_answer(loaded(kind, folder / FILES, Described(card, said.channels)))
            record = Record(
                reader=kind, card=card, channels=dict(said.channels), digest=digest, files=files, added=datetime.now(UTC)
            )
            (folder / RECORD).write_text(record.model_dump_json(indent=1), encoding="utf-8")
            sync_tree(folder)
            os.rename(folder, self.folder / card.name)  # noqa: PTH104 - the one call that is atomic
            sync(self.folder)
        return record

    def verify(self, name: str) -> Check:
        """Every file of a model against its digest, and its licence against the policy."""
        try:
            record = self.record(name)
            problems = list(self._damage(record))
            refuse_licence(record.card, read_policy(self.folder / POLICY))
        except ModelError as error:
            return Check(name, (str(error),))
        return Check(name, tuple(problems))

    def load(self, name: str) -> LoadedModel:
        """A model, ready to run.

        Raises:
            ModelError: a file is missing or changed, its licence is refused, or it cannot be read.
        """
        record = self.record(name)
        refuse_licence(record.card, read_policy(self.folder / POLICY))
        for problem in self._damage(record):
            raise ModelError(
                problem,
                where=name,
                why="A model that is not the one that was looked at may draw anything",
                remedy="Move its folder out of the store and add the model again from its source",
            )
        return loaded(record.reader, self.folder / name / FILES, Described(record.card, record.channels))

    def _damage(self, record: Record) -> Iterator[str]:
        folder = self.folder / record.name / FILES
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
        for place in sorted(there - set(record.files)):
            yield f"{place} was not there when the model was added"
        for place, digest in record.files.items():
            if place not in there:
                yield f"{place} is missing"
            elif (now := _digest(folder / place)) != digest:
                yield f"{place} was changed: SHA-256 {now[:12]}…, not {digest[:12]}…"
        if record.digest != _digest_of(record.files):
            yield "the record's digests do not fit together"

    def _may_enter(self, card: ModelCard) -> None:
        if not card.licence:
            raise ModelError(
                "Nobody said under which licence the weights are", where=card.name, remedy="Say it with --licence"
            )
        refuse_licence(card, read_policy(self.folder / POLICY))
        if Path(card.name).name != card.name or card.name.startswith("."):
            raise ModelError(f"{card.name!r} cannot be a folder's name", remedy="Give another with --name")
        if (self.folder / card.name).exists():
            raise ModelError(
                f"A model {card.name!r} is already in the store",
                remedy="Give another --name, or move its folder out of the store first",
            )

    @contextmanager
    def _adding(self) -> Iterator[Path]:
        """A folder to fill, gone afterwards unless it was renamed. One at a time; remains of those that died go first."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise ModelError(f"The store cannot be written: {error.strerror}", where=self.folder.name) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ModelError(
                    "Somebody else is adding a model", where=self.folder.name, remedy="Wait until it is done"
                ) from error
            for left in self.folder.glob(f"{_PASSING}*"):
                shutil.rmtree(left, ignore_errors=True)
            folder = self.folder / f"{_PASSING}{os.getpid()}-{time.time_ns()}"
            try:
                folder.mkdir()
                yield folder
            except OSError as error:
                raise ModelError(f"The model cannot be copied: {error.strerror}", where=self.folder.name) from error
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _told(card: ModelCard, licence: str, name: str) -> ModelCard:
    """The card with what was said when the model was added."""
    return card.model_copy(update={key: said for key, said in (("licence", licence), ("name", name)) if said})


def _copied(source: Path, target: Path) -> str:
    """Copies a file; its digest is of the bytes that were written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while block := read.read(_BLOCK):
            digest.update(block)
            written.write(block)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"


def _digest_of(files: Mapping[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{digest}  {place}" for place, digest in sorted(files.items())).encode()).hexdigest()
