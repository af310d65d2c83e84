"""Which of an archive's structures are meant by which TG-263 name, by the shipped list and by a site's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from patient.names import lookup, match
from patient.settings import Table, parsed, read_source


class _File(Table):
    names: dict[str, Annotated[str, Field(max_length=16, pattern=r"^[A-Za-z0-9_~^!+-]*$")]]


@dataclass(frozen=True)
class Naming:
    """How names are read.

    Args:
        own: a site's names, folded, to what they mean; an empty one means that the structure is to be left out. They go
            before the list, and may mean what the list does not have (a nodal level, a target).
    """

    own: Mapping[str, str] = field(default_factory=dict[str, str])

    def meaning(self, archive_name: str) -> str | None:
        """The TG-263 name, also of a planning risk volume that is written as TG-263 asks; None where it would be a guess."""
        written = archive_name.strip()
        if (said := self.own.get(written.casefold())) is not None:
            return said or None
        found = match(written) or lookup(written)
        return found.name if found else None


@dataclass(frozen=True)
class Understood:
    """What the names of one structure set mean.

    Args:
        meant: TG-263 to the name as it is written.
        unknown: written names that mean nothing known, as they came.
        ambiguous: TG-263 to several written names that mean it, of which none is taken.
    """

    meant: Mapping[str, str]
    unknown: tuple[str, ...]
    ambiguous: Mapping[str, tuple[str, ...]]


def understand(names: Iterable[str], naming: Naming) -> Understood:
    """All names of a structure set. Of several that mean one organ, the one that is spelled as TG-263 spells it is taken."""
    several: dict[str, list[str]] = {}
    unknown: list[str] = []
    for name in names:
        meaning = naming.meaning(name)
        if meaning is None:
            unknown.append(name)
        else:
            several.setdefault(meaning, []).append(name)
    meant: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for meaning, written in several.items():
        exact = [name for name in written if name == meaning]
        if len(written) == 1 or len(exact) == 1:
            meant[meaning] = (exact or written)[0]
            unknown += [name for name in written if name != meant[meaning]]
        else:
            ambiguous[meaning] = tuple(written)
    return Understood(meant, tuple(unknown), ambiguous)


def read_naming(path: Path) -> Naming:
    """A site's own names: a table `[names]` of `"as it is written" = "TG-263"`, an empty string for what is to be left out.

    Raises:
        PolicyError: not there, or not what the schema asks for.
    """
    read = parsed(read_source(path, "list of names"), _File)
    own: dict[str, str] = {}
    for written, meant in read.names.items():
        listed = lookup(meant)
        own[written.strip().casefold()] = listed.name if listed else meant
    return Naming(own)
