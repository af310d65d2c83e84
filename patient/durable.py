"""Files and folders that are still there after the power has failed: told to the disk, not only to the system."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write that takes the place of `path`, whole and on the disk, when the block ends; not after an error.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync_tree(folder: Path) -> None:
    """A folder with all that it holds. Raises OSError where something cannot be read."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def sync(path: Path) -> None:
    """One file or folder. Raises OSError where it cannot be read."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
