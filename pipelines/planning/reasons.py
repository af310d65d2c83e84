"""Why a person should look at contours, from the records of their structures."""

from __future__ import annotations

from collections.abc import Sequence

from contour.small_contours import LEFT_OUT
from pipelines.records.case import (
    MADE,
    WORDS,
    FlagRecord,
    StructureRecord,
)

_LONG = ("External", "Bones", "SpinalCanal", "SpinalCord", "Skin", "Trachea", "Esophagus")


def reasons_of(records: Sequence[StructureRecord], notes: Sequence[str] = ()) -> tuple[str, ...]:
    """Why a person should look, worst first.

    Args:
        records: of the template's structures.
        notes: of the existing structure set.
    """
    missing = [
        f"{r.name} is required and not there ({WORDS[r.state]}): {r.reason}"
        for r in records
        if r.required and r.state not in MADE
    ]
    doubted = [
        f"{r.name} is not there ({WORDS[r.state]}): {r.reason}"
        for r in records
        if r.state == "not_confident" and not r.required
    ]
    flagged = [f"{r.name}: {flag.detail}" for r in records for flag in r.flags if not _expected(r.name, flag)]
    odd = [f"Existing structure set: {note}" for note in notes]
    return (*missing, *odd, *doubted, *flagged)


def _expected(name: str, flag: FlagRecord) -> bool:
    """No reason for review: what the template asks for, and what runs on beyond the image's head and foot ends."""
    if flag.code == LEFT_OUT:
        return True
    sides = ("front", "back", "side")
    return flag.code == "cut_by_field_of_view" and name in _LONG and not any(side in flag.detail for side in sides)
