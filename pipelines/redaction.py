"""What keeps a patient's name and birth date out of every message."""

from __future__ import annotations

import re
from collections.abc import Sequence

from patient.read.index import Index, SeriesEntry


def name_parts(entry: SeriesEntry) -> tuple[str, ...]:
    """What a patient's name and birth date consist of, to be kept out of every message."""
    parts: set[str] = set()
    for header in entry.headers[:1]:
        parts.update(re.split(r"[\^=,;\s_]+", header.text("PatientName")))
        parts.add(header.text("PatientBirthDate"))
    return tuple(sorted((part for part in parts if len(part) > 2), key=len, reverse=True))


def names_in(index: Index) -> tuple[str, ...]:
    return tuple({part for entry in index.series for part in name_parts(entry)})


def redacted(text: str, names: Sequence[str]) -> str:
    """A message without parts of a patient's name: file names may hold them."""
    for name in names:
        text = re.sub(re.escape(name), "***", text, flags=re.IGNORECASE)
    return text
