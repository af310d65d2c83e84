"""What a file that cannot be parsed still tells by its bytes: whose it is, of which study and series, and of what kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_LOOKED_AT = 64 * 1024
"""Bytes from the file's begin."""
_LONGEST = 64
"""Characters of a value (PS3.5 6.2: UI and LO)."""


@dataclass(frozen=True)
class Remains:
    """Of an unreadable file; empty where its bytes do not tell."""

    modality: str = ""
    patient_id: str = field(default="", repr=False)
    study_uid: str = ""
    series_uid: str = ""


def remains(path: Path) -> Remains:
    """What a file's bytes tell, whatever is wrong with it; nothing of a deflated one, or of one that cannot be opened."""
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError:
        return Remains()
    modality = _value(start, 0x0008, 0x0060, b"CS")
    study, series = (_value(start, 0x0020, element, b"UI") for element in (0x000D, 0x000E))
    return Remains(modality, _value(start, 0x0010, 0x0020, b"LO"), study, series)


def _value(start: bytes, group: int, element: int, vr: bytes) -> str:
    """The first value of an attribute: tag, VR and length (explicit) or length alone (implicit), either byte order."""
    for order in ("little", "big"):
        tag, at = group.to_bytes(2, order) + element.to_bytes(2, order), -1
        while (at := start.find(tag, at + 1)) >= 0:
            explicit = start[at + 4 : at + 6] == vr
            length = int.from_bytes(start[at + 6 : at + 8] if explicit else start[at + 4 : at + 8], order)
            value = start[at + 8 : at + 8 + length].decode("utf-8", "replace").strip(" \0")
            if length <= _LONGEST and value.isprintable():
                return value
    return ""
