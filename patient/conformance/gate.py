"""The gate: what this software made leaves only without error; faults that came with its sources are named as theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from patient.conformance.check import Remark, Report, check_file, named
from patient.conformance.profile import load_profile
from patient.errors import InputError, OutputRefused
from patient.read.rtstruct import read_structure_set
from patient.series import ImageSeries
from patient.structures import Structure, StructureSet


def admit_names(structures: Iterable[Structure], profile: str) -> None:
    """Before any work: structures that the gate would refuse in the end because of what they are called.

    Raises:
        InputError: names too long, with characters that the system refuses, or twice; several EXTERNAL.
        PolicyError: no such profile.
    """
    if faults := [str(remark) for remark, severe in named(tuple(structures), load_profile(profile)) if severe]:
        raise InputError(
            "; ".join(faults),
            why=f"A structure set with these names would not be imported (profile {profile})",
            remedy="Rename them in the planning system or the template, or choose another profile",
        )


def passed(
    path: Path, image: ImageSeries, profile: str, kept: StructureSet | None = None, source: Path | None = None
) -> Report:
    """Check what was written; its warnings, with the faults of what was only kept among them.

    Args:
        path: the RTSTRUCT that was written.
        image: what it was drawn on.
        profile: of the planning system.
        kept: structures that a person drew and that must be in it as they came.
        source: the RTSTRUCT that these came from: its faults are no reason to refuse ours.

    Raises:
        OutputRefused: an error that the source does not have, or a contour of a kept structure that is not in it.
    """
    report = check_file(path, image=image, profile=profile)
    known: set[tuple[str, str]] = (
        {_key(remark) for remark in check_file(source, image=image, profile=profile).errors} if source else set()
    )
    theirs: set[str] = {structure.name for structure in kept.structures} if kept else set()
    inherited = [r for r in report.errors if _key(r) in known and r.where in theirs]
    ours = [r for r in report.errors if r not in inherited]
    ours += _lost(kept, read_structure_set(path)) if kept else ()
    if ours:
        raise OutputRefused(
            "; ".join(str(remark) for remark in ours[:5]),
            why="The structure set would not import safely",
            remedy="Nothing was published",
        )
    said = (replace(r, what=f"{r.what}: a fault of the existing structure set, kept as it is") for r in inherited)
    return Report((), (*said, *report.warnings))


def _key(remark: Remark) -> tuple[str, str]:
    return remark.code, remark.where


def _lost(kept: StructureSet, written: StructureSet) -> Iterator[Remark]:
    """Structures whose contours do not come back digit for digit."""
    there = {structure.number: structure for structure in written.structures}
    for structure in kept.structures:
        before = [(loop.kind, loop.digits) for loop in structure.drawn or ()]
        again = there.get(structure.number)
        after = [(loop.kind, loop.digits) for loop in again.drawn or ()] if again else []
        if before != after:
            yield Remark("lost", f"{len(before)} contours were kept, and {len(after)} were written", structure.name)
