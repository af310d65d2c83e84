"""What only a person draws: which structure of a clinic's existing set a template means by it."""

from __future__ import annotations

from dataclasses import dataclass

from contour.engine import Flag
from contour.template import NOT_IN_EXISTING_SET, Wanted
from patient.geometry import Geometry
from patient.manual_contours import field_of_structure
from patient.naming import Naming, understand
from patient.structures import Structure, StructureSet
from patient.volume import Field


@dataclass(frozen=True, eq=False)
class ExistingStructure:
    """A structure that was drawn.

    Args:
        name: as it is written in the existing set.
        field: the distance to what was drawn; None where nothing is on this image.
        flags: what a person should know of it.
    """

    name: str
    field: Field | None
    flags: tuple[Flag, ...]


def existing_structure(wanted: Wanted, existing: StructureSet | None, grid: Geometry) -> ExistingStructure | str:
    """The structure that is meant: by its name without regard to case, or else the one whose name means the same.

    Args:
        wanted: of the engine "existing".
        existing: what a person drew; None where there is no such set.
        grid: of the image it was drawn on.

    Returns:
        What was drawn; or a sentence: there is no set, none of the name, or several that may be meant.

    Raises:
        FrameMismatch: its loops lie on no planes of the image.
    """
    if existing is None:
        return NOT_IN_EXISTING_SET
    same = [s for s in existing.structures if s.name.casefold() == wanted.name.casefold()]
    if same:
        return _drawn(same[0], grid, ())
    understood = understand([s.name for s in existing.structures], Naming())
    if wanted.name in understood.ambiguous:
        several = ", ".join(understood.ambiguous[wanted.name])
        return f"{several} of the existing structure set may each be meant: name one of them {wanted.name}"
    if wanted.name not in understood.meant:
        return "the existing structure set has none of this name, and it has to come from there"
    flag = Flag("synonym", f"taken for {wanted.name} because of its name")
    return _drawn(existing[understood.meant[wanted.name]], grid, (flag,))


def _drawn(structure: Structure, grid: Geometry, flags: tuple[Flag, ...]) -> ExistingStructure:
    field = field_of_structure(structure, grid)
    if field is None:
        flags = (*flags, Flag("missing", "has no contour on this image, and nothing can be derived from it"))
    return ExistingStructure(structure.name, field, flags)
