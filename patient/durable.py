"""Files and folders that are still there after the power has failed: told to the disk, not only to the system."""

from __future__ import annotations

import os
from pathlib import Path


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
