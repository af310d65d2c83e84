"""The way out: a case folder appears whole, by one rename after everything is on disk, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patient.errors import InputError, NightBusy, OutOfResources

WORK = ".work"
CASES = "cases"


@contextmanager
def locked(outbox: Path) -> Iterator[None]:
    """Hold the outbox for one night. The lock goes with the process, however that ends.

    Raises:
        NightBusy: another night holds it.
        InputError: the outbox cannot be made or written.
    """
    try:
        (outbox / WORK).mkdir(parents=True, exist_ok=True)
        (outbox / CASES).mkdir(exist_ok=True)
        file = (outbox / ".lock").open("w")
    except OSError as error:
        raise InputError(
            f"The outbox cannot be written: {error.strerror}",
            where=outbox.name,
            remedy="Give a folder that this user may write to",
        ) from error
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


def sweep(outbox: Path) -> None:
    """Remove what nights that died left half made. Only with the outbox locked."""
    for left in (outbox / WORK).iterdir():
        shutil.rmtree(left, ignore_errors=True)


def free_name(outbox: Path, case: str) -> str:
    """A folder name for a case that is not taken: an earlier output stays where it is."""
    name, n = case, 1
    while (outbox / CASES / name).exists():
        n += 1
        name = f"{case}-{n}"
    return name


def publish(made: Path, target: Path) -> None:
    """Move a folder into place, whole. On another filesystem it is copied beside the target first.

    Raises:
        OutOfResources: the disk is full; nothing is left at the target.
    """
    try:
        _sync_tree(made)
        try:
            os.rename(made, target)  # noqa: PTH104 - the one call that is atomic
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            beside = target.with_name(f".{target.name}.part")
            shutil.rmtree(beside, ignore_errors=True)
            try:
                shutil.copytree(made, beside)
                _sync_tree(beside)
                os.rename(beside, target)  # noqa: PTH104
            except OSError:
                shutil.rmtree(beside, ignore_errors=True)
                raise
            shutil.rmtree(made, ignore_errors=True)
        _sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(
                "The disk is full", where=target.parent.name, remedy="Make room and start the night again"
            ) from error
        raise


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
