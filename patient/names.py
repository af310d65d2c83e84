"""TG-263 names: what a structure is called, coded and coloured, and what archives call it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from patient.settings import Source, Table, parsed
from patient.structures import Code

_SIDES = {
    "L": Code("7771000", "SCT", "Left"),
    "R": Code("24028007", "SCT", "Right"),
    "both": Code("51440002", "SCT", "Right and left"),
}
_SIDE_WORDS = {
    "": {"l": "L", "lt": "L", "left": "L", "links": "L", "gauche": "L", "sinistra": "L", "izquierda": "L"}
    | {"r": "R", "rt": "R", "right": "R", "rechts": "R", "droit": "R", "droite": "R", "destra": "R", "derecha": "R"},
    "german": {"li": "L", "re": "R"},
    "french": {"g": "L", "d": "R"},
}
"""Words for a side in any language; those that elsewhere mean something else count with a name in that language alone."""
_HELPERS = re.compile("opt|ring|avoid|eval|dose|prv|margin|minus|sub|help|helper|tmp|temp|test|exp|crop|ex|no|not")
_MARKED = re.compile(r"^[_zZ](?=[_A-Z])|[~^!+]")
"""TG-263's signs for what is no whole organ: `z` or `_` ahead, `~` partial, `^` custom, `!` and `+` targets and margins."""
_WORD = re.compile(r"[^\W\d_]+|\d+")
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PRV = re.compile(r"(?P<root>.+?)_PRV\d{0,2}(?P<side>_[LR])?", re.IGNORECASE)

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Name:
    """One entry of the list.

    Args:
        name: TG-263, at most 16 characters.
        interpreted_type: RT ROI Interpreted Type.
        color: red, green, blue, 0-255.
        volume_cc: lowest and highest plausible volume; None where nobody can say.
        code: SNOMED CT with laterality as modifier, where there is one.
        fma: Foundational Model of Anatomy, empty where unknown.
        synonyms: how archives write it, without a side.
    """

    name: str
    interpreted_type: str
    color: Color
    volume_cc: tuple[float, float] | None
    code: Code | None
    fma: str = ""
    synonyms: tuple[str, ...] = ()


def lookup(name: str) -> Name | None:
    """The entry of this TG-263 name, without regard to case.

    A planning risk volume (`SpinalCord_PRV05`, `OpticNrv_PRV03_L`) has its organ's entry in a lighter colour, without code
    and plausible volume.
    """
    if (entry := _listed().get(name.casefold())) is not None:
        return entry
    if (prv := _PRV.fullmatch(name)) is None:
        return None
    organ = _listed().get((prv["root"] + (prv["side"] or "")).casefold())
    if organ is None:
        return None
    red, green, blue = ((255 + c) // 2 for c in organ.color)
    return replace(organ, name=name, color=(red, green, blue), volume_cc=None, code=None, fma="", synonyms=())


def match(archive_name: str) -> Name | None:
    """The entry that an archive's own name means, or None where that would be a guess.

    Case, accents, separators and a trailing "(1)" do not count. A side is read where it is written and never assumed.
    Helper structures (rings, optimisation, evaluation, margins, parts of organs) match nothing, nor does what archives use
    for different things.
    """
    plain = re.sub(r"\s*\(\d+\)$", "", archive_name.strip())
    if _MARKED.search(plain):
        return None
    words = _words(plain)
    if any(_HELPERS.fullmatch(word) for word in words):
        return None
    spellings, ambiguous = _spellings()
    for language, own in _SIDE_WORDS.items():
        sides = _SIDE_WORDS[""] | own
        found = {sides[w] for w in words if w in sides}
        spelled = "".join(w for w in words if w not in sides)
        if (spelled in ambiguous and not found) or len(found) > 1:
            return None
        if (entry := spellings.get((language, spelled, "".join(found)))) is not None:
            return entry
    return None


def _words(name: str) -> list[str]:
    """Words and numbers, folded: `HüftkopfL` is huftkopf, l."""
    text = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)).replace("ß", "ss")
    return [part.lower() for word in _WORD.findall(text) for part in (_HUMP.findall(word) or [word])]


class _Organ(Table):
    pair: bool = False
    type: str = "ORGAN"
    code: str = ""
    meaning: str = ""
    side: Literal["", "both"] = ""
    modifier: tuple[str, str] | None = None
    fma: tuple[str, ...] = ()
    color: Color | tuple[Color, Color]
    volume_cc: tuple[float, float] | None = None
    also: tuple[str, ...] = ()
    german: tuple[str, ...] = ()
    french: tuple[str, ...] = ()

    def entries(self, name: str) -> Iterator[Name]:
        """One, or left and right."""
        for n, side in enumerate(("L", "R") if self.pair else ("",)):
            yield Name(
                name=f"{name}_{side}" if side else name,
                interpreted_type=self.type,
                color=self.color[n] if isinstance(self.color[0], tuple) else self.color,  # type: ignore[arg-type]
                volume_cc=self.volume_cc,
                code=self._code(side),
                fma=self.fma[n] if n < len(self.fma) else "",
                synonyms=(*self.also, *self.german, *self.french),
            )

    def _code(self, side: str) -> Code | None:
        if not self.code:
            return None
        other = Code(self.modifier[0], "SCT", self.modifier[1]) if self.modifier else None
        return Code(self.code, "SCT", self.meaning, _SIDES.get(side or self.side, other))


class _File(Table):
    ambiguous: tuple[str, ...]
    organ: dict[Annotated[str, Field(min_length=1, max_length=16)], _Organ]


@cache
def _file() -> _File:
    text = files("patient").joinpath("names.toml").read_text(encoding="utf-8")
    return parsed(Source("names", "names.toml", text), _File)


@cache
def _listed() -> Mapping[str, Name]:
    return {entry.name.casefold(): entry for name, organ in _file().organ.items() for entry in organ.entries(name)}


@cache
def _spellings() -> tuple[Mapping[tuple[str, str, str], Name], frozenset[str]]:
    """(language, folded spelling, side) to entry, without what two organs share; and the spellings that are ambiguous."""
    seen: dict[tuple[str, str, str], Name | None] = {}
    for name, organ in _file().organ.items():
        words = {"": (name, *organ.also), "german": organ.german, "french": organ.french}
        for language, written in words.items():
            for spelling in {"".join(_words(w)) for w in written}:
                for entry in organ.entries(name):
                    side = entry.name[-1] if organ.pair else ""
                    for tongue in {language, ""}:
                        key = (tongue, spelling, side)
                        seen[key] = entry if seen.get(key, entry) == entry else None
    known = {key: entry for key, entry in seen.items() if entry is not None}
    return known, frozenset("".join(_words(w)) for w in _file().ambiguous)
