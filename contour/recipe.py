"""The small language in which templates derive one structure from others.

    Lungs            = Lung_L | Lung_R
    Skin             = External - (External - 5 mm)
    SpinalCord_PRV05 = SpinalCord + 5 mm
    PTV              = (CTV + (L 5, R 5, A 7, P 3, S 8, I 8) mm) & (External - 3 mm)
    Ring             = ring(PTV, 5 mm, 20 mm)        between 5 and 20 mm outside
    Bladder_Wall     = wall(Bladder, 3 mm)           the outer 3 mm inside
    CTV              = ((GTV + 5 mm) - Bones - zAir?) | GTV      zAir counts as nothing where it is not there

`|` union, `&` intersection, `-` without, read from left to right; `+ n mm` grows and `- n mm` shrinks.
Directions are the patient's: L R A P S I.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NoReturn

from patient.errors import TemplateError


@dataclass(frozen=True)
class Named:
    """A structure by name; an optional one counts as nothing where it is not there."""

    name: str
    optional: bool = False


@dataclass(frozen=True)
class Margin:
    """`of` grown by mm toward L, R, A, P, S, I; all negative to shrink."""

    of: Recipe
    mm: tuple[float, ...]


@dataclass(frozen=True)
class Combined:
    """`left` and `right` joined by `|`, `&` or `-`."""

    operator: str
    left: Recipe
    right: Recipe


Recipe = Named | Margin | Combined
DIRECTIONS = "LRAPSI"
_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([A-Za-z_~^][\w~^]*)|([|&()+,?-]))")


def parse(text: str) -> Recipe:
    """The recipe that a text says.

    Raises:
        TemplateError: with the column at which it stops making sense.
    """
    reader = _Reader(text)
    recipe = reader.expression()
    reader.expect("", "the end")
    return recipe


def ingredients(recipe: Recipe) -> Iterator[str]:
    """The names in a recipe, optional ones too, in reading order, possibly repeated."""
    for named in _names(recipe):
        yield named.name


def needs(recipe: Recipe) -> Iterator[str]:
    """The names without which a recipe cannot be made, in reading order, possibly repeated."""
    for named in _names(recipe):
        if not named.optional:
            yield named.name


def reduced(recipe: Recipe, found: Container[str]) -> Recipe | None:
    """The same recipe without the optional names that were not found: nothing to add, to take away or to meet.

    None where nothing is left of it.
    """
    match recipe:
        case Named(name, optional):
            return None if optional and name not in found else recipe
        case Margin(of, mm):
            inner = reduced(of, found)
            return None if inner is None else Margin(inner, mm)
        case Combined(operator, left, right):
            a, b = reduced(left, found), reduced(right, found)
            if a is not None and b is not None:
                return Combined(operator, a, b)
            if operator == "|":
                return b if a is None else a
            return a if operator == "-" else None


def _names(recipe: Recipe) -> Iterator[Named]:
    match recipe:
        case Named():
            yield recipe
        case Margin(of, _):
            yield from _names(of)
        case Combined(_, left, right):
            yield from _names(left)
            yield from _names(right)


class _Reader:
    """Recursive descent over the tokens of one recipe."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._tokens: list[tuple[str, int]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                self._fail("no word, number or operator", at)
            self._tokens.append((found.group().strip(), found.end() - len(found.group().strip())))
            at = found.end()

    def expression(self) -> Recipe:
        left = self._term()
        while (operator := self._peek()) in ("|", "&", "-", "+"):
            self._next()
            is_margin = operator == "-" and (self._peek()[:1].isdigit() or self._is_list_of_sides())
            if operator == "+" or is_margin:
                left = self._margin(left, 1.0 if operator == "+" else -1.0)
            else:
                left = Combined(operator, left, self._term())
        return left

    def _is_list_of_sides(self) -> bool:
        ahead = [token for token, _ in self._tokens[self._at : self._at + 3]]
        return len(ahead) == 3 and ahead[0] == "(" and ahead[1] in DIRECTIONS and ahead[2][:1].isdigit()

    def expect(self, token: str, called: str = "") -> None:
        if self._peek() != token:
            self._fail(f"{called or token!r} expected")
        self._next()

    def _term(self) -> Recipe:
        token = self._next()
        if token == "(":
            inner = self.expression()
            self.expect(")")
            return inner
        if token in ("ring", "wall") and self._peek() == "(":
            return self._ring() if token == "ring" else self._wall()
        if not re.match(r"[A-Za-z_]", token):
            self._at -= 1
            self._fail("a structure's name expected")
        if self._peek() == "?":
            self._next()
            return Named(token, optional=True)
        return Named(token)

    def _margin(self, of: Recipe, sign: float) -> Margin:
        if self._peek() != "(":
            mm = sign * self._length()
            return Margin(of, (mm,) * 6)
        self._next()
        sides = dict.fromkeys(DIRECTIONS, 0.0)
        while True:
            side = self._next()
            if side not in sides:
                self._at -= 1
                self._fail("one of L R A P S I expected")
            sides[side] = sign * self._number()
            if self._peek() != ",":
                break
            self._next()
        self.expect(")")
        self.expect("mm")
        return Margin(of, tuple(sides.values()))

    def _ring(self) -> Recipe:
        self.expect("(")
        of = self.expression()
        self.expect(",")
        near = self._length()
        self.expect(",")
        far = self._length()
        self.expect(")")
        return Combined("-", Margin(of, (far,) * 6), Margin(of, (near,) * 6) if near else of)

    def _wall(self) -> Recipe:
        self.expect("(")
        of = self.expression()
        self.expect(",")
        thickness = self._length()
        self.expect(")")
        return Combined("-", of, Margin(of, (-thickness,) * 6))

    def _length(self) -> float:
        value = self._number()
        self.expect("mm")
        return value

    def _number(self) -> float:
        token = self._next()
        if not token[:1].isdigit():
            self._at -= 1
            self._fail("a number of mm expected")
        return float(token)

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _fail(self, what: str, column: int | None = None) -> NoReturn:
        if column is None:
            column = self._tokens[self._at][1] if self._at < len(self._tokens) else len(self._text)
        raise TemplateError(f"Recipe {self._text!r}, column {column + 1}: {what}")
