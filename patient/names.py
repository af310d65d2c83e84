"""TG-263 names: what a structure is called, coded and coloured, and what archives call it."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from patient.structures import Code

_SIDES = {"_L": Code("7771000", "SCT", "Left"), "_R": Code("24028007", "SCT", "Right")}
_LEFT = {"l", "lt", "left", "li", "links", "gauche", "sinistra"}
_RIGHT = {"r", "rt", "right", "re", "rechts", "droit", "droite", "destra"}
_HELPER = re.compile(r"(opt|ring|avoid|eval|dose|prv|margin|tmp|test)\d*$|^z|\d+\s*(gy|mm|cm)", re.IGNORECASE)


@dataclass(frozen=True)
class Name:
    """One entry of the list.

    Args:
        name: TG-263, at most 16 characters.
        interpreted_type: RT ROI Interpreted Type.
        color: red, green, blue, 0-255.
        volume_cc: lowest and highest plausible volume; None where nobody can say.
        code: SNOMED CT with laterality, where there is one.
        also: how archives write it.
    """

    name: str
    interpreted_type: str
    color: tuple[int, int, int]
    volume_cc: tuple[float, float] | None
    code: Code | None
    also: tuple[str, ...]


def lookup(name: str) -> Name | None:
    """The entry of exactly this TG-263 name, without regard to case."""
    return _all().get(name.casefold())


def match(archive_name: str) -> Name | None:
    """The entry that an archive's own name means, or None where that would be a guess.

    Case, accents, separators and a trailing "(1)" do not count. A side is read where it is written and never assumed; names
    of helper structures (rings, optimisation, evaluation, margins) match nothing.
    """
    plain = re.sub(r"\(\d+\)$", "", archive_name.strip())
    if (entry := lookup(plain)) is not None:
        return entry
    if _HELPER.search(plain):
        return None
    return _spellings().get(_folded(plain))


def _folded(name: str) -> tuple[str, str]:
    """Letters and digits without side, and the side."""
    text = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    words = [w.lower() for w in re.findall(r"[A-Z]?[a-zäöü]+|[A-Z]+(?![a-z])|\d+", text)]
    sides = {"L" for w in words if w in _LEFT} | {"R" for w in words if w in _RIGHT}
    rest = "".join(w for w in words if w not in _LEFT | _RIGHT)
    return rest, sides.pop() if len(sides) == 1 else "?" if sides else ""


@cache
def _all() -> Mapping[str, Name]:
    listed = tomllib.loads(files("patient").joinpath("names.toml").read_text(encoding="utf-8"))
    return {name.casefold(): _entry(name, **about) for name, about in listed.items()}


def _entry(
    name: str,
    *,
    color: list[int],
    type: str = "ORGAN",
    code: str = "",
    volume_cc: list[float] | None = None,
    also: list[str] | None = None,
) -> Name:
    red, green, blue = color
    coded = Code(code, "SCT", name.removesuffix("_L").removesuffix("_R"), _SIDES.get(name[-2:])) if code else None
    band = (volume_cc[0], volume_cc[1]) if volume_cc else None
    return Name(name, type, (red, green, blue), band, coded, tuple(also or ()))


@cache
def _spellings() -> Mapping[tuple[str, str], Name]:
    """Folded spelling to entry; spellings that two entries share are left out."""
    seen: dict[tuple[str, str], Name | None] = {}
    for entry in _all().values():
        for spelling in {_folded(text) for text in (entry.name, *entry.also)}:
            seen[spelling] = entry if seen.get(spelling, entry) is entry else None
    return {spelling: entry for spelling, entry in seen.items() if entry is not None}
