"""The way out: a case folder appears whole, by one rename after everything is on disk, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patient.durable import replacing, sync, sync_tree
from patient.errors import InputError, NightBusy, OutOfResources
from pipelines.outbox.ledger_file import BACKUP, LEDGER
from pipelines.stopping import uninterrupted

WORK = ".work"
CASES = "cases"
COURSES = "courses"
KEPT = ".kept"
"""Steps of cases that a night did not finish, by case."""
_HALF_WRITTEN = frozenset(f".{name}" for name in ("night.json", "index.html", LEDGER, BACKUP))
_BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ENODEV, errno.ENXIO)
NO_ROOM = 64 << 10
"""Bytes: with less, whatever cannot be written cannot for lack of room; SQLite has several words for it."""


@contextmanager
def locked(outbox: Path) -> Iterator[None]:
    """Hold the outbox for one night. The lock goes with the process, however that ends.

    Raises:
        NightBusy: another night holds it.
        InputError: the outbox cannot be made or written.
        OutOfResources: there is no room for it.
    """
    try:
        (outbox / WORK).mkdir(parents=True, exist_ok=True)
        (outbox / CASES).mkdir(exist_ok=True)
        file = (outbox / ".lock").open("w")
    except OSError as error:
        raise unwritable(outbox, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NightBusy(
                "Another night holds this outbox",
                where=outbox.name,
                remedy="Wait until it has finished, or use another outbox",
            ) from error
        yield


@contextmanager
def disk_watched(outbox: Path) -> Iterator[None]:
    """Say a full or broken disk in a sentence, whoever came upon it: a file or the ledger.

    Raises:
        OutOfResources: no room was left, or the disk does not answer.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, OSError) and error.errno in _BROKEN:
            raise OutOfResources(
                f"The disk cannot be used: {error.strerror}",
                where=outbox.name,
                remedy="See to the disk or share and start the night again: it resumes",
            ) from error
        if not is_full(error) and shutil.disk_usage(outbox).free > NO_ROOM:
            raise
        raise _no_room(outbox) from error


def unwritable(outbox: Path, error: OSError | ValueError) -> InputError | OutOfResources:
    """Why nothing can be made in an outbox: the disk is full, or it is the wrong place."""
    if is_full(error):
        return _no_room(outbox)
    return InputError(
        f"The outbox cannot be written: {getattr(error, 'strerror', error)}",
        where=outbox.name,
        remedy="Give a folder that this user may write to",
    )


def _no_room(outbox: Path) -> OutOfResources:
    return OutOfResources("The disk is full", where=outbox.name, remedy="Make room and start the night again: it resumes")


def is_full(error: BaseException) -> bool:
    """Whether something failed because there was no room on a disk."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, text: str) -> None:
    """Put a file in the place of the one before, or leave that one as it was."""
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def written_beside(folder: Path) -> Iterator[Path]:
    """A place beside a folder for what shall be in it: put there when all went well, and else as if never begun.

    A folder that is not there appears by one rename. In one that is there files and folders of the same names are replaced,
    and nothing else is touched; a cancel waits until that is done.
    """
    made = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir(parents=True)
        yield made
        sync_tree(made)
        with uninterrupted():
            if folder.is_dir():
                for path in sorted(made.iterdir(), key=lambda path: path.suffix == ".json"):  # the record last
                    if path.is_dir():
                        shutil.rmtree(folder / path.name, ignore_errors=True)
                    path.replace(folder / path.name)
            else:
                made.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(outbox: Path) -> None:
    """Remove what a night left half made, also one that died. Only with the outbox locked."""
    for left in (*(outbox / WORK).iterdir(), *(outbox / CASES).glob(".*.part"), *(outbox / COURSES).glob(".*.part")):
        shutil.rmtree(left, ignore_errors=True)
    for left in (path for path in outbox.glob(".*") if path.is_file() and path.name in _HALF_WRITTEN):
        left.unlink(missing_ok=True)


def free_name(outbox: Path, case: str) -> str:
    """A folder name for a case that is not taken: an earlier output stays where it is."""
    name, n = case, 1
    while (outbox / CASES / name).exists():
        n += 1
        name = f"{case}-{n}"
    return name


class Unconfirmed(OutOfResources):
    """A folder is in its place, whole, and the disk has not confirmed that it will still be there after a power cut."""


def publish(made: Path, target: Path) -> None:
    """Move a folder into place, whole. On another filesystem it is copied beside the target first.

    Raises:
        Unconfirmed: it is in its place, but not for sure.
        OutOfResources: the disk is full; nothing is left at the target.
        OSError: it cannot be written for another reason; nothing is left at the target.
    """
    with disk_watched(target.parent):
        sync_tree(made)
        try:
            os.rename(made, target)  # noqa: PTH104 - the one call that is atomic
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            beside = target.with_name(f".{target.name}.part")
            shutil.rmtree(beside, ignore_errors=True)
            try:
                _copy(made, beside)
                sync_tree(beside)
                os.rename(beside, target)  # noqa: PTH104
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
            shutil.rmtree(made, ignore_errors=True)
    try:
        sync(target.parent)
    except OSError as error:
        raise Unconfirmed(
            f"{target.name} is published, but the disk did not confirm it: {error.strerror}",
            remedy="Make room: the next run asks the disk again",
        ) from error


def _copy(made: Path, beside: Path) -> None:
    """Copy a folder; the first error is raised as it is, not in a list with the others."""
    beside.mkdir()
    for entry in made.iterdir():
        if entry.is_dir():
            _copy(entry, beside / entry.name)
        else:
            shutil.copy2(entry, beside / entry.name)
