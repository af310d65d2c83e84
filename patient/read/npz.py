"""Arrays of an `.npz` file: no pickle, and no more memory than a file of its size may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from patient.errors import InputError
from patient.read.inflate import refuse_expansion


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name.

    Raises:
        InputError: not there, not readable, damaged, or it would fill the memory.
    """
    try:
        with ZipFile(path) as archive:
            refuse_expansion(sum(member.file_size for member in archive.infolist()), path.stat().st_size, path.name)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except InputError:
        raise
    except Exception as error:  # a parser that is fed arbitrary bytes raises whatever its parts do
        raise InputError(f"Holds no arrays that can be read ({type(error).__name__})", where=path.name) from error
