"""Whatever goes wrong while one file is read is that file's problem, by name, and never anybody's traceback."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from patient.errors import NotDicom, RecontourError


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn whatever is raised while a file is read into an InputError that names the file.

    Values that are needed are read through `patient.read.attributes`, which names attribute and item as well.

    Raises:
        NotDicom: anything but this project's own errors was raised.
    """
    try:
        yield
    except RecontourError:
        raise
    except OSError as error:
        raise NotDicom(f"Cannot be read: {error.strerror or type(error).__name__}", where=path.name) from error
    except Exception as error:  # a parser that is fed arbitrary bytes raises whatever its parts do
        raise NotDicom(f"Not a DICOM file, or malformed ({type(error).__name__})", where=path.name) from error
