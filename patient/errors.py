"""One tree for everything that can go wrong, so that a caller catches by kind and a person reads what to do.

An `InputError` means that the outside is wrong: it is shown without a traceback and exits with 2. Messages never hold a
patient's name or birth date: `what`, `why` and `remedy` hold numbers and our own words, no text of a header and no name of a
file; that stands in `where` alone, for the terminal of whoever gave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from pathlib import Path, PurePath


def file_token(name: str | Path) -> str:
    """What stands for a file where nobody may read its name: names of files hold names and ids of patients.

    Args:
        name: of the file, with or without its folder; of any bytes.
    """
    said = PurePath(name).name.encode("utf-8", "backslashreplace")
    return f"file {hashlib.sha256(said).hexdigest()[:8]}"


def among(value: str, known: Container[str], otherwise: str = "something else") -> str:
    """A header's value for a message where it is one of a closed list; any other may hold a name, and is not shown."""
    return value if value in known else otherwise


def printable(path: str | Path) -> str:
    """A path as text that can be written anywhere: bytes of a name that are no UTF-8 become escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


class RecontourError(Exception):
    """What happened, where, why it matters and what to do about it.

    Args:
        what: one sentence, with the two values that differ or the attribute at fault.
        where: file, series, slice or line, as a person would look for it.
        why: what would go wrong had we continued.
        remedy: what the reader can do.
    """

    def __init__(self, what: str, *, where: str | Path = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.remedy = what, str(where), why, remedy

    def __str__(self) -> str:
        where = f" [{printable(self.where)}]" if self.where else ""
        return ". ".join(part.rstrip(".") for part in (self.what + where, self.why, self.remedy) if part)

    @property
    def public(self) -> str:
        """The same for pages, logs and the ledger: whatever names a place outside gives way to a token."""
        where = f" [{file_token(self.where)}]" if self.where else ""
        return ". ".join(part.rstrip(".") for part in (self.what + where, self.why, self.remedy) if part)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel between processes whole: exceptions with keyword arguments do not pickle by themselves."""
        return (_rebuild, (type(self), self.what, self.where, self.why, self.remedy))


def _rebuild(kind: type[RecontourError], what: str, where: str, why: str, remedy: str) -> RecontourError:
    return kind(what, where=where, why=why, remedy=remedy)


class InputError(RecontourError):
    """The outside is wrong: what was given cannot be used."""


class NotDicom(InputError):
    """A file that was named as DICOM is not, or cannot be parsed."""


class IncompleteSeries(InputError):
    """Slices are missing, or there are too few to make a volume."""


class DuplicateSlices(InputError):
    """One plane is there twice with different content."""


class MixedSeries(InputError):
    """One series holds what does not belong together: patients, frames of reference, orientations, spacings."""


class UnsupportedGeometry(InputError):
    """Tilted, sheared or otherwise not a stack of parallel planes that we can place without guessing."""


class PixelDataError(InputError):
    """Pixel data missing, cut short, or in an encoding that cannot be read."""


class FrameMismatch(InputError):
    """Two things are in different frames of reference, or on different grids."""


class ReferenceError(InputError):  # noqa: A001 - the design's name; import the module's name where the builtin is needed
    """Something refers to an object that is not there, or to two that cannot both be meant."""


class TemplateError(InputError):
    """A site template is not what its schema asks for."""


class PolicyError(InputError):
    """A policy, profile or configuration file is not what its schema asks for."""


class ModelError(RecontourError):
    """Weights: missing, tampered, of the wrong kind, or with a licence that the site refuses."""


class NotTrusted(RecontourError):
    """A registration or contour that must not be used silently."""


class OutputRefused(RecontourError):
    """Our own gate said no: nothing was published."""


class NightBusy(RecontourError):
    """Another night holds this outbox."""


class Cancelled(RecontourError):
    """A person or a scheduler asked us to stop."""


class OutOfResources(RecontourError):
    """Memory, disk or time ran out."""
